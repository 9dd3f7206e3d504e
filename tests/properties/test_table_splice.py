"""Rows merged into table records by the kernel give the bytes that a plain way gives, one batch after the other."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.aggregations.table_records import FORMAT, TableRow, decode_rows
from headrace.aggregations.table_splice import NewRows, merge_table
from headrace.core.time import NULL_US

KEYS = [b"a", b"b", b"c"]
TIMES = st.sampled_from((NULL_US, 0, 5, 10, 10, 11, 20, 30, 100))
VALUES = st.sampled_from((None, "", "K\u00f6ln"))


def plainly(record: bytes | None, new: list[TableRow], width: int, horizon_us: int, arrival_us: int) -> bytes | None:
    """The record with new rows, from a list of all rows that there are."""
    clock, floor = struct.unpack_from("<5q", record)[2::2] if record is not None else (NULL_US, NULL_US)
    rows = decode_rows(record, width)
    added = [row for row in new if row.order > max((held.order for held in rows), default=-1)]
    if not added:
        return record
    for row in added:
        clock = max(clock, arrival_us if row.event_time_us == NULL_US else min(row.event_time_us, arrival_us))
    rows = sorted([*rows, *added], key=lambda row: (row.event_time_us, row.order))
    sure = [i for i, row in enumerate(rows) if max(row.event_time_us, row.available_us) < clock - horizon_us]
    if sure and sure[-1]:
        rows = rows[sure[-1] :]
        floor = max(rows[0].event_time_us, rows[0].available_us)
    columns = [[row.event_time_us, row.available_us, row.order, row.bits, *row.words] for row in rows]
    tail = msgspec.msgpack.encode([row.objects for row in rows]) if rows[0].objects else b""
    head = struct.pack("<5q", FORMAT, len(rows), clock, len(tail), floor)
    return head + np.array(columns, np.int64).T.tobytes() + tail + bytes(-len(tail) % 8)


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, list[tuple[int, list[tuple[bytes, TableRow]]]]]:
    """The width, and batches: when each arrived, and its rows with their keys."""
    width, texts = draw(st.integers(0, 3)), draw(st.booleans())
    order, arrival, found = 0, 0, []
    for _ in range(draw(st.integers(1, 5))):
        arrival += draw(st.sampled_from((0, 1, 15, 50)))
        rows = []
        for _ in range(draw(st.integers(1, 6))):
            order += draw(st.integers(1, 2))
            words = [draw(st.integers(-(2**63), 2**63 - 1)) for _ in range(width)]
            bits = draw(st.sampled_from((0, 1, 3, -(2**63))))
            objects = [draw(VALUES), [draw(st.floats(allow_nan=False))]] if texts else []
            row = TableRow(draw(TIMES), draw(TIMES), order, bits, words, objects)
            rows.append((draw(st.sampled_from(KEYS)), row))
        found.append((arrival, rows))
    return width, found


def new_rows(width: int, arrival: int, rows: list[tuple[bytes, TableRow]]) -> NewRows:
    def column(of: str) -> Any:
        return np.array([getattr(row, of) for _, row in rows], np.int64)

    return NewRows(
        [key for key, _ in rows],
        column("event_time_us"),
        column("available_us"),
        column("order"),
        column("bits"),
        np.array([row.words for _, row in rows], np.int64).reshape(len(rows), width).T,
        np.full(len(rows), arrival),
        [row.objects for _, row in rows] if rows[0][1].objects else None,
    )


@given(batches(), st.sampled_from((0, 1, 10, 10**9)), st.data())
def test_records_are_those_of_the_plain_way(
    case: tuple[int, list[tuple[int, list[tuple[bytes, TableRow]]]]], horizon_us: int, data: st.DataObject
) -> None:
    """However the batches are shared out to steps, and when the last ones are brought again."""
    width, found = case
    expected: dict[bytes, bytes | None] = dict.fromkeys(KEYS)
    records: dict[bytes, bytes | None] = dict.fromkeys(KEYS)
    waiting: list[NewRows] = []
    for arrival, rows in found:
        for key in KEYS:
            mine = [row for of, row in rows if of == key]
            expected[key] = plainly(expected[key], mine, width, horizon_us, arrival)
        waiting.append(new_rows(width, arrival, rows))
        if data.draw(st.booleans(), label="step"):
            merge_table(NewRows.joined(waiting), records, horizon_us)
            if data.draw(st.booleans(), label="died before it said so"):
                merge_table(NewRows.joined(waiting), records, horizon_us)
            waiting = []
            assert records == expected
    if waiting:
        merge_table(NewRows.joined(waiting), records, horizon_us)
    assert records == expected
