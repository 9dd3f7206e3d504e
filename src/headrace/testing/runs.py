"""One log run through the real workers over parts in memory: as it came, with restarts, shuffled with duplicates."""

from __future__ import annotations

import random
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.core.columns import Column
from headrace.core.time import MIN_US, SimulatedClock
from headrace.derivation.anew import Rederivation
from headrace.derivation.worker import ComputingLayer
from headrace.engines.stream.commits import TABLES
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.generation import at_generations, generations_of
from headrace.features.plan import ProjectPlan, StreamPlan, ViewPlan
from headrace.ingestion.archive import ArchiveWorker
from headrace.ingestion.materialize import OnlineIngest
from headrace.retrieval.history import HistoryReader, ServedAt
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.past import Past
from headrace.retrieval.rows import FeatureBlock
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.testing.arrivals import Arrival

_SEED = 20_130_101
"""Shuffles are the same in every run, so that a failing test fails again."""


class Run:
    """Logs and stores after everything given has gone through; `horizon_us` is the online store's as-of horizon.

    Derived streams are derived once everything is there, or with `live` as each arrival comes: then a record holds what
    was known just after its source had arrived.
    """

    def __init__(self, plan: ProjectPlan, horizon_us: int, *, live: bool = False) -> None:
        self._plan = plan
        self._live = live
        self._horizon_us = horizon_us
        self._clock = SimulatedClock(MIN_US)
        self._raw, self._features = MemoryEventLog(self._clock), MemoryEventLog(self._clock)
        self._online, self._offline = MemoryOnlineStore(), MemoryOfflineStore()
        self._looked_up = MemoryOnlineStore()
        self._features.create(TABLES)

    def online(self, view: ViewPlan, request: Mapping[str, Column]) -> FeatureBlock:
        """Read from the online store."""
        return OnlineReader(view, self._plan, self._online, horizon_us=self._horizon_us).read(request)

    def history(self, view: ViewPlan, request: Mapping[str, Column], served: ServedAt | None = None) -> FeatureBlock:
        """Read from archive and log."""
        return HistoryReader(view, self._plan, self._past()).read(request, served)

    def _past(self) -> Past:
        return Past(self._plan, self._raw, self._features, self._offline)

    def at_once(self, arrivals: Sequence[Arrival]) -> Run:
        """Everything appended, then computed and ingested in one step each; history reads the log alone."""
        with tempfile.TemporaryDirectory() as folder:
            workers = self._workers(Path(folder))
            for arrival in arrivals:
                self._append(arrival, arrival.arrival_us)
                if self._live:
                    workers.drain()
            workers.drain()
        return self

    def with_restarts(self, arrivals: Sequence[Arrival]) -> Run:
        """One step per arrival; new workers in the middle of the log, and once more with events not yet ingested.

        The first restart finds no checkpoint, the second one does. History reads the archive of the first half and
        the log of the second.
        """
        with tempfile.TemporaryDirectory() as folder:
            workers = self._workers(Path(folder))
            for number, arrival in enumerate(arrivals):
                if number == len(arrivals) // 2:
                    workers.drain(derive=self._live)
                    workers.archive.step()
                    workers = self._workers(Path(folder))
                self._append(arrival, arrival.arrival_us)
                workers.step(derive=self._live)
                if number % 2:
                    workers.ingest.step()
            workers.compute.checkpoint()
            workers = self._workers(Path(folder))
            workers = self._derived_with_restarts(workers, Path(folder))
            workers.drain()
        return self

    def _derived_with_restarts(self, workers: _Workers, folder: Path) -> _Workers:
        """Derive stream by stream, as few events as may be at a time, every other time by new workers."""
        for index in range(len(self._plan.derived)):
            turn = 0
            while workers.compute.derive(workers.compute.derivers[index], 1):
                turn += 1
                if turn % 2:
                    workers = self._workers(folder)
        return workers

    def shuffled(self, arrivals: Sequence[Arrival]) -> Run:
        """The arrivals in another order, events with an id twice, computed and ingested at random moments."""
        rng = random.Random(_SEED)
        now_us = max((arrival.arrival_us for arrival in arrivals), default=MIN_US)
        with tempfile.TemporaryDirectory() as folder:
            workers = self._workers(Path(folder))
            for arrival in _with_copies(self._plan, _another_order(self._plan, arrivals, rng), rng):
                self._append(arrival, now_us)
                if rng.random() < 0.3:
                    workers.step(derive=False)
                if rng.random() < 0.3:
                    workers.ingest.step()
            workers.drain()
        return self

    def derived_anew(self) -> Run:
        """Derive anew, of all that is known, what was derived as each event arrived; then publish it and go on.

        Deriving is begun again until there is nothing left to do.
        """
        following = {first: number + 1 for first, number in generations_of(self._plan).items()}
        plan = at_generations(self._plan, following)

        def begun() -> Rederivation:
            return Rederivation(
                plan, plan.derived, self._raw, self._features, self._offline, self._online,
                horizon_us=self._horizon_us, at_once=2,
            )  # fmt: skip

        work = begun()
        while work.advance():
            work = begun()
        work.publish()
        with tempfile.TemporaryDirectory() as folder:
            self._workers(Path(folder)).drain()
            self._plan, self._looked_up = plan, MemoryOnlineStore()
            self._workers(Path(folder) / "anew").drain()
        return self

    def _workers(self, folder: Path) -> _Workers:
        return _Workers(
            ComputingLayer(
                self._plan,
                self._raw,
                self._features,
                folder / "compute.checkpoint",
                state=lambda: self._looked_up,
                past=self._past,
                horizon_us=self._horizon_us,
            ),
            OnlineIngest(self._plan, self._features, self._online, horizon_us=self._horizon_us),
            ArchiveWorker(self._plan, self._raw, self._features, self._offline),
        )

    def _append(self, arrival: Arrival, now_us: int) -> None:
        self._clock.advance_to(now_us)
        (self._features if arrival.is_row else self._raw).append([arrival.append_to(self._plan)])


