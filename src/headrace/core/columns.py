"""Columns in memory: a NumPy array of values and a mask of which are valid."""

from __future__ import annotations

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
        """Python values with None for null; timestamps and durations stay int µs."""
        plain: list[Any] = self.values.tolist()
        if self.valid is None:
            return plain
        return [value if ok else None for value, ok in zip(plain, self.valid.tolist(), strict=True)]


def column_of(dtype: DType, items: Sequence[Any]) -> Column:
    """Build a column from Python values of the right type, None for null."""
    if dtype in _ITEM_BY_ITEM:
        values = np.empty(len(items), np.object_)
        for index, item in enumerate(items):
            values[index] = item if item is None or dtype.is_nested else np.asarray(item, np.float64)
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


def nulls(dtype: DType, n: int) -> Column:
    """A column of `n` nulls."""
    return Column(dtype, np.full(n, _FILL.get(dtype, 0), NUMPY_DTYPES[dtype]), np.zeros(n, np.bool_))
