"""A step up to a time applies what was appended until then, although more is in the log already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from headrace.aggregations.table_records import decode_rows
from headrace.core.columns import Column
from headrace.core.errors import StoreMoved
from headrace.core.events import encode_block
from headrace.core.keys import entity_encoder, record_key
from headrace.core.positions import decode_position
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import SimulatedClock
from headrace.engines.stream.commits import TABLES
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import KeyPart, ProjectPlan, StreamPlan, TablePlan
from headrace.ingestion.materialize import OnlineIngest
from headrace.stores.online.base import Change
from headrace.stores.online.memory import MemoryOnlineStore

FIELDS = (Field("id", DType.STRING), Field("at", DType.TIMESTAMP))
STREAM = StreamPlan("paid", Schema("paid", FIELDS, "at", "id"))
PLACE = Field("place", DType.STRING)
TABLE = TablePlan(
    name="weather",
    version="00000000000000bb",
    schema=Schema("weather", (PLACE, Field("hour", DType.TIMESTAMP), Field("wind", DType.FLOAT)), "hour"),
    key=(KeyPart("place", DType.STRING, "place"),),
    query=None,
    on=None,
    schedule=None,
    ttl_us=None,
    delay_us=0,
    checks=(),
)
PROJECT = ProjectPlan({"paid": STREAM}, {}, {"weather": TABLE}, {}, {})
KEY = record_key(entity_encoder([DType.STRING])(("jfk",)), TABLE.version)


class World:
    """A feature log that is filled ahead of the ingestion under test."""

    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock(0)
        self.raw = MemoryEventLog(self.clock)
        self.raw.create("paid")
        self.features = MemoryEventLog(self.clock)
        self.store = MemoryOnlineStore()
        self.compute = ComputeWorker(PROJECT, self.raw, self.features, folder / "checkpoint")
        self.ingest = OnlineIngest(PROJECT, self.features, self.store)

    def event(self, at: int) -> None:
        self.clock.advance_to(at)
        block = encode_block(encode_rows(STREAM.schema, [{"id": f"e{at}", "at": at}]))
        self.raw.append([Append("paid", 0, block)])
        self.compute.step()

    def rows(self, at: int, n: int = 1) -> None:
        self.clock.advance_to(at)
        times = np.arange(at, at + n)
        column = Column(DType.FLOAT, np.full(n, float(at)))
        batch = TableRows(
            "weather", TABLE.version, n, [("jfk",)] * n, times, times, {"wind": column}, np.zeros(n, np.bool_)
        )
        self.features.append([Append(TABLES, 0, encode_table_rows(batch), n)])

    def applied(self) -> tuple[int, list[float]]:
        """Events applied and, per row in the table's record, the time of its writing."""
        record = self.store.read([KEY])[0][0]
        rows = decode_rows(record, 1)
        return sum(self.ingest.position.streams.get("paid", [0])), [row.event_time_us for row in rows]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_table_rows_wait_for_their_time_as_commits_do(world: World) -> None:
    for at in (10, 30, 50):
        world.event(at)
        world.rows(at + 5)
    seen = []
    for until in (5, 10, 15, 34, 35, 49, 60):
        world.ingest.step(until_us=until)
        seen.append(world.applied())
    assert seen == [
        (0, []),
        (1, []),
        (1, [15]),
        (2, [15]),
        (2, [15, 35]),
        (2, [15, 35]),
        (3, [15, 35, 55]),
    ]
    assert world.ingest.step() == 0


def test_rows_appended_after_the_last_look_are_found_when_the_commits_are_used_up(world: World) -> None:
    world.event(10)
    world.event(20)
    assert world.ingest.step(until_us=10) == 1
    world.rows(25)
    assert world.ingest.step(until_us=30) == 2
    assert world.applied() == (2, [25])
    world.rows(40)
    assert world.ingest.step(until_us=40) == 1, "rows come in without commits too"
    assert world.applied() == (2, [25, 40])


def test_more_rows_than_a_step_applies_come_with_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryOnlineStore, "at_once", 3)
    for at in (10, 20, 30, 40):
        world.rows(at, 2)
    assert [world.ingest.step() for _ in range(3)] == [2, 2, 0]
    assert world.applied()[1] == [10, 11, 20, 21, 30, 31, 40, 41]


def test_a_large_batch_is_written_in_pieces_and_what_a_failure_leaves_of_it_is_brought_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryOnlineStore, "at_once", 3)
    world.event(10)
    world.rows(20, 8)
    update, tables = world.store.update, []

    def failing(keys: Sequence[bytes], change: Change) -> None:
        update(keys, change)
        tables.append(decode_position(world.store.position()).tables)
        if len(tables) == 2:
            raise ZeroDivisionError

    monkeypatch.setattr(world.store, "update", failing)
    with pytest.raises(ZeroDivisionError):
        world.ingest.step()
    world.ingest = OnlineIngest(PROJECT, world.features, world.store)
    assert (world.ingest.step(), world.ingest.step()) == (1, 0)
    assert (tables[:2], tables[-1]) == ([3, 6], 8)
    assert world.applied() == (1, list(range(20, 28)))


def test_a_store_that_stands_elsewhere_is_not_written_and_a_new_worker_goes_on_from_there(world: World) -> None:
    world.event(10)
    world.rows(15)
    world.ingest.step()
    world.event(20)
    other = OnlineIngest(PROJECT, world.features, world.store)
    assert other.step() == 1
    written = list(world.store.scan()), world.store.position()
    with pytest.raises(StoreMoved, match="going on from where it stands"):
        world.ingest.step()
    assert (list(world.store.scan()), world.store.position()) == written
    # A server that has lost its last writes: the same is brought again.
    world.store.write([(KEY, None)], b"")
    world.rows(30)
    with pytest.raises(StoreMoved):
        other.step()
    world.ingest = OnlineIngest(PROJECT, world.features, world.store)
    while world.ingest.step():
        pass
    assert world.applied() == (2, [15, 30])


def test_compute_leaves_events_that_were_appended_later_for_a_later_step(tmp_path: Path) -> None:
    """Stepping through events that lie in the log already gives the commits of taking turns with their arrival."""
    taken_in_turns = World(tmp_path / "turns")
    for at in (10, 20, 20, 40):
        taken_in_turns.event(at)
    world = World(tmp_path / "ahead")
    for at in (10, 20, 20, 40):
        world.clock.advance_to(at)
        block = encode_block(encode_rows(STREAM.schema, [{"id": f"e{at}", "at": at}]))
        world.raw.append([Append("paid", 0, block)])
    assert [world.compute.step(until_us=until) for until in (9, 10, 19, 20, 39, 50, 60)] == [0, 1, 0, 2, 0, 1, 0]
    assert world.compute.positions == taken_in_turns.compute.positions == {"paid": [4]}
    assert world.compute.counted == taken_in_turns.compute.counted == 3
