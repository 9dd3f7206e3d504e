"""Point-in-time reads of any number of rows over history, corrected or as served.

For each binding of the view: bring request keys and event keys to common numbers, sort the events by (key, event time,
id, partition, offset), and let the same compiled reading that serves online walk each row's window. As served, a row
sees only what lay below the positions that it was served at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.aggregations.layout import GroupLayout, physical_columns
from headrace.aggregations.reads import read_history, read_table_history
from headrace.aggregations.runs import sort_runs
from headrace.aggregations.table_records import words_of
from headrace.aggregations.texts import numbered
from headrace.core.arrow import from_arrow, to_arrow
from headrace.core.columns import BoolArray, Column, IntArray
from headrace.core.schema import DType
from headrace.engines.stream.admitted import OFFSET, PARTITION
from headrace.features.evaluate import evaluate
from headrace.features.nodes import references
from headrace.features.plan import GroupPlan, ProjectPlan, TablePlan, ViewPlan
from headrace.retrieval.binding import BoundSource, BoundView
from headrace.retrieval.group_objects import GroupObjects, WindowRows
from headrace.retrieval.past import AVAILABLE, DELETED, EVENT_TIME, ORDER, Known
from headrace.retrieval.rows import FeatureBlock

_NEVER_PLAIN = np.int64(2**62)


@dataclass(frozen=True, slots=True)
class ServedAt:
    """The positions at which rows were served: int64 [n, partitions] per raw stream, int64 [n] for table rows."""

    streams: Mapping[str, IntArray]
    tables: IntArray


class HistoryReader:
    """Computes a view's columns for any rows; one per thread."""

    def __init__(self, view: ViewPlan, project: ProjectPlan, past: Known) -> None:
        self.bound = BoundView(view, project)
        self._project = project
        self._past = past
        self._time_field = view.request.time_field or ""

    def read(self, request: Mapping[str, Column], served: ServedAt | None = None) -> FeatureBlock:
        """Return the view's columns at each row's event time; rows keep their order.

        `request` holds every request field, n values each. `served` None reads corrected history.
        """
        bound = self.bound
        # A copy: the kernel is compiled for arrays that can be written to, and Arrow's cannot.
        t = np.array(request[self._time_field].values, np.int64)
        n = len(t)
        words = np.zeros((n, bound.slots), np.int64)
        valid = np.zeros((n, bound.slots), np.bool_)
        taken: dict[int, tuple[pa.Table, IntArray]] = {}
        listed: dict[int, GroupObjects] = {}
        events = _Events(self._past, self._project, bound.sources, t)
        for index, source in enumerate(bound.sources):
            if source.group is not None:
                listed[index] = self._read_group(source, source.group, events, request, t, served, words, valid)
            elif source.table is not None:
                taken[index] = self._read_table(source, source.table, request, t, served, words, valid)

        def objects(binding: int, index: int, dtype: DType) -> Column:
            if binding in listed:
                return listed[binding].column(index, dtype)
            rows, chosen = taken[binding]
            name = bound.sources[binding].objects[index]
            indices = pa.array(np.maximum(chosen, 0), mask=chosen < 0)
            if not rows.num_rows:
                return from_arrow(pa.nulls(n, pa.null()).cast(rows.schema.field(name).type), dtype, name)
            return from_arrow(rows[name].combine_chunks().take(indices), dtype, name)

        return bound.assemble(request, words, valid, objects)

    def _read_group(
        self,
        source: BoundSource,
        group: GroupPlan,
        events: _Events,
        request: Mapping[str, Column],
        t: IntArray,
        served: ServedAt | None,
        words: IntArray,
        valid: BoolArray,
    ) -> GroupObjects:
        layout = source.layout
        assert layout is not None
        sorted_ = events.sorted_by(source, group, request, t, served is not None)
        # A stream that is not named was not known at all, nor was a partition past those that are.
        given = served.streams.get(group.stream) if served is not None else None
        limits = np.zeros((len(t), max(sorted_.partitions, 1 if given is None else given.shape[1])), np.int64)
        if given is not None:
            limits[:, : given.shape[1]] = given
        i8, total = sorted_.words, sorted_.n
        at_offsets = (1 + layout.width) * total
        s = self.bound.scratch()
        read_history(
            i8, i8.view(np.float64), 0, total, total, sorted_.edges, sorted_.asked, sorted_.asked_edges,
            t, layout.lanes, layout.windows,
            layout.features, layout.pointers, at_offsets if served is not None else -1, at_offsets + total,
            at_offsets + 2 * total, limits, words, words.view(np.float64), valid, source.slot, s.lane, s.work, s.other,
            s.bounds, s.tally,
        )  # fmt: skip

        def rows() -> WindowRows:
            found = sorted_.of_requests(layout)
            if served is not None:
                found.offsets = at_offsets + found.times
                found.partitions, found.limits = found.offsets + total, limits
            return found

        return GroupObjects(source, t, rows, lambda row: sorted_.texts, words, valid, s)

    def _read_table(
        self,
        source: BoundSource,
        table: TablePlan,
        request: Mapping[str, Column],
        t: IntArray,
        served: ServedAt | None,
        words: IntArray,
        valid: BoolArray,
    ) -> tuple[pa.Table, IntArray]:
        rows = self._past.rows(table)
        chosen = np.full(len(t), -1, np.int64)
        if rows is None:
            empty = {f.name: to_arrow(Column(f.dtype, np.zeros(0, np.object_))) for f in table.features}
            return pa.table(empty), chosen
        codes, asked = _common_codes(
            [rows[part.name] for part in table.key],
            [request[name] for name in source.binding.request_keys],
            [part.dtype for part in table.key],
        )
        times, orders = _ints(rows[EVENT_TIME]), _ints(rows[ORDER])
        order = np.lexsort((orders, times, codes))
        columns = [from_arrow(rows[f.name], f.dtype, f.name) for f in table.features]
        cells, bits, _ = words_of(columns, rows.num_rows)
        bits = np.where(np.asarray(rows[DELETED]), np.int64(-(2**63)), bits)
        starts, counts = _ranges(codes[order], asked)
        total = len(order)
        i8 = np.concatenate(
            [times[order], _ints(rows[AVAILABLE])[order], orders[order], bits[order], cells[:, order].reshape(-1)]
        )
        limits = np.full(len(t), -1, np.int64) if served is None else served.tables
        read_table_history(
            i8, 0, total, 2 * total, 3 * total, 4 * total, total, starts, counts, source.width, t,
            -1 if table.ttl_us is None else table.ttl_us, limits, words, valid, chosen, source.slot,
        )  # fmt: skip
        return rows.take(pa.array(order)), chosen


