"""Texts as 8-byte words: numbers in a dictionary whose order is that of the texts.

So kernels compare, count and sort texts as the integers that they are to them. History has one dictionary per read,
each delta and each record one of its own, which holds just the texts that occur in it, sorted by their UTF-8 bytes. In
a record it lies in the tail, beside the ids. A merge brings record and delta to one dictionary and leaves the rest to
`records.merge`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import msgspec
import numpy as np

from headrace.aggregations.layout import GroupLayout
from headrace.aggregations.records import EntityDelta, merge
from headrace.core.columns import BoolArray, IntArray
from headrace.core.time import NULL_US

# Where the head of a record (`records.py`) says how many rows and bytes of tail there are.
_ROWS_AT, _TAIL_AT = 8, 40
_WORD = struct.Struct("<q")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[Any] | None, list[str]]).decode
_encode_ids = msgspec.msgpack.Encoder().encode
_decode_ids = msgspec.msgpack.Decoder(list[Any]).decode


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
    """The same texts in a dictionary without those that no word stands for; `words` may have any shape."""
    used, numbers = np.unique(words, return_inverse=True)
    null = len(used) and used[0] == NULL_US
    numbers = numbers.reshape(words.shape) - (1 if null else 0)
    kept = [texts[word] for word in used[1 if null else 0 :].tolist()]
    return (np.where(numbers < 0, NULL_US, numbers) if null else numbers), kept


def texts_of(record: bytes) -> list[str]:
    """The dictionary of a record of a group with texts."""
    return _tail(record)[1]


def merge_texts(
    layout: GroupLayout, record: bytes | None, delta: EntityDelta, texts: Sequence[str], horizon_us: int
) -> bytes:
    """As `records.merge`, for a group whose layout has texts; those of the delta are words of `texts`."""
    ids, known = _tail(record) if record is not None else (None, [])
    new = np.frombuffer(b"".join([delta.columns[column] for column in layout.texts]), np.int64)
    new, fresh = compacted(new, texts)
    union = sorted({*known, *fresh})
    ranks = dict(zip(union, count()))
    columns = list(delta.columns)
    for part, column in zip(np.split(_renumbered(new, fresh, ranks), len(layout.texts)), layout.texts, strict=True):
        columns[column] = part.tobytes()
    before = None
    if record is not None:
        whole = _with_words(layout, record, lambda words: _renumbered(words, known, ranks))
        before = _with_tail(whole, b"" if ids is None else _encode_ids(ids))
    merged = merge(layout, before, replace(delta, columns=columns), horizon_us)
    if record is not None and merged is before:
        return record
    size = _WORD.unpack_from(merged, _TAIL_AT)[0]
    start = len(merged) - (size + 7) // 8 * 8
    ids = _decode_ids(merged[start : start + size]) if size else None
    kept: list[str] = []

    def compact(words: IntArray) -> IntArray:
        nonlocal kept
        words, kept = compacted(words, union)
        return words

    return _with_tail(_with_words(layout, merged, compact), _encode((ids, kept)))


def _tail(record: bytes) -> tuple[list[Any] | None, list[str]]:
    size = _WORD.unpack_from(record, _TAIL_AT)[0]
    start = len(record) - (size + 7) // 8 * 8
    return _decode(record[start : start + size])


def _with_tail(record: bytes, tail: bytes) -> bytes:
    """The record with another tail."""
    size = _WORD.unpack_from(record, _TAIL_AT)[0]
    end = len(record) - (size + 7) // 8 * 8
    padding = bytes(-len(tail) % 8)
    return b"".join([record[:_TAIL_AT], _WORD.pack(len(tail)), record[_TAIL_AT + 8 : end], tail, padding])


def _with_words(layout: GroupLayout, record: bytes, change: Callable[[IntArray], IntArray]) -> bytes:
    """The record with other words in its columns of texts; `change` gets and returns int64 [columns, rows]."""
    n, size = _WORD.unpack_from(record, _ROWS_AT)[0], _WORD.unpack_from(record, _TAIL_AT)[0]
    words = np.frombuffer(record, np.int64).copy()
    # The rows lie before the tail, their times first.
    at = len(words) - (size + 7) // 8 - n * layout.row_words
    rows = words[at : at + n * layout.row_words].reshape(layout.row_words, n)
    chosen = [1 + column for column in layout.texts]
    rows[chosen] = change(rows[chosen])
    return words.tobytes()


def _renumbered(words: IntArray, texts: Sequence[str], ranks: dict[str, int]) -> IntArray:
    """Words of a dictionary as those of another that has all of its texts."""
    if not len(texts):
        return words
    numbers = np.array([ranks[text] for text in texts], np.int64)
    null = words == NULL_US
    return np.where(null, NULL_US, numbers[np.where(null, 0, words)])
