"""What was last written of a table, as fingerprints: which rows of a run are new is told without reading any values.

A row's place is its key and event time. Remembered are, sorted, 64 bits of hash of the key, the event time (not of a
table without), and 64 bits of hash of the whole row, its key included. A row is taken for unchanged if both hashes are
what stands at its place: of a changed row that is wrong once in 2^64 times. 16 bytes a row, in memory and in a file
beside the log, which it can be made from again at any time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from headrace.aggregations.sketch import hash_slices, hash_word
from headrace.core.columns import BoolArray, Column, IntArray
from headrace.core.schema import DType
from headrace.core.time import NULL_US

Hashes = npt.NDArray[np.uint64]
_MAGIC: Final = b"HRFP"
_FORMAT: Final = 1
_HEAD: Final = struct.Struct("<4sI4q")
_KEY_SEED, _ROW_SEED, _GONE_SEED = 0x68656164, 0x72616365, 0x676F6E65
_NULL_WORD = np.uint64(0x6E756C6C6E756C6D)
_PER_BUCKET: Final = 8
_OFFSETS: Final[dict[str, type]] = {"string": np.int32, "large_string": np.int64}
SAME, OTHER = 1, 2
"""Of a remembered place: a run returned the row that stands there, and one that does not."""


@dataclass(slots=True)
class Prints:
    """Fingerprints of `n` rows: `keys` and `rows` uint64 [n], `times` int64 [n] µs (NULL_US in a table without)."""

    keys: Hashes
    times: IntArray
    rows: Hashes

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, at: npt.NDArray[Any]) -> Prints:
        """Those at `at` (indices or a mask)."""
        return Prints(self.keys[at], self.times[at], self.rows[at])


def prints_of(
    key: Sequence[Column], times: IntArray, features: Sequence[Column], deleted: BoolArray | None = None
) -> Prints:
    """Fingerprints of rows; nulls differ from every value, and a deletion from every row."""
    n = len(times)
    keys = np.full(n, _KEY_SEED, np.uint64)
    rows = np.full(n, _ROW_SEED, np.uint64)
    if deleted is not None:
        rows[deleted] = _GONE_SEED
    for column in key:
        words = _words(column)
        _absorb(keys, words, column.valid)
        _absorb(rows, words, column.valid)
    _absorb(rows, times, None)
    for column in features:
        _absorb(rows, _words(column), column.valid)
    return Prints(keys, np.array(times, np.int64), rows)


def joined_prints(parts: Sequence[Prints]) -> Prints:
    """Many as one, in order."""
    if len(parts) == 1:
        return parts[0]
    return Prints(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.rows for part in parts]),
    )


def _absorb(hashes: Hashes, words: IntArray, valid: BoolArray | None) -> None:
    _absorb_words(hashes, np.array(words, np.int64, copy=None), np.zeros(0, np.bool_) if valid is None else valid)


def _words(column: Column) -> IntArray:
    """Eight bytes that stand for each value: its own, or of texts and lists a hash of theirs."""
    if column.dtype is DType.STRING:
        array = column.arrow
        offset_type = None if array is None else _OFFSETS.get(str(array.type))
        if offset_type is None:
            return _hashed([text.encode() if text else b"" for text in column.values.tolist()])
        _, ends, data = array.buffers()
        at: npt.NDArray[Any] = np.frombuffer(ends, offset_type)[array.offset : array.offset + len(array) + 1]
        return hash_slices(data if data is not None and data.size else b"\0", at.astype(np.int64))
    if column.dtype is DType.LIST:
        return _hashed([b"" if item is None else _plain(item).tobytes() for item in column.values])
    if column.dtype is DType.FLOAT:
        return np.array(column.values, np.float64).view(np.int64)
    return np.array(column.values).astype(np.int64)


def _plain(item: Any) -> npt.NDArray[Any]:
    """A list with one form of each number: −0.0 is 0.0, and every null element the same NaN."""
    values = np.asarray(item, "<f8") + 0.0
    return np.where(np.isnan(values), np.nan, values)


def _hashed(items: Sequence[bytes]) -> IntArray:
    at = np.zeros(len(items) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, items), np.int64, len(items)), out=at[1:])
    return hash_slices(b"".join(items) or b"\0", at)


class Fingerprints:
    """What was last written at each place of one version of a table.

    Attributes:
        offset: the log offset up to which this reflects what was written.
        arrival_us: when the log took the batch that ends there; 0 if there is none.
    """

    def __init__(self, offset: int) -> None:
        self.offset, self.arrival_us = offset, 0
        none = np.zeros(0, np.uint64)
        self._held = Prints(none, np.zeros(0, np.int64), none)
        self._index()

    def __len__(self) -> int:
        return len(self._held)

    def same(self, rows: Prints, seen: npt.NDArray[np.uint8]) -> BoolArray:
        """bool [n]: which rows are what stands at their place.

        `seen`, uint8 [len(self)], gets SAME and OTHER for each place that some row is at.
        """
        out = np.zeros(len(rows), np.bool_)
        held = self._held
        _look_up(
            held.keys, held.times, held.rows, self._first, self._shift, rows.keys, rows.times, rows.rows, seen, out
        )
        return out

    def nothing_seen(self) -> npt.NDArray[np.uint8]:
        """What `same` notes what it saw in, at the begin of a run."""
        return np.zeros(len(self._held), np.uint8)

    def places(self, seen: npt.NDArray[np.uint8], flags: int) -> Prints:
        """The places that have all of `flags`."""
        return self._held.take(np.flatnonzero((seen & flags) == flags))

    def write(self, rows: Prints, seen: npt.NDArray[np.uint8] | None = None) -> None:
        """Remember rows in the order of writing.

        With what a run has `seen`, its keys' other rows are forgotten, but for the newest of each: writing a forgotten
        row once more changes no value, and a table of many times does not grow without end.
        """
        if not len(rows) and seen is None:
            return
        timed = len(rows) > 0 and (rows.times != rows.times[0]).any()
        order = np.lexsort((rows.times, rows.keys)) if timed else np.argsort(rows.keys, kind="stable")
        new = rows.take(order)
        held = self._held
        n = len(held) + len(new)
        keys, times, values = np.empty(n, np.uint64), np.empty(n, np.int64), np.empty(n, np.uint64)
        flags = np.zeros(0, np.uint8) if seen is None else seen
        n = _merge(
            held.keys, held.times, held.rows, flags, seen is not None, new.keys, new.times, new.rows,
            keys, times, values,
        )  # fmt: skip
        self._held = Prints(keys[:n].copy(), times[:n].copy(), values[:n].copy())
        self._index()

    def _index(self) -> None:
        """Where the keys that begin with the same bits begin: hashes are spread evenly, so each range is short."""
        bits = max(len(self._held) // _PER_BUCKET, 1).bit_length()
        self._shift = np.uint64(64 - bits)
        heads = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._first = np.append(np.searchsorted(self._held.keys, heads), len(self._held)).astype(np.int64)

    def save(self, path: Path) -> None:
        """Replace the file at `path` in one step."""
        held = self._held
        timed = int((held.times != NULL_US).any())
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        with beside.open("wb") as out:
            out.write(_HEAD.pack(_MAGIC, _FORMAT, self.offset, self.arrival_us, len(held), timed))
            for values in (held.keys, held.rows, *([held.times] if timed else [])):
                out.write(values.data)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Fingerprints | None:
        """What `save` wrote; None if there is no such file, or it is cut short or of another format."""
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD.size)
                magic, form, offset, arrival_us, n, timed = _HEAD.unpack(head)
                size = _HEAD.size + n * 8 * (3 if timed else 2)
                if magic != _MAGIC or form != _FORMAT or os.fstat(file.fileno()).st_size != size:
                    return None
                keys, rows = np.fromfile(file, np.uint64, n), np.fromfile(file, np.uint64, n)
                times = np.fromfile(file, np.int64, n) if timed else np.full(n, NULL_US, np.int64)
        except (FileNotFoundError, struct.error):
            return None
        made = cls(offset)
        made.arrival_us = arrival_us
        made._held = Prints(keys, times, rows)
        made._index()
        return made


@njit(cache=True, nogil=True)
def _absorb_words(hashes, words, valid):  # type: ignore[no-untyped-def]
    for i in range(len(hashes)):
        word = hash_word(words[i]) if len(valid) == 0 or valid[i] else _NULL_WORD
        hashes[i] = hash_word(hashes[i] ^ word)


@njit(cache=True, nogil=True)
def _look_up(keys, times, rows, first, shift, asked, asked_times, asked_rows, seen, out):  # type: ignore[no-untyped-def]
    for i in range(len(asked)):
        key, time = asked[i], asked_times[i]
        bucket = key >> shift
        low, high = first[bucket], first[bucket + 1]
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < key or (keys[middle] == key and times[middle] < time):
                low = middle + 1
            else:
                high = middle
        if low < len(keys) and keys[low] == key and times[low] == time:
            out[i] = rows[low] == asked_rows[i]
            seen[low] |= 1 if out[i] else 2


@njit(cache=True, nogil=True)
def _merge(keys, times, rows, seen, forget, new_keys, new_times, new_rows, to_keys, to_times, to_rows):  # type: ignore[no-untyped-def]
    """Merge two sorted lists, of equal places the last of the new; returns how many are left."""
    n, m = len(keys), len(new_keys)
    i, j, k = 0, 0, 0
    while i < n or j < m:
        key = keys[i] if j >= m or (i < n and keys[i] < new_keys[j]) else new_keys[j]
        begin, returned = k, False
        stop_i, stop_j = i, j
        while stop_i < n and keys[stop_i] == key:
            returned = returned or (forget and seen[stop_i] != 0)
            stop_i += 1
        while stop_j < m and new_keys[stop_j] == key:
            stop_j += 1
        returned = forget and (returned or stop_j > j)
        while i < stop_i or j < stop_j:
            if j < stop_j and (i >= stop_i or new_times[j] <= times[i]):
                time = new_times[j]
                if i < stop_i and times[i] == time:
                    i += 1
                if k > begin and to_times[k - 1] == time:
                    k -= 1
                to_keys[k], to_times[k], to_rows[k] = key, time, new_rows[j]
                j += 1
                k += 1
            else:
                last = i + 1 == stop_i and j == stop_j
                if not returned or seen[i] != 0 or last:
                    to_keys[k], to_times[k], to_rows[k] = key, times[i], rows[i]
                    k += 1
                i += 1
    return k
