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

from headrace.core.columns import Column, IntArray
from headrace.core.schema import DType

FORMAT = 3
DELETED = -(2**63)
_HEAD = struct.Struct("<5q")
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


def words_of(columns: Sequence[Column], n: int) -> tuple[IntArray, IntArray, list[list[Any]] | None]:
    """Words int64 [features, n] and bits int64 [n] of feature columns of `n` rows, and the values of STRING and LIST
    features by row; None if there are no such features."""
    words = np.zeros((len(columns), n), np.int64)
    bits = np.zeros(n, np.int64)
    tailed = any(column.dtype in (DType.STRING, DType.LIST) for column in columns)
    objects: list[list[Any]] | None = [[] for _ in range(n)] if tailed else None
    for index, column in enumerate(columns):
        mask = column.mask()
        bits |= mask.astype(np.int64) << index
        if objects is not None and column.dtype in (DType.STRING, DType.LIST):
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
    n = _HEAD.unpack_from(record)[1]
    table = np.frombuffer(record, np.int64, count=(4 + width) * n, offset=_HEAD.size).reshape(4 + width, n)
    objects = decode_tail(record, width) or [[] for _ in range(n)]
    rows = table.T.tolist()
    return [TableRow(row[0], row[1], row[2], row[3], row[4:], extra) for row, extra in zip(rows, objects, strict=True)]


def objects_of(record: bytes, width: int, row: int) -> list[Any]:
    """The STRING and LIST values of one row."""
    tail = decode_tail(record, width)
    return tail[row] if tail else []


def decode_tail(record: bytes, width: int) -> list[list[Any]]:
    """The STRING and LIST values of each row; empty for a table without such features."""
    _, n, _, tail, _ = _HEAD.unpack_from(record)
    start = _HEAD.size + 8 * (4 + width) * n
    return _decode(record[start : start + tail]) if tail else []
