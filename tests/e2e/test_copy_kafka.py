"""A project whose orders are copied from a topic of Kafka that others write, in JSON and in Arrow."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import headrace as hr
from headrace.app.copying import CopyLayer
from headrace.app.doctor import examine
from headrace.app.status import project_status
from headrace.core.errors import NotFound
from tests.e2e.shop import now, orders, write_shop
from tests.services import address

pytestmark = pytest.mark.kafka


class Topic:
    """A topic of two partitions on the broker, as another team has it."""

    def __init__(self) -> None:
        self.servers = address("kafka").removeprefix("kafka://").split("/")[0]
        self.name = f"team.orders-{uuid.uuid4().hex[:8]}"
        self.url = f"kafka://{self.servers}/{self.name}"
        self.admin = AdminClient({"bootstrap.servers": self.servers})
        self.make()

    def make(self) -> None:
        self.admin.create_topics([NewTopic(self.name, 2)])[self.name].result(30)

    def drop(self) -> None:
        self.admin.delete_topics([self.name])[self.name].result(30)

    def put(self, messages: Sequence[bytes | None], partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.servers})
        for message in messages:
            producer.produce(self.name, message, partition=partition)
        assert producer.flush(30) == 0


@pytest.fixture
def topic() -> Iterator[Topic]:
    found = Topic()
    yield found
    found.drop()


def shop_from(folder: Path, url: str) -> Path:
    write_shop(folder)
    (folder / "headrace.toml").write_text(f'sync = false\nstreams.order = {{ kafka = "{url}" }}\n')
    return folder


def lines(rows: Sequence[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def arrow(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as one stream of Arrow's."""
    table = pa.Table.from_pylist([{**row, "at": datetime.fromisoformat(row["at"])} for row in rows])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def copied(project: Any) -> dict[str, float]:
    """Copy what is there with a layer of its own; the counters."""
    layer = CopyLayer(project.parts)
    deadline = time.monotonic() + 60
    while layer.step():
        assert time.monotonic() < deadline, layer.problem()
    assert layer.problem() == ""
    return layer.counters()


def answers(project: Any, t: datetime) -> list[str]:
    project.settle()
    requests = [{"order_id": f"r{n}", "user": f"u{n}", "amount": 3.0, "at": t} for n in range(12)]
    return [repr(row) for row in project.online("order", requests)]


def test_messages_of_json_and_of_arrow_are_copied_once_and_give_what_publishing_gives(
    tmp_path: Path, topic: Topic
) -> None:
    end = now()
    rows = orders(300, end - timedelta(minutes=1), step_s=5)
    first, second = rows[0::2], rows[1::2]
    topic.put([*lines(first[:50]), arrow(first[50:99]), *lines(first[99:])])
    topic.put([arrow(second[:100])], partition=1)
    folder = shop_from(tmp_path / "shop", topic.url)
    with hr.connect(folder) as project:
        assert copied(project)["copied"] == 250
    torn, short = arrow(second[:3])[:-40], arrow([{"order_id": "x", "at": end.isoformat()}])
    topic.put([torn, short, b"no JSON", None, *lines(second[100:])], partition=1)
    with hr.connect(folder) as project:  # goes on where the former one ended
        counters = copied(project)
        assert (counters["copied"], counters["malformed"]) == (54, 4)
        assert copied(project)["copied"] == 0
        online = answers(project, end)
        reasons = sorted(letter.reason for letter in project.dead_letters())
        assert len(reasons) == 4
        for told, reason in zip(
            ["cut short", "the message is empty", "the message is no JSON", "lacks the column"], reasons, strict=True
        ):
            assert told in reason, reasons
        assert project_status(project.parts).layers[-1].name == "copy"
    with hr.connect(write_shop(tmp_path / "twin")) as twin:
        twin.publish("order", rows)
        assert answers(twin, end) == online


def test_what_the_cluster_dropped_is_counted_and_a_topic_made_anew_is_copied_from_its_begin(
    tmp_path: Path, topic: Topic
) -> None:
    rows = orders(40, now(), step_s=5)
    topic.put(lines(rows[:10]))
    with hr.connect(shop_from(tmp_path / "shop", topic.url)) as project:
        assert copied(project)["copied"] == 10
        topic.put(lines(rows[10:20]))
        at = TopicPartition(topic.name, 0, 15)
        topic.admin.delete_records([at])[at].result(30)
        counters = copied(project)
        assert (counters["copied"], counters["lost_records"]) == (5, 5)
        topic.drop()
        deadline = time.monotonic() + 30
        while topic.name in topic.admin.list_topics(timeout=10).topics:
            assert time.monotonic() < deadline
        topic.make()
        topic.put(lines(rows[20:]))
        counters = copied(project)
        assert (counters["copied"], counters["lost_records"]) == (20, 0)


def test_doctor_and_errors_say_what_to_do(tmp_path: Path, topic: Topic) -> None:
    folder = shop_from(tmp_path / "shop", topic.url)
    (finding,) = [found for found in examine(folder) if found.what == "stream order"]
    assert (finding.ok, finding.found) == (True, f"2 shards of topic {topic.name} of Kafka at {topic.servers}")
    shop_from(folder, f"{topic.url}x")
    (finding,) = [found for found in examine(folder) if found.what == "stream order"]
    assert not finding.ok
    assert f"no topic {topic.name}x" in finding.found
    with hr.connect(folder) as project, pytest.raises(NotFound, match="has no topic"):
        CopyLayer(project.parts).step()


def test_a_cluster_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with hr.connect(shop_from(tmp_path / "shop", "kafka://user:s3cret@127.0.0.1:9/orders")) as project:
        layer = CopyLayer(project.parts)
        assert layer.step() == 1
        assert "mend the address in `streams.order`" in layer.problem()
        assert "s3cret" not in layer.problem()
