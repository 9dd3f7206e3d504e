"""The raw log in Kafka: topics of streams hold single events (`records`), all others record batches."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Final

from confluent_kafka import TopicPartition

from headrace.core.errors import LogError
from headrace.core.time import Clock
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.checks import check_count, check_name, check_partitions, no_topic
from headrace.eventlog.kafka.batches import SharedProbe
from headrace.eventlog.kafka.cluster import KafkaAddress, KafkaCluster, kafka_name, own_name
from headrace.eventlog.kafka.groups import GroupOffsets
from headrace.eventlog.kafka.log import KEPT, KafkaEventLog, topic_problems
from headrace.eventlog.kafka.records import RecordPartition, RecordWriter

_EVENTS: Final = {
    # What counts as arrival is the log's clock, not that of whoever writes.
    "message.timestamp.type": "LogAppendTime",
    "cleanup.policy": "delete",
}
"""What topics of events should be set to."""
_TOPIC: Final = {
    **_EVENTS,
    # Kafka does not know what is archived: the project's own retention drops what is.
    "retention.ms": "-1",
}


class KafkaRawLog(EventLog):
    """A log whose topics of events any tool can read and write: JSON objects, one per message.

    It differs from other logs where events are single messages: an append takes blocks of events (`core.events`), its
    events may stand apart from each other, and if the process dies or the broker is lost meanwhile a part of them may
    have come through, so publishing again relies on ids; the broker gives the arrival, in ms; reading may begin
    anywhere in a batch. All topics are kept until the project's retention trims them.

    Args:
        address: where the cluster is; its prefix names the log.
        clock: gives the arrival of record batches.
        records: the topics of single events, each with the fields whose values make the message's key.
        names: what topics are called in Kafka, where not by the prefix and their own name.
        patience_s: how long a call waits for a broker that is away.
    """

    def __init__(
        self,
        address: KafkaAddress,
        clock: Clock,
        records: Mapping[str, Sequence[str]],
        names: Mapping[str, str] | None = None,
        *,
        patience_s: float | None = None,
    ) -> None:
        self.address = address
        self._records = dict(records)
        self._names = dict(names or {})
        self._batches = KafkaEventLog(address, clock, patience_s=patience_s)
        self._cluster: KafkaCluster | None = KafkaCluster(address, patience_s=patience_s)
        self._probe = SharedProbe(self._cluster)
        self._groups = GroupOffsets(self._cluster)
        self._writer = RecordWriter(self._cluster)
        self._partitions: dict[tuple[str, int], RecordPartition] = {}
        self._lock = threading.Lock()

    @property
    def _open(self) -> KafkaCluster:
        if self._cluster is None:
            raise LogError("this event log is closed: open it again")
        return self._cluster

    def create(self, topic: str, partitions: int = 1) -> None:
        if topic not in self._records:
            return self._batches.create(topic, partitions)
        existing = self.topics().get(topic)
        check_partitions(topic, partitions, existing)
        if existing is None:
            self._open.create(self._kafka_name(topic), partitions, _TOPIC)
            check_partitions(topic, partitions, self.topics().get(topic))
        return None

    def topics(self) -> dict[str, int]:
        there = self._batches.topics()
        if self._names:
            foreign = self._open.partitions(self._names.values())
            there |= {topic: foreign[name] for topic, name in self._names.items() if name in foreign}
        return dict(sorted(there.items()))

    def problems(self) -> list[tuple[str, str]]:
        """Settings of topics that would lose something: what was found, and what to do."""
        cluster = self._open
        return [
            problem
            for topic in self.topics()
            for problem in topic_problems(cluster, self._kafka_name(topic), _EVENTS if topic in self._records else KEPT)
        ]

    def append(self, items: Sequence[Append]) -> list[int]:
        _ = self._open
        single = {item.topic in self._records for item in items}
        if single != {True}:
            if len(single) > 1:
                raise LogError("events and record batches cannot be appended to a raw log at once: append them apart")
            return self._batches.append(items)
        for item in items:
            check_count(item.topic, item.partition, item.count)
            self._partition(item.topic, item.partition)
            if item.base is not None:
                raise LogError(f"{item.topic} has many writers: an event there cannot demand offset {item.base}")
        named = [(self._kafka_name(item.topic), item, self._records[item.topic]) for item in items]
        return self._writer.append(named)

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        if topic not in self._records:
            return self._batches.read(topic, partition, offset, max_records)
        if offset < 0:
            raise LogError(f"offset {offset} of {topic}/{partition} is negative: offsets start at 0")
        return self._partition(topic, partition).read(offset, max_records)

    def begin(self, topic: str, partition: int) -> int:
        if topic not in self._records:
            return self._batches.begin(topic, partition)
        return self._partition(topic, partition).bounds()[0]

    def end(self, topic: str, partition: int) -> int:
        if topic not in self._records:
            return self._batches.end(topic, partition)
        return self._partition(topic, partition).bounds()[1]

    def last(self, topic: str, partition: int) -> LogBatch | None:
        if topic not in self._records:
            return self._batches.last(topic, partition)
        return self._partition(topic, partition).last()

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        if topic not in self._records:
            return self._batches.commit(group, topic, partition, offset)
        check_name("consumer group", group)
        if offset < 0:
            raise LogError(f"group {group} cannot commit offset {offset} of {topic}/{partition}: offsets start at 0")
        place = self._partition(topic, partition)
        with self._lock:
            if offset > self._groups.committed(group).get((place.kafka_topic, partition), -1):
                self._groups.commit(group, TopicPartition(place.kafka_topic, partition, offset, metadata=str(offset)))
        return None

    def committed(self, group: str, topic: str, partition: int) -> int:
        _ = self._open
        return self._groups.committed(group).get((self._kafka_name(topic), partition), 0)

    def groups(self) -> dict[tuple[str, str, int], int]:
        _ = self._open
        own = {name: topic for topic, name in self._names.items()}
        return {
            (group, own.get(name) or own_name(self.address, name), at): offset
            for (group, name, at), offset in self._groups.all().items()
        }

    def trim(self, topic: str, partition: int, before: int) -> int:
        if topic not in self._records:
            return self._batches.trim(topic, partition, before)
        place = self._partition(topic, partition)
        low, high = place.bounds()
        if before > low:
            self._open.delete_below(place.kafka_topic, partition, min(before, high))
        return place.bounds()[0]

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
        self._batches.close()

    def _kafka_name(self, topic: str) -> str:
        return self._names.get(topic) or kafka_name(self.address, topic)

    def _partition(self, topic: str, partition: int) -> RecordPartition:
        cluster = self._open
        found = self._partitions.get((topic, partition))
        if found is None:
            topics = self.topics()
            if not 0 <= partition < topics.get(topic, 0):
                raise no_topic(topic, partition, topics)
            found = RecordPartition(cluster, topic, partition, self._kafka_name(topic), self._probe)
            found = self._partitions.setdefault((topic, partition), found)
        return found
