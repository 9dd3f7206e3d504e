"""Between our columns and Arrow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.columns import NUMPY_DTYPES, Column, column_of, normalised
from headrace.core.errors import SchemaError
from headrace.core.schema import DType
from headrace.core.time import to_us

ARROW_TYPES: dict[DType, pa.DataType] = {
    DType.INT: pa.int64(),
    DType.FLOAT: pa.float64(),
    DType.BOOL: pa.bool_(),
    DType.STRING: pa.string(),
    DType.TIMESTAMP: pa.timestamp("us", "UTC"),
    DType.DURATION: pa.duration("us"),
    DType.LIST: pa.list_(pa.float64()),
}
for _nested in (dtype for dtype in DType if dtype.is_nested):
    _parts = [ARROW_TYPES[part] for part in _nested.parts]
    ARROW_TYPES[_nested] = pa.list_(*_parts) if len(_parts) == 1 else pa.map_(*_parts)


STORED_TYPES: dict[DType, pa.DataType] = {**ARROW_TYPES, DType.TIMESTAMP: pa.int64(), DType.DURATION: pa.int64()}
"""The Arrow types whose values are laid out as those of our columns."""


def to_arrow(column: Column) -> pa.Array:
    """An Arrow array with the same values and nulls; it may share the column's memory."""
    if column.arrow is not None:
        return column.arrow
    if column.dtype is DType.LIST:
        return _lists(column)
    if column.dtype.is_nested:
        items = column.to_pylist()
        if len(column.dtype.parts) == 2:
            items = [None if item is None else list(item.items()) for item in items]
        return pa.array(items, ARROW_TYPES[column.dtype])
    if column.dtype is DType.STRING:
        return pa.array(column.values, pa.string(), mask=None if column.valid is None else ~column.valid)
    present = None if column.valid is None or column.valid.all() else _bitmap(column.valid)
    values = np.ascontiguousarray(column.values, NUMPY_DTYPES[column.dtype])
    data = _bitmap(values) if column.dtype is DType.BOOL else pa.py_buffer(values)
    return pa.Array.from_buffers(ARROW_TYPES[column.dtype], len(values), [present, data])


def _lists(column: Column) -> pa.Array:
    """Lists of floats; a null element, NaN with us, is null."""
    lists = column.values[column.mask()].tolist()
    flat = np.concatenate(lists) if lists else np.zeros(0)
    sizes = np.zeros(len(column), np.int64)
    sizes[column.mask()] = [len(item) for item in lists]
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    missing = None if column.valid is None or column.valid.all() else pa.array(~column.valid)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat, pa.float64(), from_pandas=True), mask=missing)


def _bitmap(flags: Any) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def from_arrow(array: pa.Array | pa.ChunkedArray, dtype: DType, name: str = "column") -> Column:
    """A column of `dtype`; raises SchemaError if the array's type cannot be read as that without loss."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        array = _cast(array, dtype)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f'column "{name}" is {array.type}, which is no {dtype.value}: {error}', field=name) from None
    valid = None if array.null_count == 0 else np.asarray(array.is_valid())
    if dtype.is_nested:
        return column_of(dtype, [_plain(item, dtype) for item in array.to_pylist()])
    if dtype is DType.LIST:
        items = np.empty(len(array), np.object_)
        for index, item in enumerate(array.to_pylist()):
            items[index] = None if item is None else np.asarray(item, np.float64) + 0.0
        return Column(dtype, items, valid)
    if dtype is DType.STRING:
        values: Any = np.asarray(array.fill_null("") if valid is not None else array, dtype=np.object_)
        return Column(dtype, values, valid, array)
    filler = False if dtype is DType.BOOL else 0
    filled = pc.fill_null(array, filler) if valid is not None else array
    return normalised(Column(dtype, np.asarray(filled).astype(NUMPY_DTYPES[dtype], copy=False), valid))


def _plain(item: Any, dtype: DType) -> Any:
    """A list or map as columns hold it: times as int µs."""
    if item is None:
        return None
    if len(dtype.parts) == 1:
        return [_us(value, dtype.parts[0]) for value in item]
    key, value = dtype.parts
    return {_us(one, key): _us(other, value) for one, other in item}


def _us(value: Any, dtype: DType) -> Any:
    if value is None or dtype not in (DType.TIMESTAMP, DType.DURATION):
        return value
    return to_us(value) if dtype is DType.TIMESTAMP else value // timedelta(microseconds=1)


def _cast(array: pa.Array, dtype: DType) -> pa.Array:
    if array.type == STORED_TYPES[dtype]:
        return array
    if dtype is DType.TIMESTAMP:
        if pa.types.is_timestamp(array.type):
            # Nanoseconds are floored toward minus infinity, naive times are UTC (design 4.1).
            if array.type.unit == "ns":
                ns = array.cast(pa.int64()).to_numpy(zero_copy_only=False) if array.null_count == 0 else None
                if ns is not None:
                    return pa.array(np.floor_divide(ns, 1000), pa.int64())
                whole = array.cast(pa.int64())
                us = [None if v is None else v // 1000 for v in whole.to_pylist()]
                return pa.array(us, pa.int64())
            return (
                array.cast(pa.timestamp("us")).cast(pa.int64())
                if array.type.tz is None
                else array.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
            )
        return array.cast(pa.int64())
    if dtype is DType.DURATION:
        return (
            array.cast(pa.duration("us")).cast(pa.int64())
            if pa.types.is_duration(array.type)
            else array.cast(pa.int64())
        )
    return array.cast(ARROW_TYPES[dtype])
