"""Dead letters: found, published again once for good, corrected, dropped; nothing is edited and nothing vanishes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.app.project import Project
from headrace.core.errors import NotFound, SchemaError
from headrace.core.events import decode_block
from headrace.core.time import SimulatedClock, to_us
from headrace.ingestion.letters import ACTIONS
from tests.e2e.shop import FEATURES, orders, write_shop
from tests.unit.app.conftest import NOON


def order(name: str, **changed: Any) -> dict[str, Any]:
    return {"order_id": name, "user": "u1", "amount": 5.0, "at": (NOON - timedelta(minutes=5)).isoformat()} | changed


def total(project: Project) -> float | None:
    return project.get("spend", user="u1").total["1h"]  # type: ignore[no-any-return]


@pytest.fixture
def bad(shop: Project) -> Project:
    """A shop with three dead letters at offsets 1 to 3 of its orders, and one counted order of 5."""
    rows = [order("a"), order("b", amount="7"), order("c", colour="red"), order("d", at="soon")]
    assert shop.publish("order", rows).malformed == 3
    return shop


def test_letters_are_found_by_stream_field_reason_and_time(bad: Project, clock: SimulatedClock) -> None:
    clock.advance_to(to_us(NOON + timedelta(hours=1)))
    bad.publish("outcome", [{"outcome_id": "x", "order": "a", "bad": 1, "at": NOON.isoformat()}])
    found = bad.dead_letters()
    assert [letter.id for letter in found] == ["outcome/0/0", "order/0/3", "order/0/2", "order/0/1"]
    assert len(found) == 4
    assert {(c.stream, c.field, c.count) for c in found.counts} == {
        ("outcome", "bad", 1), ("order", "amount", 1), ("order", "colour", 1), ("order", "at", 1),
    }  # fmt: skip
    assert [letter.id for letter in bad.dead_letters("order", field="amount")] == ["order/0/1"]
    assert [letter.id for letter in bad.dead_letters(reason="NO SUCH field")] == ["order/0/2"]
    assert [letter.id for letter in bad.dead_letters(since=NOON + timedelta(minutes=1))] == ["outcome/0/0"]
    assert len(bad.dead_letters(until=NOON + timedelta(minutes=1))) == 3
    assert [len(bad.dead_letters(limit=1)), len(list(bad.dead_letters(limit=1)))] == [4, 1]
    (letter,) = bad.dead_letters(letters=["order/0/1"])
    assert (letter.field, letter.state, letter.arrival) == ("amount", "open", "2026-05-01T12:00:00Z")
    assert '"amount":"7"' in letter.payload
    with pytest.raises(NotFound, match="no dead letter order/0/0"):
        bad.dead_letters().get("order/0/0")
    for name in ("order", "order/0", "order/x/1", "/0/1", "order/0/-1"):
        with pytest.raises(SchemaError, match="STREAM/PARTITION/OFFSET"):
            bad.dead_letters().get(name)
    with pytest.raises(SchemaError, match="no state"):
        bad.dead_letters(state="shut")


def test_a_corrected_event_counts_once_and_names_its_letter(bad: Project) -> None:
    letters = bad.dead_letters()
    assert total(bad) == 5.0
    fixed = letters.fix("order/0/1", {"amount": 7.0}, why="a number in quotes")
    assert (fixed.state, fixed.payload) == ("fixed", letters.get("order/0/1").payload)
    assert fixed.mark is not None
    assert (fixed.mark.published, fixed.mark.why) == ("order/0/4", "a number in quotes")
    assert total(bad) == 12.0
    with pytest.raises(SchemaError, match=r"was fixed by .* as order/0/4"):
        letters.fix("order/0/1", {"amount": 8.0})
    assert letters.replay().published == 0
    assert total(bad) == 12.0
    (change,) = bad.parts.catalog.changes.list(action="dead letter")
    assert (change.action, change.subject) == ("dead letter fix", "order/0/1")
    assert change.detail == {"stream": "order", "changed": ["amount"], "why": "a number in quotes"}


def test_a_correction_that_does_not_fit_either_is_refused(bad: Project) -> None:
    letters = bad.dead_letters()
    with pytest.raises(SchemaError, match='field "amount": expected float') as refused:
        letters.fix("order/0/1", {"amount": "eight"})
    assert refused.value.field == "amount"
    with pytest.raises(SchemaError, match="lies more than"):
        letters.fix("order/0/3", {"at": "2027-01-01T00:00:00Z"})
    with pytest.raises(SchemaError, match='no stream "orders"'):
        letters.fix("order/0/1", {"amount": 8.0}, stream="orders")
    assert bad.parts.raw.end("order", 0) == 4
    assert len(bad.dead_letters()) == 3
    letters.fix("order/0/2", remove=["colour"])
    letters.fix("order/0/3", event=order("d"))
    assert total(bad) == 15.0
    assert [letter.id for letter in bad.dead_letters()] == ["order/0/1"]


def mended(folder: Path, clock: SimulatedClock) -> Project:
    """The same shop after its definitions allow a colour."""
    text = FEATURES.replace('hr.field("euros")', 'hr.field("euros")\n    colour: hr.Field[str | None]')
    (folder / "features.py").write_text(text)
    project = Project.open(folder, clock=clock)
    project.apply()
    return project


def test_after_the_definition_was_mended_what_fits_is_published_again_and_only_once(
    bad: Project, clock: SimulatedClock
) -> None:
    folder = bad.settings.folder
    bad.close()
    with mended(folder, clock) as project:
        tried = project.dead_letters().replay(dry_run=True)
        assert (tried.published, tried.left, len(project.dead_letters())) == (1, 2, 3)
        done = project.dead_letters().replay(why="colour is a field now")
        assert done == tried
        assert {(one.id, one.field) for one in done.refused} == {("order/0/1", "amount"), ("order/0/3", "at")}
        assert total(project) == 10.0
        letter = project.dead_letters().get("order/0/2")
        assert (letter.state, letter.mark and letter.mark.published) == ("replayed", "order/0/4")
        again = project.dead_letters().replay()
        assert (again.published, again.left) == (0, 2)
        assert project.parts.raw.end("order", 0) == 5
        assert [one.id for one in project.dead_letters(state="replayed")] == ["order/0/2"]
        # A reader of the stream sees an ordinary event: what it mends stands beside its fields.
        schema = project.definition_plan.streams["order"].schema
        (batch,) = project.parts.raw.read("order", 0, 4)
        assert decode_block(batch.payload, schema).columns["colour"].to_pylist() == ["red"]
        rows = project.history(["spend"], [{"user": "u1", "at": NOON}])
        rows = project.history(["spend"], [{"user": "u1", "at": NOON}])
        assert rows.to_arrow()["spend__total_1h"].to_pylist() == [10.0]


def test_a_letter_of_an_event_ahead_of_its_time_fits_when_that_has_come(shop: Project, clock: SimulatedClock) -> None:
    shop.publish("order", [order("z", at=(NOON + timedelta(hours=3)).isoformat())])
    (letter,) = shop.dead_letters()
    assert (letter.field, "ahead" in letter.reason or "after its arrival" in letter.reason) == ("at", True)
    assert shop.dead_letters().replay().published == 0
    clock.advance_to(to_us(NOON + timedelta(hours=4)))
    assert shop.dead_letters().replay().published == 1
    assert total(shop) == 5.0


def test_events_of_no_declared_stream_are_letters_too(shop: Project) -> None:
    shop.ensure_applied()
    shop.publisher.publish_mixed([{"stream": "ordered", **order("a")}, order("b"), "nonsense", {"stream": "order"}])
    shop.settle(wait=False)
    assert {letter.id for letter in shop.dead_letters()} == {
        "_unknown/0/0", "_unknown/0/1", "_unknown/0/2", "order/0/0",
    }  # fmt: skip
    status = shop.status()
    assert (status.dead_letters, status.open_dead_letters) == (4, 4)
    letters = shop.dead_letters("_unknown")
    done = letters.replay()
    assert (done.published, {one.field for one in done.refused}) == (0, {"stream"})
    letters.fix("_unknown/0/0", stream="order")
    letters.fix("_unknown/0/1", {"amount": 1.0}, stream="order")
    with pytest.raises(SchemaError, match="give the whole event"):
        letters.fix("_unknown/0/2", {"amount": 1.0}, stream="order")
    assert total(shop) == 6.0
    assert (shop.status().dead_letters, shop.status().open_dead_letters) == (4, 2)


def test_a_dropped_letter_is_left_out_until_it_is_named(bad: Project) -> None:
    letters = bad.dead_letters("order", field="colour")
    with pytest.raises(SchemaError, match="say why"):
        letters.drop(why=" ")
    with pytest.raises(SchemaError, match="which letters"):
        bad.dead_letters().drop(why="all of it")
    assert letters.drop(why="test traffic") == 1
    assert letters.drop(why="test traffic") == 0
    (letter,) = bad.dead_letters(state="dropped")
    assert (letter.id, letter.state, letter.mark and letter.mark.why) == ("order/0/2", "dropped", "test traffic")
    assert '"colour":"red"' in letter.payload
    assert letters.replay().left == 0
    assert bad.dead_letters(letters=["order/0/2"]).replay().left == 1
    letters.fix("order/0/2", remove=["colour"])
    assert total(bad) == 10.0
    assert bad.dead_letters().get("order/0/2").state == "fixed"


def test_marks_outlive_the_process_and_a_feature_log_that_is_computed_again(
    bad: Project, clock: SimulatedClock
) -> None:
    bad.dead_letters().fix("order/0/1", {"amount": 7.0})
    folder, state = bad.settings.folder, bad.settings.state
    bad.close()
    for file in (state / "log" / "features").iterdir():
        file.unlink()
    for file in (state / "online").iterdir():
        file.unlink()
    (state / "compute.checkpoint").unlink(missing_ok=True)
    with Project.open(folder, clock=clock) as again:
        again.settle(wait=False)
        assert [letter.id for letter in again.dead_letters()] == ["order/0/3", "order/0/2"]
        assert again.dead_letters().get("order/0/1").state == "fixed"
        assert again.parts.raw.end(ACTIONS, 0) == 2  # announced, recorded


def test_many_letters_of_several_partitions_go_in_many_appends(tmp_path: Path, clock: SimulatedClock) -> None:
    with Project.open(write_shop(tmp_path / "wide"), clock=clock, partitions=3) as project:
        rows = [row | {"colour": "red"} for row in orders(2500, NOON - timedelta(minutes=1), step_s=0.5, users=40)]
        project.publish("order", rows)
        assert len(project.dead_letters()) == 2500
        folder = project.settings.folder
    with mended(folder, clock) as project:
        told: list[int] = []
        done = project.dead_letters().replay(progress=told.append)
        assert (done.published, done.left, told) == (2500, 0, [1000, 2000, 2500])
        assert len(project.dead_letters()) == 0
        assert sum(project.parts.raw.end("order", p) for p in range(3)) == 5000
        letter = project.dead_letters(state="replayed", limit=5000)
        where = {one.id: project.dead_letters().get(one.id).mark for one in list(letter)[::500]}
        assert all(mark is not None and mark.published is not None for mark in where.values())
        counts = [project.get("spend", user=f"u{i}").n["7d"] for i in range(40)]
        assert sum(counts) == 2500
