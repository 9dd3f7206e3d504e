"""The value of an expression on one row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from headrace.core.schema import DType
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from headrace.features.nodes import Call, ColumnRef, FunctionCall, Literal, Node
from headrace.testing.oracle.rounding import clean, least_first, to_float64
from headrace.testing.oracle.sketch import signed, xxh64

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NUMPY: dict[DType, Any] = {
    DType.INT: np.int64,
    DType.FLOAT: np.float64,
    DType.BOOL: np.bool_,
    DType.TIMESTAMP: np.int64,
    DType.DURATION: np.int64,
}


def evaluate(node: Node, row: Mapping[str, Any]) -> Any:
    """The value of `node` where columns have the values of `row`; None is null.

    Null in, null out, for every operation but `is_null` and `fill_null`. NaN, infinities, a division by zero and an
    integer beyond int64 are null.
    """
    if isinstance(node, ColumnRef):
        return clean(row[node.name], node.dtype)
    if isinstance(node, Literal):
        return clean(node.value, node.dtype)
    values = [evaluate(arg, row) for arg in node.args]
    if isinstance(node, FunctionCall):
        return _call(node, values)
    if node.op == "is_null":
        return values[0] is None
    if node.op == "fill_null":
        return clean(values[1] if values[0] is None else values[0], node.dtype)
    if any(value is None for value in values):
        return None
    return clean(_OPERATIONS[node.op](node, values), node.dtype)


def _call(node: FunctionCall, values: Sequence[Any]) -> Any:
    """A user's function on columns of one row."""
    if any(value is None for value in values) and not node.null_pass:
        return None
    columns = [_column(value, arg.dtype) for value, arg in zip(values, node.args, strict=True)]
    result = node.function(*columns)[0]
    if isinstance(result, float | np.floating) and not math.isfinite(result):
        return None
    return clean(result, node.dtype)


def _column(value: Any, dtype: DType) -> Any:
    if dtype not in _NUMPY:
        column = np.empty(1, np.object_)
        column[0] = np.asarray(value, np.float64) if dtype is DType.LIST and value is not None else value
        return column
    return np.array([np.nan]) if value is None else np.array([value], _NUMPY[dtype])


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Call, Sequence[Any]], Any]:
    """Float64 arithmetic where the result is a float, else exact integers."""

    def apply(node: Call, values: Sequence[Any]) -> Any:
        a, b = values
        return operation(float(a), float(b)) if node.dtype is DType.FLOAT else operation(a, b)

    return apply


def _comparison(operation: Callable[[Any, Any], bool]) -> Callable[[Call, Sequence[Any]], Any]:
    """Numbers as float64 if one of them is; strings by their UTF-8 bytes."""

    def apply(node: Call, values: Sequence[Any]) -> Any:
        return operation(*_comparable(node, values))

    return apply


def _comparable(node: Call, values: Sequence[Any]) -> list[Any]:
    if any(arg.dtype is DType.FLOAT for arg in node.args):
        return [float(value) for value in values]
    return [least_first(value) for value in values]


def _divide(node: Call, values: Sequence[Any]) -> Any:
    a, b = float(values[0]), float(values[1])
    return None if b == 0 else a / b


def _is_in(node: Call, values: Sequence[Any]) -> bool:
    """Candidates are arguments or parameters; numbers are compared as float64 if one of them is."""
    value, *candidates = [*values, *node.params]
    if any(isinstance(candidate, float) for candidate in candidates):
        return float(value) in [float(candidate) for candidate in candidates]
    return _comparable(node, [value])[0] in _comparable(node, candidates)


def _between(node: Call, values: Sequence[Any]) -> bool:
    value, low, high = _comparable(node, values)
    return bool(low <= value <= high)


def _calendar(part: Callable[[datetime], int]) -> Callable[[Call, Sequence[Any]], Any]:
    """A part of the local time in the zone of the first parameter."""

    def apply(node: Call, values: Sequence[Any]) -> Any:
        zone = node.params[0] if node.params else "UTC"
        return part((_EPOCH + timedelta(microseconds=values[0])).astimezone(ZoneInfo(zone)))

    return apply


def _in_units(unit_us: int) -> Callable[[Call, Sequence[Any]], Any]:
    return lambda node, values: float(values[0]) / float(unit_us)


def _cosine(node: Call, values: Sequence[Any]) -> float | None:
    """sign(a·b) · sqrt((a·b)² / (a·a · b·b)) over the positions where both have a number; null if one has length 0."""
    pairs = [
        (Fraction(float(a)), Fraction(float(b)))
        for a, b in zip(values[0], values[1], strict=True)
        if a is not None and b is not None and not math.isnan(a) and not math.isnan(b)
    ]
    dot = sum((a * b for a, b in pairs), Fraction(0))
    lengths = sum((a * a for a, _ in pairs), Fraction(0)) * sum((b * b for _, b in pairs), Fraction(0))
    if lengths == 0:
        return None
    square = to_float64(dot * dot / lengths)
    assert square is not None
    return -math.sqrt(square) if dot < 0 else math.sqrt(square)


_OPERATIONS: dict[str, Callable[[Call, Sequence[Any]], Any]] = {
    "add": _arithmetic(lambda a, b: a + b),
    "sub": _arithmetic(lambda a, b: a - b),
    "mul": _arithmetic(lambda a, b: a * b),
    "div": _divide,
    "neg": lambda node, values: -values[0],
    "eq": _comparison(lambda a, b: bool(a == b)),
    "ne": _comparison(lambda a, b: bool(a != b)),
    "lt": _comparison(lambda a, b: bool(a < b)),
    "le": _comparison(lambda a, b: bool(a <= b)),
    "gt": _comparison(lambda a, b: bool(a > b)),
    "ge": _comparison(lambda a, b: bool(a >= b)),
    "and": lambda node, values: values[0] and values[1],
    "or": lambda node, values: values[0] or values[1],
    "not": lambda node, values: not values[0],
    "is_in": _is_in,
    "between": _between,
    "hour": _calendar(lambda time: time.hour),
    "weekday": _calendar(lambda time: time.weekday()),
    "month": _calendar(lambda time: time.month),
    "day": _calendar(lambda time: time.day),
    "seconds": _in_units(US_PER_SECOND),
    "hours": _in_units(US_PER_HOUR),
    "days": _in_units(US_PER_DAY),
    "cosine": _cosine,
    "packed": lambda node, values: values[0],
    "xxh64": lambda node, values: signed(xxh64(values[0].encode())),
}
