"""From exact numbers to the values that a result may hold."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from headrace.core.schema import DType

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def to_float64(exact: Fraction) -> float | None:
    """The float64 nearest to `exact`, ties to the even one; None where that is infinite. Zero is +0.0."""
    if exact == 0:
        return 0.0
    # A float64 has 53 bits, and none of them weighs less than 2^-1074.
    last_bit = max(_floor_log2(abs(exact)) - 52, -1074)
    mantissa = round(exact / Fraction(2) ** last_bit)  # of a Fraction: exact, half to even
    if abs(mantissa) * Fraction(2) ** last_bit >= Fraction(2) ** 1024:
        return None
    return math.ldexp(mantissa, last_bit)


def to_int64(exact: int) -> int | None:
    """`exact`, or None where it does not fit int64."""
    return exact if INT64_MIN <= exact <= INT64_MAX else None


def clean(value: Any, dtype: DType) -> Any:
    """A value as results hold it: NaN, infinities and integers beyond int64 are None, −0.0 is 0.0."""
    if value is None:
        return None
    if dtype is DType.FLOAT:
        number = float(value)
        return number + 0.0 if math.isfinite(number) else None
    if dtype.is_integer_backed:
        return to_int64(int(value))
    if dtype is DType.BOOL:
        return bool(value)
    if dtype is DType.LIST:
        return [clean(item, DType.FLOAT) for item in value]
    return value


def least_first(value: Any) -> Any:
    """Sort key of a value of any one type; strings in the order of their UTF-8 bytes."""
    return value.encode() if isinstance(value, str) else value


def _floor_log2(exact: Fraction) -> int:
    guess = exact.numerator.bit_length() - exact.denominator.bit_length()
    return guess if Fraction(2) ** guess <= exact else guess - 1
