"""Which different values a window holds, and how often each occurs."""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.counted import counts, word_of
from headrace.aggregations.exact import turned
from headrace.aggregations.lanes import FLOAT


@njit(cache=True)
def sorted_values(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop
):
    """The values of a window in ascending order, as int64; floats are `turned`."""
    found = np.empty(stop - start, np.int64)
    n = 0
    for i in range(start, stop):
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            word = word_of(i8, f8, kind, column + i)
            found[n] = turned(word) if kind == FLOAT else word
            n += 1
    return np.sort(found[:n])


@njit(cache=True)
def distinct(values, often, cap):  # type: ignore[no-untyped-def]
    """Bring the different ones of sorted values to the front, each with how often it occurs; returns their number.

    -1 if there are more than `cap`.
    """
    found = 0
    for i in range(len(values)):
        if i > 0 and values[i] == values[found - 1]:
            often[found - 1] += 1
            continue
        if found == cap:
            return -1
        values[found] = values[i]
        often[found] = 1
        found += 1
    return found


@njit(cache=True)
def most_frequent(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop, cap
):
    """The word of the value that occurs most often, the least of several; and whether there is one.

    -1 instead of 0 or 1 if there are more different values than `cap`.
    """
    values = sorted_values(i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop)
    often = np.empty(len(values), np.int64)
    found = distinct(values, often, cap)
    if found <= 0:
        return np.int64(0), found
    best = 0
    for k in range(1, found):
        if often[k] > often[best]:
            best = k
    return (turned(values[best]) if kind == FLOAT else values[best]), 1
