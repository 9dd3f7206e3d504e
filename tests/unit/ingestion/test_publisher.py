"""The door for events: what fits goes on, what does not keeps its place, its reason and what came."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import NotFound, SchemaError
from headrace.core.events import EventBlock, decode_block, encode_block
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import StreamPlan
from headrace.ingestion.publisher import UNKNOWN_TOPIC, Publisher, encode_arrow, encode_json, encode_rows

SCHEMA = Schema(
    "payment",
    (
        Field("payment_id", DType.STRING),
        Field("user", DType.STRING, entity="user"),
        Field("amount", DType.FLOAT),
        Field("items", DType.INT, nullable=True),
        Field("online", DType.BOOL, has_default=True, default=True),
        Field("taste", DType.LIST, nullable=True, size=2),
        Field("took", DType.DURATION, nullable=True),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
    "payment_id",
)
GOOD: dict[str, Any] = {"payment_id": "p1", "user": "u1", "amount": 2.5, "at": 1_357_000_000_000_000}


def row(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def plain(block: EventBlock) -> list[dict[str, Any]]:
    columns = {name: column.to_pylist() for name, column in block.columns.items()}
    return [{name: values[i] for name, values in columns.items()} for i in range(block.n)]


def test_a_clean_row_gets_defaults_and_nulls_for_what_is_missing() -> None:
    block = encode_rows(SCHEMA, [row()])
    assert block.malformed == []
    assert plain(block) == [{**GOOD, "items": None, "online": True, "taste": None, "took": None}]


def test_an_int_serves_as_float_and_minus_zero_is_zero() -> None:
    block = encode_rows(SCHEMA, [row(amount=3), row(amount=-0.0)])
    assert plain(block)[0]["amount"] == 3.0
    assert np.signbit(block.columns["amount"].values).tolist() == [False, False]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": "2.5"}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": float("inf")}, "amount"),
        ({"amount": float("-inf")}, "amount"),
        ({"amount": float("nan")}, "amount"),
        ({"amount": None}, "amount"),
        ({"amount": 10**400}, "amount"),
        ({"items": True}, "items"),
        ({"items": 1.0}, "items"),
        ({"items": 2**63}, "items"),
        ({"online": 1}, "online"),
        ({"online": None}, "online"),
        ({"user": 17}, "user"),
        ({"user": "\ud800"}, "user"),
        ({"payment_id": None}, "payment_id"),
        ({"taste": [1.0]}, "taste"),
        ({"taste": [1.0, float("inf")]}, "taste"),
        ({"taste": "ab"}, "taste"),
        ({"took": "1h"}, "took"),
        ({"at": "yesterday"}, "at"),
        ({"at": 253_402_300_800_000_000}, "at"),
        ({"at": True}, "at"),
        ({"at": None}, "at"),
        ({"at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))}, "at"),
        ({"colour": "red"}, "colour"),
        ({7: "seven"}, "7"),
    ],
)
def test_what_does_not_fit_is_malformed_and_its_neighbours_go_on(changes: dict[Any, Any], field: str) -> None:
    bad = {**GOOD, **changes}
    block = encode_rows(SCHEMA, [row(payment_id="a"), bad, row(payment_id="b")])
    assert [(m.row, m.field) for m in block.malformed] == [(1, field)]
    assert block.malformed[0].reason
    assert json.loads(block.malformed[0].payload)["payment_id"] == bad["payment_id"]
    assert block.columns["payment_id"].to_pylist() == ["a", None, "b"]
    assert all(values is None for values in plain(block)[1].values())
    decode_block(encode_block(block), SCHEMA)


def test_a_missing_field_is_named_with_the_name_that_was_meant() -> None:
    event = row(amuont=1.0)
    del event["amount"]
    (bad,) = encode_rows(SCHEMA, [event]).malformed
    assert bad.field == "amount"
    assert '"amuont"' in bad.reason


@pytest.mark.parametrize("thing", [None, 5, "text", ["a"], object()])
def test_a_row_that_is_no_object_is_malformed(thing: Any) -> None:
    block = encode_rows(SCHEMA, [thing, row()])
    assert [m.row for m in block.malformed] == [0]
    assert block.columns["payment_id"].to_pylist() == [None, "p1"]


@pytest.mark.parametrize(
    ("at", "us"),
    [
        (1_357_000_000_000_001, 1_357_000_000_000_001),
        (datetime(2013, 1, 1, 10, tzinfo=UTC), 1_357_034_400_000_000),
        (datetime.fromisoformat("2013-01-01T10:00"), 1_357_034_400_000_000),
        (datetime(2013, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))), 1_357_034_400_000_000),
        ("2013-01-01T10:00:00Z", 1_357_034_400_000_000),
        ("2013-01-01", 1_356_998_400_000_000),
        ("1969-12-31T23:59:59.999999999Z", -1),
        (np.datetime64(-1, "ns"), -1),
        (pd.Timestamp("2013-01-01T10:00:00", tz="UTC"), 1_357_034_400_000_000),
    ],
)
def test_times_in_all_their_forms(at: Any, us: int) -> None:
    for rows in ([row(at=at)], [row(at=at), row(at=5), row(at="2013-01-01")]):
        block = encode_rows(SCHEMA, rows)
        assert block.malformed == []
        assert block.columns["at"].values[0] == us


@given(st.lists(st.booleans(), max_size=60))
def test_clean_and_bad_rows_in_any_mixture_keep_their_places(fits: list[bool]) -> None:
    rows = [row(payment_id=str(i), amount=1.0 if ok else "x") for i, ok in enumerate(fits)]
    block = encode_rows(SCHEMA, rows)
    assert block.n == len(fits)
    assert [m.row for m in block.malformed] == [i for i, ok in enumerate(fits) if not ok]
    assert block.columns["payment_id"].to_pylist() == [str(i) if ok else None for i, ok in enumerate(fits)]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(ANYTHING | st.dictionaries(st.sampled_from([f.name for f in SCHEMA]), ANYTHING), max_size=12))
def test_nothing_that_is_sent_can_break_the_door(rows: list[Any]) -> None:
    block = encode_rows(SCHEMA, rows)
    again = decode_block(encode_block(block), SCHEMA)
    assert again.n == len(rows)
    assert all(isinstance(json.loads(m.payload), object) and m.reason for m in block.malformed)


@given(st.lists(st.dictionaries(st.sampled_from([f.name for f in SCHEMA]), ANYTHING, max_size=4), max_size=10))
def test_a_row_fares_the_same_alone_and_in_a_batch(rows: list[Any]) -> None:
    rows = [{**GOOD, **changes} for changes in rows]
    whole = encode_rows(SCHEMA, [*rows, *[row()] * 20])
    alone = [encode_rows(SCHEMA, [one]) for one in rows]
    assert {m.row: (m.field, m.reason) for m in whole.malformed} == {
        i: (b.malformed[0].field, b.malformed[0].reason) for i, b in enumerate(alone) if b.malformed
    }
    assert str(plain(whole)[: len(rows)]) == str([plain(block)[0] for block in alone])


# --- JSON ---


def test_json_as_array_object_and_lines_is_one_and_the_same() -> None:
    one, two = json.dumps(row()), json.dumps(row(payment_id="p2", at="2013-01-01T10:00:00Z"))
    bodies = [f"[{one},{two}]", f"{one}\n{two}\n", f"\r\n{one}\r\n\r\n{two}"]
    blocks = [plain(encode_json(SCHEMA, body.encode())) for body in bodies]
    assert blocks[0] == blocks[1] == blocks[2]
    assert [r["payment_id"] for r in blocks[0]] == ["p1", "p2"]
    assert plain(encode_json(SCHEMA, one.encode())) == blocks[0][:1]


def test_a_broken_line_costs_itself_alone() -> None:
    body = json.dumps(row()) + '\n{"payment_id": "p2", \n' + json.dumps(row(payment_id="p3"))
    block = encode_json(SCHEMA, body.encode())
    assert block.columns["payment_id"].to_pylist() == ["p1", None, "p3"]
    assert [(m.row, m.payload) for m in block.malformed] == [(1, b'"{\\"payment_id\\": \\"p2\\","')]


def test_nan_and_infinity_in_json_are_a_null_and_a_malformed_row() -> None:
    body = json.dumps([row(amount=1), row(payment_id="b", amount=float("inf")), row(amount=float("nan"))]).encode()
    block = encode_json(SCHEMA, body)
    assert [(m.row, m.field, m.reason.split()[0]) for m in block.malformed] == [
        (1, "amount", "infinite"),
        (2, "amount", "null"),
    ]
    assert json.loads(block.malformed[0].payload)["amount"] == "inf"


@pytest.mark.parametrize("body", [b"", b"  \n", b"hello", b"[{", b"\xff\xfe", b"<html>\n</html>", b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(SchemaError, match="payment"):
        encode_json(SCHEMA, body)


# --- tables ---


def table(**columns: Any) -> pa.Table:
    base: dict[str, Any] = {
        "payment_id": ["a", "b", "c"],
        "user": ["u", "u", "v"],
        "amount": [1.0, 2.0, 3.0],
        "at": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
    }
    return pa.table({name: item for name, item in {**base, **columns}.items() if item is not None})


def test_a_table_and_its_rows_give_the_same_block() -> None:
    given_table = table(
        items=[1, None, 3], took=pa.array([1, 2, None], pa.duration("us")), taste=[[1, 2], None, [3, 4]]
    )
    rows = given_table.to_pylist()
    assert plain(encode_arrow(SCHEMA, given_table)) == plain(encode_rows(SCHEMA, rows))


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.RecordBatch.from_pydict])
def test_frames_come_in_through_arrow(frame: Any) -> None:
    data = {
        "payment_id": ["a", "b"],
        "user": ["u", "v"],
        "amount": [1, 2],
        "at": [datetime.fromisoformat("2013-01-01"), None],
    }
    block = encode_arrow(SCHEMA, frame(data))
    assert block.columns["at"].to_pylist() == [1_356_998_400_000_000, None]
    assert [(m.row, m.field) for m in block.malformed] == [(1, "at")]


@pytest.mark.parametrize(
    ("columns", "field", "bad"),
    [
        ({"amount": [1.0, None, 3.0]}, "amount", [1]),
        ({"amount": [1.0, float("nan"), float("inf")]}, "amount", [1, 2]),
        ({"payment_id": [None, "b", "c"]}, "payment_id", [0]),
        ({"items": [1.0, 1.5, None]}, "items", [1]),
        ({"items": pa.array([1, 2**63, 3], pa.uint64())}, "items", [1]),
        ({"at": pa.array([1, 10**12, 3], pa.timestamp("s"))}, "at", [1]),
        ({"at": ["2013-01-01", "soon", "2013-01-01T10:00:00.5Z"]}, "at", [1]),
        ({"taste": [[1, 2], [1], [float("inf"), 2]]}, "taste", [1, 2]),
    ],
)
def test_rows_of_a_table_that_do_not_fit_are_malformed(columns: dict[str, Any], field: str, bad: list[int]) -> None:
    block = encode_arrow(SCHEMA, table(**columns))
    assert [(m.row, m.field) for m in block.malformed] == [(index, field) for index in bad]
    assert [i for i, value in enumerate(block.columns["user"].to_pylist()) if value is None] == bad
    assert json.loads(block.malformed[0].payload)["user"] == "u"
    decode_block(encode_block(block), SCHEMA)


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"amount": None}, "amount"),
        ({"amount": ["1.0", "2", "3"]}, "amount"),
        ({"user": [1, 2, 3]}, "user"),
        ({"online": [1, 0, 1]}, "online"),
        ({"colour": ["r", "g", "b"]}, "colour"),
        ({"amount": [[1], [2], [3]]}, "amount"),
    ],
)
def test_a_table_with_a_wrong_column_is_refused_by_name(columns: dict[str, Any], field: str) -> None:
    with pytest.raises(SchemaError, match=f'"{field}"') as caught:
        encode_arrow(SCHEMA, table(**columns))
    assert caught.value.field == field


def test_nanoseconds_are_floored_also_beside_nulls() -> None:
    for values in ([-1, 1999, 5], [-1, None, 1999]):
        block = encode_arrow(SCHEMA, table(at=pa.array(values, pa.timestamp("ns"))))
        expected = [None if v is None else v // 1000 for v in values]
        assert block.columns["at"].to_pylist() == expected


# --- publishing ---


def make(partition_key: tuple[str, ...] = (), **options: Any) -> tuple[MemoryEventLog, Publisher]:
    log = MemoryEventLog(SimulatedClock(7))
    return log, Publisher(log, {"payment": StreamPlan("payment", SCHEMA, partition_key)}, **options)


def stored(log: MemoryEventLog, topic: str) -> dict[int, list[EventBlock]]:
    count = log.topics()[topic]
    return {p: [decode_block(b.payload, SCHEMA) for b in log.read(topic, p, 0, 10**9)] for p in range(count)}


def test_the_receipt_says_where_the_events_lie() -> None:
    log, publisher = make()
    first = publisher.publish("payment", [row(), row(amount="x")])
    second = publisher.publish("payment", json.dumps(row(payment_id="p9")).encode())
    assert (first.appended, first.malformed, first.first_offset, first.last_offset) == (2, 1, 0, 1)
    assert (second.appended, second.malformed, second.offsets) == (1, 0, {0: (2, 2)})
    assert (first + second).offsets == {0: (0, 2)}
    assert log.end("payment", 0) == 3


def test_publishing_nothing_appends_nothing() -> None:
    log, publisher = make()
    receipt = publisher.publish("payment", [])
    assert (receipt.appended, receipt.first_offset) == (0, None)
    assert log.topics() == {}


def test_a_large_block_becomes_several_batches_in_order() -> None:
    log, publisher = make(batch_rows=4)
    rows = [row(payment_id=str(i), amount="x" if i == 5 else 1.0) for i in range(10)]
    publisher.publish("payment", rows)
    blocks = stored(log, "payment")[0]
    assert [b.n for b in blocks] == [4, 4, 2]
    assert [m.row for m in blocks[1].malformed] == [1]
    assert blocks[2].columns["payment_id"].to_pylist() == ["8", "9"]


@pytest.mark.parametrize("key", [(), ("user",), ("user", "items")])
def test_one_key_lies_in_one_partition_in_order(key: tuple[str, ...]) -> None:
    log, publisher = make(key, partitions=4)
    rows = [row(payment_id=f"p{i % 30}", user=f"u{i % 7}", items=i % 3, amount=float(i)) for i in range(300)]
    rows[17] = row(payment_id="bad", amount="x")
    for start in range(0, 300, 50):
        publisher.publish("payment", rows[start : start + 50])
    homes: dict[Any, set[int]] = {}
    total, malformed = 0, 0
    for partition, blocks in stored(log, "payment").items():
        amounts: dict[Any, float] = {}
        for block in blocks:
            total, malformed = total + block.n, malformed + len(block.malformed)
            for event in plain(block):
                if event["payment_id"] is not None:
                    value = tuple(event[name] for name in key or ("payment_id",))
                    homes.setdefault(value, set()).add(partition)
                    assert amounts.get(value, -1.0) < event["amount"]
                    amounts[value] = event["amount"]
    assert (total, malformed) == (300, 1)
    assert all(len(places) == 1 for places in homes.values())
    assert len(set().union(*homes.values())) > 1


def test_an_unknown_stream_is_refused_with_near_names() -> None:
    log, publisher = make()
    with pytest.raises(NotFound, match="did you mean payment"):
        publisher.publish("payments", [row()])
    assert log.topics() == {}


def test_a_refused_table_appends_nothing() -> None:
    log, publisher = make()
    with pytest.raises(SchemaError):
        publisher.publish("payment", table(amount=None))
    assert log.topics() == {}


def test_mixed_events_find_their_streams_and_strangers_are_kept() -> None:
    log, publisher = make()
    receipts = publisher.publish_mixed(
        [{"stream": "payment", **row()}, {"stream": "paymnt", "x": 1}, 5, {"amount": 2}, {"stream": "payment"}]
    )
    assert (receipts["payment"].appended, receipts["payment"].malformed) == (2, 1)
    assert (receipts[UNKNOWN_TOPIC].appended, receipts[UNKNOWN_TOPIC].malformed) == (3, 3)
    (block,) = stored(log, UNKNOWN_TOPIC)[0]
    assert [json.loads(m.payload) for m in block.malformed] == [{"stream": "paymnt", "x": 1}, 5, {"amount": 2}]
    assert "did you mean payment" in block.malformed[0].reason
    assert publisher.publish_mixed([]) == {}
