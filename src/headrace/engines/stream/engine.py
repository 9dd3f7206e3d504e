"""Stream compute: from raw events to position-fenced deltas per entity, column by column.

For each stream: judge the events, evaluate every input expression of its groups once, then per group drop what its
`where` refuses, give each distinct key a number, sort events by (key, event time, …) and cut the columns into deltas.
The engine does no I/O; `worker.py` feeds it from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from headrace.aggregations.layout import GroupLayout, layout_of, physical_column
from headrace.aggregations.texts import compacted, numbered
from headrace.core.columns import BoolArray, Column, FloatArray, IntArray, elements_of
from headrace.core.events import NO_RECORD, EventBlock, concat_columns
from headrace.core.keys import encode_numbers, entity_encoder
from headrace.core.schema import DType
from headrace.core.unreadable import WITH_BATCH
from headrace.core.values import payload_of
from headrace.engines.stream.commits import FORMAT, Commit, DeadLetter, GroupDelta, StepOutput, StreamSpan
from headrace.engines.stream.verdicts import COUNTED, Judged, PartitionState
from headrace.features.evaluate import evaluate
from headrace.features.nodes import Node, references
from headrace.features.plan import GroupPlan, ProjectPlan, StreamPlan


@dataclass(slots=True)
class RawChunk:
    """Events of one partition as read from the log: a block, the offset of its first row, arrivals int64 [n].

    The block may have only the fields that `StreamEngine.fields` names; `whole` then gives it with all of them.
    `codes` are the verdicts of derived records, uint8 [n]; None of raw events, which are judged here.
    """

    partition: int
    base: int
    block: EventBlock
    arrivals: IntArray
    whole: Callable[[], EventBlock] | None = None
    codes: np.ndarray[Any, np.dtype[np.uint8]] | None = None


@dataclass(slots=True)
class Admitted:
    """The counted events of one stream in one step, partitions one after the other, each in order of offsets.

    `columns` holds the fields that `StreamEngine.fields` names; `clocks` is the clock of its partition at each event:
    N(p) would also tell how reading went back and forth between partitions, and records must not.
    """

    columns: dict[str, Column]
    times: IntArray
    offsets: IntArray
    partitions: IntArray
    clocks: IntArray
    ids: list[Any] | None


class _GroupPipeline:
    """A group, and where in its stream's pipeline its condition, its key and its columns stand."""

    def __init__(self, plan: GroupPlan, where: int | None, key: int, words: list[int], with_ids: bool) -> None:
        self.plan = plan
        self.layout: GroupLayout = layout_of(plan)
        self.encode: Callable[[tuple[Any, ...]], bytes] = entity_encoder([part.dtype for part in plan.key])
        self.where, self.key, self.words = where, key, words
        self.with_ids = self.layout.ordered and with_ids
        self._known: dict[Any, bytes] = {}

    def entity(self, key: Any) -> bytes:
        """Entity bytes of a key as `_Shared.keys` gives it; remembered, since few keys make most events."""
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= 200_000:
                self._known.clear()
            found = self._known[key] = self.encode((key,) if len(self.plan.key) == 1 else key)
        return found


class _StreamPipeline:
    """The groups of one stream, and what they share: expressions, columns of words and keys, each listed once."""

    def __init__(self, stream: StreamPlan, groups: Sequence[GroupPlan]) -> None:
        schema = stream.schema
        nodes: dict[Node, int] = {}
        words: dict[tuple[int, DType, int], int] = {}
        self.sizes: dict[int, int] = {}
        keys: dict[tuple[str, ...], int] = {}
        self.groups: list[_GroupPipeline] = []
        for group in groups:
            where = None if group.where is None else nodes.setdefault(group.where, len(nodes))
            inputs = [(nodes.setdefault(spec.node, len(nodes)), spec.dtype) for spec in group.inputs]
            slots = [(*inputs[index], part) for index, part in layout_of(group).columns]
            self.sizes |= {
                node: spec.size for (node, _), spec in zip(inputs, group.inputs, strict=True) if spec.size is not None
            }
            self.groups.append(
                _GroupPipeline(
                    group,
                    where,
                    keys.setdefault(tuple(part.name for part in group.key), len(keys)),
                    [words.setdefault(slot, len(words)) for slot in slots],
                    schema.id_field is not None,
                )
            )
        self.nodes, self.words, self.keys = list(nodes), list(words), list(keys)
        read = {name for node in nodes for name in references(node)}.union(*keys)
        self.fields = frozenset(read | {schema.time_field or "", schema.id_field or ""})


