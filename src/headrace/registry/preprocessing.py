"""From a feature block to the float64 matrix that an estimator reads; learnt in training, the same when served.

FLOAT, INT, BOOL and DURATION columns are numbers (durations in µs), STRING columns are codes of the training
vocabulary. Null, and a string that training has not seen, is NaN. TIMESTAMP columns are left out, because an absolute
time only ever drifts away from what was trained on, and so are LIST columns.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import numpy as np

from headrace.core.columns import BoolArray, Column, FloatArray, IntArray
from headrace.core.errors import SchemaError
from headrace.core.schema import DType

MAX_CATEGORIES = 255
"""Of a column with more different strings the most frequent ones get a code; LightGBM wants categories to be few."""

_NUMERIC = (DType.FLOAT, DType.INT, DType.BOOL, DType.DURATION)


class WordBlock(Protocol):
    """Rows of 64-bit words by named columns, such as `retrieval.rows.FeatureBlock`."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def dtypes(self) -> tuple[DType, ...]: ...
    @property
    def words(self) -> IntArray: ...
    @property
    def valid(self) -> BoolArray: ...
    @property
    def objects(self) -> dict[str, Column]: ...
    def column(self, name: str) -> Column: ...
    def __len__(self) -> int: ...


class _Saved(msgspec.Struct, frozen=True):
    columns: tuple[str, ...]
    dtypes: tuple[DType, ...]
    vocabularies: dict[str, tuple[str, ...]]


class _Layout(msgspec.Struct, frozen=True):
    """Where the columns of blocks with these names and types lie; None stands for "all, in order"."""

    names: tuple[str, ...]
    dtypes: tuple[DType, ...]
    sources: IntArray | None
    integer_targets: IntArray
    integer_sources: IntArray
    strings: tuple[tuple[int, str], ...]

    def fits(self, block: WordBlock) -> bool:
        """True if the block's columns lie like this; blocks of one reader share the very tuples."""
        same_names = self.names is block.names or self.names == block.names
        return same_names and (self.dtypes is block.dtypes or self.dtypes == block.dtypes)


class Preprocessor:
    """A fitted preprocessing; immutable, thread-safe.

    Attributes:
        columns: names of the matrix's columns, in order.
        dtypes: their types in the block.
        vocabularies: per STRING column, the string of each code.
    """

    def __init__(
        self, columns: tuple[str, ...], dtypes: tuple[DType, ...], vocabularies: dict[str, tuple[str, ...]]
    ) -> None:
        self.columns = columns
        self.dtypes = dtypes
        self.vocabularies = vocabularies
        self._codes = {
            name: {text: float(code) for code, text in enumerate(texts)} for name, texts in vocabularies.items()
        }
        self._layout: _Layout | None = None

    @classmethod
    def fit(cls, block: WordBlock) -> Preprocessor:
        """Learn columns and vocabularies from training rows; all-null columns are kept."""
        chosen = [
            (name, dtype)
            for name, dtype in zip(block.names, block.dtypes, strict=True)
            if dtype in _NUMERIC or dtype is DType.STRING
        ]
        vocabularies = {name: _vocabulary(block.column(name)) for name, dtype in chosen if dtype is DType.STRING}
        return cls(tuple(name for name, _ in chosen), tuple(dtype for _, dtype in chosen), vocabularies)

    @property
    def categorical(self) -> list[int]:
        """Positions of the matrix's columns that hold codes."""
        return [index for index, dtype in enumerate(self.dtypes) if dtype is DType.STRING]

    def transform(self, block: WordBlock) -> FloatArray:
        """Return float64 [n, columns], C-contiguous; columns of the block that training did not see are ignored.

        Raises SchemaError if a column is missing or of another type.
        """
        layout = self._layout
        if layout is None or not layout.fits(block):
            layout = self._layout = self._lay_out(block)
        words, valid = block.words, block.valid
        if layout.sources is not None:
            out, ok = words.take(layout.sources, axis=1), valid.take(layout.sources, axis=1)
        else:
            out, ok = words.copy(), valid
        matrix: FloatArray = out.view(np.float64)
        if len(layout.integer_targets):
            matrix[:, layout.integer_targets] = words[:, layout.integer_sources]
        matrix[~ok] = np.nan
        for target, name in layout.strings:
            matrix[:, target] = _encode(block.objects[name], self._codes[name])
        return matrix

    def to_json(self) -> bytes:
        """The stored form."""
        return msgspec.json.encode(_Saved(self.columns, self.dtypes, self.vocabularies))

    @classmethod
    def from_json(cls, data: bytes) -> Preprocessor:
        """Read what `to_json` wrote."""
        saved = msgspec.json.decode(data, type=_Saved)
        return cls(saved.columns, saved.dtypes, saved.vocabularies)

    def _lay_out(self, block: WordBlock) -> _Layout:
        at = {name: index for index, name in enumerate(block.names)}
        for name, dtype in zip(self.columns, self.dtypes, strict=True):
            if name not in at:
                raise SchemaError(f'the model reads column "{name}", which the features lack', field=name)
            if block.dtypes[at[name]] is not dtype:
                raise SchemaError(
                    f'column "{name}" is {block.dtypes[at[name]].value}, the model was trained on {dtype.value}; '
                    "retrain it on the view as it is now",
                    field=name,
                )
        sources = np.array([at[name] for name in self.columns], np.int64)
        integers = [i for i, dtype in enumerate(self.dtypes) if dtype in _NUMERIC and dtype is not DType.FLOAT]
        all_in_order = len(sources) == len(block.names) and bool((sources == np.arange(len(sources))).all())
        return _Layout(
            names=block.names,
            dtypes=block.dtypes,
            sources=None if all_in_order else sources,
            integer_targets=np.array(integers, np.int64),
            integer_sources=sources[integers],
            strings=tuple((i, self.columns[i]) for i in self.categorical),
        )


def _vocabulary(column: Column) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for value in column.to_pylist():
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(text for text, _ in ranked[:MAX_CATEGORIES])


def _encode(column: Column, codes: dict[str, float]) -> Any:
    nan = float("nan")
    if column.valid is None:
        return [codes.get(value, nan) for value in column.values]
    pairs = zip(column.values, column.valid, strict=True)
    return [codes.get(value, nan) if ok else nan for value, ok in pairs]
