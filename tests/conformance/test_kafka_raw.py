"""Raw topics on a real broker: single JSON events, ours and those of other tools, read and written by plain clients."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from headrace.core.errors import LogError, NotFound, SchemaError
from headrace.core.events import NO_RECORD, EventBlock, concat_blocks, decode_block, decode_joined, encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.eventlog.base import Append, LogBatch
from headrace.eventlog.kafka.cluster import parse_address
from headrace.eventlog.kafka.raw import KafkaRawLog
from tests.conformance.test_kafka_eventlog import address_of, plain_messages
from tests.services import address

pytestmark = pytest.mark.kafka

SCHEMA = Schema(
    "deed",
    (
        Field("id", DType.STRING),
        Field("user", DType.INT, nullable=True),
        Field("amount", DType.FLOAT, nullable=True),
        Field("good", DType.BOOL, nullable=True),
        Field("took", DType.DURATION, nullable=True),
        Field("parts", DType.LIST, nullable=True),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
    "id",
)


def row(number: int, **other: Any) -> dict[str, Any]:
    return {"id": f"e{number}", "user": number, "amount": number / 7, "at": 1_700_000_000_000_000 + number, **other}


def appended(log: KafkaRawLog, rows: list[Any], topic: str = "deed", partition: int = 0) -> list[int]:
    return log.append([Append(topic, partition, encode_block(encode_rows(SCHEMA, rows)), len(rows))])


def block_of(batches: list[LogBatch], schema: Schema = SCHEMA) -> EventBlock:
    joined = decode_joined([batch.payload for batch in batches], schema)
    apart = concat_blocks([decode_block(batch.payload, schema) for batch in batches])
    assert_equal(joined, apart)
    for batch, after in pairwise(batches):
        assert batch.end == after.base
        assert batch.arrival_us <= after.arrival_us
    return joined


def assert_equal(found: EventBlock, expected: EventBlock) -> None:
    assert found.n == expected.n
    assert found.malformed == expected.malformed
    assert found.columns.keys() == expected.columns.keys()
    for name, column in expected.columns.items():
        assert np.array_equal(found.columns[name].mask(), column.mask()), name
        assert repr(found.columns[name].to_pylist()) == repr(column.to_pylist()), name


@pytest.fixture
def log(tmp_path: Path) -> Iterator[KafkaRawLog]:
    keys = {"deed": ("id",), "spread": ("user", "id"), "numbered": ("user",), "_unknown": ()}
    log = KafkaRawLog(address_of(tmp_path), SimulatedClock(5), keys)
    log.create("deed", 2)
    yield log
    log.close()


@pytest.fixture
def kafka_topic(tmp_path: Path) -> str:
    return f"{address_of(tmp_path).prefix}.deed"


@pytest.fixture
def other_tool() -> Producer:
    return Producer({"bootstrap.servers": address("kafka").removeprefix("kafka://")})


def test_events_come_back_to_the_bit_whatever_they_hold(log: KafkaRawLog) -> None:
    rng = random.Random(7)
    odd = (0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, float("nan"), None, 2**53 + 1.0)
    rows: list[Any] = [
        row(
            n,
            user=rng.choice((None, 0, -(2**63), 2**63 - 1)),
            amount=rng.choice(odd),
            good=rng.choice((None, True, False)),
            took=rng.choice((None, -1, 10**15)),
            parts=rng.choice((None, [], [0.1, None, 1e300])),
            id=rng.choice(("ß 漢\n\r\u2028", '"\\', "\0", f"e{n}")),
        )
        for n in range(300)
    ]
    rows[17] = {"id": "e17", "amount": "much"}
    rows[99] = ["no", "object"]
    given = encode_rows(SCHEMA, rows)
    assert len(given.malformed) == 2
    assert appended(log, rows[:20]) == [0]
    assert appended(log, rows[20:]) == [20]
    assert_equal(block_of(log.read("deed", 0, 0)), given)
    assert [log.begin("deed", 0), log.end("deed", 0), log.end("deed", 1)] == [0, 300, 0]


def test_other_tools_read_events_as_json_with_their_keys(log: KafkaRawLog, kafka_topic: str) -> None:
    appended(log, [row(1, user=None), {"id": 5}])
    (offset, headers, value), (_, bad_headers, bad) = plain_messages(kafka_topic, 0)
    assert (offset, json.loads(value)["id"], json.loads(value)["user"]) == (0, "e1", None)
    assert headers.keys() == {"headrace"}
    assert json.loads(bad) == {"id": 5}
    assert json.loads(bad_headers["headrace-malformed"])[0] == "id"
    for topic in ("spread", "numbered"):
        log.create(topic)
        appended(log, [row(3)], topic)
    prefix = kafka_topic.removesuffix("deed")
    assert [plain_keys(kafka_topic), plain_keys(prefix + "spread"), plain_keys(prefix + "numbered")] == [
        [b"e1", None],
        [b'[3,"e3"]'],
        [b"3"],
    ]


def plain_keys(topic: str) -> list[bytes | None]:
    from confluent_kafka import Consumer, TopicPartition

    server = address("kafka").removeprefix("kafka://")
    consumer = Consumer({"bootstrap.servers": server, "group.id": "plain"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
    found = []
    for _ in range(high):
        message = consumer.poll(10)
        assert message is not None
        found.append(message.key())
    consumer.close()
    return found


def test_json_of_other_tools_stands_among_ours_and_what_does_not_fit_is_malformed(
    log: KafkaRawLog, kafka_topic: str, other_tool: Producer
) -> None:
    appended(log, [row(0)])
    sent: list[Any] = [
        json.dumps(row(1)).encode(),
        json.dumps(row(2), indent=2).encode(),
        b"no json at all",
        b"",
        None,
        json.dumps(row(3, colour="red")).encode(),
        b'{"id": "e4", "at": "2026-06-01T12:00:00Z", "amount": NaN}',
        b"[1, 2]",
        b'{"id": "e5"}\n{"id": "e6"}',
        b"\xff\xfe",
        json.dumps(row(7)).encode(),
    ]
    for value in sent:
        other_tool.produce(kafka_topic, value, partition=0)
        other_tool.poll(0)
    other_tool.flush(10)
    appended(log, [row(8)])
    batches = log.read("deed", 0, 0)
    block = block_of(batches)
    assert block.n == 13
    ids = block.columns["id"].to_pylist()
    assert [ids[i] for i in (0, 1, 2, 7, 11, 12)] == ["e0", "e1", "e2", "e4", "e7", "e8"]
    assert block.columns["at"].to_pylist()[7] == 1_780_315_200_000_000
    assert {bad.row: (bad.field, bad.reason) for bad in block.malformed} == {
        3: ("", "the message is no JSON"),
        4: ("", "the message is empty"),
        5: ("", "the message is empty"),
        6: ("colour", "deed has no such field"),
        8: ("", "expected an object with the fields of deed, got list"),
        9: ("", "the message is no JSON"),
        10: ("", "the message is no JSON"),
    }
    for start in range(13):
        for limit in (1, 3, 100):
            found = log.read("deed", 0, start, limit)
            assert [found[0].base, found[-1].end] == [start, min(start + limit, 13)]
            assert block_of(found).columns["id"].to_pylist() == ids[start : start + limit]


def test_messages_that_only_look_like_lines_do_not_move_their_neighbours(
    log: KafkaRawLog, kafka_topic: str, other_tool: Producer
) -> None:
    # Together these are as many JSON values as messages, if one forgets where each ends.
    good = json.dumps(row(1)).encode()
    for value in (good, good[:-1], b"}", good + b"\n" + good, good):
        other_tool.produce(kafka_topic, value, partition=0)
    other_tool.flush(10)
    block = block_of(log.read("deed", 0, 0))
    assert block.columns["id"].to_pylist() == ["e1", None, None, None, "e1"]
    assert [bad.row for bad in block.malformed] == [1, 2, 3]


def test_offsets_without_a_message_are_batches_of_nothing(log: KafkaRawLog, kafka_topic: str) -> None:
    tool = Producer(
        {"bootstrap.servers": address("kafka").removeprefix("kafka://"), "transactional.id": uuid.uuid4().hex}
    )
    tool.init_transactions(10)
    for number, commit in enumerate((True, False, True)):
        tool.begin_transaction()
        for part in range(2):
            tool.produce(kafka_topic, json.dumps(row(10 * number + part)).encode(), partition=0)
        tool.flush(10)
        if commit:
            tool.commit_transaction(10)
        else:
            tool.abort_transaction(10)
    while log.end("deed", 0) < 9:
        pass
    # 0 1 | mark | 3 4 taken back | mark | 6 7 | mark
    block = block_of(log.read("deed", 0, 0))
    assert block.n == 9
    assert block.columns["id"].to_pylist() == ["e0", "e1", None, None, None, None, "e20", "e21", None]
    assert [bad.row for bad in block.malformed] == [2, 3, 4, 5, 8]
    assert {bad.reason for bad in block.malformed} == {NO_RECORD}
    assert [(b.base, b.count) for b in log.read("deed", 0, 4, 3)] == [(4, 2), (6, 1)]
    assert [(b.base, b.count) for b in log.read("deed", 0, 8)] == [(8, 1)]
    assert log.read("deed", 0, 9) == []
    last = log.last("deed", 0)
    assert last is not None
    assert (last.base, last.count) == (8, 1)


def test_what_fitted_when_it_was_published_fits_after_the_schema_has_changed(
    log: KafkaRawLog, kafka_topic: str, other_tool: Producer
) -> None:
    appended(log, [row(1), row(2)])
    other_tool.produce(kafka_topic, json.dumps(row(3)).encode(), partition=0)
    other_tool.flush(10)
    fields = (
        Field("name", DType.STRING, aliases=("id",)),  # renamed
        Field("user", DType.FLOAT, nullable=True),  # wider
        Field("place", DType.STRING),  # new
        Field("stars", DType.INT, has_default=True, default=5),  # new
        Field("at", DType.TIMESTAMP),
    )
    block = block_of(log.read("deed", 0, 0), Schema("deed", fields, "at", "name"))
    assert {name: column.to_pylist()[:2] for name, column in block.columns.items() if name != "at"} == {
        "name": ["e1", "e2"],
        "user": [1.0, 2.0],
        "place": [None, None],
        "stars": [5, 5],
    }
    assert [bad.row for bad in block.malformed] == [2]


def test_arrival_is_the_brokers_time_and_the_same_from_wherever_one_reads(log: KafkaRawLog, tmp_path: Path) -> None:
    for number in range(6):
        appended(log, [row(number), row(10 + number)])
    whole = {offset: batch.arrival_us for batch in log.read("deed", 0, 0) for offset in range(batch.base, batch.end)}
    assert min(whole.values()) > 1_700_000_000_000_000
    again = KafkaRawLog(address_of(tmp_path), SimulatedClock(5), {"deed": ()})
    for offset in reversed(range(12)):
        assert again.read("deed", 0, offset, 1)[0].arrival_us == whole[offset]
    again.close()


def test_arrival_does_not_go_back_where_the_times_of_messages_do(
    log: KafkaRawLog, tmp_path: Path, other_tool: Producer
) -> None:
    # A topic of other tools, with the times of its producers.
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"foreign-{uuid.uuid4().hex}"
    server = address("kafka").removeprefix("kafka://")
    admin = AdminClient({"bootstrap.servers": server})
    admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])[name].result(10)
    base = 1_700_000_000_000
    for number, ms in enumerate((5, 9, 3, 7, 9, 12, 1)):
        other_tool.produce(name, json.dumps(row(number)).encode(), partition=0, timestamp=base + ms)
        other_tool.flush(10)
    mapped = KafkaRawLog(address_of(tmp_path), SimulatedClock(5), {"theirs": ()}, {"theirs": name})
    assert mapped.topics()["theirs"] == 1
    mapped.create("theirs", 1)
    arrivals = [(batch.arrival_us // 1_000 - base) for batch in mapped.read("theirs", 0, 0) for _ in range(batch.count)]
    assert arrivals == [5, 9, 9, 9, 9, 12, 12]
    for offset in (6, 2, 3, 5, 0, 4, 1):
        batch = mapped.read("theirs", 0, offset, 1)[0]
        assert batch.arrival_us // 1_000 - base == arrivals[offset]
    mapped.close()


def test_several_publishers_write_at_once(log: KafkaRawLog, tmp_path: Path) -> None:
    other = KafkaRawLog(address_of(tmp_path), SimulatedClock(5), {"deed": ("id",)})
    for number in range(20):
        appended(log, [row(number), row(100 + number)])
        appended(other, [row(200 + number)])
    ids = block_of(log.read("deed", 0, 0)).columns["id"].to_pylist()
    assert [name for name in ids if len(name) == 4 and name[1] == "2"] == [f"e{n}" for n in range(200, 220)]
    assert sorted(ids) == sorted(f"e{n}" for n in (*range(20), *range(100, 120), *range(200, 220)))
    other.close()


def test_the_rest_of_the_port(log: KafkaRawLog, tmp_path: Path) -> None:
    for number in range(5):
        appended(log, [row(number)])
    assert log.committed("g", "deed", 0) == 0
    for offset in (2, 4, 3):
        log.commit("g", "deed", 0, offset)
    assert log.groups() == {("g", "deed", 0): 4}
    assert log.trim("deed", 0, 3) == 3
    assert [log.begin("deed", 0), log.end("deed", 0)] == [3, 5]
    with pytest.raises(LogError, match="begins at 3"):
        log.read("deed", 0, 2)
    with pytest.raises(NotFound, match="deed"):
        log.read("deeds", 0, 0)
    with pytest.raises(SchemaError, match="blocks of events"):
        log.append([Append("deed", 0, b"\0")])
    with pytest.raises(LogError, match="holds 1 events, not 2"):
        log.append([Append("deed", 0, encode_block(encode_rows(SCHEMA, [row(1)])), 2)])
    # Derived records are record batches, at offsets of their own.
    log.create("deed-1")
    assert log.append([Append("deed-1", 0, b"anything", 7)]) == [0]
    assert log.append([Append("deed-1", 0, b"more")]) == [7]
    assert log.read("deed-1", 0, 3) == [
        LogBatch("deed-1", 0, 0, 7, 5, b"anything"),
        LogBatch("deed-1", 0, 7, 1, 5, b"more"),
    ]
    with pytest.raises(LogError, match="apart"):
        log.append([Append("deed-1", 0, b"x"), Append("deed", 0, b"x")])
    assert log.topics() == {"deed": 2, "deed-1": 1}
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.end("deed", 0)
    assert parse_address("kafka://h:1/p", "e").below("raw").prefix == "p.e.raw"


def test_a_password_opens_the_log_and_a_wrong_one_is_refused_untold() -> None:
    server = address("kafka_sasl").removeprefix("kafka://")
    options, project = "security.protocol=SASL_PLAINTEXT", f"test-{uuid.uuid4().hex}"
    right = parse_address(f"kafka://headrace:secret-of-the-tests@{server}/{project}?{options}", "e")
    log = KafkaRawLog(right, SimulatedClock(5), {"deed": ("id",)})
    log.create("deed")
    assert appended(log, [row(1)]) == [0]
    log.close()
    wrong = parse_address(f"kafka://headrace:wrong-guess@{server}/{project}?{options}", "e")
    log = KafkaRawLog(wrong, SimulatedClock(5), {"deed": ("id",)})
    with pytest.raises(LogError, match=r"refused.*look at the rights") as refused:
        log.topics()
    assert "wrong-guess" not in str(refused.value)
    log.close()


def test_topics_that_would_lose_something_are_found_with_the_cure(log: KafkaRawLog, tmp_path: Path) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    log.create("deed-1")
    assert log.problems() == []
    server = address("kafka").removeprefix("kafka://")
    admin = AdminClient({"bootstrap.servers": server})
    name = f"foreign-{uuid.uuid4().hex}"
    short = f"{address_of(tmp_path).prefix}.short-2"
    settings = {"cleanup.policy": "compact"}, {"retention.ms": "1000"}
    new = [
        NewTopic(topic, num_partitions=1, replication_factor=1, config=config)
        for topic, config in zip((name, short), settings, strict=True)
    ]
    for made in admin.create_topics(new).values():
        made.result(10)
    mapped = KafkaRawLog(address_of(tmp_path), SimulatedClock(5), {"deed": (), "theirs": ()}, {"theirs": name})
    assert [found for found, _ in mapped.problems()] == [
        f"topic {short} has retention.ms=1000",
        f"topic {name} has message.timestamp.type=CreateTime",
        f"topic {name} has cleanup.policy=compact",
    ]
    assert mapped.problems()[0][1].endswith(f"--entity-name {short} --add-config retention.ms=-1")
    mapped.close()
