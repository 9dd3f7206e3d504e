"""Derived streams derived anew, of what is known now, beside the generation that is served.

Each stream is derived from the log into the topic of its next generation, all look-ups answered by history at one
position of the logs; then the groups over it are computed as by any backfill, into records that nobody reads yet. The
feature log tells nothing of all that until it is published: then commits that name the new topics' spans come into it,
so that archive, audits and rebuilding find the new generation like any other stream.

The ends of the topics and the positions of the groups say how far it is. Killed at any moment it goes on from there,
and what was derived before the kill stays what was known then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from headrace.core.errors import StoreError
from headrace.core.positions import Position
from headrace.derivation.deriver import Deriver
from headrace.derivation.draft import DraftLog
from headrace.engines.stream.commits import StreamSpan
from headrace.engines.stream.verdicts import PartitionState
from headrace.engines.stream.worker import derived_chunk
from headrace.eventlog.base import EventLog
from headrace.features.generation import first_topic, generation_topic, generations_of
from headrace.features.plan import DerivedPlan, GroupPlan, ProjectPlan
from headrace.ingestion.backfill import GroupBackfill, Progress, read_state
from headrace.retrieval.past import MEMORY_BYTES, Past
from headrace.stores.offline.base import OfflineStore
from headrace.stores.online.base import OnlineStore

AT_ONCE = 50_000
"""Events that are derived, and looked up in history, at once."""


def _told_after(told: Callable[[int], None], so_far: int, read: int, _: int) -> None:
    told(so_far + read)


class Rederivation:
    """Derives streams into topics of their next generation and computes the groups over them; one per project.

    Args:
        plan: the project at the new generations.
        topics: the new topics, those of streams that read others of them included.
        pace: called with how many records are about to be written; it may wait.

    Attributes:
        read: events that were derived or merged into groups.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        topics: Collection[str],
        raw: EventLog,
        features: EventLog,
        offline: OfflineStore,
        online: OnlineStore,
        *,
        horizon_us: int,
        memory_bytes: int = MEMORY_BYTES,
        at_once: int = AT_ONCE,
        pace: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.streams = [derived for derived in plan.derived.values() if derived.topic in topics]
        self._raw, self._features, self._offline, self._online = raw, features, offline, online
        self._horizon_us, self._memory_bytes, self._at_once = horizon_us, memory_bytes, at_once
        self._pace = pace
        self._log = DraftLog(features)
        self._ends: dict[str, list[int]] = {}
        self._states: dict[str, list[PartitionState]] = {}
        self.read = 0
        for derived in self.streams:
            partitions = raw.topics()[plan.root(derived.topic)]
            raw.create(derived.topic, partitions)
            self._ends[derived.topic] = [0] * partitions
            self._states[derived.topic] = [PartitionState() for _ in range(partitions)]
            # What an earlier try has published already is drafted no more.
            self._follow(derived, self._log.positions.get(derived.topic, [0] * partitions))
            self._draft(derived)

    @property
    def position(self) -> Position:
        """What the look-ups see."""
        known = self.plan.topics().keys()
        streams = {topic: list(ends) for topic, ends in self._log.positions.items() if topic in known}
        return Position(streams, self._log.tables, self._log.windows, {})

    def advance(self, progress: Progress | None = None) -> int:
        """Derive and compute all that the feature log has judged by now; returns how many events were read for it.

        `progress` gets how many offsets are done and how many there are in all.
        """
        self._log.refresh()
        before, done = self.read, self._offsets()
        total = 2 * sum(sum(self._source_ends(derived)) for derived in self.streams)

        def told(more: int) -> None:
            if progress is not None:
                progress(min(done + more, total), total)

        for derived in self.streams:
            past = Past(self.plan, self._raw, self._log, self._offline, memory_bytes=self._memory_bytes)
            deriver = Deriver(
                derived, self.plan, self._raw, self._log, self, None, past,
                horizon_us=self._horizon_us, until=self._log.windows,
            )  # fmt: skip
            while found := deriver.step(self._at_once):
                self.read += found
                self._draft(derived)
                told(self.read - before)
            so_far = self.read - before
            self._compute(derived, partial(_told_after, told, so_far))
        if progress is not None:
            progress(total, total)
        return self.read - before

    def publish(self) -> None:
        """Tell the feature log of the new topics; nobody else appends to it meanwhile.

        Raises StoreError if anything would be published behind what is served.
        """
        for derived in self.streams:
            first, ends = first_topic(derived), self._ends[derived.topic]
            former = generation_topic(first, generations_of(self.plan)[first] - 1)
            wanted = self._log.positions.get(former, [0] * len(ends))
            if any(end < b for end, b in zip(ends, wanted, strict=True)):
                raise StoreError(
                    f"derived stream {derived.name} is derived anew up to {ends} of its source, but {wanted} is "
                    f"served; nothing was published: run headrace backfill {derived.name} again"
                )
            for group in self._groups(derived):
                state = read_state(self._online, group.version)
                if any(ends) and (state is None or state.target is not None or state.at != ends):
                    raise StoreError(
                        f"group {group.name} is not computed up to {ends} of stream {derived.name}; nothing was "
                        f"published: run headrace backfill {derived.name} again"
                    )
        self._log.publish()

    def published(self) -> dict[str, list[int]]:
        """Up to where the groups over the new topics are computed, by version."""
        return {group.version: self._ends[d.topic] for d in self.streams for group in self._groups(d)}

    def _source_ends(self, derived: DerivedPlan) -> list[int]:
        """Up to where the source of a stream is judged."""
        return self._log.positions.get(derived.source, [0] * len(self._ends[derived.topic]))

    def _offsets(self) -> int:
        """Offsets that are derived or merged into groups."""
        merged = 0
        for derived in self.streams:
            states = [read_state(self._online, group.version) for group in self._groups(derived)]
            merged += min((0 if state is None else sum(state.at) for state in states), default=0)
        return merged + sum(map(sum, self._ends.values()))

    def _groups(self, derived: DerivedPlan) -> list[GroupPlan]:
        return [group for group in self.plan.computed_groups if group.stream == derived.topic]

    def _draft(self, derived: DerivedPlan) -> None:
        """Draft the commit of what was derived since the last one."""
        topic = derived.topic
        begin, end = self._ends[topic], [self._raw.end(topic, p) for p in range(len(self._ends[topic]))]
        if begin != end:
            self._follow(derived, end)
            self._log.draft(topic, StreamSpan(begin, end, [state.clock_us for state in self._states[topic]], []))

    def _follow(self, derived: DerivedPlan, end: list[int]) -> None:
        """Move the clocks of a new topic's partitions on."""
        topic, schema = derived.topic, derived.stream.schema
        for partition, state in enumerate(self._states[topic]):
            at = self._ends[topic][partition]
            while at < end[partition]:
                batches = self._raw.read(topic, partition, at, min(AT_ONCE, end[partition] - at))
                time = schema.time_field or ""
                chunk = derived_chunk(derived.stream, partition, at, batches, end[partition], only={time})
                assert chunk.codes is not None
                state.follow(chunk.block.columns[time].values, chunk.arrivals, chunk.codes)
                at += chunk.block.n
        self._ends[topic] = list(end)

    def _compute(self, derived: DerivedPlan, progress: Progress) -> None:
        """Bring the groups over a new topic up to its end."""
        ends = self._ends[derived.topic]
        # Those that are equally far are computed together.
        together: dict[tuple[tuple[int, ...], tuple[int, ...]], list[GroupPlan]] = {}
        for group in self._groups(derived):
            state = read_state(self._online, group.version)
            at = [0] * len(ends) if state is None else state.at
            if at != ends:
                target = () if state is None else tuple(state.target or ())
                together.setdefault((tuple(at), target), []).append(group)
        # Nobody reads them yet, so a schedule makes no difference.
        plan = replace(self.plan, scheduled={})
        for (begin, _), groups in together.items():
            job = GroupBackfill(
                plan, groups, self._raw, self._log, self._offline, self._online,
                horizon_us=self._horizon_us, clock_us=None, pace=self._pace,
            )  # fmt: skip
            job.advance(begin, ends, progress)
            self.read += job.read
