"""Texts as 8-byte words: numbers in a dictionary whose order is that of the texts.

So kernels compare, count and sort texts as the integers that they are to them. History has one dictionary per read,
each delta and each record one of its own, which holds just the texts that occur in it, sorted by their UTF-8 bytes. In
a record it lies in the tail, beside the ids. A merge brings a delta and the records that it touches to one dictionary,
lets them be merged like any others, and then gives each record its own again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import msgspec
import numpy as np
from numba import njit

from headrace.aggregations.layout import GroupLayout
from headrace.aggregations.records import check_format
from headrace.aggregations.tile_states import key_spans
from headrace.core.columns import BoolArray, IntArray
from headrace.core.time import NULL_US

# Where the head of a record (`records.py`) says how many rows and bytes of tail there are, and of which partitions.
_ROWS, _TAIL_AT = 1, 40
_WORD = struct.Struct("<q")
_NULL = np.int64(NULL_US)
_NO_IDS = b"\xc0"  # MessagePack's nil
_PAIR = b"\x92"  # an array of two
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[msgspec.Raw, list[str]]).decode


def numbered(columns: Sequence[tuple[np.ndarray[Any, Any], BoolArray | None]]) -> tuple[list[IntArray], list[str]]:
    """Words of columns of texts (object arrays with a mask of which are valid) and the dictionary of them all."""
    plain: list[list[str]] = [values.tolist() for values, _ in columns]
    seen: set[str] = set()
    for items, (_, valid) in zip(plain, columns, strict=True):
        seen.update(items if valid is None else [item for item, ok in zip(items, valid.tolist(), strict=True) if ok])
    # Python compares texts by code point, which is the order of their UTF-8 bytes.
    texts = sorted(seen)
    ranks = dict(zip(texts, count()))
    words = []
    for items, (_, valid) in zip(plain, columns, strict=True):
        if valid is None:
            words.append(np.fromiter(map(ranks.__getitem__, items), np.int64, len(items)))
        else:
            found = np.fromiter((ranks.get(item, 0) for item in items), np.int64, len(items))
            words.append(np.where(valid, found, NULL_US))
    return words, texts


def compacted(words: IntArray, texts: Sequence[str]) -> tuple[IntArray, list[str]]:
    """The same texts in a dictionary without those that no word stands for."""
    used, numbers = np.unique(words, return_inverse=True)
    null = len(used) and used[0] == NULL_US
    kept = [texts[word] for word in used[1 if null else 0 :].tolist()]
    return (np.where(numbers == 0, NULL_US, numbers - 1) if null else numbers), kept


def texts_of(record: bytes) -> list[str]:
    """The dictionary of a record of a group with texts."""
    return _decode(record[-_padded(record) :][: _tail_size(record)])[1]


class TextMerge:
    """The records that a delta of a group with texts touches, on their way through `splice.merge_groups`.

    Attributes:
        columns: the delta's columns, with words of the common dictionary.
    """

    def __init__(
        self, layout: GroupLayout, columns: Sequence[bytes], texts: Sequence[str], before: Sequence[bytes | None]
    ) -> None:
        self._layout, self._before = layout, before
        for record in before:
            if record is not None:
                check_format(_WORD.unpack_from(record)[0])
        tails = [(_NO_IDS, []) if record is None else _split(record) for record in before]
        self._texts = sorted(set(texts).union(*[known for _, known in tails]))
        ranks = dict(zip(self._texts, count()))
        numbers = np.array([ranks[text] for text in texts], np.int64)
        self.columns = list(columns)
        for column in layout.texts:
            if len(texts):
                words = np.frombuffer(columns[column], np.int64)
                there = words != NULL_US
                self.columns[column] = np.where(there, numbers[np.where(there, words, 0)], NULL_US).tobytes()
        bodies = [b"" if record is None else record[: len(record) - _padded(record)] for record in before]
        table = np.array([ranks[text] for _, known in tails for text in known], np.int64)
        sizes = np.array([len(known) for _, known in tails], np.int64)
        found = _renumbered(bodies, layout, table, np.cumsum(sizes) - sizes)
        self._plain = [
            None if record is None else _with_tail(body, b"" if ids == _NO_IDS else ids)
            for record, body, (ids, _) in zip(before, found, tails, strict=True)
        ]

    @property
    def plain(self) -> Sequence[bytes | None]:
        """The records with words of the common dictionary, and with nothing but ids in their tails."""
        return self._plain

    def merged(self, records: Sequence[bytes | None]) -> list[bytes | None]:
        """What became of the records, each with its own dictionary again; one that is as before is that of before."""
        changed = [record for record, plain in zip(records, self._plain, strict=True) if record is not plain]
        split = [(record, len(record) - _padded(record)) for record in changed if record is not None]
        ids = [record[end : end + _tail_size(record)] or _NO_IDS for record, end in split]
        bodies, used, edges = _compact([record[:end] for record, end in split], self._layout)
        texts = self._texts
        whole = iter(
            [
                _with_tail(body, b"".join((_PAIR, own, _encode([texts[word] for word in used[first:last]]))))
                for body, own, (first, last) in zip(bodies, ids, pairwise(edges), strict=True)
            ]
        )
        return [
            old if record is plain else next(whole)
            for record, plain, old in zip(records, self._plain, self._before, strict=True)
        ]


def _tail_size(record: bytes) -> int:
    size: int = _WORD.unpack_from(record, _TAIL_AT)[0]
    return size


def _padded(record: bytes) -> int:
    """Bytes of a record's tail, with those that fill its last word."""
    return (_tail_size(record) + 7) // 8 * 8