class _Shared:
    """What the groups of a stream read of one step's events; each thing is made once, when it is first asked for."""

    def __init__(self, pipeline: _StreamPipeline, events: Admitted) -> None:
        self.events = events
        self.n = len(events.times)
        self._pipeline = pipeline
        self._values: dict[int, Column] = {}
        self._elements: dict[int, FloatArray] = {}
        self._words: dict[int, IntArray] = {}
        self._bytes: dict[int, bytes] = {}
        self._keys: dict[int, list[Any]] = {}
        self._text_words: dict[int, IntArray] | None = None
        self.texts: list[str] = []

    def value(self, index: int) -> Column:
        """The value of the expression `index`."""
        found = self._values.get(index)
        if found is None:
            found = self._values[index] = evaluate(self._pipeline.nodes[index], self.events.columns, self.n)
        return found

    def elements(self, index: int) -> FloatArray:
        """The elements of the lists that the expression `index` gives, float64 [size, n]."""
        found = self._elements.get(index)
        if found is None:
            found = self._elements[index] = elements_of(self.value(index), self._pipeline.sizes[index])
        return found

    def word(self, index: int) -> IntArray:
        """Column `index` of words, int64 [n]; -1 stands for the event times."""
        found = self._words.get(index)
        if found is None:
            if index < 0:
                return self.events.times
            node, dtype, part = self._pipeline.words[index]
            if dtype is DType.STRING:
                return self.text_words()[index]
            if dtype is DType.LIST:
                found = physical_column(dtype, self.elements(node), None, part)
            else:
                column = self.value(node)
                found = physical_column(dtype, column.values, column.valid, part)
            self._words[index] = found
        return found

    def text_words(self) -> dict[int, IntArray]:
        """The columns of words that hold texts, as numbers in `texts`."""
        if self._text_words is None:
            chosen = [i for i, (_, dtype, _) in enumerate(self._pipeline.words) if dtype is DType.STRING]
            columns = [self.value(self._pipeline.words[i][0]) for i in chosen]
            words, self.texts = numbered([(column.values, column.valid) for column in columns])
            self._text_words = dict(zip(chosen, words, strict=True))
        return self._text_words

    def word_bytes(self, index: int, order: IntArray | None) -> bytes:
        """Column `index` of words as bytes, in `order`."""
        if order is not None:
            return self.word(index)[order].tobytes()
        found = self._bytes.get(index)
        if found is None:
            found = self._bytes[index] = self.word(index).tobytes()
        return found

    def keys(self, index: int) -> list[Any]:
        """The key `index` of every event: the value of its one part, or a tuple of values."""
        found = self._keys.get(index)
        if found is None:
            names = self._pipeline.keys[index]
            parts = [self.events.columns[name].values.tolist() for name in names]
            if len(parts) == 1:
                found = self._keys[index] = parts[0]
            else:
                found = self._keys[index] = list(zip(*parts, strict=True)) if names else [()] * self.n
        return found

    def number_keys(self, index: int) -> IntArray | None:
        """The key `index` of every event if its one part is an int or a time; where null, some number."""
        names = self._pipeline.keys[index]
        column = self.events.columns[names[0]] if len(names) == 1 else None
        return column.values if column is not None and column.dtype in (DType.INT, DType.TIMESTAMP) else None

    def keep(self, group: _GroupPipeline) -> tuple[BoolArray | None, int]:
        """Which events belong to a group (None: all), and how many do not for want of a key."""
        keep: BoolArray | None = None
        null_keys = 0
        if group.where is not None:
            condition = self.value(group.where)
            keep = condition.values if condition.valid is None else condition.values & condition.valid
        for name in self._pipeline.keys[group.key]:
            valid = self.events.columns[name].valid
            if valid is not None:
                here = valid if keep is None else valid[keep]
                null_keys += len(here) - int(np.count_nonzero(here))
                keep = valid if keep is None else keep & valid
        return keep, null_keys


