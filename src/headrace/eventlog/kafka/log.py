"""EventLog in Kafka: record batches in topics that this log alone writes.

One message is one batch (`batches`); an append is one transaction of the log's one writer at a time
(`writer`), so several topics and partitions are written together or not at all, and offsets count records
without gaps. Readers see committed messages only.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from confluent_kafka import TopicPartition

from headrace.core.errors import LogError, LogMoved, LogUnreachable
from headrace.core.time import Clock
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.checks import check_base, check_count, check_name, check_partitions, no_topic
from headrace.eventlog.kafka.batches import APPEND, ARRIVAL, BASE, COUNT, LAST, BatchPartition, SharedProbe, Tail
from headrace.eventlog.kafka.cluster import KafkaAddress, KafkaCluster, kafka_name, own_name
from headrace.eventlog.kafka.groups import GroupOffsets
from headrace.eventlog.kafka.writer import Aborted, Lost, Outgoing, TransactionalWriter

Key = tuple[str, int]

KEPT: Final = {
    # The log's owner trims; nothing else may take away what a reader still needs.
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}
"""What topics of batches must be set to."""
_TOPIC: Final = {
    **KEPT,
    # A commit may be large; less than the 100 MiB of a request that brokers take by default.
    "max.message.bytes": str(90 << 20),
}
_PAUSE_S: Final = 0.02
_TRIES: Final = 200


class KafkaEventLog(EventLog):
    """A log on a Kafka cluster, below a prefix of topic names; any number of processes may use it.

    Appends of several processes take turns: each takes the log over from the last, which costs tens of milliseconds, so
    a log should have few writers that write often. A broker that is away is waited for; then LogError.

    Committed offsets are those of Kafka's consumer groups, whose metadata holds the offset in records; one process
    at a time should commit for a group and partition.

    Args:
        address: where the cluster is; its prefix names the log.
        clock: gives the arrival of each batch.
        patience_s: how long a call waits for a broker that is away.
    """

    def __init__(self, address: KafkaAddress, clock: Clock, *, patience_s: float | None = None) -> None:
        self.address = address
        self._clock = clock
        self._cluster: KafkaCluster | None = KafkaCluster(address, patience_s=patience_s)
        self._probe = SharedProbe(self._cluster)
        self._groups = GroupOffsets(self._cluster)
        self._partitions: dict[Key, BatchPartition] = {}
        self._writer = TransactionalWriter(self._cluster, f"{address.prefix}.writer")
        self._write_lock = threading.RLock()
        self._tails: dict[Key, Tail] = {}
        self._owned = 0

    @property
    def _open(self) -> KafkaCluster:
        if self._cluster is None:
            raise LogError("this event log is closed: open it again")
        return self._cluster

    def create(self, topic: str, partitions: int = 1) -> None:
        cluster = self._open
        existing = self.topics().get(topic)
        check_partitions(topic, partitions, existing)
        if existing is None:
            cluster.create(kafka_name(self.address, topic), partitions, _TOPIC)
            check_partitions(topic, partitions, self.topics().get(topic))

    def topics(self) -> dict[str, int]:
        return {own_name(self.address, name): count for name, count in self._open.partitions().items()}

    def problems(self) -> list[tuple[str, str]]:
        """Settings of topics that would lose something: what was found, and what to do."""
        cluster, names = self._open, [kafka_name(self.address, topic) for topic in self.topics()]
        return [problem for name in names for problem in topic_problems(cluster, name, KEPT)]

    def append(self, items: Sequence[Append]) -> list[int]:
        cluster = self._open
        if not items:
            return []
        for item in items:
            check_count(item.topic, item.partition, item.count)
            self._partition(item.topic, item.partition)
        now = self._clock.now_us()
        name = uuid.uuid4().hex
        started: dict[Key, int] = {}
        with self._write_lock:
            entered = self._owned
            for number in range(_TRIES):
                self._own(tried=bool(started))
                # An earlier try may have come through after all.
                if started and (found := self._landed(items, name, started)):
                    return found
                try:
                    bases, messages, tails = self._planned(items, now, name)
                except LogMoved:
                    if self._owned != entered:
                        raise
                    # Another writer may have gone on without this one having heard of it: only who takes over now
                    # knows where the partitions end.
                    self._writer.close()
                    continue
                # Nothing of this append can stand before these offsets of Kafka.
                started = started or {key: self._partition(*key).known_end for key in tails}
                try:
                    offsets = self._writer.send(messages)
                except (Aborted, Lost):
                    # Whoever has taken over gets time for some appends before it loses the log again.
                    time.sleep(random.uniform(0, _PAUSE_S * 2 ** min(number, 5)))
                    continue
                self._wait_until_seen(messages, offsets, tails)
                self._tails.update(tails)
                return bases
        raise cluster.away("take an append", TimeoutError(f"{_TRIES} tries"))

    def _own(self, *, tried: bool) -> None:
        """Become the log's writer; what is known of ends is void if another was it meanwhile."""
        try:
            self._writer.acquire()
        except LogError as error:
            if tried:
                raise LogUnreachable(
                    f"it is not known whether the append came through; look before you repeat it: {error}"
                ) from None
            raise
        if self._owned != self._writer.takeovers:
            self._owned = self._writer.takeovers
            self._tails.clear()

    def _planned(
        self, items: Sequence[Append], now: int, name: str
    ) -> tuple[list[int], list[Outgoing], dict[Key, Tail]]:
        """Base offsets, the messages, and where the partitions go on after them."""
        tails: dict[Key, Tail] = {}
        bases: list[int] = []
        last = {(item.topic, item.partition): index for index, item in enumerate(items)}
        messages = []
        for index, item in enumerate(items):
            key = (item.topic, item.partition)
            tail = tails.get(key) or self._tails.get(key) or self._partition(*key).tail()
            check_base(*key, item.base, tail.end)
            arrival = max(now, tail.arrival_us)
            tails[key] = Tail(tail.end + item.count, arrival)
            bases.append(tail.end)
            messages.append(
                self._message(key, item.payload, tail.end, item.count, arrival, name, last=last[key] == index)
            )
        return bases, messages, tails

    def _message(
        self, key: Key, payload: bytes, base: int, count: int, arrival_us: int, name: str, *, last: bool
    ) -> Outgoing:
        headers: list[tuple[str, str | bytes | None]] = [
            (BASE, b"%d" % base),
            (COUNT, b"%d" % count),
            (ARRIVAL, b"%d" % arrival_us),
            (APPEND, name.encode()),
        ]
        if last:
            headers.append((LAST, b"1"))
        return Outgoing(kafka_name(self.address, key[0]), key[1], bytes(payload), headers)

    def _landed(self, items: Sequence[Append], name: str, started: dict[Key, int]) -> list[int]:
        """Base offsets of an append if it is in the log after all, else none."""
        of: dict[Key, list[int]] = {}
        for key, start in started.items():
            of[key] = [stored.batch.base for stored in self._partition(*key).appended(name, start)]
        if not any(of.values()):
            return []
        return [of[item.topic, item.partition].pop(0) for item in items]

    def _wait_until_seen(self, messages: Sequence[Outgoing], offsets: Sequence[int], tails: dict[Key, Tail]) -> None:
        """A commit returns before readers see it: wait until they do."""
        ends = {(m.topic, m.partition): at for m, at in zip(messages, offsets, strict=True)}
        for key, tail in tails.items():
            partition = self._partition(*key)
            at = ends[partition.kafka_topic, key[1]]
            deadline = time.monotonic() + self._open.patience_s
            while partition.bounds()[1] <= at and time.monotonic() < deadline:
                time.sleep(0.0005)
            partition.wrote(at, tail)

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        if offset < 0:
            raise LogError(f"offset {offset} of {topic}/{partition} is negative: offsets start at 0")
        return self._partition(topic, partition).read(offset, max_records)

    def begin(self, topic: str, partition: int) -> int:
        return self._partition(topic, partition).begin()

    def end(self, topic: str, partition: int) -> int:
        return self._partition(topic, partition).tail().end

    def last(self, topic: str, partition: int) -> LogBatch | None:
        return self._partition(topic, partition).last()

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        check_name("consumer group", group)
        if offset < 0:
            raise LogError(f"group {group} cannot commit offset {offset} of {topic}/{partition}: offsets start at 0")
        place = self._partition(topic, partition)
        with self._write_lock:
            if offset > self._groups.committed(group).get((place.kafka_topic, partition), -1):
                boundary = place.boundary(offset)
                at = place.bounds()[1] if boundary is None else boundary.at
                self._groups.commit(group, TopicPartition(place.kafka_topic, partition, at, metadata=str(offset)))

    def committed(self, group: str, topic: str, partition: int) -> int:
        _ = self._open
        return self._groups.committed(group).get((kafka_name(self.address, topic), partition), 0)

    def groups(self) -> dict[tuple[str, str, int], int]:
        _ = self._open
        return {(group, own_name(self.address, name), at): n for (group, name, at), n in self._groups.all().items()}

    def trim(self, topic: str, partition: int, before: int) -> int:
        place = self._partition(topic, partition)
        if before <= place.begin():
            return place.begin()
        with self._write_lock:
            boundary = place.boundary(before)
            at = self._mark(place) if boundary is None else boundary.at
            self._open.delete_below(place.kafka_topic, partition, at)
        return place.begin()

    def _mark(self, place: BatchPartition) -> int:
        """Write where an emptied partition goes on; returns Kafka's offset of that."""
        key = (place.topic, place.partition)
        while True:
            self._own(tried=False)
            tail = place.tail()
            message = self._message(key, b"", tail.end, 0, tail.arrival_us, uuid.uuid4().hex, last=True)
            try:
                (at,) = self._writer.send([message])
            except (Aborted, Lost):
                continue
            self._wait_until_seen([message], [at], {key: tail})
            return at

    def sync(self) -> None:
        """Nothing to do: what was appended is on as many brokers as `min.insync.replicas` of the topic says."""
        _ = self._open

    def close(self) -> None:
        if self._cluster is None:
            return
        self._cluster = None
        for partition in self._partitions.values():
            partition.close()
        self._partitions = {}
        self._writer.close()
        self._probe.close()

    def _partition(self, topic: str, partition: int) -> BatchPartition:
        cluster = self._open
        found = self._partitions.get((topic, partition))
        if found is None:
            topics = self.topics()
            if not 0 <= partition < topics.get(topic, 0):
                raise no_topic(topic, partition, topics)
            name = kafka_name(self.address, topic)
            found = BatchPartition(cluster, topic, partition, name, self._probe)
            found = self._partitions.setdefault((topic, partition), found)
        return found


def topic_problems(cluster: KafkaCluster, topic: str, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is set otherwise for a topic than it must be, each with the cure."""
    return [
        (
            f"topic {topic} has {name}={found}",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {name}={wanted[name]}",
        )
        for name, found in cluster.differing(topic, wanted).items()
    ]
