"""Features whose values are lists or maps, read from the rows of their window.

They are no 8-byte words, so they have a pass of their own, which only views with such features pay for. Values are
written one behind the other to a buffer of words, which grows; `decoded` makes Python lists and dicts of them. A list
lies there as its length and items; a map as its length, its keys in ascending order, its items, and whether each item
is one (0: null). -1 instead of a length is null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit

from headrace.aggregations.codes import (
    BY_COUNT,
    BY_MAX,
    BY_MEAN,
    BY_MIN,
    BY_SUM,
    FIRST_N,
    GROWN,
    HISTOGRAM,
    LAST_N,
    SUMS,
    TOP_K,
)
from headrace.aggregations.counted import counts
from headrace.aggregations.exact import turned
from headrace.aggregations.frequent import distinct, sorted_values
from headrace.aggregations.kernel import (
    LIFETIME,
    WINDOW_LENGTH,
    first_at_or_after,
    window_edges,
)
from headrace.aggregations.lanes import (
    AT_INT_HIGH,
    AT_INT_LOW,
    AT_VALID,
    FLOAT,
    NULLABLE_INT,
    ROWS,
    add_row,
    carry_whole,
    clear,
    present,
    quotient,
)
from headrace.core.columns import IntArray
from headrace.core.schema import DType

# Columns of the table of these features.
(
    N_CODE,
    N_WINDOW,
    N_PARAM,
    N_CAP,
    N_KIND,
    N_COLUMN,
    N_VALIDITY,
    N_WHERE,
    N_BY_KIND,
    N_BY,
    N_BY_VALIDITY,
) = range(11)
NESTED_WORDS = 11
_FLOATS = (DType.FLOAT, DType.BOOL)


@njit(cache=True)
def _edge_rows(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, wanted, newest, heap, at
):
    """Write the first values of the window, or its last ones, the oldest first."""
    found = 0
    for step in range(stop - start):
        if found == wanted:
            break
        i = stop - 1 - step if newest else start + step
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            found += 1
            heap[at + found] = i8[column + i]
    heap[at] = found
    if newest:
        for k in range(found // 2):
            heap[at + 1 + k], heap[at + found - k] = heap[at + found - k], heap[at + 1 + k]
    return at + 1 + found


@njit(cache=True)
def write_frequencies(values, often, found, kind, best, heap, at):  # type: ignore[no-untyped-def]
    """Write `found` different values (floats `turned`, in ascending order) with how often each occurs, or the `best`
    most frequent ones (if not negative); returns where the buffer goes on."""
    if best < 0:
        heap[at] = found
        for k in range(found):
            heap[at + 1 + k] = turned(values[k]) if kind == FLOAT else values[k]
            heap[at + 1 + found + k] = often[k]
            heap[at + 1 + 2 * found + k] = 1
        return at + 1 + 3 * found
    # Stable: among equally frequent values the least goes first.
    order = np.argsort(-often[:found], kind="mergesort")
    kept = min(best, found)
    heap[at] = kept
    for k in range(kept):
        heap[at + 1 + k] = turned(values[order[k]]) if kind == FLOAT else values[order[k]]
    return at + 1 + kept


@njit(cache=True)
def _frequencies(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, best, cap, heap, at
):
    """Write how often each value occurs, or the `best` most frequent values (if not negative)."""
    values = sorted_values(i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop)
    often = np.empty(len(values), np.int64)
    found = distinct(values, often, cap)
    if found < 0:
        heap[at] = -1
        return at + 1
    return write_frequencies(values, often, found, kind, best, heap, at)


@njit(cache=True)
def bucket_value(code, kind, lane, work, cell):  # type: ignore[no-untyped-def]
    """Word and state, as of `_bucket`, of the count, sum or mean of the values that a lane holds."""
    held = lane[AT_VALID]
    if code == BY_COUNT:
        return held, 1
    if held == 0:
        return np.int64(0), 0
    if code == BY_SUM and kind != FLOAT:
        if not -(1 << 31) <= lane[AT_INT_HIGH] < (1 << 31):
            return np.int64(0), -1
        return (lane[AT_INT_HIGH] << 32) + lane[AT_INT_LOW], 1
    value = quotient(lane, held if code == BY_MEAN else 1, work)
    if math.isinf(value):
        return np.int64(0), -1
    cell[0] = value + 0.0
    return cell.view(np.int64)[0], 1


@njit(cache=True)
def _bucket(i8, f8, code, kind, column, validity, rows, lane, work, cell):  # type: ignore[no-untyped-def]
    """Word and state of one bucket's value: 1 if there is one, 0 if it is null, -1 if it does not fit its type."""
    if code == BY_COUNT and kind == ROWS:
        return np.int64(len(rows)), 1
    clear(lane, SUMS)
    least = most = np.int64(-1)
    for i in rows:
        if not present(i8, f8, kind, column + i, validity + i):
            continue
        if code in (BY_SUM, BY_MEAN):
            add_row(i8, f8, kind, SUMS, column + i, lane, 0)
            continue
        lane[AT_VALID] += 1
        if code == BY_COUNT:
            continue
        if kind == FLOAT:
            least = i if least < 0 or f8[column + i] < f8[column + least] else least
            most = i if most < 0 or f8[column + i] > f8[column + most] else most
        else:
            least = i if least < 0 or i8[column + i] < i8[column + least] else least
            most = i if most < 0 or i8[column + i] > i8[column + most] else most
    if code in (BY_MIN, BY_MAX):
        row = least if code == BY_MIN else most
        return (i8[column + row], 1) if row >= 0 else (np.int64(0), 0)
    carry_whole(lane)
    return bucket_value(code, kind, lane, work, cell)


