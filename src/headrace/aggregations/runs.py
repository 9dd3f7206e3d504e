"""Sorted runs: rows by (code, time), by a counting sort of the codes and a radix sort of each code's times."""

from __future__ import annotations

import numpy as np
from numba import njit

_BY_INSERTION = 64
_MOVES = 8


@njit(cache=True)
def _insert(pairs, a, b, budget):  # type: ignore[no-untyped-def]
    """Insertion sort by time; False if that takes more than `budget` moves (what is done so far stays)."""
    for i in range(a + 1, b):
        time, row = pairs[i, 0], pairs[i, 1]
        j = i
        while j > a and pairs[j - 1, 0] > time:
            pairs[j, 0], pairs[j, 1] = pairs[j - 1, 0], pairs[j - 1, 1]
            j -= 1
        pairs[j, 0], pairs[j, 1] = time, row
        budget -= i - j
        if budget < 0:
            return False
    return True


@njit(cache=True)
def _radix(pairs, other, places, a, b, low, bits, top):  # type: ignore[no-untyped-def]
    """Stable sort by the bits `bits` to `top` of (time - low), a digit at a time, the least first."""
    width = 8 if b - a < 8192 else 11
    mask = (1 << width) - 1
    while bits < top:
        places[: mask + 2] = 0
        for i in range(a, b):
            places[(((pairs[i, 0] - low) >> bits) & mask) + 1] += 1
        for k in range(mask):
            places[k + 1] += places[k]
        for i in range(a, b):
            digit = ((pairs[i, 0] - low) >> bits) & mask
            place = places[digit]
            places[digit] = place + 1
            other[place, 0], other[place, 1] = pairs[i, 0], pairs[i, 1]
        for i in range(b - a):
            pairs[a + i, 0], pairs[a + i, 1] = other[i, 0], other[i, 1]
        bits += width


@njit(cache=True)
def _width(value):  # type: ignore[no-untyped-def]
    bits = 0
    while value >> bits:
        bits += 1
        if bits == 63:
            break
    return bits


@njit(cache=True, nogil=True)
def sort_runs(codes, times, low_code, high_code):  # type: ignore[no-untyped-def]
    """Sort the rows whose code is in `low_code` to `high_code - 1` by (code, time); equal ones keep their order.

    Times lie less than 2^63 apart. Returns the rows' indices, their times, and int64 [codes + 1] where each code's run
    begins.
    """
    size = high_code - low_code
    edges = np.zeros(size + 1, np.int64)
    for code in codes:
        if low_code <= code < high_code:
            edges[code - low_code + 1] += 1
    largest = 0
    for code in range(size):
        largest = max(largest, edges[code + 1])
        edges[code + 1] += edges[code]
    pairs = np.empty((edges[size], 2), np.int64)
    at = edges[:-1].copy()
    for row in range(len(codes)):
        code = codes[row]
        if low_code <= code < high_code:
            place = at[code - low_code]
            at[code - low_code] = place + 1
            pairs[place, 0], pairs[place, 1] = times[row], row
    other = np.empty((largest, 2), np.int64)
    places = np.zeros(2050, np.int64)
    for code in range(size):
        a, b = edges[code], edges[code + 1]
        if b - a < 2:
            continue
        if b - a <= _BY_INSERTION:
            _insert(pairs, a, b, np.int64(_BY_INSERTION * _BY_INSERTION))
            continue
        low = high = pairs[a, 0]
        ordered = True
        for i in range(a + 1, b):
            ordered = ordered and pairs[i - 1, 0] <= pairs[i, 0]
            low, high = min(low, pairs[i, 0]), max(high, pairs[i, 0])
        if ordered:
            continue
        # The upper bits put evenly spread times nearly into order; insertion does the rest unless they lie in clumps.
        top = _width(high - low)
        enough = max(top - _width(b - a) - 3, 0)
        _radix(pairs, other, places, a, b, low, enough, top)
        if not _insert(pairs, a, b, _MOVES * (b - a)):
            _radix(pairs, other, places, a, b, low, np.int64(0), top)
    return pairs[:, 1].copy(), pairs[:, 0].copy(), edges