class _Workers:
    def __init__(self, compute: ComputingLayer, ingest: OnlineIngest, archive: ArchiveWorker) -> None:
        self.compute = compute
        self.ingest = ingest
        self.archive = archive

    def step(self, *, derive: bool = True) -> int:
        """One step of compute; without `derive` over raw streams alone."""
        return self.compute.step() if derive else self.compute.windows.step(only=self.compute.plan.streams)

    def drain(self, *, derive: bool = True) -> None:
        while self.step(derive=derive):
            pass
        while self.ingest.step():
            pass


def _another_order(plan: ProjectPlan, arrivals: Sequence[Arrival], rng: random.Random) -> list[Arrival]:
    """A random order in which everything that the order of the log decides by rule stays as it was."""
    chains: dict[Any, deque[Arrival]] = {}
    repeated = _streams_with_repeated_ids(plan, arrivals)
    for number, arrival in enumerate(arrivals):
        chains.setdefault(_chain(plan, arrival, number, repeated), deque()).append(arrival)
    turns = [name for name, chain in chains.items() for _ in chain]
    rng.shuffle(turns)
    return [chains[name].popleft() for name in turns]


def _chain(plan: ProjectPlan, arrival: Arrival, number: int, repeated: set[str]) -> Any:
    """What must keep its order has the same name: rows of one key and time; events of one time without ids; whole
    streams whose verdicts look at what came before."""
    if arrival.is_row:
        return arrival.source, arrival.key(plan), arrival.time_us
    stream = plan.streams[arrival.source]
    if stream.lateness_us is not None or stream.name in repeated:
        return stream.name
    return (stream.name, arrival.time_us) if stream.schema.id_field is None else number


def _with_copies(plan: ProjectPlan, arrivals: Sequence[Arrival], rng: random.Random) -> list[Arrival]:
    """Each event with an id a second time where its stream must see a duplicate: just behind it, or at the end."""
    repeated = _streams_with_repeated_ids(plan, arrivals)
    ends: dict[str, int] = {}
    for arrival in arrivals:
        ends[arrival.source] = max(ends.get(arrival.source, MIN_US), arrival.time_us or MIN_US)
    clocks: dict[str, int] = {}
    out: list[Arrival] = []
    behind: list[Arrival] = []
    for arrival in arrivals:
        out.append(arrival)
        stream = plan.streams.get(arrival.source)
        if arrival.is_row or stream is None or stream.schema.id_field is None:
            continue
        clocks[stream.name] = max(clocks.get(stream.name, MIN_US), arrival.time_us or MIN_US)
        within = ends[stream.name] - clocks[stream.name] <= stream.dedupe_us
        may_wait = within and stream.lateness_us is None and stream.name not in repeated
        (behind if may_wait and rng.random() < 0.5 else out).append(arrival)
    rng.shuffle(behind)
    return out + behind


def _streams_with_repeated_ids(plan: ProjectPlan, arrivals: Sequence[Arrival]) -> set[str]:
    """Streams in which an id was given more than once: which of the events counts depends on their order."""
    seen: set[tuple[str, Any]] = set()
    found: set[str] = set()
    for arrival in arrivals:
        identity = None if arrival.is_row else _id(plan.streams[arrival.source], arrival)
        if identity is not None:
            if (arrival.source, identity) in seen:
                found.add(arrival.source)
            seen.add((arrival.source, identity))
    return found


def _id(stream: StreamPlan, arrival: Arrival) -> Any:
    return None if stream.schema.id_field is None else arrival.values[stream.schema.id_field]
