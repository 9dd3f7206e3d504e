"""The compiled reading of windows by a walk: used online, offline and as served.

The events of an entity lie in order of (event time, id, partition, offset) as columns of 8-byte words: times, then the
group's input columns. A read at t:

1. For each window take its edges (`window_edges`), and find the first event at or past the upper one.
2. Per lane (one input under one condition) walk from there towards older events, adding each event once; whenever the
   walk crosses the `lo` of a window, finish that window's features from what has been added so far.
3. Tiles (`tiles.py`) stand for events that no edge can come between any more; each is added like an event at its start.
   Of the rows in a tile, those that first and last need are still there, marked as counted already.
4. The lifetime window comes last: the state of events older than the cut is in the lane's base words, which are
   simply added.

A lane's additive words are exact (`exact.py`), so every order and split gives the same bits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headrace.aggregations.codes import (
    ALL,
    ANY,
    COUNT,
    COUNT_VALID,
    FIRST,
    LAST,
    LEAST,
    MEAN,
    MIN,
    MOST,
    SHARE,
    SINCE_FIRST,
    SINCE_LAST,
    SQUARES,
    STD,
    SUM,
    SUMS,
    TRUES,
    VAR,
)
from headrace.aggregations.exact import (
    DIGIT,
    add_float,
    add_square,
)
from headrace.aggregations.lanes import (
    AT_INT_HIGH,
    AT_INT_LOW,
    AT_ROWS,
    AT_SQUARE,
    AT_SUM,
    AT_TRUES,
    AT_VALID,
    AT_WIDE,
    EXTREMES,
    FLOAT,
    NULLABLE_INT,
    ROWS,
    SMALL,
    add_row,
    add_tile_sum,
    carry_whole,
    clear,
    lane_size,
    present,
    quotient,
    variance,
)
from headrace.core.time import NULL_US

# Columns of the plan's tables.
LANE_COLUMN, LANE_KIND, LANE_WHERE, LANE_OPS, LANE_BASE, LANE_VALIDITY, LANE_TILE = range(7)
WINDOW_LENGTH, WINDOW_HOP, WINDOW_DELAY, WINDOW_RESOLUTION = range(4)
FEATURE_LANE, FEATURE_WINDOW, FEATURE_CODE, FEATURE_PARAM, FEATURE_BOOL = range(5)

LIFETIME = -1
_NULL = np.int64(NULL_US)


@njit(cache=True, inline="always")
def window_edges(windows, w, t):  # type: ignore[no-untyped-def]
    """Edges (lo, hi) of window w for a read at t: its events are those with lo <= time < hi (design 4.2).

    The lifetime has no lower edge; what is returned for it says nothing.
    """
    hi = t - windows[w, WINDOW_DELAY]
    hi -= hi % windows[w, WINDOW_RESOLUTION]
    lo = hi - windows[w, WINDOW_LENGTH]
    lo -= lo % windows[w, WINDOW_HOP]
    return lo, hi


@njit(cache=True)
def first_at_or_after(words, at, low, high, t):  # type: ignore[no-untyped-def]
    """Index of the first of the sorted `words[at + low:at + high]` that is >= t; newest positions are tried first."""
    step = 1
    while high - step >= low and words[at + high - step] >= t:
        step *= 2
    left = max(low, high - step)
    right = min(high, high - (step >> 1))
    while left < right:
        middle = (left + right) >> 1
        if words[at + middle] < t:
            left = middle + 1
        else:
            right = middle
    return left


@njit(cache=True)
def float_bits(value, f8, i8, at):  # type: ignore[no-untyped-def]
    f8[at] = value
    return i8[at]


@njit(cache=True, inline="always")
def write_plain(  # type: ignore[no-untyped-def]
    i8,
    f8,
    times,
    column,
    kind,
    code,
    boolean,
    t,
    rows,
    count,
    trues,
    first,
    last,
    first_row,
    last_row,
    low_f,
    high_f,
    low_i,
    high_i,
    held,
    out,
    out_f8,
    valid,
    target,
):
    """Write a feature that is no arithmetic: a count, a share, a time since, or one of the values (`held`: any).

    `first`, `last` are rows with a value, `first_row`, `last_row` rows at all; -1 for none.
    """
    ok = True
    result = np.int64(0)
    if code == COUNT:
        result = rows
    elif code == COUNT_VALID:
        result = count
    elif code == SHARE:
        ok = count > 0
        if ok:
            result = float_bits(float(trues) / float(count), out_f8, out, target)
    elif code == ANY:
        ok = count > 0
        result = np.int64(1 if trues > 0 else 0)
    elif code == ALL:
        ok = count > 0
        result = np.int64(1 if trues == count else 0)
    elif code == SINCE_LAST or code == SINCE_FIRST:
        row = last_row if code == SINCE_LAST else first_row
        ok = row >= 0
        if ok:
            result = t - i8[times + row]
    else:
        ok = held
        if ok and code == FIRST:
            result = i8[column + first]
        elif ok and code == LAST:
            result = i8[column + last]
        elif ok and kind == FLOAT:
            result = float_bits(low_f if code == MIN else high_f, out_f8, out, target)
        elif ok:
            result = low_i if code == MIN else high_i
        if ok and boolean:
            out[target] = result
            result = np.int64(1 if out_f8[target] == 1.0 else 0)
    out[target] = result if ok else 0
    valid[target] = ok


@njit(cache=True)
def read_group(  # type: ignore[no-untyped-def]
    i8,
    f8,
    times,
    columns,
    stride,
    n,
    flags,
    tiles,
    tile_count,
    base,
    lanes,
    windows,
    features,
    pointers,
    t,
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
    """Read all features of one group for one entity at t into `out[slot:]` and `valid[slot:]`.

    `times`, `columns`, `base` are word indices into `i8`/`f8` (two views of the same words): where the entity's n
    event times start, where its column 0 starts (column c: `columns + c * stride`), where its base words start (-1:
    none). `flags` is where the words start that say of each row whether tiles or base count it already (-1: no row is).
    `tiles` is where the starts of `tile_count` tiles begin; their columns follow. `offsets`/`partitions`: word indices
    of each event's log offset and partition, -1 to count every event; else
    only events below `limits[partition]` count (`highest`: no offset of these events is greater, when there is one
    partition). `pointers[l, w]` is the first feature of lane l and window w;
    features are sorted by (lane, window). `tally[0]` counts overflows.
    """
    window_count = windows.shape[0]
    # Of each window its rows (first, last + 1), its place in the order of lower edges, its tiles, and its lower edge.
    newest, newest_hi = np.int64(0), _NULL
    for w in range(window_count):
        lo, hi = window_edges(windows, w, t)
        # Most windows of a group end at the same place.
        if hi != newest_hi:
            newest, newest_hi = first_at_or_after(i8, times, 0, n, hi), hi
        stop = newest
        start = np.int64(0)
        if windows[w, WINDOW_LENGTH] == LIFETIME:
            lo = _NULL
        else:
            start = first_at_or_after(i8, times, 0, stop, lo)
        bounds[0, w] = start
        bounds[1, w] = stop
        bounds[5, w] = lo
        if tile_count:
            stop = first_at_or_after(i8, tiles, 0, tile_count, hi)
            bounds[3, w] = first_at_or_after(i8, tiles, 0, stop, lo)
            bounds[4, w] = stop
        # Insertion by (delay, lower edge descending); the lifetime comes last of its delay.
        place = w
        while place > 0:
            before = bounds[2, place - 1]
            if windows[before, WINDOW_DELAY] < windows[w, WINDOW_DELAY] or (
                windows[before, WINDOW_DELAY] == windows[w, WINDOW_DELAY] and bounds[5, before] >= lo
            ):
                break
            bounds[2, place] = before
            place -= 1
        bounds[2, place] = w
    for index in range(lanes.shape[0]):
        column = columns + lanes[index, LANE_COLUMN] * stride
        kind, ops = lanes[index, LANE_KIND], lanes[index, LANE_OPS]
        where = columns + lanes[index, LANE_WHERE] * stride if lanes[index, LANE_WHERE] >= 0 else -1
        validity = columns + lanes[index, LANE_VALIDITY] * stride if kind == NULLABLE_INT else -1
        delay = np.int64(-1)
        i = tile = 0
        held = False
        first = last = first_row = last_row = np.int64(-1)
        low_f = high_f = 0.0
        low_i = high_i = np.int64(0)
        rows = present_rows = trues = int_low = np.int64(0)
        # Without conditions on single rows the walk is a tight loop.
        plain = where < 0 and flags < 0 and (offsets < 0 or highest < limits[0])
        wanted = 0
        for order in range(window_count):
            if pointers[index, bounds[2, order]] != pointers[index, bounds[2, order] + 1]:
                wanted = order + 1
        for order in range(wanted):
            w = bounds[2, order]
            if windows[w, WINDOW_DELAY] != delay:
                delay = windows[w, WINDOW_DELAY]
                i = bounds[1, w] - 1
                tile = bounds[4, w] - 1
                clear(lane, ops)
                held = False
                first = last = first_row = last_row = -1
            lifetime = windows[w, WINDOW_LENGTH] == LIFETIME
            stop = bounds[0, w]
            if plain and kind == ROWS and i >= stop:
                first_row = stop
                if last_row < 0:
                    last_row = i
                rows += i - stop + 1
                i = stop - 1
            elif plain and kind == FLOAT and i >= stop:
                first_row = stop
                if last_row < 0:
                    last_row = i
                rows += i - stop + 1
                while i >= stop:
                    value = f8[column + i]
                    if value == value:
                        if last < 0:
                            last = i
                        if not held:
                            held = True
                            low_f = high_f = value
                        first = i
                        present_rows += 1
                        if ops & TRUES and value == 1.0:
                            trues += 1
                        if ops & EXTREMES:
                            low_f = min(low_f, value)
                            high_f = max(high_f, value)
                        if ops & SUMS:
                            whole = np.int64(value) if -SMALL < value < SMALL else np.int64(0)
                            if float(whole) == value:
                                int_low += whole
                            else:
                                lane[AT_WIDE] += 1
                                add_float(lane, AT_SUM, i8[column + i])
                        if ops & SQUARES:
                            add_square(lane, AT_SQUARE, i8[column + i])
                    i -= 1
            while i >= stop:
                if offsets >= 0 and i8[offsets + i] >= limits[i8[partitions + i]]:
                    i -= 1
                    continue
                if where >= 0 and f8[where + i] != 1.0:
                    i -= 1
                    continue
                # A row that a tile or the base counts already is here for first and last only.
                folded = flags >= 0 and i8[flags + i] != 0
                if not folded:
                    rows += 1
                first_row = i
                if last_row < 0:
                    last_row = i
                if kind != ROWS and present(i8, f8, kind, column + i, validity + i):
                    if not folded:
                        add_row(i8, f8, kind, ops, column + i, lane, 0)
                    if ops & EXTREMES:
                        if kind == FLOAT:
                            low_f = min(low_f, f8[column + i]) if held else f8[column + i]
                            high_f = max(high_f, f8[column + i]) if held else f8[column + i]
                        else:
                            low_i = min(low_i, i8[column + i]) if held else i8[column + i]
                            high_i = max(high_i, i8[column + i]) if held else i8[column + i]
                    held = True
                    first = i
                    if last < 0:
                        last = i
                i -= 1
            if tile_count and tile >= bounds[3, w]:
                oldest = bounds[3, w]
                at = tiles + (1 + lanes[index, LANE_TILE]) * tile_count
                if kind == ROWS:
                    for k in range(oldest, tile + 1):
                        rows += i8[at + k]
                else:
                    valid_at = at
                    for k in range(oldest, tile + 1):
                        present_rows += i8[at + k]
                    at += tile_count
                    if ops & TRUES:
                        for k in range(oldest, tile + 1):
                            trues += i8[at + k]
                        at += tile_count
                    if ops & SUMS:
                        add_tile_sum(i8, at, tile_count, oldest, tile + 1, kind, ops, lane)
                        at += (6 if ops & SQUARES else 2) * tile_count
                    if ops & EXTREMES:
                        low_at = at
                        high_at = at + tile_count if ops & LEAST and ops & MOST else at
                        for k in range(oldest, tile + 1):
                            if i8[valid_at + k] == 0:
                                continue
                            if kind == FLOAT:
                                low_f = min(low_f, f8[low_at + k]) if held else f8[low_at + k]
                                high_f = max(high_f, f8[high_at + k]) if held else f8[high_at + k]
                            else:
                                low_i = min(low_i, i8[low_at + k]) if held else i8[low_at + k]
                                high_i = max(high_i, i8[high_at + k]) if held else i8[high_at + k]
                            held = True
                tile = oldest - 1
            lane[AT_ROWS] += rows
            lane[AT_VALID] += present_rows
            lane[AT_TRUES] += trues
            lane[AT_INT_LOW] += int_low
            rows = present_rows = trues = int_low = np.int64(0)
            if lifetime and base >= 0 and lanes[index, LANE_BASE] >= 0:
                at = base + lanes[index, LANE_BASE]
                size = lane_size(ops)
                for k in range(size):
                    lane[k] += i8[at + k]
                if ops & EXTREMES and i8[at + AT_VALID] > 0:
                    at += size
                    if kind == FLOAT:
                        low_f = min(low_f, f8[at]) if held else f8[at]
                        high_f = max(high_f, f8[at + 1]) if held else f8[at + 1]
                    else:
                        low_i = min(low_i, i8[at]) if held else i8[at]
                        high_i = max(high_i, i8[at + 1]) if held else i8[at + 1]
                    held = True
            if kind != FLOAT or lane[AT_INT_HIGH] != 0:
                carry_whole(lane)
            for f in range(pointers[index, w], pointers[index, w + 1]):
                code = features[f, FEATURE_CODE]
                target = slot + f
                count = lane[AT_VALID]
                ok = True
                result = np.int64(0)
                if code != SUM and code != MEAN and code != VAR and code != STD:
                    write_plain(
                        i8, f8, times, column, kind, code, features[f, FEATURE_BOOL], t, lane[AT_ROWS], count,
                        lane[AT_TRUES], first, last, first_row, last_row, low_f, high_f, low_i, high_i,
                        held or last >= 0, out, out_f8, valid, target,
                    )  # fmt: skip
                    continue
                if code == SUM and kind != FLOAT:
                    ok = count > 0
                    high = lane[AT_INT_HIGH] + (lane[AT_INT_LOW] >> 32)
                    if ok and not -(1 << 31) <= high < (1 << 31):
                        ok = False
                        tally[0] += 1
                    result = (high << 32) + (lane[AT_INT_LOW] & DIGIT) if ok else np.int64(0)
                elif code == SUM or code == MEAN:
                    ok = count > 0
                    if ok:
                        value = quotient(lane, count if code == MEAN else 1, work)
                        if math.isinf(value):
                            ok = False
                            tally[0] += 1
                        else:
                            result = float_bits(value + 0.0, out_f8, out, target)
                else:
                    freedom = features[f, FEATURE_PARAM]
                    ok = count > freedom
                    if ok:
                        value = variance(lane, kind, count, freedom, work, other)
                        if math.isinf(value):
                            ok = False
                            tally[0] += 1
                        else:
                            if code == STD:
                                value = math.sqrt(value)
                            result = float_bits(value, out_f8, out, target)
                out[target] = result if ok else 0
                valid[target] = ok
