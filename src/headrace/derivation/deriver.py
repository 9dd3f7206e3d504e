"""Deriving a logged stream: events in, derived records out, at the same partitions and offsets.

The look-ups are answered from a state of the deriver's own, which the feature log feeds as it feeds the online store:
so deriving goes on when ingestion does not. What lies further back than the state's as-of horizon is answered by
history, at the positions that the state has reached, to the same bits.

Events that the log has dropped since are read from the archive, so a stream that is declared late is derived from all
of its past.

Progress is in the output: the end of a derived topic says which events were derived, and its last batch from which
commit on to look for more. One append is the only atomic step, so a kill at any moment loses and doubles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from headrace.core.columns import Column, spread
from headrace.core.derived import OUTSIDE, DerivedBatch, decode_derived, encode_derived
from headrace.core.errors import HorizonError, LogError
from headrace.core.events import EventBlock, encode_block
from headrace.core.positions import Position
from headrace.core.time import MAX_US, MIN_US
from headrace.engines.stream.batches import check_readable
from headrace.engines.stream.commits import StreamSpan
from headrace.engines.stream.engine import RawChunk
from headrace.engines.stream.verdicts import COUNTED
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import Append, EventLog
from headrace.features.generation import first_topic
from headrace.features.plan import WHERE, DerivedPlan, ProjectPlan
from headrace.retrieval.history import HistoryReader, served_at
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.past import Past
from headrace.retrieval.rows import FeatureBlock
from headrace.retrieval.spans import judged_span
from headrace.stores.online.base import OnlineStore

_COMMITS_AT_ONCE = 1_000


class Reached(Protocol):
    """How far what is looked up has come."""

    @property
    def position(self) -> Position:
        """What is reflected of the logs."""
        ...


@dataclass(slots=True)
class _Waiting:
    """Judged events that are derived together: per partition their span, and the verdicts of those that do not count
    by offset. `commits` is the first commit past them."""

    commits: int
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    codes: dict[int, dict[int, int]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return sum(end - begin for begin, end in self.spans.values())

    def add(self, span: StreamSpan) -> None:
        """Take in what one commit read of the source."""
        for partition, (begin, end) in enumerate(zip(span.begin, span.end, strict=True)):
            if end > begin:
                self.spans[partition] = (self.spans.get(partition, (begin, end))[0], end)
        for partition, offset, code in span.exceptions:
            self.codes.setdefault(partition, {})[offset] = code


class Deriver:
    """Derives one stream; nobody else derives it meanwhile.

    Args:
        state: how far what is looked up has come, in `store`; without a store all is looked up in history.
        until: commits from this offset of topic `windows` on may stand elsewhere later, so they are not noted as dealt
            with.

    Attributes:
        plan: of the stream.
    """

    def __init__(
        self,
        plan: DerivedPlan,
        project: ProjectPlan,
        raw: EventLog,
        features: EventLog,
        state: Reached,
        store: OnlineStore | None,
        past: Past,
        *,
        horizon_us: int,
        until: int | None = None,
    ) -> None:
        self.plan = plan
        self._project = project
        self._raw, self._features = raw, features
        self._state = state
        self._horizon_us = horizon_us
        self._until = until
        self._online = None if store is None else OnlineReader(plan.view, project, store, horizon_us=horizon_us)
        self._past = past
        self._history = HistoryReader(plan.view, project, past)
        groups = [project.groups[binding.source] for binding in plan.view.bindings if not binding.is_table]
        self._looked_up = sorted({group.stream for group in groups})
        self._partitions = raw.topics()[plan.topic]
        self._commits = self._next_commit()

    def step(self, max_records: int = 50_000) -> int:
        """Derive the next events that stream compute has judged; returns how many.

        0: none are waiting, or what they look up is not computed yet up to when they arrived.
        """
        waiting = self._next(max_records)
        if waiting is None:
            return 0
        position = self._state.position
        items = []
        for partition, (begin, end) in waiting.spans.items():
            held = self._raw.end(self.plan.topic, partition)
            if begin != held:
                raise LogError(
                    f"partition {partition} of topic {self.plan.topic} ends at {held}, but the feature log goes on "
                    f"with {begin}: one of the two logs was replaced"
                )
            chunk = judged_span(self._project, self._raw, self._past.offline, self.plan.source, partition, begin, end)
            codes = waiting.codes.get(partition, {})
            commits = waiting.commits if self._until is None else min(waiting.commits, self._until)
            payload = self._derived(chunk, codes, position, commits)
            items.append(Append(self.plan.topic, partition, payload, end - begin, base=begin))
        self._raw.append(items)
        self._commits = waiting.commits
        return waiting.n

    def lag(self) -> int:
        """Events of the source that are not derived yet."""
        ends = [self._raw.end(self.plan.source, p) - self._raw.end(self.plan.topic, p) for p in range(self._partitions)]
        return sum(ends)

    def _next_commit(self) -> int:
        """Where to look for events on: after a restart the last batches say."""
        last = [self._raw.last(self.plan.topic, p) for p in range(self._partitions)]
        return max((decode_derived(batch.payload).commits for batch in last if batch is not None), default=0)

    def _next(self, max_records: int) -> _Waiting | None:
        """The next commits that hold events of the source, until these are `max_records` or have to wait."""
        limit_us = self._frontier_us()
        while heads := read_heads(self._features, self._commits, _COMMITS_AT_ONCE):
            found = _Waiting(self._commits)
            blocked = False
            for batch, head in heads:
                span = self._left(head.streams.get(self.plan.source))
                if span is not None and span.end != span.begin:
                    blocked = limit_us < MAX_US and self._newest_us(span) > limit_us
                    if blocked or found.n >= max_records:
                        break
                    found.add(span)
                found.commits = batch.end
            if found.spans:
                return found
            self._commits = found.commits
            if blocked:
                return None
        return None

    def _left(self, span: StreamSpan | None) -> StreamSpan | None:
        """What is left to derive of a span. A stream that was derived anew begins ahead of the commits that say so."""
        if span is None or self.plan.topic == first_topic(self.plan):
            return span
        held = [self._raw.end(self.plan.topic, partition) for partition in range(self._partitions)]
        begin = [max(b, min(e, h)) for b, e, h in zip(span.begin, span.end, held, strict=True)]
        return StreamSpan(begin, span.end, span.clocks_us, [x for x in span.exceptions if x[1] >= begin[x[0]]])

    def _frontier_us(self) -> int:
        """Everything that arrived before this is in the state, of every stream that is looked up; MAX_US: all there is.

        Derived records stand at the offsets of their sources, so the raw events tell when they arrived.
        """
        reached = self._state.position.streams
        found = MAX_US
        for stream in self._looked_up:
            root = self._project.root(stream)
            for partition in range(self._raw.topics()[root]):
                at = reached[stream][partition] if stream in reached else 0
                if at < self._raw.begin(root, partition):
                    return MIN_US  # the state has a long way to go: not even when that arrived is known any more
                if at < self._raw.end(root, partition):
                    found = min(found, self._raw.read(root, partition, at, 1)[0].arrival_us)
        return found

    def _newest_us(self, span: StreamSpan) -> int:
        """When the last event of a span arrived, or later."""
        root = self._project.root(self.plan.source)
        newest = MIN_US
        for partition, (begin, end) in enumerate(zip(span.begin, span.end, strict=True)):
            if end > begin:
                # What the log has dropped arrived before what it holds.
                batches = self._raw.read(root, partition, max(end - 1, self._raw.begin(root, partition)), 1)
                newest = max(newest, batches[0].arrival_us if batches else MAX_US)
        return newest

    def _derived(self, chunk: RawChunk, exceptions: Mapping[int, int], position: Position, commits: int) -> bytes:
        """The derived records of a chunk, as they are stored."""
        n = chunk.block.n
        check_readable(
            ((bad.row, bad.reason) for bad in chunk.block.malformed), exceptions, self.plan.source, chunk.partition,
            chunk.base,
        )  # fmt: skip
        codes = np.zeros(n, np.uint8) if chunk.codes is None else chunk.codes.copy()
        for offset, code in exceptions.items():
            codes[offset - chunk.base] = code
        at = np.flatnonzero(codes == COUNTED)
        found = self._read({name: column.take(at) for name, column in chunk.block.columns.items()}, position)
        if WHERE in found.names:
            condition = found.column(WHERE)
            belongs = condition.values & condition.mask()
            codes[at[~belongs]] = OUTSIDE
            at, found = at[belongs], found.take(belongs)
        columns = dict(chunk.block.columns)
        columns |= {name: spread(found.column(name), at, n) for name in self.plan.computed}
        rows = np.flatnonzero(codes)
        listed = list(zip(rows.tolist(), codes[rows].tolist(), strict=True))
        return encode_derived(
            DerivedBatch(commits, position, chunk.arrivals, listed, encode_block(EventBlock(n, columns)))
        )

    def _read(self, request: Mapping[str, Column], position: Position) -> FeatureBlock:
        """What is looked up and computed at each event; `position` is that of the state."""
        t = request[self.plan.view.request.time_field or ""].values
        clocks = [position.clock_us[name] for name in self._looked_up if name in position.clock_us]
        far = t < max(clocks) - self._horizon_us if clocks else np.zeros(len(t), np.bool_)
        if self._online is not None and not far.any():
            try:
                return self._online.read(request)
            except HorizonError:  # a row of a table that the state holds no longer
                pass
        # Exactly what the state would say if it reached back further. Reading all of them so costs little more.
        return self._history.read(request, served_at(position, len(t)))
