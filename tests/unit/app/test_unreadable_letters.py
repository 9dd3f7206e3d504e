"""A batch of events that cannot be read, in a project: told of, mended, published once; history and online agree."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.app.doctor import examine
from headrace.app.project import Project
from headrace.app.reconciling import reconcile_all
from headrace.core.errors import SchemaError
from headrace.core.events import encode_block
from headrace.core.time import SimulatedClock
from headrace.core.unreadable import kept_of
from headrace.eventlog.base import Append
from tests.unit.app.conftest import NOON


def order(name: str, **changed: Any) -> dict[str, Any]:
    return {"order_id": name, "user": "u1", "amount": 5.0, "at": (NOON - timedelta(minutes=5)).isoformat()} | changed


def total(project: Project) -> float | None:
    return project.get("spend", user="u1").total["1h"]  # type: ignore[no-any-return]


def agree(project: Project) -> float | None:
    """What is served, which history gives as well."""
    project.settle(wait=False)
    served = total(project)
    rows = project.history(["spend"], [{"user": "u1", "at": NOON}])
    assert rows.to_arrow()["spend__total_1h"].to_pylist() == [served]
    assert reconcile_all(project.parts).wrong == 0
    return served


ROWS = [order("b", amount=7.0), order("c", amount="ten"), order("d", amount=9.0)]


@pytest.fixture
def bad(shop: Project) -> tuple[Project, bytes]:
    """A shop with an order of 5, a batch of three orders (one malformed) that lacks its end, and an order of 11."""
    shop.publish("order", [order("a")])
    whole = encode_block(shop.publisher.encode("order", ROWS))
    shop.parts.raw.append([Append("order", 0, whole[:-30], 3)])
    shop.publish("order", [order("e", amount=11.0)])
    return shop, whole


def restore(project: Project, payload: bytes) -> None:
    """What putting an older copy of the log's folder back does to one batch."""
    project.parts.raw.rewrite("order", 0, lambda batch: payload if batch.base == 1 else None)


def test_it_stops_nothing_and_everybody_tells_of_it(bad: tuple[Project, bytes]) -> None:
    project, whole = bad
    assert agree(project) == 16.0
    (letter,) = project.dead_letters()
    assert (letter.id, letter.field, letter.state) == ("order/0/1", "", "open")
    assert letter.reason.startswith("this offset, and the next 2 offsets, cannot be read as a block of events: ")
    assert kept_of(letter.payload.encode()).sent is None, "a list of letters does not carry whole batches"
    kept = kept_of(project.dead_letters().get("order/0/1").payload.encode())
    assert (kept.events, kept.sent) == (3, whole[:-30])
    assert (project.status().dead_letters, project.status().open_dead_letters) == (1, 1)
    (finding,) = [found for found in examine(project.settings.folder, clock=project.parts.clock) if not found.ok]
    assert (finding.what, "order/0/1" in finding.found, "dead replay" in finding.cure) == ("events", True, True)


def test_nothing_is_published_of_what_cannot_be_read_still(bad: tuple[Project, bytes]) -> None:
    project, _ = bad
    done = project.dead_letters().replay()
    assert (done.published, done.left) == (0, 1)
    assert "restore the log" in done.refused[0].reason
    for wrong in ({"amount": 5.0}, {}):
        with pytest.raises(SchemaError, match="a batch of 3 events"):
            project.dead_letters().fix("order/0/1", wrong)
    with pytest.raises(SchemaError, match='field "amount": expected float'):
        project.dead_letters().fix("order/0/1", event=[order("b"), order("c", amount="ten")])
    with pytest.raises(SchemaError, match="no object with fields"):
        project.dead_letters().fix("order/0/1", event=[])
    assert project.parts.raw.end("order", 0) == 5
    assert agree(project) == 16.0


def test_restored_it_is_published_once_with_what_was_malformed_in_it(bad: tuple[Project, bytes]) -> None:
    project, whole = bad
    assert agree(project) == 16.0
    restore(project, whole)
    assert agree(project) == 16.0, "its verdict stands"
    assert project.dead_letters().replay(dry_run=True).published == 3
    done = project.dead_letters().replay(why="the disk is mended")
    assert (done.published, done.left) == (3, 0)
    assert agree(project) == 32.0
    (inner,) = project.dead_letters()
    assert (inner.id, inner.field) == ("order/0/6", "amount")
    mark = project.dead_letters().get("order/0/1").mark
    assert mark is not None
    assert (mark.state, mark.published, mark.why) == ("replayed", "order/0/5", "the disk is mended")
    assert project.dead_letters().replay().published == 0
    assert agree(project) == 32.0


