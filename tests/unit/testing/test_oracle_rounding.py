"""Rounding of exact numbers to float64."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from headrace.core.schema import DType
from headrace.testing.oracle.rounding import clean, least_first, to_float64, to_int64

TINY = Fraction(5e-324)
LARGEST = Fraction(1.7976931348623157e308)


def test_halves_between_neighbours_go_to_the_even_mantissa() -> None:
    ulp = Fraction(2) ** -52
    assert to_float64(1 + ulp / 2) == 1.0
    assert to_float64(1 + ulp + ulp / 2) == 1.0 + 2 * 2**-52
    assert to_float64(1 + ulp / 2 + Fraction(1, 10**400)) == 1.0 + 2**-52
    assert to_float64(Fraction(2**53 + 1)) == 2.0**53
    assert to_float64(Fraction(-(2**53) - 3)) == -(2.0**53) - 4


def test_rounding_up_may_carry_into_the_next_power_of_two() -> None:
    assert to_float64(2 - Fraction(1, 2**60)) == 2.0


def test_subnormals_round_at_their_last_bit() -> None:
    assert to_float64(TINY / 2) == 0.0
    assert to_float64(TINY * 3 / 4) == 5e-324
    assert to_float64(TINY * 3 / 2) == 1e-323
    assert to_float64(TINY * 5 / 2) == 1e-323
    # One step below the least normal number; 53 bits would keep half a step more.
    assert to_float64(Fraction(2.2250738585072014e-308) - TINY / 4) == 2.2250738585072014e-308


def test_beyond_the_largest_is_null_from_half_a_step_on() -> None:
    step = Fraction(2) ** 971
    assert to_float64(LARGEST) == 1.7976931348623157e308
    assert to_float64(LARGEST + step / 2 - 1) == 1.7976931348623157e308
    assert to_float64(LARGEST + step / 2) is None
    assert to_float64(-LARGEST - step / 2) is None


def test_zero_has_no_sign() -> None:
    for exact in (Fraction(0), -TINY / 4):
        value = to_float64(exact)
        assert value is not None
        assert struct.pack("<d", value) == bytes(8)


@given(st.integers(), st.integers(1, 2**1200), st.integers(-1200, 1200))
def test_agrees_with_the_interpreters_own_division(numerator: int, denominator: int, exponent: int) -> None:
    exact = Fraction(numerator, denominator) * Fraction(2) ** exponent
    try:
        expected: float | None = exact.numerator / exact.denominator
    except OverflowError:
        expected = None
    assert to_float64(exact) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_stays_itself(value: float) -> None:
    assert to_float64(Fraction(value)) == value


def test_int64_ends() -> None:
    assert to_int64(2**63 - 1) == 2**63 - 1
    assert to_int64(-(2**63)) == -(2**63)
    assert to_int64(2**63) is None
    assert to_int64(-(2**63) - 1) is None


def test_results_hold_no_nan_infinity_or_negative_zero() -> None:
    assert clean(math.nan, DType.FLOAT) is None
    assert clean(-math.inf, DType.FLOAT) is None
    assert math.copysign(1.0, clean(-0.0, DType.FLOAT)) == 1.0
    assert clean(2**63, DType.TIMESTAMP) is None
    assert clean("", DType.STRING) == ""


def test_strings_stand_in_the_order_of_their_utf8_bytes() -> None:
    # By UTF-16 units the emoji (D83D DE00) would stand before U+FFFF.
    assert sorted(["\U0001f600", "\uffff", "é", "z", "Z", ""], key=least_first) == [
        "", "Z", "z", "é", "\uffff", "\U0001f600",
    ]  # fmt: skip
