"""Which types an operation takes and gives, and which Python types stand for which column types."""

from __future__ import annotations

import math
import types
import typing
from datetime import datetime, timedelta
from typing import Any

from headrace.core.schema import SCALARS, DType
from headrace.core.time import to_us

PYTHON_TYPES: dict[Any, DType] = {
    bool: DType.BOOL,
    int: DType.INT,
    float: DType.FLOAT,
    str: DType.STRING,
    datetime: DType.TIMESTAMP,
    timedelta: DType.DURATION,
    list[float]: DType.LIST,
}
_SHOWN = {
    DType.BOOL: "bool",
    DType.INT: "int",
    DType.FLOAT: "float",
    DType.STRING: "str",
    DType.TIMESTAMP: "datetime",
    DType.DURATION: "timedelta",
    DType.LIST: "list[float]",
}
_SHOWN |= {
    dtype: f"{'list' if len(dtype.parts) == 1 else 'dict'}[{', '.join(_SHOWN[part] for part in dtype.parts)}]"
    for dtype in DType
    if dtype.is_nested
}
NUMBERS = frozenset({DType.INT, DType.FLOAT})
_ORDERED = frozenset({DType.INT, DType.FLOAT, DType.STRING, DType.TIMESTAMP, DType.DURATION})
_SAME: dict[tuple[str, DType, DType], DType] = {
    ("add", DType.TIMESTAMP, DType.DURATION): DType.TIMESTAMP,
    ("add", DType.DURATION, DType.TIMESTAMP): DType.TIMESTAMP,
    ("add", DType.DURATION, DType.DURATION): DType.DURATION,
    ("sub", DType.TIMESTAMP, DType.TIMESTAMP): DType.DURATION,
    ("sub", DType.TIMESTAMP, DType.DURATION): DType.TIMESTAMP,
    ("sub", DType.DURATION, DType.DURATION): DType.DURATION,
    ("mul", DType.DURATION, DType.INT): DType.DURATION,
    ("mul", DType.INT, DType.DURATION): DType.DURATION,
    ("div", DType.DURATION, DType.DURATION): DType.FLOAT,
}
_UNARY: dict[str, tuple[frozenset[DType], DType | None]] = {
    "neg": (frozenset({DType.INT, DType.FLOAT, DType.DURATION}), None),
    "not": (frozenset({DType.BOOL}), DType.BOOL),
    "is_null": (frozenset(DType), DType.BOOL),
    **{op: (frozenset({DType.TIMESTAMP}), DType.INT) for op in ("hour", "weekday", "month", "day")},
    **{op: (frozenset({DType.DURATION}), DType.FLOAT) for op in ("seconds", "hours", "days")},
}
_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=", "and": "&", "or": "|", "not": "~", "neg": "-",
}  # fmt: skip


def shown(dtype: DType) -> str:
    """The Python spelling of a column type."""
    return _SHOWN[dtype]


def operation_dtype(op: str, dtypes: tuple[DType, ...]) -> DType | None:
    """The result type of `op` over operands of these types; None if it does not take them."""
    if op in _UNARY:
        takes, gives = _UNARY[op]
        return (gives or dtypes[0]) if dtypes[0] in takes else None
    if op in ("and", "or"):
        return DType.BOOL if set(dtypes) == {DType.BOOL} else None
    if op == "cosine":
        return DType.FLOAT if set(dtypes) == {DType.LIST} else None
    if op in ("eq", "ne", "lt", "le", "gt", "ge", "between", "is_in"):
        return DType.BOOL if _comparable(op, dtypes) else None
    if op == "fill_null":
        return dtypes[0] if dtypes[0] is dtypes[1] else (DType.FLOAT if set(dtypes) <= NUMBERS else None)
    if set(dtypes) <= NUMBERS:
        return DType.FLOAT if op == "div" or DType.FLOAT in dtypes else DType.INT
    return _SAME.get((op, dtypes[0], dtypes[1]))


def _comparable(op: str, dtypes: tuple[DType, ...]) -> bool:
    if not SCALARS.issuperset(dtypes):
        return False
    if op in ("lt", "le", "gt", "ge", "between") and not set(dtypes) <= _ORDERED:
        return False
    return set(dtypes) <= NUMBERS or len(set(dtypes)) == 1


def operation_problem(op: str, dtypes: tuple[DType, ...]) -> str:
    """The sentence for operands that `op` does not take."""
    if len(dtypes) == 1:
        return f"{_SIGNS.get(op, '.' + op + '()')} does not take {shown(dtypes[0])}"
    cure = "; put comparisons in parentheses: (a > 1) & (b > 2)" if op in ("and", "or") else ""
    return f"{_SIGNS.get(op, '.' + op + '()')} does not take {' and '.join(shown(d) for d in dtypes)}{cure}"


def literal_of(value: Any) -> tuple[Any, DType] | str:
    """The stored value and type of a Python constant, or why it cannot be one. Times become int µs."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return value, DType.BOOL
    if isinstance(value, int):
        return (value, DType.INT) if -(2**63) <= value < 2**63 else f"{value} does not fit into 64 bits"
    if isinstance(value, float):
        return (value + 0.0, DType.FLOAT) if math.isfinite(value) else f"{value} is no value; nulls are .is_null()"
    if isinstance(value, str):
        return value, DType.STRING
    if isinstance(value, datetime):
        return to_us(value), DType.TIMESTAMP
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1), DType.DURATION
    return f"{value!r} ({type(value).__name__}) cannot stand in an expression"


def annotated_dtype(annotation: Any) -> tuple[DType, bool] | None:
    """Column type and nullability of `T` in `Field[T]`; None if there is no such column type."""
    nullable = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = typing.get_args(annotation)
        rest = [part for part in parts if part is not type(None)]
        nullable = len(rest) < len(parts)
        if len(rest) != 1:
            return None
        annotation = rest[0]
    try:
        dtype = PYTHON_TYPES.get(annotation)
    except TypeError:
        return None
    return None if dtype is None else (dtype, nullable)
