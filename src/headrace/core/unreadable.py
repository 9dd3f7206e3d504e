"""Batches of a raw topic that are no blocks of events: bytes that a disk has spoilt, or that something else wrote.

Such a batch keeps its offsets. Each of its events is a row that does not fit, and the first of them brings the bytes of
all, so that the whole batch is one dead letter, which is published once the bytes are mended.
"""

from __future__ import annotations

import binascii
from typing import Annotated, Any, Final, TypedDict

import msgspec

from headrace.core.errors import SchemaError
from headrace.core.schema import DType, Field, Schema

CANNOT_BE_READ: Final = "cannot be read as a block of events"
"""In the reason of every letter that is a whole batch, and of no other."""
_BEGINS: Final = "this offset"
WITH_BATCH: Final = "it stands in a batch that cannot be read"
"""The reason of the rows of such a batch but the first: they are dead letters without a letter of their own."""
_NEEDLE = CANNOT_BE_READ.encode()
_KNOWN = 1_000
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_NUMBERS = list[_INT64 | None] | msgspec.msgpack.Ext
_TYPES: Final[dict[DType, Any]] = {
    DType.INT: _NUMBERS,
    DType.TIMESTAMP: _NUMBERS,
    DType.DURATION: _NUMBERS,
    DType.FLOAT: list[float | None] | bytes | msgspec.msgpack.Ext,
    DType.BOOL: list[bool | None],
    DType.STRING: list[str | None],
}

Opened = tuple[int, dict[str, Any], list[tuple[int, str, str, bytes]]]
"""Number of events, packed columns by name, malformed rows."""


class Kept(msgspec.Struct):
    """What a letter keeps of a batch: how many events it held, its bytes (base64; None once they were erased), and
    whether these are not what was appended: then they say nothing even where they can be read."""

    events: int
    sent: bytes | None
    spoilt: bool = False


class NoBlock(Exception):
    """These bytes are no block; the text says why."""


class BlockReader:
    """Takes stored blocks of a schema apart and checks every value of every declared column, read or not."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        columns = {name: _type_of(field) for field in schema for name in field.names}
        block = TypedDict("Block", columns, total=False)  # type: ignore[misc]
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            tuple[int, int, block, list[tuple[int, str, str, bytes]]]
        )

    def read(self, payload: bytes, count: int) -> tuple[int, Opened]:
        """The format and the parts of a block of `count` events; raises NoBlock if it is none."""
        try:
            version, n, packed, malformed = self._decoder.decode(payload)
        except (msgspec.DecodeError, ValueError) as error:
            raise NoBlock(str(error)) from None
        if n != count:
            raise NoBlock(f"it says that it holds {n} events, the log counts {count}")
        for name, column in packed.items():
            held = _length(column)
            if held != n:
                raise NoBlock(f"its column {name} holds {held} values for {n} events")
        if any(not 0 <= entry[0] < n for entry in malformed):
            raise NoBlock("it names malformed events that it does not hold")
        return version, (n, packed, malformed)


def _type_of(field: Field) -> Any:
    if field.dtype is not DType.LIST:
        return _TYPES[field.dtype]
    items: Any = list[float | None]
    if field.size is not None:
        items = Annotated[items, msgspec.Meta(min_length=field.size, max_length=field.size)]
    return list[items | None]


def _length(column: Any) -> int | float:
    if isinstance(column, list):
        return len(column)
    if isinstance(column, bytes):
        return len(column) / 8
    return len(column.data) / 8 if column.code == 1 else -1


_readers: dict[int, BlockReader] = {}


def reader_of(schema: Schema) -> BlockReader:
    """The reader of a schema, made once."""
    # By identity, as `core.rows.encoder_of` does.
    known = _readers.get(id(schema))
    if known is None or known.schema is not schema:
        if len(_readers) >= _KNOWN:
            _readers.clear()
        known = _readers[id(schema)] = BlockReader(schema)
    return known


def newer_format(payload: bytes, count: int, known: int) -> int | None:
    """The format of what looks like a block of a later version, beyond the format `known`; None of other bytes."""
    try:
        found = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, ValueError):
        return None
    if isinstance(found, list) and len(found) > 1 and isinstance(found[0], int) and found[0] > known:
        return found[0] if found[1] == count else None
    return None


def unreadable(payload: bytes, count: int, why: str, *, spoilt: bool = False) -> list[tuple[int, str, str, bytes]]:
    """The malformed rows of a batch of `count` events that cannot be read."""
    others = "" if count == 1 else f", and the next {count - 1:,} offsets,"
    reason = f"{_BEGINS}{others} {CANNOT_BE_READ}: {why}"
    first = (0, "", reason, msgspec.json.encode(Kept(count, payload, spoilt)))
    return [first, *[(row, "", WITH_BATCH, b"") for row in range(1, count)]]


def is_whole_batch(reason: str) -> bool:
    """True of the reason of a letter that is a whole batch."""
    return reason.startswith(_BEGINS) and CANNOT_BE_READ in reason


def kept_of(payload: bytes) -> Kept:
    """What the letter of a whole batch keeps; raises SchemaError if that is something else."""
    try:
        return msgspec.json.decode(payload, type=Kept)
    except (msgspec.DecodeError, binascii.Error) as error:
        raise SchemaError(f"a letter of a batch that cannot be read keeps no bytes: {error}") from None


def keeps_batch(data: bytes) -> bool:
    """False if stored bytes cannot hold the letter of a whole batch."""
    return _NEEDLE in data


def without_bytes(payload: bytes) -> bytes:
    """What the letter of a whole batch keeps when its bytes are to be erased."""
    return msgspec.json.encode(msgspec.structs.replace(kept_of(payload), sent=None))


def kept_in(payload: bytes) -> bytes:
    """The bytes that the letter of a whole batch keeps, b"" if there are none, or if it is another letter."""
    if not payload.startswith(b'{"events":'):
        return b""
    try:
        return msgspec.json.decode(payload, type=Kept).sent or b""
    except (msgspec.DecodeError, binascii.Error):
        return b""
