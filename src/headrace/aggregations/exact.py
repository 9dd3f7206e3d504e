"""Exact sums of float64, correctly rounded once at the end (design 4.10).

A sum is a vector of int64 words that is added word by word, so it merges associatively and commutatively in its bits:

1. A finite float64 is ±m·2^e with an integer m below 2^53. Cut m·2^(e+1074) into 32-bit digits and add each to the
   int64 word of its weight. A word takes 2^31 additions before it could overflow.
2. `normalise` carries, which makes the vector canonical: digits in [0, 2^32), the sign in the last word.
3. To finish, take the magnitude, divide the digits by the divisor from the top (long division; what is left over is
   sticky), and round half to even at the 53rd bit, or at 2^-1074 for subnormal results.

The idea is Kulisch's long accumulator with delayed carries (R. Neal, "Fast exact summation using small and large
superaccumulators", 2015). Squares take the same road with twice the digits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

DIGIT = 0xFFFFFFFF
SUM_WORDS = 70
"""Digits of a sum of float64: weights 2^-1074 .. 2^1165."""
SQUARE_WORDS = 136
"""Digits of a sum of squares: weights 2^-2148 .. 2^2203."""
GUARD = 3
"""Digits below the least weight that a quotient keeps, besides the sticky bit."""
WORK_WORDS = 2 * SUM_WORDS + GUARD + 8
"""Words of scratch that the functions below ask for."""


@njit(cache=True, inline="always")
def mantissa_and_exponent(bits):  # type: ignore[no-untyped-def]
    """Integers m and e of a finite float64, m below 2^53: its magnitude is m·2^(e − 1074)."""
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & 0xFFFFFFFFFFFFF
    if exponent > 0:
        mantissa |= 1 << 52
        exponent -= 1
    return mantissa, exponent


@njit(cache=True, inline="always")
def turned(bits):  # type: ignore[no-untyped-def]
    """The bits of a float64 as an integer in the order of the values, and back again."""
    return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)


@njit(cache=True, inline="always")
def add_float(words, at, bits):  # type: ignore[no-untyped-def]
    """Add the finite float64 of these bits to the sum at `words[at:at + SUM_WORDS]`."""
    mantissa, exponent = mantissa_and_exponent(bits)
    lane = at + (exponent >> 5)
    shift = exponent & 31
    low = (mantissa & DIGIT) << shift
    middle = (low >> 32) + ((mantissa >> 32) << shift)
    if bits < 0:
        words[lane] -= low & DIGIT
        words[lane + 1] -= middle & DIGIT
        words[lane + 2] -= middle >> 32
    else:
        words[lane] += low & DIGIT
        words[lane + 1] += middle & DIGIT
        words[lane + 2] += middle >> 32


@njit(cache=True)
def add_square(words, at, bits):  # type: ignore[no-untyped-def]
    """Add the square of the finite float64 of these bits to the sum at `words[at:at + SQUARE_WORDS]`."""
    mantissa, exponent = mantissa_and_exponent(bits)
    # Digits of the square of a 53-bit integer: (h·2^32 + l)² = h²·2^64 + 2hl·2^32 + l², with h below 2^21.
    high, low = mantissa >> 32, mantissa & DIGIT
    low_half, low_top = low & 0xFFFF, low >> 16
    # l² does not fit int64, so it is built from 16-bit halves.
    cross = 2 * low_half * low_top
    d0 = low_half * low_half + ((cross & 0xFFFF) << 16)
    d1 = (d0 >> 32) + (cross >> 16) + low_top * low_top
    d0 &= DIGIT
    twice = 2 * high * low
    d1 += twice & DIGIT
    d2 = (d1 >> 32) + (twice >> 32) + high * high
    d1 &= DIGIT
    d3 = d2 >> 32
    d2 &= DIGIT
    position = 2 * exponent
    lane = at + (position >> 5)
    shift = position & 31
    carry = 0
    for k in range(5):
        digit = d0 if k == 0 else d1 if k == 1 else d2 if k == 2 else d3 if k == 3 else 0
        shifted = (digit << shift) + carry
        words[lane + k] += shifted & DIGIT
        carry = shifted >> 32


@njit(cache=True, inline="always")
def span(words, at, count):  # type: ignore[no-untyped-def]
    """The first and the last of `words[at:at + count]` that is not 0, counted from `at`; (count, -1) if all are."""
    first, last = 0, count - 1
    while first < count and words[at + first] == 0:
        first += 1
    if first == count:
        return count, -1
    while words[at + last] == 0:
        last -= 1
    return first, last


@njit(cache=True)
def normalise(words, at, count):  # type: ignore[no-untyped-def]
    """Carry, so that equal sums have equal words: digits in [0, 2^32) and the sign in the last word."""
    carry = 0
    for k in range(at, at + count - 1):
        value = words[k] + carry
        words[k] = value & DIGIT
        carry = value >> 32
    words[at + count - 1] += carry


@njit(cache=True)
def take_magnitude(work, count):  # type: ignore[no-untyped-def]
    """Turn normalised `work[:count]` into digits of its magnitude; returns True if it was negative."""
    if work[count - 1] >= 0:
        return False
    carry = 1
    for k in range(count - 1):
        value = (~work[k] & DIGIT) + carry
        work[k] = value & DIGIT
        carry = value >> 32
    work[count - 1] = ~work[count - 1] + carry
    return True


@njit(cache=True)
def _divide(work, count, divisor):  # type: ignore[no-untyped-def]
    """Divide the digits in place by a positive integer below 2^31; returns True if something is left over."""
    rest = np.int64(0)
    # Unsigned, for a division by one instruction; all of these are below 2^63.
    by = np.uint64(divisor)
    for k in range(count - 1, -1, -1):
        value = (rest << 32) | work[k]
        part = np.int64(np.uint64(value) // by)
        work[k] = part
        rest = value - part * divisor
    return rest != 0


@njit(cache=True)
def round_digits(work, count, least, sticky):  # type: ignore[no-untyped-def]
    """Round digits (weight 2^least at bit 0) to float64, half to even; `sticky`: something nonzero lies below."""
    top = count - 1
    while top >= 0 and work[top] == 0:
        top -= 1
    if top < 0:
        return 0.0
    bits = 0
    while work[top] >> bits:
        bits += 1
    highest = top * 32 + bits - 1
    unit = max(highest - 52, -1074 - least)
    if unit <= 0:
        unit = 0
    mantissa = 0
    lane, shift = unit >> 5, unit & 31
    mantissa = work[lane] >> shift if lane < count else 0
    if lane + 1 < count:
        mantissa |= work[lane + 1] << (32 - shift)
    if lane + 2 < count and shift > 11:
        mantissa |= (work[lane + 2] & ((1 << (shift - 11)) - 1)) << (64 - shift)
    half = False
    rest = sticky
    if unit > 0:
        below = unit - 1
        lane, shift = below >> 5, below & 31
        half = lane < count and ((work[lane] >> shift) & 1) == 1
        if not rest:
            if lane < count and work[lane] & ((1 << shift) - 1):
                rest = True
            else:
                for k in range(min(lane, count)):
                    if work[k]:
                        rest = True
                        break
    if half and (rest or mantissa & 1):
        mantissa += 1
    return math.ldexp(float(mantissa), unit + least)


@njit(cache=True)
def finish(words, at, count, least, divisor, work):  # type: ignore[no-untyped-def]
    """Return the correctly rounded quotient of a sum and a positive integer below 2^31.

    The sum lies at `words[at:at + count]`, its first digit weighs 2^least; it stays as it is. `work` is int64 scratch
    of at least `count + GUARD` words. Too large for a float64: ±inf.
    """
    for k in range(GUARD):
        work[k] = 0
    for k in range(count):
        work[GUARD + k] = words[at + k]
    total = count + GUARD
    normalise(work, 0, total)
    negative = take_magnitude(work, total)
    sticky = _divide(work, total, divisor) if divisor != 1 else False
    value = round_digits(work, total, least - 32 * GUARD, sticky)
    return -value if negative and value != 0.0 else value


@njit(cache=True)
def finish_variance(sums, squares, at_sums, at_squares, n, freedom, work, other):  # type: ignore[no-untyped-def]
    """Return the correctly rounded variance (n·Σx² − (Σx)²) / (n·(n − freedom)); needs n > freedom.

    `work` and `other` are int64 scratch of `2 * WORK_WORDS` words each.
    """
    for k in range(SUM_WORDS):
        other[k] = sums[at_sums + k]
    normalise(other, 0, SUM_WORDS)
    take_magnitude(other, SUM_WORDS)
    first, last = span(other, 0, SUM_WORDS)
    # Only digits that are used are divided, from `low` on.
    low_square, high_square = span(squares, at_squares, SQUARE_WORDS)
    low = min(low_square, 2 * first)
    if low > 2 * SUM_WORDS:
        low = 0
    total = max(high_square, 2 * last + 1) + 4 - low + GUARD
    for k in range(total):
        work[k] = 0
    # n·Σx² − (Σx)²: both weigh 2^-2148 at digit 0. Partial products are added as 32-bit halves, so no word overflows.
    for k in range(low_square, high_square + 1):
        value = squares[at_squares + k]
        product = (value & DIGIT) * n
        work[GUARD + k - low] += product & DIGIT
        work[GUARD + k - low + 1] += (product >> 32) + (value >> 32) * n
    for i in range(first, last + 1):
        for j in range(first, last + 1):
            a, b = other[i], other[j]
            bottom = (a & 0xFFFF) * b
            top = (a >> 16) * b
            piece = (bottom & DIGIT) + ((top & 0xFFFF) << 16)
            work[GUARD + i + j - low] -= piece & DIGIT
            work[GUARD + i + j - low + 1] -= (piece >> 32) + (bottom >> 32) + (top >> 16)
    normalise(work, 0, total)
    sticky = _divide(work, total, n)
    again = _divide(work, total, n - freedom)
    return round_digits(work, total, 32 * (low - GUARD) - 2148, sticky or again)


def scratch() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Scratch for one thread's calls of the functions above."""
    return np.zeros(2 * WORK_WORDS, np.int64)
