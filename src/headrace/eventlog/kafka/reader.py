"""Reading one partition of a Kafka topic in order, from any offset on."""

from __future__ import annotations

import time
from typing import Any, Final, TypeAlias, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.core.errors import LogError
from headrace.eventlog.kafka.cluster import KafkaCluster

KafkaMessage: TypeAlias = "Message[Any, Any]"

_AT_ONCE: Final = 10_000
_WAIT_S: Final = 0.25


class Deleted(Exception):
    """What was to be read next is not held any more."""


class Damaged(Exception):
    """Bytes of the partition do not fit their checksum, at Kafka offset `at`."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def headers_of(message: KafkaMessage) -> list[tuple[str, bytes]]:
    """The headers of a message as read."""
    return cast("list[tuple[str, bytes]]", message.headers() or [])


class KafkaCursor:
    """Reads a partition forward with a consumer of its own. For one thread at a time.

    Attributes:
        position: the Kafka offset below which nothing more will come: it has come, or there is no message there.
    """

    def __init__(self, cluster: KafkaCluster, topic: str, partition: int, *, wait_ms: int = 100) -> None:
        self._cluster = cluster
        self._topic, self._partition = topic, partition
        self._consumer: Consumer = cluster.consumer(wait_ms=wait_ms)
        self.position = -1
        self._next: Exception | None = None

    def seek(self, offset: int, topic: str = "", partition: int = 0) -> None:
        """Go on at Kafka offset `offset`; of another partition, if `topic` is given."""
        if topic:
            self._topic, self._partition = topic, partition
        self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])
        self.position = offset
        self._next = None

    def fetch(self, stop: int) -> list[KafkaMessage]:
        """The messages that come next, at least one unless there is none below Kafka offset `stop`.

        May go on past `stop`. Raises LogError if the broker does not answer, Deleted and Damaged.
        """
        began = time.monotonic()
        reason: KafkaException | None = None
        while self.position < stop:
            if self._next is not None:
                raise self._next
            first = self._consumer.poll(_WAIT_S)
            good: list[KafkaMessage] = []
            # librdkafka takes bytes behind a damaged batch for a batch and asks for what they say; it tells of that
            # even after another seek.
            astray = False
            for message in () if first is None else (first, *self._consumer.consume(_AT_ONCE, timeout=0)):
                error = message.error()
                if error is None:
                    good.append(message)
                    continue
                code, at = error.code(), message.offset() or 0
                if code == KafkaError._PARTITION_EOF:
                    self.position = max(self.position, at)
                elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    if self.position < self._cluster.bounds(self._consumer, self._topic, self._partition)[0]:
                        self._next = Deleted()
                    else:
                        astray = True
                    break
                elif code == KafkaError._BAD_MSG:
                    self._next = Damaged(at)
                    break
                else:
                    reason = KafkaException(error)
            if good:
                # Not below what the end of the partition has told.
                self.position = max(self.position, (good[-1].offset() or 0) + 1)
            if astray:
                self.seek(self.position)
            if good:
                return good
            if time.monotonic() - began > self._cluster.patience_s:
                raise self._failure(reason)
        return []

    def rest(self) -> None:
        """Read nothing until the next `seek`."""
        self._consumer.unassign()

    def close(self) -> None:
        """End the consumer."""
        self._consumer.close()

    def _failure(self, reason: KafkaException | None) -> LogError:
        what = f"give what {self._topic}/{self._partition} holds from {self.position} on"
        return self._cluster.away(what, reason or KafkaException(KafkaError(KafkaError._TIMED_OUT)))
