"""Sums, counts and means in which an event weighs half as much after each half-life.

The weight of an event at e in a window that ends at hi is 2^((j(e) − j(hi)) / 1024), j(x) = ⌊1024·x / half-life⌋: a
power of 2 times one of 1,024 steps, each the float64 nearest to its exact value. So every product of a weight and a
value is an integer times a power of 2, and their sum is exact and rounded once (design 4.10).
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numba import njit

from headrace.aggregations.codes import DECAYED_COUNT, DECAYED_SUM
from headrace.aggregations.counted import counts, parts
from headrace.aggregations.lanes import FLOAT, ROWS
from headrace.aggregations.limits import LOOKBACK
from headrace.aggregations.wide import LOW30, rounded_ratio, signed_digits, three_digits
from headrace.core.columns import IntArray

_STEPS = 1_024
_DEEPEST = LOOKBACK + 2
"""More half-lives than any window holds: its lower edge moves in steps of one."""


def _weights() -> IntArray:
    """The mantissas, of 53 bits, of the float64 nearest to 2^(k/1024)."""
    bits = 256
    root = 2 << bits
    for _ in range(10):
        root = isqrt(root << bits)
    found, value = [], 1 << bits
    for _ in range(_STEPS):
        found.append(((value >> (bits - 53)) + 1) >> 1)
        value = value * root >> bits
    return np.array(found, np.int64)


_WEIGHTS = _weights()


@njit(cache=True)
def _step(time, halflife):  # type: ignore[no-untyped-def]
    """⌊1024·time / halflife⌋, with no product past int64."""
    whole = time // halflife
    return whole * _STEPS + (time - whole * halflife) * _STEPS // halflife


@njit(cache=True)
def decayed(  # type: ignore[no-untyped-def]
    i8, f8, times, kind, column, validity, where, offsets, partitions, limits, start, stop, hi, halflife, code
):
    """The weighted sum of values, of ones, or their quotient, rounded once; NaN without values (a count: 0.0).

    ±inf if it is too large for a float64. Window edges must lie less than `_DEEPEST` half-lives apart.
    """
    now = _step(hi, halflife)
    least, greatest, count = 4_096, -1, np.int64(0)
    for i in range(start, stop):
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            count += 1
            if kind != ROWS:
                mantissa, exponent = parts(i8, kind, column + i)
                if mantissa != 0:
                    least = min(least, exponent)
                    greatest = max(greatest, exponent)
    if count == 0:
        return 0.0 if code == DECAYED_COUNT else np.nan
    if code != DECAYED_COUNT and greatest < 0:
        return 0.0
    # Digits have 30 bits. A value has three of them and a weight, shifted, three; sums need two more.
    total = np.zeros((max(greatest - least, 0) + _DEEPEST) // 30 + 8, np.int64)
    weights = np.zeros(_DEEPEST // 30 + 6, np.int64)
    for i in range(start, stop):
        if not counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            continue
        power = _step(i8[times + i], halflife) - now
        weight = _WEIGHTS[power & (_STEPS - 1)]
        halvings = (power >> 10) + _DEEPEST
        if code != DECAYED_SUM:
            at, shift = halvings // 30, halvings % 30
            w0, w1, w2 = three_digits(weight, shift)
            weights[at] += w0
            weights[at + 1] += w1
            weights[at + 2] += w2
        if code == DECAYED_COUNT:
            continue
        mantissa, exponent = parts(i8, kind, column + i)
        if mantissa == 0:
            continue
        place = exponent - least + halvings
        at, shift = place // 30, place % 30
        w0, w1, w2 = three_digits(weight, shift)
        x0, x1, x2 = three_digits(mantissa, 0)
        z = x0 * w0
        total[at] += z & LOW30
        z = x0 * w1 + x1 * w0 + (z >> 30)
        total[at + 1] += z & LOW30
        z = x0 * w2 + x1 * w1 + x2 * w0 + (z >> 30)
        total[at + 2] += z & LOW30
        z = x1 * w2 + x2 * w1 + (z >> 30)
        total[at + 3] += z & LOW30
        total[at + 4] += x2 * w2 + (z >> 30)
    one = np.ones(1, np.int64)
    # A weight's mantissa has 52 bits behind the point, and lies _DEEPEST higher than it should.
    if code == DECAYED_COUNT:
        digits, _ = signed_digits(weights)
        return rounded_ratio(digits, one, -52 - _DEEPEST)
    digits, sign = signed_digits(total)
    unit = least - (1_074 if kind == FLOAT else 0)
    if code == DECAYED_SUM:
        value = rounded_ratio(digits, one, unit - 52 - _DEEPEST)
    else:
        by, _ = signed_digits(weights)
        value = rounded_ratio(digits, by, unit)
    return -value if sign < 0 and value != 0.0 else value
