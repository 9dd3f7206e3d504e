"""One aggregation by itself: what becomes of columns of events, with nothing around it.

A state is what the online store would hold of one entity if this were the only feature of its group, so what is true of
states here is true of records, and encoding one is no work. Updating is merging with the state of the new events.
States merge in any order and grouping to the same bytes: sums are exact, and of rows those that are needed stay.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace.aggregations.aggregation import Aggregation, Composed, Params
from headrace.aggregations.group_objects import GroupObjects, read_grown, read_records
from headrace.aggregations.group_tables import PlainAggregate, PlainGroup, PlainInput
from headrace.aggregations.layout import GroupLayout, Scratch, layout_of, physical_columns
from headrace.aggregations.reads import group_binding, read_view
from headrace.aggregations.records import check_format, join_records
from headrace.aggregations.sketch import hash_texts
from headrace.aggregations.splice import merge_groups
from headrace.aggregations.texts import TextMerge, numbered, texts_of
from headrace.core.columns import BoolArray, Column, IntArray, elements_of, packed_lists
from headrace.core.schema import DType, map_of

_FEATURE, _ENTITY = "value", b""
_WORD = struct.Struct("<q")
_NO_RECORD = bytes(8)


@dataclass(frozen=True, slots=True)
class Events:
    """Columns of events in any order: their times (µs), their places in the log, which decide ties and which no other
    event has, and what is aggregated, by which buckets and under which condition."""

    times: IntArray
    offsets: IntArray
    column: Column | None = None
    by: Column | None = None
    where: Column | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The state of some events; equal events have equal states. `record` is None of no events."""

    record: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Delta:
    """The events of one entity, as `splice.merge_groups` takes them."""

    counts: Sequence[int]
    clocks: bytes
    positions: bytes
    times: bytes
    columns: list[bytes]
    offsets: bytes
    partitions: bytes
    texts: Sequence[str]
    ids: None = None


