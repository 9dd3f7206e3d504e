"""Seeded disorder over clean events, because real logs have it: a replay without it would prove too little.

What is done to each stream, decided by the seed and the stream's name alone:

- *late* (2 %): the event arrives a whole number of minutes after it became known, log-uniform from 2 minutes to 6 hours
  (half of them under 27 minutes, one in five over 2 hours).
- *swapped* (1 % of neighbours at most 10 minutes apart): the earlier one arrives right after the later one.
- *duplicated* (1 %): the same event, id and all, arrives once more, 1 minute to 4 hours later (log-uniform).
- *malformed* (0.1 %): a spoilt copy of a real event arrives right after it: a field missing, of the wrong type or
  unknown, an unreadable time, or an event time 1 h 1 min to 7 days ahead of the arrival (this one fits the schema and
  becomes a dead letter by its time). The real event stays, so every fact still arrives once.

Arrivals are `known_us`, which never go back; the event times stay as they were.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.core.columns import Column, IntArray
from headrace.core.events import EventBlock, Malformed
from headrace.core.rows import RowEncoder
from headrace.core.schema import DType, Schema
from headrace.core.time import US_PER_MINUTE, to_iso

_SWAP_WITHIN_US = 10 * US_PER_MINUTE
_KINDS = ("missing field", "wrong type", "unreadable time", "unknown field", "far future")


@dataclass(frozen=True, slots=True)
class Disorder:
    """How much goes wrong, as shares of the events of a stream; all zero leaves the events as they are."""

    late: float = 0.02
    duplicated: float = 0.01
    swapped: float = 0.01
    malformed: float = 0.001


@dataclass(frozen=True, slots=True)
class CleanEvents:
    """Events of one stream as they became known: a block (nothing malformed) and int64 [n] µs, not decreasing."""

    schema: Schema
    block: EventBlock
    known_us: IntArray

    @classmethod
    def from_arrow(cls, schema: Schema, table: Any, known_column: str = "known_us") -> CleanEvents:
        """Events of an Arrow table that also says when each became known (int64 µs); rows are sorted by that.

        Raises SchemaError where a row does not fit the schema: clean events must be clean.
        """
        from headrace.core.errors import SchemaError
        from headrace.ingestion.frames import encode_arrow

        known = np.asarray(table[known_column].combine_chunks()).astype(np.int64)
        block = encode_arrow(schema, table.drop_columns([known_column]))
        if block.malformed:
            bad = block.malformed[0]
            raise SchemaError(
                f"row {bad.row} of {schema.name} is not clean: {bad.field}: {bad.reason}", field=bad.field
            )
        order = np.argsort(known, kind="stable")
        if (np.diff(order) != 1).any():
            block = EventBlock(block.n, {name: column.take(order) for name, column in block.columns.items()})
        return cls(schema, block, known[order])


class ArrivingEvents:
    """Events of one stream in order of arrival, ready to be cut into blocks.

    Attributes:
        schema: the stream's schema.
        known_us: int64 [n], when each arrives; not decreasing.
        source: int64 [n], the clean event's row that each is or was made of.
        event_time_us: int64 [n]; of a malformed one, the time of the event that it was made of.
        malformed: rows that do not fit the schema, in order of row.
        counts: how many are late, swapped, duplicated, malformed (among them "far future", which fit the schema).
    """

    def __init__(
        self,
        schema: Schema,
        known_us: IntArray,
        source: IntArray,
        columns: dict[str, Column],
        malformed: list[Malformed],
        counts: dict[str, int],
    ) -> None:
        self.schema, self.known_us, self.source, self.malformed, self.counts = (
            schema,
            known_us,
            source,
            malformed,
            counts,
        )
        self.event_time_us: IntArray = columns[schema.time_field or ""].values
        self._columns = [(name, c.dtype, c.values, c.valid) for name, c in columns.items()]
        self._bad_rows = [bad.row for bad in malformed]

    def __len__(self) -> int:
        return len(self.known_us)

    def until(self, until_us: int) -> ArrivingEvents:
        """The events that arrive at or before `until_us`."""
        stop = int(np.searchsorted(self.known_us, until_us, side="right"))
        columns = {
            name: Column(dtype, values[:stop], None if valid is None else valid[:stop])
            for name, dtype, values, valid in self._columns
        }
        malformed = self.malformed[: bisect_left(self._bad_rows, stop)]
        return ArrivingEvents(self.schema, self.known_us[:stop], self.source[:stop], columns, malformed, self.counts)

    def bounds(self, ticks_us: IntArray) -> IntArray:
        """For each tick the number of events that arrive at or before it: cut points for `block`."""
        return np.searchsorted(self.known_us, ticks_us, side="right").astype(np.int64)

    def block(self, start: int, stop: int) -> EventBlock:
        """Rows `start` to `stop` (exclusive); columns are views, a few µs whatever the length."""
        first = bisect_left(self._bad_rows, start)
        last = bisect_left(self._bad_rows, stop, first)
        if first == last:
            columns = {
                name: Column(dtype, values[start:stop], None if valid is None else valid[start:stop])
                for name, dtype, values, valid in self._columns
            }
            return EventBlock(stop - start, columns)
        bad = [Malformed(m.row - start, m.field, m.reason, m.payload) for m in self.malformed[first:last]]
        kept = np.ones(stop - start, np.bool_)
        kept[[m.row for m in bad]] = False
        columns = {
            name: Column(dtype, values[start:stop], kept if valid is None else kept & valid[start:stop])
            for name, dtype, values, valid in self._columns
        }
        return EventBlock(stop - start, columns, bad)


def disturb(
    streams: Mapping[str, CleanEvents], *, seed: int, disorder: Disorder | None = None
) -> dict[str, ArrivingEvents]:
    """The events of each stream with the disorder that `seed` decides; the same seed gives the same bytes.

    A stream's disorder does not depend on which other streams there are. O(n log n), vectorised.
    """
    return {name: _disturbed(name, clean, seed, disorder or Disorder()) for name, clean in streams.items()}


def _disturbed(name: str, clean: CleanEvents, seed: int, disorder: Disorder) -> ArrivingEvents:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    n = clean.block.n
    known = clean.known_us.copy()
    late = _chosen(rng, n, disorder.late)
    known[late] += _delays(rng, len(late), 2, 360)
    known, order, swapped = _swap(rng, known, disorder.swapped)
    twice = _chosen(rng, n, disorder.duplicated)
    spoilt = _chosen(rng, n, disorder.malformed)
    by_row = np.empty(n, np.int64)
    by_row[order] = known
    all_known = np.concatenate([known, by_row[twice] + _delays(rng, len(twice), 1, 240), by_row[spoilt]])
    source = np.concatenate([order, twice, spoilt])
    arrive = np.argsort(all_known, kind="stable")
    kinds = np.full(len(source), -1, np.int64)
    kinds[n + len(twice) :] = rng.integers(0, len(_KINDS), len(spoilt))
    ahead = _delays(rng, len(source), 61, 7 * 24 * 60) if len(spoilt) else np.zeros(len(source), np.int64)
    source, kinds, all_known, ahead = source[arrive], kinds[arrive], all_known[arrive], ahead[arrive]
    columns = {field: column.take(source) for field, column in clean.block.columns.items()}
    far = np.flatnonzero(kinds == _KINDS.index("far future"))
    times = columns[clean.schema.time_field or ""].values
    times[far] = all_known[far] + ahead[far]
    bad_rows = np.flatnonzero((kinds >= 0) & (kinds < _KINDS.index("far future")))
    malformed = _spoil(clean.schema, columns, bad_rows, kinds)
    counts = {
        "late": len(late),
        "swapped": swapped,
        "duplicated": len(twice),
        "malformed": len(spoilt),
        "far future": len(far),
    }
    return ArrivingEvents(clean.schema, all_known, source, columns, malformed, counts)


def _chosen(rng: np.random.Generator, n: int, share: float) -> IntArray:
    """Indices of a share of `n` rows, drawn one by one."""
    return np.flatnonzero(rng.random(n) < share).astype(np.int64)


def _delays(rng: np.random.Generator, n: int, least: int, most: int) -> IntArray:
    """int64 [n] µs: whole minutes from `least` to `most`, log-uniform."""
    minutes = np.floor(least * (most / least) ** rng.random(n))
    return np.asarray(minutes, np.int64) * US_PER_MINUTE


def _swap(rng: np.random.Generator, known: IntArray, share: float) -> tuple[IntArray, IntArray, int]:
    """Order by arrival, swap some neighbours; returns sorted arrivals, the row of each, and the number of swaps.

    Both of a pair then arrive when the later one did: nothing arrives before it is known.
    """
    order = np.argsort(known, kind="stable").astype(np.int64)
    known = known[order]
    near = np.diff(known) <= _SWAP_WITHIN_US
    first = np.flatnonzero(near & (rng.random(max(len(known) - 1, 0)) < share))
    if len(first):
        first = first[np.concatenate([[True], np.diff(first) > 1])]  # pairs must not overlap
    known[first] = known[first + 1]
    order[first], order[first + 1] = order[first + 1], order[first]
    return known, order, len(first)


def _spoil(schema: Schema, columns: dict[str, Column], rows: IntArray, kinds: IntArray) -> list[Malformed]:
    """What the door says of spoilt copies of `rows`; each is sent through the same validation as any event."""
    if not len(rows):
        return []
    at = {name: column.take(rows).to_pylist() for name, column in columns.items()}
    events: list[dict[str, Any]] = []
    for index, kind in enumerate(kinds[rows].tolist()):
        event = {name: values[index] for name, values in at.items()}
        _SPOILERS[kind](event, schema)
        events.append(event)
    malformed = RowEncoder(schema).rows(events).malformed
    return [Malformed(row, m.field, m.reason, m.payload) for row, m in zip(rows.tolist(), malformed, strict=True)]


def _miss(event: dict[str, Any], schema: Schema) -> None:
    required = [f.name for f in schema if not (f.nullable or f.has_default)]
    del event[required[len(str(event)) % len(required)]]
    _readable_time(event, schema)


def _mistype(event: dict[str, Any], schema: Schema) -> None:
    fields = [f for f in schema if f.name != schema.time_field]
    field = fields[len(str(event)) % len(fields)]
    event[field.name] = 17 if field.dtype is DType.STRING else "n/a"
    _readable_time(event, schema)


def _garble_time(event: dict[str, Any], schema: Schema) -> None:
    event[schema.time_field or ""] = "yesterday, I think"


def _add_field(event: dict[str, Any], schema: Schema) -> None:
    event["debug"] = True
    _readable_time(event, schema)


def _readable_time(event: dict[str, Any], schema: Schema) -> None:
    for field in schema:
        if field.dtype is DType.TIMESTAMP and isinstance(event.get(field.name), int):
            event[field.name] = to_iso(event[field.name])


_SPOILERS: tuple[Callable[[dict[str, Any], Schema], None], ...] = (_miss, _mistype, _garble_time, _add_field)


__all__ = ["ArrivingEvents", "CleanEvents", "Disorder", "disturb"]
