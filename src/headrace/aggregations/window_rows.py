"""Features that need the rows of their window one by one: rates, quantiles, skewness, numbers of different values.

The kernel's walk leaves them out, and views without them pay nothing. Each reads the rows of its window for itself, so
it costs its rows, whatever other windows there are; rates add up tiles too. Over the lifetime a record holds states for
them (`growing.py`), so there this pass reads them from history alone.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headrace.aggregations.codes import (
    APPROX_N_UNIQUE,
    DECAYED_SUM,
    GROWN,
    MOST_FREQUENT,
    N_UNIQUE,
    QUANTILE,
    QUANTILE_STEPS,
    RATE,
    SUMS,
    TRUES,
)
from headrace.aggregations.counted import counts, place_in, slots_for, word_of
from headrace.aggregations.decayed import (
    decayed,
)
from headrace.aggregations.exact import DIGIT, GUARD, SUM_WORDS, normalise, round_digits, take_magnitude
from headrace.aggregations.frequent import most_frequent
from headrace.aggregations.kernel import (
    FEATURE_BOOL,
    FEATURE_CODE,
    FEATURE_LANE,
    FEATURE_PARAM,
    FEATURE_WINDOW,
    LANE_COLUMN,
    LANE_KIND,
    LANE_OPS,
    LANE_TILE,
    LANE_VALIDITY,
    LANE_WHERE,
    LIFETIME,
    WINDOW_LENGTH,
    first_at_or_after,
    window_edges,
)
from headrace.aggregations.lanes import (
    AT_INT_HIGH,
    AT_INT_LOW,
    AT_SUM,
    AT_VALID,
    AT_WIDE,
    FLOAT,
    NULLABLE_INT,
    ONE,
    ROWS,
    add_row,
    add_tile_sum,
    add_whole,
    carry_whole,
    clear,
)
from headrace.aggregations.moments import skewness
from headrace.aggregations.sketch import estimate

_EXACT = 1 << 53


@njit(cache=True)
def _scaled(lane, unit, span, work):  # type: ignore[no-untyped-def]
    """`unit / span` times the lane's exact sum, rounded once; ±inf if too large for a float64.

    unit and span are positive, in µs and below 2^61.
    """
    low, high = lane[AT_INT_LOW], lane[AT_INT_HIGH]
    wide = lane[AT_WIDE] != 0
    room = _EXACT // unit
    if not wide and high == 0 and -room <= low <= room and span <= _EXACT:
        # Both are exact float64, so IEEE division rounds the quotient correctly.
        return float(low * unit) / float(span)
    total = GUARD + SUM_WORDS + 4
    # The sum, with the weights of the float words.
    digits = np.zeros(SUM_WORDS, np.int64)
    if wide:
        for k in range(SUM_WORDS):
            digits[k] = lane[AT_SUM + k]
    add_whole(digits, ONE, low, high)
    normalise(digits, 0, SUM_WORDS)
    negative = take_magnitude(digits, SUM_WORDS)
    # Times the unit, in pieces of 16 bits, so that no product passes 2^48.
    for k in range(total):
        work[k] = 0
    for k in range(SUM_WORDS):
        if digits[k] == 0:
            continue
        for piece in range(4):
            product = digits[k] * ((unit >> (16 * piece)) & 0xFFFF)
            at = GUARD + k + (piece >> 1)
            if piece & 1:
                work[at] += (product & 0xFFFF) << 16
                work[at + 1] += product >> 16
            else:
                work[at] += product & DIGIT
                work[at + 1] += product >> 32
    normalise(work, 0, total)
    # Long division bit by bit, as the span may be longer than a digit; 4 digits of the quotient are more than enough.
    left = np.int64(0)
    last = -1
    sticky = False
    for k in range(total - 1, -1, -1):
        digit = work[k]
        if k < last:
            sticky = sticky or digit != 0
            work[k] = 0
            continue
        result = np.int64(0)
        if left != 0 or digit != 0:
            for bit in range(31, -1, -1):
                left = (left << 1) | ((digit >> bit) & 1)
                result <<= 1
                if left >= span:
                    left -= span
                    result |= 1
        work[k] = result
        if last < 0 and result != 0:
            last = max(k - 3, 0)
    value = round_digits(work, total, -1074 - 32 * GUARD, sticky or left != 0)
    return -value if negative and value != 0.0 else value


@njit(cache=True)
def _add_tiles(i8, tiles, tile_count, first, stop, kind, ops, lane):  # type: ignore[no-untyped-def]
    """Add rows, or values and their sum, of the tiles `first` to `stop`; `tiles` is where their lane's words begin."""
    if kind == ROWS:
        for k in range(first, stop):
            lane[AT_INT_LOW] += i8[tiles + k]
        return
    for k in range(first, stop):
        lane[AT_VALID] += i8[tiles + k]
    sums = tiles + (2 if ops & TRUES else 1) * tile_count
    add_tile_sum(i8, sums, tile_count, first, stop, kind, SUMS, lane)