class StreamEngine:
    """Computes the windowed groups of a project that are not scheduled.

    It holds the verdict state of every partition that it was fed.
    """

    def __init__(self, plan: ProjectPlan) -> None:
        self.plan = plan
        self.states: dict[str, list[PartitionState]] = {}
        self._pipelines: dict[str, _StreamPipeline] = {
            name: _StreamPipeline(stream, [group for group in plan.streamed_groups if group.stream == name])
            for name, stream in plan.topics().items()
        }

    def fields(self, stream: str) -> frozenset[str]:
        """The fields of a stream's events that the engine reads."""
        return self._pipelines[stream].fields

    def state(self, stream: str, partitions: int) -> list[PartitionState]:
        """The verdict state of a stream's partitions, made if there is none."""
        states = self.states.setdefault(stream, [])
        while len(states) < partitions:
            states.append(PartitionState())
        return states

    def process(self, chunks: Mapping[str, Sequence[RawChunk]], positions: Mapping[str, list[int]]) -> StepOutput:
        """Process what was read; `positions` are the offsets per partition of every stream at which reading began."""
        spans: dict[str, StreamSpan] = {}
        groups: dict[str, GroupDelta] = {}
        after = dict(positions)
        dead: list[DeadLetter] = []
        counted = null_keys = 0
        for name, pieces in chunks.items():
            begin = positions[name]
            states = self.state(name, len(begin))
            end = list(begin)
            exceptions: list[tuple[int, int, int]] = []
            admitted: list[Admitted] = []
            for chunk in pieces:
                admitted.append(self._judge(self.plan.stream(name), chunk, states, exceptions, dead))
                end[chunk.partition] = chunk.base + chunk.block.n
            after[name] = end
            spans[name] = StreamSpan(list(begin), end, [state.clock_us for state in states], exceptions)
            if not admitted:
                continue
            events = _joined(admitted)
            if len(events.times):
                counted += len(events.times) if name in self.plan.streams else 0
                null_keys += self._group_deltas(name, events, len(begin), groups)
        return StepOutput(Commit(FORMAT, after, spans, groups, null_keys), dead, counted)

    def verdicts(self, stream: StreamPlan, state: PartitionState, chunk: RawChunk) -> Judged:
        """Move a partition's state over a chunk: raw events are judged, derived ones bring their verdicts along."""
        if chunk.codes is None:
            return state.judge(stream, chunk.block, chunk.arrivals)
        return state.follow(chunk.block.columns[stream.schema.time_field or ""].values, chunk.arrivals, chunk.codes)

    def deltas(self, stream: str, events: Admitted, partitions: int) -> dict[str, GroupDelta]:
        """The deltas, by group version, of events of a stream that were judged before; there is at least one."""
        groups: dict[str, GroupDelta] = {}
        self._group_deltas(stream, events, partitions, groups)
        return groups

    def _judge(
        self,
        stream: StreamPlan,
        chunk: RawChunk,
        states: list[PartitionState],
        exceptions: list[tuple[int, int, int]],
        dead: list[DeadLetter],
    ) -> Admitted:
        block, partition = chunk.block, chunk.partition
        judged = self.verdicts(stream, states[partition], chunk)
        clocks = judged.clocks
        columns = block.columns
        offsets = np.arange(chunk.base, chunk.base + block.n)
        if np.count_nonzero(judged.codes):
            whole = columns
            if judged.dead and chunk.whole is not None:
                whole = chunk.whole().columns
            # Derived records hold their verdicts themselves.
            for row in np.flatnonzero(judged.codes).tolist() if chunk.codes is None else ():
                exceptions.append((partition, chunk.base + row, int(judged.codes[row])))
            payloads = {bad.row: bad.payload for bad in block.malformed}
            for row, field, reason in judged.dead:
                if reason in (NO_RECORD, WITH_BATCH):
                    continue
                payload = payloads.get(row)
                if payload is None:
                    payload = payload_of({k: c.take(np.array([row])).to_pylist()[0] for k, c in whole.items()})
                arrival = int(chunk.arrivals[row])
                dead.append(DeadLetter(stream.name, partition, chunk.base + row, field, reason, arrival, payload))
            kept = np.flatnonzero(judged.codes == COUNTED)
            columns = {key: column.take(kept) for key, column in columns.items()}
            offsets, clocks = offsets[kept], clocks[kept]
        times = columns[stream.schema.time_field or ""].values
        ids = None if stream.schema.id_field is None else columns[stream.schema.id_field].values.tolist()
        partitions = np.zeros(len(times), np.int64)
        if partition:
            partitions += partition
        return Admitted(columns, times, offsets, partitions, clocks, ids)

    def _group_deltas(self, stream: str, events: Admitted, partitions: int, groups: dict[str, GroupDelta]) -> int:
        pipeline = self._pipelines[stream]
        shared = _Shared(pipeline, events)
        null_keys = 0
        for group in pipeline.groups:
            keep, without = shared.keep(group)
            null_keys += without
            rows: IntArray | None = None
            if keep is not None and np.count_nonzero(keep) < shared.n:
                rows = np.flatnonzero(keep)
                if not len(rows):
                    continue
            groups[group.plan.version] = _delta(group, shared, rows, partitions)
        return null_keys


def _joined(parts: list[Admitted]) -> Admitted:
    if len(parts) == 1:
        return parts[0]
    return Admitted(
        {name: concat_columns([part.columns[name] for part in parts]) for name in parts[0].columns},
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.partitions for part in parts]),
        np.concatenate([part.clocks for part in parts]),
        None if parts[0].ids is None else [key for part in parts for key in part.ids or ()],
    )


