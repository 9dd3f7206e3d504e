"""Differences planted behind the stores' backs: each kind is found by the next look and put right, on either side."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from headrace.app.project import Project
from headrace.app.reconciling import SHARES, Reconciling, accept_loss, reconcile_all, reconciler
from headrace.app.retention import trim_raw
from headrace.app.schedules import project_scheduler
from headrace.app.services import run_layer
from headrace.cli.main import main
from headrace.core.time import US_PER_DAY, SimulatedClock, to_us
from headrace.ingestion.expected import Share
from headrace.ingestion.reconcile import Reconciled, Reconciler
from tests.e2e.shop import orders, write_shop
from tests.redis_server import RedisServer
from tests.unit.app.conftest import NOON
from tests.unit.app.test_refresh import TABLE, write_points

USERS = 40
NOBODY = Share(SHARES, SHARES)
"""A share without entities: what is looked at is what its hashes make suspicious."""


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.redis)])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A shop that is ingested and archived, its online store here or on a server."""
    if request.param == "embedded":
        with opened(tmp_path / "shop") as found:
            yield found
        return
    server = RedisServer(tmp_path / "redis").start()
    with opened(tmp_path / "shop", f'online = "{server.url}?shards=3"\n') as found:
        yield found
    server.kill()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Project]:
    """The same, with embedded parts."""
    with opened(tmp_path / "shop") as found:
        yield found


@contextmanager
def opened(folder: Path, online: str = "") -> Iterator[Project]:
    write_shop(folder)
    (folder / "features.py").write_text((folder / "features.py").read_text() + TABLE)
    (folder / "headrace.toml").write_text(f'sync = false\n{online}[sources]\npoints = "points.csv"\n')
    write_points(folder, 1, users=USERS)
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as found:
        found.apply()
        come(found, 0, 200)
        project_scheduler(found.parts)[0].run_now("batch points", found.clock.now_us())
        run_layer(found.parts, "ingest", once=True)
        yield found


def come(project: Project, start: int, n: int) -> None:
    """Orders come in, and are computed, ingested and archived."""
    project.publish("order", orders(n, NOON - timedelta(hours=1), start=start, users=USERS, step_s=1))
    run_layer(project.parts, "compute", once=True)
    run_layer(project.parts, "ingest", once=True)


def plant(project: Project, changes: dict[bytes, bytes | None]) -> None:
    """Write records as nobody does."""
    store = project.parts.online
    store.write(list(changes.items()), store.position())


def records(project: Project) -> dict[bytes, bytes]:
    return dict(project.parts.online.scan())


def seen(found: Reconciled) -> dict[str, int]:
    return {name: sum(getattr(found, name).values()) for name in ("missing", "differing", "extra")}


