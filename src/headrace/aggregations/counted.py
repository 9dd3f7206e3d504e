"""Which rows of a window an aggregation counts, and what their values are exactly."""

from __future__ import annotations

from numba import njit

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
    bits = i8[at]
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & 0xFFFFFFFFFFFFF
    if exponent > 0:
        mantissa |= 1 << 52
        exponent -= 1
    return (-mantissa if bits < 0 else mantissa), exponent
