"""Batches of table rows: what one batch run or one put writes to the topic of table rows.

A batch says all that its readers need, without the table's plan: MessagePack `[1, table, version, n, keys, event times,
available times, deleted, types, block]`: keys as arrays, times as little-endian int64, `deleted` as the indices of the
deletions, `types` the type by column name, and the columns as a block (`core.events`). Its record count in the log is
`n`, so each row has an offset of its own, and that is its write order (design 4.4). A batch of which rows were erased
has format 2, and at its end the places (little-endian int64) of those that are left: their offsets stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from headrace.core.columns import BoolArray, Column, IntArray
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, decode_block, encode_block
from headrace.core.schema import DType, Field, Schema

_FORMAT, _ERASED = 1, 2
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(
    tuple[int, str, str, int, list[tuple[Any, ...]], bytes, bytes, list[int], dict[str, str], bytes]
).decode
_unpack_erased = msgspec.msgpack.Decoder(
    tuple[int, str, str, int, list[tuple[Any, ...]], bytes, bytes, list[int], dict[str, str], bytes, bytes]
).decode
_ELEVEN = b"\x9b"
"""How an array of eleven begins."""


@dataclass(slots=True)
class TableRows:
    """`n` rows of one version of a table, in write order.

    Attributes:
        table: the table's name.
        version: the table's version.
        keys: values of the key fields, in the order of the table's key; times are int µs. No part is None.
        event_time_us: int64 [n]; NULL_US throughout where the table has no event time (then a row is always true).
        available_us: int64 [n], from when on the row counts: its write time, or event time + delay when backfilled
            (NULL_US: from ever).
        columns: the features, by name; null throughout in a deletion.
        deleted: bool [n], True where the row is a deletion.
        places: int64 [n], where each row stands in its batch; None: at 0, 1, …, since none was erased.
    """

    table: str
    version: str
    n: int
    keys: list[tuple[Any, ...]]
    event_time_us: IntArray
    available_us: IntArray
    columns: dict[str, Column]
    deleted: BoolArray
    places: IntArray | None = None

    def orders(self, base: int) -> IntArray:
        """The offset of each row, int64 [n], of a batch at `base`: its write order."""
        return base + (np.arange(self.n) if self.places is None else self.places)


def encode_table_rows(rows: TableRows) -> bytes:
    """Return the stored bytes of a batch."""
    fields: list[Any] = [
        _FORMAT if rows.places is None else _ERASED,
        rows.table,
        rows.version,
        rows.n,
        rows.keys,
        rows.event_time_us.astype("<i8", copy=False).tobytes(),
        rows.available_us.astype("<i8", copy=False).tobytes(),
        np.flatnonzero(rows.deleted).tolist(),
        {name: column.dtype.value for name, column in rows.columns.items()},
        encode_block(EventBlock(rows.n, rows.columns)),
    ]
    return _pack(fields if rows.places is None else [*fields, rows.places.astype("<i8", copy=False).tobytes()])


def is_of_table(payload: bytes, table: str, version: str) -> bool:
    """True if the batch is of that version of that table; tells without decoding its rows."""
    named = _pack([table, version])[1:]
    return payload[2:].startswith(named)


def decode_table_rows(payload: bytes) -> TableRows:
    """Read what `encode_table_rows` wrote; raises SchemaError if the bytes are something else."""
    try:
        places = np.frombuffer(_unpack_erased(payload)[10], "<i8") if payload[:1] == _ELEVEN else None
        version_of_format, table, version, n, keys, times, available, deletions, types, block = (
            _unpack(payload) if places is None else _unpack_erased(payload)[:10]
        )
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise SchemaError(f"not a batch of table rows: {error}") from None
    if version_of_format not in (_FORMAT, _ERASED):
        raise SchemaError(f"a batch of rows of table {table} has format {version_of_format}; this version reads 1, 2")
    deleted = np.zeros(n, np.bool_)
    deleted[deletions] = True
    schema = Schema(table, tuple(Field(name, DType(kind), nullable=True) for name, kind in types.items()), None)
    return TableRows(
        table,
        version,
        n,
        keys,
        np.frombuffer(times, "<i8"),
        np.frombuffer(available, "<i8"),
        decode_block(block, schema).columns,
        deleted,
        places,
    )
