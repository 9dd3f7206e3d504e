"""Merging rows into table records: one compiled call for all records of a table that a step touches.

The rows that a record holds are sorted by (event time, write order), and so are the new ones of its key; the kernel
merges the two, drops what the horizon hides (`table_records`) and writes the new records one after the other. Texts and
lists lie in the records' tails, which the kernel leaves alone: it says which rows are left, and where each came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import msgspec
import numpy as np
from numba import njit

from headrace.aggregations.table_records import FORMAT, decode_tail
from headrace.core.columns import IntArray
from headrace.core.time import NULL_US

_HEAD = 5
_TAIL = 3
_SPARE = 4
"""Words of a row beside its features."""
_NULL = np.int64(NULL_US)
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class NewRows:
    """Rows of one table on their way into records, in order of writing.

    Attributes:
        keys: the key of each row's record.
        times: int64 [n], event times (µs); NULL_US in a table without.
        available: int64 [n], from when on each counts.
        orders: int64 [n], offsets in the feature log, rising.
        bits: int64 [n] and `words`: int64 [features, n]: see `table_records`.
        arrivals: int64 [n], when the feature log took each.
        objects: the values of STRING and LIST features by row; None if the table has none.
    """

    keys: Sequence[bytes]
    times: IntArray
    available: IntArray
    orders: IntArray
    bits: IntArray
    words: IntArray
    arrivals: IntArray
    objects: Sequence[Sequence[Any]] | None

    @classmethod
    def joined(cls, parts: Sequence[NewRows]) -> NewRows:
        """Many as one, in their order."""
        return cls(
            list(chain.from_iterable(part.keys for part in parts)),
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.available for part in parts]),
            np.concatenate([part.orders for part in parts]),
            np.concatenate([part.bits for part in parts]),
            np.concatenate([part.words for part in parts], axis=1),
            np.concatenate([part.arrivals for part in parts]),
            None if parts[0].objects is None else list(chain.from_iterable(part.objects or () for part in parts)),
        )

    def between(self, low: int, high: int) -> NewRows:
        """Those whose offset is at least `low` and below `high`."""
        a, b = np.searchsorted(self.orders, [low, high]).tolist()
        return NewRows(
            self.keys[a:b],
            self.times[a:b],
            self.available[a:b],
            self.orders[a:b],
            self.bits[a:b],
            self.words[:, a:b],
            self.arrivals[a:b],
            None if self.objects is None else self.objects[a:b],
        )

    def at(self, places: IntArray) -> NewRows:
        """Those at `places`, in that order; where offsets rise from one to the next, they are in order of writing."""
        chosen = places.tolist()
        return NewRows(
            [self.keys[row] for row in chosen],
            self.times[places],
            self.available[places],
            self.orders[places],
            self.bits[places],
            np.ascontiguousarray(self.words[:, places]),
            self.arrivals[places],
            None if self.objects is None else [self.objects[row] for row in chosen],
        )


def merge_table(rows: NewRows, records: dict[bytes, bytes | None], horizon_us: int) -> None:
    """Bring `records` up to date with rows of a table; rows that a record holds already change nothing.

    Every key must be in `records`; None: there is no record yet.
    """
    keys = list(dict.fromkeys(rows.keys))
    n, width = len(rows.keys), len(rows.words)
    if len(keys) == n:
        order, first = np.arange(n), np.arange(n + 1)
    else:
        places: Mapping[bytes, int] = dict(zip(keys, count()))
        codes = np.fromiter(map(places.__getitem__, rows.keys), np.int64, n)
        order = np.lexsort((rows.orders, rows.times, codes))
        first = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(keys)))])
    old = [records[key] for key in keys]
    found = [record for record in old if record is not None]
    sizes = np.fromiter([0 if record is None else len(record) >> 3 for record in old], np.int64, len(keys))
    old_at = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1)
    # A word stands for no record at all; an empty buffer could not be read as words.
    old_words = np.frombuffer(b"".join(found) or bytes(8), np.int64)
    out = np.empty(_HEAD * len(keys) + int(sizes.sum()) + (_SPARE + width) * n, np.int64)
    spans = np.empty((len(keys), 2), np.int64)
    kept = np.empty(n + int(sizes.sum()), np.int64)
    splice_rows(
        old_words, old_at, first, order, rows.times, rows.available, rows.orders, rows.bits,
        np.ascontiguousarray(rows.words), rows.arrivals,
        horizon_us, out, spans, kept,
    )  # fmt: skip
    ends = spans[:, 0]
    whole = out[: int(ends[-1])].tobytes()
    begins = np.concatenate([[0], ends[:-1]])
    made = [whole[a:b] for a, b in zip((8 * begins).tolist(), (8 * ends).tolist(), strict=True)]
    if rows.objects is not None:
        made = _with_tails(made, old, kept, spans[:, 1], rows.objects, width)
    if (begins == ends).any():
        records.update([(key, record) for key, record in zip(keys, made, strict=True) if record])
    else:
        records.update(zip(keys, made, strict=True))


def _with_tails(
    made: Sequence[bytes],
    old: Sequence[bytes | None],
    kept: IntArray,
    kept_ends: IntArray,
    new: Sequence[Sequence[Any]],
    width: int,
) -> list[bytes]:
    """The records with the texts and lists of their rows."""
    sources, at = kept.tolist(), 0
    out: list[bytes] = []
    for record, before, end in zip(made, old, kept_ends.tolist(), strict=True):
        held = [] if before is None else decode_tail(before, width)
        tail = _encode([new[source] if source >= 0 else held[-1 - source] for source in sources[at:end]])
        at = end
        if record:
            filled = record[: 8 * _TAIL] + len(tail).to_bytes(8, "little") + record[8 * _TAIL + 8 :]
            record = filled + tail + bytes(-len(tail) % 8)
        out.append(record)
    return out


@njit(cache=True, nogil=True)
def splice_rows(  # type: ignore[no-untyped-def]
    old, old_at, first, order, times, available, orders, bits, words, arrivals, horizon, out, spans, kept
):  # fmt: skip
    """Write the new record of each key to `out`.

    `old_at` is the word at which the record that key k has begins in `old` (-1: it has none); its new rows are
    `order[first[k]:first[k + 1]]`, sorted by (event time, write order). `spans` gets, per key, the word where its
    record ends in `out`, which is where it begins if nothing is new, and the end of its rows in `kept`: for each row
    that is left its number among the new rows, or -1 less its number in the old record.
    """
    width = len(words)
    to = np.int64(0)
    held = np.int64(0)
    for k in range(len(old_at)):
        at = old_at[k]
        n = old[at + 1] if at >= 0 else np.int64(0)
        clock = old[at + 2] if at >= 0 else _NULL
        floor = old[at + 4] if at >= 0 else _NULL
        rows = at + _HEAD
        newest = np.int64(-1)
        for i in range(n):
            newest = max(newest, old[rows + 2 * n + i])
        # Old rows go first among equals: all of them were written before.
        m, i = np.int64(0), np.int64(0)
        for j in range(first[k], first[k + 1]):
            row = order[j]
            if orders[row] <= newest:
                continue
            while i < n and old[rows + i] <= times[row]:
                kept[held + m] = -1 - i
                m += 1
                i += 1
            kept[held + m] = row
            m += 1
            clock = max(clock, arrivals[row] if times[row] == _NULL else min(times[row], arrivals[row]))
        if m == 0:
            spans[k, 0], spans[k, 1] = to, held
            continue
        while i < n:
            kept[held + m] = -1 - i
            m += 1
            i += 1
        hiding, hidden_until = np.int64(0), _NULL
        for r in range(m):
            source = kept[held + r]
            if source >= 0:
                counts_from = max(times[source], available[source])
            else:
                counts_from = max(old[rows - 1 - source], old[rows + n - 1 - source])
            if counts_from < clock - horizon:
                hiding, hidden_until = r, counts_from
        if hiding:
            floor = hidden_until
            for r in range(hiding, m):
                kept[held + r - hiding] = kept[held + r]
            m -= hiding
        out[to], out[to + 1], out[to + 2], out[to + _TAIL], out[to + 4] = FORMAT, m, clock, 0, floor
        to += _HEAD
        for r in range(m):
            source = kept[held + r]
            if source >= 0:
                out[to + r] = times[source]
                out[to + m + r] = available[source]
                out[to + 2 * m + r] = orders[source]
                out[to + 3 * m + r] = bits[source]
                for column in range(width):
                    out[to + (_SPARE + column) * m + r] = words[column, source]
            else:
                for column in range(_SPARE + width):
                    out[to + column * m + r] = old[rows + column * n - 1 - source]
        to += (_SPARE + width) * m
        held += m
        spans[k, 0], spans[k, 1] = to, held
