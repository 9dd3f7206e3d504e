"""Table records: what the online store holds per table and key.

int64 words: format · rows n · clock · tail bytes · floor · n event times · n times of availability · n write orders ·
n words of bits (bit c: feature c is valid; bit 63: the row is a deletion) · the features, n words each. Texts and lists
lie in the tail, a MessagePack list of one list per row. Rows are sorted by (event time, write order).

The clock is the greatest min(event time, arrival) of the rows written. A row that counts for every read inside the
as-of horizon of the clock hides all rows before it, and these are dropped. The floor says from when on the row that
hides them counts: reads at or before it cannot be answered from the record. It is NULL_US while nothing was dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from headrace.core.columns import Column
from headrace.core.schema import DType
from headrace.core.time import NULL_US

FORMAT = 3
DELETED = -(2**63)
_HEAD = struct.Struct("<5q")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Any]]).decode


@dataclass(slots=True)
class TableRow:
    """One row: times in µs, `order` its offset in the feature log, `bits` and `words` by feature, `objects` the values
    of STRING and LIST features in order (None where null)."""

    event_time_us: int
    available_us: int
    order: int
    bits: int
    words: list[int]
    objects: list[Any]


def words_of(columns: Sequence[Column], n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[list[Any]]]:
    """Words int64 [features, n] and bits int64 [n] of feature columns of `n` rows, and the non-fixed values by row."""
    words = np.zeros((len(columns), n), np.int64)
    bits = np.zeros(n, np.int64)
    objects: list[list[Any]] = [[] for _ in range(n)]
    for index, column in enumerate(columns):
        mask = column.mask()
        bits |= mask.astype(np.int64) << index
        if column.dtype in (DType.STRING, DType.LIST):
            for row, item in zip(objects, column.to_pylist(), strict=True):
                row.append(item)
        elif column.dtype is DType.FLOAT:
            words[index] = np.where(mask, column.values, 0.0).view(np.int64)
        else:
            words[index] = np.where(mask, column.values, 0)
    return words, bits, objects


def decode_rows(record: bytes | None, width: int) -> list[TableRow]:
    """Rows of a record of `width` features; empty for None."""
    if record is None:
        return []
    _, n, _, tail, _ = _HEAD.unpack_from(record)
    table = np.frombuffer(record, np.int64, count=(4 + width) * n, offset=_HEAD.size).reshape(4 + width, n)
    start = _HEAD.size + table.nbytes
    objects = _decode(record[start : start + tail]) if tail else [[] for _ in range(n)]
    rows = table.T.tolist()
    return [TableRow(row[0], row[1], row[2], row[3], row[4:], extra) for row, extra in zip(rows, objects, strict=True)]


def objects_of(record: bytes, width: int, row: int) -> list[Any]:
    """The STRING and LIST values of one row."""
    _, n, _, tail, _ = _HEAD.unpack_from(record)
    start = _HEAD.size + 8 * (4 + width) * n
    return _decode(record[start : start + tail])[row] if tail else []


def merge_rows(record: bytes | None, new: Sequence[TableRow], width: int, horizon_us: int, arrival_us: int) -> bytes:
    """Return the record with `new` rows, which were written at `arrival_us`; rows already in it change nothing."""
    _, _, clock, _, floor = _HEAD.unpack_from(record) if record is not None else (0, 0, NULL_US, 0, NULL_US)
    rows = decode_rows(record, width)
    newest = max((row.order for row in rows), default=-1)
    added = [row for row in new if row.order > newest]
    if not added and record is not None:
        return record
    rows = sorted(rows + added, key=lambda row: (row.event_time_us, row.order))
    for row in added:
        clock = max(clock, arrival_us if row.event_time_us == NULL_US else min(row.event_time_us, arrival_us))
    cut = clock - horizon_us
    hiding = max((i for i, row in enumerate(rows) if max(row.event_time_us, row.available_us) < cut), default=0)
    if hiding:
        rows = rows[hiding:]
        floor = max(rows[0].event_time_us, rows[0].available_us)
    return _encode_rows(rows, clock, floor, width)


def _encode_rows(rows: list[TableRow], clock: int, floor: int, width: int) -> bytes:
    n = len(rows)
    table = np.zeros((4 + width, n), np.int64)
    for at, row in enumerate(rows):
        table[:, at] = [row.event_time_us, row.available_us, row.order, row.bits, *row.words]
    tail = _encode([row.objects for row in rows]) if any(row.objects for row in rows) else b""
    return _HEAD.pack(FORMAT, n, clock, len(tail), floor) + table.tobytes() + tail + bytes(-len(tail) % 8)
