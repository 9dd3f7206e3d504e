"""Request bodies become checked columns; what does not fit is refused with the field named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from headrace.core.columns import Column
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, Malformed
from headrace.core.rows import RowEncoder
from headrace.core.schema import DType, Schema
from headrace.core.time import Clock
from headrace.serving.replies import Refused

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests of one call: columns of `n` rows; `single` if an object came rather than an array."""

    columns: dict[str, Column]
    n: int
    single: bool


class RequestParser:
    """Reads bodies of one schema: an object, or an array of at most `max_rows`. The event time may be left out: now."""

    def __init__(self, schema: Schema, clock: Clock, *, max_rows: int, what: str) -> None:
        self._time_field = schema.time_field
        self._clock = clock
        self._max_rows = max_rows
        self._what = what
        # Without a time field the encoder lets the time be null, which is filled in here.
        fields = tuple(
            replace(f, nullable=True, has_default=False) if f.name == schema.time_field else f for f in schema.fields
        )
        self._encoder = RowEncoder(Schema(what, fields, None, schema.id_field))

    def parse(self, body: bytes) -> Asked:
        """Raises Refused: 400 if the body is no JSON, 413 for too many rows, 422 naming the field that does not fit."""
        try:
            block = self._encoder.json(body)
        except SchemaError as error:
            raise Refused(400, str(error), hint="send one JSON object, or an array of objects") from None
        return self._checked(block, single=block.n == 1 and body.lstrip()[:1] != b"[")

    def parse_rows(self, rows: list[Any]) -> Asked:
        """The same for values that are decoded already; they count as an array."""
        return self._checked(self._encoder.rows(rows), single=False)

    def _checked(self, block: EventBlock, *, single: bool) -> Asked:
        if block.n > self._max_rows:
            raise Refused(
                413, f"{block.n} requests for {self._what} in one call", hint=f"send at most {self._max_rows} at a time"
            )
        if block.malformed:
            raise misfit(block.malformed, single=single)
        columns = block.columns
        if self._time_field is not None:
            column = columns[self._time_field]
            if column.valid is not None:
                filled = np.where(column.valid, column.values, self._clock.now_us())
                columns[self._time_field] = Column(DType.TIMESTAMP, filled)
        return Asked(columns, block.n, single)


def misfit(malformed: list[Malformed], *, single: bool) -> Refused:
    """A 422 for rows that do not fit: the first in full, up to 20 of them listed for a batch."""
    first = malformed[0]
    where = f'field "{first.field}": ' if first.field else ""
    if single:
        return Refused(422, f"{where}{first.reason}", field=first.field)
    listed = described(malformed)
    return Refused(422, f"row {first.row}: {where}{first.reason}", field=first.field, row=first.row, rows=listed)


def described(malformed: list[Malformed]) -> list[dict[str, Any]]:
    """Rows at fault as JSON: row, field and reason, the first 20."""
    return [{"row": bad.row, "field": bad.field, "reason": bad.reason} for bad in malformed[:_MOST_NAMED]]


def decoded(body: bytes) -> list[Any]:
    """Values of a JSON array, of one JSON value, or of one per line; raises Refused (400) if it is none of these."""
    try:
        whole = msgspec.json.decode(body)
        return whole if isinstance(whole, list) else [whole]
    except (ValueError, RecursionError) as error:
        try:
            if b"\n" in body.strip():
                return msgspec.json.Decoder().decode_lines(body)
        except (ValueError, RecursionError):
            pass
        raise Refused(
            400, f"the body is no JSON: {error}", hint="send a JSON array, an object, or one object per line"
        ) from None
