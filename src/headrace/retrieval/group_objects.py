"""Features of groups that are no 8-byte words: lists, maps and texts, for the rows of one read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from headrace.aggregations.layout import GroupLayout, Scratch
from headrace.aggregations.nested import decoded, read_nested
from headrace.core.columns import BoolArray, Column, IntArray, column_of
from headrace.core.schema import DType
from headrace.retrieval.binding import BoundSource

Texts = Callable[[int], Sequence[str]]
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
    """What `BoundView.assemble` asks for of one group; lists and maps are read when the first of them is asked for."""

    def __init__(
        self,
        source: BoundSource,
        t: IntArray,
        rows: Callable[[], WindowRows],
        texts: Texts,
        words: IntArray,
        valid: BoolArray,
        scratch: Scratch,
    ) -> None:
        assert source.layout is not None
        self._layout: GroupLayout = source.layout
        self._source, self._t, self._rows, self._texts = source, t, rows, texts
        self._words, self._valid, self._scratch = words, valid, scratch
        self._read: tuple[IntArray, IntArray] | None = None

    def column(self, index: int, dtype: DType) -> Column:
        """The column of `source.objects[index]`."""
        layout, name = self._layout, self._source.objects[index]
        if index < len(layout.nested_names):
            if self._read is None:
                self._read = self._nested()
            heap, begins = self._read
            return column_of(dtype, decoded(heap, begins[:, index].tolist(), dtype, self._texts))
        slot = self._source.slot + layout.names.index(name)
        found = zip(self._words[:, slot].tolist(), self._valid[:, slot].tolist(), strict=True)
        return column_of(dtype, [self._texts(r)[word] if ok else None for r, (word, ok) in enumerate(found)])

    def _nested(self) -> tuple[IntArray, IntArray]:
        rows, s = self._rows(), self._scratch
        found: tuple[IntArray, IntArray] = read_nested(
            rows.words, rows.words.view(np.float64), rows.times, rows.columns, rows.strides, rows.counted,
            self._layout.nested, self._layout.windows, self._t, rows.offsets, rows.partitions, rows.limits, s.lane,
            s.work, s.tally,
        )  # fmt: skip
        return found


def record_rows(layout: GroupLayout, words: IntArray, starts: IntArray, sizes: IntArray) -> WindowRows:
    """The events in window records that begin at these words (-1: none) and have these sizes in words."""
    there = starts >= 0
    at = np.where(there, starts, 0)
    # Words at the head of a record (`records.py`): its rows and the bytes of its tail; the rows lie before the tail.
    counted = np.where(there, words[np.where(there, at + 1, 0)], 0)
    tail = np.where(there, words[np.where(there, at + 5, 0)], 0)
    times = np.where(there, at + sizes - (tail + 7) // 8 - counted * layout.row_words, 0)
    return WindowRows(words, times, counted, times + counted, counted)
