"""A side beside the served one: filled, following, compared, served, gone back from, dropped."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import headrace as hr
from headrace.app.beside import begin_side, beside_of, catch_up, drop, fill_side, layer_interpreter, side_status, switch
from headrace.app.comparing import compare_sides
from headrace.app.locks import FolderLock
from headrace.app.services import run_layer
from headrace.app.sides import read_sides
from headrace.app.wiring import Parts
from headrace.cli.main import main
from headrace.core.errors import Busy, ConfigError, LogError, NotFound, PlanError, StoreError
from headrace.core.positions import decode_position
from headrace.engines.stream.commits import WINDOWS
from headrace.eventlog.base import Append
from tests.e2e.shop import FEATURES, now, orders, outcomes, write_shop
from tests.e2e.test_up_derived import DERIVED
from tests.e2e.versions import other_version
from tests.services import address

USERS = 10


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = write_shop(tmp_path / "shop")
    publish(folder, 0)
    return folder


def publish(folder: Path, start: int, n: int = 60) -> None:
    """Some orders, late ones, doubled ones and one that is none among them, and rows of a table."""
    with hr.connect(folder) as project:
        rows: list[Any] = orders(n, now(), start=start)
        project.publish("order", [*rows[1::2], *rows[0::2], rows[3], {"order_id": f"bad{start}", "user": "u1"}])
        project.put("profile", [{"user": f"u{start % USERS}", "age": start, "city": "Ulm", "at": now()}])


def records(parts: Parts) -> dict[bytes, bytes]:
    """What the store holds of entities."""
    return {key: record for key, record in parts.online.scan() if not key.startswith(b"\xff\xff")}


def values(folder: Path) -> list[Any]:
    with hr.connect(folder) as project:
        spends = [project.get("spend", user=f"u{user}") for user in range(USERS)]
        return [[spend.n["1h"], spend.n["7d"], spend.total["7d"], spend.last] for spend in spends]


def start(folder: Path, name: str = "green", *, from_beginning: bool = False) -> None:
    with hr.connect(folder) as project:
        begin_side(project.parts, name, sys.executable)
        fill_side(project.parts, from_beginning=from_beginning)


@pytest.mark.parametrize("from_beginning", [False, True])
def test_both_sides_hold_the_same_bits_at_every_commit(shop: Path, from_beginning: bool) -> None:
    start(shop, from_beginning=from_beginning)
    publish(shop, 100)
    with hr.connect(shop) as project:
        parts = project.parts
        assert catch_up(parts) == parts.features.end(WINDOWS, 0)
        with beside_of(parts) as beside:
            assert records(beside) == records(parts)
            assert len(records(parts)) > USERS
            assert beside.online.position() == parts.online.position()
            own = read_sides(parts.settings, parts.catalog).need_beside()
            # Commits that it made itself, against those that it follows: verdicts, clocks and deltas.
            begin = own.fork
            assert begin == (0 if from_beginning else 1)
            ours, theirs = (part.features.read(WINDOWS, 0, begin) for part in (parts, beside))
            assert [batch.payload for batch in theirs] == [batch.payload for batch in ours]
            assert len(ours) > 0
        assert project.status().open_dead_letters == 2  # of one publish each, and none of the side beside


def test_switched_and_back_nothing_is_lost_or_doubled_and_positions_do_not_go_back(shop: Path) -> None:
    start(shop)
    seen = []
    for number, step in enumerate((None, False, None, True, None)):
        publish(shop, 100 * (number + 1))
        with hr.connect(shop) as project:
            if step is not None:
                assert project.parts.side.name == ("green" if step else "main")
                before = decode_position(project.parts.online.position())
                switch(project.parts, back=step)
            else:
                before = decode_position(project.parts.online.position())
        with hr.connect(shop) as project:
            after = decode_position(project.parts.online.position())
            assert after.covers(before.streams)
            assert after.tables >= before.tables
            seen.append(project.parts.side.name)
            assert len(project.history("order")) == 60 * (number + 2)
            assert sum(project.get("spend", user=f"u{user}").n["7d"] for user in range(USERS)) == 60 * (number + 2)
            assert project.get("profile", user="u0").age == 100 * (number + 1)
    assert seen == ["main", "green", "green", "main", "main"]


def test_both_sides_answer_alike_at_the_commit_of_the_switch(shop: Path) -> None:
    start(shop)
    publish(shop, 100)
    asked = [{"order_id": f"asked{i}", "user": f"u{i}", "amount": 10.0, "at": now().isoformat()} for i in range(3)]
    rows = []
    for back in (None, False, True):
        with hr.connect(shop) as project:
            if back is not None:
                switch(project.parts, back=back)
        with hr.connect(shop) as project:
            rows.append((project.online("order", asked).to_arrow(), project.online("order", asked[0]).position))
    assert rows[0][0].equals(rows[1][0])
    assert rows[1][0].equals(rows[2][0])
    assert rows[0][1] == rows[1][1] == rows[2][1]


def test_a_switched_project_goes_on_when_the_other_side_is_dropped_and_another_one_is_begun(shop: Path) -> None:
    start(shop)
    with hr.connect(shop) as project:
        switch(project.parts)
    publish(shop, 500)  # main follows it, and its commit is nobody's when it is dropped
    with hr.connect(shop) as project:
        catch_up(project.parts)
        held = project.parts.plain_features.read(WINDOWS, 0, 0)
        assert drop(project.parts).name == "main"
        left = project.parts.plain_features.read(WINDOWS, 0, 0)
        assert [batch.payload for batch in left] == [held[0].payload, *[b""] * (len(held) - 1)]
        assert len(held) == 2
        assert not (shop / ".headrace" / "online").exists()
        assert layer_interpreter(project.settings, beside=True) is None
    expected = values(shop)
    publish(shop, 100)
    assert values(shop) != expected
    start(shop, "blue")
    publish(shop, 200)
    with hr.connect(shop) as project:
        catch_up(project.parts)
        with beside_of(project.parts) as beside:
            assert records(beside) == records(project.parts)
        switch(project.parts)
        # A third fork: its commits lie in three topics.
        assert len(project.parts.features.read(WINDOWS, 0, 0)) == project.parts.features.end(WINDOWS, 0)
    expected = values(shop)
    with hr.connect(shop) as project:
        drop(project.parts)
        assert len(project.history("order")) == 240
    assert values(shop) == expected
    start(shop, "green")  # a name that was used before
    publish(shop, 300)
    with hr.connect(shop) as project:
        catch_up(project.parts)
        with beside_of(project.parts) as beside:
            assert records(beside) == records(project.parts)


def test_a_value_that_differs_is_found_and_shown(shop: Path) -> None:
    start(shop)
    publish(shop, 100)
    with hr.connect(shop) as project:
        parts = project.parts
        catch_up(parts)
        same = compare_sides(parts, None)
        # 10 users at two times of 6 features, and the one row of the table.
        assert (same.compared, same.differing, same.examples) == (USERS * 2 * 6 + 3, 0, [])
        with beside_of(parts) as beside:
            # One user's record as it was of another user: as a version with a fault would leave it.
            (a, ours), (_, theirs) = [
                (key, record) for key, record in beside.online.scan() if key[:5] == b"s\0\0\0\2" and len(record) > 200
            ][:2]
            assert ours != theirs
            beside.online.write([(a, theirs)], beside.online.position())
        found = compare_sides(parts, None)
        assert found.compared == same.compared
        assert 0 < found.differing <= 12
        assert set(found.features) == set(same.features)
        assert f"'user': '{a[5:7].decode()}'" in found.examples[0]
        assert found.differing == sum(bad for _, bad in found.features.values())
        assert compare_sides(parts, 3).compared == 3 * 2 * 6 + 3


def test_sides_are_compared_while_one_is_behind(shop: Path) -> None:
    start(shop)
    publish(shop, 100)
    publish(shop, 200)
    with hr.connect(shop) as project:
        parts = project.parts
        with beside_of(parts) as beside:
            worker = beside.following()
            while worker.step():
                pass
            # Its log is there, its store is not: the records are brought up by the commits of the side itself.
            assert decode_position(beside.online.position()).windows < parts.features.end(WINDOWS, 0)
        found = compare_sides(parts, None)
        assert found.differing == 0
        assert found.compared == USERS * 2 * 6 + 1 * 3  # u0 alone is put


def test_another_version_is_asked_by_its_own_interpreter_and_a_fault_of_it_is_found(shop: Path, tmp_path: Path) -> None:
    python = other_version(tmp_path / "next", ("retrieval/arithmetic.py", '"div": _DIVIDE', '"div": _MULTIPLY'))
    with hr.connect(shop) as project:
        begin_side(project.parts, "green", str(python))
        fill_side(project.parts)
        found = compare_sides(project.parts, None)
        assert {name: bad for name, (_, bad) in found.features.items() if bad} == {"spend.mean_7d": found.differing}
        # A user who spent nothing has a mean of nothing, and one of one order the same by either.
        assert 0 < found.differing <= 2 * USERS
        switch(project.parts)
        assert layer_interpreter(project.settings, beside=False) == str(python)
        assert layer_interpreter(project.settings, beside=True) == sys.executable


def test_a_fill_that_was_killed_is_begun_again(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headrace.ingestion.reconcile as reconcile

    with hr.connect(shop) as project:
        begin_side(project.parts, "green", sys.executable)
        with monkeypatch.context() as patched:
            patched.setattr(reconcile, "clocks_at", _raise)
            with pytest.raises(RuntimeError, match="power"):
                fill_side(project.parts)
        with beside_of(project.parts) as beside, pytest.raises(StoreError, match="not filled yet"):
            run_layer(beside, "compute", once=True)
        with pytest.raises(PlanError, match="not filled yet"):
            switch(project.parts)
        publish(shop, 100)
        assert begin_side(project.parts, "green", sys.executable).ready is False
        fill_side(project.parts)
        with beside_of(project.parts) as beside:
            assert records(beside) == records(project.parts)


def _raise(*_: Any) -> Any:
    raise RuntimeError("power")


def test_sides_that_judge_otherwise_are_not_switched(shop: Path) -> None:
    start(shop)
    publish(shop, 100)
    with hr.connect(shop) as project:
        parts = project.parts
        catch_up(parts)
        publish(shop, 200)
        with beside_of(parts) as beside:
            # A side that takes the last of its events for late.
            from headrace.engines.stream.commits import decode_commit, encode_commit

            last = decode_commit(parts.features.last(WINDOWS, 0).payload)  # type: ignore[union-attr]
            last.streams["order"].exceptions.append((0, last.positions["order"][0] - 1, 2))
            beside.features.append([Append(WINDOWS, 0, encode_commit(last))])
        with pytest.raises(PlanError, match=r"disagree in commit 2 about which events count"):
            switch(parts)
        assert read_sides(parts.settings, parts.catalog).served.name == "main"


def test_mistakes_are_told(shop: Path) -> None:
    with hr.connect(shop) as project:
        parts = project.parts
        with pytest.raises(NotFound, match="headrace beside start"):
            switch(parts)
        with pytest.raises(ConfigError, match="cannot name a side"):
            begin_side(parts, "Green Side", sys.executable)
        with pytest.raises(ConfigError, match="no interpreter /nowhere/python"):
            begin_side(parts, "green", "/nowhere/python")
    start(shop)
    with hr.connect(shop) as project:
        parts = project.parts
        with pytest.raises(Busy, match="green runs beside already"):
            begin_side(parts, "blue", sys.executable)
        with pytest.raises(PlanError, match="use headrace beside switch"):
            switch(parts, back=True)
        assert [status.name for status in side_status(parts)] == ["main", "green"]
        with beside_of(parts) as beside, pytest.raises(ConfigError, match="runs for the served side alone"):
            run_layer(beside, "serve")
    file = shop / "features.py"
    file.write_text(file.read_text().replace('window=["1h", "7d"]', 'window=["2h", "7d"]'))
    with hr.connect(shop) as project, pytest.raises(Busy, match="while side green runs beside main"):
        project.apply()


def test_raw_topics_keep_what_the_side_beside_has_not_computed(shop: Path) -> None:
    from headrace.app.retention import trim_raw

    start(shop)
    with hr.connect(shop) as project:
        parts = project.parts
        with beside_of(parts) as beside:
            beside.following().checkpoint()
        reached = parts.raw.end("order", 0)
        publish(shop, 100)
        computing = parts.compute()
        computing.checkpoint()
        archive = parts.archive()
        while archive.step():
            pass
        assert parts.raw.end("order", 0) > reached
        trim_raw(parts, -(10**15))
        assert parts.raw.begin("order", 0) == reached
        catch_up(parts)
        trim_raw(parts, -(10**15))
        assert parts.raw.begin("order", 0) == parts.raw.end("order", 0)
    with hr.connect(shop) as project:
        drop(project.parts)
    with hr.connect(shop) as project:
        begin_side(project.parts, "late", sys.executable)
        with pytest.raises(PlanError, match="start without --from-beginning"):
            fill_side(project.parts, from_beginning=True)
        fill_side(project.parts)  # from the archive, the raw events being gone
        with beside_of(project.parts) as beside:
            assert records(beside) == records(project.parts)


def test_the_sides_of_a_newer_version_are_refused(shop: Path) -> None:
    with hr.connect(shop) as project:
        project.parts.catalog.set_setting("sides", {"format": 2, "served": {}})
        with pytest.raises(LogError, match="format 2, this version reads 1"):
            read_sides(project.settings, project.parts.catalog)


def test_all_of_it_by_commands(shop: Path) -> None:
    def run(*command: str, code: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["beside", *command, "--json", "--project", str(shop)])
        assert done.exit_code == code, done.output
        return dict(json.loads(done.stdout.splitlines()[-1])) if code == 0 else {}

    run("status")
    run("switch", code=1)
    assert run("start", "--fill-only", "--name", "blue")["event"] == "side blue is filled"
    publish(shop, 100)
    run("catch-up")
    assert [side["commits"] for side in run("status")["sides"]] == [2, 2]
    assert run("compare", "--sample", "2")["compared"] == 2 * 2 * 6 + 3
    assert run("switch")["served"] == "blue"
    run("switch", code=1)
    with hr.connect(shop) as project:
        assert project.parts.catalog.changes.list()[0].action == "beside switch"
    assert run("back")["served"] == "main"
    assert run("drop")["dropped"] == "blue"
    run("drop", code=1)
    told = CliRunner().invoke(main, ["run", "compute", "--beside", "--project", str(shop)])
    assert (told.exit_code, "headrace beside start" in told.output) == (1, True)


def test_who_had_the_project_open_goes_over_to_the_other_side(shop: Path) -> None:
    start(shop)
    with hr.connect(shop) as long_open, hr.connect(shop) as other:
        long_open.publish("order", orders(10, now(), start=60))
        worker = long_open.parts.ingest()
        switch(other.parts)
        # Nobody goes on with the side that is not served any more: its commits are not its own now.
        with pytest.raises(StoreError, match="main is no longer served"):
            long_open.parts.compute()
        assert worker.position.windows == 2
        long_open.publish("order", orders(10, now(), start=70))
        assert long_open.parts.side.name == "green"
        assert sum(long_open.get("spend", user=f"u{user}").n["7d"] for user in range(USERS)) == 80
        assert catch_up(other.parts) == long_open.parts.features.end(WINDOWS, 0)
        found = compare_sides(other.parts, None)
        assert (found.served, found.beside, found.differing) == ("green", "main", 0)
        assert other.parts.side.name == "green"


@pytest.mark.redis
def test_two_sides_lie_apart_in_redis_and_a_dropped_one_leaves_nothing(shop: Path) -> None:
    prefix = f"beside-{secrets.token_hex(4)}"
    (shop / "headrace.toml").write_text(f'sync = false\nonline = "{address("redis")}?prefix={prefix}"\n')
    with hr.connect(shop) as project:
        project.settle()
        held = project.parts.online.count()
        assert held > USERS
    start(shop)
    publish(shop, 100)
    with hr.connect(shop) as project:
        catch_up(project.parts)
        with beside_of(project.parts) as beside:
            assert records(beside) == records(project.parts)
        switch(project.parts)
        publish(shop, 200)
    with hr.connect(shop) as project:
        assert sum(project.get("spend", user=f"u{user}").n["7d"] for user in range(USERS)) == 180
        with beside_of(project.parts) as beside:
            former = beside.online
            drop(project.parts)
            assert (list(former.scan()), former.position()) == ([], b"")
        assert len(records(project.parts)) > USERS


@pytest.mark.parametrize("from_beginning", [False, True])
def test_derived_streams_have_one_writer_and_go_on_after_a_switch(tmp_path: Path, from_beginning: bool) -> None:
    shop = write_shop(tmp_path / "shop")
    (shop / "features.py").write_text(FEATURES.split("view = hr.FeatureView")[0] + DERIVED)

    def more(n: int) -> None:
        with hr.connect(shop) as project:
            project.put("discount", [{"user": f"u{n % 9}", "share": n / 64, "at": now()}])
            rows = orders(40, now(), start=100 * n)
            project.publish("order", [*rows[::2], *rows[1::2]])
            project.publish("outcome", outcomes(rows))

    def alike() -> tuple[int, str]:
        with hr.connect(shop) as project:
            catch_up(project.parts)
            found = compare_sides(project.parts, None)
            assert found.differing == 0, str(found)
            assert {"net_spend.part", "bought.net", "lost.net"} <= set(found.features)
            ends = {name: project.parts.raw.end(name, 0) for name in project.parts.plan.topics()}
            assert {project.parts.raw.end(project.parts.plan.root(name), 0) for name in ends} == {40 * (n + 1)}
            assert set(ends.values()) == {40 * (n + 1)}  # each event was derived once
            asked = [{"order_id": f"a{i}", "user": f"u{i}", "amount": 1.0, "at": now().isoformat()} for i in range(10)]
            online = project.online("order", asked).to_arrow().sort_by("order_id").to_pylist()
            assert repr(project.history("order", asked).to_arrow().sort_by("order_id").to_pylist()) == repr(online)
            return len(online), project.parts.side.name

    n = 0
    more(n)
    start(shop, from_beginning=from_beginning)
    for n, back in enumerate((None, False, True), start=1):
        with hr.connect(shop) as project:
            if back is not None:
                switch(project.parts, back=back)
        more(n)
        assert alike() == (10, "green" if back is False else "main")


def test_scheduled_groups_are_not_behind_after_a_switch(shop: Path) -> None:
    (shop / "headrace.toml").write_text('sync = false\n[groups.spend]\nrun = "300d"\n')
    with hr.connect(shop) as project:
        project.apply()
    start(shop)
    with hr.connect(shop) as project:
        assert compare_sides(project.parts, None).left_out == ["spend"]
    publish(shop, 100)
    with hr.connect(shop) as project:
        project.backfill("spend")
        before = project.online("order", {"order_id": "a", "user": "u1", "amount": 1.0, "at": now().isoformat()})
        assert before["spend__n_7d"] == 12
        switch(project.parts)
    with hr.connect(shop) as project:
        after = project.online("order", {"order_id": "a", "user": "u1", "amount": 1.0, "at": now().isoformat()})
        assert after["spend__n_7d"] == 12
        assert after.position.groups == before.position.groups


def test_all_of_it_in_python(shop: Path) -> None:
    with hr.connect(shop) as project:
        beside = project.beside
        assert str(beside.status()).startswith("side main")
        assert beside.status().beside is None
        told: list[str] = []
        made: list[tuple[int, int]] = []
        found = beside.start("blue", follow=False, said=told.append, progress=lambda done, of: made.append((done, of)))
        assert told[-1] == "side blue is filled"
        assert made
        assert (found.served.name, found.follows) == ("main", False)
        assert found.beside is not None
        assert (found.beside.name, found.beside.commits, found.beside.visible) == ("blue", 1, 1)
        assert "start them with: headrace beside start" in str(found)
        publish(shop, 100)
        publish(shop, 200)
        # Nobody runs its layers: it is brought up to what is served before it is compared.
        compared = beside.compare(None)
        assert (compared.compared, compared.differing) == (USERS * 2 * 6 + 1 * 3, 0)
        assert str(compared).startswith("0 of 123 values differ between main and blue")
        switched = beside.switch()
        assert str(switched) == "side blue is served from commit 3 on; main runs beside it"
        project.publish("order", orders(20, now(), start=300))
        assert project.parts.side.name == "blue"
        assert sum(project.get("spend", user=f"u{user}").n["7d"] for user in range(USERS)) == 200
        with pytest.raises(PlanError, match="use headrace beside back"):
            beside.switch()
        assert (beside.back().served, project.parts.side.name) == ("main", "main")
        assert sum(project.get("spend", user=f"u{user}").n["7d"] for user in range(USERS)) == 200
        assert beside.stop().follows is False  # nothing runs that could be stopped
        assert beside.drop().beside is None
        with pytest.raises(NotFound, match="headrace beside start"):
            beside.drop()


def test_layers_that_python_has_started_follow_until_they_are_stopped(shop: Path) -> None:
    with hr.connect(shop) as project:
        found = project.beside.start()
        assert (found.follows, project.beside.start().follows) == (True, True)
        publish(shop, 100)
        # Now it is they that bring it up: this process would have to have their locks.
        with (
            beside_of(project.parts) as beside,
            pytest.raises(Busy, match="beside"),
            FolderLock(beside.role_folder, "ingest"),
        ):
            pass
        assert project.beside.compare(None).differing == 0
        end = project.parts.features.end(WINDOWS, 0)
        stopped = project.beside.stop()
        assert stopped.beside is not None
        assert (stopped.follows, stopped.beside.commits) == (False, end)