def _split(record: bytes) -> tuple[bytes, list[str]]:
    """The ids of a record, encoded, and its texts."""
    end = len(record) - _padded(record)
    ids, texts = _decode(record[end : end + _tail_size(record)])
    return bytes(ids), texts


def _with_tail(body: bytes, tail: bytes) -> bytes:
    """A record without a tail with this one."""
    return b"".join([body[:_TAIL_AT], _WORD.pack(len(tail)), body[_TAIL_AT + 8 :], tail, bytes(-len(tail) % 8)])


def _joined(bodies: Sequence[bytes], layout: GroupLayout) -> tuple[IntArray, IntArray, IntArray]:
    """Records without tails as one array of words, where each of them ends, and which rows of words hold texts."""
    ends = np.cumsum(np.fromiter((len(body) >> 3 for body in bodies), np.int64, len(bodies)))
    words = np.frombuffer(b"".join(bodies), np.int64).copy()
    return words, ends, np.array([1 + column for column in layout.texts], np.int64)


def _states(layout: GroupLayout) -> tuple[int, bool, BoolArray]:
    """How many states the lifetime has, whether tiles have some, and which of all have numbers of texts as keys."""
    return len(layout.growing), len(layout.tiled) > 0, layout.grown


def _cut(words: IntArray, ends: IntArray) -> list[bytes]:
    data, edges = words.data.cast("B"), [0, *(8 * ends).tolist()]
    return [bytes(data[begin:end]) for begin, end in pairwise(edges)]


def _renumbered(bodies: Sequence[bytes], layout: GroupLayout, numbers: IntArray, starts: IntArray) -> list[bytes]:
    """Records whose words of texts are replaced: word w of record r by `numbers[starts[r] + w]`."""
    words, ends, columns = _joined(bodies, layout)
    if len(words):
        _renumber(words, ends, layout.row_words, columns, layout.base_words, *_states(layout), numbers, starts)
    return _cut(words, ends) if len(words) else list(bodies)


def _compact(bodies: Sequence[bytes], layout: GroupLayout) -> tuple[list[bytes], list[int], list[int]]:
    """Records with words of dictionaries of their own: their words before, one record behind the other, and where
    those of each record begin."""
    if not bodies:
        return [], [], [0]
    words, ends, columns = _joined(bodies, layout)
    used, edges = _own_numbers(words, ends, layout.row_words, columns, layout.base_words, *_states(layout))
    return _cut(words, ends), used.tolist(), edges.tolist()


@njit(cache=True, nogil=True)
def _renumber(words, ends, row_words, columns, base, lifetime, tiled, grown, numbers, starts):  # type: ignore[no-untyped-def]
    begin = 0
    for r in range(len(ends)):
        if ends[r] > begin:
            n = words[begin + _ROWS]
            rows = ends[r] - n * row_words
            for column in columns:
                for at in range(rows + column * n, rows + (column + 1) * n):
                    if words[at] != _NULL:
                        words[at] = numbers[starts[r] + words[at]]
            if len(grown):
                spans = key_spans(words, begin, base, lifetime, tiled, grown)
                for s in range(len(spans)):
                    for at in range(spans[s, 0], spans[s, 1]):
                        words[at] = numbers[starts[r] + words[at]]
        begin = ends[r]


@njit(cache=True, nogil=True)
def _own_numbers(words, ends, row_words, columns, base, lifetime, tiled, grown):  # type: ignore[no-untyped-def]
    used = np.empty(len(words), np.int64)
    edges = np.zeros(len(ends) + 1, np.int64)
    begin = total = 0
    for r in range(len(ends)):
        n = words[begin + _ROWS]
        rows = ends[r] - n * row_words
        spans = np.zeros((0, 2), np.int64)
        if len(grown):
            spans = key_spans(words, begin, base, lifetime, tiled, grown)
        found = np.empty(n * len(columns) + (spans[:, 1] - spans[:, 0]).sum(), np.int64)
        held = 0
        for s in range(len(spans)):
            for at in range(spans[s, 0], spans[s, 1]):
                found[held] = words[at]
                held += 1
        for column in columns:
            for at in range(rows + column * n, rows + (column + 1) * n):
                if words[at] != _NULL:
                    found[held] = words[at]
                    held += 1
        found = np.sort(found[:held])
        first = total
        for k in range(held):
            if k == 0 or found[k] != found[k - 1]:
                used[total] = found[k]
                total += 1
        for column in columns:
            for at in range(rows + column * n, rows + (column + 1) * n):
                if words[at] != _NULL:
                    words[at] = np.searchsorted(used[first:total], words[at])
        for s in range(len(spans)):
            for at in range(spans[s, 0], spans[s, 1]):
                words[at] = np.searchsorted(used[first:total], words[at])
        edges[r + 1] = total
        begin = ends[r]
    return used[:total], edges