class Accumulator:
    """An aggregation of a column of one type, over one window."""

    def __init__(
        self,
        kind: Aggregation,
        dtype: DType | None = None,
        *,
        params: Params | None = None,
        window_us: int | None = None,
        hop_us: int = 1,
        by: DType | None = None,
        where: bool = False,
        size: int | None = None,
        resolution_us: int = 1,
        horizon_us: int = 0,
    ) -> None:
        """`by` is the type of the buckets, `where` says whether events have a condition, `size` is the length of the
        column's lists. States answer for times from their newest event less `horizon_us` on."""
        self.kind, self.horizon_us = kind, horizon_us
        self._params = dict(params or {})
        self.dtype = kind.gives_for(dtype) if by is None else map_of(by, kind.gives_for(dtype))
        packed = kind.packs_lists and dtype is DType.LIST
        hashed = kind.hashes_texts and dtype is DType.STRING
        read = DType.STRING if packed else DType.INT if hashed else dtype
        inputs: list[PlainInput] = []

        def added(part: DType | None) -> int | None:
            if part is None:
                return None
            inputs.append(PlainInput(part, size if part is DType.LIST else None))
            return len(inputs) - 1

        column, buckets, condition = added(read), added(by), added(DType.BOOL if where else None)
        spec = PlainAggregate(
            _FEATURE, kind.name, column, condition, window_us, hop_us, 0, self.dtype,
            tuple(sorted(self._params.items())), buckets,
        )  # fmt: skip
        self._inputs = inputs
        self._layout: GroupLayout = layout_of(PlainGroup(tuple(inputs), (spec,), resolution_us))
        layout = self._layout
        spans = (0, len(layout.lanes), 0, len(layout.windows), 0, len(layout.features))
        self._bindings = np.array([group_binding(layout, spans, 0)], np.int64)

    def identity(self) -> State:
        """The state of no events."""
        return State()

    def update(self, state: State, events: Events) -> State:
        """The state with these events, none of which it has already."""
        return self.merge(state, self._state_of(events))

    def merge(self, a: State, b: State) -> State:
        """The state of the events of both; no event may be in both."""
        if a.record is None or b.record is None:
            return b if a.record is None else a
        if not self._layout.texts:
            return State(join_records(self._layout, a.record, b.record, self.horizon_us))
        # Both get one dictionary, and the result one of its own.
        texts = TextMerge(self._layout, (), (), (a.record, b.record))
        one, two = texts.plain
        assert one is not None
        assert two is not None
        joined = join_records(self._layout, one, two, self.horizon_us)
        return State(texts.merged((joined, two))[0])

    def finalize(self, state: State, t: IntArray) -> Column:
        """The values at these times (µs), one each, of the window that ends there."""
        layout, record = self._layout, state.record or _NO_RECORD
        # A copy: for what cannot be written to another variant of the kernels would be compiled.
        i8 = np.frombuffer(bytearray(record), np.int64)
        scratch, n = Scratch(len(layout.windows)), len(t)
        starts = np.full((n, 1), -1 if state.record is None else 0, np.int64)
        words, valid = np.zeros((n, len(layout.names)), np.int64), np.zeros((n, len(layout.names)), np.bool_)
        read_view(
            i8, starts, t, self._bindings, layout.lanes, layout.windows,
            layout.online_features, layout.pointers, words, valid, np.empty((n, 1), np.int64), scratch.lane,
            scratch.work, scratch.other, scratch.bounds, scratch.tally, np.zeros(1, np.int64),
        )  # fmt: skip
        if len(layout.grown_slots):
            read_grown(layout, layout.grown_slots, i8, starts[:, 0].copy(), t, (words, valid, 0), scratch)
        if _FEATURE in layout.objects:
            sizes = np.full(n, 0 if state.record is None else len(record) >> 3)
            known = texts_of(record) if layout.texts and state.record is not None else []
            objects = GroupObjects(
                layout, 0, lambda: read_records(layout, i8, starts[:, 0], sizes, t, scratch), lambda row: known,
                words, valid,
            )  # fmt: skip
            return objects.column(layout.objects.index(_FEATURE), self.dtype)
        slots = [_slot(words[:, i], valid[:, i], dtype) for i, dtype in enumerate(layout.dtypes)]
        if isinstance(self.kind, Composed):
            values, there = self.kind.finished([(slot.values, slot.mask()) for slot in slots], self._params)
            return Column(self.dtype, values, there)
        return slots[0]

    def encode(self, state: State) -> bytes:
        """The bytes of a state; none of that of no events."""
        return state.record or b""

    def decode(self, encoded: bytes) -> State:
        """The state of these bytes. Raises StoreError if they are of another format."""
        if not encoded:
            return State()
        check_format(_WORD.unpack_from(encoded)[0])
        return State(encoded)

    def _state_of(self, events: Events) -> State:
        n = len(events.times)
        if not n:
            return State()
        column = events.column
        if column is not None and self.kind.packs_lists and column.dtype is DType.LIST:
            column = packed_lists(column)
        elif column is not None and self.kind.hashes_texts and column.dtype is DType.STRING:
            column = replace(column, dtype=DType.INT, values=hash_texts(column.values.tolist()))
        columns = [part for part in (column, events.by, events.where) if part is not None]
        texts = [part for part in columns if part.dtype is DType.STRING]
        words, known = numbered([(part.values, part.valid) for part in texts])
        numbers = iter(words)
        values: list[tuple[DType, np.ndarray[Any, Any], BoolArray | None]] = []
        for part, given in zip(columns, self._inputs, strict=True):
            if part.dtype is DType.STRING:
                values.append((part.dtype, next(numbers), None))
            elif part.dtype is DType.LIST:
                values.append((part.dtype, elements_of(part, given.size or 0), None))
            else:
                values.append((part.dtype, part.values, part.valid))
        made = physical_columns(self._layout, values)
        # As rows lie in a record: by time, then by place in the log or, where that decides nothing, by their words.
        order = np.lexsort((events.offsets, events.times) if self._layout.ordered else (*made[::-1], events.times))
        delta = _Delta(
            [n],
            _WORD.pack(int(events.times.max())),
            _WORD.pack(int(events.offsets.max()) + 1),
            events.times[order].astype(np.int64).tobytes(),
            [column_words[order].tobytes() for column_words in made],
            events.offsets[order].astype(np.int64).tobytes(),
            bytes(8 * n),
            known,
        )
        records: dict[bytes, bytes | None] = {_ENTITY: None}
        merge_groups([(self._layout, delta, [_ENTITY])], records, self.horizon_us)
        return State(records[_ENTITY])


def _slot(words: IntArray, valid: BoolArray, dtype: DType) -> Column:
    """A column of slots."""
    words = np.ascontiguousarray(words)
    if dtype is DType.FLOAT:
        return Column(dtype, words.view(np.float64), valid)
    return Column(dtype, words.astype(np.bool_) if dtype is DType.BOOL else words, valid)