@njit(cache=True)
def rate(  # type: ignore[no-untyped-def]
    i8, f8, kind, ops, column, validity, where, offsets, partitions, limits, flags, start, stop, tiles, tile_count,
    first_tile, stop_tile, unit, span, lane, work,
):  # fmt: skip
    """Rows, or the sum of a column, times `unit / span`, rounded once; 0.0 without rows, NaN without values.

    `flags` is where the words begin that say of each row whether a tile counts it already (-1: none does), `tiles`
    where the lane's words of tiles do.
    """
    clear(lane, SUMS)
    _add_tiles(i8, tiles, tile_count, first_tile, stop_tile, kind, ops, lane)
    for i in range(start, stop):
        if flags >= 0 and i8[flags + i] != 0:
            continue
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            if kind == ROWS:
                lane[AT_INT_LOW] += 1
            else:
                add_row(i8, f8, kind, SUMS, column + i, lane, 0)
    if kind != ROWS and lane[AT_VALID] == 0:
        return np.nan
    if kind == NULLABLE_INT:
        carry_whole(lane)
    return _scaled(lane, unit, span, work) + 0.0


@njit(cache=True)
def bucket_of(i8, kind, at):  # type: ignore[no-untyped-def]
    """A number of 19 bits in the order of the values: sign, exponent and the first 7 bits of the mantissa."""
    bits = i8[at]
    if kind == FLOAT:
        magnitude = bits & 0x7FFFFFFFFFFFFFFF
        if magnitude == 0:
            return np.int64(0)
        # Zero is alone, so the others begin at 1; a tiny value may have no bits left.
        whole = (magnitude >> 45) + 1
    else:
        if bits == 0:
            return np.int64(0)
        fraction, exponent = math.frexp(abs(float(bits)))
        whole = (np.int64(exponent + 1021) << 7) + np.int64(math.ldexp(fraction, 8)) + 1
    return -whole if bits < 0 else whole


@njit(cache=True)
def midpoint(bucket):  # type: ignore[no-untyped-def]
    """The middle of a bucket's values."""
    if bucket == 0:
        return 0.0
    whole = abs(bucket) - 1
    exponent, mantissa = whole >> 7, ((whole & 127) << 45) + (1 << 44)
    if exponent > 0:
        value = math.ldexp(float(mantissa + (1 << 52)), exponent - 1075)
    else:
        value = math.ldexp(float(mantissa), -1074)
    return -value if bucket < 0 else value