@dataclass(slots=True)
class _Sorted:
    """Events of a group and requests, each by (key, time).

    Words are times, columns and, for reads as served, offsets, partitions, running maxima of offsets. `edges` and
    `asked_edges` say where the rows and requests of each key begin; the last key is that of requests that match none.
    `texts` are those that words of texts stand for.
    """

    words: IntArray
    n: int
    edges: IntArray
    asked: IntArray
    asked_edges: IntArray
    partitions: int
    texts: list[str]

    def of_requests(self, layout: GroupLayout) -> WindowRows:
        """The events of each request's key."""
        times: IntArray = np.empty(len(self.asked), np.int64)
        counted: IntArray = np.empty(len(self.asked), np.int64)
        times[self.asked] = np.repeat(self.edges[:-1], np.diff(self.asked_edges))
        counted[self.asked] = np.repeat(np.diff(self.edges), np.diff(self.asked_edges))
        return WindowRows(self.words, times, counted, self.n + times, np.full(len(times), self.n))


class _Events:
    """The events that a set of rows can see, loaded once per stream."""

    def __init__(self, past: Known, project: ProjectPlan, sources: Sequence[BoundSource], t: IntArray) -> None:
        self._past = past
        self._project = project
        self._since: dict[str, int | None] = {}
        self._fields: dict[str, set[str]] = {}
        self._until = int(t.max()) + 1 if len(t) else 0
        self._loaded: dict[str, pa.Table] = {}
        low = self._low = int(t.min()) if len(t) else 0
        for source in sources:
            group, layout = source.group, source.layout
            if group is None or layout is None:
                continue
            since = None if layout.lifetime else low - layout.reach_us
            known = self._since.get(group.stream, since)
            self._since[group.stream] = None if since is None or known is None else min(since, known)
            fields = self._fields.setdefault(group.stream, set())
            fields |= {part.name for part in group.key}
            for node in [spec.node for spec in group.inputs] + ([group.where] if group.where is not None else []):
                fields |= references(node)
            schema = project.streams[group.stream].schema
            if layout.ordered and schema.id_field is not None:
                fields.add(schema.id_field)

    def table(self, stream: str) -> pa.Table:
        if stream not in self._loaded:
            rows = self._past.events(stream, sorted(self._fields[stream]), self._since[stream], self._until)
            self._loaded[stream] = rows.combine_chunks()
        return self._loaded[stream]

    def _reached(self, rows: pa.Table, layout: GroupLayout, time_field: str) -> pa.Table:
        """The events that some window of the group can hold; another group of the stream may need older ones."""
        if layout.lifetime or not rows.num_rows:
            return rows
        near = pc.greater_equal(rows[time_field], self._low - layout.reach_us)
        return rows if pc.all(near).as_py() else rows.filter(near).combine_chunks()

    def sorted_by(
        self, source: BoundSource, group: GroupPlan, request: Mapping[str, Column], t: IntArray, served: bool
    ) -> _Sorted:
        layout = source.layout
        assert layout is not None
        schema = self._project.streams[group.stream].schema
        rows = self._reached(self.table(group.stream), layout, schema.time_field or "")
        names = set().union(*[references(s.node) for s in group.inputs], references(group.where) if group.where else ())
        scope = {name: from_arrow(rows[name], schema[name].dtype, name) for name in names}
        n = rows.num_rows
        inputs = [evaluate(spec.node, scope, n) for spec in group.inputs]
        words_of_texts, texts = numbered([(c.values, c.valid) for c in inputs if c.dtype is DType.STRING])
        numbers = iter(words_of_texts)
        columns = physical_columns(
            layout,
            [
                (c.dtype, next(numbers), None) if c.dtype is DType.STRING else (c.dtype, c.values, c.valid)
                for c in inputs
            ],
        )
        codes, asked = _common_codes(
            [rows[part.name] for part in group.key],
            [request[name] for name in source.binding.request_keys],
            [part.dtype for part in group.key],
            n=n,
            asked_n=len(next(iter(request.values()))),
        )
        if group.where is not None:
            condition = evaluate(group.where, scope, n)
            codes = np.where(condition.values & condition.mask(), codes, -1)
        times, offsets, partitions = _ints(rows[schema.time_field]), _ints(rows[OFFSET]), _ints(rows[PARTITION])
        codes, asked, size = _dense(codes, asked)
        ordered = layout.ordered and not _in_log_order(partitions, offsets)
        if ordered:
            # Equal times keep the order in which they come.
            log = np.lexsort((offsets, partitions))
            order, sorted_times, edges = sort_runs(codes[log], times[log], size)
            order = log[order]
        else:
            order, sorted_times, edges = sort_runs(codes, times, size)
        if layout.ordered and schema.id_field is not None:
            order = _break_ties(order, codes, times, rows[schema.id_field])
        n = len(order)
        words = np.zeros(max(1, n * (1 + layout.width + (3 if served else 0))), np.int64)
        words[:n] = sorted_times
        for index, values in enumerate(columns, 1):
            np.take(values, order, out=words[index * n : (index + 1) * n], mode="clip")
        if served:
            several = bool(len(partitions)) and int(partitions.max()) > 0
            highest = np.full(n, _NEVER_PLAIN) if several else _running_maximum(codes[order], offsets[order])
            words[(1 + layout.width) * n : (4 + layout.width) * n] = np.concatenate(
                [offsets[order], partitions[order], highest]
            )
        asked_order, _, asked_edges = sort_runs(asked, t, size)
        parts = int(partitions.max()) + 1 if len(partitions) else 1
        return _Sorted(words, n, edges, asked_order, asked_edges, parts, texts)


