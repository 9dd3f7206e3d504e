"""Online reads: one request or a few thousand, answered from the online store in one snapshot.

The keys of all bindings are fetched at once, the records joined into one buffer, and one compiled call evaluates every
window of every group. The answer carries the position that it reflects, and beside it those of groups that a schedule
computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial

import msgspec
import numpy as np

from headrace.aggregations.group_objects import GroupObjects, Piece, read_grown, read_records
from headrace.aggregations.layout import GroupLayout
from headrace.aggregations.reads import OTHER_FORMAT, TOO_OLD, read_view
from headrace.aggregations.records import FORMAT
from headrace.aggregations.table_records import objects_of
from headrace.aggregations.texts import texts_of
from headrace.core.columns import BoolArray, Column, IntArray, column_of
from headrace.core.errors import HorizonError, StoreError
from headrace.core.keys import JoinedKeys
from headrace.core.positions import EMPTY_POSITION, Position, decode_position, decode_state, state_key
from headrace.core.schema import DType
from headrace.core.time import format_duration, to_iso
from headrace.features.plan import ProjectPlan, ViewPlan
from headrace.retrieval.binding import BoundView
from headrace.retrieval.record_keys import RecordKeys
from headrace.retrieval.rows import FeatureBlock
from headrace.stores.online.base import Fetched, OnlineStore

_NO_LIMITS = np.zeros(1, np.int64)


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
        self._keys = RecordKeys(self.bound.sources)
        self._raw_position = b""
        self._position = EMPTY_POSITION
        self._oldest_us: int | None = None
        groups = {s.version: s.group for s in self.bound.sources if s.group is not None}
        self._streams = sorted({group.stream for group in groups.values()})
        self._topics = project.topics().keys()
        self._scheduled = {v: group.stream for v, group in groups.items() if v in project.scheduled}
        # Streams whose clock is that of scheduled groups alone.
        self._own_clock = set(self._streams) - {g.stream for v, g in groups.items() if v not in self._scheduled}
        self._state_keys = JoinedKeys.of([state_key(version) for version in self._scheduled])
        self._raw_states: list[bytes | None] = []
        layouts = [(b, source.layout, source.slot) for b, source in enumerate(self.bound.sources)]
        self._growing = [(b, own, slot) for b, own, slot in layouts if own is not None and len(own.grown_slots)]
        # Compiled (or loaded from the cache) here, so that no request waits for it.
        store.prepare()
        self._evaluate(np.zeros(1, np.int64), np.zeros((0, len(self.bound.sources)), np.int64), np.zeros(0, np.int64))

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
        keys, places = self._keys.of(request, n)
        # Where scheduled groups stand lies beside their records, and is of the same snapshot.
        found = self._store.fetch(keys + self._state_keys if self._state_keys else keys)
        states = [found.record(len(keys) + i) for i in range(len(self._scheduled))]
        if found.position != self._raw_position or states != self._raw_states:
            self._see(found.position, states)
        # For one row each call of NumPy weighs as much as a window, so none is made that can be left out.
        first_us = int(t[0]) if n == 1 else int(t.min()) if n else None
        if first_us is not None and self._oldest_us is not None and first_us < self._oldest_us:
            self._too_early(first_us, self._oldest_us)
        starts = found.begins.take(places)
        # A copy of t: the kernel is compiled for arrays that can be written to, and t may be a view of a log's bytes.
        t_own = np.array(t, np.int64)
        words, valid, rows = self._evaluate(found.words, starts, t_own)

        groups: dict[int, GroupObjects] = {}

        def objects(binding: int, index: int, dtype: DType) -> Column:
            source = bound.sources[binding]
            if source.layout is not None:
                if binding not in groups:
                    chosen = places[:, binding]
                    read = partial(self._nested, source.layout, found, chosen, t_own)
                    texts = cache(partial(_texts, found, chosen))
                    groups[binding] = GroupObjects(source.layout, source.slot, read, texts, words, valid)
                return groups[binding].column(index, dtype)
            by_row: list[object] = [None] * n
            for r in np.flatnonzero(rows[:, binding] >= 0).tolist():
                record = found.record(int(places[r, binding]))
                if record is not None:
                    by_row[r] = objects_of(record, source.width, int(rows[r, binding]))[index]
            return column_of(dtype, by_row)

        block = bound.assemble(request, words, valid, objects)
        block.position = self._position
        return block

    def keys(self, request: Mapping[str, Column]) -> list[bytes]:
        """Keys of the records that `read` would fetch for these requests."""
        keys, _ = self._keys.of(request, len(request[self._time_field].values))
        return list(dict.fromkeys(keys.listed()))

    def _evaluate(self, records: IntArray, starts: IntArray, t: IntArray) -> tuple[IntArray, BoolArray, IntArray]:
        """Words and validity of all slots, and the table rows taken, for the records that begin at `starts`.

        Raises HorizonError if a record of a table does not reach back to its t, StoreError for one of another format.
        """
        bound, s, n = self.bound, self._scratch, len(t)
        words = np.zeros((n, bound.slots), np.int64)
        valid = np.zeros((n, bound.slots), np.bool_)
        rows = np.empty((n, len(bound.sources)), np.int64)
        refused = read_view(
            records, starts, t, bound.bindings, bound.lanes, bound.windows, bound.features,
            bound.pointers, words, valid, rows, s.lane, s.work, s.other, s.bounds, s.tally, _NO_LIMITS,
        )  # fmt: skip
        if refused:
            self._refuse(rows, t)
        for b, layout, slot in self._growing:
            # A copy: of what has gaps another variant would be compiled.
            read_grown(layout, layout.grown_slots, records, starts[:, b].copy(), t, (words, valid, slot), s)
        return words, valid, rows

    def _nested(self, layout: GroupLayout, found: Fetched, chosen: IntArray, t: IntArray) -> list[Piece]:
        """Lists and maps from the record that each row reads; -1 chooses none."""
        starts = found.begins.take(chosen)
        sizes = np.where(starts >= 0, found.sizes.take(chosen) >> 3, 0) if len(found.sizes) else np.zeros_like(starts)
        return read_records(layout, found.words, starts, sizes, t, self._scratch)

    def _see(self, raw_position: bytes, states: list[bytes | None]) -> None:
        """Take over positions that differ from the last ones; `states` are those of the scheduled groups."""
        position = decode_position(raw_position)
        if position.streams.keys() - self._topics:
            # The topics that a position names tell which generation of a derived stream was read.
            known = {name: offsets for name, offsets in position.streams.items() if name in self._topics}
            position = msgspec.structs.replace(position, streams=known)
        if states:
            position = self._with_groups(position, states)
            self._raw_states = states
        newest = max((position.clock_us[name] for name in self._streams if name in position.clock_us), default=None)
        self._oldest_us = None if newest is None else newest - self._horizon_us
        self._position, self._raw_position = position, raw_position

    def _with_groups(self, position: Position, states: Sequence[bytes | None]) -> Position:
        """The position of the store with those of the scheduled groups, each with the clock of its own."""
        clocks = {name: us for name, us in position.clock_us.items() if name not in self._own_clock}
        groups: dict[str, list[int]] = {}
        for (version, stream), raw in zip(self._scheduled.items(), states, strict=True):
            state = decode_state(raw)
            groups[version] = [0] if state is None else state.at
            if state is not None and state.clock_us is not None:
                clocks[stream] = max(clocks.get(stream, state.clock_us), state.clock_us)
        return msgspec.structs.replace(position, clock_us=clocks, groups=groups)

    def _too_early(self, t_us: int, oldest_us: int) -> None:
        raise HorizonError(
            f"the online store answers from {to_iso(oldest_us)} on (its newest event less the "
            f"as-of horizon of {format_duration(self._horizon_us)}); asked was {to_iso(t_us)}. "
            "Use history() for earlier times"
        )

    def _refuse(self, rows: IntArray, t: IntArray) -> None:
        r, b = np.argwhere(rows <= TOO_OLD)[0].tolist()
        if rows[r, b] == OTHER_FORMAT:
            raise StoreError(
                f"the online store holds records of group {self.bound.sources[b].binding.source} of another format, "
                f"this version reads format {FORMAT}: delete the online store, and ingestion makes it again from the "
                "feature log"
            )
        raise HorizonError(
            f"the online store no longer holds what table {self.bound.sources[b].binding.source} said at "
            f"{to_iso(int(t[r]))}: that lies further behind its newest row than the as-of horizon of "
            f"{format_duration(self._horizon_us)}. "
            "Use history() for earlier times"
        )


def _texts(found: Fetched, chosen: IntArray, row: int) -> Sequence[str]:
    """The texts of the record that a row reads."""
    record = found.record(int(chosen[row]))
    return () if record is None else texts_of(record)
