"""EventLog in the memory of one process: the model that the others are held against."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from headrace.core.errors import LogError
from headrace.core.time import NULL_US, Clock
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.checks import below_begin, check_base, check_count, check_name, check_partitions, no_topic


@dataclass(slots=True)
class _Partition:
    batches: list[LogBatch] = field(default_factory=list)
    end: int = 0
    arrival_us: int = NULL_US

    def begin(self) -> int:
        return self.batches[0].base if self.batches else self.end


class MemoryEventLog(EventLog):
    """Batches in lists; gone with the process.

    Args:
        clock: gives the arrival of each batch.
    """

    editable = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._topics: dict[str, list[_Partition]] | None = {}
        self._committed: dict[tuple[str, str, int], int] = {}
        self._lock = threading.RLock()

    def _held(self) -> dict[str, list[_Partition]]:
        if self._topics is None:
            raise LogError("this event log is closed: make a new one")
        return self._topics

    def _partition(self, topic: str, partition: int) -> _Partition:
        held = self._held().get(topic, [])
        if not 0 <= partition < len(held):
            raise no_topic(topic, partition, self.topics())
        return held[partition]

    def create(self, topic: str, partitions: int = 1) -> None:
        with self._lock:
            existing = self._held().get(topic)
            check_partitions(topic, partitions, None if existing is None else len(existing))
            self._held().setdefault(topic, [_Partition() for _ in range(partitions)])

    def topics(self) -> dict[str, int]:
        with self._lock:
            return {topic: len(partitions) for topic, partitions in sorted(self._held().items())}

    def append(self, items: Sequence[Append]) -> list[int]:
        now = self._clock.now_us()
        with self._lock:
            ends: dict[tuple[str, int], int] = {}
            for item in items:
                check_count(item.topic, item.partition, item.count)
                key = (item.topic, item.partition)
                base = ends.get(key, self._partition(*key).end)
                check_base(*key, item.base, base)
                ends[key] = base + item.count
            return [self._add(item, now) for item in items]

    def _add(self, item: Append, now: int) -> int:
        held = self._partition(item.topic, item.partition)
        base, held.arrival_us = held.end, max(now, held.arrival_us)
        held.batches.append(
            LogBatch(item.topic, item.partition, base, item.count, held.arrival_us, bytes(item.payload))
        )
        held.end += item.count
        return base

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        with self._lock:
            held = self._partition(topic, partition)
            if offset < held.begin():
                raise below_begin(topic, partition, offset, held.begin())
            if offset >= held.end:
                return []
            first = last = bisect_right(held.batches, offset, key=lambda batch: batch.base) - 1
            while max_records > 0 and last < len(held.batches):
                max_records -= held.batches[last].count
                last += 1
            return held.batches[first : max(last, first + 1)]

    def begin(self, topic: str, partition: int) -> int:
        with self._lock:
            return self._partition(topic, partition).begin()

    def end(self, topic: str, partition: int) -> int:
        with self._lock:
            return self._partition(topic, partition).end

    def last(self, topic: str, partition: int) -> LogBatch | None:
        with self._lock:
            batches = self._partition(topic, partition).batches
            return batches[-1] if batches else None

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        check_name("consumer group", group)
        with self._lock:
            self._partition(topic, partition)
            key = (group, topic, partition)
            if offset < 0:
                raise LogError(
                    f"group {group} cannot commit offset {offset} of {topic}/{partition}: offsets start at 0"
                )
            self._committed[key] = max(offset, self._committed.get(key, 0))

    def committed(self, group: str, topic: str, partition: int) -> int:
        with self._lock:
            self._held()
            return self._committed.get((group, topic, partition), 0)

    def groups(self) -> dict[tuple[str, str, int], int]:
        with self._lock:
            self._held()
            return dict(self._committed)

    def trim(self, topic: str, partition: int, before: int) -> int:
        with self._lock:
            held = self._partition(topic, partition)
            held.batches = [batch for batch in held.batches if batch.end > before]
            return held.begin()

    def rewrite(self, topic: str, partition: int, change: Callable[[LogBatch], bytes | None]) -> int:
        with self._lock:
            held, found = self._partition(topic, partition), 0
            for index, batch in enumerate(held.batches):
                payload = change(batch)
                if payload is not None:
                    held.batches[index] = replace(batch, payload=bytes(payload))
                    found += 1
            return found

    def sync(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self._topics = None
