"""Rows and JSON become blocks of events; a row that does not fit keeps its place as a malformed one.

A batch is first taken as clean: one conversion in C, then a column at a time. If anything in it does not fit, it is
halved until the rows at fault stand alone, and only these are looked at field by field.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from headrace.core.columns import Column, column_of
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, Malformed, concat_blocks
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import MAX_US, MIN_US, to_us
from headrace.core.values import Misfit, payload_of, read_value

_ROW_BY_ROW = 8
_KNOWN_ENCODERS = 256
_TYPES: dict[DType, Any] = {
    DType.INT: int,
    DType.FLOAT: float,
    DType.BOOL: bool,
    DType.STRING: str,
    DType.LIST: list[float | None],
}


class RowEncoder:
    """Turns rows of one schema into blocks. Make it once per stream: its fast path is compiled from the schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._fields = tuple(_as_arriving(field, schema) for field in schema)
        self._struct = msgspec.defstruct(
            schema.name, [_struct_field(f) for f in self._fields], forbid_unknown_fields=True, kw_only=True
        )
        # A producer of yesterday sends former names in all of its rows; such rows must not be read one by one.
        former = [
            msgspec.defstruct(
                schema.name,
                [_struct_field(f) for f in self._fields],
                forbid_unknown_fields=True,
                kw_only=True,
                rename=renamed,
            )
            for renamed in _former_names(self._fields)
        ]
        structs: list[Any] = [self._struct, *former]
        self._row_types: list[Any] = [list[struct] for struct in structs]  # type: ignore[valid-type]
        self._readers = [
            (msgspec.json.Decoder(rows).decode, msgspec.json.Decoder(struct).decode_lines)
            for rows, struct in zip(self._row_types, structs, strict=True)
        ]

    def rows(self, rows: Sequence[Any]) -> EventBlock:
        """A block of all rows in their order; those that do not fit are malformed rows, never an exception."""
        rows = rows if isinstance(rows, list) else list(rows)
        if not rows:
            return EventBlock(0, {f.name: column_of(f.dtype, []) for f in self._fields})
        return concat_blocks(self._blocks(rows))

    def json(self, body: bytes) -> EventBlock:
        """A block from a JSON array of objects, one object, or one object per line.

        Raises SchemaError if the body is no JSON at all.
        """
        lines = body.lstrip()[:1] == b"{"
        for from_array, from_lines in self._readers:
            try:
                structs = from_lines(body) if lines else from_array(body)
                if structs:
                    return EventBlock(len(structs), self._columns(structs))
            except (ValueError, TypeError, OverflowError, RecursionError):
                continue
        rows, broken = _json_rows(body, self.schema.name)
        block = self.rows(rows)
        if broken:
            at = set(broken)
            kept = [m for m in block.malformed if m.row not in at]
            bad = [Malformed(row, "", "this line is no JSON", payload_of(line)) for row, line in broken.items()]
            block.malformed = sorted(kept + bad, key=lambda m: m.row)
        return block

    def messages(self, messages: Sequence[bytes | None]) -> EventBlock | None:
        """A block of JSON objects, one per message, if all of them fit; else None."""
        if None in messages:
            return None
        body = b"\n".join(messages)  # type: ignore[arg-type]
        # As many line ends as there are messages less one: so a line is a message.
        if body.count(b"\n") != len(messages) - 1:
            return None
        for _, from_lines in self._readers:
            try:
                structs = from_lines(body)
                if len(structs) == len(messages):
                    return EventBlock(len(structs), self._columns(structs))
            except (ValueError, TypeError, OverflowError, RecursionError):
                continue
        return None

    def _blocks(self, rows: list[Any]) -> list[EventBlock]:
        for rows_type in self._row_types:
            try:
                return [EventBlock(len(rows), self._columns(msgspec.convert(rows, rows_type)))]
            except (ValueError, TypeError, OverflowError, RecursionError):
                continue
        if len(rows) <= _ROW_BY_ROW:
            return [self._one_by_one(rows)]
        half = len(rows) // 2
        return self._blocks(rows[:half]) + self._blocks(rows[half:])

    def _columns(self, structs: list[Any]) -> dict[str, Column]:
        """Columns of rows that msgspec accepted; raises Misfit or the like if a rule beyond types is broken."""
        columns = {}
        for field in self._fields:
            name = field.name
            items = [getattr(struct, name) for struct in structs]
            columns[name] = _COLUMNS[field.dtype](items, field)
        return columns

    def _one_by_one(self, rows: list[Any]) -> EventBlock:
        good: list[list[Any] | None] = []
        malformed: list[Malformed] = []
        for index, row in enumerate(rows):
            try:
                good.append(self._read(row))
            except _BadRow as bad:
                good.append(None)
                malformed.append(Malformed(index, bad.field, bad.reason, payload_of(row)))
        columns = {
            field.name: column_of(field.dtype, [None if values is None else values[i] for values in good])
            for i, field in enumerate(self._fields)
        }
        return EventBlock(len(rows), columns, malformed)

    def _read(self, row: Any) -> list[Any]:
        if not isinstance(row, Mapping):
            raise _BadRow("", f"expected an object with the fields of {self.schema.name}, got {type(row).__name__}")
        values = []
        for field in self._fields:
            given = [name for name in field.names if name in row]
            if len(given) > 1:
                raise _BadRow(field.name, f'given twice, also by its former name "{given[1]}"; send one')
            if not given:
                if not (field.has_default or field.nullable):
                    raise _BadRow(field.name, "the field is missing" + _near(field.name, row, self.schema))
                values.append(field.default if field.has_default else None)
                continue
            try:
                values.append(read_value(row[given[0]], field))
            except Misfit as misfit:
                raise _BadRow(field.name, str(misfit)) from None
        for name in row:
            if self.schema.current_name(name) is None:
                raise _BadRow(str(name), f"{self.schema.name} has no such field")
        return values


