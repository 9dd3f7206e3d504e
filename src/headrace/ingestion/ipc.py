"""A stream of Arrow's as bytes from anywhere: a table of no more memory than a multiple of them, or a refusal."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Final

import pyarrow as pa

from headrace.core.errors import SchemaError

_MAGIC: Final = b"\xff\xff\xff\xff"
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2
_ROWS_PER_BYTE: Final = 8
"""A row takes a bit at least where its column has any buffer at all."""


def read_ipc(body: bytes, stream: str) -> pa.Table:
    """The record batches of a stream as one table.

    Raises SchemaError if it is cut short, damaged or compressed (what it would grow to is not known before), or
    claims more rows than its bytes can hold.
    """
    try:
        _check_messages(body, stream)
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, IndexError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        reason = str(error).partition("\n")[0]
        raise SchemaError(f"the Arrow stream for {stream} is damaged or cut short: {reason}") from None
    # Whether a producer keeps its texts in dictionaries is its own affair.
    plain = [f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, plain, strict=True))))


def _check_messages(body: bytes, stream: str) -> None:
    rows = 0
    messages = pa.ipc.MessageReader.open_stream(body)
    with suppress(StopIteration):
        while True:
            metadata = bytes(messages.read_next_message().metadata)
            kind, batch = _header(metadata)
            if kind == _DICTIONARY_BATCH:
                batch = _table_at(metadata, batch, 1)
            elif kind != _RECORD_BATCH:
                continue
            if _slot(metadata, batch, 3):
                raise SchemaError(f"the Arrow stream for {stream} is compressed; write it without compression")
            at = _slot(metadata, batch, 0)
            rows += struct.unpack_from("<q", metadata, batch + at)[0] if at else 0
            if rows > _ROWS_PER_BYTE * len(body):
                raise SchemaError(f"the Arrow stream for {stream} claims {rows:,} rows, more than its bytes can hold")
    if not body.endswith(_MAGIC + b"\0\0\0\0"):
        raise SchemaError(f"the Arrow stream for {stream} is cut short: it has no end; close its writer before sending")


def _header(metadata: bytes) -> tuple[int, int]:
    """Kind of a message, and where the table of its header stands (Arrow's Message.fbs, FlatBuffers' layout)."""
    message: int = struct.unpack_from("<I", metadata, 0)[0]
    kind = _slot(metadata, message, 1)
    return metadata[message + kind] if kind else 0, _table_at(metadata, message, 2)


def _table_at(metadata: bytes, table: int, slot: int) -> int:
    at = table + _slot(metadata, table, slot)
    return int(at + struct.unpack_from("<I", metadata, at)[0])


def _slot(metadata: bytes, table: int, slot: int) -> int:
    """Where a field stands within its table; 0 if it is left out."""
    entries: int = table - struct.unpack_from("<i", metadata, table)[0]
    size: int = struct.unpack_from("<H", metadata, entries)[0]
    place = 4 + 2 * slot
    return int(struct.unpack_from("<H", metadata, entries + place)[0]) if place < size else 0
