"""Columns in memory: a NumPy array of values and a mask of which are valid."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.core.schema import DType

NUMPY_DTYPES: dict[DType, Any] = {
    DType.INT: np.int64,
    DType.FLOAT: np.float64,
    DType.BOOL: np.bool_,
    DType.STRING: np.object_,
    DType.TIMESTAMP: np.int64,
    DType.DURATION: np.int64,
    DType.LIST: np.object_,
    **{dtype: np.object_ for dtype in DType if dtype.is_nested},
}
_FILL: dict[DType, Any] = {
    DType.STRING: "",
    DType.FLOAT: np.nan,
    DType.BOOL: False,
    DType.LIST: None,
    **{dtype: None for dtype in DType if dtype.is_nested},
}

_ITEM_BY_ITEM = frozenset(dtype for dtype in DType if dtype is DType.LIST or dtype.is_nested)
_FLOAT = DType.FLOAT

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(slots=True)
class Column:
    """Values of one type, and a mask: `valid[i]` is False where row i is null; None means that none is.

    Where a row is null its value is a filler without meaning. Float columns are normalised: NaN and infinity never
    are valid values, and −0.0 is stored as 0.0. `arrow` is the Arrow array that texts were read from, if it is kept:
    then they need not be made into Arrow again.
    """

    dtype: DType
    values: npt.NDArray[Any]
    valid: BoolArray | None = None
    arrow: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.values)

    def mask(self) -> BoolArray:
        """The validity mask, made if there is none."""
        return np.ones(len(self.values), np.bool_) if self.valid is None else self.valid

    def take(self, indices: npt.NDArray[Any]) -> Column:
        """Rows at `indices` (or where a boolean mask is true), in that order."""
        return Column(self.dtype, self.values[indices], None if self.valid is None else self.valid[indices])

    def to_pylist(self) -> list[Any]:
        """Python values with None for null; timestamps and durations stay int µs, LISTs become lists."""
        plain: list[Any] = self.values.tolist()
        if self.dtype is DType.LIST:
            plain = [None if item is None else plain_list(item) for item in plain]
        if self.valid is None:
            return plain
        return [value if ok else None for value, ok in zip(plain, self.valid.tolist(), strict=True)]


def column_of(dtype: DType, items: Sequence[Any]) -> Column:
    """Build a column from Python values of the right type, None for null."""
    if dtype in _ITEM_BY_ITEM:
        values = np.empty(len(items), np.object_)
        for index, item in enumerate(items):
            # −0.0 is 0.0, and a null element is NaN.
            values[index] = item if item is None or dtype.is_nested else np.asarray(item, np.float64) + 0.0
        valid = np.fromiter((item is not None for item in items), np.bool_, len(items))
        return Column(dtype, values, None if valid.all() else valid)
    if None not in items:
        column = Column(dtype, np.array(items, NUMPY_DTYPES[dtype]))
        return normalised(column) if dtype is _FLOAT else column
    valid = np.fromiter((item is not None for item in items), np.bool_, len(items))
    filler = _FILL.get(dtype, 0)
    return normalised(Column(dtype, np.array([filler if i is None else i for i in items], NUMPY_DTYPES[dtype]), valid))


def normalised(column: Column) -> Column:
    """Apply the null rules of floats: NaN and infinite are null, −0.0 is 0.0. Other types come back untouched."""
    if column.dtype is not DType.FLOAT:
        return column
    values = column.values + 0.0
    finite = np.isfinite(values)
    if np.count_nonzero(finite) == len(values):
        return Column(column.dtype, values, column.valid)
    return Column(column.dtype, values, finite if column.valid is None else finite & column.valid)


def plain_list(elements: FloatArray) -> list[float | None]:
    """The elements of one list as Python values, None for null."""
    items: list[float | None] = elements.tolist()
    return [None if item != item else item for item in items] if np.isnan(elements).any() else items


def elements_of(column: Column, size: int) -> FloatArray:
    """The elements of a LIST column, float64 [size, n]; NaN for null ones and for all of a list that is null."""
    out = np.full((len(column), size), np.nan)
    rows = np.flatnonzero(column.mask())
    if len(rows):
        out[rows] = np.stack(list(column.values[rows]))
    return np.ascontiguousarray(out.T)


def packed_lists(column: Column) -> Column:
    """A LIST column as texts, which are equal where the lists are, to the bit; `unpacked_list` reads them back."""
    texts = [
        b64encode(item.astype("<f8", copy=False).tobytes()).decode() if ok else None
        for item, ok in zip(column.values.tolist(), column.mask().tolist(), strict=True)
    ]
    return column_of(DType.STRING, texts)


def unpacked_list(text: str) -> FloatArray:
    """The list that a text of `packed_lists` stands for; NaN for its null elements."""
    return np.frombuffer(b64decode(text), "<f8")


def lists_of(elements: FloatArray) -> Column:
    """The LIST column of elements float64 [n, size], NaN for null; a list in which no element has a value is null."""
    values = np.empty(len(elements), np.object_)
    for row, items in enumerate(elements):
        values[row] = items
    valid: BoolArray = np.logical_not(np.isnan(elements).all(axis=1))
    return Column(DType.LIST, values, None if valid.all() else valid)


def nulls(dtype: DType, n: int) -> Column:
    """A column of `n` nulls."""
    return Column(dtype, np.full(n, _FILL.get(dtype, 0), NUMPY_DTYPES[dtype]), np.zeros(n, np.bool_))


def spread(column: Column, at: IntArray, n: int) -> Column:
    """The values of a column at the rows `at` of `n`; null elsewhere."""
    if len(at) == n:
        return column
    out = nulls(column.dtype, n)
    assert out.valid is not None
    out.values[at] = column.values
    out.valid[at] = column.mask()
    return out
