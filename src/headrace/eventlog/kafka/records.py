"""Raw topics in Kafka: one message is one event, and its offset is Kafka's.

So any tool can read them, and write JSON into them beside Headrace. Many messages are handed out as one record batch
(`core.messages`). Offsets at which no message stands (marks of other tools' transactions, what they took back, what
compaction left out) are handed out as batches of nothing: readers go on counting.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from headrace.core.errors import LogError, LogUnreachable
from headrace.core.messages import encode_messages, encode_nothing, messages_of
from headrace.core.time import NULL_US
from headrace.eventlog.base import Append, LogBatch
from headrace.eventlog.checks import below_begin
from headrace.eventlog.kafka.batches import SharedProbe
from headrace.eventlog.kafka.cluster import KafkaCluster
from headrace.eventlog.kafka.reader import Damaged, Deleted, KafkaCursor, KafkaMessage, headers_of
from headrace.eventlog.kafka.writer import TOO_LARGE

OURS: Final = "headrace"
MALFORMED: Final = "headrace-malformed"

_CURSORS: Final = 2
_CALL_S: Final = 5.0
_POLL_S: Final = 0.005
_DELIVERY_MS: Final = 30_000
_HEADERS: Final[list[tuple[str, str | bytes | None]]] = [(OURS, b"1")]


class RecordWriter:
    """Writes events as messages, each once and in order. Thread-safe."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._made: Producer | None = None

    def append(self, items: Sequence[tuple[str, Append, Sequence[str]]]) -> list[int]:
        """Write items (with their Kafka topics and the names of their key fields) and return each first offset.

        When this returns all is on the brokers in sync. LogError: it is not known of every event that it is there.
        """
        encoded = [(topic, item, *messages_of(item.payload, key)) for topic, item, key in items]
        for _, item, messages, _, _ in encoded:
            if len(messages) != item.count:
                raise LogError(f"a block for {item.topic} holds {len(messages)} events, not {item.count}")
        report = _Report()
        bases = []
        with self._lock:  # so that what is appended together stands together, as far as it is up to this process
            if self._made is None:
                self._made = self._cluster.producer(linger_ms=2, message_timeout_ms=_DELIVERY_MS, batch_size=1_000_000)
            producer = self._made
            for topic, item, messages, keys, bad in encoded:
                first = _First(report)
                bases.append(first)
                self._produce(producer, topic, item.partition, messages, keys, bad, first, report)
        self._wait(producer, report, sum(len(messages) for _, _, messages, _, _ in encoded))
        return [first.offset for first in bases]

    def close(self) -> None:
        """End the producer."""
        self._made = None

    def _produce(
        self,
        producer: Producer,
        topic: str,
        partition: int,
        messages: Sequence[bytes],
        keys: Sequence[bytes | None],
        bad: dict[int, list[str]],
        first: _First,
        report: _Report,
    ) -> None:
        done: Callable[[KafkaError | None, KafkaMessage], None] = first
        for row, message in enumerate(messages):
            headers = _HEADERS
            if row in bad:
                headers = [*_HEADERS, (MALFORMED, json.dumps(bad[row]).encode())]
            while True:
                try:
                    producer.produce(topic, message, keys[row], partition, done, headers=headers)
                    break
                except BufferError:  # the queue is full: wait for some to leave
                    producer.poll(0.1)
                except KafkaException as error:
                    report.failures.append(error.args[0])
                    break
            done = report

    def _wait(self, producer: Producer, report: _Report, total: int) -> None:
        # Several threads wait at once, and each hears of the messages of all.
        reason = ""
        try:
            while len(report.delivered) + len(report.failures) < total:
                producer.poll(_POLL_S)
        except (KafkaException, SystemError) as error:  # a fatal error of the client, or one that met a callback
            reason = str(error.__cause__ or error)
        if report.failures or reason:
            self._made = None  # a producer that has lost a message may not keep the order of the next ones
            confirmed = f"Kafka at {self._cluster.address.servers} confirmed {len(report.delivered)} of {total} events"
            worst = next((failure for failure in report.failures if failure.code() in TOO_LARGE), None)
            if worst is not None:
                raise LogError(f"{confirmed}: {worst.str()}; send less in one event, or raise the topic's limit")
            raise LogUnreachable(
                f"{confirmed}: {reason or report.failures[0].str()}; publish all of them again with the same ids: what "
                f"came through the first time is a duplicate then"
            )


class _Report:
    """The messages of an append that were delivered, and what failed; told from any thread, so by appending alone."""

    def __init__(self) -> None:
        self.delivered: list[None] = []
        self.failures: list[KafkaError] = []

    def __call__(self, error: KafkaError | None, message: KafkaMessage) -> None:
        if error is None:
            self.delivered.append(None)
        else:
            self.failures.append(error)


class _First:
    """Takes the delivery of the first message of a batch: its offset is the batch's."""

    def __init__(self, report: _Report) -> None:
        self._report = report
        self.offset = -1

    def __call__(self, error: KafkaError | None, message: KafkaMessage) -> None:
        if error is None:
            self.offset = message.offset() or 0
        self._report(error, message)


@dataclass(slots=True)
class _Reader:
    """A cursor, what it has read but not handed out, the offset that comes next and the last arrival."""

    cursor: KafkaCursor
    pending: deque[KafkaMessage]
    next: int = -1
    arrival_us: int = NULL_US


