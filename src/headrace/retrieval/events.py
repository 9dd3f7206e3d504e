"""The events that a set of rows can see, sorted for the kernels: by key and time, a range of keys at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.aggregations.layout import GroupLayout, physical_columns
from headrace.aggregations.runs import sort_runs
from headrace.aggregations.texts import numbered
from headrace.core.arrow import from_arrow
from headrace.core.columns import IntArray, elements_of
from headrace.core.schema import DType, Schema
from headrace.engines.stream.admitted import OFFSET, PARTITION
from headrace.features.evaluate import evaluate
from headrace.features.nodes import references
from headrace.features.plan import DerivedPlan, GroupPlan, ProjectPlan
from headrace.retrieval.asked import AskedKeys, ints
from headrace.retrieval.binding import BoundSource
from headrace.retrieval.past import Known
from headrace.retrieval.spill import CODE, parts_by_key

Derivation: TypeAlias = Callable[[DerivedPlan, list[str], int | None, int], pa.Table]
"""Events of a derived stream: its plan, the fields, and the first event time and the one after the last."""
_NEVER_PLAIN = np.int64(2**62)


@dataclass(slots=True)
class SortedEvents:
    """Events of a range of keys, by (key, time, order of the log).

    Words are times, columns and, for reads as served, offsets, partitions, running maxima of offsets. `edges` says
    where the rows of each key begin.
    """

    words: IntArray
    n: int
    edges: IntArray


@dataclass(slots=True)
class KeyedEvents:
    """Events of a group in the order in which they came, each with the number of its key; -1 is read by nobody.

    `texts` are those that words of texts stand for.
    """

    layout: GroupLayout
    codes: Any
    times: IntArray
    columns: list[IntArray]
    offsets: IntArray
    partitions: IntArray
    ids: pa.ChunkedArray | None
    served: bool
    texts: list[str]

    @property
    def highest_partition(self) -> int:
        """The greatest partition that an event comes from; 0 if there are none."""
        return int(self.partitions.max(initial=0))

    def sorted(self, low: int, high: int) -> SortedEvents:
        """The events of the keys `low` to `high - 1`."""
        layout, offsets, partitions = self.layout, self.offsets, self.partitions
        if layout.ordered and not _in_log_order(partitions, offsets):
            # Equal times keep the order in which they come.
            log = np.lexsort((offsets, partitions))
            order, times, edges = sort_runs(self.codes[log], self.times[log], low, high)
            order = log[order]
        else:
            order, times, edges = sort_runs(self.codes, self.times, low, high)
        if layout.ordered and self.ids is not None:
            order = _break_ties(order, self.codes, self.times, self.ids)
        n = len(order)
        words = np.empty(max(1, n * (1 + layout.width + (3 if self.served else 0))), np.int64)
        words[:n] = times
        for index, values in enumerate(self.columns, 1):
            np.take(values, order, out=words[index * n : (index + 1) * n], mode="clip")
        if self.served:
            several = self.highest_partition > 0
            highest = np.full(n, _NEVER_PLAIN) if several else _running_maximum(self.codes[order], offsets[order])
            words[(1 + layout.width) * n : (4 + layout.width) * n] = np.concatenate(
                [offsets[order], partitions[order], highest]
            )
        return SortedEvents(words, n, edges)


class EventLoader:
    """The events that a set of rows at times `t` can see, loaded once per stream.

    `derive` makes those of a derived stream anew; without it they are read as they were logged.
    """

    def __init__(
        self,
        past: Known,
        project: ProjectPlan,
        sources: Sequence[BoundSource],
        t: IntArray,
        derive: Derivation | None = None,
    ) -> None:
        self._past = past
        self._derive = derive
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
            schema = project.stream(group.stream).schema
            self._fields.setdefault(group.stream, set()).update(_fields_of(group, layout, schema))

    def keyed(
        self, source: BoundSource, group: GroupPlan, keys: AskedKeys, served: bool
    ) -> Iterator[tuple[int, int, KeyedEvents]]:
        """The events of a group that some window of it can hold, by ranges of keys: `(low, high, events)`.

        That is one range of all keys, unless the archive is too large for that.
        """
        layout = source.layout
        assert layout is not None
        schema = self._project.stream(group.stream).schema
        time, names = schema.time_field or "", [part.name for part in group.key]

        def codes_of(rows: pa.Table) -> Any:
            return keys.codes_of([rows[name] for name in names], rows.num_rows)

        since = None if layout.lifetime else self._low - layout.reach_us
        fields = sorted(_fields_of(group, layout, schema))
        most = self._past.most_rows(len(fields) + layout.width)
        # A stream that is derived anew is made as a whole.
        logged = self._derive is None or group.stream not in self._project.derived
        if logged and self._past.count_events(group.stream, since, self._until) > most:
            parts = parts_by_key(
                self._past.event_batches(group.stream, names, since, self._until),
                self._past.event_batches(group.stream, fields, since, self._until),
                codes_of, keys.size, most,
            )  # fmt: skip
            for low, high, rows in parts:
                yield low, high, self._keyed(layout, group, schema, rows, np.array(rows[CODE]), served)
            return
        rows = self._reached(self._table(group.stream), layout, time)
        yield 0, keys.size + 1, self._keyed(layout, group, schema, rows, codes_of(rows), served)

    def _keyed(
        self, layout: GroupLayout, group: GroupPlan, schema: Schema, rows: pa.Table, codes: Any, served: bool
    ) -> KeyedEvents:
        names = set().union(*[references(s.node) for s in group.inputs], references(group.where) if group.where else ())
        scope = {name: from_arrow(rows[name], schema[name].dtype, name) for name in names}
        n = rows.num_rows
        inputs = [evaluate(spec.node, scope, n) for spec in group.inputs]
        words_of_texts, texts = numbered([(c.values, c.valid) for c in inputs if c.dtype is DType.STRING])
        numbers = iter(words_of_texts)
        columns = physical_columns(
            layout,
            [
                (c.dtype, next(numbers), None)
                if c.dtype is DType.STRING
                else (c.dtype, elements_of(c, spec.size or 0), None)
                if c.dtype is DType.LIST
                else (c.dtype, c.values, c.valid)
                for c, spec in zip(inputs, group.inputs, strict=True)
            ],
        )
        if group.where is not None:
            condition = evaluate(group.where, scope, n)
            codes = np.where(condition.values & condition.mask(), codes, np.int32(-1))
        ids = rows[schema.id_field] if layout.ordered and schema.id_field is not None else None
        return KeyedEvents(
            layout,
            codes,
            ints(rows[schema.time_field]),
            columns,
            ints(rows[OFFSET]),
            ints(rows[PARTITION]),
            ids,
            served,
            texts,
        )

    def _table(self, stream: str) -> pa.Table:
        if stream not in self._loaded:
            span = (sorted(self._fields[stream]), self._since[stream], self._until)
            derived = self._project.derived.get(stream)
            if derived is None or self._derive is None:
                self._loaded[stream] = self._past.events(stream, *span)
            else:
                self._loaded[stream] = self._derive(derived, *span)
        return self._loaded[stream]

    def _reached(self, rows: pa.Table, layout: GroupLayout, time_field: str) -> pa.Table:
        """The events that some window of the group can hold; another group of the stream may need older ones."""
        if layout.lifetime or not rows.num_rows:
            return rows
        near = pc.greater_equal(rows[time_field], self._low - layout.reach_us)
        return rows if pc.all(near).as_py() else rows.filter(near)


def _fields_of(group: GroupPlan, layout: GroupLayout, schema: Schema) -> set[str]:
    """The fields of a stream that a group is computed from."""
    fields = {part.name for part in group.key}
    for node in [spec.node for spec in group.inputs] + ([group.where] if group.where is not None else []):
        fields |= references(node)
    if layout.ordered and schema.id_field is not None:
        fields.add(schema.id_field)
    return fields


def _in_log_order(partitions: IntArray, offsets: IntArray) -> bool:
    """True if rows already lie in order of (partition, offset)."""
    ahead = (partitions[1:] > partitions[:-1]) | ((partitions[1:] == partitions[:-1]) & (offsets[1:] >= offsets[:-1]))
    return bool(ahead.all())


def _running_maximum(codes: Any, offsets: IntArray) -> IntArray:
    """For each row the greatest offset so far among the rows of its entity; `codes` are sorted."""
    if not len(codes):
        return offsets
    entity = np.cumsum(np.concatenate([[0], codes[1:] != codes[:-1]]))
    lift = entity * (offsets.max() + 1)
    highest: IntArray = np.maximum.accumulate(offsets + lift) - lift
    return highest


def _break_ties(order: IntArray, codes: Any, times: IntArray, ids: pa.ChunkedArray) -> IntArray:
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
