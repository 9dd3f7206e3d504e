"""Profiles: how the values of each column were distributed, and how far others have moved from that (PSI).

The idea: cut the reference values of a numeric column at their deciles, the frequent categories of a text column one
by one, and give nulls a bin of their own. The population stability index of new values over the same bins is

    PSI = sum over bins of (q - p) * ln(q / p),   p and q the shares of the bin in the reference and in the new values

with every share smoothed as (count + 1/2) / (rows + bins / 2), so that an empty bin costs much but not infinity; a bin
that is empty on both sides counts for nothing. The usual reading: below 0.1 stable, above 0.2 moved. Of `n` unmoved
rows it comes to about (bins - 1) / n by chance alone.

A value that by itself fills a tenth of the column or more (0 in most counts) gets its own bin, else a move of its
neighbours onto it would not be seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import isfinite
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.core.columns import Column, FloatArray, IntArray
from headrace.core.schema import DType

QUANTILES = 10
TOP_CATEGORIES = 20
PROFILED = (DType.INT, DType.FLOAT, DType.BOOL, DType.DURATION, DType.STRING)
"""Types that have a profile: absolute times only drift, lists have no order."""


class ColumnBlock(Protocol):
    """Rows by named columns, such as `retrieval.rows.FeatureBlock`."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def dtypes(self) -> tuple[DType, ...]: ...
    def column(self, name: str) -> Column: ...
    def __len__(self) -> int: ...


class ColumnProfile(msgspec.Struct, frozen=True):
    """Distribution of one column.

    Attributes:
        counts: rows per bin. Numeric: bin i holds `edges[i-1] < x <= edges[i]`, the last one what is greater. Text: one
            per category, then all others. The last count of either is that of the nulls.
        mean, std: of the values that are not null (population); None for text, without values, and beyond float64.
        null_share: between 0 and 1; None if there are no rows.
    """

    dtype: DType
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    mean: float | None = None
    std: float | None = None
    null_share: float | None = None


class Profile(msgspec.Struct, frozen=True):
    """Distribution of a feature block, and of a model's scores on it."""

    rows: int
    columns: dict[str, ColumnProfile]
    score: ColumnProfile | None = None


def profile_block(block: ColumnBlock, scores: FloatArray | None = None) -> Profile:
    """Profile every column that can have one; `scores` are float64 [n] model outputs for the same rows."""
    columns = {
        name: profile_column(block.column(name))
        for name, dtype in zip(block.names, block.dtypes, strict=True)
        if dtype in PROFILED
    }
    return Profile(len(block), columns, None if scores is None else profile_scores(scores))


def profile_scores(scores: FloatArray) -> ColumnProfile:
    """Profile float64 scores; NaN is null."""
    return profile_column(Column(DType.FLOAT, scores, np.isfinite(scores)))


def profile_column(column: Column) -> ColumnProfile:
    """Profile one column of a type in `PROFILED`."""
    null_share = float(1 - column.mask().mean()) if len(column) else None
    if column.dtype is DType.STRING:
        categories = _categories(column)
        empty = ColumnProfile(column.dtype, (), categories=categories, null_share=null_share)
        return msgspec.structs.replace(empty, counts=tuple(bin_counts(empty, column).tolist()))
    values = np.sort(_numbers(column))
    edges = _edges(values)
    upto = np.searchsorted(values, np.asarray(edges, np.float64), side="right")
    counts = np.diff(upto, prepend=0, append=len(values)).tolist()
    return ColumnProfile(column.dtype, (*counts, len(column) - len(values)), edges, (), *_moments(values), null_share)


def bin_counts(profile: ColumnProfile, column: Column) -> IntArray:
    """Rows of a column per bin of `profile`; int64 [bins], nulls last."""
    if profile.dtype is DType.STRING:
        index = {category: position for position, category in enumerate(profile.categories)}
        other = len(index)
        values = column.values if column.valid is None else column.values[column.valid]
        positions = np.fromiter((index.get(value, other) for value in values), np.int64, len(values))
        bins = other + 1
    else:
        values = _numbers(column)
        positions = _positions(values, np.asarray(profile.edges, np.float64))
        bins = len(profile.edges) + 1
    counts = np.bincount(positions, minlength=bins + 1)
    counts[bins] = len(column) - len(values)
    return counts


def psi(profile: Profile, block: ColumnBlock, columns: Collection[str] | None = None) -> dict[str, float]:
    """PSI of each column of `block` (or of those in `columns`) that has a profile; needs at least one row."""
    return {
        name: psi_of(profile.columns[name], block.column(name))
        for name in block.names
        if name in profile.columns and (columns is None or name in columns)
    }


def psi_of(profile: ColumnProfile, column: Column) -> float:
    """PSI of one column against its profile; 0.0 if either has no rows."""
    return population_stability(profile.counts, bin_counts(profile, column))


def psi_of_scores(profile: ColumnProfile, scores: FloatArray) -> float:
    """PSI of float64 scores against the profile of scores."""
    return psi_of(profile, Column(DType.FLOAT, scores, np.isfinite(scores)))


def population_stability(reference: Iterable[int], actual: Iterable[int]) -> float:
    """PSI of two lists of counts over the same bins, smoothed as described at the top."""
    expected, seen = np.asarray(reference, np.float64), np.asarray(actual, np.float64)
    used = (expected + seen) > 0
    expected, seen = expected[used], seen[used]
    if not expected.sum() or not seen.sum():
        return 0.0
    half_bins = len(expected) / 2
    p = (expected + 0.5) / (expected.sum() + half_bins)
    q = (seen + 0.5) / (seen.sum() + half_bins)
    return float(((q - p) * np.log(q / p)).sum())


def _numbers(column: Column) -> FloatArray:
    values = column.values if column.valid is None else column.values[column.valid]
    return values.astype(np.float64, copy=False)


def _moments(values: FloatArray) -> tuple[float | None, float | None]:
    """Mean and population standard deviation; None where there is no value or it is beyond float64."""
    if not len(values):
        return None, None
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    return (mean if isfinite(mean) else None), (std if isfinite(std) else None)


def _edges(values: FloatArray) -> tuple[float, ...]:
    """Where the bins of sorted values end."""
    if not len(values):
        return ()
    # The k-th cut is the least value that at least k tenths of the rows do not exceed, in whole numbers of rows.
    ranks = -(-np.arange(QUANTILES + 1) * len(values) // QUANTILES)
    cuts = values[np.maximum(ranks - 1, 0)]
    repeated = cuts[1:][cuts[1:] == cuts[:-1]]
    # An edge just below a repeated value and one at it make a bin that holds nothing else.
    return tuple(np.unique(np.concatenate([cuts[1:-1], np.nextafter(repeated, -np.inf)])).tolist())


def _positions(values: FloatArray, edges: FloatArray) -> npt.NDArray[Any]:
    return np.searchsorted(edges, values, side="left")


def _categories(column: Column) -> tuple[str, ...]:
    values = column.values if column.valid is None else column.values[column.valid]
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(name for name, _ in ranked[:TOP_CATEGORIES])
