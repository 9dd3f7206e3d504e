"""Blocks taken apart into JSON messages and put together again hold the same bits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import SchemaError
from headrace.core.events import decode_block, decode_joined, encode_block
from headrace.core.messages import encode_messages, encode_nothing, messages_of
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema

SCHEMA = Schema(
    "deed",
    (
        Field("id", DType.STRING),
        Field("user", DType.INT, nullable=True),
        Field("amount", DType.FLOAT, nullable=True),
        Field("good", DType.BOOL, nullable=True),
        Field("took", DType.DURATION, nullable=True),
        Field("parts", DType.LIST, nullable=True),
        Field("stars", DType.INT, has_default=True, default=5),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
    "id",
)
_INT = st.integers(-(2**63), 2**63 - 1)
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
_ROW = st.fixed_dictionaries(
    {"id": _TEXT, "at": st.integers(-(10**15), 10**15)},
    optional={
        "user": st.none() | _INT,
        "amount": st.none() | st.floats(allow_infinity=False),
        "good": st.none() | st.booleans(),
        "took": st.none() | _INT,
        "parts": st.none() | st.lists(st.none() | st.floats(allow_infinity=False, allow_nan=False), max_size=3),
        "stars": _INT,
    },
)
_BAD = st.sampled_from([None, 7, {"id": 3}, {"id": "x", "at": "yesterday"}, {"id": "x", "at": 1, "colour": "red"}])


def shown(block: Any) -> Any:
    """All that a block says, floats to the bit."""
    return block.n, block.malformed, {name: repr(column.to_pylist()) for name, column in block.columns.items()}


@given(st.lists(_ROW | _BAD, min_size=1, max_size=50))
def test_a_block_comes_back_to_the_bit(rows: list[Any]) -> None:
    stored = encode_block(encode_rows(SCHEMA, rows))
    messages, keys, bad = messages_of(stored, ("id",))
    assert len(messages) == len(keys) == len(rows)
    listed = [(row, *told) for row, told in bad.items()]
    again = encode_messages(messages, trusted=True, bad=listed)
    assert shown(decode_block(again, SCHEMA)) == shown(decode_block(stored, SCHEMA))
    only = {"amount", "at"}
    assert shown(decode_block(again, SCHEMA, only)) == shown(decode_block(stored, SCHEMA, only))
    assert shown(decode_joined([stored, again, stored], SCHEMA)) == shown(decode_joined([stored] * 3, SCHEMA))
    for row, (message, key) in enumerate(zip(messages, keys, strict=True)):
        assert b"\n" not in message
        json.loads(message)
        assert key == (None if row in bad else rows[row]["id"].encode())


@given(
    st.lists(
        st.binary(max_size=12) | st.none() | _ROW.map(lambda row: json.dumps(row).encode()), min_size=1, max_size=9
    )
)
def test_each_foreign_message_is_judged_by_itself(messages: list[bytes | None]) -> None:
    together = decode_block(encode_messages(messages, trusted=False, bad=[]), SCHEMA)
    apart = [decode_block(encode_messages([message], trusted=False, bad=[]), SCHEMA) for message in messages]
    assert together.n == len(messages)
    for row, block in enumerate(apart):
        _, malformed, columns = shown(together.slice(row, row + 1))
        assert (1, malformed, columns) == shown(block)


def test_nothing_is_rows_that_are_nobodys() -> None:
    block = decode_joined([encode_nothing(2), encode_block(encode_rows(SCHEMA, [{"id": "a", "at": 1}]))], SCHEMA)
    assert block.n == 3
    assert [bad.row for bad in block.malformed] == [0, 1]
    assert block.columns["id"].to_pylist() == [None, None, "a"]


@pytest.mark.parametrize("payload", [b"", b"\0", encode_nothing(1)])
def test_only_blocks_are_taken_apart(payload: bytes) -> None:
    with pytest.raises(SchemaError, match="block"):
        messages_of(payload)


def test_of_our_own_messages_what_is_broken_is_one_row() -> None:
    """A header says that they are ours; whoever copies it with something else stops nobody."""
    good = messages_of(encode_block(encode_rows(SCHEMA, [{"id": "a", "at": 5}])))[0][0]
    strange = [b"\xff\x00", b"[1]", b'{"id": "b", "at": "soon"}', b'{"id": "b", "at": 1, "stars": 9223372036854775808}']
    found = decode_block(encode_messages([good, *strange, good], trusted=True, bad=[]), SCHEMA, count=6)
    assert [(bad.row, bad.field) for bad in found.malformed] == [(1, ""), (2, ""), (3, "at"), (4, "stars")]
    assert found.columns["id"].to_pylist() == ["a", None, None, None, None, "a"]
    assert found.malformed[2].payload == strange[2]