def test_its_verdict_and_its_letter_outlive_the_process(bad: tuple[Project, bytes], clock: SimulatedClock) -> None:
    project, whole = bad
    assert agree(project) == 16.0
    restore(project, whole)
    folder, state = project.settings.folder, project.settings.state
    project.close()
    (state / "compute.checkpoint").unlink(missing_ok=True)
    with Project.open(folder, clock=clock) as again:
        assert agree(again) == 16.0
        assert again.dead_letters().replay().published == 3
        assert agree(again) == 32.0


def test_its_events_can_be_given_by_hand(bad: tuple[Project, bytes]) -> None:
    project, _ = bad
    fixed = project.dead_letters().fix("order/0/1", event=[ROWS[0], order("c", amount=10.0), ROWS[2]])
    assert (fixed.state, fixed.mark and fixed.mark.published) == ("fixed", "order/0/5")
    assert agree(project) == 42.0
    assert project.dead_letters().replay().published == 0


def test_it_can_be_dropped(bad: tuple[Project, bytes]) -> None:
    project, _ = bad
    assert project.dead_letters(letters=["order/0/1"]).drop(why="it held a load test") == 1
    assert project.dead_letters().replay().left == 0
    assert [found for found in examine(project.settings.folder, clock=project.parts.clock) if not found.ok] == []
    assert agree(project) == 16.0


def test_bytes_that_the_disk_has_spoilt_are_not_published_though_they_can_be_read(
    shop: Project, clock: SimulatedClock
) -> None:
    folder = shop.settings.folder
    shop.publish("order", [order("a")])
    assert agree(shop) == 5.0
    block = shop.publisher.encode("order", [order("spoilme", amount=7.0)])
    shop.parts.raw.append([Append("order", 0, encode_block(block), 1)])
    shop.close()
    spoil(folder / ".headrace" / "log" / "raw" / "data.mdb", b"spoilme", b"spoilXe")
    with Project.open(folder, clock=clock) as project:
        assert agree(project) == 5.0
        (letter,) = project.dead_letters()
        assert "this offset cannot be read" in letter.reason
        assert "checksum" in letter.reason
        assert project.dead_letters().replay().published == 0
        project.publish("order", [order("c", amount=2.0)])
        assert agree(project) == 7.0
    spoil(folder / ".headrace" / "log" / "raw" / "data.mdb", b"spoilXe", b"spoilme")
    with Project.open(folder, clock=clock) as project:
        assert project.dead_letters().replay().published == 1
        assert agree(project) == 14.0


def test_who_is_erased_is_erased_from_bytes_that_cannot_be_read(shop: Project) -> None:
    """In the log and in the letter; what is left says how many events there were."""
    shop.publish("order", [order("a"), order("b", user="u2", amount=3.0)])
    torn = encode_block(shop.publisher.encode("order", [order("x", user="ann@example.org")]))[:-1]
    other = encode_block(shop.publisher.encode("order", [order("y", user="bob@example.org")]))[:-1]
    shop.parts.raw.append([Append("order", 0, torn, 1), Append("order", 0, other, 1)])
    assert agree(shop) == 5.0
    shop.erase("user", "ann@example.org")
    assert [kept_of(shop.dead_letters().get(f"order/0/{n}").payload.encode()).sent for n in (2, 3)] == [None, other]
    held = b"".join(batch.payload for batch in shop.parts.raw.read("order", 0, 0))
    assert b"ann@example.org" not in held
    assert b"bob@example.org" in held
    (shop.settings.state / "compute.checkpoint").unlink(missing_ok=True)
    assert agree(shop) == 5.0
    assert msgspec.json.decode(shop.dead_letters().get("order/0/2").payload)["events"] == 1


def spoil(file: Path, text: bytes, into: bytes) -> None:
    held = file.read_bytes()
    assert text in held
    file.write_bytes(re.sub(re.escape(text), into, held))
