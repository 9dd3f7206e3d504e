"""Blocks of events: how the records of one batch lie in the event log.

A block is column by column, so that thousands of events cost one decode: MessagePack
`[2, n, {field: column}, [[row, field, reason, payload], …]]`. A column of fewer than 32 rows, or of strings, lists or
booleans, is a plain list with nil for null; a longer numeric one is little-endian: bytes of float64 with NaN for null,
or, when nothing is null, int64 in extension type 1, so that a field that has become a float since still reads right.
A row that did not fit its schema keeps its place (and so its offset): its columns are null, and what was sent stays in
`malformed` with the field and the reason.

A block that comes from a raw topic is read with the number of its events by the log: bytes that are no such block
become rows that do not fit (`core.unreadable`).

A block is read under the schema of today: a field by its name or a former one, an int as a float, and a field that the
block lacks as its default, or null.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final

import msgspec
import numpy as np

from headrace.core.columns import Column, column_of, normalised, nulls
from headrace.core.errors import SchemaError
from headrace.core.schema import DType, Field, Schema
from headrace.core.unreadable import NoBlock, Opened, newer_format, reader_of, unreadable

FORMAT: Final = 2
"""Of a block."""
MESSAGES: Final = 3
"""Format of a payload of single messages (`core.messages`)."""
NO_RECORD: Final = "no record stands at this offset"
"""The reason of a malformed row that is nobody's: it is no dead letter."""
_MESSAGES_BEGIN: Final = b"\x95\x03"
_INT64 = 1
_PACKED_FROM = 32
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True, slots=True)
class Malformed:
    """An event that does not fit its stream: its row in the block, the field at fault ("" if none), why, what came."""

    row: int
    field: str
    reason: str
    payload: bytes


@dataclass(slots=True)
class EventBlock:
    """`n` events of one stream by column; rows named in `malformed` are null in every column."""

    n: int
    columns: dict[str, Column]
    malformed: list[Malformed] = field(default_factory=list)

    def slice(self, start: int, stop: int) -> EventBlock:
        """Rows `start` to `stop` (exclusive)."""
        at = np.arange(start, stop)
        columns = {name: column.take(at) for name, column in self.columns.items()}
        bad = [Malformed(m.row - start, m.field, m.reason, m.payload) for m in self.malformed if start <= m.row < stop]
        return EventBlock(stop - start, columns, bad)


def encode_block(block: EventBlock) -> bytes:
    """Return the stored bytes of a block."""
    short = block.n < _PACKED_FROM
    columns = {
        name: column.values.tolist()
        if short and column.valid is None and column.dtype is not DType.LIST
        else _pack_column(column)
        for name, column in block.columns.items()
    }
    return _pack([FORMAT, block.n, columns, [[m.row, m.field, m.reason, m.payload] for m in block.malformed]])


def spoilt_block(payload: bytes, count: int, why: str) -> bytes:
    """The stored bytes of a block that stands for `count` events of which only spoilt bytes are left; it keeps them."""
    return _pack([FORMAT, count, {}, unreadable(payload, count, why, spoilt=True)])


def decode_block(
    payload: bytes, schema: Schema, only: Container[str] | None = None, *, count: int | None = None
) -> EventBlock:
    """Read a block of events of `schema`; fields that the block lacks get their default, or null.

    With `only`, the block has just these fields: a column that nobody reads need not be built. `count` is given for
    what anybody may have written, and is how many events the log says these are: what is no block of so many is read as
    rows that do not fit, whatever `only` leaves out.

    Raises SchemaError if the bytes are no block (with `count`: if they are one of a later version's format).
    """
    n, packed, malformed = _opened(payload, schema) if count is None else _checked(payload, schema, count)
    columns = {}
    for spec in schema.fields:
        name, dtype = spec.name, spec.dtype
        if only is not None and name not in only:
            continue
        column = packed.get(name)
        if column is None and spec.aliases:
            column = _former(packed, spec)
        if column is not None:
            columns[name] = column_of(dtype, column) if isinstance(column, list) else _unpacked(column, dtype)
        elif spec.has_default:
            columns[name] = column_of(dtype, [spec.default] * n)
        else:
            columns[name] = nulls(dtype, n)
    return EventBlock(n, columns, [Malformed(*entry) for entry in malformed])


