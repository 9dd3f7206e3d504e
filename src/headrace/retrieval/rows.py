"""Rows of features: what `online` and `history` return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.core.columns import BoolArray, Column, FloatArray, IntArray
from headrace.core.events import concat_columns
from headrace.core.positions import EMPTY_POSITION, Position
from headrace.core.schema import DType

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


_FLOAT, _INT = DType.FLOAT, DType.INT  # a look-up in an Enum takes as long as making the value


@dataclass(slots=True)
class FeatureBlock:
    """Feature values of `n` rows by named columns, in the form in which they are logged and compared.

    `words` is int64 [n, columns]: INT, TIMESTAMP and DURATION as they are, FLOAT as its bits, BOOL as 0 or 1; where
    `valid` is False the value is null and its word is 0. STRING and LIST columns live in `objects` (their words are
    0, their validity is in `valid` too).
    """

    names: tuple[str, ...]
    dtypes: tuple[DType, ...]
    words: IntArray
    valid: BoolArray
    objects: dict[str, Column] = field(default_factory=dict)
    position: Position = EMPTY_POSITION

    def __len__(self) -> int:
        return len(self.words)

    def column(self, name: str) -> Column:
        """One column; values are copies only where the type needs it."""
        index = self.names.index(name)
        if name in self.objects:
            return self.objects[name]
        dtype, words, valid = self.dtypes[index], self.words[:, index], self.valid[:, index]
        if dtype is DType.FLOAT:
            return Column(dtype, np.ascontiguousarray(words).view(np.float64), valid)
        if dtype is DType.BOOL:
            return Column(dtype, words.astype(np.bool_), valid)
        return Column(dtype, words, valid)

    def select(self, names: Sequence[str]) -> FeatureBlock:
        """The same rows with these columns only, in this order."""
        at = [self.names.index(name) for name in names]
        return FeatureBlock(
            tuple(names),
            tuple(self.dtypes[i] for i in at),
            np.ascontiguousarray(self.words[:, at]),
            np.ascontiguousarray(self.valid[:, at]),
            {name: column for name, column in self.objects.items() if name in names},
            self.position,
        )

    def take(self, indices: Any) -> FeatureBlock:
        """Rows at `indices` (or where a mask is true)."""
        objects = {name: column.take(indices) for name, column in self.objects.items()}
        return FeatureBlock(self.names, self.dtypes, self.words[indices], self.valid[indices], objects, self.position)

    def matrix(self) -> FloatArray:
        """float64 [n, columns] for an estimator: nulls are NaN; STRING and LIST columns are NaN throughout."""
        out: FloatArray = np.array(self.words, order="C").view(np.float64)
        for index, dtype in enumerate(self.dtypes):
            if dtype is not DType.FLOAT:
                out[:, index] = self.words[:, index]
        out[~self.valid] = np.nan
        return out

    def to_pydict(self) -> dict[str, list[Any]]:
        """Python values by column, None for null."""
        return {name: self.column(name).to_pylist() for name in self.names}

    def to_rows(self, spoken: Callable[[Any, DType], Any]) -> list[dict[str, Any]]:
        """One dict per row, None for null; what is no int and no float goes through `spoken`, with its type.

        Nearly all features are numbers, so those are made in one go.
        """
        rows: list[list[Any]] = np.ascontiguousarray(self.words).view(np.float64).tolist()
        others = [(index, dtype) for index, dtype in enumerate(self.dtypes) if dtype is not _FLOAT]
        objects = {name: column.to_pylist() for name, column in self.objects.items()}
        found = []
        for row, (values, whole, valid) in enumerate(zip(rows, self.words.tolist(), self.valid.tolist(), strict=True)):
            for index, dtype in others:
                if dtype is _INT:
                    values[index] = whole[index]
                elif valid[index]:
                    name = self.names[index]
                    values[index] = spoken(objects[name][row] if name in objects else whole[index], dtype)
            at = -1
            for _ in range(valid.count(False)):
                at = valid.index(False, at + 1)
                values[at] = None
            found.append(dict(zip(self.names, values, strict=True)))
        return found


def block_of(columns: Mapping[str, Column]) -> FeatureBlock:
    """The block of these columns, of equal lengths; at least one is needed."""
    n = len(next(iter(columns.values())))
    words, valid = np.zeros((n, len(columns)), np.int64), np.zeros((n, len(columns)), np.bool_)
    objects: dict[str, Column] = {}
    for index, (name, column) in enumerate(columns.items()):
        valid[:, index] = column.mask()
        if column.dtype.is_object:
            objects[name] = column
        else:
            values = column.values.view(np.int64) if column.dtype is DType.FLOAT else column.values
            words[:, index] = np.where(column.mask(), values, 0)
    return FeatureBlock(tuple(columns), tuple(column.dtype for column in columns.values()), words, valid, objects)


def concat_features(blocks: Sequence[FeatureBlock]) -> FeatureBlock:
    """One block of all rows in order; at least one block is needed, and all have the same columns."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return FeatureBlock(
        first.names,
        first.dtypes,
        np.concatenate([block.words for block in blocks]),
        np.concatenate([block.valid for block in blocks]),
        {name: concat_columns([block.objects[name] for block in blocks]) for name in first.objects},
    )


class Rows:
    """A result table: the caller's rows with features (and label) beside them.

    `columns` maps names to columns in output order. Out comes Arrow, pandas or Polars; nulls are nulls, timestamps
    are µs UTC, durations µs.
    """

    def __init__(self, columns: dict[str, Column], position: Position = EMPTY_POSITION) -> None:
        self.columns = columns
        self.position = position

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lists = {name: column.to_pylist() for name, column in self.columns.items()}
        for index in range(len(self)):
            yield {name: values[index] for name, values in lists.items()}

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[str(name)].to_pylist()

    def to_arrow(self) -> pyarrow.Table:
        """An Arrow table."""
        import pyarrow as pa

        from headrace.core.arrow import to_arrow

        return pa.table({name: to_arrow(column) for name, column in self.columns.items()})

    def to_pandas(self) -> pandas.DataFrame:
        """A pandas DataFrame; needs pandas."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """A Polars DataFrame; needs polars."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows x {len(self.columns)} columns)"