class RecordPartition:
    """One partition of single events, as a reader sees it. Thread-safe.

    Arrival is the time that the broker has given the message, or the greatest before it, should its clock go back.
    """

    def __init__(self, cluster: KafkaCluster, topic: str, partition: int, kafka_topic: str, probe: SharedProbe) -> None:
        self.topic, self.partition, self.kafka_topic = topic, partition, kafka_topic
        self._cluster = cluster
        self._probe = probe
        self._lock = threading.RLock()
        self._readers: list[_Reader] = []

    def bounds(self) -> tuple[int, int]:
        """First offset held, and the one after the last that a reader may see."""
        return self._cluster.bounds(self._probe.consumer, self.kafka_topic, self.partition)

    def last(self) -> LogBatch | None:
        """A batch of the newest record."""
        low, high = self.bounds()
        return self.read(high - 1, 1)[-1] if high > low else None

    def read(self, offset: int, max_records: int) -> list[LogBatch]:
        """See `EventLog.read`; the first batch begins at `offset`."""
        with self._lock:
            low, high = self.bounds()
            if offset >= high:
                return []
            if offset < low:
                raise below_begin(self.topic, self.partition, offset, low)
            reader = next((reader for reader in self._readers if reader.next == offset), None)
            if reader is None:
                reader = self._opened(offset, high)
            try:
                return self._read(reader, max(max_records, 1), high)
            except Deleted:
                self.close()
                raise below_begin(self.topic, self.partition, reader.next, self.bounds()[0]) from None
            except Damaged:
                self.close()
                raise LogError(
                    f"the record at offset {reader.next} of {self.topic}/{self.partition} is damaged (checksum "
                    f"differs): restore the partition from a replica, or go on behind it"
                ) from None

    def close(self) -> None:
        """Close the consumers."""
        with self._lock:
            for reader in self._readers:
                reader.cursor.close()
            self._readers = []

    def _opened(self, offset: int, high: int) -> _Reader:
        if len(self._readers) < _CURSORS:
            reader = _Reader(KafkaCursor(self._cluster, self.kafka_topic, self.partition), deque())
        else:
            reader = self._readers.pop(0)  # the one that was opened or moved first
            reader.pending.clear()
        self._readers.append(reader)
        reader.cursor.seek(offset)
        reader.next = offset
        reader.arrival_us = NULL_US
        reader.pending.extend(reader.cursor.fetch(high))
        if reader.pending:
            reader.arrival_us = self._arrival_before(reader.pending[0])
        return reader

    def _read(self, reader: _Reader, wanted: int, high: int) -> list[LogBatch]:
        found: list[LogBatch] = []
        stop = reader.next + wanted
        while reader.next < stop:
            if not reader.pending:
                if reader.cursor.position >= high:
                    # Nothing stands between the last message and the end.
                    end = min(stop, high)
                    if reader.next < end:
                        found.append(self._nothing(reader, end))
                    break
                reader.pending.extend(reader.cursor.fetch(high))
                continue
            at = reader.pending[0].offset() or 0
            if at > reader.next:
                found.append(self._nothing(reader, min(at, stop)))
                continue
            found.append(self._records(reader, stop))
        return found

    def _nothing(self, reader: _Reader, end: int) -> LogBatch:
        begin, reader.next = reader.next, end
        n = end - begin
        return LogBatch(self.topic, self.partition, begin, n, reader.arrival_us, encode_nothing(n))

    def _records(self, reader: _Reader, stop: int) -> LogBatch:
        """The next messages that have one arrival, one origin and no gap between them."""
        pending, begin = reader.pending, reader.next
        arrival = max(reader.arrival_us, _stamp(pending[0]))
        trusted = _is_ours(headers_of(pending[0]))
        messages: list[bytes | None] = []
        bad: list[tuple[int, str, str]] = []
        at = begin
        while pending and at < stop:
            message = pending[0]
            headers = headers_of(message)
            if message.offset() != at or _stamp(message) > arrival or _is_ours(headers) != trusted:
                break
            if trusted and len(headers) > 1:
                field, reason = json.loads(dict(headers)[MALFORMED])
                bad.append((at - begin, field, reason))
            messages.append(message.value())
            pending.popleft()
            at += 1
        reader.next, reader.arrival_us = at, arrival
        payload = encode_messages(messages, trusted=trusted, bad=bad)
        return LogBatch(self.topic, self.partition, begin, at - begin, arrival, payload)

    def _arrival_before(self, message: KafkaMessage) -> int:
        """The greatest arrival of what is held before a message, if it is greater than that of the message."""
        at, stamp, found = message.offset() or 0, message.timestamp()[1], NULL_US
        while True:
            start = self._first_at(stamp + 1)
            if not 0 <= start < at:
                return found
            with self._probe.lock:
                later = next(self._first_from(start, at), None)
            if later is None or later.timestamp()[1] <= stamp:
                return found
            stamp = later.timestamp()[1]
            found = stamp * 1_000

    def _first_at(self, stamp: int) -> int:
        """The first offset with at least this time in ms, negative if there is none."""
        asked = TopicPartition(self.kafka_topic, self.partition, stamp)
        answers: list[TopicPartition] = self._cluster.patient(
            "look a time up", lambda: self._probe.consumer.offsets_for_times([asked], timeout=_CALL_S)
        )
        return answers[0].offset

    def _first_from(self, start: int, stop: int) -> Iterator[KafkaMessage]:
        for messages in self._probe.fetched(self.kafka_topic, self.partition, start, stop):
            yield from messages


def _stamp(message: KafkaMessage) -> int:
    """The time of a message, µs."""
    return message.timestamp()[1] * 1_000


def _is_ours(headers: list[tuple[str, bytes]]) -> bool:
    return any(name == OURS for name, _ in headers)