def decode_joined(
    payloads: Sequence[bytes], schema: Schema, *, counts: Sequence[int | None] | None = None
) -> EventBlock:
    """Read many blocks as one, in order; at least one is needed. `counts`: see `decode_block`.

    Thousands of small blocks cost little more than one large one: their lists are joined before columns are built.
    """
    waiting: dict[str, list[Any]] = {spec.name: [] for spec in schema.fields}
    pieces: dict[str, list[Column]] = {spec.name: [] for spec in schema.fields}
    bad: list[Malformed] = []
    start = 0
    for payload, count in zip(payloads, counts or repeat(None), strict=counts is not None):
        n, packed, malformed = _opened(payload, schema) if count is None else _checked(payload, schema, count)
        for spec in schema.fields:
            column = packed.get(spec.name)
            if column is None and spec.aliases:
                column = _former(packed, spec)
            if column is None:
                waiting[spec.name].extend([spec.default if spec.has_default else None] * n)
            elif not isinstance(column, list):
                if waiting[spec.name]:
                    pieces[spec.name].append(column_of(spec.dtype, waiting[spec.name]))
                    waiting[spec.name] = []
                pieces[spec.name].append(_unpacked(column, spec.dtype))
            else:
                waiting[spec.name].extend(column)
        bad += [Malformed(row + start, name, reason, sent) for row, name, reason, sent in malformed]
        start += n
    for spec in schema.fields:
        if waiting[spec.name]:
            pieces[spec.name].append(column_of(spec.dtype, waiting[spec.name]))
    return EventBlock(start, {name: concat_columns(parts) for name, parts in pieces.items()}, bad)


def concat_columns(columns: list[Column]) -> Column:
    """One column of all rows in order; at least one column is needed."""
    if len(columns) == 1:
        return columns[0]
    values = np.concatenate([column.values for column in columns])
    if all(column.valid is None for column in columns):
        return Column(columns[0].dtype, values)
    return Column(columns[0].dtype, values, np.concatenate([column.mask() for column in columns]))


def concat_blocks(blocks: list[EventBlock]) -> EventBlock:
    """One block of all rows in order; at least one block is needed."""
    if len(blocks) == 1:
        return blocks[0]
    columns = {name: concat_columns([block.columns[name] for block in blocks]) for name in blocks[0].columns}
    malformed, start = [], 0
    for block in blocks:
        malformed += [Malformed(m.row + start, m.field, m.reason, m.payload) for m in block.malformed]
        start += block.n
    return EventBlock(start, columns, malformed)


def _opened(payload: bytes, schema: Schema) -> tuple[int, dict[str, Any], list[Any]]:
    try:
        version, n, *rest = _unpack(payload)
        if version == MESSAGES:
            return _opened_messages(schema, n, rest)
        packed, malformed = rest
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise SchemaError(f"not a block of events of stream {schema.name}: {error}") from None
    if version != FORMAT:
        raise SchemaError(f"a block of stream {schema.name} has format {version}; this version reads format {FORMAT}")
    return n, packed, malformed


def _checked(payload: bytes, schema: Schema, count: int) -> Opened:
    try:
        if payload.startswith(_MESSAGES_BEGIN):
            opened = _opened(payload, schema)
            if opened[0] != count:
                raise NoBlock(f"it says that it holds {opened[0]} messages, the log counts {count}")
            return opened
        version, opened = reader_of(schema).read(payload, count)
        if version == FORMAT:
            return opened
        why = f"its format is {version}"
    except (NoBlock, SchemaError, msgspec.DecodeError, ValueError, TypeError, OverflowError) as error:
        version, why = newer_format(payload, count, MESSAGES) or 0, str(error)
    if version > MESSAGES:
        raise SchemaError(
            f"a block of stream {schema.name} has format {version}; this version reads format {FORMAT}: use the "
            "version of headrace that wrote it, or a later one"
        )
    return count, {}, unreadable(payload, count, why)


def _opened_messages(schema: Schema, n: int, rest: list[Any]) -> tuple[int, dict[str, Any], list[Any]]:
    from headrace.core.messages import read_messages  # reads rows, which are made into blocks of this module

    block = read_messages(schema, n, *rest)
    return n, dict(block.columns), [[m.row, m.field, m.reason, m.payload] for m in block.malformed]


def _former(packed: dict[str, Any], spec: Field) -> Any:
    """The stored column of a field under one of its former names; None if the block lacks it."""
    return next((packed[name] for name in spec.names if name in packed), None)


def _pack_column(column: Column) -> Any:
    if len(column) < _PACKED_FROM or column.dtype in (DType.STRING, DType.LIST, DType.BOOL):
        return column.to_pylist()
    if column.dtype is DType.FLOAT:
        values = column.values if column.valid is None else np.where(column.valid, column.values, np.nan)
        return values.astype("<f8", copy=False).tobytes()
    if column.valid is None:
        return msgspec.msgpack.Ext(_INT64, column.values.astype("<i8", copy=False).tobytes())
    return column.to_pylist()


def _unpacked(packed: Any, dtype: DType) -> Column:
    if isinstance(packed, Column):
        return packed
    if isinstance(packed, msgspec.msgpack.Ext):
        values = np.frombuffer(memoryview(packed.data), "<i8")
        return Column(dtype, values.astype(np.float64) if dtype is DType.FLOAT else values)
    if dtype is not DType.FLOAT:
        raise SchemaError(f"a stored column holds float64, its field is {dtype.value}: a float cannot become that")
    return normalised(Column(dtype, np.frombuffer(packed, "<f8")))
