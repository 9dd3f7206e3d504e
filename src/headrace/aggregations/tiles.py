"""Tiles: the state of many events of one entity in a few words, so that a record does not grow with its events.

A read takes events from `lo` on to before `hi`, and both edges are multiples of something: of the resolution near the
newest event, of the hops of the windows that reach further than that. Between two places where an edge may fall nothing
tells events apart, so they may be one tile. The further back, the fewer windows have an edge there and the coarser the
tiles; every level's tile is a multiple of the one before, so tiles merge into tiles (`GroupLayout.levels`).

A tile is made of the events of an interval where that takes fewer words than the events do, which depends on the events
of the interval alone and not on how they came. An event whose value does not fit a tile's narrow sums stays an event.
Of the events in a tile those that first, last and different values need stay too, and are marked as counted.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headrace.aggregations.codes import LEAST, MOST, SQUARES, SUMS, TRUES
from headrace.aggregations.exact import SUM_WORDS, normalise, turned
from headrace.aggregations.kept import keep_rows
from headrace.aggregations.kernel import (
    LANE_BASE,
    LANE_COLUMN,
    LANE_KIND,
    LANE_OPS,
    LANE_TILE,
    LANE_VALIDITY,
    LANE_WHERE,
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
    ONE,
    ROWS,
    TILE_SQUARE,
    TILE_SQUARE_DIGITS,
    TILE_SUM,
    add_row,
    add_tile_sum,
    add_whole,
    clear,
    lane_size,
    present,
    settle,
)
from headrace.core.time import NULL_US

LEVEL_GRANULE, LEVEL_AGE, LEVEL_STEP = range(3)
ALWAYS = -1
"""Age of a level whose tiles may hold the newest events."""
EVER = np.int64(2**62)
_NULL = np.int64(NULL_US)
LEAST_VALUE = 2.0**-30
"""Floats from here on have their last bit at or above the first digit of a tile."""
MOST_SUM, _MOST_SQUARES = 2.0**44, 2.0**90
"""Half of what the digits of a tile can hold, so that these may be estimated in float64."""


@njit(cache=True)
def cut_of(levels, level, clock):  # type: ignore[no-untyped-def]
    """Events before this time may be in tiles of a level. `levels` holds ages with the as-of horizon added."""
    if levels[level, LEVEL_AGE] == ALWAYS:
        return EVER
    cut = clock - levels[level, LEVEL_AGE]
    return cut - cut % levels[level, LEVEL_STEP]


@njit(cache=True, inline="always")
def interval_of(time, levels, cuts):  # type: ignore[no-untyped-def]
    """Start of the interval that an event's tile would have, or -EVER where there are no tiles."""
    for level in range(len(cuts) - 1, -1, -1):
        if time < cuts[level]:
            return time - time % levels[level, LEVEL_GRANULE]
    return -EVER


@njit(cache=True)
def _wanted(i8, f8, columns, stride, i, lane):  # type: ignore[no-untyped-def]
    """0: the row is none of the lane's; 1: it is, without a value; 2: with one."""
    where, kind = lane[LANE_WHERE], lane[LANE_KIND]
    if where >= 0 and f8[columns + where * stride + i] != 1.0:
        return 0
    if kind == ROWS:
        return 1
    value_at = columns + lane[LANE_COLUMN] * stride + i
    validity_at = columns + lane[LANE_VALIDITY] * stride + i
    return 2 if present(i8, f8, kind, value_at, validity_at) else 1


@njit(cache=True)
def fold_rows(i8, f8, columns, stride, start, stop, lanes, base):  # type: ignore[no-untyped-def]
    """Add the rows `start` to `stop` to the base words of every lane that has some, and settle them."""
    for index in range(lanes.shape[0]):
        lane, at = lanes[index], lanes[index, LANE_BASE]
        if at < 0:
            continue
        kind, ops = lane[LANE_KIND], lane[LANE_OPS]
        for i in range(start, stop):
            wanted = _wanted(i8, f8, columns, stride, i, lane)
            if wanted == 0:
                continue
            base[at + AT_ROWS] += kind == ROWS
            if wanted == 2:
                value_at = columns + lane[LANE_COLUMN] * stride + i
                add_row(i8, f8, kind, ops, value_at, base, at)
                if ops & EXTREMES:
                    _widen(base, at + lane_size(ops), base[at + AT_VALID] == 1, kind, i8[value_at], i8[value_at])
        settle(base, at, kind, ops)


