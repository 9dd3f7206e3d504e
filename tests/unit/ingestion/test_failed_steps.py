"""A step that fails halfway leaves nothing half done: stepping again gives what it would have given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace.core.errors import LogError, LogUnreachable
from headrace.core.events import encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.engines.stream.checkpoints import checkpoint_positions
from headrace.engines.stream.commits import WINDOWS, decode_commit
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append, LogBatch
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


class SilentLog(MemoryEventLog):
    """Does not answer the `silent`-th read from now on."""

    silent = -1

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        self.silent -= 1
        if self.silent == 0:
            raise LogUnreachable("it does not answer")
        return super().read(topic, partition, offset, max_records)


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


def test_ingestion_forgets_nothing_that_it_had_taken_when_a_read_failed(raw: MemoryEventLog, tmp_path: Path) -> None:
    features = SilentLog(SimulatedClock(10**9))
    worker = ComputeWorker(PROJECT, raw, features, tmp_path / "c")
    store, model = MemoryOnlineStore(), MemoryOnlineStore()
    ingest = OnlineIngest(PROJECT, features, store)
    for number in range(1, 4):
        publish(raw, number)
        worker.step()
    features.silent = 2  # the one that would say that there is no fourth commit
    with pytest.raises(LogUnreachable):
        ingest.step()
    assert ingest.step() == 3
    OnlineIngest(PROJECT, features, model).step()
    assert list(store.scan()) == list(model.scan())


def test_a_checkpoint_is_not_saved_of_events_that_are_not_computed(raw: MemoryEventLog, tmp_path: Path) -> None:
    features = FailingLog(SimulatedClock(10**9))
    worker = ComputeWorker(PROJECT, raw, features, tmp_path / "checkpoint")
    publish(raw, 1)
    worker.step()
    worker.checkpoint()
    publish(raw, 2)
    features.full = True
    with pytest.raises(FullDisk):
        worker.step()
    worker.checkpoint()  # as a layer does when it is stopped
    features.full = False
    again = ComputeWorker(PROJECT, raw, features, tmp_path / "checkpoint")
    assert again.step() == 1
    last = features.last(WINDOWS, 0)
    assert last is not None
    assert decode_commit(last.payload).streams["paid"].exceptions == []


def test_a_damaged_checkpoint_is_done_without_only_while_the_log_is_whole(raw: MemoryEventLog, tmp_path: Path) -> None:
    features, file = MemoryEventLog(SimulatedClock(10**9)), tmp_path / "checkpoint"
    worker = ComputeWorker(PROJECT, raw, features, file)
    for number in (1, 2):
        publish(raw, number)
        worker.step()
    worker.checkpoint()
    file.write_bytes(file.read_bytes()[:-3])
    again = ComputeWorker(PROJECT, raw, features, file)
    publish(raw, 2)
    assert again.step() == 1
    assert again.counted == 0, "it is known to have counted before"
    raw.trim("paid", 0, 1)
    with pytest.raises(LogError, match=f"the checkpoint {file} is damaged .*: delete it"):
        ComputeWorker(PROJECT, raw, features, file)
    with pytest.raises(LogError, match="is damaged"):
        checkpoint_positions(file, features, shared=False)
    file.unlink()
    assert ComputeWorker(PROJECT, raw, features, file).step() == 0
