"""Compiled reads of a whole view: windows and tables, from online records or over history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from headrace.aggregations.codes import RATE
from headrace.aggregations.kernel import (
    FEATURE_CODE,
    LIFETIME,
    WINDOW_LENGTH,
    read_group,
    window_edges,
)
from headrace.aggregations.layout import GroupLayout
from headrace.aggregations.prefixes import WORDS, read_lane
from headrace.aggregations.records import FORMAT
from headrace.aggregations.window_rows import (
    read_rows,
)
from headrace.core.time import NULL_US

_NULL = np.int64(NULL_US)


@njit(cache=True)
def read_table(  # type: ignore[no-untyped-def]
    i8, times, available, orders, bits, columns, stride, n, width, t, ttl, limit, out, valid, slot
):
    """Read the row of a table for one key at t into `out[slot:]`; returns its index, or -1 if there is none.

    Rows lie sorted by (event time, write order). A row counts iff its write order is below `limit` (negative: any),
    event time < t and available < t; the greatest wins; a deletion (bit 63 of `bits`) or a row older than `ttl`
    (negative: none) leaves nulls. An event time of NULL_US is always true and never expires. `bits` says by column
    which values are valid.
    """
    row = n - 1
    while row >= 0:
        if i8[times + row] < t and i8[available + row] < t and (limit < 0 or i8[orders + row] < limit):
            break
        row -= 1
    if row >= 0:
        time = i8[times + row]
        if i8[bits + row] < 0 or (ttl >= 0 and time != _NULL and time < t - ttl):
            row = -1
    for c in range(width):
        ok = row >= 0 and (i8[bits + row] >> c) & 1 == 1
        valid[slot + c] = ok
        out[slot + c] = i8[columns + c * stride + row] if ok else 0
    return row


# Columns of the table that describes the bindings of a view to `read_view`.
(
    B_TABLE,
    B_LANE,
    B_LANE_END,
    B_WINDOW,
    B_WINDOW_END,
    B_FEATURE,
    B_FEATURE_END,
    B_BASE_WORDS,
    B_COLUMNS,
    B_SLOT,
    B_TTL,
    B_ROWS,
    B_TILE,
    B_FLAG,
    B_GROWING,
) = range(15)


def group_binding(layout: GroupLayout, spans: Sequence[int], slot: int) -> list[int]:
    """The row of a group in the table of bindings; `spans` are where its lanes, windows and features begin and end."""
    flag = 1 + layout.width if layout.flagged else -1
    return [
        0, *spans, layout.base_words, layout.width, slot, -1, layout.rows, 1 + layout.tile_words, flag,
        layout.has_states,
    ]  # fmt: skip


# Words at the head of a window record and of a table record (`records.py`).
W_FORMAT, W_COUNT, W_CUT, W_CLOCK, W_TILES, W_TAIL, W_PARTITIONS, W_HEAD = range(8)
T_FORMAT, T_COUNT, T_CLOCK, T_TAIL, T_FLOOR, T_HEAD = range(6)
TOO_OLD, OTHER_FORMAT = -2, -3
"""Instead of a row: the record no longer holds what a read at this time needs; it is of another format."""


@njit(cache=True, nogil=True)
def read_view(  # type: ignore[no-untyped-def]
    i8,
    starts,
    t,
    bindings,
    lanes,
    windows,
    features,
    pointers,
    out,
    valid,
    rows,
    lane,
    work,
    other,
    bounds,
    tally,
    limits,
):
    """Read all bindings of a view for each request: `starts[r, b]` is the word where the record begins, or -1.

    `rows[r, b]` is set to the row that a table binding took (for values that are not 8-byte words), -1 for none,
    TOO_OLD for a time that the record does not reach back to, OTHER_FORMAT for such a record of a window. Returns how
    many of them are either.
    """
    f8, out_f8 = i8.view(np.float64), out.view(np.float64)
    refused = 0
    for r in range(starts.shape[0]):
        for b in range(bindings.shape[0]):
            at = starts[r, b]
            slot = bindings[b, B_SLOT]
            if bindings[b, B_TABLE]:
                n = i8[at + T_COUNT] if at >= 0 else 0
                first = at + T_HEAD
                rows[r, b] = read_table(
                    i8,
                    first,
                    first + n,
                    first + 2 * n,
                    first + 3 * n,
                    first + 4 * n,
                    n,
                    n,
                    bindings[b, B_COLUMNS],
                    t[r],
                    bindings[b, B_TTL],
                    -1,
                    out[r],
                    valid[r],
                    slot,
                )
                if at >= 0 and i8[at + T_FLOOR] != _NULL and t[r] <= i8[at + T_FLOOR]:
                    rows[r, b] = TOO_OLD
                    refused += 1
                continue
            rows[r, b] = -1
            n, base, times, flags, tiles, tile_count = 0, -1, 0, -1, 0, 0
            if at >= 0 and i8[at + W_FORMAT] != FORMAT:
                rows[r, b] = OTHER_FORMAT
                refused += 1
                at = -1
            if at >= 0:
                n, tile_count = i8[at + W_COUNT], i8[at + W_TILES]
                base = at + W_HEAD + i8[at + W_PARTITIONS]
                tiles = base + bindings[b, B_BASE_WORDS]
                if bindings[b, B_GROWING]:
                    tiles += i8[tiles - 1]
                times = tiles + tile_count * bindings[b, B_TILE]
                if bindings[b, B_BASE_WORDS] == 0:
                    base = -1
                if bindings[b, B_FLAG] >= 0 and (base >= 0 or tile_count):
                    flags = times + bindings[b, B_FLAG] * n
            read_group(
                i8,
                f8,
                times,
                times + n,
                n,
                n,
                flags,
                tiles,
                tile_count,
                base,
                lanes[bindings[b, B_LANE] : bindings[b, B_LANE_END]],
                windows[bindings[b, B_WINDOW] : bindings[b, B_WINDOW_END]],
                features[bindings[b, B_FEATURE] : bindings[b, B_FEATURE_END]],
                pointers[bindings[b, B_LANE] : bindings[b, B_LANE_END]],
                t[r],
                -1,
                -1,
                -1,
                limits,
                out[r],
                out_f8[r],
                valid[r],
                slot,
                lane,
                work,
                other,
                bounds,
                tally,
            )
            if bindings[b, B_ROWS]:
                read_rows(
                    i8,
                    f8,
                    times,
                    times + n,
                    n,
                    n,
                    flags,
                    tiles,
                    tile_count,
                    lanes[bindings[b, B_LANE] : bindings[b, B_LANE_END]],
                    windows[bindings[b, B_WINDOW] : bindings[b, B_WINDOW_END]],
                    features[bindings[b, B_FEATURE] : bindings[b, B_FEATURE_END]],
                    t[r],
                    -1,
                    -1,
                    limits,
                    out[r],
                    out_f8[r],
                    valid[r],
                    slot,
                    lane,
                    work,
                    tally,
                )
    return refused


@njit(cache=True)
def _forward(words, at, low, high, t):  # type: ignore[no-untyped-def]
    """Index of the first of the sorted `words[at + low:at + high]` that is >= t; the oldest are tried first."""
    step = 1
    while low + step <= high and words[at + low + step - 1] < t:
        low += step
        step *= 2
    right = min(high, low + step - 1)
    while low < right:
        middle = (low + right) >> 1
        if words[at + middle] < t:
            low = middle + 1
        else:
            right = middle
    return low


@njit(cache=True)
def _spans(i8, times, n, windows, moments, spans):  # type: ignore[no-untyped-def]
    """Rows of each window of each request; returns the first and last of them all, and how many rows walks would add.

    The requests' `moments` are in order, so that no edge goes back.
    """
    start, stop, walks = n, np.int64(0), np.int64(0)
    for w in range(windows.shape[0]):
        first = last = np.int64(0)
        for j in range(len(moments)):
            lo, hi = window_edges(windows, w, moments[j])
            last = _forward(i8, times, last, n, hi)
            if windows[w, WINDOW_LENGTH] != LIFETIME:
                first = _forward(i8, times, first, last, lo)
            spans[w, 0, j], spans[w, 1, j] = first, last
            walks = walks + last - first
        if len(moments):
            start, stop = min(start, spans[w, 0, 0]), max(stop, last)
    return start, max(start, stop), walks // windows.shape[0]


@njit(cache=True, nogil=True)
def read_history(  # type: ignore[no-untyped-def]
    i8,
    f8,
    times,
    columns,
    stride,
    edges,
    asked,
    asked_times,
    asked_edges,
    lanes,
    windows,
    features,
    pointers,
    offsets,
    partitions,
    highest,
    limits,
    out,
    out_f8,
    valid,
    slot,
    lane,
    work,
    other,
    bounds,
    tally,
):
    """Read one group for each request over sorted history.

    The rows of entity e are `edges[e]` to `edges[e + 1]`; its requests, in order of time, are
    `asked[asked_edges[e]:asked_edges[e + 1]]`, and `asked_times` are theirs; an entity may have no rows. Where requests
    overlap much, lanes are read from running totals (`prefixes.py`), else each request walks its windows.

    `offsets` negative reads corrected history. Else `limits[r]` are the first offsets not known, and `highest` is where
    the running maximum of each entity's offsets lies (partition 0 only; NULL-like maximum where there are several).
    """
    row_by_row = False
    for f in range(features.shape[0]):
        row_by_row = row_by_row or features[f, FEATURE_CODE] >= RATE
    most_rows = most_asked = np.int64(0)
    for e in range(len(edges) - 1):
        if asked_edges[e + 1] > asked_edges[e]:
            most_rows = max(most_rows, edges[e + 1] - edges[e])
            most_asked = max(most_asked, asked_edges[e + 1] - asked_edges[e])
    spans = np.empty((windows.shape[0], 2, most_asked), np.int64)
    walked = np.empty(most_asked, np.bool_)
    tops = np.empty(most_asked, np.int64)
    totals = np.empty((most_rows + 1) * WORDS, np.int64)
    places = np.empty(most_rows + 1, np.int64)
    row_places = np.empty(most_rows + 1, np.int64)
    low_stack = np.empty(most_rows + 1, np.int64)
    high_stack = np.empty(most_rows + 1, np.int64)
    for e in range(len(edges) - 1):
        requests = asked[asked_edges[e] : asked_edges[e + 1]]
        if not len(requests):
            continue
        moments = asked_times[asked_edges[e] : asked_edges[e + 1]]
        first, n = edges[e], edges[e + 1] - edges[e]
        start, stop, walks = _spans(i8, times + first, n, windows, moments, spans)
        slide = walks >= stop - start
        last = np.int64(0)
        for j in range(len(requests)):
            r = requests[j]
            tops[j] = -1
            walked[j] = not slide
            if offsets >= 0:
                # Rows at or past t cannot be read, so the greatest offset among the rows before t decides.
                last = _forward(i8, times + first, last, n, moments[j])
                if last > 0:
                    tops[j] = i8[highest + first + last - 1]
                walked[j] = walked[j] or tops[j] >= limits[r, 0]
        for index in range(lanes.shape[0]):
            done = slide and read_lane(
                i8,
                f8,
                times + first,
                columns + first,
                stride,
                lanes[index],
                windows,
                features,
                pointers[index],
                requests,
                moments,
                walked,
                spans,
                start,
                stop,
                totals,
                places,
                row_places,
                low_stack,
                high_stack,
                out,
                out_f8,
                valid,
                slot,
                work,
                other,
                tally,
            )
            for j in range(len(requests)):
                if done and not walked[j]:
                    continue
                r = requests[j]
                read_group(
                    i8,
                    f8,
                    times + first,
                    columns + first,
                    stride,
                    n,
                    -1,
                    0,
                    0,
                    -1,
                    lanes[index : index + 1],
                    windows,
                    features,
                    pointers[index : index + 1],
                    moments[j],
                    offsets + first if offsets >= 0 else -1,
                    partitions + first,
                    tops[j],
                    limits[r],
                    out[r],
                    out_f8[r],
                    valid[r],
                    slot,
                    lane,
                    work,
                    other,
                    bounds,
                    tally,
                )
        for j in range(len(requests) if row_by_row else 0):
            r = requests[j]
            read_rows(
                i8,
                f8,
                times + first,
                columns + first,
                stride,
                n,
                -1,
                0,
                0,
                lanes,
                windows,
                features,
                moments[j],
                offsets + first if offsets >= 0 else -1,
                partitions + first,
                limits[r],
                out[r],
                out_f8[r],
                valid[r],
                slot,
                lane,
                work,
                tally,
            )
