"""A topic that goes on from another one: what two writers make of the same input, each at the same offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from headrace.core.errors import LogError
from headrace.eventlog.base import Append, EventLog, LogBatch


class Segment(msgspec.Struct, frozen=True):
    """A stretch of a forked topic, up to where the next one begins.

    Attributes:
        begin: the first offset of the forked topic that lies in it.
        topic: the topic of the log that holds it.
        base: the offset that `begin` has there.
    """

    begin: int
    topic: str
    base: int = 0


class ForkedLog(EventLog):
    """A log, one topic of which is read from the given segments and appended to the last of them.

    The segments are of topics of one partition; a batch lies in one of them. Offsets that consumer groups commit are
    those of the forked topic, whichever fork of it they read, so that who reads another fork goes on from them.
    """

    def __init__(self, log: EventLog, topic: str, segments: Sequence[Segment]) -> None:
        self._log, self._topic, self._segments = log, topic, tuple(segments)
        begins = [segment.begin for segment in self._segments]
        if not begins or begins != sorted(set(begins)):
            raise LogError(f"topic {topic} cannot be read from {list(segments)}: each begins behind the former one")
        self._own = self._segments[-1]
        self.editable = log.editable

    def create(self, topic: str, partitions: int = 1) -> None:
        self._log.create(self._own.topic if topic == self._topic else topic, partitions)

    def topics(self) -> dict[str, int]:
        found = self._log.topics()
        own = found.get(self._own.topic)
        return {**{name: n for name, n in found.items() if name != self._topic}, **({self._topic: own} if own else {})}

    def append(self, items: Sequence[Append]) -> list[int]:
        own = self._own
        bases = self._log.append([self._inward(item) if item.topic == self._topic else item for item in items])
        return [
            base - own.base + own.begin if item.topic == self._topic else base
            for item, base in zip(items, bases, strict=True)
        ]

    def _inward(self, item: Append) -> Append:
        own = self._own
        return replace(item, topic=own.topic, base=None if item.base is None else item.base - own.begin + own.base)

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        if topic != self._topic:
            return self._log.read(topic, partition, offset, max_records)
        found: list[LogBatch] = []
        left = max_records
        for segment, end in self._stretches():
            if (end is not None and offset >= end) or (found and left <= 0):
                continue
            at = offset - segment.begin + segment.base
            for batch in self._log.read(segment.topic, partition, at, left):
                base = batch.base - segment.base + segment.begin
                if end is not None and base >= end:
                    break
                found.append(replace(batch, topic=topic, base=base))
            if not found or found[-1].end <= offset:
                break  # the next segment begins behind a gap, which only an end leaves
            left = max_records - sum(batch.count for batch in found)
            offset = found[-1].end
            if end is None or offset < end:
                break
        return found

    def _stretches(self) -> list[tuple[Segment, int | None]]:
        ends: list[int | None] = [*[segment.begin for segment in self._segments[1:]], None]
        return list(zip(self._segments, ends, strict=True))

    def begin(self, topic: str, partition: int) -> int:
        if topic != self._topic:
            return self._log.begin(topic, partition)
        for segment, end in self._stretches():
            begin = max(self._log.begin(segment.topic, partition) - segment.base, 0) + segment.begin
            if end is None or begin < end:
                return begin
        raise AssertionError("the last segment has no end")

    def end(self, topic: str, partition: int) -> int:
        if topic != self._topic:
            return self._log.end(topic, partition)
        return self._log.end(self._own.topic, partition) - self._own.base + self._own.begin

    def last(self, topic: str, partition: int) -> LogBatch | None:
        if topic != self._topic:
            return self._log.last(topic, partition)
        end = self.end(topic, partition)
        if end <= self.begin(topic, partition):
            return None
        return self.read(topic, partition, end - 1, 1)[-1]

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        self._log.commit(group, self._segments[0].topic if topic == self._topic else topic, partition, offset)

    def committed(self, group: str, topic: str, partition: int) -> int:
        return self._log.committed(group, self._segments[0].topic if topic == self._topic else topic, partition)

    def groups(self) -> dict[tuple[str, str, int], int]:
        first = self._segments[0].topic
        return {
            (group, self._topic if topic == first else topic, partition): offset
            for (group, topic, partition), offset in self._log.groups().items()
        }

    def trim(self, topic: str, partition: int, before: int) -> int:
        if topic != self._topic:
            return self._log.trim(topic, partition, before)
        for segment, end in self._stretches():
            below = before if end is None else min(before, end)
            if below > segment.begin:
                self._log.trim(segment.topic, partition, below - segment.begin + segment.base)
        return self.begin(topic, partition)

    def rewrite(self, topic: str, partition: int, change: Callable[[LogBatch], bytes | None]) -> int:
        if topic != self._topic:
            return self._log.rewrite(topic, partition, change)
        found = 0
        for segment, end in self._stretches():

            def outward(batch: LogBatch, segment: Segment = segment, end: int | None = end) -> bytes | None:
                base = batch.base - segment.base + segment.begin
                if base < segment.begin or (end is not None and base >= end):
                    return None  # of the side that this one was forked from
                return change(replace(batch, topic=topic, base=base))

            found += self._log.rewrite(segment.topic, partition, outward)
        return found

    def wipe(self) -> None:
        self._log.wipe()

    def sync(self) -> None:
        self._log.sync()

    def close(self) -> None:
        self._log.close()
