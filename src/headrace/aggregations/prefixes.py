"""Windows of many reads of one entity: running totals of its events, so that a window is a difference of two of them.

Walking a window for each read costs reads times events, which for a hot entity is far too much. Here each event is
added once. The totals are exact: values of a lane become integers in units of 2^least, of 124 bits in two words
(`high * 2^62 + low`, low not negative), which merge and subtract without loss or overflow. Where a lane's
values lie too far apart for that, the caller walks (`kernel.read_group`), which gives the same bits. Minima and maxima
come from a stack of the rows that no later row beats.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headrace.aggregations.codes import EDGES, MAX, MEAN, MIN, STD, SUM, SUMS, TRUES, VAR
from headrace.aggregations.exact import DIGIT, finish, mantissa_and_exponent
from headrace.aggregations.kernel import (
    FEATURE_BOOL,
    FEATURE_CODE,
    LANE_COLUMN,
    LANE_KIND,
    LANE_OPS,
    LANE_VALIDITY,
    LANE_WHERE,
    WINDOW_DELAY,
    first_at_or_after,
    float_bits,
    write_plain,
)
from headrace.aggregations.lanes import (
    FLOAT,
    NULLABLE_INT,
    ROWS,
    present,
)

_LOW = np.int64(2**62 - 1)
_BITS = 124
WORDS = 4
"""Words of a running total: rows and valid values (32 bits each), true values, the low and the high word of the sum."""


@njit(cache=True)
def _least(i8, f8, column, where, start, stop):  # type: ignore[no-untyped-def]
    """Exponent of the unit in which the sum of these floats fits; 1 if it fits in none."""
    low, high = 2047, 0
    for i in range(start, stop):
        if where >= 0 and f8[where + i] != 1.0:
            continue
        bits = i8[column + i]
        exponent = (bits >> 52) & 0x7FF
        # Not a number is null, zero adds nothing.
        if exponent != 0x7FF and bits & 0x7FFFFFFFFFFFFFFF != 0:
            low, high = min(low, max(exponent, 1)), max(high, exponent)
    if low == 2047:
        return 0
    width = 0
    while (stop - start) >> width:
        width += 1
    return low - 1075 if high - low + 53 + width < _BITS else 1


@njit(cache=True, inline="always")
def _scaled(bits, least):  # type: ignore[no-untyped-def]
    """The words (high, low) of a finite float64 in units of 2^least."""
    mantissa, exponent = mantissa_and_exponent(bits)
    if mantissa == 0:
        return np.int64(0), np.int64(0)
    shift = exponent - 1074 - least
    if shift < 62:
        low = (mantissa & (_LOW >> shift)) << shift
        high = mantissa >> (62 - shift)
    else:
        low = np.int64(0)
        high = mantissa << (shift - 62)
    if bits < 0:
        high = ~high if low else -high
        low = -low & _LOW
    return high, low


@njit(cache=True)
def _rounded(high, low, least):  # type: ignore[no-untyped-def]
    """Nearest float64, half to even, of (high · 2^62 + low) · 2^least; ±inf if it is too large."""
    negative = high < 0
    if negative:
        high = ~high if low else -high
        low = -low & _LOW
    if high == 0:
        # One rounding: what is below 2^-1022 has no more bits than a float64 keeps there.
        value = math.ldexp(float(low), least)
    else:
        shift = 0
        while high >> shift:
            shift += 1
        head = (high << (62 - shift)) | (low >> shift)
        if low & ((1 << shift) - 1):
            head |= 1
        value = math.ldexp(float(head), shift + least)
    return -value if negative and value != 0.0 else value


@njit(cache=True)
def _quotient(high, low, least, divisor, work, other):  # type: ignore[no-untyped-def]
    """Nearest float64 of (high · 2^62 + low) · 2^least / divisor."""
    if high == 0 and low <= 1 << 53 and least > -900:
        return math.ldexp(float(low) / float(divisor), least)
    other[0] = low & DIGIT
    other[1] = (low >> 32) | ((high & 3) << 30)
    other[2] = (high >> 2) & DIGIT
    other[3] = high >> 34
    return finish(other, 0, 4, least, divisor, work)


@njit(cache=True)
def read_lane(  # type: ignore[no-untyped-def]
    i8,
    f8,
    times,
    columns,
    stride,
    lane,
    windows,
    features,
    pointers,
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
):
    """Read one lane of one entity for `requests` at their sorted `moments`; False if this lane must be walked.

    Read j of window w has the entity's rows `spans[w, 0, j]` to `spans[w, 1, j]`, all of them in `start` to `stop`.
    Requests marked in `walked` are left out. Other arguments as for `kernel.read_group`; the scratch arrays hold one
    item per row and one more, `totals` WORDS of them.
    """
    kind, ops = lane[LANE_KIND], lane[LANE_OPS]
    column = columns + lane[LANE_COLUMN] * stride
    where = columns + lane[LANE_WHERE] * stride if lane[LANE_WHERE] >= 0 else -1
    validity = columns + lane[LANE_VALIDITY] * stride if kind == NULLABLE_INT else -1
    least_wanted = most_wanted = False
    for f in range(pointers[0], pointers[windows.shape[0]]):
        code = features[f, FEATURE_CODE]
        if code == VAR or code == STD:
            return False
        least_wanted = least_wanted or code == MIN
        most_wanted = most_wanted or code == MAX
    unit = np.int64(0)
    if kind == FLOAT and ops & SUMS:
        unit = np.int64(_least(i8, f8, column, where, start, stop))
        if unit == 1:
            return False
    counted = kind != ROWS or where >= 0
    if counted:
        rows = held = trues = high = low = np.int64(0)
        for i in range(start, stop):
            at = (i - start) * WORDS
            totals[at] = rows | (held << 32)
            totals[at + 1] = trues
            totals[at + 2] = low
            totals[at + 3] = high
            if where >= 0 and f8[where + i] != 1.0:
                continue
            if ops & EDGES:
                row_places[rows] = i
            rows += 1
            if kind == ROWS or not present(i8, f8, kind, column + i, validity + i):
                continue
            if ops & EDGES:
                places[held] = i
            held += 1
            if ops & TRUES and f8[column + i] == 1.0:
                trues += 1
            if ops & SUMS:
                if kind == FLOAT:
                    more_high, more_low = _scaled(i8[column + i], unit)
                else:
                    more_high, more_low = i8[column + i] >> 62, i8[column + i] & _LOW
                low += more_low
                high += more_high + (low >> 62)
                low &= _LOW
        at = (stop - start) * WORDS
        totals[at] = rows | (held << 32)
        totals[at + 1] = trues
        totals[at + 2] = low
        totals[at + 3] = high
    delay = np.int64(-1)
    while True:
        # Reads of one delay have edges that never go back, so one pass of the stacks serves all of its windows.
        following = np.int64(-1)
        for w in range(windows.shape[0]):
            ahead = windows[w, WINDOW_DELAY] > delay and pointers[w] != pointers[w + 1]
            if ahead and (following < 0 or windows[w, WINDOW_DELAY] < following):
                following = windows[w, WINDOW_DELAY]
        if following < 0:
            return True
        delay = following
        first_window = 0
        while windows[first_window, WINDOW_DELAY] != delay:
            first_window += 1
        pushed, least_n, most_n = start, 0, 0
        for j in range(len(requests)):
            if least_wanted or most_wanted:
                end = spans[first_window, 1, j]
                while pushed < end:
                    i = pushed
                    pushed += 1
                    if where >= 0 and f8[where + i] != 1.0:
                        continue
                    if not present(i8, f8, kind, column + i, validity + i):
                        continue
                    if kind == FLOAT:
                        if least_wanted:
                            while least_n and f8[column + low_stack[least_n - 1]] >= f8[column + i]:
                                least_n -= 1
                        if most_wanted:
                            while most_n and f8[column + high_stack[most_n - 1]] <= f8[column + i]:
                                most_n -= 1
                    else:
                        if least_wanted:
                            while least_n and i8[column + low_stack[least_n - 1]] >= i8[column + i]:
                                least_n -= 1
                        if most_wanted:
                            while most_n and i8[column + high_stack[most_n - 1]] <= i8[column + i]:
                                most_n -= 1
                    if least_wanted:
                        low_stack[least_n] = i
                        least_n += 1
                    if most_wanted:
                        high_stack[most_n] = i
                        most_n += 1
            if walked[j]:
                continue
            r = requests[j]
            for w in range(windows.shape[0]):
                if windows[w, WINDOW_DELAY] != delay or pointers[w] == pointers[w + 1]:
                    continue
                a, b = spans[w, 0, j], spans[w, 1, j]
                rows, held, trues = b - a, np.int64(0), np.int64(0)
                first = last = first_row = last_row = np.int64(-1)
                before, after = (a - start) * WORDS, (b - start) * WORDS
                if counted:
                    both = totals[after] - totals[before]
                    rows, held = both & 0xFFFFFFFF, both >> 32
                    trues = totals[after + 1] - totals[before + 1]
                    if ops & EDGES and held:
                        first = places[totals[before] >> 32]
                        last = places[(totals[after] >> 32) - 1]
                    if ops & EDGES and rows:
                        first_row = row_places[totals[before] & 0xFFFFFFFF]
                        last_row = row_places[(totals[after] & 0xFFFFFFFF) - 1]
                elif rows:
                    first_row, last_row = a, b - 1
                low_f = high_f = 0.0
                low_i = high_i = np.int64(0)
                if held and least_wanted:
                    row = low_stack[first_at_or_after(low_stack, 0, 0, least_n, a)]
                    low_i, low_f = i8[column + row], f8[column + row]
                if held and most_wanted:
                    row = high_stack[first_at_or_after(high_stack, 0, 0, most_n, a)]
                    high_i, high_f = i8[column + row], f8[column + row]
                for f in range(pointers[w], pointers[w + 1]):
                    code = features[f, FEATURE_CODE]
                    target = slot + f
                    if code != SUM and code != MEAN:
                        write_plain(
                            i8, f8, times, column, kind, code, features[f, FEATURE_BOOL], moments[j], rows, held, trues,
                            first, last, first_row, last_row, low_f, high_f, low_i, high_i, held > 0,
                            out[r], out_f8[r], valid[r], target,
                        )  # fmt: skip
                        continue
                    ok = held > 0
                    result = np.int64(0)
                    if ok:
                        low = totals[after + 2] - totals[before + 2]
                        high = totals[after + 3] - totals[before + 3] + (low >> 62)
                        low &= _LOW
                        if code == SUM and kind != FLOAT:
                            ok = -2 <= high <= 1
                            result = (high << 62) | low if ok else np.int64(0)
                        else:
                            if code == SUM:
                                value = _rounded(high, low, unit)
                            else:
                                value = _quotient(high, low, unit, held, work, other)
                            ok = not math.isinf(value)
                            if ok:
                                result = float_bits(value + 0.0, out_f8[r], out[r], target)
                        if not ok:
                            tally[0] += 1
                    out[r, target] = result if ok else 0
                    valid[r, target] = ok
