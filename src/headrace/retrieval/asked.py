"""The keys that rows ask for: each becomes a number once, and the keys of history are looked up among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.aggregations.runs import sort_runs
from headrace.core.arrow import STORED_TYPES, to_arrow
from headrace.core.columns import Column, IntArray
from headrace.core.schema import DType


class Asked:
    """The rows that are read: their times, and their keys by the fields that form them; safe to use from threads."""

    def __init__(self, request: Mapping[str, Column], t: IntArray) -> None:
        self.t = t
        self._request = request
        self._keys: dict[tuple[str, ...], AskedKeys] = {}
        self._parts: dict[str, tuple[IntArray, pa.Array]] = {}
        self._lock = Lock()

    def keys(self, names: Sequence[str]) -> AskedKeys:
        """The keys that these fields of the request form."""
        with self._lock:
            found = self._keys.get(tuple(names))
            if found is None:
                found = self._keys[tuple(names)] = self._numbered(names)
            return found

    def _numbered(self, names: Sequence[str]) -> AskedKeys:
        codes, size = np.zeros(len(self.t), np.int64), 1
        parts: list[_Part] = []
        for place, name in enumerate(names):
            indices, values = self._part(name)
            if place == 0:
                codes, size = indices, len(values)
                parts.append(_Part(values, None))
                continue
            # Both are below the number of rows, so the product fits.
            both = np.where((codes < 0) | (indices < 0), -1, codes * len(values) + indices)
            pairs = np.unique(both[both >= 0])
            codes = np.where(both < 0, -1, np.searchsorted(pairs, both))
            size = len(pairs)
            parts.append(_Part(values, pairs))
        nobody = np.where(codes < 0, size, codes).astype(np.int32)
        order, times, edges = sort_runs(nobody, frozen(self.t), 0, size + 1)
        return AskedKeys(tuple(parts), size, order, times, edges)

    def _part(self, name: str) -> tuple[IntArray, pa.Array]:
        """Numbers of the values of one field (-1: null), and the values."""
        if name not in self._parts:
            column = self._request[name]
            array = to_arrow(column)
            if column.dtype in (DType.TIMESTAMP, DType.DURATION):
                array = array.cast(pa.int64())
            encoded = pc.dictionary_encode(array)
            indices = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
            self._parts[name] = indices, encoded.dictionary.cast(STORED_TYPES[column.dtype])
        return self._parts[name]


@dataclass(frozen=True, slots=True)
class _Part:
    """The values asked of one part of a key; `pairs` are the products with the numbers of the parts before it."""

    values: pa.Array
    pairs: IntArray | None


@dataclass(frozen=True, slots=True)
class AskedKeys:
    """Keys by number, and the rows that ask for each.

    Rows are `order[edges[k]:edges[k + 1]]` for key k, in order of time, and `times` are theirs. The last number,
    `size`, is nobody's: its rows have a null in their key.
    """

    parts: tuple[_Part, ...]
    size: int
    order: IntArray
    times: IntArray
    edges: IntArray

    def codes_of(self, arrays: Sequence[pa.ChunkedArray], n: int) -> npt.NDArray[np.int32]:
        """The numbers of the keys of `n` rows of history, given as the parts of them; -1 where no row asks for it."""
        codes: npt.NDArray[np.int32] = np.zeros(n, np.int32)
        for place, (array, part) in enumerate(zip(arrays, self.parts, strict=True)):
            indices = _places(array, part.values)
            if part.pairs is None:
                codes = indices
                continue
            assert place > 0
            wide = np.where((codes < 0) | (indices < 0), -1, codes.astype(np.int64) * len(part.values) + indices)
            if not len(part.pairs):
                return np.full(n, -1, np.int32)
            at = np.minimum(np.searchsorted(part.pairs, wide), len(part.pairs) - 1)
            codes = np.where(part.pairs[at] == wide, at, -1).astype(np.int32)
        return codes


def _places(array: pa.ChunkedArray, values: pa.Array) -> npt.NDArray[np.int32]:
    """Where each item stands among `values`; -1 where it does not, or is null."""
    if not pa.types.is_dictionary(array.type):
        # One call for all chunks: each makes a hash table of the values.
        return _found(array, values)
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    # Chunks that were read from one row group share their dictionary.
    dictionaries = {_memory(chunk.dictionary): chunk.dictionary for chunk in chunks}
    sizes = [len(dictionary) for dictionary in dictionaries.values()]
    ends = dict(zip(dictionaries, np.cumsum(sizes).tolist(), strict=True))
    found = _found(pa.chunked_array(list(dictionaries.values()), array.type.value_type), values)
    out = np.empty(len(array), np.int32)
    at = 0
    for chunk in chunks:
        size, end = len(chunk.dictionary), ends[_memory(chunk.dictionary)]
        # The last place is that of a null.
        known = np.append(found[end - size : end], np.int32(-1))
        np.take(known, np.asarray(chunk.indices.fill_null(size)), out=out[at : at + len(chunk)], mode="clip")
        at += len(chunk)
    return out


def _memory(array: pa.Array) -> tuple[int, ...]:
    """Where an array lies: two that lie in one place are the same."""
    return (len(array), array.offset, *[0 if buffer is None else buffer.address for buffer in array.buffers()])


def _found(array: pa.Array | pa.ChunkedArray, values: pa.Array) -> npt.NDArray[np.int32]:
    found = pc.index_in(array.cast(values.type), value_set=values, skip_nulls=True)
    places: npt.NDArray[np.int32] = np.asarray(found.fill_null(-1), dtype=np.int32)
    return places


def frozen(array: IntArray) -> IntArray:
    """The same int64 values, read-only: kernels are compiled for one kind of argument, and Arrow's are so."""
    view = array.view()
    view.flags.writeable = False
    return view


def ints(array: pa.ChunkedArray) -> IntArray:
    """The int64 values of a column without nulls, read-only."""
    return frozen(np.asarray(array, dtype=np.int64))


__all__ = ["Asked", "AskedKeys", "frozen", "ints"]
