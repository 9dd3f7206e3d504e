"""Calls of a user's `@hr.function` on columns: what it is given, and what may come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.core.columns import NUMPY_DTYPES, BoolArray, Column, normalised, nulls
from headrace.core.errors import SchemaError
from headrace.core.schema import DType
from headrace.features.nodes import FunctionCall

_TIME_UNITS = {DType.TIMESTAMP: "datetime64[us]", DType.DURATION: "timedelta64[us]"}
_NAT = np.iinfo(np.int64).min


def call_function(node: FunctionCall, args: list[Column], n: int) -> Column:
    """The function's column over these arguments: rows with a null argument stay out unless it takes nulls.

    Raises SchemaError if it does not return one value of its type per row.
    """
    if node.null_pass:
        return _returned(node, node.function(*(_with_nulls(arg) for arg in args)), n)
    masks = [arg.valid for arg in args if arg.valid is not None]
    if not masks:
        return _returned(node, node.function(*(_given(arg) for arg in args)), n) if n else nulls(node.dtype, 0)
    valid: BoolArray = np.logical_and.reduce(masks)
    rows = np.flatnonzero(valid)
    out = nulls(node.dtype, n)
    if len(rows):
        part = _returned(node, node.function(*(_given(arg.take(rows)) for arg in args)), len(rows))
        out.values[rows] = part.values
        mask = out.mask()
        mask[rows] = part.mask()
        out.valid = mask
    return out


def _given(arg: Column) -> npt.NDArray[Any]:
    unit = _TIME_UNITS.get(arg.dtype)
    return arg.values if unit is None else arg.values.view(unit)


def _with_nulls(arg: Column) -> npt.NDArray[Any]:
    """One array that says itself where it is null, of a type that does not depend on whether there are any."""
    valid = arg.mask()
    unit = _TIME_UNITS.get(arg.dtype)
    if unit is not None:
        return np.where(valid, arg.values, _NAT).view(unit)
    if arg.dtype in (DType.STRING, DType.LIST):
        given = arg.values.copy()
        given[~valid] = None
        return given
    return np.where(valid, arg.values.astype(np.float64), np.nan)


def _returned(node: FunctionCall, returned: Any, n: int) -> Column:
    values = np.asarray(returned)
    if values.shape != (n,):
        raise SchemaError(
            f"function {node.name} was given {n} rows and returned an array of shape {values.shape}; "
            "return one value per row",
            field=node.name,
        )
    unit = _TIME_UNITS.get(node.dtype)
    try:
        if unit is not None:
            whole = values.astype(unit).view(np.int64)
            return _masked(node.dtype, whole, whole != _NAT)
        if node.dtype is DType.STRING:
            present = np.fromiter((value is not None for value in values.tolist()), np.bool_, n)
            return _masked(node.dtype, np.where(present, values, "").astype(np.object_), present)
        if node.dtype in (DType.INT, DType.BOOL) and values.dtype.kind == "f":
            present = np.isfinite(values)
            return _masked(node.dtype, np.where(present, values, 0).astype(NUMPY_DTYPES[node.dtype]), present)
        return normalised(Column(node.dtype, values.astype(NUMPY_DTYPES[node.dtype])))
    except (TypeError, ValueError) as error:
        raise SchemaError(
            f"function {node.name} returned {values.dtype} where {node.dtype.value} is declared: {error}",
            field=node.name,
        ) from None


def _masked(dtype: DType, values: npt.NDArray[Any], valid: BoolArray) -> Column:
    return Column(dtype, values, None if valid.all() else valid)