@njit(cache=True)
def _buckets(  # type: ignore[no-untyped-def]
    i8, f8, code, kind, column, validity, where, by_kind, by, by_validity, offsets, partitions, limits, start, stop,
    cap, lane, work, cell, heap, at, tally,
):  # fmt: skip
    """Write the value of each bucket that has a row, by ascending keys."""
    rows = np.empty(stop - start, np.int64)
    keys = np.empty(stop - start, np.int64)
    n = 0
    for i in range(start, stop):
        if counts(i8, f8, by_kind, by, by_validity, where, offsets, partitions, limits, i):
            rows[n], keys[n] = i, i8[by + i]
            n += 1
    order = np.argsort(keys[:n], kind="mergesort")
    found = 0
    for k in range(n):
        found += k == 0 or keys[order[k]] != keys[order[k - 1]]
    if found > cap:
        heap[at] = -1
        tally[0] += 1
        return at + 1
    heap[at] = found
    first = bucket = 0
    for k in range(1, n + 1):
        if k < n and keys[order[k]] == keys[order[first]]:
            continue
        word, state = _bucket(i8, f8, code, kind, column, validity, rows[order[first:k]], lane, work, cell)
        tally[0] += state < 0
        heap[at + 1 + bucket] = keys[order[first]]
        heap[at + 1 + found + bucket] = word
        heap[at + 1 + 2 * found + bucket] = state > 0
        first, bucket = k, bucket + 1
    return at + 1 + 3 * found


@njit(cache=True)
def read_nested(  # type: ignore[no-untyped-def]
    i8, f8, times, columns, strides, counted, nested, windows, t, offsets, partitions, limits, lane, work, tally
):
    """Read the lists and maps of one group for each request.

    Per request: the words at which its entity's event times and columns begin, the stride of the columns, how many
    events there are, and the words of their offsets (-1 counts every event) and partitions; `limits[r]` are the first
    offsets not known. Returns the buffer and int64 [requests, features] where each value begins.
    """
    heap = np.empty(1_024, np.int64)
    begins = np.empty((len(t), nested.shape[0]), np.int64)
    cell = np.empty(1, np.float64)
    at = 0
    for r in range(len(t)):
        for f in range(nested.shape[0]):
            code, kind = nested[f, N_CODE], nested[f, N_KIND]
            begins[r, f] = at
            if code == GROWN:
                continue
            column = columns[r] + nested[f, N_COLUMN] * strides[r]
            validity = columns[r] + nested[f, N_VALIDITY] * strides[r] if kind == NULLABLE_INT else -1
            where = columns[r] + nested[f, N_WHERE] * strides[r] if nested[f, N_WHERE] >= 0 else -1
            lo, hi = window_edges(windows, nested[f, N_WINDOW], t[r])
            stop = first_at_or_after(i8, times[r], 0, counted[r], hi)
            start = np.int64(0)
            if windows[nested[f, N_WINDOW], WINDOW_LENGTH] != LIFETIME:
                start = first_at_or_after(i8, times[r], 0, stop, lo)
            room = at + 3 * (stop - start) + 1
            if room > len(heap):
                wider = np.empty(2 * room, np.int64)
                wider[:at] = heap[:at]
                heap = wider
            if code in (FIRST_N, LAST_N):
                at = _edge_rows(
                    i8, f8, kind, column, validity, where, offsets[r], partitions[r], limits[r], start, stop,
                    nested[f, N_PARAM], code == LAST_N, heap, at,
                )  # fmt: skip
            elif code in (HISTOGRAM, TOP_K):
                at = _frequencies(
                    i8, f8, kind, column, validity, where, offsets[r], partitions[r], limits[r], start, stop,
                    nested[f, N_PARAM] if code == TOP_K else -1, nested[f, N_CAP], heap, at,
                )  # fmt: skip
                tally[0] += heap[begins[r, f]] < 0
            else:
                by_kind = nested[f, N_BY_KIND]
                by = columns[r] + nested[f, N_BY] * strides[r]
                by_validity = columns[r] + nested[f, N_BY_VALIDITY] * strides[r] if by_kind == NULLABLE_INT else -1
                at = _buckets(
                    i8, f8, code, kind, column, validity, where, by_kind, by, by_validity, offsets[r], partitions[r],
                    limits[r], start, stop, nested[f, N_CAP], lane, work, cell, heap, at, tally,
                )  # fmt: skip
    return heap[:at], begins


def decoded(heap: IntArray, begins: Sequence[int], dtype: DType, texts: Callable[[int], Sequence[str]]) -> list[Any]:
    """The lists or maps that begin at these words, one per request; None for null.

    `texts(r)` gives the texts that the words of request r stand for, where the type has any.
    """
    floats = heap.view(np.float64)

    def items(begin: int, count: int, part: DType, r: int, there: Sequence[int] = ()) -> list[Any]:
        words = floats if part in _FLOATS else heap
        values: list[Any] = words[begin : begin + count].tolist()
        if 0 in there:
            values = [value if ok else None for value, ok in zip(values, there, strict=True)]
        if part is DType.BOOL:
            return [None if value is None else value == 1.0 for value in values]
        if part is DType.STRING:
            known = texts(r)
            return [None if word is None else known[word] for word in values]
        return values

    found: list[Any] = []
    parts = dtype.parts
    counts_of = heap[np.array(begins, np.int64)].tolist()
    for r, (at, count) in enumerate(zip(begins, counts_of, strict=True)):
        if count < 0:
            found.append(None)
        elif len(parts) == 1:
            found.append(items(at + 1, count, parts[0], r))
        else:
            keys = items(at + 1, count, parts[0], r)
            there = heap[at + 1 + 2 * count : at + 1 + 3 * count].tolist()
            found.append(dict(zip(keys, items(at + 1 + count, count, parts[1], r, there), strict=True)))
    return found
