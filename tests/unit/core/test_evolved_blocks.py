"""Blocks and rows of yesterday under the fields of today."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.core.columns import Column, column_of
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, decode_block, decode_joined, encode_block
from headrace.core.rows import encode_json, encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.ingestion.files import read_event_file
from headrace.ingestion.frames import encode_arrow
from headrace.serving.requests import RequestParser
from headrace.testing.oracle.events import row_of

OLD = Schema("pay", (Field("ccy", DType.STRING), Field("amount", DType.INT), Field("at", DType.TIMESTAMP)), "at")
NEW = Schema(
    "pay",
    (
        Field("money", DType.STRING, aliases=("ccy", "currency")),
        Field("amount", DType.FLOAT, nullable=True),
        Field("channel", DType.STRING, has_default=True, default="app"),
        Field("day", DType.TIMESTAMP, aliases=("at",)),
    ),
    "day",
)


def old_block(n: int) -> EventBlock:
    return EventBlock(
        n,
        {
            "ccy": column_of(DType.STRING, [f"c{i % 3}" for i in range(n)]),
            "amount": column_of(DType.INT, [i * 3 - 40 for i in range(n)]),
            "at": column_of(DType.TIMESTAMP, [10**15 + i for i in range(n)]),
        },
    )


def new_rows(n: int) -> list[dict[str, Any]]:
    return [{"money": f"c{i % 3}", "amount": float(i * 3 - 40), "channel": "app", "day": 10**15 + i} for i in range(n)]


def plain(block: EventBlock) -> list[dict[str, Any]]:
    columns = {name: column.to_pylist() for name, column in block.columns.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(block.n)]


@pytest.mark.parametrize("n", [1, 31, 32, 100])
def test_blocks_of_the_former_fields_read_as_todays(n: int) -> None:
    payload = encode_block(old_block(n))
    found = decode_block(payload, NEW)
    assert plain(found) == new_rows(n)
    assert found.columns["amount"].values.dtype == np.float64
    assert plain(decode_block(payload, NEW, {"money"})) == [{"money": row["money"]} for row in new_rows(n)]
    today = encode_block(encode_rows(NEW, new_rows(40)))
    assert plain(decode_joined([payload, today, payload], NEW)) == [*new_rows(n), *new_rows(40), *new_rows(n)]
    assert plain(decode_block(payload, OLD)) == plain(old_block(n))


def test_what_is_stored_otherwise_is_refused_instead_of_misread() -> None:
    """Format 1 had the same bytes for ints and floats."""
    packed = {"a": struct.pack("<40d", *[i / 4 for i in range(40)])}
    for other in (1, 4):
        with pytest.raises(SchemaError, match=f"has format {other}; this version reads format 2"):
            decode_block(msgspec.msgpack.encode([other, 40, packed, []]), Schema("s", (Field("a", DType.FLOAT),), None))
    with pytest.raises(SchemaError, match="holds float64, its field is int"):
        decode_block(msgspec.msgpack.encode([2, 40, packed, []]), Schema("s", (Field("a", DType.INT),), None))


def test_a_widened_int_keeps_its_nulls() -> None:
    amounts = column_of(DType.INT, [None if i % 5 == 0 else i for i in range(50)])
    block = EventBlock(50, {**old_block(50).columns, "amount": amounts})
    found = decode_block(encode_block(block), NEW).columns["amount"]
    assert found.to_pylist() == [None if i % 5 == 0 else float(i) for i in range(50)]
    assert isinstance(found, Column)


@pytest.mark.parametrize(("money", "day"), [("money", "day"), ("currency", "at"), ("ccy", "at"), ("ccy", "day")])
@pytest.mark.parametrize("n", [1, 50])
def test_the_door_takes_every_name_that_a_field_had(money: str, day: str, n: int, tmp_path: Path) -> None:
    rows = [{money: r["money"], "amount": int(r["amount"]), day: r["day"]} for r in new_rows(n)]
    lines = "\n".join(map(json.dumps, rows)).encode()
    table = pa.Table.from_pylist(rows)
    files = [tmp_path / f"rows.{kind}" for kind in ("parquet", "csv", "ndjson")]
    pq.write_table(table, files[0])
    cells = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    files[1].write_text("\n".join(cells) + "\n", encoding="utf-8")
    files[2].write_bytes(lines + b"\n")
    blocks = [
        encode_rows(NEW, rows),
        encode_json(NEW, lines),
        encode_json(NEW, json.dumps(rows).encode()),
        encode_arrow(NEW, table),
        *(block for file in files for block in read_event_file(file, NEW)),
    ]
    assert [plain(block) for block in blocks] == [new_rows(n)] * 7
    assert not any(block.malformed for block in blocks)


def test_rows_of_both_kinds_in_one_call() -> None:
    rows = new_rows(30)
    rows[3::2] = [{"ccy": r["money"], "amount": 1, "at": r["day"]} for r in rows[3::2]]
    block = encode_rows(NEW, rows)
    assert [row_of(NEW, row) for row in rows] == plain(block)
    assert block.malformed == []
    assert block.columns["money"].to_pylist() == [f"c{i % 3}" for i in range(30)]
    assert block.columns["day"].to_pylist() == [10**15 + i for i in range(30)]


@pytest.mark.parametrize("day", ["day", "at", None])
def test_a_request_may_use_former_names(day: str | None) -> None:
    parser = RequestParser(NEW, SimulatedClock(7), max_rows=10, what="view pay")
    row = {"ccy": "eur", "amount": 2, **({} if day is None else {day: "2026-05-01T12:00:00Z"})}
    found = parser.parse(json.dumps(row).encode())
    assert {name: column.to_pylist() for name, column in found.columns.items()} == {
        "money": ["eur"], "amount": [2.0], "channel": ["app"], "day": [7 if day is None else 1_777_636_800_000_000],
    }  # fmt: skip


def test_a_field_under_two_names_does_not_fit() -> None:
    row = {**new_rows(1)[0], "ccy": "c1"}
    assert row_of(NEW, row) is None
    [bad] = encode_rows(NEW, [row]).malformed
    assert (bad.field, bad.reason) == ("money", 'given twice, also by its former name "ccy"; send one')
    with pytest.raises(SchemaError, match='"money" and also "ccy", its former name'):
        encode_arrow(NEW, pa.Table.from_pylist([row]))
