"""Events as single JSON messages: how a log of records (Kafka's raw topics) holds what the others hold in blocks.

`messages_of` takes a block apart into one JSON object per event; `encode_messages` makes a payload of messages as they
were read, which `core.events` decodes like a block. It is MessagePack `[3, n, trusted, [message, …], [[row, field,
reason], …]]`: what Headrace has published (`trusted`) was checked at its door and stays valid when the schema changes
later; what other tools published is checked here, by the rules of the door, so that a message that does not fit is a
malformed row. A list of nil instead of messages: nothing stands at these `n` offsets (marks of Kafka's own).
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.core.columns import Column, column_of, nulls
from headrace.core.errors import SchemaError
from headrace.core.events import FORMAT, MESSAGES, NO_RECORD, EventBlock, Malformed
from headrace.core.rows import encoder_of
from headrace.core.schema import Field, Schema
from headrace.core.values import payload_of

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_lines = msgspec.json.Encoder().encode_lines
_object = msgspec.json.Decoder(dict[str, Any]).decode
_MISFITS: Final = (ValueError, TypeError, OverflowError)
_ABSENT: Final = object()


def messages_of(
    payload: bytes, key: Sequence[str] = ()
) -> tuple[list[bytes], list[bytes | None], dict[int, list[str]]]:
    """The events of an encoded block as JSON objects, their keys, and of malformed rows the field and the reason.

    A key is the text of the fields `key`: that of one field as it is, of more a JSON list; None without `key` and for
    malformed rows, whose messages are what was sent. Raises SchemaError if the bytes are no block.
    """
    try:
        version, n, packed, malformed = _unpack(payload)
    except (msgspec.DecodeError, ValueError, TypeError):
        raise SchemaError("a log of single events takes blocks of events only") from None
    if version != FORMAT:
        raise SchemaError(f"a block of events has format {version}; this version writes format {FORMAT}")
    columns = {name: plain_column(column) for name, column in packed.items()}
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)] if names else [{}] * n
    messages = _lines(rows).split(b"\n")[:n]
    keys = _keys([columns[name] for name in key if name in columns], n)
    bad: dict[int, list[str]] = {}
    for row, field, reason, sent in malformed:
        messages[row], keys[row], bad[row] = sent, None, [field, reason]
    return messages, keys, bad


def encode_messages(messages: Sequence[bytes | None], *, trusted: bool, bad: Sequence[tuple[int, str, str]]) -> bytes:
    """The payload of messages in the order of their offsets; `bad` names the malformed ones among trusted ones."""
    return _pack([MESSAGES, len(messages), trusted, messages, bad])


def encode_nothing(n: int) -> bytes:
    """The payload of `n` offsets at which no record stands."""
    return _pack([MESSAGES, n, True, None, []])


def read_messages(
    schema: Schema, n: int, trusted: bool, messages: list[bytes | None] | None, bad: list[tuple[int, str, str]]
) -> EventBlock:
    """The block of messages as `encode_messages` packed them."""
    if messages is None:
        rows = [Malformed(row, "", NO_RECORD, b"") for row in range(n)]
        return EventBlock(n, {field.name: nulls(field.dtype, n) for field in schema}, rows)
    if not bad:
        clean = encoder_of(schema).messages(messages)
        if clean is not None:
            return clean
    if not trusted:
        return _checked(schema, messages)
    found = {row: Malformed(row, field, reason, messages[row] or b"") for row, field, reason in bad}
    objects: list[dict[str, Any]] = []
    for row, message in enumerate(messages):
        objects.append({})
        if row not in found:
            try:
                objects[row] = _object(message or b"")
            except (ValueError, RecursionError):
                found[row] = Malformed(row, "", "the message is no JSON object", payload_of(message or b""))
    try:
        columns = {field.name: _lenient(field, objects, found) for field in schema}
    except _MISFITS:
        # Headrace has not written these; each row is looked at by itself.
        for row in found.keys() ^ range(n):
            name = _misfit(schema, objects[row])
            if name is not None:
                found[row] = Malformed(row, name, "its value is of another type", messages[row] or b"")
        columns = {field.name: _lenient(field, objects, found) for field in schema}
    return EventBlock(n, columns, [found[row] for row in sorted(found)])


def _checked(schema: Schema, messages: Sequence[bytes | None]) -> EventBlock:
    """Messages of other tools, each by itself."""
    rows: list[Any] = []
    broken: dict[int, Malformed] = {}
    for row, message in enumerate(messages):
        try:
            rows.append(_any_json(message or b""))
        except (ValueError, RecursionError):
            rows.append(None)
            reason = "the message is no JSON" if message else "the message is empty"
            broken[row] = Malformed(row, "", reason, payload_of(message or b""))
    block = encoder_of(schema).rows(rows)
    kept = [found for found in block.malformed if found.row not in broken]
    block.malformed = sorted([*kept, *broken.values()], key=lambda found: found.row)
    return block


def _any_json(message: bytes) -> Any:
    try:
        return msgspec.json.decode(message)
    except (ValueError, RecursionError):
        # Python's own reader also takes NaN and Infinity, which many clients send: a null and a malformed row.
        return json.loads(message)


def _misfit(schema: Schema, item: dict[str, Any]) -> str | None:
    """The first field whose value in an object is of another type; None if there is none."""
    for field in schema:
        try:
            _lenient(field, [item], ())
        except _MISFITS:
            return field.name
    return None


def _lenient(field: Field, objects: Sequence[dict[str, Any]], bad: Container[int]) -> Column:
    """A field of objects that fitted the schema of their time, as a block of then would be read."""
    missing = field.default if field.has_default else None
    values = []
    for row, item in enumerate(objects):
        found = next((item[name] for name in field.names if name in item), _ABSENT)
        values.append(None if row in bad else missing if found is _ABSENT else found)
    return column_of(field.dtype, values)


def plain_column(packed: Any) -> list[Any]:
    """A stored column as Python values, None for null."""
    if isinstance(packed, list):
        return packed
    if isinstance(packed, msgspec.msgpack.Ext):
        numbers: list[Any] = np.frombuffer(memoryview(packed.data), "<i8").tolist()
        return numbers
    values = np.frombuffer(packed, "<f8")
    plain: list[Any] = values.tolist()
    for row in np.flatnonzero(np.isnan(values)).tolist():
        plain[row] = None
    return plain


def _keys(parts: Sequence[list[Any]], n: int) -> list[bytes | None]:
    if not parts:
        return [None] * n
    if len(parts) == 1:
        return [None if item is None else item.encode() if isinstance(item, str) else b"%d" % item for item in parts[0]]
    return list(_lines(list(zip(*parts, strict=True))).split(b"\n")[:n])
