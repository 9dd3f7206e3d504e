"""How record batches lie in a Kafka partition, and reading them.

One message is one batch: its value the payload, its headers what Kafka does not say. Offsets of the log count records,
Kafka's count messages and the marks of transactions, so every message carries the offset of its first record. The
messages of a partition are written in one transaction at a time (`writer`); where a transaction ends in the
partition the header `last` stands, and the offset after that message is its mark.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from confluent_kafka import Consumer

from headrace.core.errors import LogError
from headrace.core.time import NULL_US
from headrace.eventlog.base import LogBatch
from headrace.eventlog.checks import below_begin
from headrace.eventlog.kafka.cluster import KafkaCluster
from headrace.eventlog.kafka.reader import Damaged, Deleted, KafkaCursor, KafkaMessage, headers_of

BASE: Final = "headrace-offset"
COUNT: Final = "headrace-records"
ARRIVAL: Final = "headrace-arrival-us"
APPEND: Final = "headrace-append"
LAST: Final = "headrace-last"

_CURSORS: Final = 3
_HINTS: Final = 4_096
_SCAN: Final = 32
_LOOKS: Final = 20
T = TypeVar("T")
"""So many messages are read through rather than searched."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as read: its Kafka offset, and the batch in it. A batch of no records marks where a partition goes on
    after everything in it was trimmed."""

    at: int
    batch: LogBatch
    append: str
    last: bool

    @property
    def after(self) -> int:
        """Kafka offset of the next message, or of what stands before it."""
        return self.at + 2 if self.last else self.at + 1


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a partition goes on: the next offset, the last arrival."""

    end: int
    arrival_us: int


class _Reader:
    """A cursor and what it has read but not handed out; `next` is the offset that comes next."""

    def __init__(self, cursor: KafkaCursor) -> None:
        self.cursor = cursor
        self.pending: deque[Stored] = deque()
        self.next = -1


