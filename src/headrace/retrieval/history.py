"""Point-in-time reads of any number of rows over history, corrected or as served.

For each binding of the view: number the keys that are asked, look those of history up among them, sort events by (key,
event time, id, partition, offset) and let the same compiled reading that serves online walk each row's window; rows of
tables are merged with the requests of their key. As served, a row sees only what lay below the positions that it was
served at. Keys are shared out to the cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.aggregations.group_objects import GroupObjects, Piece, WindowRows, read_piece
from headrace.aggregations.reads import read_history
from headrace.core.arrow import from_arrow, to_arrow
from headrace.core.columns import BoolArray, Column, IntArray, nulls
from headrace.core.positions import Position
from headrace.core.schema import DType
from headrace.core.threads import cores, in_threads
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION
from headrace.features.generation import (
    at_generations,
    generation_topic,
    generations_of,
    in_generation,
    named_generations,
)
from headrace.features.plan import WHERE, DerivedPlan, GroupPlan, ProjectPlan, TablePlan, ViewPlan
from headrace.retrieval.asked import Asked, AskedKeys
from headrace.retrieval.binding import BoundSource, BoundView
from headrace.retrieval.events import Derivation, EventLoader, KeyedEvents
from headrace.retrieval.latest import read_latest
from headrace.retrieval.past import Known
from headrace.retrieval.rows import FeatureBlock, concat_features

_SHARED = 100_000
"""Events and requests together from which on a group's keys are shared out to the cores."""
_SAMPLED = 16


@dataclass(frozen=True, slots=True)
class ServedAt:
    """The positions at which rows were served: int64 [n, partitions] per stream, int64 [n] for table rows.

    `groups` holds those of groups that stood elsewhere than their streams, by version: int64 [n, partitions], -1
    throughout a row in which the group stood where its stream did. Derived streams are read as they were logged. With
    `again`, first offsets that are not known per partition of each stream, they are derived again from what lies below.
    """

    streams: Mapping[str, IntArray]
    tables: IntArray
    again: Mapping[str, Sequence[int]] | None = None
    groups: Mapping[str, IntArray] = field(default_factory=dict)

    def take(self, rows: IntArray) -> ServedAt:
        """The positions of these rows."""
        streams = {name: offsets[rows] for name, offsets in self.streams.items()}
        groups = {version: offsets[rows] for version, offsets in self.groups.items()}
        return ServedAt(streams, self.tables[rows], self.again, groups)

    def of(self, group: GroupPlan) -> IntArray | None:
        """Where a group stood, int64 [n, partitions]; None if no row knew anything of its stream."""
        own, given = self.groups.get(group.version), self.streams.get(group.stream)
        if own is None:
            return given
        followed = own[:, 0] < 0
        if not followed.any():
            return own
        width = own.shape[1] if given is None else max(own.shape[1], given.shape[1])
        found = np.zeros((len(own), width), np.int64)
        if given is not None:
            found[followed, : given.shape[1]] = given[followed]
        found[~followed, : own.shape[1]] = own[~followed]
        return found


def everything_below(positions: Mapping[str, Sequence[int]], n: int, *, logged: bool = False) -> ServedAt:
    """Read `n` rows as of these positions; table rows are limited by their own times alone.

    Derived streams are derived again, or with `logged` read as they were logged.
    """
    streams: dict[str, Any] = {
        name: np.broadcast_to(np.array(offsets, np.int64), (n, len(offsets))) for name, offsets in positions.items()
    }
    return ServedAt(streams, np.full(n, -1, np.int64), None if logged else positions)


def served_at(position: Position, n: int) -> ServedAt:
    """Read `n` rows as they were served at this position; a stream that it does not name was not known at all."""
    served = everything_below(position.streams, n, logged=True)
    groups = everything_below(position.groups, n).streams
    return ServedAt(served.streams, np.full(n, position.tables, np.int64), groups=groups)


