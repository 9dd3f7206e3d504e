"""Arrow columns fitted to the fields of a schema, strictly: which rows do not fit, and why.

`core.arrow` converts what is known to be right; this is for data of others (frames, files, results of queries). A type
that can never fit is an error for the whole column; a value that does not fit is told by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, Column, IntArray, normalised, nulls
from headrace.core.errors import SchemaError
from headrace.core.schema import DType, Field
from headrace.core.time import MAX_US, MIN_US, US_PER_DAY, parse_time

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_CURES = {
    DType.INT: "an integer type",
    DType.FLOAT: "a number type",
    DType.BOOL: "a boolean type",
    DType.STRING: "a text type",
    DType.TIMESTAMP: "a timestamp, a date, ISO 8601 text or int64 microseconds",
    DType.DURATION: "a duration or int64 microseconds",
    DType.LIST: "a list of numbers",
}


@dataclass(slots=True)
class Fitted:
    """A column, and for each row that does not fit the reason; such rows are null in the column."""

    column: Column
    misfits: dict[int, str] = field(default_factory=dict)

    def refuse(self, rows: Any, reason: str) -> None:
        """Mark rows (indices or a mask) as not fitting; the first reason of a row stays."""
        at = np.flatnonzero(rows) if getattr(rows, "dtype", None) == np.bool_ else rows
        for row in np.asarray(at, np.int64).tolist():
            self.misfits.setdefault(row, reason)


def fit_column(array: pa.Array | pa.ChunkedArray, spec: Field, where: str) -> Fitted:
    """Read an Arrow column as `spec`.

    Rows with an infinite float, a time outside the years 1 to 9999, a list of the wrong length, a fraction in an int
    field, or a null where none may be are misfits. Raises SchemaError (naming the column and `where` it came from) if
    the type cannot hold the field: text is no number, a bool is no int.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pt.is_null(array.type):
        fitted: Fitted | None = Fitted(nulls(spec.dtype, len(array)))
    else:
        fitted = _FITTERS[spec.dtype](array, spec)
    if fitted is None:
        raise SchemaError(
            f'column "{spec.name}" of {where} is {array.type}, but the field is {spec.dtype.value}; '
            f"give it {_CURES[spec.dtype]}",
            field=spec.name,
        )
    if not spec.nullable and fitted.column.valid is not None:
        fitted.refuse(~fitted.column.valid, "null in a field that is not nullable")
    return fitted


def _fit_int(array: pa.Array, spec: Field) -> Fitted | None:
    if pt.is_integer(array.type):
        if not pt.is_uint64(array.type):
            return Fitted(from_arrow(array, DType.INT, spec.name))
        fitted = Fitted(from_arrow(array.cast(pa.int64(), safe=False), DType.INT, spec.name))
        fitted.refuse(fitted.column.values < 0, "outside the range of int64")
        return fitted
    if pt.is_decimal(array.type) and array.type.scale == 0:
        return _whole_numbers(array.cast(pa.float64()), array, spec)
    if pt.is_floating(array.type):
        # A frame's integers with gaps come as floats; whole numbers are taken, fractions are not.
        return _whole_numbers(array.cast(pa.float64()), array, spec)
    return None


def _whole_numbers(floats: pa.Array, array: pa.Array, spec: Field) -> Fitted:
    numbers = np.asarray(floats.fill_null(np.nan))
    valid = ~np.isnan(numbers)
    with np.errstate(invalid="ignore"):
        whole = valid & (np.floor(numbers) == numbers) & (np.abs(numbers) < 2.0**63)
    values = np.where(whole, numbers, 0.0).astype(np.int64)
    if pt.is_decimal(array.type):
        exact = pc.cast(pc.if_else(pa.array(whole), array, pa.scalar(0, array.type)), pa.int64(), safe=True)
        values = np.asarray(exact.fill_null(0))
    fitted = Fitted(Column(DType.INT, values, None if valid.all() else valid))
    fitted.refuse(valid & ~whole, "expected int, got a fraction or a number outside the range of int64")
    return fitted


def _fit_float(array: pa.Array, spec: Field) -> Fitted | None:
    if not (pt.is_integer(array.type) or pt.is_floating(array.type) or pt.is_decimal(array.type)):
        return None
    if pt.is_decimal(array.type):
        array = array.cast(pa.string())  # Arrow's own way from decimals is off by an ulp in one of eight
    if not pt.is_float64(array.type):
        array = array.cast(pa.float64(), safe=False)
    numbers = array.to_numpy(zero_copy_only=False)  # null is NaN there
    fitted = Fitted(normalised(Column(DType.FLOAT, numbers)))
    infinite = np.isinf(numbers)
    if infinite.any():
        fitted.refuse(infinite, "infinite")
    return fitted


