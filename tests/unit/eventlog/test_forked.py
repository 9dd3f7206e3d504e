"""A forked topic against a plain list of its batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from headrace.core.errors import LogError, LogMoved
from headrace.core.time import SimulatedClock
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.forked import ForkedLog, Segment
from headrace.eventlog.memory import MemoryEventLog


@pytest.fixture
def plain() -> EventLog:
    log = MemoryEventLog(SimulatedClock(7))
    for topic in ("a", "b", "c", "other"):
        log.create(topic)
    return log


def fill(log: EventLog, topic: str, counts: list[int]) -> None:
    for number, count in enumerate(counts):
        log.append([Append(topic, 0, f"{topic}{number}".encode(), count)])


@pytest.fixture
def forked(plain: EventLog) -> ForkedLog:
    """Offsets 0 to 4 lie in `a`, 5 to 7 at 2 to 4 of `b`, and from 8 on at 1 of `c`."""
    fill(plain, "a", [1, 3, 1, 2, 2])
    fill(plain, "b", [2, 1, 2, 4])
    fill(plain, "c", [1, 2, 1])
    return ForkedLog(plain, "a", [Segment(0, "a"), Segment(5, "b", 2), Segment(8, "c", 1)])


EXPECTED = [(0, 1, b"a0"), (1, 3, b"a1"), (4, 1, b"a2"), (5, 1, b"b1"), (6, 2, b"b2"), (8, 2, b"c1"), (10, 1, b"c2")]


def told(batches: list[LogBatch]) -> list[tuple[int, int, bytes]]:
    assert {batch.topic for batch in batches} <= {"a"}
    assert all(a.end == b.base for a, b in pairwise(batches))
    return [(batch.base, batch.count, batch.payload) for batch in batches]


def test_it_is_read_as_one_topic_from_every_offset(forked: ForkedLog) -> None:
    assert (forked.begin("a", 0), forked.end("a", 0)) == (0, 11)
    for offset in range(12):
        rest = [batch for batch in EXPECTED if batch[0] + batch[1] > offset]
        assert told(forked.read("a", 0, offset)) == rest
        for most in range(1, 12):
            few = []
            for batch in rest:
                if sum(n for _, n, _ in few) < most:
                    few.append(batch)
            assert told(forked.read("a", 0, offset, most)) == few
    assert told([last for last in [forked.last("a", 0)] if last]) == EXPECTED[-1:]
    assert forked.topics() == {"a": 1, "b": 1, "c": 1, "other": 1}


def test_the_last_batch_may_lie_before_the_fork(plain: EventLog) -> None:
    fill(plain, "a", [1, 3])
    forked = ForkedLog(plain, "a", [Segment(0, "a"), Segment(4, "b")])
    assert (forked.end("a", 0), forked.last("a", 0)) == (4, plain.last("a", 0))
    assert ForkedLog(plain, "a", [Segment(0, "c")]).last("a", 0) is None


def test_it_is_appended_to_its_own_end_together_with_other_topics(forked: ForkedLog, plain: EventLog) -> None:
    ends = [plain.end(topic, 0) for topic in ("a", "b")]
    items = [Append("a", 0, b"new", 2, base=11), Append("other", 0, b"letter"), Append("a", 0, b"newer", base=13)]
    assert forked.append(items) == [11, 0, 13]
    assert told(forked.read("a", 0, 11)) == [(11, 2, b"new"), (13, 1, b"newer")]
    assert [plain.end(topic, 0) for topic in ("a", "b", "c", "other")] == [*ends, 7, 1]
    with pytest.raises(LogMoved):
        forked.append([Append("a", 0, b"x", base=13)])
    assert forked.append([Append("other", 0, b"letter")]) == [1]


def test_readers_of_either_fork_commit_the_same_offsets(forked: ForkedLog, plain: EventLog) -> None:
    forked.commit("g", "a", 0, 9)
    forked.commit("g", "other", 0, 3)
    assert plain.committed("g", "a", 0) == forked.committed("g", "a", 0) == 9
    assert forked.groups() == {("g", "a", 0): 9, ("g", "other", 0): 3} == plain.groups()


def test_trimming_drops_what_lies_below_in_each_segment(forked: ForkedLog, plain: EventLog) -> None:
    assert forked.trim("a", 0, 4) == 4
    assert forked.begin("a", 0) == 4
    assert told(forked.read("a", 0, 4)) == EXPECTED[2:]
    assert forked.trim("a", 0, 7) == 6  # a batch stays whole
    assert told(forked.read("a", 0, 6)) == EXPECTED[4:]
    assert plain.end("a", 0) == 9
    assert forked.trim("a", 0, 11) == 11
    assert forked.last("a", 0) is None
    assert forked.trim("other", 0, 0) == 0


def test_segments_that_do_not_follow_one_another_are_refused(plain: EventLog) -> None:
    for segments in ([], [Segment(3, "a"), Segment(3, "b")], [Segment(3, "a"), Segment(1, "b")]):
        with pytest.raises(LogError, match="cannot be read"):
            ForkedLog(plain, "a", segments)


def test_what_it_gives_is_a_batch_of_the_topic_that_was_asked_for(forked: ForkedLog, plain: EventLog) -> None:
    assert forked.read("a", 0, 8)[0] == replace(plain.read("c", 0, 1)[0], topic="a", base=8)