@njit(cache=True, inline="always")
def _rank(bits, kind):  # type: ignore[no-untyped-def]
    """An integer that is greater for greater values."""
    return turned(bits) if kind == FLOAT else bits


@njit(cache=True)
def _widen(words, at, first, kind, low, high):  # type: ignore[no-untyped-def]
    """Let the least and the greatest value at `words[at:at + 2]` take in the bits of two more."""
    if first:
        words[at], words[at + 1] = low, high
        return
    if _rank(low, kind) < _rank(words[at], kind):
        words[at] = low
    if _rank(high, kind) > _rank(words[at + 1], kind):
        words[at + 1] = high


@njit(cache=True)
def keep_edges(i8, f8, columns, stride, start, stop, lanes, needed, keep):  # type: ignore[no-untyped-def]
    """Mark in `keep` the first and the last of the rows `start` to `stop`, with and without a value, of each lane that
    `needed` says yes to."""
    for index in range(lanes.shape[0]):
        if not needed[index]:
            continue
        first = first_row = True
        last = last_row = -1
        for i in range(start, stop):
            wanted = _wanted(i8, f8, columns, stride, i, lanes[index])
            if wanted == 0:
                continue
            if first_row:
                keep[i] = True
                first_row = False
            last_row = i
            if wanted == 2:
                if first:
                    keep[i] = True
                    first = False
                last = i
        if last_row >= 0:
            keep[last_row] = True
        if last >= 0:
            keep[last] = True


