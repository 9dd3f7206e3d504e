"""The copier against a Kinesis of lists: whatever is split, merged, throttled or cut off, each record comes once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headrace.core.errors import LogError, LogMoved, LogUnreachable, Unreachable
from headrace.core.events import decode_block
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.eventlog.source import Expired, Page, Shard, Throttled
from headrace.features.plan import StreamPlan
from headrace.ingestion.copier import Position, Reached, StreamCopier, position_topic, readable
from headrace.ingestion.publisher import Publisher

SCHEMA = Schema("visit", (Field("user", DType.STRING), Field("n", DType.INT), Field("at", DType.TIMESTAMP)), "at")
PLANS = {"visit": StreamPlan("visit", SCHEMA, partition_key=("user",))}
PAGE = 2


@dataclass
class FakeShard:
    parents: tuple[str, ...]
    keys: frozenset[int]
    records: list[tuple[int, bytes]] = field(default_factory=list)
    open: bool = True


class FakeKinesis:
    """Shards of eight keys; `fail` is raised by the next call instead of an answer."""

    system, pace_s = "kinesis", 0.25

    def __init__(self) -> None:
        self.held = {"s0": FakeShard((), frozenset(range(8)))}
        self.made = "1.5"
        self.number = 0
        self.fail: Exception | None = None

    def put(self, key: int, message: bytes) -> None:
        shard = next(s for s in self.held.values() if s.open and key in s.keys)
        self.number += 1
        shard.records.append((self.number, message))

    def replace(self, parents: Sequence[str], pieces: Sequence[frozenset[int]]) -> None:
        for name in parents:
            self.held[name].open = False
        for keys in pieces:
            self.held[f"s{len(self.held)}"] = FakeShard(tuple(parents), keys)

    def _asked(self) -> None:
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure

    def created(self) -> str:
        return self.made

    def shards(self) -> list[Shard]:
        return [Shard(name, shard.parents) for name, shard in self.held.items()]

    def iterator(self, shard: str, after: str | None) -> str:
        return f"{shard}>{after or 0}"

    def read(self, shard: str, iterator: str) -> Page:
        self._asked()
        name, after = iterator.split(">")
        assert name == shard
        held = self.held[shard]
        page = [record for record in held.records if record[0] > int(after)][:PAGE]
        last = page[-1][0] if page else int(after)
        left = sum(number > last for number, _ in held.records)
        ended = not held.open and not left
        return Page([m for _, m in page], str(last) if page else None, None if ended else f"{shard}>{last}", left)


class FailingLog(MemoryEventLog):
    """A log whose next append fails: before it has done anything, or after it has done all."""

    fails: str = ""

    def append(self, items: Sequence[Append]) -> list[int]:
        fails, self.fails = self.fails, ""
        if fails == "before":
            raise LogUnreachable("away")
        done = super().append(items)
        if fails == "after":
            raise LogUnreachable("the answer was lost")
        return done


class CopierMachine(RuleBasedStateMachine):
    """Two copiers may run at once on one log; `sent` is what was put, by key, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.kinesis = FakeKinesis()
        self.log = FailingLog(SimulatedClock(10))
        self.now = 0.0
        self.sent: dict[int, list[int]] = {}
        self.total = 0
        self.copiers = [self.started(), self.started()]

    def started(self) -> StreamCopier:
        door = Publisher(self.log, PLANS, partitions=2)
        return StreamCopier("visit", self.kinesis, self.log, door, seconds=lambda: self.now)

    @rule(key=st.sampled_from([0, 3, 7]), count=st.integers(1, 8))
    def put(self, key: int, count: int) -> None:
        for _ in range(count):
            self.total += 1
            self.sent.setdefault(key, []).append(self.total)
            self.kinesis.put(key, json.dumps({"user": f"u{key}", "n": self.total, "at": 5}).encode())

    @rule(pick=st.integers(0, 7))
    def split(self, pick: int) -> None:
        wide = [name for name, shard in self.kinesis.held.items() if shard.open and len(shard.keys) > 1]
        if wide:
            name = wide[pick % len(wide)]
            keys = sorted(self.kinesis.held[name].keys)
            self.kinesis.replace([name], [frozenset(keys[: len(keys) // 2]), frozenset(keys[len(keys) // 2 :])])

    @rule()
    def merge(self) -> None:
        still = [name for name, shard in self.kinesis.held.items() if shard.open]
        if len(still) > 1:
            both = still[:2]
            self.kinesis.replace(both, [self.kinesis.held[both[0]].keys | self.kinesis.held[both[1]].keys])

    @rule(pick=st.integers(0, 1), passed=st.sampled_from([40.0, 0.3, 0.0]))
    def step(self, pick: int, passed: float) -> None:
        self.now += passed
        with suppress(LogMoved, Unreachable):
            self.copiers[pick].step()

    @rule(failure=st.sampled_from([Throttled("slow"), Expired(), Unreachable("away")]))
    def next_read_fails(self, failure: Exception) -> None:
        self.kinesis.fail = failure

    @rule(when=st.sampled_from(["before", "after"]))
    def next_append_fails(self, when: str) -> None:
        self.log.fails = when

    @rule(pick=st.integers(0, 1))
    def restart(self, pick: int) -> None:
        self.copiers[pick].close()
        self.copiers[pick] = self.started()

    @invariant()
    def what_is_there_is_a_beginning_of_each_key(self) -> None:
        for key, numbers in copied(self.log).items():
            assert numbers == self.sent[key][: len(numbers)]

    def teardown(self) -> None:
        self.log.fails, self.kinesis.fail = "", None
        for _ in range(400):
            self.now += 40.0
            try:
                self.copiers[0].step()
            except LogMoved:
                continue
            if self.copiers[0].caught_up():
                break
        assert copied(self.log) == self.sent
        for copier in self.copiers:
            copier.close()


def copied(log: MemoryEventLog) -> dict[int, list[int]]:
    """The numbers of each key in the order of the log."""
    found: dict[int, list[int]] = {}
    for partition in range(log.topics().get("visit", 0)):
        for batch in log.read("visit", partition, 0, 10**9):
            columns = decode_block(batch.payload, SCHEMA).columns
            for user, n in zip(columns["user"].to_pylist(), columns["n"].to_pylist(), strict=True):
                found.setdefault(int(user[1:]), []).append(n)
    return found


def test_every_record_comes_once_and_in_the_order_of_its_key() -> None:
    run_state_machine_as_test(CopierMachine, settings=settings(stateful_step_count=30, max_examples=40))


def test_children_wait_for_their_parents() -> None:
    shards = [Shard("a", ()), Shard("b", ()), Shard("c", ("a", "b")), Shard("d", ("gone",)), Shard("e", ("c",))]
    assert readable(shards, {}) == ["a", "b", "d"]
    assert readable(shards, {"a": Reached("7", True)}) == ["b", "d"]
    assert readable(shards, {"a": Reached("7", True), "b": Reached(None, True)}) == ["c", "d"]


@pytest.fixture
def kinesis() -> FakeKinesis:
    return FakeKinesis()


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog(SimulatedClock(10))


def copier_of(kinesis: FakeKinesis, log: MemoryEventLog, *, at_once: bool = True) -> StreamCopier:
    return StreamCopier("visit", kinesis, log, Publisher(log, PLANS), at_once=at_once, seconds=lambda: 0.0)


def test_what_does_not_fit_keeps_its_place_as_a_malformed_row(kinesis: FakeKinesis, log: MemoryEventLog) -> None:
    aggregated = b"\xf3\x89\x9a\xc2 as the producer library packs several"
    for message in (b'{"user":"u1","n":1,"at":5}', aggregated, b"", b"[]", b'{"user":"u1","n":"x","at":5}'):
        kinesis.put(1, message)
    copier = copier_of(kinesis, log)
    for second, found in enumerate((2, 2, 1)):
        copier.seconds = lambda second=second: float(second)  # type: ignore[misc]
        assert copier.step() == found
    assert (copier.totals.copied, copier.totals.malformed) == (5, 4)
    bad = [
        row + batch.base
        for batch in log.read("visit", 0, 0, 99)
        for row in (m.row for m in decode_block(batch.payload, SCHEMA).malformed)
    ]
    assert bad == [1, 2, 3, 4]
    copier.close()


def test_events_and_position_are_one_append(kinesis: FakeKinesis, log: MemoryEventLog) -> None:
    kinesis.put(1, b'{"user":"u1","n":1,"at":5}')
    copier = copier_of(kinesis, log)
    copier.step()
    newest = log.last(position_topic("visit", "kinesis"), 0)
    assert newest is not None
    assert msgspec.msgpack.decode(newest.payload, type=Position) == Position(1, "1.5", {"s0": Reached("1")})
    other = copier_of(kinesis, log)
    kinesis.put(1, b'{"user":"u1","n":2,"at":5}')
    other.step()
    copier.seconds = lambda: 1.0
    with pytest.raises(LogMoved):
        copier.step()
    assert copied(log) == {1: [1, 2]}
    for one in (copier, other):
        one.close()


def test_where_the_log_takes_them_apart_events_come_first(kinesis: FakeKinesis) -> None:
    log = FailingLog(SimulatedClock(10))
    kinesis.put(1, b'{"user":"u1","n":1,"at":5}')
    copier = copier_of(kinesis, log, at_once=False)
    log.fails = "after"  # the events are there, their position is not
    with pytest.raises(LogUnreachable):
        copier.step()
    assert (copied(log), log.end(position_topic("visit", "kinesis"), 0)) == ({1: [1]}, 0)
    copier.step()
    assert copied(log) == {1: [1, 1]}
    copier.close()


def test_a_stream_that_was_made_anew_is_copied_from_its_begin(kinesis: FakeKinesis, log: MemoryEventLog) -> None:
    kinesis.put(1, b'{"user":"u1","n":1,"at":5}')
    copier = copier_of(kinesis, log)
    copier.step()
    copier.close()
    anew = FakeKinesis()
    anew.made = "2.5"
    anew.put(1, b'{"user":"u1","n":9,"at":5}')
    copier = copier_of(anew, log)
    copier.step()
    assert copied(log) == {1: [1, 9]}
    copier.close()


def test_a_shard_that_kinesis_dropped_too_early_is_counted(kinesis: FakeKinesis, log: MemoryEventLog) -> None:
    kinesis.put(1, b'{"user":"u1","n":1,"at":5}')
    copier = copier_of(kinesis, log)
    copier.step()
    kinesis.replace(["s0"], [frozenset(range(8))])
    del kinesis.held["s0"]
    kinesis.put(1, b'{"user":"u1","n":2,"at":5}')
    copier.seconds = lambda: 60.0
    copier.step()
    assert (copied(log), copier.totals.lost_shards) == ({1: [1, 2]}, 1)
    copier.close()


def test_a_topic_of_something_else_is_refused(kinesis: FakeKinesis, log: MemoryEventLog) -> None:
    log.create(position_topic("visit", "kinesis"))
    log.append([Append(position_topic("visit", "kinesis"), 0, b"no position")])
    with pytest.raises(LogError, match="something else"):
        copier_of(kinesis, log).step()
    log.append([Append(position_topic("visit", "kinesis"), 0, msgspec.msgpack.encode(Position(2, "", {})))])
    with pytest.raises(LogError, match="format 2; this version reads format 1"):
        copier_of(kinesis, log).step()
