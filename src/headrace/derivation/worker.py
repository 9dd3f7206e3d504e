"""The computing layer as a whole: windows over raw streams, then each derived stream and the windows over it.

Within one step: raw events are judged and computed, and for each derived stream in turn the state of its look-ups
follows the feature log, the events that arrived are derived, and the windows over them computed. So a stream that looks
up what is made of another one finds it as new as its own events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from headrace.core.positions import encode_position
from headrace.core.time import MAX_US
from headrace.derivation.deriver import Deriver
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import EventLog
from headrace.features.plan import ProjectPlan
from headrace.ingestion.materialize import OnlineIngest
from headrace.retrieval.past import Past
from headrace.stores.online.base import OnlineStore


class ComputingLayer:
    """Computes windows and derives streams. Without `shares` it is the only one of its project (the caller holds the
    lock); with them it works beside others, each with its own shares (`ComputeWorker`), and who has share 0 derives.

    `state` opens the store of what derived streams look up; it is asked only if there are any. `partitions` is for
    topics that do not exist yet. Killing the process
    between or inside steps loses nothing and doubles nothing.

    Attributes:
        windows: the worker of windows.
        derivers: one per derived stream, each after those that it reads.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        raw: EventLog,
        features: EventLog,
        checkpoint: Path,
        *,
        state: Callable[[], OnlineStore],
        past: Callable[[], Past],
        horizon_us: int,
        partitions: int = 1,
        shares: Collection[int] | None = None,
    ) -> None:
        self.plan = plan
        self.windows = ComputeWorker(plan, raw, features, checkpoint, partitions=partitions, shares=shares)
        self.derivers: list[Deriver] = []
        self._state: OnlineIngest | None = None
        self._store: OnlineStore | None = None
        if plan.derived and (shares is None or 0 in shares):
            self._store, known = state(), past()
            self._state = OnlineIngest(looked_up(plan), features, self._store, horizon_us=horizon_us)
            self.derivers = [
                Deriver(derived, plan, raw, features, self._state, self._store, known, horizon_us=horizon_us)
                for derived in plan.derived.values()
            ]

    @property
    def counted(self) -> int:
        """Raw events that counted."""
        return self.windows.counted

    @property
    def dead(self) -> int:
        """Dead letters."""
        return self.windows.dead

    @property
    def overtaken(self) -> bool:
        """True if somebody else has written the state of the look-ups since."""
        if self._state is None or self._store is None:
            return False
        return encode_position(self._state.position) != self._store.position()

    def step(self, max_records: int = 50_000, *, until_us: int = MAX_US) -> int:
        """Process what has been appended since; returns how many raw events were read, or if none were, how many were
        derived or computed of derived streams (0: caught up).

        `until_us` leaves what was appended later for a later step.
        """
        read = self.windows.step(max_records, until_us=until_us, only=self.plan.streams)
        derived = [self.derive(deriver, max_records, until_us=until_us) for deriver in self.derivers]
        return read or sum(derived)

    def derive(self, deriver: Deriver, max_records: int = 50_000, *, until_us: int = MAX_US) -> int:
        """Derive events of one stream and compute the windows over them; returns how many of both there were."""
        topic = (deriver.plan.topic,)
        # What an earlier step derived and did not come to compute stands first.
        done = self.windows.step(max_records, until_us=until_us, only=topic)
        assert self._state is not None
        while self._state.step(until_us=until_us):
            pass
        done += deriver.step(max_records)
        return done + self.windows.step(max_records, until_us=until_us, only=topic)

    def checkpoint(self) -> None:
        """Save the verdict state; see `ComputeWorker.checkpoint`."""
        self.windows.checkpoint()

    def lag(self) -> dict[str, int]:
        """Events appended but not computed yet, by topic; of a derived stream also those not derived yet."""
        found = self.windows.lag()
        for deriver in self.derivers:
            found[deriver.plan.topic] += deriver.lag()
        return found


def looked_up(plan: ProjectPlan) -> ProjectPlan:
    """The project with the groups and tables alone that derived streams look up."""
    bindings = [binding for derived in plan.derived.values() for binding in derived.view.bindings]
    groups = {b.source: plan.groups[b.source] for b in bindings if not b.is_table}
    tables = {b.source: plan.tables[b.source] for b in bindings if b.is_table}
    return replace(plan, groups=groups, tables=tables)


def state_name(plan: ProjectPlan) -> str:
    """Names the state of the look-ups by what is in it: another set of groups and tables needs another one, filled from
    the beginning of the feature log."""
    chosen = looked_up(plan)
    groups, tables = chosen.groups.values(), chosen.tables.values()
    versions = sorted([group.version for group in groups] + [table.version for table in tables])
    return hashlib.blake2b(" ".join(versions).encode(), digest_size=8).hexdigest()
