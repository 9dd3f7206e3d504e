"""The state of groups that are new, edited or scheduled, computed from archive and log, piece by piece.

Verdicts were given when the events came, so nothing is judged again: a piece is a range of offsets of a stream, its
counted events become deltas by the engine that computes the live stream, and the deltas are merged into the records of
the group's version. Memory is that of one piece, however long the history.

How far a version has come lies beside its records, under a key of its own. While nobody reads the version yet, a piece
takes many short transactions: its range is written there before its first record, a piece that was cut off by a kill is
done again over the same range, and records that have its events already do not take them twice (they are fenced by
position). Of a scheduled group, which is read all the time, records and position of a piece change in one transaction,
so whoever reads finds all of the piece or nothing. The hand-over to the live stream is by offset: when a
version has come to where stream compute stands, the stream goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.aggregations.layout import GroupLayout, layout_of
from headrace.aggregations.splice import merge_groups
from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, IntArray
from headrace.core.errors import Busy, PlanError
from headrace.core.keys import record_keys
from headrace.core.positions import GroupState, decode_state, encode_state, state_key
from headrace.core.time import NULL_US, format_duration, to_iso
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION, VERDICT, judged_events
from headrace.engines.stream.commits import WINDOWS, CommitHead, GroupDelta
from headrace.engines.stream.engine import Admitted, StreamEngine
from headrace.engines.stream.verdicts import COUNTED, DEAD
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import EventLog
from headrace.features.plan import GroupPlan, ProjectPlan
from headrace.retrieval.past import WRITER, events_table
from headrace.retrieval.stored import as_declared, stored_columns
from headrace.stores.offline.base import OfflineStore
from headrace.stores.online.base import OnlineStore, Record

PIECE = 250_000
"""Offsets of a stream that are read at once, over all of its partitions."""
_AT_ONCE = 20_000
"""Records per transaction: a live writer of the store waits for no more than these."""
Progress = Callable[[int, int], object]
LeftOut = tuple[int, tuple[int, ...]]
"""A time, and the offsets per partition below which events before it were left out, since no window reached them."""


def read_state(online: OnlineStore, version: str) -> GroupState | None:
    """How far a version was backfilled, or was computed when it was dropped or run by its schedule; None if never."""
    (found,), _ = online.read([state_key(version)])
    return decode_state(found)


def write_state(online: OnlineStore, version: str, state: GroupState) -> None:
    """Note how far a version has come."""
    online.revise([], lambda _: [(state_key(version), encode_state(state))])


def left_out(online: OnlineStore, groups: Sequence[GroupPlan]) -> dict[str, LeftOut]:
    """By version what a backfill has left out; versions of which it merged everything are not there."""
    found, _ = online.read([state_key(group.version) for group in groups])
    states = zip(groups, map(decode_state, found), strict=True)
    return {
        group.version: (state.since_us, tuple(state.since_at))
        for group, state in states
        if state is not None and state.since_us is not None and state.since_at is not None
    }


@dataclass(frozen=True, slots=True)
class _Log:
    """What the archive does not hold yet: commits from `base`, where each partition of the stream was at `begin`."""

    begin: list[int]
    commits: list[CommitHead]


class GroupBackfill:
    """Brings groups of one stream, all of them equally far, up to a position of stream compute; one per store.

    Args:
        plan: the definitions that `groups` are of.
        groups: what to compute; their versions must not be computed by the live stream.
        since_us: leave events before this time out. PlanError if they count in some window or lifetime.
        clock_us: of versions that nobody reads yet, the stream's clock as the online store reflects it: what no window
            reaches from there is left out. None: nothing is, so that records are the bytes that the stream would leave.
        served: the groups are read while they are computed; `run_us` is then noted beside their position.
        only: of these keys of records, which to compute; None: all.
        pace: called with how many records are about to be written; it may wait.
        before_us: leave out events before this time whatever the groups reach, NULL_US: none; so that records are the
            bytes of those that a backfill has made that left them out.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        groups: Sequence[GroupPlan],
        raw: EventLog,
        features: EventLog,
        offline: OfflineStore,
        online: OnlineStore,
        *,
        horizon_us: int,
        clock_us: int | None,
        since_us: int | None = None,
        piece: int | None = None,
        served: bool = False,
        run_us: int | None = None,
        only: Callable[[Sequence[bytes]], BoolArray] | None = None,
        pace: Callable[[int], object] = lambda _: None,
        before_us: int | None = None,
    ) -> None:
        self.stream = groups[0].stream
        self._stream = plan.stream(self.stream)
        self._derived = self.stream in plan.derived
        self._layouts: dict[str, GroupLayout] = {group.version: layout_of(group) for group in groups}
        alone = replace(plan, groups={group.name: group for group in groups}, kept_groups={}, scheduled={})
        self._engine = StreamEngine(alone)
        self._raw, self._features, self._offline, self._online = raw, features, offline, online
        self._horizon_us = horizon_us
        # What is read meanwhile changes in pieces of one transaction each, for which a live writer may have to wait.
        self._piece = piece or (max(online.at_once // (5 * len(groups)), 1) if served else PIECE)
        self._served, self._run_us, self._only, self._pace = served, run_us, only, pace
        self._clocks_us: list[int] = []
        self._bound_us = NULL_US if clock_us is None else clock_us
        self._since_us = _bound(groups, self._layouts, horizon_us, clock_us, since_us)
        self._since_at: list[int] | None = None
        self._noted_us: int | None = None
        self._told = before_us is not None
        if before_us is not None:
            self._since_us = None if before_us == NULL_US else before_us
        self._lifetime = any(layout.lifetime for layout in self._layouts.values())
        self.read = 0

    def advance(self, begin: Sequence[int], end: Sequence[int], progress: Progress | None = None) -> None:
        """Merge all events from `begin` to `end` (offsets per partition), `end` being a position of stream compute.

        `progress` gets how many offsets are done and how many there are in all.
        """
        at, total = list(begin), sum(end) - sum(begin)
        states = {version: read_state(self._online, version) for version in self._layouts}
        begun = next((state.target for state in states.values() if state is not None and state.target), None)
        # Of dead letters alone every clock is known, and none has moved.
        known = [
            state for state in states.values() if state is not None and (state.clocks_us or state.clock_us is not None)
        ]
        # What was noted without a clock is at most as new as the store.
        at_most = known[0].clock_us if known else self._bound_us if any(begin) else NULL_US
        self._clocks_us = (known[0].clocks_us if known else None) or [NULL_US if at_most is None else at_most] * len(at)
        self._go_on([state for state in states.values() if state is not None])
        step = max(self._piece // max(len(at), 1), 1)
        while any(a < b for a, b in zip(at, end, strict=True)):
            target = begun or [min(b, max(a, _next(at, end) + step)) for a, b in zip(at, end, strict=True)]
            begun = None
            if progress is not None:
                progress(sum(at) - sum(begin), total)
            self._merge(at, target)
            at = target
        if progress is not None:
            progress(total, total)

    def _go_on(self, states: Sequence[GroupState]) -> None:
        """Leave out what was left out so far. Where the stream has merged everything since, or an older version has
        not said what it left out, nothing is left out any more."""
        if self._told or not states or not (states[0].target or any(states[0].at)):
            return
        held = states[0]
        going_on = held.target is not None or held.since_at == held.at
        self._since_us, self._since_at = held.since_us if going_on else None, held.since_at
        self._noted_us = held.since_us

    def _state(self, at: list[int], target: list[int] | None) -> GroupState:
        """What to note of a piece that ends at `target`, or is done up to `at`."""
        if self._since_us is not None:
            self._noted_us, self._since_at = self._since_us, at
        return GroupState(
            at, target, self._clock, self._run_us, list(self._clocks_us), self._noted_us, self._since_at
        )  # fmt: skip

    def _merge(self, at: list[int], target: list[int]) -> None:
        begun = self._state(at, target)
        if not self._served:
            self._note(begun)
        events = self._admitted(at, target)
        deltas = self._engine.deltas(self.stream, events, len(at)) if len(events.times) else {}
        done = self._state(target, None)
        if self._served:
            self._merge_whole(deltas, begun, done)
        else:
            for version, delta in deltas.items():
                chosen = None if self._only is None else self._only(record_keys(delta.keys, version))
                for part in parts_of(delta, chosen):
                    self._merge_part(version, part)
            self._note(done)
        self.read += sum(target) - sum(at)

    @property
    def _clock(self) -> int | None:
        newest = max(self._clocks_us, default=NULL_US)
        return None if newest == NULL_US else newest

    def _note(self, state: GroupState) -> None:
        data = encode_state(state)
        self._online.revise([], lambda _: [(state_key(version), data) for version in self._layouts])

    def _merge_whole(self, deltas: dict[str, GroupDelta], begun: GroupState, done: GroupState) -> None:
        """Change all records of a piece, and the position, in one transaction."""
        states = [state_key(version) for version in self._layouts]
        changes = [(self._layouts[v], delta, record_keys(delta.keys, v)) for v, delta in deltas.items()]
        order = sorted({key for _, _, keys in changes for key in keys})
        data = encode_state(done)

        def change(records: list[bytes | None]) -> list[Record]:
            for raw in records[len(order) :]:
                found = decode_state(raw)
                if (begun.at if any(begun.at) else None) != (None if found is None or not any(found.at) else found.at):
                    raise Busy(
                        f"a group of stream {self.stream} was brought up to date by another process meanwhile; "
                        "nothing is lost: it goes on from there"
                    )
            pending = dict(zip(order, records[: len(order)], strict=True))
            if changes:
                merge_groups(changes, pending, self._horizon_us)
            return [*pending.items(), *((key, data) for key in states)]

        self._pace(len(order))
        self._online.revise([*order, *states], change)

    def _merge_part(self, version: str, delta: GroupDelta) -> None:
        keys = record_keys(delta.keys, version)

        def change(records: list[bytes | None]) -> list[tuple[bytes, bytes | None]]:
            pending = dict(zip(keys, records, strict=True))
            merge_groups([(self._layouts[version], delta, keys)], pending, self._horizon_us)
            return list(pending.items())

        self._pace(len(keys))
        self._online.revise(keys, change)

    def _admitted(self, at: list[int], target: list[int]) -> Admitted:
        """The counted events of a range, with the clock that the stream had at each."""
        schema = self._stream.schema
        fields = [field.name for field in schema.fields if field.name in self._engine.fields(self.stream)]
        time = schema.time_field or ""
        names = [*fields, PARTITION, OFFSET, ARRIVAL, VERDICT]
        pieces = [rows.select(names) for rows in self._judged(names, at, target)]
        # Dead letters move no clock, and may have no time.
        pieces = [rows.filter(pc.not_equal(rows[VERDICT], DEAD)) for rows in pieces]
        pieces = [rows for rows in pieces if rows.num_rows]
        if not pieces:
            none = np.zeros(0, np.int64)
            return Admitted({}, none, none, none, none, None)
        rows = pa.concat_tables(pieces, promote_options="default")
        partition, offset = _ints(rows[PARTITION]), _ints(rows[OFFSET])
        order = np.lexsort((offset, partition))
        if (order != np.arange(len(order))).any():
            rows = rows.take(pa.array(order))
            partition, offset = partition[order], offset[order]
        verdict, times = _ints(rows[VERDICT]), _ints(rows[time])
        clocks = self._clocks_of(partition, np.minimum(times, _ints(rows[ARRIVAL])))
        keep = verdict == COUNTED
        if self._since_us is not None:
            early = times < self._since_us
            self._refuse_early(early & keep, times)
            keep &= ~early
        if not keep.all():
            rows = rows.filter(pa.array(keep))
            partition, offset, times, clocks = (values[keep] for values in (partition, offset, times, clocks))
        columns = {name: from_arrow(rows[name], schema[name].dtype, name) for name in fields}
        ids = None if schema.id_field is None else columns[schema.id_field].values.tolist()
        return Admitted(columns, np.array(columns[time].values), offset, partition, clocks, ids)

    def _refuse_early(self, early: BoolArray, times: IntArray) -> None:
        if self._lifetime and early.any():
            raise PlanError(
                f"stream {self.stream} has events at {to_iso(int(times[early].min()))}, before since="
                f"{to_iso(self._since_us or 0)}, which count in features without a window; leave since out, or give "
                "these features a window"
            )

    def _clocks_of(self, partition: IntArray, moves: IntArray) -> IntArray:
        """The clock of its partition at each row; rows are in order of (partition, offset)."""
        clocks = np.full(len(partition), NULL_US)
        edges = [0, *(np.flatnonzero(partition[1:] != partition[:-1]) + 1).tolist(), len(partition)]
        for low, high in pairwise(edges):
            at = int(partition[low])
            clocks[low:high] = np.maximum(np.maximum.accumulate(moves[low:high]), self._clocks_us[at])
            self._clocks_us[at] = int(clocks[high - 1])
        return clocks

    def _judged(self, names: list[str], at: list[int], target: list[int]) -> Iterator[pa.Table]:
        """Events of a range with their verdicts, from the archive and from the log."""
        log = self._log()
        table = events_table(self.stream)
        low, high = min(a for a, b in zip(at, target, strict=True) if a < b), max(target)
        if any(a < b for a, b in zip(at, log.begin, strict=True)):
            schema = self._stream.schema
            columns = stored_columns(self._offline.columns(table), schema, names)
            since = None if self._lifetime else self._since_us
            rows = self._offline.scan(table, columns, since_us=since, between=(OFFSET, low, high))
            # What has come to the archive since `log` was asked for is read from the log.
            yield _within(as_declared(rows, schema, names), at, np.minimum(target, log.begin).tolist())
        spans = [(commit, commit.streams[self.stream]) for commit in log.commits if self.stream in commit.streams]
        near = [
            commit
            for commit, span in spans
            if any(b < t and e > a for b, e, a, t in zip(span.begin, span.end, at, target, strict=True))
        ]
        tail = judged_events(self._stream, self._raw, near, derived=self._derived)
        if tail is not None:
            yield _within(tail, np.maximum(at, log.begin).tolist(), target)

    def _log(self) -> _Log:
        archived = max(self._offline.number(events_table(self.stream), WRITER), 0)
        end = self._features.end(WINDOWS, 0)
        last = read_heads(self._features, archived - 1, 1) if archived else []
        partitions = self._raw.topics()[self.stream]
        begin = last[0][1].positions.get(self.stream, [0] * partitions) if last else [0] * partitions
        commits = read_heads(self._features, archived, end - archived) if end > archived else []
        return _Log(list(begin), [head for _, head in commits])


def _next(at: Sequence[int], end: Sequence[int]) -> int:
    """The lowest offset that is still to be read: partitions go on side by side."""
    return min(a for a, b in zip(at, end, strict=True) if a < b)


def _bound(
    groups: Sequence[GroupPlan],
    layouts: dict[str, GroupLayout],
    horizon_us: int,
    clock_us: int | None,
    since_us: int | None,
) -> int | None:
    """The time before which events need not be read: what the caller says, if nothing older counts."""
    if any(layout.lifetime for layout in layouts.values()):
        return since_us
    if clock_us is None or clock_us == NULL_US:  # of dead letters alone
        return None
    # No read reaches further back than this from where the online store stands.
    needed = {group.name: clock_us - horizon_us - layouts[group.version].reach_us for group in groups}
    for name, oldest in needed.items():
        if since_us is not None and since_us > oldest:
            raise PlanError(
                f"group {name}: events from {to_iso(oldest)} on count in its windows (the longest reaches back "
                f"{format_duration(layouts[next(g.version for g in groups if g.name == name)].reach_us)}), so "
                f"since={to_iso(since_us)} would leave some out; name an earlier time, or leave it out"
            )
    return min(needed.values())


def _within(rows: pa.Table, begin: list[int], end: list[int]) -> pa.Table:
    """The rows whose offset lies in their partition's range."""
    keep = None
    for partition, (low, high) in enumerate(zip(begin, end, strict=True)):
        here = pc.and_(pc.greater_equal(rows[OFFSET], low), pc.less(rows[OFFSET], high))
        here = pc.and_(here, pc.equal(rows[PARTITION], partition))
        keep = here if keep is None else pc.or_(keep, here)
    return rows if keep is None or pc.all(keep).as_py() else rows.filter(keep)


def parts_of(delta: GroupDelta, only: BoolArray | None = None) -> Iterator[GroupDelta]:
    """The delta cut into such of a bounded number of entities, in the order of their keys; `only` says of which."""
    chosen = range(len(delta.keys)) if only is None else np.flatnonzero(only).tolist()
    order = sorted(chosen, key=delta.keys.__getitem__)
    counts = np.array(delta.counts, np.int64)
    starts = np.cumsum(counts) - counts
    clocks = np.frombuffer(delta.clocks, np.int64)
    positions = np.frombuffer(delta.positions, np.int64).reshape(len(delta.keys), -1)
    for first in range(0, len(order), _AT_ONCE):
        chosen = order[first : first + _AT_ONCE]
        of = counts[chosen]
        rows = np.repeat(starts[chosen] - (np.cumsum(of) - of), of) + np.arange(int(of.sum()))
        yield GroupDelta(
            [delta.keys[i] for i in chosen],
            of.tolist(),
            clocks[chosen].tobytes(),
            positions[chosen].tobytes(),
            _picked(delta.times, rows),
            [_picked(column, rows) for column in delta.columns],
            _picked(delta.offsets, rows),
            _picked(delta.partitions, rows),
            None if delta.ids is None else [delta.ids[i] for i in rows.tolist()],
            delta.texts,
        )


def _picked(words: bytes, rows: IntArray) -> bytes:
    return np.frombuffer(words, np.int64)[rows].tobytes() if words else b""


def _ints(array: pa.ChunkedArray) -> IntArray:
    return np.array(array, np.int64)
