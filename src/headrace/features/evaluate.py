"""Evaluates expression trees over columns. The same code runs on one request and on ten million rows.

Nulls go through (design 4.9): an operation on a null is null, and so are division by zero, an integer overflow and a
float result that is not finite; `and`, `or` make no exception. −0.0 becomes 0.0. Inside, a value is an array
(or the scalar of a constant) with a validity mask, or None where nothing is null; few NumPy calls per operation are
what keeps blocks of three rows fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.core.columns import NUMPY_DTYPES, BoolArray, Column, nulls, packed_lists
from headrace.core.errors import SchemaError
from headrace.core.schema import DType
from headrace.features.calendar import calendar_field
from headrace.features.call_function import call_function
from headrace.features.nodes import Call, ColumnRef, FunctionCall, Literal, Node

Values: TypeAlias = Any
"""An array, or a Python scalar that stands for every row."""
Mask: TypeAlias = BoolArray | None
_Operation: TypeAlias = Callable[[Call, list[Values], list[Mask], int], tuple[Values, Mask]]

_INT_SAFE = 9.2e18
_UNIT_US = {"seconds": 1e6, "hours": 3.6e9, "days": 8.64e10}
_add, _subtract, _multiply, _divide = np.add, np.subtract, np.multiply, np.divide
_isfinite = np.isfinite
_all = np.logical_and.reduce


def evaluate(node: Node, columns: Mapping[str, Column], n: int) -> Column:
    """The column of `n` rows that the expression gives over these columns of `n` rows each.

    Raises SchemaError if a column is missing, or if a user's function returns something else than one value per row.
    """
    if isinstance(node, ColumnRef):
        return _column(node, columns)
    with np.errstate(all="ignore"):
        values, valid = _evaluate(node, columns, n)
    if not isinstance(values, np.ndarray):
        values = np.full(n, values, NUMPY_DTYPES[node.dtype])
    return Column(node.dtype, values, valid)


def _column(node: ColumnRef, columns: Mapping[str, Column]) -> Column:
    try:
        return columns[node.name]
    except KeyError:
        raise SchemaError(f'no column "{node.name}" to compute with', field=node.name) from None


def _evaluate(node: Node, columns: Mapping[str, Column], n: int) -> tuple[Values, Mask]:
    if isinstance(node, ColumnRef):
        column = _column(node, columns)
        return column.values, column.valid
    if isinstance(node, Literal):
        return (literal_values(node.value, n), None) if node.value is not None else null_values(node.dtype, n)
    if isinstance(node, FunctionCall):
        made = call_function(node, [evaluate(arg, columns, n) for arg in node.args], n)
        return made.values, made.valid
    values: list[Values] = []
    masks: list[Mask] = []
    for arg in node.args:
        value, mask = _evaluate(arg, columns, n)
        values.append(value)
        masks.append(mask)
    return OPERATIONS[node.op](node, values, masks, n)


def ends_in_nul(value: Any) -> bool:
    """True for a text that NumPy would cut: it takes it for one of fixed width, whose end is padding."""
    return isinstance(value, str) and value.endswith("\0")


def literal_values(value: Any, n: int) -> Values:
    """A constant as an operand of operations over `n` rows: itself, unless NumPy would cut it."""
    if not ends_in_nul(value):
        return value
    spread = np.empty(n, np.object_)
    spread.fill(value)
    return spread


def null_values(dtype: DType, n: int) -> tuple[Values, Mask]:
    """Values and mask of `n` nulls."""
    column = nulls(dtype, n)
    return column.values, column.valid


def both(a: Mask, b: Mask) -> Mask:
    """Valid where both are."""
    if a is None:
        return b
    return a if b is None else a & b


def _finite(values: Values, valid: Mask, n: int) -> tuple[Values, Mask]:
    """Nulls where a float result is not finite."""
    if not isinstance(values, np.ndarray):
        return (values, valid) if math.isfinite(values) else null_values(DType.FLOAT, n)
    finite = _isfinite(values)
    return (values, valid) if _all(finite) else (values, both(finite, valid))


def _float(values: Values) -> Values:
    return values.astype(np.float64) if isinstance(values, np.ndarray) else float(values)


def _arithmetic(ufunc: Any, op: str) -> _Operation:
    def apply(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
        a, b = values
        valid = masks[0] if masks[1] is None else both(masks[0], masks[1])
        if node.dtype is not DType.FLOAT:
            return _integer(op, a, b, valid, n)
        result = ufunc(a, b)
        # Only a product can be −0.0 here: its operands never are, and a sum or difference of others is +0.0.
        return _finite(result + 0.0 if op == "mul" else result, valid, n)

    return apply


def _integer(op: str, a: Values, b: Values, valid: Mask, n: int) -> tuple[Values, Mask]:
    """Arithmetic of int64; null where it overflows. The test in float64 is safe by a margin, the rest is exact."""
    a, b = whole(a, n), whole(b, n)
    ufunc = _EXACT[op]
    estimate = ufunc(a.astype(np.float64), b.astype(np.float64))
    result = ufunc(a, b)
    safe = np.abs(estimate) < _INT_SAFE
    if _all(safe):
        return result, valid
    for index in np.flatnonzero(~safe).tolist():
        exact = _PYTHON[op](int(a[index]), int(b[index]))
        safe[index] = -(2**63) <= exact < 2**63
    return result, both(safe, valid)


_EXACT: dict[str, Any] = {"add": _add, "sub": _subtract, "mul": _multiply}
_PYTHON: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
}


def whole(values: Values, n: int) -> npt.NDArray[Any]:
    """Values of an int64 column as an array."""
    return values if isinstance(values, np.ndarray) else np.full(n, values, np.int64)


def _div(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    a, b = values
    valid = both(masks[0], masks[1])
    # Division by zero gives an infinity or NaN, and so a null; int64 operands become float64 first.
    return _finite(_divide(a, b, dtype=np.float64) + 0.0, valid, n)


def _neg(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    if node.dtype is DType.FLOAT:
        return 0.0 - values[0], masks[0]
    return _integer("sub", 0, values[0], masks[0], n)


def _comparison(ufunc: Any) -> _Operation:
    def apply(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
        a, b = _alike(node, values)
        return ufunc(a, b), both(masks[0], masks[1])

    return apply


def _alike(node: Call, values: list[Values]) -> list[Values]:
    """Operands of one type: an int beside a float is compared as float64."""
    dtypes = [arg.dtype for arg in node.args]
    mixed = DType.FLOAT in dtypes and DType.INT in dtypes
    return [_float(value) for value in values] if mixed else values


def _and(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    return values[0] & values[1], both(masks[0], masks[1])


def _or(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    return values[0] | values[1], both(masks[0], masks[1])


def _not(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    value = values[0]
    return (~value if isinstance(value, np.ndarray) else not value), masks[0]


def _is_null(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    mask = masks[0]
    return (np.zeros(n, np.bool_) if mask is None else ~mask), None


def _is_in(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    a = values[0]
    found = np.zeros(n, np.bool_)
    numbers = node.args[0].dtype is DType.INT and any(isinstance(item, float) for item in node.params)
    a = _float(a) if numbers else a
    for item in node.params:
        found |= a == (float(item) if numbers else literal_values(item, n))
    return found, masks[0]


def _between(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    a, low, high = _alike(node, values)
    return (a >= low) & (a <= high), both(both(masks[0], masks[1]), masks[2])


def _fill_null(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    a, b = values
    if node.dtype is DType.FLOAT:
        a, b = _float(a), _float(b)
    if masks[0] is None:
        return a, None
    filled: Any = np.where(masks[0], a, b)  # type: ignore[arg-type, unused-ignore]
    return filled.astype(NUMPY_DTYPES[node.dtype], copy=False), None if masks[1] is None else masks[0] | masks[1]


def _calendar(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    us = whole(values[0], n)
    if masks[0] is not None:
        us = np.where(masks[0], us, 0)
    found, within = calendar_field(node.op, us, node.params[0] if node.params else "UTC")
    return found, both(masks[0], within)


def _duration(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    return _float(values[0]) / _UNIT_US[node.op], masks[0]


def _cosine(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    valid = both(masks[0], masks[1])
    rows = np.arange(n) if valid is None else np.flatnonzero(valid)
    result, found = np.zeros(n), np.zeros(n, np.bool_)
    if len(rows):
        # einsum over the last axis adds each row by itself, so its bits do not depend on the rows beside it.
        a, b = np.stack(list(values[0][rows])), np.stack(list(values[1][rows]))
        # Null elements are skipped by position.
        missing = np.isnan(a) | np.isnan(b)
        a, b = np.where(missing, 0.0, a), np.where(missing, 0.0, b)
        dot = np.einsum("ij,ij->i", a, b)
        norms = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(np.einsum("ij,ij->i", b, b))
        quotient = dot / norms + 0.0
        result[rows], found[rows] = quotient, _isfinite(quotient)
    return result, None if found.all() else found


def _xxh64(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    # Late: it loads the compiler.
    from headrace.aggregations.sketch import hash_texts

    texts = values[0].tolist() if isinstance(values[0], np.ndarray) else [values[0]] * n
    return hash_texts(texts), masks[0]


def _packed(node: Call, values: list[Values], masks: list[Mask], n: int) -> tuple[Values, Mask]:
    texts = packed_lists(Column(DType.LIST, values[0], masks[0]))
    return texts.values, texts.valid


OPERATIONS: Final[dict[str, _Operation]] = {
    "add": _arithmetic(_add, "add"),
    "sub": _arithmetic(_subtract, "sub"),
    "mul": _arithmetic(_multiply, "mul"),
    "div": _div,
    "neg": _neg,
    "eq": _comparison(np.equal),
    "ne": _comparison(np.not_equal),
    "lt": _comparison(np.less),
    "le": _comparison(np.less_equal),
    "gt": _comparison(np.greater),
    "ge": _comparison(np.greater_equal),
    "and": _and,
    "or": _or,
    "not": _not,
    "is_null": _is_null,
    "is_in": _is_in,
    "between": _between,
    "fill_null": _fill_null,
    "cosine": _cosine,
    "xxh64": _xxh64,
    "packed": _packed,
    **dict.fromkeys(("hour", "weekday", "month", "day"), _calendar),
    **dict.fromkeys(("seconds", "hours", "days"), _duration),
}
