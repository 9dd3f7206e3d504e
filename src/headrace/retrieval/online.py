"""Online reads: one request or a few thousand, answered from the online store in one snapshot.

The keys of all bindings are fetched at once, the records joined into one buffer, and one compiled call evaluates every
window of every group. The answer carries the position that it reflects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial

import numpy as np

from headrace.aggregations.layout import GroupLayout
from headrace.aggregations.reads import OTHER_FORMAT, TOO_OLD, read_view
from headrace.aggregations.records import FORMAT
from headrace.aggregations.table_records import objects_of
from headrace.aggregations.texts import texts_of
from headrace.core.columns import BoolArray, Column, IntArray, column_of
from headrace.core.errors import HorizonError, StoreError
from headrace.core.keys import record_key
from headrace.core.positions import EMPTY_POSITION, decode_position
from headrace.core.schema import DType
from headrace.core.time import format_duration, to_iso
from headrace.features.plan import ProjectPlan, ViewPlan
from headrace.retrieval.binding import BoundView
from headrace.retrieval.group_objects import GroupObjects, Piece, read_grown, read_piece, record_rows, with_grown
from headrace.retrieval.rows import FeatureBlock
from headrace.stores.online.base import OnlineStore

_NO_LIMITS = np.zeros(1, np.int64)
_NO_RECORD = bytes(8)

_MOST_KEYS = 50_000
"""Encoded keys that are remembered per binding; beyond that it starts anew."""


class OnlineReader:
    """Reads one view. Not thread-safe: one reader per thread.

    Attributes:
        overflows: how many values were null because an exact sum did not fit its type.
    """

    def __init__(self, view: ViewPlan, project: ProjectPlan, store: OnlineStore, *, horizon_us: int) -> None:
        self.bound = BoundView(view, project)
        self._store = store
        self._horizon_us = horizon_us
        self._scratch = self.bound.scratch()
        self._time_field = view.request.time_field or ""
        self._key_fields = sorted({name for s in self.bound.sources for name in s.binding.request_keys})
        self._known_keys: list[dict[tuple[object, ...], bytes]] = [{} for _ in self.bound.sources]
        self._raw_position = b""
        self._position = EMPTY_POSITION
        self._oldest_us: int | None = None
        self._streams = sorted({s.group.stream for s in self.bound.sources if s.group is not None})
        # Compiled (or loaded from the cache) here, so that no request waits for it.
        self._evaluate(_NO_RECORD, np.zeros((0, len(self.bound.sources)), np.int64), np.zeros(0, np.int64))

    @property
    def overflows(self) -> int:
        return int(self._scratch.tally[0])

    def read(self, request: Mapping[str, Column]) -> FeatureBlock:
        """Return the view's columns for each request; `request` holds every request field, n values each.

        The request's event time is t (µs). Raises HorizonError if a t lies further back than the as-of horizon (of
        tables: and can no longer be answered).
        """
        bound = self.bound
        t = request[self._time_field].values
        n = len(t)
        keys, places = self._keys(request, n)
        records, raw_position = self._store.read(keys)
        if raw_position != self._raw_position:
            self._see(raw_position)
        if self._oldest_us is not None and n and t.min() < self._oldest_us:
            self._too_early(int(t.min()), self._oldest_us)
        # Where each record begins among all that were found; the last one stands for "none".
        begins: list[int] = []
        at = 0
        for record in records:
            if record is None:
                begins.append(-1)
            else:
                begins.append(at)
                at += len(record) >> 3
        begins.append(-1)
        starts = np.array([begins[place] for place in places], np.int64).reshape(n, len(bound.sources))
        found = b"".join([record for record in records if record is not None])
        # A copy of t: the kernel is compiled for arrays that can be written to, and t may be a view of a log's bytes.
        t_own = np.array(t, np.int64)
        words, valid, rows = self._evaluate(found or _NO_RECORD, starts, t_own)
        if rows.size and rows.min() == TOO_OLD:
            self._refuse(rows, t)

        groups: dict[int, GroupObjects] = {}

        def objects(binding: int, index: int, dtype: DType) -> Column:
            source = bound.sources[binding]
            if source.layout is not None:
                if binding not in groups:
                    chosen = [places[r * len(bound.sources) + binding] for r in range(n)]
                    read = partial(self._nested, source.layout, records, chosen, found, starts[:, binding], t_own)
                    texts = cache(partial(_texts, records, chosen))
                    groups[binding] = GroupObjects(source, read, texts, words, valid)
                return groups[binding].column(index, dtype)
            width, sources = bound.sources[binding].width, len(bound.sources)
            by_row: list[object] = [None] * n
            for r in range(n):
                place = places[r * sources + binding]
                record = records[place] if place >= 0 else None
                if record is not None and rows[r, binding] >= 0:
                    by_row[r] = objects_of(record, width, int(rows[r, binding]))[index]
            return column_of(dtype, by_row)

        block = bound.assemble(request, words, valid, objects)
        block.position = self._position
        return block

    def _evaluate(self, records: bytes, starts: IntArray, t: IntArray) -> tuple[IntArray, BoolArray, IntArray]:
        """Words and validity of all slots, and the table rows taken, for the records that begin at `starts`."""
        bound, s, n = self.bound, self._scratch, len(t)
        i8 = np.frombuffer(records, np.int64)
        words = np.zeros((n, bound.slots), np.int64)
        valid = np.zeros((n, bound.slots), np.bool_)
        rows = np.full((n, len(bound.sources)), -1, np.int64)
        read_view(
            i8, i8.view(np.float64), starts, t, bound.bindings, bound.lanes, bound.windows, bound.features,
            bound.pointers, words, words.view(np.float64), valid, rows, s.lane, s.work, s.other, s.bounds, s.tally,
            _NO_LIMITS,
        )  # fmt: skip
        if rows.size and rows.min() == OTHER_FORMAT:
            self._refuse_format(rows)
        for b, source in enumerate(bound.sources):
            layout = source.layout
            if layout is not None and len(layout.grown_slots):
                to = (words, valid, source.slot)
                read_grown(layout, layout.grown_slots, i8.copy(), starts[:, b].copy(), t, to, s)
        return words, valid, rows

    def _nested(
        self,
        layout: GroupLayout,
        records: Sequence[bytes | None],
        chosen: Sequence[int],
        found: bytes,
        starts: IntArray,
        t: IntArray,
    ) -> list[Piece]:
        """Lists and maps from the record that each row reads; -1 chooses none."""
        sizes = [0 if record is None else len(record) >> 3 for record in records]
        of_rows = np.array([sizes[place] if place >= 0 else 0 for place in chosen], np.int64)
        words = np.frombuffer(found or _NO_RECORD, np.int64)
        events = record_rows(layout, words, starts, of_rows)
        piece = read_piece(layout, np.arange(len(t)), events, t, self._scratch, layout.online_nested)
        if not len(layout.grown_items):
            return [piece]
        none = (np.zeros((len(t), 0), np.int64), np.zeros((len(t), 0), np.bool_), 0)
        grown = read_grown(layout, layout.grown_items, words.copy(), starts.copy(), t, none, self._scratch)
        return [with_grown(layout, piece, grown)]

    def _keys(self, request: Mapping[str, Column], n: int) -> tuple[list[bytes], list[int]]:
        """Keys of the records to read, each once, and which of them each binding of each row reads (-1: none)."""
        if n == 1:
            return self._keys_of_one(request)
        lists = {name: request[name].to_pylist() for name in self._key_fields}
        keys: dict[bytes, int] = {}
        by_source: list[list[int]] = []
        for source, known in zip(self.bound.sources, self._known_keys, strict=True):
            named = source.binding.request_keys
            places: list[int] = []
            for parts in zip(*[lists[name] for name in named], strict=True) if named else [()] * n:
                key = known.get(parts)
                if key is None:
                    if None in parts:
                        places.append(-1)
                        continue
                    if len(known) >= _MOST_KEYS:
                        known.clear()
                    key = known[parts] = record_key(source.encode(parts), source.version)
                places.append(keys.setdefault(key, len(keys)))
            by_source.append(places)
        return list(keys), [place for row in zip(*by_source, strict=True) for place in row]

    def _keys_of_one(self, request: Mapping[str, Column]) -> tuple[list[bytes], list[int]]:
        """`_keys` of a single row; a record that two bindings read may be named twice."""
        plain: dict[str, object] = {}
        for name in self._key_fields:
            column = request[name]
            plain[name] = column.values.item() if column.valid is None or column.valid[0] else None
        keys: list[bytes] = []
        places: list[int] = []
        for source, known in zip(self.bound.sources, self._known_keys, strict=True):
            parts = tuple([plain[name] for name in source.binding.request_keys])
            key = known.get(parts)
            if key is None:
                if None in parts:
                    places.append(-1)
                    continue
                if len(known) >= _MOST_KEYS:
                    known.clear()
                key = known[parts] = record_key(source.encode(parts), source.version)
            places.append(len(keys))
            keys.append(key)
        return keys, places

    def _see(self, raw_position: bytes) -> None:
        """Take over a position that differs from the last one."""
        position = decode_position(raw_position)
        newest = max((position.clock_us[name] for name in self._streams if name in position.clock_us), default=None)
        self._oldest_us = None if newest is None else newest - self._horizon_us
        self._position, self._raw_position = position, raw_position

    def _refuse_format(self, rows: IntArray) -> None:
        source = self.bound.sources[int(np.argwhere(rows == OTHER_FORMAT)[0, 1])]
        raise StoreError(
            f"the online store holds records of group {source.binding.source} of another format than {FORMAT}, which "
            "this version reads: delete the online store, and ingestion makes it again from the feature log"
        )

    def _too_early(self, t_us: int, oldest_us: int) -> None:
        raise HorizonError(
            f"the online store answers from {to_iso(oldest_us)} on (its newest event less the "
            f"as-of horizon of {format_duration(self._horizon_us)}); asked was {to_iso(t_us)}. "
            "Use history() for earlier times"
        )

    def _refuse(self, rows: IntArray, t: IntArray) -> None:
        r, b = np.argwhere(rows == TOO_OLD)[0].tolist()
        raise HorizonError(
            f"the online store no longer holds what table {self.bound.sources[b].binding.source} said at "
            f"{to_iso(int(t[r]))}: that lies further behind its newest row than the as-of horizon of "
            f"{format_duration(self._horizon_us)}. "
            "Use history() for earlier times"
        )


def _texts(records: Sequence[bytes | None], chosen: Sequence[int], row: int) -> Sequence[str]:
    """The texts of the record that a row reads."""
    record = records[chosen[row]] if chosen[row] >= 0 else None
    return () if record is None else texts_of(record)