@njit(cache=True)
def _load(i8, f8, tiles, count, tile, lane, words, at):  # type: ignore[no-untyped-def]
    """Add a tile's words of one lane to its full words at `words[at:]`, the extremes after them."""
    kind, ops = lane[LANE_KIND], lane[LANE_OPS]
    column = tiles + (1 + lane[LANE_TILE]) * count
    if kind == ROWS:
        words[at + AT_ROWS] += i8[column + tile]
        return
    valid = i8[column + tile]
    first = words[at + AT_VALID] == 0
    words[at + AT_VALID] += valid
    column += count
    if ops & TRUES:
        words[at + AT_TRUES] += i8[column + tile]
        column += count
    if ops & SUMS:
        add_tile_sum(i8, column, count, tile, tile + 1, kind, ops, words[at:])
        column += (2 + TILE_SQUARE_DIGITS // 2 if ops & SQUARES else 2) * count
    if ops & EXTREMES and valid:
        high = column + count if ops & LEAST and ops & MOST else column
        _widen(words, at + lane_size(ops), first, kind, i8[column + tile], i8[high + tile])


@njit(cache=True)
def fold_tiles(i8, f8, tiles, count, stop, lanes, base):  # type: ignore[no-untyped-def]
    """Add the first `stop` of `count` tiles at word `tiles` to the base words, and settle them."""
    for index in range(lanes.shape[0]):
        at = lanes[index, LANE_BASE]
        if at < 0 or not stop:
            continue
        for tile in range(stop):
            _load(i8, f8, tiles, count, tile, lanes[index], base, at)
        settle(base, at, lanes[index, LANE_KIND], lanes[index, LANE_OPS])


@njit(cache=True)
def fold_base(more, lanes, base):  # type: ignore[no-untyped-def]
    """Add the base words of other events to base words, and settle them."""
    for index in range(lanes.shape[0]):
        at, ops = lanes[index, LANE_BASE], lanes[index, LANE_OPS]
        if at < 0:
            continue
        size = lane_size(ops)
        if ops & EXTREMES and more[at + AT_VALID] > 0:
            first = base[at + AT_VALID] == 0
            _widen(base, at + size, first, lanes[index, LANE_KIND], more[at + size], more[at + size + 1])
        for k in range(at, at + size):
            base[k] += more[k]
        settle(base, at, lanes[index, LANE_KIND], ops)


@njit(cache=True)
def _store(words, at, lane, out, tile):  # type: ignore[no-untyped-def]
    """Write a lane's full words as tile `tile` of `out`; they must fit."""
    kind, ops = lane[LANE_KIND], lane[LANE_OPS]
    row = 1 + lane[LANE_TILE]
    if kind == ROWS:
        out[row, tile] = words[at + AT_ROWS]
        return
    out[row, tile] = words[at + AT_VALID]
    row += 1
    if ops & TRUES:
        out[row, tile] = words[at + AT_TRUES]
        row += 1
    settle(words, at, kind, ops)
    low, high = words[at + AT_INT_LOW], words[at + AT_INT_HIGH]
    if ops & SUMS and kind != FLOAT:
        out[row, tile], out[row + 1, tile] = low, high
        row += 2
    elif ops & SUMS:
        to = at + AT_SUM + TILE_SUM
        add_whole(words, at + AT_SUM + ONE, low, high)
        normalise(words, at + AT_SUM, SUM_WORDS)
        out[row, tile] = words[to] | (words[to + 1] << 32)
        out[row + 1, tile] = words[to + 2] | (words[to + 3] << 32)
        row += 2
    if ops & SQUARES:
        to = at + AT_SQUARE + TILE_SQUARE
        for word in range(TILE_SQUARE_DIGITS // 2):
            out[row, tile] = words[to + 2 * word] | (words[to + 2 * word + 1] << 32)
            row += 1
    # Without a value the extremes are those of whatever used the words before.
    some = words[at + AT_VALID] > 0
    at += lane_size(ops)
    if ops & LEAST:
        out[row, tile] = words[at] if some else 0
        row += 1
    if ops & MOST:
        out[row, tile] = words[at + 1] if some else 0


@njit(cache=True)
def _value(i8, f8, kind, value_at):  # type: ignore[no-untyped-def]
    return abs(f8[value_at]) if kind == FLOAT else abs(float(i8[value_at]))


@njit(cache=True)
def _fits(i8, f8, columns, stride, i, lanes, sums):  # type: ignore[no-untyped-def]
    """True if the sums of a tile, whose sizes are `sums`, can take in the row."""
    for index in range(lanes.shape[0]):
        kind, ops = lanes[index, LANE_KIND], lanes[index, LANE_OPS]
        if ops & (SUMS | SQUARES) == 0 or _wanted(i8, f8, columns, stride, i, lanes[index]) < 2:
            continue
        value = _value(i8, f8, kind, columns + lanes[index, LANE_COLUMN] * stride + i)
        if kind == FLOAT and ((0.0 < value < LEAST_VALUE) or sums[index, 0] + value >= MOST_SUM):
            return False
        if ops & SQUARES and sums[index, 1] + value * value >= _MOST_SQUARES:
            return False
    return True


@njit(cache=True)
def _add(i8, f8, columns, stride, i, lanes, words, sums):  # type: ignore[no-untyped-def]
    """Add a row to the full words of every lane and to the sizes of their sums."""
    for index in range(lanes.shape[0]):
        lane = lanes[index]
        wanted = _wanted(i8, f8, columns, stride, i, lane)
        if wanted == 0:
            continue
        kind, ops = lane[LANE_KIND], lane[LANE_OPS]
        words[index, AT_ROWS] += kind == ROWS
        if wanted == 2:
            value_at = columns + lane[LANE_COLUMN] * stride + i
            add_row(i8, f8, kind, ops, value_at, words[index], 0)
            if ops & EXTREMES:
                first = words[index, AT_VALID] == 1
                _widen(words[index], lane_size(ops), first, kind, i8[value_at], i8[value_at])
            value = _value(i8, f8, kind, value_at)
            sums[index, 0] += value
            sums[index, 1] += value * value


@njit(cache=True)
def _sizes(words, lanes, sums):  # type: ignore[no-untyped-def]
    """Estimate how large the sums are that tiles have brought."""
    for index in range(lanes.shape[0]):
        total = float(words[index, AT_INT_LOW]) + math.ldexp(float(words[index, AT_INT_HIGH]), 32)
        squares = 0.0
        if lanes[index, LANE_KIND] == FLOAT and lanes[index, LANE_OPS] & SUMS and words[index, AT_WIDE]:
            for k in range(4):
                digit = float(words[index, AT_SUM + TILE_SUM + k])
                total += math.ldexp(digit, 32 * (TILE_SUM + k) - 1074)
        if lanes[index, LANE_OPS] & SQUARES:
            for k in range(TILE_SQUARE_DIGITS):
                digit = float(words[index, AT_SQUARE + TILE_SQUARE + k])
                squares += math.ldexp(digit, 32 * (TILE_SQUARE + k) - 2148)
        sums[index, 0], sums[index, 1] = abs(total), squares


@njit(cache=True, nogil=True)
def tile_rows(  # type: ignore[no-untyped-def]
    i8, f8, n, tiles, count, lanes, levels, cuts, fewest, needed, kept, apart, counted, keep, out, words
):
    """Tile what may be tiled; returns how many tiles there are then in `out`.

    `i8`, `f8` (two views of one buffer) hold the times of n rows, their columns, then at word `tiles` the starts of
    `count` tiles and their columns. `counted[i]` says that a tile (or the base) counts the row already, and is set for
    those that one counts now; no tile takes in what is marked in `apart`. `keep[i]` is set for the rows that the record
    still needs, those of the table `kept` (`kept.keep_rows`) and of lanes that `needed` says yes to among them. An
    interval gets its first tile from `fewest` rows on. `out` is int64 [1 + words of a tile, room for all], `words`
    int64 [lanes, LANE_WORDS + 2] of scratch.
    """
    sums = np.zeros((lanes.shape[0], 2))
    made = row = tile = 0
    while row < n or tile < count:
        at_row = interval_of(i8[row], levels, cuts) if row < n else EVER
        at_tile = interval_of(i8[tiles + tile], levels, cuts) if tile < count else EVER
        start = min(at_row if at_row != -EVER else EVER, at_tile)
        if start == EVER:
            keep[row:n] = True
            break
        row_end, tile_end, loose = row, tile, 0
        while row_end < n and interval_of(i8[row_end], levels, cuts) == start:
            loose += not counted[row_end] and not apart[row_end]
            row_end += 1
        while tile_end < count and interval_of(i8[tiles + tile_end], levels, cuts) == start:
            tile_end += 1
        if tile_end == tile and loose < fewest:
            keep[row:row_end] = True
            row = row_end
            continue
        if tile_end == tile + 1 and loose == 0 and i8[tiles + tile] == start:
            # Nothing is new here, and all rows are kept edges.
            for column in range(out.shape[0]):
                out[column, made] = i8[tiles + column * count + tile]
            made += 1
            keep[row:row_end] = True
            row, tile = row_end, tile_end
            continue
        for index in range(lanes.shape[0]):
            clear(words[index], lanes[index, LANE_OPS])
            for k in range(tile, tile_end):
                _load(i8, f8, tiles, count, k, lanes[index], words[index], 0)
        _sizes(words, lanes, sums)
        fitting = 0
        for i in range(row, row_end):
            if not counted[i] and not apart[i] and _fits(i8, f8, n, n, i, lanes, sums):
                _add(i8, f8, n, n, i, lanes, words, sums)
                counted[i] = True
                fitting += 1
            elif not counted[i]:
                keep[i] = True
        if tile_end == tile and fitting < fewest:
            counted[row:row_end] = False
            keep[row:row_end] = True
        else:
            keep_edges(i8, f8, n, n, row, row_end, lanes, needed, keep)
            keep_rows(i8, f8, n + row, n, row_end - row, kept, keep[row:row_end])
            out[0, made] = start
            for index in range(lanes.shape[0]):
                _store(words[index], 0, lanes[index], out, made)
            made += 1
        row, tile = row_end, tile_end
    return made


@njit(cache=True)
def to_tile(words, times, n, flags, tiles, count, levels, old_clock, clock, first, fewest):  # type: ignore[no-untyped-def]
    """True if `tile_rows` would change a record of n rows, the oldest new one of them at `first`.

    `old_clock` is the clock of the record before these rows came, NULL_US if there was none; what lies before the
    oldest change is not looked at.
    """
    cuts = np.empty(len(levels), np.int64)
    since = first
    for level in range(len(levels)):
        cuts[level] = cut_of(levels, level, clock)
        # Without a record before, nothing lies before the oldest new row.
        before = cut_of(levels, level, old_clock) if old_clock != _NULL else EVER
        if before < cuts[level]:
            since = min(since, before)
    at = interval_of(since, levels, cuts)
    if at == -EVER:
        return False
    tile, row = 0, 0
    while tile < count and words[tiles + tile] < at:
        tile += 1
    while row < n and words[times + row] < at:
        row += 1
    previous = -EVER
    for k in range(tile, count):
        start = interval_of(words[tiles + k], levels, cuts)
        if start == previous or start != words[tiles + k]:
            return True
        previous = start
    previous, loose = -EVER, 0
    for i in range(row, n):
        start = interval_of(words[times + i], levels, cuts)
        if start == -EVER:
            return False
        if start != previous:
            previous, loose = start, 0
            while tile < count and words[tiles + tile] < start:
                tile += 1
        if flags < 0 or words[flags + i] == 0:
            loose += 1
            if loose >= fewest or (tile < count and words[tiles + tile] == start):
                return True
    return False
