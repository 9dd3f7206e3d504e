"""A step that fails halfway leaves nothing half done: stepping again gives what it would have given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace.core.events import encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.engines.stream.commits import WINDOWS, decode_commit
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec, KeyPart, ProjectPlan, StreamPlan
from headrace.ingestion.materialize import OnlineIngest
from headrace.stores.online.base import Change
from headrace.stores.online.memory import MemoryOnlineStore

FIELDS = (Field("id", DType.STRING), Field("user", DType.STRING), Field("x", DType.FLOAT), Field("at", DType.TIMESTAMP))
STREAM = StreamPlan("paid", Schema("paid", FIELDS, "at", "id"))
GROUP = GroupPlan(
    name="spend",
    version="00000000000000aa",
    stream="paid",
    where=None,
    key=(KeyPart("user", DType.STRING, "user"),),
    inputs=(InputSpec(ColumnRef("x", DType.FLOAT), DType.FLOAT),),
    aggregates=(AggregateSpec("total", "sum", 0, None, None, 1, 0, DType.FLOAT),),
    derived=(),
    order=("total",),
)
PROJECT = ProjectPlan({"paid": STREAM}, {"spend": GROUP}, {}, {}, {})


class FullDisk(Exception):
    pass


class FailingLog(MemoryEventLog):
    """Refuses appends while `full`."""

    full = False

    def append(self, items: Sequence[Append]) -> list[int]:
        if self.full:
            raise FullDisk
        return super().append(items)


class FailingStore(MemoryOnlineStore):
    """Refuses writes while `full`."""

    full = False

    def update(self, keys: Sequence[bytes], change: Change) -> None:
        if self.full:
            raise FullDisk
        super().update(keys, change)


def publish(raw: MemoryEventLog, number: int) -> None:
    rows = [{"id": f"e{number}", "user": "ann", "x": 1.0, "at": 1_000_000 * number}]
    raw.append([Append("paid", 0, encode_block(encode_rows(STREAM.schema, rows)))])


@pytest.fixture
def raw() -> MemoryEventLog:
    log = MemoryEventLog(SimulatedClock(10**9))
    log.create("paid")
    return log


def test_compute_does_not_take_the_events_of_a_failed_step_for_duplicates(raw: MemoryEventLog, tmp_path: Path) -> None:
    features = FailingLog(SimulatedClock(10**9))
    worker = ComputeWorker(PROJECT, raw, features, tmp_path / "checkpoint")
    publish(raw, 1)
    worker.step()
    publish(raw, 2)
    features.full = True
    with pytest.raises(FullDisk):
        worker.step()
    features.full = False
    assert worker.step() == 1
    last = features.last(WINDOWS, 0)
    assert last is not None
    commit = decode_commit(last.payload)
    assert commit.streams["paid"].exceptions == []
    assert commit.groups[GROUP.version].counts == [1]
    assert worker.counted == 2


def test_ingestion_applies_the_commits_of_a_failed_step_again(raw: MemoryEventLog, tmp_path: Path) -> None:
    features = MemoryEventLog(SimulatedClock(10**9))
    worker, store, model = ComputeWorker(PROJECT, raw, features, tmp_path / "c"), FailingStore(), MemoryOnlineStore()
    ingest = OnlineIngest(PROJECT, features, store)
    for number in range(1, 4):
        publish(raw, number)
        worker.step()
    before = ingest.position
    store.full = True
    with pytest.raises(FullDisk):
        ingest.step(2)
    assert ingest.position == before
    store.full = False
    assert ingest.step() == 3
    OnlineIngest(PROJECT, features, model).step()
    assert list(store.scan()) == list(model.scan())
    assert store.position() == model.position()
