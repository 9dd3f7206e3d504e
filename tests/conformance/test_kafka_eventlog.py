"""The Kafka adapter against its kit, on a real broker; what it says is checked by a plain consumer."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from headrace.core.errors import LogError
from headrace.core.time import SimulatedClock
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.kafka.cluster import KafkaAddress, parse_address
from headrace.eventlog.kafka.log import KafkaEventLog
from headrace.eventlog.kafka.writer import Lost, Outgoing
from headrace.testing.capabilities import capability
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
    adapter = "Kafka"

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

    @pytest.mark.parametrize("sent", [True, False], ids=["committed", "not committed"])
    @capability("an append whose answer was lost is there once")
    def test_an_append_whose_answer_was_lost_is_there_once(
        self, log: EventLog, place: Path, clock: UnrulyClock, monkeypatch: pytest.MonkeyPatch, sent: bool
    ) -> None:
        assert isinstance(log, KafkaEventLog)
        other, writer = self.open(place, clock), log._writer
        send = writer.send
        log.append([Append("t", 0, b"before")])

        def lost(messages: Sequence[Outgoing]) -> list[int]:
            monkeypatch.setattr(writer, "send", send)
            if sent:
                send(messages)
            writer._producer = None
            for number in range(9):  # meanwhile another one goes on
                other.append([Append("t", 0, b"%d" % number, 5), Append("t", 1, b"%d" % number)])
            raise Lost

        monkeypatch.setattr(writer, "send", lost)
        items = [Append("t", 0, b"a", 2), Append("t", 1, b"b"), Append("t", 0, b"c")]
        assert log.append(items) == ([1, 0, 3] if sent else [46, 9, 48])
        meanwhile = [b"%d" % number for number in range(9)]
        halves = ([b"a", b"c"], meanwhile) if sent else (meanwhile, [b"a", b"c"])
        assert [b.payload for b in self.raw_batches(log, place, "t", 0)] == [b"before", *halves[0], *halves[1]]
        assert [b.payload for b in self.raw_batches(log, place, "t", 1)].count(b"b") == 1
        assert log.append([Append("t", 0, b"after")]) == [49]
        other.close()

    def test_a_large_commit_goes_through(self, log: EventLog, place: Path) -> None:
        payload = random.Random(3).randbytes(20 << 20)
        assert log.append([Append("t", 0, payload, 7), Append("t", 0, b"next")]) == [0, 7]
        assert log.read("t", 0, 0)[0].payload == payload
        last = log.last("t", 0)
        assert last is not None
        assert last.payload == b"next"

    def test_one_that_is_too_large_is_refused_and_leaves_the_log_as_it_was(self, log: EventLog) -> None:
        log.append([Append("t", 0, b"before")])
        with pytest.raises(LogError, match=r"nothing was appended.*max\.message\.bytes"):
            log.append([Append("t", 1, b"lost"), Append("t", 0, random.Random(3).randbytes(91 << 20))])
        assert [log.end("t", 0), log.end("t", 1)] == [1, 0]
        assert log.append([Append("t", 0, b"after")]) == [1]

    def test_other_messages_in_a_topic_of_batches_are_named(self, log: EventLog, place: Path) -> None:
        tool = Producer({"bootstrap.servers": address("kafka").removeprefix("kafka://")})
        tool.produce(f"{address_of(place).prefix}.t", b"hello", partition=0)
        tool.flush(10)
        with pytest.raises(LogError, match=r"Kafka offset 0 of .*\.t/0 was not written by Headrace"):
            log.read("t", 0, 0)