def _delta(group: _GroupPipeline, shared: _Shared, rows: IntArray | None, partitions: int) -> GroupDelta:
    """Cut the events (those in `rows`, or all) into one delta per entity."""
    events, ordered = shared.events, group.layout.ordered
    ids = events.ids if group.with_ids else None
    entities, counts, order = _by_entity(group, shared, rows, ids, partitions)
    starts = np.cumsum(counts) - counts
    # The greatest clock of each entity, and per partition one past its greatest offset (0 where it has no event).
    clocks = np.maximum.reduceat(_in_order(events.clocks, order), starts)
    after = _in_order(events.offsets, order) + 1
    positions = np.empty((len(entities), partitions), np.int64)
    where = _in_order(events.partitions, order) if partitions > 1 else None
    for partition in range(partitions):
        here = after if where is None else np.where(where == partition, after, 0)
        positions[:, partition] = np.maximum.reduceat(here, starts)
    columns = [shared.word_bytes(index, order) for index in group.words]
    texts: list[str] = []
    if group.layout.texts:
        # Only the texts of this group's own events.
        chosen = group.layout.texts
        words = np.frombuffer(b"".join([columns[column] for column in chosen]), np.int64)
        words, texts = compacted(words, shared.texts)
        for column, part in zip(chosen, np.split(words, len(chosen)), strict=True):
            columns[column] = part.tobytes()
    return GroupDelta(
        entities,
        counts.tolist(),
        clocks.tobytes(),
        positions.tobytes(),
        shared.word_bytes(-1, order),
        columns,
        _in_order(events.offsets, order).tobytes() if ordered else b"",
        _in_order(events.partitions, order).tobytes() if ordered else b"",
        ids if ids is None or order is None else [ids[row] for row in order.tolist()],
        texts,
    )


def _by_entity(
    group: _GroupPipeline, shared: _Shared, rows: IntArray | None, ids: list[Any] | None, partitions: int
) -> tuple[list[bytes], IntArray, IntArray | None]:
    """The entities of the events, how many events each has, and the order in which these stand together (None: as
    they are)."""
    numbers = shared.number_keys(group.key)
    if numbers is not None:
        order = _order(shared, _in_order(numbers, rows), rows, ids, partitions)
        found = numbers[order]
        starts = np.flatnonzero(np.concatenate([[True], found[1:] != found[:-1]]))
        counts = np.diff(starts, append=len(found))
        return encode_numbers(found[starts], group.plan.key[0].dtype), counts, order
    keys = shared.keys(group.key)
    if rows is not None:
        keys = [keys[row] for row in rows.tolist()]
    distinct = dict.fromkeys(keys)
    entities = [group.entity(key) for key in distinct]
    if len(distinct) == len(keys):
        return entities, np.ones(len(keys), np.int64), rows
    places = dict(zip(distinct, count()))
    codes = np.fromiter(map(places.__getitem__, keys), np.int64, len(keys))
    return entities, np.bincount(codes), _order(shared, codes, rows, ids, partitions)


def _in_order(values: IntArray, order: IntArray | None) -> IntArray:
    return values if order is None else values[order]


def _order(shared: _Shared, codes: IntArray, rows: IntArray | None, ids: list[Any] | None, partitions: int) -> IntArray:
    """Rows sorted by entity and then by (event time, id, partition, offset)."""
    events = shared.events
    times = _in_order(events.times, rows)
    sort_by = [times, codes]
    if ids is not None and len(set(times.tolist())) < len(times):
        chosen = ids if rows is None else [ids[row] for row in rows.tolist()]
        ranks = dict(zip(sorted(set(chosen)), count()))
        sort_by.insert(0, np.fromiter(map(ranks.__getitem__, chosen), np.int64, len(chosen)))
    if partitions > 1:
        # Of one partition the rows stand in the order of their offsets, and the sort is stable.
        sort_by[:0] = [_in_order(events.offsets, rows), _in_order(events.partitions, rows)]
    by_code = len(sort_by) == 2 and bool((times[1:] >= times[:-1]).all())
    order = _stable_order(codes) if by_code else np.lexsort(sort_by)
    return order if rows is None else rows[order]


def _stable_order(codes: IntArray) -> IntArray:
    """As a stable argsort; where numbers are small enough a sort of one word with the place in its low bits."""
    bits = len(codes).bit_length()
    least = int(codes.min())
    if (int(codes.max()) - least) >> (62 - bits):
        return np.argsort(codes, kind="stable")
    words = ((codes - least) << bits) | np.arange(len(codes))
    words.sort()
    return words & ((1 << bits) - 1)