def _in_log_order(partitions: IntArray, offsets: IntArray) -> bool:
    """True if rows already lie in order of (partition, offset)."""
    ahead = (partitions[1:] > partitions[:-1]) | ((partitions[1:] == partitions[:-1]) & (offsets[1:] >= offsets[:-1]))
    return bool(ahead.all())


def _dense(codes: IntArray, asked: IntArray) -> tuple[IntArray, IntArray, int]:
    """Codes without large gaps, and their number; what is asked without a match gets the last, which no row has."""
    size = int(codes.max(initial=-1)) + 1
    if size > 4 * len(codes) + 1_000:
        known, dense = np.unique(codes, return_inverse=True)
        codes = np.where(codes < 0, -1, dense)
        places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        asked = np.where((asked >= 0) & (known[places] == asked), places, -1)
        size = len(known)
    return codes, np.where((asked < 0) | (asked >= size), size, asked), size + 1


def _ints(array: pa.ChunkedArray) -> IntArray:
    out: IntArray = np.asarray(array, dtype=np.int64)
    return out


def _common_codes(
    keys: Sequence[pa.ChunkedArray],
    asked: Sequence[Column],
    dtypes: Sequence[DType],
    *,
    n: int | None = None,
    asked_n: int | None = None,
) -> tuple[IntArray, IntArray]:
    """Numbers that are equal where keys are, for rows of history and for what is asked; -1 where a part is null."""
    if not keys:
        return np.zeros(n or 0, np.int64), np.zeros(asked_n or 0, np.int64)
    codes: Any = 0
    null: Any = False
    rows, size = len(keys[0]), 1
    for array, column, dtype in zip(keys, asked, dtypes, strict=True):
        wanted = to_arrow(column)
        if dtype is DType.TIMESTAMP:
            wanted = wanted.cast(pa.int64())
        indices, found, distinct = _encode(array, wanted)
        if len(keys) == 1:
            return indices, found
        part = np.concatenate([indices, found])
        null = null | (part < 0)
        if size * distinct >= 2**62:
            codes = np.unique(codes, return_inverse=True)[1]
            size = len(codes)
        codes = codes * np.int64(distinct) + part
        size *= distinct
    codes = np.where(null, -1, codes)
    return codes[:rows], codes[rows:]


