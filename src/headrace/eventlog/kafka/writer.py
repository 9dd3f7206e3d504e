"""Transactions of one writer at a time.

All writers of a log share one transactional id. Whoever takes it over ends what the former had under way (Kafka aborts
it, or completes it if its commit was already on its way) and from then on the former is refused: so the owner knows
where every partition ends, as if it held a lock, and a dead owner holds up nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer

from headrace.core.errors import LogError
from headrace.eventlog.kafka.cluster import KafkaCluster
from headrace.eventlog.kafka.reader import KafkaMessage

_CALL_S: Final = 5.0
_TRANSACTION_MS: Final = 20_000
TOO_LARGE: Final = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be written."""

    topic: str
    partition: int
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


class Lost(Exception):
    """The transaction may have been committed or not: another writer has taken over, or the broker does not answer."""


class Aborted(Exception):
    """The transaction was not committed, but may be tried again."""


class TransactionalWriter:
    """Writes messages in transactions; for one thread at a time.

    Attributes:
        takeovers: how often this object has become the owner; what was known of the ends of partitions is void then.
    """

    def __init__(self, cluster: KafkaCluster, transactional_id: str) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self._producer: Producer | None = None
        self.takeovers = 0

    def acquire(self) -> None:
        """Become the owner, unless this object was and has not been told otherwise."""
        if self._producer is not None:
            return
        producer = self._cluster.producer(
            transactional_id=self._id, transaction_timeout_ms=_TRANSACTION_MS, message_timeout_ms=_TRANSACTION_MS
        )
        # Over a connection that is up the coordinator is found at once; else librdkafka tries again in half a second.
        self._cluster.patient("tell its brokers", lambda: producer.list_topics(timeout=_CALL_S))
        self._cluster.patient("hand over its transactions", lambda: producer.init_transactions(_CALL_S))
        self._producer = producer
        self.takeovers += 1

    def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Write the messages, all or none, and return their Kafka offsets; `acquire` first.

        Raises Lost, Aborted, and LogError if the broker will never take them; nothing was written then.
        """
        producer = self._producer
        assert producer is not None
        offsets = [-1] * len(messages)
        failures: list[KafkaError] = []

        def reporter(index: int) -> Callable[[KafkaError | None, KafkaMessage], None]:
            def report(error: KafkaError | None, message: KafkaMessage) -> None:
                if error is None:
                    offsets[index] = message.offset() or 0
                else:
                    failures.append(error)

            return report

        try:
            producer.begin_transaction()
            for index, item in enumerate(messages):
                self._produce(producer, item, reporter(index))
            producer.flush(_CALL_S)
            self._finish(lambda: producer.commit_transaction(_CALL_S))
        except KafkaException as error:
            self._give_up(producer, error.args[0], failures)
        except SystemError:
            # The client sets the exception of a fatal error and then calls `report` with it set.
            self._producer = None
            raise Lost from None
        return offsets

    def close(self) -> None:
        """End the producer; the next owner has nothing to wait for."""
        self._producer = None

    def _produce(
        self, producer: Producer, item: Outgoing, report: Callable[[KafkaError | None, KafkaMessage], None]
    ) -> None:
        while True:
            try:
                producer.produce(
                    item.topic, item.value, partition=item.partition, headers=item.headers, on_delivery=report
                )
            except BufferError:  # the queue is full: wait for some to leave
                producer.poll(0.1)
            else:
                return

    def _finish(self, call: Callable[[], None]) -> None:
        """Repeat what ends a transaction until it is known how it ended, or patience is."""
        began = time.monotonic()
        while True:
            try:
                return call()
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable() or cause.fatal():
                    raise
                if time.monotonic() - began > self._cluster.patience_s:
                    self._producer = None
                    raise Lost from None

    def _give_up(self, producer: Producer, cause: KafkaError, failures: Sequence[KafkaError]) -> None:
        """After an error: end the transaction if that is still to be done, and raise what happened."""
        if not cause.fatal():
            try:
                self._finish(lambda: producer.abort_transaction(_CALL_S))
            except KafkaException:
                self._producer = None
            final = next((failure for failure in failures if not _passing(failure)), None)
            if final is None and not (_passing(cause) or cause.txn_requires_abort()):
                final = cause
            if final is not None:
                raise LogError(
                    f"nothing was appended: Kafka at {self._cluster.address.servers} refuses it: {final.str()}"
                    + ("; append less at once, or raise max.message.bytes" if final.code() in TOO_LARGE else "")
                ) from None
            if self._producer is not None:
                raise Aborted from None
        self._producer = None
        raise Lost from None


def _passing(error: KafkaError) -> bool:
    """True of an error that may not come again."""
    return error.retriable() or error.fatal() or error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
