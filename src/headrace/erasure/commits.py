"""Commits of stream compute without an entity.

A delta holds what the features read of each event, so it follows from the events: that of a commit whose events change
is computed again, by the same engine, from the events as they will be. Positions, clocks and verdicts stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from headrace.core.arrow import from_arrow
from headrace.core.columns import Column, IntArray
from headrace.core.derived import decode_derived
from headrace.core.events import EventBlock, concat_blocks, decode_block
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION
from headrace.engines.stream.commits import WINDOWS, Commit, GroupDelta, StreamSpan, decode_commit, encode_commit
from headrace.engines.stream.engine import RawChunk, StreamEngine
from headrace.engines.stream.verdicts import DEAD
from headrace.erasure.events import erased_block
from headrace.erasure.subject import Subject, fields_of
from headrace.eventlog.base import EventLog, LogBatch
from headrace.features.plan import ProjectPlan
from headrace.retrieval.past import events_table
from headrace.retrieval.stored import as_declared, stored_columns
from headrace.stores.offline.base import OfflineStore


@dataclass
class CommitErasure:
    """Edits the commits of one project; the logs of events and the archive still hold what is to be erased, or do not:
    the outcome is the same. Commits before `begin` are another side's, and stay.

    """

    plan: ProjectPlan
    raw: EventLog
    features: EventLog
    offline: OfflineStore
    subject: Subject
    begin: int = 0
    _clocks: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Whether a group is scheduled now says nothing about who computed it then.
        self._all = replace(self.plan, scheduled={})
        self._versions = {group.version: group for group in self._all.computed_groups}

    def erased(self, batch: LogBatch) -> bytes | None:
        """The commit without the entity; None if it has nothing of it. Commits are given in order, from the first."""
        commit = decode_commit(batch.payload)
        before = dict(self._clocks)
        for name, span in commit.streams.items():
            self._clocks[name] = list(span.clocks_us)
        if batch.base < self.begin or not self._concerned(commit, batch.payload):
            return None
        groups: dict[str, GroupDelta] = {}
        for name, span in commit.streams.items():
            if name in self._all.topics():
                groups |= self._deltas(name, span, before.get(name))
        # What no group of today reads any more was taken in long ago.
        kept = {version: groups[version] for version in commit.groups if version in groups}
        payload = encode_commit(Commit(commit.format, commit.positions, commit.streams, kept, commit.null_keys))
        return None if payload == batch.payload else payload

    def recomputed(self, batch: LogBatch) -> dict[str, GroupDelta]:
        """The deltas of a commit, computed again whether it is concerned or not; commits are given in order."""
        commit = decode_commit(batch.payload)
        before = dict(self._clocks)
        found: dict[str, GroupDelta] = {}
        for name, span in commit.streams.items():
            self._clocks[name] = list(span.clocks_us)
            found |= self._deltas(name, span, before.get(name))
        return found

    def _concerned(self, commit: Commit, payload: bytes) -> bool:
        part = self.subject.part
        if any(part in key for delta in commit.groups.values() for key in delta.keys if part in key):
            return True
        if isinstance(self.subject.value, str) and self.subject.may_be_in(payload):
            return True
        # The events may be of the entity though no group is keyed by it and no text is read.
        return any(self._has(name, span) for name, span in commit.streams.items())

    def _has(self, name: str, span: StreamSpan) -> bool:
        fields = fields_of(self.plan, name, self.subject.entity)
        if not fields.roles or name not in self.raw.topics():
            return False
        for partition, (begin, end) in enumerate(zip(span.begin, span.end, strict=True)):
            for batch in self._held(name, partition, begin, end):
                derived = name in self.plan.derived
                if self.subject.may_be_in(batch.payload) and erased_block(
                    _block_of(batch.payload, derived=derived), self.subject, fields,
                    count=None if derived else batch.count,
                ):  # fmt: skip
                    return True
        return False

    def _held(self, name: str, partition: int, begin: int, end: int) -> Iterator[LogBatch]:
        at = max(begin, self.raw.begin(name, partition))
        while at < end:
            batches = self.raw.read(name, partition, at, end - at)
            yield from (batch for batch in batches if batch.base < end)
            at = batches[-1].end

    def _deltas(self, name: str, span: StreamSpan, clocks: list[int] | None) -> Mapping[str, GroupDelta]:
        engine = StreamEngine(self._all)
        for state, clock in zip(engine.state(name, len(span.begin)), clocks or (), strict=False):
            state.clock_us = clock
        chunks = [
            self._chunk(name, partition, begin, end, span)
            for partition, (begin, end) in enumerate(zip(span.begin, span.end, strict=True))
            if end > begin
        ]
        if not chunks:
            return {}
        return engine.process({name: chunks}, {name: list(span.begin)}).commit.groups

    def _chunk(self, name: str, partition: int, begin: int, end: int, span: StreamSpan) -> RawChunk:
        """The events of a span as they will be, with the verdicts that they got."""
        codes = np.zeros(end - begin, np.uint8)
        for where, offset, code in span.exceptions:
            if where == partition:
                codes[offset - begin] = code
        if self.raw.begin(name, partition) > begin:
            return self._archived(name, partition, begin, end, codes)
        derived, stream = name in self.plan.derived, self.plan.stream(name)
        fields = fields_of(self.plan, name, self.subject.entity)
        blocks, stamps, verdicts, at = [], [], [], begin
        for batch in self._held(name, partition, begin, end):
            payload = _block_of(batch.payload, derived=derived)
            found = erased_block(payload, self.subject, fields, count=None if derived else batch.count)
            count = None if derived else batch.count
            block = decode_block(payload if found is None else found.payload, stream.schema, count=count)
            first, stop = max(begin - batch.base, 0), min(end - batch.base, batch.count)
            blocks.append(block.slice(first, stop))
            if derived:
                held = decode_derived(batch.payload)
                stamps.append(held.arrivals[first:stop])
                verdicts.append(held.codes()[first:stop])
            else:
                stamps.append(np.full(stop - first, batch.arrival_us, np.int64))
            at = batch.base + stop
        assert at == end
        return RawChunk(
            partition, begin, concat_blocks(blocks), np.concatenate(stamps), None,
            np.concatenate(verdicts) if derived else codes,
        )  # fmt: skip

    def _archived(
        self, name: str, partition: int, begin: int, end: int, codes: np.ndarray[tuple[int], np.dtype[np.uint8]]
    ) -> RawChunk:
        """The same from the archive, which lacks dead letters: nothing but their verdict is asked for."""
        from headrace.erasure.archive import ArchiveErasure

        schema, table = self.plan.stream(name).schema, events_table(name)
        names = [*(spec.name for spec in schema), PARTITION, OFFSET, ARRIVAL]
        held = self.offline.columns(table)
        rows = self.offline.scan(table, stored_columns(held, schema, names), between=(OFFSET, begin, end))
        rows = ArchiveErasure(self.plan, self.offline, self.subject).edited(table, rows)
        rows = as_declared(rows, schema, names)
        here = np.flatnonzero(np.asarray(rows[PARTITION]) == partition)
        places = np.asarray(rows[OFFSET])[here] - begin
        n = end - begin
        source: IntArray = np.full(n, -1, np.int64)
        source[places] = np.arange(len(here))
        missing = source < 0
        codes[missing] = DEAD
        source[missing] = 0
        columns = {}
        for spec in schema:
            column = from_arrow(rows[spec.name].take(here), spec.dtype, spec.name).take(source)
            columns[spec.name] = Column(spec.dtype, column.values, column.mask() & ~missing)
        arrivals = np.asarray(rows[ARRIVAL])[here][source]
        return RawChunk(partition, begin, EventBlock(n, columns), arrivals, None, codes)


def _block_of(payload: bytes, *, derived: bool) -> bytes:
    return decode_derived(payload).block if derived else payload


def erase_commits(erasure: CommitErasure) -> int:
    """Edit every commit that the feature log holds, from `begin` on; returns how many changed."""
    if WINDOWS not in erasure.features.topics():
        return 0
    return erasure.features.rewrite(WINDOWS, 0, erasure.erased)