class _BadRow(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field.encode("utf-8", "backslashreplace").decode(), reason


def encode_rows(schema: Schema, rows: Sequence[Mapping[str, Any]]) -> EventBlock:
    """A block of `rows` of `schema`, in their order.

    A row that does not fit (a missing, unknown, mistyped or null field, an infinite float, an unreadable time) becomes
    a `Malformed` with the field, the reason and the row as JSON; the others go on. A field that is missing gets its
    default, or null if it is nullable. NaN is null.
    """
    return encoder_of(schema).rows(rows)


def encode_json(schema: Schema, body: bytes) -> EventBlock:
    """A block from JSON bytes: an array of objects, one object, or one object per line (NDJSON).

    Rows that do not fit, lines that are no JSON and values that are no object become malformed rows. Raises
    SchemaError if nothing in the body is JSON.
    """
    return encoder_of(schema).json(body)


_encoders: dict[int, RowEncoder] = {}


def encoder_of(schema: Schema) -> RowEncoder:
    """The encoder of a schema, made once."""
    # By identity: hashing a schema costs more than a small batch. The encoder keeps its schema, so no id is reused.
    known = _encoders.get(id(schema))
    if known is None or known.schema is not schema:
        if len(_encoders) >= _KNOWN_ENCODERS:
            _encoders.clear()
        known = _encoders[id(schema)] = RowEncoder(schema)
    return known


def _as_arriving(field: Field, schema: Schema) -> Field:
    """The field as the door sees it: an id or event time is never null, defaults are in the form of columns."""
    required = field.name in (schema.id_field, schema.time_field)
    default = read_value(field.default, field) if field.has_default and field.default is not None else field.default
    return Field(
        field.name, field.dtype, field.nullable and not required, field.has_default, default, field.entity, field.size,
        aliases=field.aliases,
    )  # fmt: skip


def _former_names(fields: Sequence[Field]) -> list[dict[str, str]]:
    """What each field was called once, the newest such set first: one per renaming of the field renamed most."""
    most = max((len(field.aliases) for field in fields), default=0)
    return [{f.name: f.names[min(age, len(f.aliases))] for f in fields if f.aliases} for age in range(1, most + 1)]


def _struct_field(field: Field) -> Any:
    wanted = _TYPES.get(field.dtype, Any)
    if field.nullable and wanted is not Any:
        wanted = wanted | None
    if not (field.has_default or field.nullable):
        return (field.name, wanted)
    if isinstance(field.default, list):
        return (field.name, wanted, msgspec.field(default_factory=field.default.copy))
    return (field.name, wanted, field.default if field.has_default else None)


def _plain_column(items: list[Any], field: Field) -> Column:
    return column_of(field.dtype, items)


def _string_column(items: list[Any], field: Field) -> Column:
    column = column_of(DType.STRING, items)
    "".join(column.values.tolist()).encode()  # a lone surrogate raises here, and not when the block is written
    return column


def _float_column(items: list[Any], field: Field) -> Column:
    column = column_of(DType.FLOAT, items)
    if math.inf in items or -math.inf in items or (column.valid is not None and not field.nullable):
        raise Misfit("infinite, or null where no null may be")
    return column


def _time_column(items: list[Any], field: Field) -> Column:
    kinds = set(map(type, items))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is str:
        items = [to_us(datetime.fromisoformat(item)) for item in items]
    elif kind is datetime:
        items = [to_us(item) for item in items]
    elif kind is not int:
        items = [read_value(item, field) for item in items]
    real = items if None not in items else [item for item in items if item is not None]
    if real and (min(real) < MIN_US or max(real) > MAX_US):
        raise Misfit("a time outside the years 1 to 9999")
    return column_of(DType.TIMESTAMP, items)


def _checked_column(items: list[Any], field: Field) -> Column:
    return column_of(field.dtype, [read_value(item, field) for item in items])


_COLUMNS: dict[DType, Callable[[list[Any], Field], Column]] = {
    DType.INT: _plain_column,
    DType.BOOL: _plain_column,
    DType.FLOAT: _float_column,
    DType.STRING: _string_column,
    DType.TIMESTAMP: _time_column,
    DType.DURATION: _checked_column,
    DType.LIST: _checked_column,
}


def _near(name: str, row: Mapping[str, Any], schema: Schema) -> str:
    strangers = [str(other) for other in row if other not in schema]
    near = difflib.get_close_matches(name, strangers, 1)
    return f'; is "{near[0]}" meant?' if near else ""


def _json_rows(body: bytes, stream: str) -> tuple[list[Any], dict[int, bytes]]:
    """Values in the body, and by row the lines that are no JSON (they stand as None among the values)."""
    text = body.strip()
    if not text:
        raise SchemaError(f"the body for {stream} is empty; send a JSON array, an object, or one object per line")
    try:
        whole = _any_json(text)
    except (ValueError, RecursionError) as error:
        if text[:1] == b"[" or b"\n" not in text:
            raise SchemaError(f"the body for {stream} is no JSON: {error}") from None
    else:
        return (whole if isinstance(whole, list) else [whole]), {}
    rows: list[Any] = []
    broken: dict[int, bytes] = {}
    for line in filter(None, map(bytes.strip, text.split(b"\n"))):
        try:
            rows.append(_any_json(line))
        except (ValueError, RecursionError):
            broken[len(rows)] = line
            rows.append(None)
    if len(broken) == len(rows):
        raise SchemaError(f"the body for {stream} is no JSON, neither as a whole nor line by line")
    return rows, broken


def _any_json(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        # Python's own reader also takes NaN and Infinity, which many clients send: a null and a malformed row.
        return json.loads(text)


__all__ = ["RowEncoder", "encode_json", "encode_rows", "encoder_of"]