def test_one_look_finds_every_planted_difference_by_its_hash(project: Project) -> None:
    worker = reconciler(project.parts)
    worker.run(NOBODY)
    come(project, 1_000, USERS)
    assert worker.run(NOBODY).suspected == 0, "what the log brought is no surprise"
    stale = records(project)
    come(project, 2_000, USERS // 2)
    sound = records(project)

    moved = [key for key in sorted(sound) if stale.get(key) not in (None, sound[key])]
    still = [key for key in sorted(sound) if stale.get(key) == sound[key]]
    flipped = {key: sound[key][:-1] + bytes([sound[key][-1] ^ 1]) for key in still[::5]}
    gone = dict.fromkeys(still[1::5])
    back = {key: stale[key] for key in moved[::6]}
    version = moved[0][-8:]
    extra = {b"s\0\0\0\5u9999" + version: sound[moved[0]], b"s\0\0\0\5u9998" + still[0][-8:]: b"rubbish!"}
    lost = dict.fromkeys(moved[1::6])
    plant(project, {**flipped, **gone, **back, **extra, **lost})

    told = worker.run(NOBODY, repair=False)
    assert seen(told) == {"missing": len(gone) + len(lost), "differing": len(flipped) + len(back), "extra": len(extra)}
    assert told.repaired == 0
    found = reconciler(project.parts).run(NOBODY)
    assert seen(found) == seen(told)
    assert (found.repaired, found.unrepaired) == (found.wrong, 0)
    assert records(project) == sound
    again = worker.run(NOBODY)
    assert (again.suspected, again.wrong) == (told.wrong, 0), "what was repaired is looked at once more"
    assert worker.run(NOBODY).suspected == 0


def test_what_the_hashes_never_saw_is_found_by_its_share(project: Project) -> None:
    """Damage from before the first look."""
    sound = records(project)
    keys = sorted(sound)
    plant(project, {keys[0]: None, keys[1]: b"rubbish!", b"s\0\0\0\5u9999" + keys[0][-8:]: sound[keys[0]]})
    worker = reconciler(project.parts)
    for number in range(SHARES):
        worker.run(Share(number, SHARES))
    assert seen(worker.totals) == {"missing": 1, "differing": 1, "extra": 1}
    assert records(project) == sound


def test_a_store_that_went_back_is_no_surprise(project: Project) -> None:
    """Another primary has taken over, and ingestion will bring what it lacks."""
    store = project.parts.online
    before, at = records(project), store.position()
    come(project, 1_000, USERS)
    worker = reconciler(project.parts)
    worker.run(NOBODY)
    store.write([*before.items(), *((key, None) for key in records(project) if key not in before)], at)
    assert worker.run(NOBODY).suspected == 0
    run_layer(project.parts, "ingest", once=True)
    assert worker.run(NOBODY).wrong == 0


# --- the archive ------------------------------------------------------------------------------------------------------


def table(project: Project, name: str) -> Path:
    return project.settings.state / "offline" / name


def rows_name(project: Project) -> str:
    points = project.parts.plan.tables["points"]
    return f"tables/points-{points.version}"


def deleted_file(folder: Path) -> None:
    next(folder.glob("day=*/*.parquet")).unlink()


def shortened_file(folder: Path) -> None:
    file = next(folder.glob("day=*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])


def removed_rows(folder: Path) -> None:
    column = "_offset" if (folder.parent.name) == "events" else "_order"
    DeltaTable(folder).delete(f"{column} < 7")


@pytest.mark.parametrize("harm", [deleted_file, shortened_file, removed_rows])
@pytest.mark.parametrize("of", ["events", "rows"])
def test_what_the_archive_lost_is_brought_back_from_the_log(
    shop: Project, harm: Callable[[Path], None], of: str
) -> None:
    name = "events/order" if of == "events" else rows_name(shop)
    come(shop, 1_000, 50)
    before = sorted(map(str, shop.parts.offline.scan(name).to_pylist()))
    sound, history = records(shop), shop.history("order").to_arrow().to_pylist()
    worker = reconciler(shop.parts)
    worker.run(NOBODY)
    harm(table(shop, name))
    told = worker.run(Share(0, SHARES), repair=False)
    assert told.archive_missing[name] > 0
    assert told.unrepaired == told.archive_missing[name]
    assert records(shop) == sound, "nothing is computed from an archive with a hole"
    done = CliRunner().invoke(main, ["--project", str(shop.settings.folder), "reconcile", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["archive_restored"] == found["archive_missing"]
    assert found["archive_restored"][name] > 0
    assert (found["wrong"], found["unrepaired"], found["lost"]) == (0, 0, {})
    assert sorted(map(str, shop.parts.offline.scan(name).to_pylist())) == before
    assert shop.history("order").to_arrow().to_pylist() == history
    assert records(shop) == sound
    assert not reconcile_all(shop.parts, repair=False).archive_missing


def test_what_the_log_has_dropped_is_reported_with_its_cure_and_harms_nobody(shop: Project) -> None:
    parts = shop.parts
    parts.clock = SimulatedClock(to_us(NOON) + 9 * US_PER_DAY)
    assert trim_raw(parts, US_PER_DAY)["order"] > 0
    folder, sound = table(shop, "events/order"), records(shop)
    worker = reconciler(parts)
    worker.run(NOBODY)
    file = next(folder.glob("day=*/*.parquet"))
    kept = file.read_bytes()
    file.unlink()
    keys = sorted(sound)
    points = [key for key in keys if key.endswith(bytes.fromhex(parts.plan.tables["points"].version))]
    spend = [key for key in keys if key not in points]
    plant(shop, {points[0]: None, spend[0]: None})
    found = worker.run(NOBODY)
    assert found.lost.keys() == found.archive_missing.keys() == {"events/order"}
    assert file.name in found.lost["events/order"]
    assert "put the files back" in found.lost["events/order"]
    assert records(shop) == {key: record for key, record in sound.items() if key != spend[0]}
    done = CliRunner().invoke(main, ["--project", str(shop.settings.folder), "reconcile"])
    assert done.exit_code == 1
    assert "put the files back" in done.output
    file.write_bytes(kept)
    found = worker.run(NOBODY)
    assert (found.archive_missing, found.wrong, found.repaired) == ({}, 1, 1)
    assert records(shop) == sound


def test_a_look_that_was_killed_while_it_mended_the_archive_is_made_up_for(shop: Project) -> None:
    parts, sound = shop.parts, records(shop)
    before = parts.offline.count("events/order")
    deleted_file(table(shop, "events/order"))
    assert parts.offline.drop_damaged("events/order") == 1
    assert parts.offline.count("events/order") < before
    found = reconciler(parts).run(Share(3, SHARES))
    assert found.archive_restored == found.archive_missing
    assert (parts.offline.count("events/order"), found.wrong) == (before, 0)
    assert records(shop) == sound


def test_what_was_erased_is_no_loss(shop: Project) -> None:
    worker = reconciler(shop.parts)
    worker.run(NOBODY)
    shop.erase("user", "u7")
    worker = reconciler(shop.parts)
    for number in range(SHARES):
        worker.run(Share(number, SHARES))
    totals = worker.totals
    assert (totals.archive_missing, totals.lost, totals.wrong) == ({}, {}, 0)
    assert totals.archived > 0
    files = [file for file in shop.settings.state.rglob("*") if file.is_file()]
    assert [file for file in files if b'u7"' in file.read_bytes() or b"\0\0\0\2u7" in file.read_bytes()] == []


def test_rows_that_nobody_has_any_more_are_asked_for_at_every_look(shop: Project) -> None:
    parts, sound = shop.parts, records(shop)
    worker = reconciler(parts)
    worker.run(NOBODY)
    parts.clock = SimulatedClock(to_us(NOON) + 9 * US_PER_DAY)
    assert trim_raw(parts, US_PER_DAY)["order"] > 0
    removed_rows(table(shop, "events/order"))
    for number in range(SHARES):
        found = worker.run(Share(number, SHARES))
        assert found.archive_missing == {"events/order": 7}
        assert "older copy" in found.lost["events/order"]
        assert (found.wrong, found.unrepaired) == (0, 7)
    assert records(shop) == sound


def served_and_told(shop: Project) -> list[tuple[Any, Any]]:
    """Of every user what is served, and what history says."""
    users = [f"u{n}" for n in range(USERS)]
    rows = shop.history(["spend"], [{"user": user, "at": NOON} for user in users]).to_arrow()
    return list(zip([shop.get("spend", user=u).n["7d"] for u in users], rows["spend__n_7d"].to_pylist(), strict=True))


@pytest.mark.parametrize("harm", [deleted_file, shortened_file, removed_rows])
def test_a_loss_that_is_accepted_is_on_record_and_stops_nobody(shop: Project, harm: Callable[[Path], None]) -> None:
    parts = shop.parts
    before, clock = served_and_told(shop), parts.clock
    parts.clock = SimulatedClock(to_us(NOON) + 9 * US_PER_DAY)
    assert trim_raw(parts, US_PER_DAY)["order"] > 0
    parts.clock = clock
    harm(table(shop, "events/order"))
    come(shop, 1_000, 50)
    worker = reconciler(parts)
    (told,) = worker.run(NOBODY).lost.values()
    assert 'headrace reconcile --accept-loss order --why "..."' in told
    run = partial(CliRunner().invoke, main)
    reconcile = ["--project", str(shop.settings.folder), "reconcile", "--accept-loss"]
    assert "say why" in run([*reconcile, "order"]).output
    assert "leave --dry-run out" in run([*reconcile, "order", "--dry-run"]).output
    assert "there is no stream" in run([*reconcile, "orders", "--why", "no copy"]).output
    assert "nothing of points is lost" in run([*reconcile, "points", "--why", "no copy"]).output
    done = run([*reconcile, "order", "--why", "no copy", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["lost"], found["archive_missing"], found["unrepaired"]) == ({}, {}, 0)
    (change,) = parts.catalog.changes.list(action="accept loss")
    assert (change.subject, change.detail["why"]) == ("order", "no copy")
    assert change.detail["rows"] == found["given_up"] > 0
    lost = {(p, n) for p, low, high in change.detail["offsets"] for n in range(low, high)}
    if harm is removed_rows:
        assert lost == {(0, n) for n in range(7)}
    held = parts.offline.scan("events/order", ["_partition", "_offset"]).to_pydict()
    here = set(zip(held["_partition"], held["_offset"], strict=True))
    assert not here & lost
    assert here | lost == {(0, n) for n in range(250)}, "what the log still held was brought back"
    # What is lost is lost on both sides, which agree to the bit; and all goes on.
    after = served_and_told(shop)
    assert all(served == told for served, told in after)
    assert 250 - sum(n for n, _ in after) == len(lost) - sum(n >= 200 for _, n in lost)
    assert sum(n for n, _ in before) == 200
    for number in range(SHARES):
        again = worker.run(Share(number, SHARES))
        assert (again.lost, again.archive_missing) == ({}, {})
    assert not reconcile_all(parts, repair=False).wrong
    come(shop, 2_000, 20)
    assert "nothing of order is lost" in run([*reconcile, "order", "--why", "no copy"]).output
    run_layer(parts, "ingest", once=True)
    assert all(served == told for served, told in served_and_told(shop))


def test_a_copy_that_turns_up_after_all_is_welcome(shop: Project) -> None:
    parts, sound = shop.parts, records(shop)
    parts.clock = SimulatedClock(to_us(NOON) + 9 * US_PER_DAY)
    assert trim_raw(parts, US_PER_DAY)["order"] > 0
    folder = table(shop, "events/order")
    shutil.copytree(folder, shop.settings.folder / "copy")
    removed_rows(folder)
    accept_loss(parts, "order", who="ann", why="no copy")
    assert reconcile_all(parts).repaired > 0
    assert records(shop) != sound
    shutil.rmtree(folder)
    shutil.copytree(shop.settings.folder / "copy", folder)
    with Project.open(shop.settings.folder, clock=parts.clock) as again:
        found = reconcile_all(again.parts)
        assert (found.lost, found.unrepaired) == ({}, 0)
        assert records(again) == sound


# --- beside the other jobs --------------------------------------------------------------------------------------------


def test_no_other_job_waits_for_a_look_and_a_stop_ends_it(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def endless(self: Reconciler, share: Share, *, on_way: Callable[[], object], **of: Any) -> Reconciled:
        began.set()
        while True:
            on_way()
            time.sleep(0.01)

    monkeypatch.setattr(Reconciler, "run", endless)
    parts = shop.parts
    parts.settings = replace(parts.settings, reconcile_s=60)
    thread = Reconciling(parts)
    clock = parts.clock
    assert isinstance(clock, SimulatedClock)
    clock.advance_to(clock.now_us() + 61 * 1_000_000)
    assert began.wait(10)
    scheduler, _ = project_scheduler(parts, reconcile=False)
    scheduler.run_now("batch points", clock.now_us(), "test")
    assert "reconcile" not in scheduler._jobs
    thread.stop()
    assert thread.counters()["repaired"] == 0