class HistoryReader:
    """Computes a view's columns for any rows; one per thread."""

    def __init__(self, view: ViewPlan, project: ProjectPlan, past: Known) -> None:
        self.bound = BoundView(view, project)
        self._view = view
        self._project = project
        self._past = past
        self._time_field = view.request.time_field or ""

    def read(self, request: Mapping[str, Column], served: ServedAt | None = None) -> FeatureBlock:
        """Return the view's columns at each row's event time; rows keep their order.

        `request` holds every request field, n values each. `served` None reads corrected history. Rows that were served
        of another generation of a derived stream than that of the plan are read of theirs.
        """
        if served is not None and self._project.derived:
            if served.again is None:
                parts = _by_generation(self._project, served)
                if parts:
                    return self._read_parts(request, served, parts)
            else:
                streams = in_generation(self._project, served.streams)
                served = replace(served, streams=streams, again=in_generation(self._project, served.again))
        return self._read(request, served)

    def _read_parts(
        self, request: Mapping[str, Column], served: ServedAt, parts: Sequence[tuple[Mapping[str, int], IntArray]]
    ) -> FeatureBlock:
        """Read some rows of one generation, some of another."""
        blocks = []
        for generations, rows in parts:
            plan = at_generations(self._project, generations)
            reader = HistoryReader(self._view, plan, self._past.knowing(plan))
            some = {name: column.take(rows) for name, column in request.items()}
            blocks.append(reader._read(some, served.take(rows)))
        order = np.concatenate([rows for _, rows in parts])
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return concat_features(blocks).take(back)

    def _read(self, request: Mapping[str, Column], served: ServedAt | None) -> FeatureBlock:
        bound = self.bound
        # A copy: the kernel is compiled for arrays that can be written to, and Arrow's cannot.
        asked = Asked(request, np.array(request[self._time_field].values, np.int64))
        n = len(asked.t)
        tables = [(i, source, source.table) for i, source in enumerate(bound.sources) if source.table is not None]
        # Rows of tables are written column by column, windows row by row.
        words: IntArray = np.zeros((bound.slots, n), np.int64).T if tables else np.zeros((n, bound.slots), np.int64)
        valid: BoolArray = np.zeros((bound.slots, n), np.bool_).T if tables else np.zeros((n, bound.slots), np.bool_)
        events = EventLoader(self._past, self._project, bound.sources, asked.t, self._derivation(served))
        listed: dict[int, GroupObjects] = {}
        for index, source in enumerate(bound.sources):
            if source.group is not None:
                listed[index] = self._read_group(source, source.group, events, asked, served, words, valid)
        del events
        limits = np.full(n, -1, np.int64) if served is None else np.array(served.tables, np.int64)
        jobs = [partial(self._read_table, source, table, asked, limits, words, valid) for _, source, table in tables]
        found = dict(zip([index for index, _, _ in tables], in_threads(jobs), strict=True))

        def objects(binding: int, index: int, dtype: DType) -> Column:
            if binding in listed:
                return listed[binding].column(index, dtype)
            held = found[binding].get(bound.sources[binding].objects[index])
            return nulls(dtype, n) if held is None else held

        return bound.assemble(request, words, valid, objects)

    def _derivation(self, served: ServedAt | None) -> Derivation | None:
        """How derived streams are derived again; None if they are read as they were logged."""
        if served is not None and served.again is None:
            return None
        return partial(derive_again, self._past, self._project, below=None if served is None else served.again)

    def _read_group(
        self,
        source: BoundSource,
        group: GroupPlan,
        events: EventLoader,
        asked: Asked,
        served: ServedAt | None,
        words: IntArray,
        valid: BoolArray,
    ) -> GroupObjects:
        keys = asked.keys(source.binding.request_keys)
        by_column = not words.flags.c_contiguous
        out, slot = (words, source.slot) if not by_column else (np.zeros((len(words), source.width), np.int64), 0)
        out_valid = np.zeros(out.shape, np.bool_) if by_column else valid
        given = served.of(group) if served is not None else None
        asks = source.layout is not None and len(source.layout.nested) and self.bound.asks_for_objects(source)
        pieces: list[Piece] | None = [] if asks else None
        # Each range of keys has numbers of its own for texts.
        texts: list[Sequence[str]] = []
        part_of = np.zeros(len(words), np.int64)
        for low, high, keyed in events.keyed(source, group, keys, served is not None):
            part_of[keys.order[keys.edges[low] : keys.edges[high]]] = len(texts)
            texts.append(keyed.texts)
            # A stream that is not named was not known at all, nor was a partition past those that are.
            known = 1 if given is None else given.shape[1]
            partitions = known if served is None else max(keyed.highest_partition + 1, known)
            limits = np.zeros((len(words), partitions), np.int64)
            if given is not None:
                limits[:, : given.shape[1]] = given
            in_threads(
                [
                    partial(self._read_keys, first, end, keyed, keys, limits, out, out_valid, slot, pieces)
                    for first, end in _shares(keyed, keys, low, high)
                ]
            )
        if by_column:
            words[:, source.slot : source.slot + source.width] = out
            valid[:, source.slot : source.slot + source.width] = out_valid
        assert source.layout is not None
        return GroupObjects(
            source.layout, source.slot, lambda: pieces or [], lambda row: texts[part_of[row]], words, valid
        )

    def _read_keys(
        self,
        low: int,
        high: int,
        keyed: KeyedEvents,
        keys: AskedKeys,
        limits: IntArray,
        words: IntArray,
        valid: BoolArray,
        slot: int,
        pieces: list[Piece] | None,
    ) -> None:
        """Read a group for the requests of the keys `low` to `high - 1`; `pieces` gets their lists and maps."""
        layout = keyed.layout
        sorted_ = keyed.sorted(low, high)
        i8, total = sorted_.words, sorted_.n
        at_offsets = (1 + layout.width) * total
        s = self.bound.scratch()
        read_history(
            i8, i8.view(np.float64), 0, total, total, sorted_.edges, keys.order, keys.times, keys.edges[low : high + 1],
            layout.lanes, layout.windows,
            layout.features, layout.pointers, at_offsets if keyed.served else -1, at_offsets + total,
            at_offsets + 2 * total, limits, words, words.view(np.float64), valid, slot, s.lane, s.work, s.other,
            s.bounds, s.tally,
        )  # fmt: skip
        if pieces is not None:
            edges = keys.edges[low : high + 1]
            asked = keys.order[edges[0] : edges[-1]]
            times = np.repeat(sorted_.edges[:-1], np.diff(edges))
            counted = np.repeat(np.diff(sorted_.edges), np.diff(edges))
            rows = WindowRows(i8, times, counted, total + times, np.full(len(times), total))
            if keyed.served:
                rows.offsets = at_offsets + times
                rows.partitions, rows.limits = rows.offsets + total, limits[asked]
            pieces.append(read_piece(layout, np.array(asked), rows, np.array(keys.times[edges[0] : edges[-1]]), s))

    def _read_table(
        self,
        source: BoundSource,
        table: TablePlan,
        asked: Asked,
        limits: IntArray,
        words: IntArray,
        valid: BoolArray,
    ) -> Mapping[str, Column]:
        slots = slice(source.slot, source.slot + source.width)
        return read_latest(source, table, self._past, asked, limits, words.T[slots], valid.T[slots])


