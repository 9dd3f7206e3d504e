"""Which rows of a window an aggregation counts, and what their values are exactly."""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.exact import DIGIT, mantissa_and_exponent
from headrace.aggregations.lanes import FLOAT, ROWS, present


@njit(cache=True, inline="always")
def counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):  # type: ignore[no-untyped-def]
    """True if row i is known, meets the condition and has a value."""
    if offsets >= 0 and i8[offsets + i] >= limits[i8[partitions + i]]:
        return False
    if where >= 0 and f8[where + i] != 1.0:
        return False
    return kind == ROWS or present(i8, f8, kind, column + i, validity + i)


@njit(cache=True)
def parts(i8, kind, at):  # type: ignore[no-untyped-def]
    """A value as (integer, exponent of 2); a float64's exponent counts from 2^-1074."""
    if kind != FLOAT:
        return i8[at], 0
    mantissa, exponent = mantissa_and_exponent(i8[at])
    return (-mantissa if i8[at] < 0 else mantissa), exponent


@njit(cache=True, inline="always")
def word_of(i8, f8, kind, at):  # type: ignore[no-untyped-def]
    """A value as an integer that is equal where values are: −0.0 is 0.0, other equal floats have equal bits."""
    return np.int64(0) if kind == FLOAT and f8[at] == 0.0 else i8[at]


@njit(cache=True)
def slots_for(most):  # type: ignore[no-untyped-def]
    """How many slots a set of words (`place_in`) needs for up to `most` of them."""
    slots = 64
    while slots < 2 * most + 2:
        slots *= 2
    return slots


@njit(cache=True, inline="always")
def place_in(seen, used, word):  # type: ignore[no-untyped-def]
    """The slot of a set of words where the word is, or where it would be put; slots are a power of 2."""
    # Fibonacci hashing, on the two halves so that close values and whole floats both spread.
    mixed = ((word ^ (word >> 32)) & DIGIT) * 2_654_435_769
    place = (mixed ^ (mixed >> 21)) & (len(seen) - 1)
    while used[place] and seen[place] != word:
        place = (place + 1) & (len(seen) - 1)
    return place
