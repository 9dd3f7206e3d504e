"""Blocks of events, rows and predictions without an entity, against what was put in."""

from __future__ import annotations

import numpy as np

from headrace.core.columns import column_of
from headrace.core.events import Malformed, decode_block, encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.tablerows import TableRows, decode_table_rows, encode_table_rows, is_of_table
from headrace.erasure.events import erased_block
from headrace.erasure.rows import erased_rows
from headrace.erasure.subject import Subject, fields_of
from headrace.features.plan import KeyPart, ProjectPlan, StreamPlan, TablePlan

SCHEMA = Schema(
    "pay",
    (
        Field("id", DType.INT, personal=True),
        Field("sender", DType.INT, entity="user"),
        Field("receiver", DType.INT, entity="user", personal=True),
        Field("amount", DType.FLOAT),
        Field("phone", DType.INT, personal=True),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
    "id",
)
PLAN = ProjectPlan({"pay": StreamPlan("pay", SCHEMA)}, {}, {}, {}, {})
SUBJECT = Subject("user", 7, bytes(32))


def rows_of(payload: bytes) -> list[tuple[object, ...]]:
    block = decode_block(payload, SCHEMA)
    return list(zip(*[block.columns[field.name].to_pylist() for field in SCHEMA], strict=True))


def test_an_event_keeps_time_amount_and_the_others_key() -> None:
    for n in (10, 100):  # as lists, and as packed numbers
        rows = [
            {"id": i, "sender": i % 9, "receiver": i % 5, "amount": 1.5 * i, "phone": 100 + i, "at": i + 1}
            for i in range(n)
        ]
        payload = encode_block(encode_rows(SCHEMA, rows))
        fields = fields_of(PLAN, "pay", "user")
        found = erased_block(payload, SUBJECT, fields)
        assert found is not None
        expected = []
        for row in rows:
            mine = row["sender"] == 7
            expected.append(
                (
                    SUBJECT.pseudonym(row["id"]) if mine else row["id"],
                    None if mine else row["sender"],
                    row["receiver"],
                    row["amount"],
                    None if mine else row["phone"],
                    row["at"],
                )
            )
        assert rows_of(found.payload) == expected
        assert found.found == sum(row["sender"] == 7 for row in rows)
        assert found.ids == {row["id"]: SUBJECT.pseudonym(row["id"]) for row in rows if row["sender"] == 7}
        assert erased_block(found.payload, SUBJECT, fields) is None  # done once, it stays


def test_all_but_time_and_id_goes_if_it_is_asked_for() -> None:
    rows = [{"id": 1, "sender": 7, "receiver": 3, "amount": 1.5, "phone": 2, "at": 9}]
    whole = Subject("user", 7, bytes(32), whole=True)
    found = erased_block(encode_block(encode_rows(SCHEMA, rows)), whole, fields_of(PLAN, "pay", "user"))
    assert found is not None
    assert rows_of(found.payload) == [(whole.pseudonym(1), None, None, None, None, 9)]


def test_what_was_sent_in_a_malformed_event_goes_and_it_stays_malformed() -> None:
    block = encode_rows(SCHEMA, [{"id": 1, "sender": 7, "receiver": "x", "at": 9}, {"id": 2, "sender": 70, "at": "y"}])
    found = erased_block(encode_block(block), SUBJECT, fields_of(PLAN, "pay", "user"))
    assert found is not None
    first, second = decode_block(found.payload, SCHEMA).malformed
    assert first == Malformed(0, block.malformed[0].field, "the event was erased", b"null")
    assert second == block.malformed[1]


def test_columns_that_no_field_has_any_more_go_too_but_for_the_marks_of_mended_letters() -> None:
    former = Schema("pay", (*SCHEMA.fields, Field("iban", DType.STRING), Field("_mends", DType.STRING)), "at", "id")
    rows = [
        {
            "id": i,
            "sender": 7 + i,
            "receiver": 1,
            "amount": 1.0,
            "phone": 1,
            "at": 9,
            "iban": "CH1",
            "_mends": "pay/0/1",
        }
        for i in range(2)
    ]
    found = erased_block(encode_block(encode_rows(former, rows)), SUBJECT, fields_of(PLAN, "pay", "user"))
    assert found is not None
    columns = decode_block(found.payload, former).columns
    assert columns["iban"].to_pylist() == [None, "CH1"]
    assert columns["_mends"].to_pylist() == ["pay/0/1"] * 2


def test_rows_that_are_left_keep_their_write_order() -> None:
    schema = Schema("card", (Field("user", DType.INT, entity="user"), Field("limit", DType.INT)), None)
    key = (KeyPart("user", DType.INT, "user"),)
    table = TablePlan("card", "ab" * 8, schema, key, None, None, None, None, 0, ())
    plan = ProjectPlan({}, {}, {"card": table}, {}, {})
    n = 6
    users = [7, 1, 7, 2, 3, 7]
    rows = TableRows(
        "card", table.version, n, [(u,) for u in users], np.arange(n), np.arange(n) + 10,
        {"limit": column_of(DType.INT, list(range(n)))}, np.arange(n) == 3,
    )  # fmt: skip
    found = erased_rows(encode_table_rows(rows), SUBJECT, plan)
    assert found is not None
    left = decode_table_rows(found.payload)
    assert is_of_table(found.payload, "card", table.version)
    assert not is_of_table(found.payload, "car", table.version)
    assert (left.keys, left.orders(100).tolist()) == ([(1,), (2,), (3,)], [101, 103, 104])
    assert left.columns["limit"].to_pylist() == [1, 3, 4]
    assert left.deleted.tolist() == [False, True, False]
    assert erased_rows(found.payload, SUBJECT, plan) is None
    again = erased_rows(found.payload, Subject("user", 1, bytes(32)), plan)
    assert again is not None
    assert decode_table_rows(again.payload).orders(0).tolist() == [3, 4]
    last = erased_rows(again.payload, Subject("user", 2, bytes(32)), plan)
    assert last is not None
    assert decode_table_rows(last.payload).n == 1
