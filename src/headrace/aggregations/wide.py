"""Integers of any length, for third moments and weighted sums: arrays of 30-bit digits, least first.

There are no leading zeros, and zero is the empty array. A digit's product with another stays below 2^60, so sums of
products fit int64.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headrace.aggregations.exact import DIGIT, round_digits

_BITS = 30
LOW30 = (1 << _BITS) - 1
_QUOTIENT_BITS = 62


@njit(cache=True, inline="always")
def three_digits(value, shift):  # type: ignore[no-untyped-def]
    """value·2^shift, shift below 30, as three digits; only the top one may be negative, or long."""
    bottom = (value & LOW30) << shift
    middle = ((value >> _BITS) << shift) + (bottom >> _BITS)
    return bottom & LOW30, middle & LOW30, middle >> _BITS


@njit(cache=True)
def _trimmed(digits):  # type: ignore[no-untyped-def]
    count = len(digits)
    while count > 0 and digits[count - 1] == 0:
        count -= 1
    return digits[:count]


@njit(cache=True)
def signed_digits(words):  # type: ignore[no-untyped-def]
    """Magnitude and sign (1 or -1) of Σ words[k]·2^(30k), whose words may be long and negative; changes them."""
    carry = np.int64(0)
    for k in range(len(words) - 1):
        value = words[k] + carry
        words[k] = value & LOW30
        carry = value >> _BITS
    words[-1] += carry
    if words[-1] >= 0:
        return _trimmed(words), 1
    carry = np.int64(0)
    for k in range(len(words)):
        value = carry - words[k]
        words[k] = value & LOW30
        carry = value >> _BITS
    return _trimmed(words), -1


@njit(cache=True)
def multiply(a, b):  # type: ignore[no-untyped-def]
    """a·b."""
    out = np.zeros(len(a) + len(b), np.int64)
    for i in range(len(a)):
        carry = np.int64(0)
        for j in range(len(b)):
            value = out[i + j] + a[i] * b[j] + carry
            out[i + j] = value & LOW30
            carry = value >> _BITS
        out[i + len(b)] = carry
    return _trimmed(out)


@njit(cache=True)
def combine(a, by_a, b, by_b, c, by_c):  # type: ignore[no-untyped-def]
    """Magnitude and sign of a·by_a + b·by_b + c·by_c, where the factors are small."""
    total = np.zeros(max(len(a), len(b), len(c)) + 2, np.int64)
    for k in range(len(a)):
        total[k] += by_a * a[k]
    for k in range(len(b)):
        total[k] += by_b * b[k]
    for k in range(len(c)):
        total[k] += by_c * c[k]
    return signed_digits(total)


@njit(cache=True)
def _length(a):  # type: ignore[no-untyped-def]
    """Number of bits of a positive integer."""
    top = a[-1]
    bits = 0
    while top >> bits:
        bits += 1
    return _BITS * (len(a) - 1) + bits


@njit(cache=True)
def _shifted(a, by, room):  # type: ignore[no-untyped-def]
    """a·2^by in `room` digits."""
    out = np.zeros(room, np.int64)
    at, shift = by // _BITS, by % _BITS
    for k in range(len(a)):
        value = a[k] << shift
        out[at + k] += value & LOW30
        if value >> _BITS:
            out[at + k + 1] += value >> _BITS
    return out


@njit(cache=True)
def rounded_ratio(a, b, exponent):  # type: ignore[no-untyped-def]
    """RN(a / b · 2^exponent), b positive; inf if that is too large for a float64."""
    if len(a) == 0:
        return 0.0
    length_a, length_b = _length(a), _length(b)
    longer = max(length_a, length_b)
    room = longer // _BITS + 2
    # Brought to one length, the quotient lies between 1/2 and 2.
    rest = _shifted(a, longer - length_a, room)
    by = _shifted(b, longer - length_b, room)
    quotient = np.int64(0)
    for _ in range(_QUOTIENT_BITS):
        k = room - 1
        while k > 0 and rest[k] == by[k]:
            k -= 1
        quotient <<= 1
        if rest[k] >= by[k]:
            quotient |= 1
            carry = np.int64(0)
            for k in range(room):
                value = rest[k] - by[k] + carry
                rest[k] = value & LOW30
                carry = value >> _BITS
        carry = np.int64(0)
        for k in range(room):
            value = (rest[k] << 1) + carry
            rest[k] = value & LOW30
            carry = value >> _BITS
    sticky = False
    for k in range(room):
        sticky = sticky or rest[k] != 0
    digits = np.array([quotient & DIGIT, quotient >> 32], np.int64)
    return round_digits(digits, 2, length_a - length_b - _QUOTIENT_BITS + 1 + exponent, sticky)


@njit(cache=True)
def root_of_ratio(a, b):  # type: ignore[no-untyped-def]
    """sqrt(RN(a / b)), b positive: the quotient is rounded once to float64, and its root once more."""
    return math.sqrt(rounded_ratio(a, b, 0))
