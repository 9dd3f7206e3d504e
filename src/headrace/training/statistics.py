"""What the columns of a set of rows look like, and how much each of them tells about the label.

Rows come from point-in-time history, so what a column tells is what it could have told when the request was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.core.accuracy import roc_auc
from headrace.core.columns import Column, FloatArray, IntArray
from headrace.core.schema import DType

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_BINS, _CATEGORIES = 10, 20


class ColumnStatistics(msgspec.Struct, frozen=True):
    """Figures of one column.

    Attributes:
        type: its logical type; timestamps and durations are int µs below.
        count: rows with a value; `nulls` without.
        distinct: different values; None of lists and maps.
        min, max, mean, std: of the values (std of the population); None of text, lists and maps, and without values.
        quantiles: by share as text ("0.5"), each the value at rank max(1, ceil(q * count)); empty where min is None.
        auc: chance that a row with a true label has the greater value of the two (ties count half), among rows with a
            value; 0.5 tells nothing. None where min is, and where the label is no bool or has one value only.
        information: bits that the column tells about the label: mutual information over tenths of the values (single
            values where there are up to 20, the 20 most frequent ones of text) and null, less what chance alone gives;
            None without a label, and of lists and maps.
    """

    name: str
    type: str
    count: int
    nulls: int
    distinct: int | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] = {}
    auc: float | None = None
    information: float | None = None


def column_statistics(columns: Mapping[str, Column], label: Column | None = None) -> list[ColumnStatistics]:
    """Figures of each column, in order; rows without a label are left out of `auc` and `information`."""
    return [_statistics(name, column, label) for name, column in columns.items()]


def mutual_information(codes: IntArray, classes: IntArray) -> float:
    """Bits that `codes` tells about `classes` (both int64 [n], 0 and up), less the bias of a finite sample.

    The bias is that of Miller and Madow: (cells - rows - columns + 1) / 2n nats over those that occur. Never below 0.
    """
    n = len(codes)
    if not n:
        return 0.0
    table = np.zeros((int(codes.max()) + 1, int(classes.max()) + 1))
    np.add.at(table, (codes, classes), 1.0)
    joint = table / n
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    bits = float((joint[seen] * np.log2(joint[seen] / expected[seen])).sum())
    cells = int(seen.sum()) - int(seen.any(axis=1).sum()) - int(seen.any(axis=0).sum()) + 1
    return max(bits - cells / (2 * n * float(np.log(2))), 0.0)


def _statistics(name: str, column: Column, label: Column | None) -> ColumnStatistics:
    valid = column.mask()
    count, nulls = int(valid.sum()), int((~valid).sum())
    kind = column.dtype.value
    if column.dtype is DType.LIST or column.dtype.is_nested:
        return ColumnStatistics(name, kind, count, nulls)
    values = column.values[valid]
    told = None if label is None else _information(column, label)
    if column.dtype is DType.STRING:
        return ColumnStatistics(name, kind, count, nulls, len(set(values.tolist())), information=told)
    if not count:
        return ColumnStatistics(name, kind, 0, nulls, 0, information=told)
    ordered = np.sort(values)
    numbers = values.astype(np.float64)
    plain = int if column.dtype.is_integer_backed else float
    ranks = {str(q): plain(ordered[max(int(np.ceil(q * count)) - 1, 0)]) for q in QUANTILES}
    return ColumnStatistics(
        name, kind, count, nulls, int(1 + (ordered[1:] != ordered[:-1]).sum()), plain(ordered[0]), plain(ordered[-1]),
        float(numbers.mean()), float(numbers.std()), ranks, None if label is None else _auc(column, label), told,
    )  # fmt: skip


def _auc(column: Column, label: Column) -> float | None:
    if label.dtype is not DType.BOOL:
        return None
    both = column.mask() & label.mask()
    found = roc_auc(np.asarray(label.values[both], np.bool_), column.values[both].astype(np.float64))
    return None if np.isnan(found) else float(found)


def _information(column: Column, label: Column) -> float:
    known = label.mask()
    return mutual_information(_codes(column.take(known)), _codes(label.take(known)))


def _codes(column: Column) -> IntArray:
    """A number for each row: of the tenth that its value lies in, of the value itself if there are few; 0 is null."""
    valid = column.mask()
    codes = np.zeros(len(column), np.int64)
    values: npt.NDArray[Any] = column.values[valid]
    if not len(values):
        return codes
    if column.dtype is DType.STRING:
        names, of, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
        # Equally frequent ones in the order of their names; what is rare shares a number.
        rank = np.empty(len(names), np.int64)
        rank[np.lexsort((names, -counts))] = np.arange(len(names))
        codes[valid] = 1 + np.minimum(rank, _CATEGORIES)[of]
        return codes
    numbers: FloatArray = values.astype(np.float64)
    edges = np.unique(numbers)
    if len(edges) > _CATEGORIES:
        ordered = np.sort(numbers)
        edges = np.unique(ordered[(np.arange(1, _BINS) * len(ordered)) // _BINS])
    codes[valid] = 1 + np.searchsorted(edges, numbers, "right")
    return codes