def _by_generation(project: ProjectPlan, served: ServedAt) -> list[tuple[dict[str, int], IntArray]]:
    """The rows of each combination of generations that they were served of; empty if all are those of the plan.

    A row is of the newest generation that its positions name; one that names none knew nothing of the stream.
    """
    current, named = generations_of(project), named_generations(project, served.streams.keys())
    chosen = {first: numbers for first, numbers in named.items() if numbers != [current[first]]}
    if not chosen:
        return []
    of_row = np.empty((len(served.tables), len(chosen)), np.int64)
    for index, (first, numbers) in enumerate(chosen.items()):
        of_row[:, index] = current[first]
        for number in numbers:
            offsets = served.streams[generation_topic(first, number)]
            of_row[(offsets > 0).any(axis=1), index] = number
    if (of_row == [current[first] for first in chosen]).all():
        return []
    found, place = np.unique(of_row, axis=0, return_inverse=True)
    return [
        (current | dict(zip(chosen, combination, strict=True)), np.flatnonzero(place.reshape(-1) == number))
        for number, combination in enumerate(found.tolist())
    ]


def derive_again(
    past: Known,
    project: ProjectPlan,
    derived: DerivedPlan,
    fields: Sequence[str],
    since_us: int | None = None,
    until_us: int | None = None,
    *,
    below: Mapping[str, Sequence[int]] | None = None,
) -> pa.Table:
    """Events of a derived stream in the form of `Past.events`, computed anew from its source and all that is known now.

    `below` limits what is known: first offsets not known, per partition of each stream.
    """
    view = derived.view
    time = view.request.time_field or ""
    read = {column.name for column in view.columns if column.origin == "request"}
    read |= {name for binding in view.bindings for name in binding.request_keys}
    wanted = sorted(read | {name for name in fields if name in view.request})
    source = project.derived.get(derived.source)
    if source is None:
        rows = past.events(derived.source, wanted, since_us, until_us)
    else:
        rows = derive_again(past, project, source, wanted, since_us, until_us, below=below)
    if below is not None:
        rows = rows.filter(below_positions(rows, below.get(derived.source, [0])))
    rows = rows.combine_chunks()
    request = {name: from_arrow(rows[name], view.request[name].dtype, name) for name in {*wanted, time}}
    served = None if below is None else everything_below(below, rows.num_rows)
    block = HistoryReader(view, project, past).read(request, served)
    found = {name: rows[name] for name in rows.column_names}
    for name in fields:
        if name in derived.computed:
            array = to_arrow(block.column(name))
            found[name] = array.cast(pa.int64()) if pa.types.is_temporal(array.type) else array
    table = pa.table({name: found[name] for name in dict.fromkeys([*fields, time, PARTITION, OFFSET, ARRIVAL])})
    if WHERE not in block.names:
        return table
    condition = block.column(WHERE)
    return table.filter(pa.array(condition.values & condition.mask()))


def below_positions(rows: pa.Table, positions: Sequence[int]) -> pa.Array:
    """A mask of the events below these offsets, one per partition."""
    if len(positions) == 1:
        return pc.less(rows[OFFSET], positions[0])
    limits = np.array(positions, np.int64)
    partitions = np.asarray(rows[PARTITION], dtype=np.int64)
    return pa.array(np.asarray(rows[OFFSET], dtype=np.int64) < limits[partitions])


def _shares(keyed: KeyedEvents, keys: AskedKeys, low: int, high: int) -> list[tuple[int, int]]:
    """Ranges of the keys `low` to `high - 1`, one per core, with about as many events and requests in each."""
    n = cores()
    if n < 2 or high - low < n or len(keyed.codes) + len(keys.order) < _SHARED:
        return [(low, high)]
    # A sample is enough: the ranges need not be of one size.
    sample = keyed.codes[::_SAMPLED]
    events = np.bincount(sample[sample >= low] - low, minlength=high - low)
    load = np.cumsum(events * _SAMPLED + np.diff(keys.edges[low : high + 1]))
    ends = low + 1 + np.searchsorted(load, np.arange(1, n) * (load[-1] / n))
    return list(pairwise([low, *sorted(set(ends.tolist()) - {high}), high]))