class BatchPartition:
    """One partition that holds record batches, as a reader sees it. Thread-safe."""

    def __init__(self, cluster: KafkaCluster, topic: str, partition: int, kafka_topic: str, probe: SharedProbe) -> None:
        self.topic, self.partition, self.kafka_topic = topic, partition, kafka_topic
        self._cluster = cluster
        self._probe = probe
        self._lock = threading.RLock()
        self._readers: list[_Reader] = []
        # (offset, Kafka offset) of some batches, ascending: where a search may start.
        self._hints: list[tuple[int, int]] = []
        self._newest: tuple[int, Tail] = (-1, Tail(0, NULL_US))
        self._oldest: tuple[int, int, int] = (-1, -1, 0)

    def bounds(self) -> tuple[int, int]:
        """Kafka's begin and end of the partition."""
        return self._cluster.bounds(self._probe.consumer, self.kafka_topic, self.partition)

    @property
    def known_end(self) -> int:
        """Kafka's end of the partition when it was last looked at by `tail`, or after this process's last append."""
        return self._newest[0]

    def tail(self) -> Tail:
        """Where the partition goes on now."""
        with self._lock:
            return self._looked(self._tail)

    def begin(self) -> int:
        """First offset held; where the partition goes on if none is."""
        with self._lock:
            return self._looked(self._begin)

    def last(self) -> LogBatch | None:
        """The newest batch."""
        with self._lock:
            found = self._looked(lambda low, high: self._back_from(high, low, marks=False))
            return None if found is None else found.batch

    def _looked(self, look: Callable[[int, int], T]) -> T:
        """What a look between Kafka's begin and end finds, though another process may drop what it looks at."""
        for _ in range(_LOOKS):
            with suppress(Deleted):
                return look(*self.bounds())
        raise LogError(f"{self.topic}/{self.partition} is trimmed faster than it can be looked at: trim less often")

    def read(self, offset: int, max_records: int) -> list[LogBatch]:
        """See `EventLog.read`."""
        with self._lock:
            try:
                return self._read(offset, max_records)
            except Deleted:  # while we read
                self._readers_closed()
                return self._read(offset, max_records)

    def boundary(self, offset: int) -> Stored | None:
        """The batch that holds `offset`; None at or past the end. Below the begin: the first that is held."""
        with self._lock:
            low, high = self.bounds()
            if offset >= self._tail(low, high).end:
                return None
            return self._locate(max(offset, self._begin(low, high)), low, high)

    def appended(self, append: str, start: int) -> list[Stored]:
        """The batches from Kafka offset `start` on that one append has written."""
        low, high = self.bounds()
        return [found for found in self._between(max(start, low), high) if found.append == append]

    def wrote(self, at: int, tail: Tail) -> None:
        """Take note that this process's own append ended with the message at Kafka offset `at`."""
        with self._lock:
            self._newest = (at + 2, tail)

    def close(self) -> None:
        """Close the consumers."""
        with self._lock:
            self._readers_closed()

    def _readers_closed(self) -> None:
        for reader in self._readers:
            reader.cursor.close()
        self._readers = []

    def _read(self, offset: int, max_records: int) -> list[LogBatch]:
        low, high = self.bounds()
        reader = next((reader for reader in self._readers if reader.next == offset), None)
        if reader is None or (reader.pending and reader.pending[0].at < low):
            if offset >= self._tail(low, high).end:
                return []
            begin = self._begin(low, high)
            if offset < begin:
                raise below_begin(self.topic, self.partition, offset, begin)
            reader = self._opened(offset, low, high)
        found: list[LogBatch] = []
        while not found or max_records > 0:
            while reader.pending and (not found or max_records > 0):
                stored = reader.pending.popleft()
                found.append(stored.batch)
                max_records -= stored.batch.count
                reader.next = stored.batch.end
            if (found and max_records <= 0) or reader.cursor.position >= high:
                break
            self._fill(reader, high)
        return found

    def _fill(self, reader: _Reader, high: int) -> None:
        try:
            messages = reader.cursor.fetch(high)
        except Damaged:
            offset = reader.pending[-1].batch.end if reader.pending else reader.next
            self._readers_closed()
            raise self._damaged(offset) from None
        for message in messages:
            stored = self._decoded(message)
            if stored.batch.count:
                reader.pending.append(stored)
                self._hint(stored)
            reader.cursor.position = max(reader.cursor.position, stored.after)

    def _opened(self, offset: int, low: int, high: int) -> _Reader:
        """A reader that stands before the batch that holds `offset`."""
        start = self._locate(offset, low, high)
        if len(self._readers) < _CURSORS:
            reader = _Reader(KafkaCursor(self._cluster, self.kafka_topic, self.partition))
        else:
            reader = self._readers.pop(0)  # the one that was opened or moved first
            reader.pending.clear()
        self._readers.append(reader)
        reader.cursor.seek(start.at)
        reader.next = start.batch.base
        return reader

    def _locate(self, offset: int, low: int, high: int) -> Stored:
        """The batch that holds `offset`, which is held: searched by halving, since offsets grow with Kafka's."""
        at = bisect_right(self._hints, (offset, 2**63))
        left = max(self._hints[at - 1][1] if at else low, low)
        right = min(self._hints[at][1] if at < len(self._hints) else high, high)
        while right - left > _SCAN:
            middle = (left + right) // 2
            found = self._first_of(middle, right)
            if found is None or found.batch.base > offset:
                right = middle
            elif found.batch.end > offset:
                return found
            else:
                left = found.at
        for found in self._between(left, high):
            if found.batch.base <= offset < found.batch.end:
                return found
            if found.batch.base > offset:
                break
        raise self._damaged(offset)

    def _tail(self, low: int, high: int) -> Tail:
        if self._newest[0] != high:
            found = self._back_from(high, low, marks=True)
            tail = Tail(0, NULL_US) if found is None else Tail(found.batch.end, found.batch.arrival_us)
            self._newest = (high, tail)
        return self._newest[1]

    def _begin(self, low: int, high: int) -> int:
        # An empty partition may get its first batch, so the end counts as well until there is one.
        known_low, known_high, begin = self._oldest
        if known_low != low or (known_high >= 0 and known_high != high):
            found = self._first_of(low, high)
            self._oldest = (low, high if found is None else -1, 0 if found is None else found.batch.base)
            begin = self._oldest[2]
        return begin

    def _first_of(self, start: int, stop: int) -> Stored | None:
        """The first message at Kafka offset `start` or after, below `stop`."""
        with self._probe.lock:
            for messages in self._probe.fetched(self.kafka_topic, self.partition, start, stop):
                for message in messages:
                    return self._decoded(message)
        return None

    def _back_from(self, high: int, low: int, *, marks: bool) -> Stored | None:
        """The last message below Kafka offset `high`; `marks`: also one that holds no batch."""
        stop, step = high, 2
        while stop > low:
            start = max(low, stop - step)
            found = [stored for stored in self._between(start, stop) if marks or stored.batch.count]
            if found:
                return found[-1]
            stop, step = start, 4 * step
        return None

    def _between(self, start: int, stop: int) -> list[Stored]:
        """All messages at Kafka offsets `start` to `stop` (exclusive)."""
        found: list[Stored] = []
        with self._probe.lock:
            cursor = self._probe.cursor
            for messages in self._probe.fetched(self.kafka_topic, self.partition, start, stop):
                for message in messages:
                    stored = self._decoded(message)
                    cursor.position = max(cursor.position, stored.after)
                    if stored.at < stop:
                        found.append(stored)
        return found

    def _decoded(self, message: KafkaMessage) -> Stored:
        headers = dict(headers_of(message))
        at = message.offset() or 0
        try:
            batch = LogBatch(
                self.topic,
                self.partition,
                int(headers[BASE]),
                int(headers[COUNT]),
                int(headers[ARRIVAL]),
                message.value() or b"",
            )
            return Stored(at, batch, headers[APPEND].decode(), LAST in headers)
        except (KeyError, ValueError):
            raise LogError(
                f"the message at Kafka offset {at} of {self.kafka_topic}/{self.partition} was not written by Headrace: "
                f"let nothing else write there, and delete the topic if it is to be made anew"
            ) from None

    def _hint(self, stored: Stored) -> None:
        hint = (stored.batch.base, stored.at)
        if not self._hints or hint > self._hints[-1]:
            self._hints.append(hint)
        else:
            at = bisect_right(self._hints, hint)
            if not at or self._hints[at - 1] != hint:
                insort(self._hints, hint)
        if len(self._hints) > _HINTS:
            del self._hints[1:-1:2]

    def _damaged(self, offset: int) -> LogError:
        return LogError(
            f"the batch at offset {offset} of {self.topic}/{self.partition} is damaged (checksum differs): "
            f"restore the partition from a replica, or go on behind it and rebuild what it held"
        )


class SharedProbe:
    """A cursor for short looks at any partition, shared by all partitions of a log; hold `lock` while one looks."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self.cluster = cluster
        self.lock = threading.RLock()
        self.consumer: Consumer = cluster.consumer()
        # It must not wait long where nothing more is to come.
        self.cursor = KafkaCursor(cluster, "", 0, wait_ms=5)

    def fetched(self, topic: str, partition: int, start: int, stop: int) -> Iterator[list[KafkaMessage]]:
        """Messages from Kafka offset `start` on until `stop` is reached."""
        if start >= stop:
            return
        self.cursor.seek(start, topic, partition)
        try:
            while self.cursor.position < stop:
                try:
                    yield self.cursor.fetch(stop)
                except Damaged as error:  # whoever reads it will say so; a search goes round it
                    self.cursor.seek(error.at + 1)
        finally:
            self.cursor.rest()

    def close(self) -> None:
        """Close both consumers."""
        self.consumer.close()
        self.cursor.close()