def _encode(array: pa.ChunkedArray, wanted: pa.Array) -> tuple[IntArray, IntArray, int]:
    """Numbers of the values of `array` and of the same values in `wanted` (-1: null, or not there), and their count."""
    encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
    encoded = encoded.unify_dictionaries() if isinstance(encoded, pa.ChunkedArray) else pa.chunked_array([encoded])
    known = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], wanted.type)
    found = pc.index_in(wanted.cast(known.type), value_set=known, skip_nulls=True)
    pieces = [np.asarray(chunk.indices.fill_null(-1), dtype=np.int64) for chunk in encoded.chunks]
    indices = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
    return indices, np.asarray(found.fill_null(-1), dtype=np.int64), len(known) + 1


def _running_maximum(codes: IntArray, offsets: IntArray) -> IntArray:
    """For each row the greatest offset so far among the rows of its entity; `codes` are sorted."""
    if not len(codes):
        return offsets
    entity = np.cumsum(np.concatenate([[0], codes[1:] != codes[:-1]]))
    lift = entity * (offsets.max() + 1)
    highest: IntArray = np.maximum.accumulate(offsets + lift) - lift
    return highest


def _ranges(codes: IntArray, asked: IntArray) -> tuple[IntArray, IntArray]:
    """Where the rows of each asked key start in the sorted `codes`, and how many there are (0: none, or a null key)."""
    starts = np.searchsorted(codes, asked, "left")
    counts = np.where(asked >= 0, np.searchsorted(codes, asked, "right") - starts, 0)
    return starts.astype(np.int64), counts.astype(np.int64)


def _break_ties(order: IntArray, codes: IntArray, times: IntArray, ids: pa.ChunkedArray) -> IntArray:
    """Put rows of equal key and event time into order of their ids; `order` has them by partition and offset."""
    same = (codes[order][1:] == codes[order][:-1]) & (times[order][1:] == times[order][:-1])
    if not same.any():
        return order
    order = order.copy()
    padded = np.concatenate([[False], same, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    for start, stop in zip(edges[::2].tolist(), (edges[1::2] + 1).tolist(), strict=True):
        run = order[start:stop]
        names = [ids[int(i)].as_py() for i in run]
        order[start:stop] = run[sorted(range(len(run)), key=names.__getitem__)]
    return order
