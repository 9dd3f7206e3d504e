"""Expressions on one row, worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from headrace.core.schema import DType
from headrace.core.time import parse_time
from headrace.features.nodes import Call, ColumnRef, FunctionCall, Literal, Node
from headrace.testing.oracle import evaluate

TYPES = {bool: DType.BOOL, int: DType.INT, float: DType.FLOAT, str: DType.STRING}


def operand(value: Any, dtype: DType | None = None) -> Node:
    return Literal(value, dtype or TYPES.get(type(value), DType.FLOAT))


def call(op: str, *values: Any, dtype: DType = DType.FLOAT, params: tuple[Any, ...] = ()) -> Any:
    args = tuple(v if isinstance(v, ColumnRef | Literal | Call | FunctionCall) else operand(v) for v in values)
    return evaluate(Call(op, args, dtype, params), {})


def test_columns_and_nested_calls() -> None:
    x, y = ColumnRef("x", DType.FLOAT), ColumnRef("y", DType.FLOAT)
    node = Call("div", (Call("sub", (x, y), DType.FLOAT), y), DType.FLOAT)
    assert evaluate(node, {"x": 3.0, "y": 2.0}) == 0.5
    assert evaluate(node, {"x": None, "y": 2.0}) is None


def test_null_in_null_out() -> None:
    for op in ("add", "sub", "mul", "div"):
        assert call(op, 1.0, None) is None
        assert call(op, None, 1.0) is None
    for op in ("eq", "ne", "lt", "and", "or", "is_in"):
        assert call(op, operand(None, DType.BOOL), True, dtype=DType.BOOL) is None
    assert call("or", True, operand(None, DType.BOOL), dtype=DType.BOOL) is None
    assert call("and", False, operand(None, DType.BOOL), dtype=DType.BOOL) is None
    assert call("not", operand(None, DType.BOOL), dtype=DType.BOOL) is None
    assert call("between", None, 1.0, 2.0, dtype=DType.BOOL) is None


def test_is_null_and_fill_null_see_nulls() -> None:
    assert call("is_null", None, dtype=DType.BOOL) is True
    assert call("is_null", 0.0, dtype=DType.BOOL) is False
    assert call("is_null", math.nan, dtype=DType.BOOL) is True
    assert call("fill_null", None, 7.0) == 7.0
    assert call("fill_null", 0.0, 7.0) == 0.0
    assert isinstance(call("fill_null", 3, 7.5), float)


def test_division_by_zero_is_null() -> None:
    assert call("div", 1.0, 0.0) is None
    assert call("div", 0.0, 0.0) is None
    assert call("div", 5, 0) is None
    assert call("div", 1.0, -0.0) is None


def test_division_is_of_float64() -> None:
    assert call("div", 1, 3) == 1 / 3
    assert call("div", 2**53 + 1, 1) == 2.0**53


def test_infinite_results_are_null_and_zero_has_no_sign() -> None:
    assert call("mul", 1e308, 10.0) is None
    assert call("add", 1.7976931348623157e308, 1.7976931348623157e308) is None
    assert math.copysign(1.0, call("mul", -1.0, 0.0)) == 1.0
    assert math.copysign(1.0, call("neg", 0.0)) == 1.0


def test_integers_are_exact_and_null_beyond_int64() -> None:
    assert call("add", 2**62, 2**62 - 1, dtype=DType.INT) == 2**63 - 1
    assert call("add", 2**62, 2**62, dtype=DType.INT) is None
    assert call("mul", 2**32, 2**31, dtype=DType.INT) is None
    assert call("neg", -(2**63), dtype=DType.INT) is None


def test_times_subtract_to_durations_in_units() -> None:
    gone = Call("sub", (operand(10_800_000_000, DType.TIMESTAMP), operand(0, DType.TIMESTAMP)), DType.DURATION)
    assert evaluate(gone, {}) == 10_800_000_000
    assert [call(unit, gone) for unit in ("seconds", "hours", "days")] == [10_800.0, 3.0, 0.125]


@pytest.mark.parametrize(
    ("op", "expected"),
    [("lt", [True, False, False]), ("le", [True, True, False]), ("eq", [False, True, False]),
     ("ne", [True, False, True]), ("ge", [False, True, True]), ("gt", [False, False, True])],
)  # fmt: skip
def test_comparisons(op: str, expected: list[bool]) -> None:
    for low, high in ((1, 2), (1.0, 2.0), ("\uffff", "\U0001f600")):
        pairs = ((low, high), (low, low), (high, low))
        assert [call(op, a, b, dtype=DType.BOOL) for a, b in pairs] == expected


def test_an_integer_beside_a_float_is_compared_as_float64() -> None:
    assert call("eq", 2**53 + 1, 2.0**53, dtype=DType.BOOL) is True
    assert call("eq", 2**53 + 1, 2**53, dtype=DType.BOOL) is False


def test_membership_and_range() -> None:
    assert call("is_in", "b", "a", "b", dtype=DType.BOOL) is True
    assert call("is_in", "c", "a", "b", dtype=DType.BOOL) is False
    among = Call("is_in", (ColumnRef("x", DType.INT),), DType.BOOL, (1, 2.0**53))
    assert [evaluate(among, {"x": x}) for x in (1, 2, 2**53 + 1, None)] == [True, False, True, None]
    assert [call("between", x, 1, 3, dtype=DType.BOOL) for x in (0, 1, 3, 4)] == [False, True, True, False]


def test_logic() -> None:
    pairs = [(a, b) for a in (False, True) for b in (False, True)]
    assert [call("and", a, b, dtype=DType.BOOL) for a, b in pairs] == [False, False, False, True]
    assert [call("or", a, b, dtype=DType.BOOL) for a, b in pairs] == [False, True, True, True]
    assert [call("not", a, dtype=DType.BOOL) for a in (False, True)] == [True, False]


def test_the_calendar_is_of_the_zone() -> None:
    at = operand(parse_time("2013-03-10T06:59:59Z"), DType.TIMESTAMP)  # one second before the clocks jump
    after = operand(parse_time("2013-03-10T07:00:00Z"), DType.TIMESTAMP)
    zone = ("America/New_York",)
    assert call("hour", at, dtype=DType.INT, params=zone) == 1
    assert call("hour", after, dtype=DType.INT, params=zone) == 3
    assert call("weekday", at, dtype=DType.INT, params=zone) == 6  # a Sunday; Monday is 0
    assert (call("month", at, dtype=DType.INT), call("day", at, dtype=DType.INT)) == (3, 10)
    before = operand(-1, DType.TIMESTAMP)
    assert (call("hour", before, dtype=DType.INT), call("day", before, dtype=DType.INT)) == (23, 31)


def test_cosine() -> None:
    def of(a: list[float | None], b: list[float | None]) -> Any:
        return call("cosine", operand(a, DType.LIST), operand(b, DType.LIST))

    assert of([3.0, 0.0], [5.0, 0.0]) == 1.0
    assert of([1.0, 0.0], [0.0, 1.0]) == 0.0
    assert of([1.0, 1.0], [-2.0, -2.0]) == -1.0
    assert of([3.0, 4.0], [1.0, 0.0]) == 0.6
    assert of([3.0, None], [1.0, 9.0]) == 1.0
    assert of([0.0, 0.0], [1.0, 0.0]) is None


def test_functions_see_columns_of_one_row_and_no_nulls() -> None:
    seen: list[int] = []

    def half(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        seen.append(len(x))
        return x / 2

    def node(value: Any, null_pass: bool = False) -> FunctionCall:
        return FunctionCall("half", "0", (operand(value),), DType.FLOAT, half, null_pass)

    assert evaluate(node(3.0), {}) == 1.5
    assert evaluate(node(None), {}) is None
    assert seen == [1]
    assert evaluate(node(None, null_pass=True), {}) is None
    assert seen == [1, 1]


def test_functions_with_nan_or_infinite_results_give_null() -> None:
    for result in (math.nan, math.inf):
        made = FunctionCall("f", "0", (operand(1.0),), DType.FLOAT, lambda x, r=result: np.full(len(x), r))
        assert evaluate(made, {}) is None
