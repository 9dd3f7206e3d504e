"""Features of groups that are no 8-byte words: lists, maps and texts, for the rows of one read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from headrace.aggregations.growing import F_TARGET
from headrace.aggregations.grown_reads import read_growing
from headrace.aggregations.layout import GroupLayout, Scratch
from headrace.aggregations.nested import decoded, read_nested
from headrace.core.columns import BoolArray, Column, IntArray, column_of, lists_of, unpacked_list
from headrace.core.schema import DType

Piece: TypeAlias = tuple[IntArray, IntArray, IntArray]
"""Some rows of a read, and the buffer and begins that `nested.read_nested` gave for them."""
Texts: TypeAlias = Callable[[int], Sequence[str]]
"""The texts that the words of a row stand for."""


class WindowRows:
    """Where the events of each row's entity lie in a buffer of words; see `nested.read_nested`."""

    def __init__(
        self, words: IntArray, times: IntArray, counted: IntArray, columns: IntArray, strides: IntArray
    ) -> None:
        self.words, self.times, self.counted = words, times, counted
        self.columns, self.strides = columns, strides
        self.offsets: IntArray = np.full(len(times), -1)
        self.partitions: IntArray = self.offsets
        self.limits: IntArray = np.zeros((len(times), 1), np.int64)


class GroupObjects:
    """Lists, maps and texts of one group; lists and maps are read when the first of them is asked for.

    `words` and `valid` are the slots of each row, those of the group from `slot` on.
    """

    def __init__(
        self,
        layout: GroupLayout,
        slot: int,
        pieces: Callable[[], list[Piece]],
        texts: Texts,
        words: IntArray,
        valid: BoolArray,
    ) -> None:
        self._layout, self._slot, self._pieces, self._texts = layout, slot, pieces, texts
        self._words, self._valid = words, valid
        self._read: list[Piece] | None = None

    def column(self, index: int, dtype: DType) -> Column:
        """The column of `layout.objects[index]`."""
        layout, name = self._layout, self._layout.objects[index]
        if index < len(layout.nested_names):
            if self._read is None:
                self._read = self._pieces()
            items: list[Any] = []
            places: list[int] = []
            for rows, heap, begins in self._read:
                of: list[int] = rows.tolist()
                items += decoded(heap, begins[:, index].tolist(), dtype, partial(self._texts_at, of))
                places += of
            values = column_of(dtype, items)
            back = np.empty(len(places), np.int64)
            back[places] = np.arange(len(places))
            return values.take(back)
        if name in layout.lists:
            slots = self._slot + layout.lists[name]
            elements = self._words.take(slots, axis=1).view(np.float64)
            return lists_of(np.where(self._valid.take(slots, axis=1), elements, np.nan))
        slot = self._slot + layout.names.index(name)
        found = zip(self._words[:, slot].tolist(), self._valid[:, slot].tolist(), strict=True)
        texts = [self._texts(r)[word] if ok else None for r, (word, ok) in enumerate(found)]
        if dtype is DType.LIST:
            return column_of(dtype, [None if text is None else unpacked_list(text) for text in texts])
        return column_of(dtype, texts)

    def _texts_at(self, rows: Sequence[int], index: int) -> Sequence[str]:
        return self._texts(rows[index])


def read_piece(
    layout: GroupLayout,
    rows: IntArray,
    events: WindowRows,
    t: IntArray,
    scratch: Scratch,
    nested: IntArray | None = None,
) -> Piece:
    """Read the lists and maps of a group for some rows; `events` and `t` are those of these rows.

    `nested` is the table to read by, if it is not the layout's own.
    """
    heap, begins = read_nested(
        events.words, events.words.view(np.float64), events.times, events.columns, events.strides, events.counted,
        layout.nested if nested is None else nested, layout.windows, t, events.offsets, events.partitions,
        events.limits, scratch.lane, scratch.work, scratch.tally,
    )  # fmt: skip
    return rows, heap, begins


def read_grown(
    layout: GroupLayout,
    features: IntArray,
    words: IntArray,
    starts: IntArray,
    t: IntArray,
    slots: tuple[IntArray, BoolArray, int],
    scratch: Scratch,
) -> tuple[IntArray, IntArray]:
    """Read `features` from growing states of the records that begin at `starts`; see `grown_reads.read_growing`.

    `slots` are the words and their validity that features with a slot are written to, and the group's first slot.
    """
    out, valid, slot = slots
    sizes = np.array(
        [layout.base_words, layout.width, layout.flagged, 1 + layout.tile_words, len(layout.tiled) > 0], np.int64
    )
    heap, begins = read_growing(
        words, words.view(np.float64), starts, t, sizes, layout.growing, layout.tiled, layout.grown, features,
        layout.windows, out, out.view(np.float64), valid, slot, scratch.lane, scratch.work, scratch.tally,
    )  # fmt: skip
    return heap, begins


def with_grown(layout: GroupLayout, piece: Piece, grown: tuple[IntArray, IntArray]) -> Piece:
    """A piece that was read by `layout.online_nested` with the lists and maps that growing states gave."""
    rows, heap, begins = piece
    begins[:, layout.grown_items[:, F_TARGET]] = grown[1] + len(heap)
    return rows, np.concatenate([heap, grown[0]]), begins


def record_rows(layout: GroupLayout, words: IntArray, starts: IntArray, sizes: IntArray) -> WindowRows:
    """The events in window records that begin at these words (-1: none) and have these sizes in words."""
    there = starts >= 0
    at = np.where(there, starts, 0)
    # Words at the head of a record (`records.py`): its rows and the bytes of its tail; the rows lie before the tail.
    counted = np.where(there, words[np.where(there, at + 1, 0)], 0)
    tail = np.where(there, words[np.where(there, at + 5, 0)], 0)
    times = np.where(there, at + sizes - (tail + 7) // 8 - counted * layout.row_words, 0)
    return WindowRows(words, times, counted, times + counted, counted)


def read_records(
    layout: GroupLayout, words: IntArray, starts: IntArray, sizes: IntArray, t: IntArray, scratch: Scratch
) -> list[Piece]:
    """Lists and maps from the window records that begin at these of the `words` (-1: none), and have these sizes."""
    events = record_rows(layout, words, starts, sizes)
    piece = read_piece(layout, np.arange(len(t)), events, t, scratch, layout.online_nested)
    if not len(layout.grown_items):
        return [piece]
    none = (np.zeros((len(t), 0), np.int64), np.zeros((len(t), 0), np.bool_), 0)
    grown = read_grown(layout, layout.grown_items, words, starts.copy(), t, none, scratch)
    return [with_grown(layout, piece, grown)]
