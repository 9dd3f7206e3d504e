"""Skewness from exact power sums: integers in units of a power of 2, in digits of 30 bits, least first.

A value has three digits, its square six and its cube nine, so beside those of the least value's weight the sums of
values, squares and cubes need `room` digits. Their words may be long and negative until they are finished.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.counted import counts, parts
from headrace.aggregations.wide import LOW30, combine, multiply, root_of_ratio, signed_digits, three_digits

EXPONENTS = 2_046
"""Exponents of float64 values, counted from 2^-1074, are below this."""


@njit(cache=True)
def room(exponents):  # type: ignore[no-untyped-def]
    """Digits of the sums of values, squares and cubes whose exponents differ by up to this."""
    length = exponents // 30
    return length + 6, 2 * length + 9, 3 * length + 12


@njit(cache=True)
def add_powers(mantissa, exponent, first, second, third):  # type: ignore[no-untyped-def]
    """Add mantissa·2^exponent, its square and its cube to the sums."""
    at, shift = exponent // 30, exponent % 30
    # Only the top digit may be negative.
    x0, x1, x2 = three_digits(mantissa, shift)
    y0 = x0 * x0
    y1 = 2 * x0 * x1 + (y0 >> 30)
    y2 = 2 * x0 * x2 + x1 * x1 + (y1 >> 30)
    y3 = 2 * x1 * x2 + (y2 >> 30)
    y4 = x2 * x2 + (y3 >> 30)
    y0, y1, y2, y3, y4, y5 = y0 & LOW30, y1 & LOW30, y2 & LOW30, y3 & LOW30, y4 & LOW30, y4 >> 30
    first[at] += x0
    first[at + 1] += x1
    first[at + 2] += x2
    second[2 * at] += y0
    second[2 * at + 1] += y1
    second[2 * at + 2] += y2
    second[2 * at + 3] += y3
    second[2 * at + 4] += y4
    second[2 * at + 5] += y5
    z = x0 * y0
    third[3 * at] += z & LOW30
    z = x0 * y1 + x1 * y0 + (z >> 30)
    third[3 * at + 1] += z & LOW30
    z = x0 * y2 + x1 * y1 + x2 * y0 + (z >> 30)
    third[3 * at + 2] += z & LOW30
    z = x0 * y3 + x1 * y2 + x2 * y1 + (z >> 30)
    third[3 * at + 3] += z & LOW30
    z = x0 * y4 + x1 * y3 + x2 * y2 + (z >> 30)
    third[3 * at + 4] += z & LOW30
    z = x0 * y5 + x1 * y4 + x2 * y3 + (z >> 30)
    third[3 * at + 5] += z & LOW30
    z = x1 * y5 + x2 * y4 + (z >> 30)
    third[3 * at + 6] += z & LOW30
    z = x2 * y5 + (z >> 30)
    third[3 * at + 7] += z & LOW30
    third[3 * at + 8] += z >> 30


@njit(cache=True)
def _zeros(digits):  # type: ignore[no-untyped-def]
    """How many of the least digits are 0."""
    k = 0
    while k < len(digits) and digits[k] == 0:
        k += 1
    return k


@njit(cache=True)
def skewness_of(count, first, second, third):  # type: ignore[no-untyped-def]
    """sign(M3)·sqrt(RN(n·M3²/M2³)) of `count` values with these power sums, exact up to the one rounding RN.

    NaN without spread. With the power sums S1, S2, S3 let A = n·S2 − S1² = n·M2 and B = n²·S3 − 3n·S1·S2 + 2·S1³ =
    n²·M3; then n·M3²/M2³ = B²/A³. The quotient has no unit, so digits that all values leave free are cut off. Changes
    the sums.
    """
    s1, sign1 = signed_digits(first)
    s2, _ = signed_digits(second)
    s3, sign3 = signed_digits(third)
    if len(s2) == 0:
        return np.nan
    free = _zeros(s2) // 2
    if len(s1):
        free = min(free, _zeros(s1))
    if len(s3):
        free = min(free, _zeros(s3) // 3)
    s1, s2, s3 = s1[free:], s2[2 * free :], s3[3 * free :]
    n = np.array([count & LOW30, count >> 30], np.int64)
    square = multiply(s1, s1)
    spread, _ = combine(multiply(n, s2), 1, square, -1, square, 0)
    if len(spread) == 0:
        return np.nan
    mixed = multiply(n, multiply(s1, s2))
    lean, sign = combine(multiply(multiply(n, n), s3), sign3, mixed, -3 * sign1, multiply(square, s1), 2 * sign1)
    root = root_of_ratio(multiply(lean, lean), multiply(multiply(spread, spread), spread))
    return -root if sign < 0 and root != 0.0 else root


@njit(cache=True)
def skewness(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop
):
    """Skewness of the values of a window; NaN without spread."""
    least, greatest, count = 4_096, -1, np.int64(0)
    for i in range(start, stop):
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            count += 1
            mantissa, exponent = parts(i8, kind, column + i)
            if mantissa != 0:
                least = min(least, exponent)
                greatest = max(greatest, exponent)
    if greatest < 0:
        return np.nan
    ones, twos, threes = room(greatest - least)
    first, second, third = np.zeros(ones, np.int64), np.zeros(twos, np.int64), np.zeros(threes, np.int64)
    for i in range(start, stop):
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            mantissa, exponent = parts(i8, kind, column + i)
            if mantissa != 0:
                add_powers(mantissa, exponent - least, first, second, third)
    return skewness_of(count, first, second, third)