@njit(cache=True, inline="always")
def rank_of(part, count):  # type: ignore[no-untyped-def]
    """max(1, ceil(q · count)), q = `part` / QUANTILE_STEPS."""
    return max(1, -((-part * count) // QUANTILE_STEPS))


@njit(cache=True)
def quantile(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, part
):
    """Midpoint of the bucket of the value of rank max(1, ceil(q · count)); NaN without values.

    q is `part` / QUANTILE_STEPS. Found digit by digit: the rows are counted by the upper half of their bucket's number,
    then those that share the half of the rank by the lower one.
    """
    count = np.int64(0)
    offset = 1 << 18
    upper = np.zeros(1_024, np.int64)
    for i in range(start, stop):
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            upper[(bucket_of(i8, kind, column + i) + offset) >> 9] += 1
            count += 1
    if count == 0:
        return np.nan
    rank = rank_of(part, count)
    half = 0
    while upper[half] < rank:
        rank -= upper[half]
        half += 1
    lower = np.zeros(512, np.int64)
    for i in range(start, stop):
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            number = bucket_of(i8, kind, column + i) + offset
            if number >> 9 == half:
                lower[number & 511] += 1
    rest = 0
    while lower[rest] < rank:
        rank -= lower[rest]
        rest += 1
    return midpoint((half << 9) + rest - offset)


@njit(cache=True)
def n_unique(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, cap
):
    """Number of different values; -1 if there are more than `cap`."""
    seen = np.empty(slots_for(min(cap, stop - start)), np.int64)
    used = np.zeros(len(seen), np.bool_)
    found = 0
    for i in range(start, stop):
        if not counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            continue
        word = word_of(i8, f8, kind, column + i)
        place = place_in(seen, used, word)
        if not used[place]:
            if found == cap:
                return -1
            used[place] = True
            seen[place] = word
            found += 1
    return found


@njit(cache=True)
def read_rows(  # type: ignore[no-untyped-def]
    i8, f8, times, columns, stride, n, flags, tiles, tile_count, lanes, windows, features, t, offsets, partitions,
    limits, out, out_f8, valid, slot, lane, work, tally,
):  # fmt: skip
    """Read the features of one group that `kernel.read_group` leaves out; its arguments mean the same there."""
    for f in range(features.shape[0]):
        code = features[f, FEATURE_CODE]
        if code < RATE or code == GROWN:
            continue
        index, w, target = features[f, FEATURE_LANE], features[f, FEATURE_WINDOW], slot + f
        kind = lanes[index, LANE_KIND]
        column = columns + lanes[index, LANE_COLUMN] * stride
        where = columns + lanes[index, LANE_WHERE] * stride if lanes[index, LANE_WHERE] >= 0 else -1
        validity = columns + lanes[index, LANE_VALIDITY] * stride if kind == NULLABLE_INT else -1
        lo, hi = window_edges(windows, w, t)
        stop = first_at_or_after(i8, times, 0, n, hi)
        start = np.int64(0)
        if windows[w, WINDOW_LENGTH] != LIFETIME:
            start = first_at_or_after(i8, times, 0, stop, lo)
        if code == N_UNIQUE:
            cap = features[f, FEATURE_PARAM]
            found = n_unique(i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, cap)
            valid[target] = found >= 0
            out[target] = max(found, 0)
            tally[0] += found < 0
            continue
        if code == MOST_FREQUENT:
            cap = features[f, FEATURE_PARAM]
            word, state = most_frequent(
                i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, cap
            )  # fmt: skip
            valid[target] = state > 0
            out[target] = word
            if features[f, FEATURE_BOOL] and state > 0:
                out[target] = np.int64(1 if out_f8[target] == 1.0 else 0)
            tally[0] += state < 0
            continue
        if code == APPROX_N_UNIQUE:
            valid[target] = True
            out[target] = estimate(
                i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop
            )  # fmt: skip
            continue
        if code == RATE:
            unit = features[f, FEATURE_PARAM]
            stop_tile = first_at_or_after(i8, tiles, 0, tile_count, hi)
            first_tile = first_at_or_after(i8, tiles, 0, stop_tile, lo)
            tiles_at = tiles + (1 + lanes[index, LANE_TILE]) * tile_count
            value = rate(
                i8, f8, kind, lanes[index, LANE_OPS], column, validity, where, offsets, partitions, limits, flags,
                start, stop, tiles_at, tile_count, first_tile, stop_tile, unit, hi - lo, lane, work,
            )  # fmt: skip
        elif code == QUANTILE:
            part = features[f, FEATURE_PARAM]
            value = quantile(i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, part)
        elif code >= DECAYED_SUM:
            value = decayed(
                i8, f8, times, kind, column, validity, where, offsets, partitions, limits, start, stop, hi,
                features[f, FEATURE_PARAM], code,
            )  # fmt: skip
        else:
            value = skewness(i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop)
        tally[0] += math.isinf(value)
        valid[target] = math.isfinite(value)
        out_f8[target] = value if math.isfinite(value) else 0.0
