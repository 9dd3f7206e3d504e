"""A replay that is cut off at any append, or amid one: whoever looks next finds each letter published once or open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from headrace.core.errors import Busy, LogError
from headrace.core.events import decode_block
from headrace.core.messages import encode_messages
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.engines.stream.commits import DEAD_LETTERS, DeadLetter, encode_dead_letters
from headrace.engines.stream.letters import Chosen
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import StreamPlan
from headrace.ingestion.letters import ACTIONS, MENDS, DeadLetters, _mended
from headrace.ingestion.publisher import Publisher

START = 1_700_000_000_000_000
SCHEMA = Schema("tick", (Field("n", DType.INT), Field("at", DType.TIMESTAMP)), "at")
STREAMS = {"tick": StreamPlan("tick", SCHEMA, partition_key=("n",))}
COUNT = 10


class CutLog(MemoryEventLog):
    """Fails at the append number `cut` after having put the first `kept` of its batches."""

    cut, kept = -1, 0

    def append(self, items: Sequence[Append]) -> list[int]:
        self.cut -= 1
        if self.cut == 0:
            if self.kept:
                super().append(items[: self.kept])
            raise LogError("cut off")
        return super().append(items)


@pytest.fixture
def logs() -> tuple[CutLog, MemoryEventLog]:
    """A log of raw events, and a feature log with ten dead letters that fit by now."""
    clock = SimulatedClock(START)
    raw, features = CutLog(clock), MemoryEventLog(clock)
    raw.create("tick", 3)
    features.create(DEAD_LETTERS)
    sent = [
        DeadLetter("tick", 0, n, "n", "expected", START, json.dumps({"n": n, "at": START}).encode())
        for n in range(COUNT)
    ]
    features.append([Append(DEAD_LETTERS, 0, encode_dead_letters(sent), COUNT)])
    return raw, features


def letters(logs: tuple[CutLog, MemoryEventLog], lock: Any = nullcontext) -> DeadLetters:
    """As a process that has just started sees them."""
    raw, features = logs
    clock = SimulatedClock(START)
    return DeadLetters(features, raw, Publisher(raw, STREAMS, partitions=3), STREAMS, clock, lock, at_once=4)


def published(logs: tuple[CutLog, MemoryEventLog]) -> list[int]:
    raw, _ = logs
    found = []
    for partition in range(3):
        for batch in raw.read("tick", partition, 0, 1_000):
            found += decode_block(batch.payload, SCHEMA).columns["n"].to_pylist()
    return sorted(found)


@pytest.mark.parametrize("kept", [0, 1, 2, 99])
@pytest.mark.parametrize("cut", range(1, 10))
def test_a_replay_cut_off_anywhere_loses_nothing_and_doubles_nothing(
    logs: tuple[CutLog, MemoryEventLog], cut: int, kept: int
) -> None:
    raw, _ = logs
    raw.cut, raw.kept = cut, kept
    with pytest.raises(LogError, match="cut off"):
        letters(logs).replay(who="me")
    there = published(logs)
    seen = letters(logs)
    assert {one.offset for one in seen.find(limit=99).letters} == set(range(COUNT)) - set(there)
    assert {one.offset for one in seen.find(Chosen(state="replayed"), limit=99).letters} == set(there)
    assert seen.count() == (COUNT, COUNT - len(there))
    for n in there:
        mark = seen.get(f"tick/0/{n}").mark
        assert mark is not None
        assert mark.published is not None
    # It is settled for good: who comes later reads the record, not the stream.
    settled = raw.end(ACTIONS, 0)
    letters(logs).find()
    assert raw.end(ACTIONS, 0) == settled
    assert letters(logs).replay(who="me").published == COUNT - len(there)
    assert published(logs) == list(range(COUNT))
    assert letters(logs).replay(who="me").published == 0
    assert published(logs) == list(range(COUNT))


def test_two_cuts_one_after_the_other(logs: tuple[CutLog, MemoryEventLog]) -> None:
    raw, _ = logs
    for cut, kept in ((2, 1), (3, 1), (1, 0), (2, 99)):
        raw.cut, raw.kept = cut, kept
        with pytest.raises(LogError, match="cut off"):
            letters(logs).replay(who="me")
    letters(logs).replay(who="me")
    assert published(logs) == list(range(COUNT))


def test_who_looks_while_another_is_at_it_leaves_that_alone(logs: tuple[CutLog, MemoryEventLog]) -> None:
    @contextmanager
    def held() -> Any:
        raise Busy("somebody is at it")
        yield

    raw, _ = logs
    raw.cut, raw.kept = 3, 0
    with pytest.raises(LogError):
        letters(logs).replay(who="me")
    before = raw.end(ACTIONS, 0)
    assert letters(logs, held).find().total == COUNT
    assert raw.end(ACTIONS, 0) == before
    with pytest.raises(Busy):
        letters(logs, held).replay(who="me")


def test_the_letter_is_named_where_events_are_single_messages_too() -> None:
    ours = [b'{"n":1,"at":5}', b'{"n":2,"at":5,"_mends":"tick/0/7"}']
    assert _mended(Append("tick", 0, encode_messages(ours, trusted=True, bad=[]), 2)) == [None, "tick/0/7"]
    assert decode_block(encode_messages(ours, trusted=True, bad=[]), SCHEMA).columns["n"].to_pylist() == [1, 2]
    # What other tools write cannot claim to mend a letter.
    assert _mended(Append("tick", 0, encode_messages(ours, trusted=False, bad=[]), 2)) == [None, None]
    assert MENDS == "_mends"
