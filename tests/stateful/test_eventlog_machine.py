"""The event logs against a list per partition, under any sequence of calls, reopening included."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headrace.core.errors import LogError, LogMoved
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.kafka.cluster import parse_address
from headrace.eventlog.kafka.log import KafkaEventLog
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.eventlog.memory import MemoryEventLog
from headrace.testing.capabilities import capability
from headrace.testing.eventlog import UnrulyClock
from tests.services import address

_PARTITIONS = [("a", 0), ("a", 1), ("b", 0)]
_ITEM = st.builds(
    lambda at, payload, count: Append(*at, payload, count),
    st.sampled_from(_PARTITIONS),
    st.binary(max_size=40) | st.builds(lambda n: b"long" * n, st.integers(1_000, 3_000)),
    st.integers(1, 4),
)


@dataclass
class Model:
    """What a partition should hold: every batch ever appended, and how many of them were trimmed."""

    batches: list[LogBatch] = field(default_factory=list)
    trimmed: int = 0

    @property
    def held(self) -> list[LogBatch]:
        return self.batches[self.trimmed :]

    @property
    def end(self) -> int:
        return sum(batch.count for batch in self.batches)

    @property
    def begin(self) -> int:
        return self.held[0].base if self.held else self.end


@capability("any sequence of calls, against a model")
class LogMachine(RuleBasedStateMachine):
    """Rules that both adapters obey; `pick` says through which open log object a call goes."""

    port = "EventLog"
    adapter = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.clock = UnrulyClock()
        self.model = {at: Model() for at in _PARTITIONS}
        self.committed: dict[tuple[str, str, int], int] = {}
        self.logs = self.opened()
        self.logs[0].create("a", 2)
        self.logs[-1].create("b")

    def opened(self) -> list[EventLog]:
        return [MemoryEventLog(self.clock)]

    @rule(pick=st.integers(0, 1), items=st.lists(_ITEM, max_size=4), now=st.integers(-1_000, 100_000))
    def append(self, pick: int, items: list[Append], now: int) -> None:
        self.clock.now = now
        bases = self.logs[pick % len(self.logs)].append(items)
        for item, base in zip(items, bases, strict=True):
            model = self.model[item.topic, item.partition]
            assert base == model.end
            arrival = max([now, *(batch.arrival_us for batch in model.batches)])
            model.batches.append(LogBatch(item.topic, item.partition, base, item.count, arrival, item.payload))

    @rule(pick=st.integers(0, 1), item=_ITEM)
    def append_with_a_bad_item(self, pick: int, item: Append) -> None:
        with pytest.raises(LookupError):
            self.logs[pick % len(self.logs)].append([item, Append("none", 0, b"")])

    @rule(pick=st.integers(0, 1), items=st.lists(_ITEM, min_size=1, max_size=3), off=st.sampled_from((-1, 1, 7)))
    def append_where_another_one_has_written(self, pick: int, items: list[Append], off: int) -> None:
        last = items[-1]
        end = self.model[last.topic, last.partition].end
        end += sum(item.count for item in items[:-1] if (item.topic, item.partition) == (last.topic, last.partition))
        with pytest.raises(LogMoved):
            self.logs[pick % len(self.logs)].append([*items[:-1], replace(last, base=end + off)])

    @rule(
        pick=st.integers(0, 1),
        at=st.sampled_from(_PARTITIONS),
        offset=st.integers(0, 60),
        limit=st.integers(0, 12),
    )
    def read(self, pick: int, at: tuple[str, int], offset: int, limit: int) -> None:
        log, model = self.logs[pick % len(self.logs)], self.model[at]
        if offset < model.begin:
            with pytest.raises(LogError, match=f"begins at {model.begin}"):
                log.read(*at, offset, limit)
            return
        expected: list[LogBatch] = []
        for batch in model.held:
            if batch.end > offset and (not expected or sum(b.count for b in expected) < limit):
                expected.append(batch)
        assert log.read(*at, offset, limit) == expected

    @rule(pick=st.integers(0, 1), at=st.sampled_from(_PARTITIONS), before=st.integers(0, 60))
    def trim(self, pick: int, at: tuple[str, int], before: int) -> None:
        model = self.model[at]
        while model.held and model.held[0].end <= before:
            model.trimmed += 1
        assert self.logs[pick % len(self.logs)].trim(*at, before) == model.begin

    @rule(
        pick=st.integers(0, 1),
        at=st.sampled_from(_PARTITIONS),
        group=st.sampled_from(["g", "h"]),
        offset=st.integers(0, 60),
    )
    def commit(self, pick: int, at: tuple[str, int], group: str, offset: int) -> None:
        self.logs[pick % len(self.logs)].commit(group, *at, offset)
        self.committed[group, *at] = max(offset, self.committed.get((group, *at), 0))

    @invariant()
    def every_log_object_shows_the_same_ends_and_groups(self) -> None:
        for log in self.logs:
            assert log.topics() == {"a": 2, "b": 1}
            assert log.groups() == self.committed
            for at, model in self.model.items():
                assert [log.begin(*at), log.end(*at)] == [model.begin, model.end]
                assert log.last(*at) == (model.held[-1] if model.held else None)

    def teardown(self) -> None:
        for log in self.logs:
            log.close()


class LmdbLogMachine(LogMachine):
    """Two log objects on one folder, closed and opened again at any moment."""

    adapter = "LMDB"

    def opened(self) -> list[EventLog]:
        self.place = Path(tempfile.mkdtemp(prefix="headrace-log-"))
        return [LmdbEventLog(self.place, self.clock, sync=False) for _ in range(2)]

    @rule(pick=st.integers(0, 1))
    def reopen_one(self, pick: int) -> None:
        self.logs[pick].close()
        self.logs[pick] = LmdbEventLog(self.place, self.clock, sync=False)

    @rule()
    def reopen_all(self) -> None:
        for log in self.logs:
            log.close()
        self.logs = [LmdbEventLog(self.place, self.clock, sync=False) for _ in range(2)]

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.place)


class KafkaLogMachine(LogMachine):
    """Two log objects on one prefix of a broker, which take the log over from each other at every other append."""

    adapter = "Kafka"

    def opened(self) -> list[EventLog]:
        self.address = parse_address(f"{address('kafka')}/machine-{uuid.uuid4().hex}", "test")
        return [KafkaEventLog(self.address, self.clock) for _ in range(2)]

    @rule(pick=st.integers(0, 1))
    def reopen_one(self, pick: int) -> None:
        self.logs[pick].close()
        self.logs[pick] = KafkaEventLog(self.address, self.clock)


@pytest.mark.kafka
def test_a_log_on_kafka_behaves_like_lists() -> None:
    address("kafka")  # where there is none this test says so, not the machine
    steps = settings(stateful_step_count=15, max_examples=5, deadline=None)
    run_state_machine_as_test(KafkaLogMachine, settings=steps)


@pytest.mark.parametrize("machine", [LogMachine, LmdbLogMachine], ids=["memory", "lmdb"])
def test_a_log_behaves_like_lists(machine: type[LogMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=25))
