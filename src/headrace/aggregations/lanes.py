"""Lanes: the additive state of one input under one condition.

A lane is a vector of int64 words: rows, valid values, true values, the sum of small integers, and the digits of the
exact sums of everything else (`exact.py`). Lanes of two sets of events are added word by word. In a tile a lane is a
few words only: of its sums those digits that numbers of a usual size touch, packed.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headrace.aggregations.codes import LEAST, MOST, SQUARES, SUMS, TRUES
from headrace.aggregations.exact import (
    DIGIT,
    SQUARE_WORDS,
    SUM_WORDS,
    WORK_WORDS,
    add_float,
    add_square,
    finish,
    finish_variance,
    normalise,
    span,
)
from headrace.core.time import NULL_US

# How a lane reads its input.
ROWS, FLOAT, STAMP, INT, NULLABLE_INT = 0, 1, 2, 3, 4
EXTREMES = LEAST | MOST
# Additive words of a lane.
AT_ROWS, AT_VALID, AT_TRUES, AT_INT_LOW, AT_INT_HIGH, AT_WIDE, AT_SUM = 0, 1, 2, 3, 4, 5, 6
AT_SQUARE = AT_SUM + SUM_WORDS
LANE_WORDS = AT_SQUARE + SQUARE_WORDS
_NULL = np.int64(NULL_US)
# Of a lane's sums of floats a tile holds the digits from these on: 2^-82 to 2^45, and 2^-164 to 2^91 of squares.
TILE_SUM, TILE_SUM_DIGITS = 31, 4
TILE_SQUARE, TILE_SQUARE_DIGITS = 62, 8
ONE = 33
"""The digit of a sum of floats whose bit 18 weighs 1.0."""
SMALL = float(1 << 31)
"""Whole numbers below this are summed as integers; 2^31 of them fit one word."""


@njit(cache=True)
def add_row(i8, f8, kind, ops, value_at, lane, at):  # type: ignore[no-untyped-def]
    """Add the valid value at word `value_at` to the additive words at `lane[at:]`."""
    lane[at + AT_VALID] += 1
    if kind == FLOAT:
        value = f8[value_at]
        if ops & TRUES and value == 1.0:
            lane[at + AT_TRUES] += 1
        if ops & SUMS:
            if -SMALL < value < SMALL and value == math.floor(value):
                lane[at + AT_INT_LOW] += np.int64(value)
            else:
                lane[at + AT_WIDE] += 1
                add_float(lane, at + AT_SUM, i8[value_at])
        if ops & SQUARES:
            add_square(lane, at + AT_SQUARE, i8[value_at])
    elif ops & SUMS:
        value_int = i8[value_at]
        lane[at + AT_INT_LOW] += value_int & DIGIT
        lane[at + AT_INT_HIGH] += value_int >> 32
        if ops & SQUARES:
            # The square of an int64 as (h·2^32 + l)²; weights are those of squares of floats, where 1 is digit 2148.
            _add_int_square(value_int, lane, at + AT_SQUARE)


@njit(cache=True)
def _add_int_square(value, words, at):  # type: ignore[no-untyped-def]
    high = value >> 32
    low = value & DIGIT
    _add_product(low, low, words, at, 0)
    if high >= 0:
        _add_product(high, high, words, at, 64)
        _add_product(low, high, words, at, 33)
    else:
        _add_product(-high, -high, words, at, 64)
        _subtract_product(low, -high, words, at, 33)


@njit(cache=True)
def _add_product(a, b, words, at, weight):  # type: ignore[no-untyped-def]
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b
    _add_bits(low, words, at, 2148 + weight, 1)
    _add_bits(high, words, at, 2148 + weight + 16, 1)


@njit(cache=True)
def _subtract_product(a, b, words, at, weight):  # type: ignore[no-untyped-def]
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b
    _add_bits(low, words, at, 2148 + weight, -1)
    _add_bits(high, words, at, 2148 + weight + 16, -1)


@njit(cache=True)
def _add_bits(value, words, at, position, sign):  # type: ignore[no-untyped-def]
    """Add sign · value · 2^position (value below 2^49, bit 0 of the words weighs 1)."""
    lane = at + (position >> 5)
    shift = position & 31
    low = (value & DIGIT) << shift
    middle = (low >> 32) + ((value >> 32) << shift)
    words[lane] += sign * (low & DIGIT)
    words[lane + 1] += sign * (middle & DIGIT)
    words[lane + 2] += sign * (middle >> 32)


@njit(cache=True, inline="always")
def carry_whole(lane):  # type: ignore[no-untyped-def]
    """Carry between the words of small integers; a small negative sum is kept in the lower one alone, so that the
    quick quotient applies."""
    lane[AT_INT_HIGH] += lane[AT_INT_LOW] >> 32
    lane[AT_INT_LOW] &= DIGIT
    if lane[AT_INT_HIGH] == -1:
        lane[AT_INT_HIGH] = 0
        lane[AT_INT_LOW] -= 1 << 32


@njit(cache=True, inline="always")
def add_whole(words, one, low, high):  # type: ignore[no-untyped-def]
    """Add the integer high·2^32 + low to digits of a sum of floats; bit 18 of `words[one]` weighs 1."""
    rest = low >> 14
    words[one] += (low & 0x3FFF) << 18
    words[one + 1] += (rest & DIGIT) + ((high & 0x3FFF) << 18)
    words[one + 2] += (rest >> 32) + ((high >> 14) & DIGIT)
    words[one + 3] += (high >> 14) >> 32


@njit(cache=True, inline="always")
def present(i8, f8, kind, value_at, validity_at):  # type: ignore[no-untyped-def]
    """True if the value at this word is not null."""
    if kind == FLOAT:
        return f8[value_at] == f8[value_at]
    if kind == STAMP:
        return i8[value_at] != _NULL
    return kind == INT or f8[validity_at] == 1.0


@njit(cache=True)
def settle(words, at, kind, ops):  # type: ignore[no-untyped-def]
    """Bring a lane's additive words to their canonical form: equal sums have equal words, however they came about.

    A sum of floats that is a whole number below 2^45 is in the words of small integers alone, any other in the digits.
    """
    words[at + AT_INT_HIGH] += words[at + AT_INT_LOW] >> 32
    words[at + AT_INT_LOW] &= DIGIT
    if ops & SQUARES:
        normalise(words, at + AT_SQUARE, SQUARE_WORDS)
    if kind != FLOAT or not ops & SUMS:
        return
    low, high = words[at + AT_INT_LOW], words[at + AT_INT_HIGH]
    if words[at + AT_WIDE] == 0 and -(1 << 13) <= high < 1 << 13:
        return
    one = at + AT_SUM + ONE
    add_whole(words, one, low, high)
    normalise(words, at + AT_SUM, SUM_WORDS)
    last = words[at + AT_SUM + SUM_WORDS - 1]
    above = last & DIGIT
    whole = (last == 0 or last == -1) and words[one] & 0x3FFFF == 0 and (words[one + 1] >> 31) == above & 1
    for k in range(at + AT_SUM, one):
        whole = whole and words[k] == 0
    for k in range(one + 2, at + AT_SUM + SUM_WORDS - 1):
        whole = whole and words[k] == above
    low = high = np.int64(0)
    if whole:
        value = (words[one] >> 18) + (words[one + 1] << 14) + (last << 46)
        low, high = value & DIGIT, value >> 32
        for k in range(at + AT_SUM, at + AT_SUM + SUM_WORDS):
            words[k] = 0
    words[at + AT_INT_LOW], words[at + AT_INT_HIGH], words[at + AT_WIDE] = low, high, 0 if whole else 1


@njit(cache=True, inline="always")
def lane_size(ops):  # type: ignore[no-untyped-def]
    """Additive words that a lane of these `ops` uses."""
    return LANE_WORDS if ops & SQUARES else AT_SQUARE if ops & SUMS else AT_SUM


@njit(cache=True)
def add_tile_sum(i8, at, stride, start, stop, kind, ops, lane):  # type: ignore[no-untyped-def]
    """Add the sums (and squares) of the tiles `start` to `stop` to a lane; `at` is their first column of these."""
    if kind != FLOAT:
        low = high = np.int64(0)
        for k in range(start, stop):
            low += i8[at + k]
            high += i8[at + stride + k]
        lane[AT_INT_LOW] += low
        lane[AT_INT_HIGH] += high
    else:
        d0 = d1 = d2 = d3 = np.int64(0)
        for k in range(start, stop):
            d0 += i8[at + k] & DIGIT
            d1 += (i8[at + k] >> 32) & DIGIT
            d2 += i8[at + stride + k] & DIGIT
            d3 += i8[at + stride + k] >> 32
        # 1.0 weighs bit 18 of the third of these digits: whole numbers go where the quick quotient finds them.
        if d0 | d1 == 0 and d2 & 0x3FFFF == 0 and -(1 << 38) < d3 < 1 << 38:
            lane[AT_INT_LOW] += (d2 >> 18) + (d3 << 14)
        else:
            lane[AT_WIDE] += 1
            lane[AT_SUM + TILE_SUM] += d0
            lane[AT_SUM + TILE_SUM + 1] += d1
            lane[AT_SUM + TILE_SUM + 2] += d2
            lane[AT_SUM + TILE_SUM + 3] += d3
    if ops & SQUARES:
        at += 2 * stride
        for word in range(TILE_SQUARE_DIGITS // 2):
            to = AT_SQUARE + TILE_SQUARE + 2 * word
            for k in range(start, stop):
                lane[to] += i8[at + k] & DIGIT
                lane[to + 1] += (i8[at + k] >> 32) & DIGIT
            at += stride


@njit(cache=True)
def clear(lane, ops):  # type: ignore[no-untyped-def]
    for k in range(AT_SUM):
        lane[k] = 0
    if ops & SUMS:
        for k in range(AT_SUM, AT_SQUARE):
            lane[k] = 0
    if ops & SQUARES:
        for k in range(AT_SQUARE, LANE_WORDS):
            lane[k] = 0


@njit(cache=True)
def quotient(lane, divisor, work):  # type: ignore[no-untyped-def]
    """The lane's exact sum divided by `divisor`, rounded once."""
    low, high = lane[AT_INT_LOW], lane[AT_INT_HIGH]
    if lane[AT_WIDE] == 0:
        if high == 0 and -(1 << 53) <= low <= (1 << 53):
            # Both are exact float64, so IEEE division rounds the quotient correctly.
            return float(low) / float(divisor)
        for k in range(WORK_WORDS):
            work[k] = 0
        work[WORK_WORDS] = low & DIGIT
        work[WORK_WORDS + 1] = (low >> 32) + (high & DIGIT)
        work[WORK_WORDS + 2] = high >> 32
        work[WORK_WORDS + 3] = 0
        return finish(work, WORK_WORDS, 4, 0, divisor, work)
    # Only digits that are used are divided; sums of everyday numbers have three or four of them. Carries reach two
    # digits further.
    first, last = span(lane, AT_SUM, SUM_WORDS)
    if low | high:
        first, last = min(first, ONE), max(last, ONE + 3)
    if last < 0:
        return 0.0
    count = min(last + 3, SUM_WORDS) - first
    for k in range(count):
        work[WORK_WORDS + k] = lane[AT_SUM + first + k]
    if low | high:
        add_whole(work, WORK_WORDS + ONE - first, low, high)
    return finish(work, WORK_WORDS, count, 32 * first - 1074, divisor, work)


@njit(cache=True)
def variance(lane, kind, count, freedom, work, other):  # type: ignore[no-untyped-def]
    """Exact variance; the integer part of the sum is brought to the weights of the float words first."""
    low, high = lane[AT_INT_LOW], lane[AT_INT_HIGH]
    for k in range(SUM_WORDS):
        other[WORK_WORDS + k] = lane[AT_SUM + k]
    add_whole(other, WORK_WORDS + ONE, low, high)
    # finish_variance asks for normalised squares (its products assume digits below 2^32).
    normalise(lane, AT_SQUARE, SQUARE_WORDS)
    return finish_variance(other, lane, WORK_WORDS, AT_SQUARE, count, freedom, work, other)