def _fit_bool(array: pa.Array, spec: Field) -> Fitted | None:
    return Fitted(from_arrow(array, DType.BOOL, spec.name)) if pt.is_boolean(array.type) else None


def _fit_string(array: pa.Array, spec: Field) -> Fitted | None:
    if not (pt.is_string(array.type) or pt.is_large_string(array.type) or pt.is_string_view(array.type)):
        return None
    return Fitted(from_arrow(array, DType.STRING, spec.name))


def _fit_timestamp(array: pa.Array, spec: Field) -> Fitted | None:
    kind = array.type
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
        return _times_of_text(array)
    valid = np.asarray(array.is_valid())
    if pt.is_date(kind):
        numbers = np.asarray(array.cast(pa.date32()).cast(pa.int32()).fill_null(0)).astype(np.int64)
        us, inside = _scaled(numbers, US_PER_DAY)
    elif pt.is_timestamp(kind):
        numbers = np.asarray(array.cast(pa.int64()).fill_null(0))
        per_second = _PER_SECOND[kind.unit]
        if per_second > 1_000_000:
            us, inside = np.floor_divide(numbers, per_second // 1_000_000), np.ones(len(numbers), np.bool_)
        else:
            us, inside = _scaled(numbers, 1_000_000 // per_second)
    elif pt.is_int64(kind):
        us, inside = np.asarray(array.fill_null(0)), np.ones(len(array), np.bool_)
    else:
        return None
    inside &= (us >= MIN_US) & (us <= MAX_US)
    fitted = Fitted(Column(DType.TIMESTAMP, us, None if valid.all() else valid))
    fitted.refuse(valid & ~inside, "a time outside the years 1 to 9999")
    return fitted


def _scaled(numbers: IntArray, factor: int) -> tuple[IntArray, BoolArray]:
    """Numbers times `factor`, and where that stays within int64."""
    inside = np.abs(numbers) <= (2**63 - 1) // factor
    return np.where(inside, numbers, 0) * factor, inside


def _times_of_text(array: pa.Array) -> Fitted:
    for zone in ("UTC", None):
        try:
            quick = array.cast(pa.timestamp("us", zone)).cast(pa.int64())
        except pa.ArrowInvalid:
            continue  # zones that are mixed, nanoseconds, or rows that do not fit: read one by one below
        return Fitted(from_arrow(quick, DType.TIMESTAMP))
    us = np.zeros(len(array), np.int64)
    fitted = Fitted(Column(DType.TIMESTAMP, us, np.asarray(array.is_valid())))
    if array.null_count == 0:
        fitted.column.valid = None
    for row, text in enumerate(array.to_pylist()):
        if text is not None:
            try:
                us[row] = parse_time(text)
            except (ValueError, OverflowError) as error:
                fitted.misfits[row] = str(error)
    return fitted


def _fit_duration(array: pa.Array, spec: Field) -> Fitted | None:
    if pt.is_duration(array.type):
        try:
            array = pc.cast(array, pa.duration("us"), safe=array.type.unit != "ns")
        except pa.ArrowInvalid as error:
            raise SchemaError(f'column "{spec.name}" holds a duration out of range: {error}', field=spec.name) from None
    elif not pt.is_int64(array.type):
        return None
    return Fitted(from_arrow(array, DType.DURATION, spec.name))


def _fit_list(array: pa.Array, spec: Field) -> Fitted | None:
    kind = array.type
    if not (pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)):
        return None
    inner = kind.value_type
    if not (pt.is_integer(inner) or pt.is_floating(inner) or pt.is_decimal(inner) or pt.is_null(inner)):
        return None
    fitted = Fitted(from_arrow(array.cast(pa.list_(pa.float64())), DType.LIST, spec.name))
    for row, item in enumerate(fitted.column.values):
        if item is None:
            continue
        if spec.size is not None and len(item) != spec.size:
            fitted.misfits[row] = f"expected a list of {spec.size} floats, got {len(item)}"
        elif np.isinf(item).any():
            fitted.misfits[row] = "infinite"
    return fitted


_FITTERS: dict[DType, Callable[[pa.Array, Field], Fitted | None]] = {
    DType.INT: _fit_int,
    DType.FLOAT: _fit_float,
    DType.BOOL: _fit_bool,
    DType.STRING: _fit_string,
    DType.TIMESTAMP: _fit_timestamp,
    DType.DURATION: _fit_duration,
    DType.LIST: _fit_list,
}
