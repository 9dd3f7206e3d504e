"""A topic of any Kafka cluster, as it is copied into a raw topic, whoever writes it."""

from __future__ import annotations

import threading
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec

from headrace.core.errors import LogError, NotFound
from headrace.eventlog.kafka.cluster import KafkaCluster, parse_address
from headrace.eventlog.kafka.reader import Damaged, Deleted, KafkaCursor
from headrace.eventlog.source import Expired, Page, Shard

_PATIENCE_S: Final = 3.0
_CALL_S: Final = 5.0


class KafkaTopicSource:
    """`eventlog.source.Source` of the topic at `kafka://[user:password@]host:port[,...]/TOPIC[?option=value]`.

    A shard is a partition, a position the offset of a message. Only committed messages are read. `setting` is what the
    address stands under, for messages.
    """

    system, pace_s = "kafka", 0.05

    def __init__(self, url: str, setting: str) -> None:
        parts = urlsplit(url)
        self.topic = parts.path.strip("/")
        address = parse_address(urlunsplit(parts._replace(path="/headrace")), "copy")
        self._cluster = KafkaCluster(address, patience_s=_PATIENCE_S, setting=setting)
        self._cursors: dict[str, KafkaCursor] = {}
        self._asking: Consumer | None = None
        self._lock = threading.Lock()

    def created(self) -> str:
        """The id that Kafka gave the topic when it was made."""

        def asked() -> str:
            found = self._cluster.admin.describe_topics(TopicCollection([self.topic]), request_timeout=_CALL_S)
            return str(found[self.topic].result(_CALL_S).topic_id)

        self.shards()
        return self._cluster.patient(f"describe topic {self.topic}", asked)

    def shards(self) -> list[Shard]:
        count = self._cluster.partitions([self.topic]).get(self.topic)
        if count is None:
            raise NotFound(
                f"Kafka at {self._cluster.address.servers} has no topic {self.topic}, or hides it from this user"
            )
        return [Shard(str(partition)) for partition in range(count)]

    def iterator(self, shard: str, after: str | None) -> str:
        return str(self._bounds(shard)[0] if after is None else int(after) + 1)

    def read(self, shard: str, iterator: str) -> Page:
        start = int(iterator)
        low, high = self._bounds(shard)
        if start > high:
            raise LogError(
                f"topic {self.topic}/{shard} of Kafka at {self._cluster.address.servers} ends at {high}, before what "
                f"was copied of it ({start}): its servers have lost messages; copy from a topic made anew"
            )
        lost, start = max(low - start, 0), max(low, start)
        if start == high:
            return Page([], None, str(start), 0, lost)
        cursor = self._cursor(shard)
        if cursor.position != start:
            cursor.seek(start, self.topic, int(shard))
        try:
            found = cursor.fetch(high)
        except Deleted:
            cursor.rest()
            cursor.position = -1
            raise Expired from None
        except Damaged as damaged:
            raise LogError(
                f"message {damaged.at} of topic {self.topic}/{shard} is damaged in Kafka at "
                f"{self._cluster.address.servers}: restore it from a replica, or delete the records up to it there"
            ) from None
        if not found:
            return Page([], None, str(cursor.position), 0, lost)
        read_us = found[-1].timestamp()[1]
        behind = 0 if cursor.position >= high else max(self._newest_ms(shard) - read_us, 1)
        # A message without a value (a mark of deletion) is no event: it is told as an empty one.
        return Page(
            [message.value() or b"" for message in found], str(found[-1].offset()), str(cursor.position), behind, lost
        )

    def close(self) -> None:
        """End its clients."""
        with self._lock:
            for cursor in self._cursors.values():
                cursor.close()
            self._cursors.clear()
            if self._asking is not None:
                self._asking.close()
                self._asking = None

    def _cursor(self, shard: str) -> KafkaCursor:
        with self._lock:
            found = self._cursors.get(shard)
            if found is None:
                found = self._cursors[shard] = KafkaCursor(self._cluster, self.topic, int(shard))
            return found

    def _bounds(self, shard: str) -> tuple[int, int]:
        with self._lock:
            if self._asking is None:
                self._asking = self._cluster.consumer()
            asking = self._asking
        return self._cluster.bounds(asking, self.topic, int(shard))

    def _newest_ms(self, shard: str) -> int:
        """The greatest time of a message."""
        at = TopicPartition(self.topic, int(shard))
        try:
            newest = {at: OffsetSpec.max_timestamp()}  # type: ignore[no-untyped-call]
            found = self._cluster.admin.list_offsets(newest, request_timeout=_CALL_S)
            return int(next(iter(found.values())).result(_CALL_S).timestamp)
        except (KafkaException, TimeoutError):
            return 0  # only how far it is behind is not known
