"""The Kafka adapter against its kit, on a real broker; what it says is checked by a plain consumer."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from headrace.core.time import SimulatedClock
from headrace.eventlog.base import EventLog, LogBatch
from headrace.eventlog.kafka.cluster import KafkaAddress, parse_address
from headrace.eventlog.kafka.log import KafkaEventLog
from headrace.testing.eventlog import DurableEventLogTests, UnrulyClock
from tests.services import address

pytestmark = pytest.mark.kafka
_RUN = uuid.uuid4()


def address_of(place: Path) -> KafkaAddress:
    """An address whose prefix belongs to this folder alone."""
    project = f"test-{uuid.uuid5(_RUN, str(place)).hex}"
    return parse_address(f"{address('kafka')}/{project}", "log", {"compression.type": "none"})


def plain_messages(topic: str, partition: int) -> list[tuple[int, dict[str, bytes], bytes]]:
    """Kafka offset, headers and value of all messages that a plain consumer of committed messages gets."""
    server = address("kafka").removeprefix("kafka://")
    consumer = Consumer(
        {
            "bootstrap.servers": server,
            "group.id": "plain",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
    consumer.assign([TopicPartition(topic, partition, low)])
    found = []
    while low < high:
        message = consumer.poll(10)
        assert message is not None
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            break
        found.append((message.offset(), dict(message.headers() or ()), message.value() or b""))
    consumer.close()
    return found


class TestKafkaEventLog(DurableEventLogTests):
    def open(self, place: Path, clock: UnrulyClock) -> EventLog:
        return KafkaEventLog(address_of(place), clock)

    def opener(self, place: Path) -> Callable[[], EventLog]:
        return partial(KafkaEventLog, address_of(place), SimulatedClock(1_000))

    def raw_batches(self, log: EventLog, place: Path, topic: str, partition: int) -> list[LogBatch]:
        return [
            LogBatch(
                topic,
                partition,
                int(headers["headrace-offset"]),
                int(headers["headrace-records"]),
                int(headers["headrace-arrival-us"]),
                value,
            )
            for _, headers, value in plain_messages(f"{address_of(place).prefix}.{topic}", partition)
            if headers["headrace-records"] != b"0"
        ]

    def raw_damage(self, place: Path, payload: bytes) -> None:
        data = Path(__file__).parents[2] / ".services" / "kafka" / "data"
        for segment in data.glob(f"{address_of(place).prefix}.t-0/*.log"):
            with segment.open("r+b") as file:
                held = file.read()
                if payload in held:
                    file.seek(held.index(payload) + len(payload) // 2)
                    file.write(b"\xff")
                    return
        raise AssertionError("the payload lies in no segment of the broker")
