"""A replay: history through the live pipeline on a simulated clock.

Two drivers, as in production two processes: a `Feeder` appends the events that became known, tick by tick, and lets
stream compute take a step after each; a `Replay` follows it in simulated time: ingestion applies the commits of each
tick, due jobs run, and the requests that came up are scored and logged. Workers, stores, scorer and scheduler are those
that run in production. The feeder may be ahead by some commits, as a log always is of its consumers; nothing that
follows it sees a commit before its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from headrace.core.columns import Column, IntArray
from headrace.core.errors import LogError
from headrace.core.events import encode_block
from headrace.core.time import MAX_US, US_PER_DAY, US_PER_MINUTE, SimulatedClock
from headrace.derivation.worker import ComputingLayer
from headrace.engines.stream.commits import WINDOWS
from headrace.eventlog.base import Append, EventLog
from headrace.ingestion.materialize import OnlineIngest
from headrace.orchestration.disorder import ArrivingEvents, CleanEvents
from headrace.orchestration.schedule import Scheduler

DEFAULT_TICK_US = 2 * US_PER_MINUTE
"""With facts known by the minute, a tick of two minutes makes nothing wait for longer than one."""
INGEST_GROUP = "ingest"
_LOOK_EVERY = 250
_AHEAD = 3_000
_TOGETHER = 250
_WAIT_S = 0.0005


class Scores(Protocol):
    """The scorer, as far as a replay needs it."""

    def score(self, request: Mapping[str, Column]) -> Any: ...
    def reload(self) -> bool: ...


@dataclass(slots=True)
class ReplayProgress:
    """Where a replay is: simulated time, events and requests so far."""

    now_us: int
    events: int
    scored: int


@dataclass(slots=True)
class ReplayResult:
    """What a replay did: events applied (dead letters and duplicates included), requests scored, ticks taken."""

    events: int = 0
    scored: int = 0
    ticks: int = 0


def ticks_of(streams: Mapping[str, ArrivingEvents], tick_us: int) -> IntArray:
    """Ends of the ticks in which an event arrives, int64 µs, ascending."""
    return np.unique(np.concatenate([-(-stream.known_us // tick_us) * tick_us for stream in streams.values()]))


def freshness_us(streams: Mapping[str, ArrivingEvents], tick_us: int) -> IntArray:
    """For each event the simulated time from its arrival to the end of its tick, when it is visible online."""
    return np.concatenate([-(-s.known_us // tick_us) * tick_us - s.known_us for s in streams.values()])


class Feeder:
    """The computing layer: runs its jobs when due, appends events as they become known, computes after each tick.

    It takes a few hours of ticks at a time: first the jobs that fall due in them run, then their events are appended,
    then compute steps through them. Doing one thing many times over spares the processor's caches, and the logs hold
    what they would if the three took turns: each has a clock of its own, which is that of the parts it writes to.
    Whoever sees a commit can rely on everything of before it being there.

    Attributes:
        arrivals, raw: the clock of the raw log, and the log.
        clock, compute: the clock of the feature log that the worker writes to, and the worker.
        features: a feature log, to see how far ingestion is.
        scheduled, jobs: the clock of the jobs, and the jobs.
    """

    def __init__(
        self,
        arrivals: SimulatedClock,
        raw: EventLog,
        clock: SimulatedClock,
        compute: ComputingLayer,
        features: EventLog,
        scheduled: SimulatedClock,
        jobs: Scheduler,
    ) -> None:
        self._arrivals, self._raw = arrivals, raw
        self._clock, self._compute, self._features = clock, compute, features
        self._scheduled, self._jobs = scheduled, jobs

    def run(
        self, streams: Mapping[str, ArrivingEvents], tick_us: int = DEFAULT_TICK_US, *, follow: bool = False
    ) -> None:
        """Feed everything. With `follow`, wait whenever ingestion is more than a few days of ticks behind."""
        ticks = ticks_of(streams, tick_us)
        bounds = {name: stream.bounds(ticks).tolist() for name, stream in streams.items()}
        times: list[int] = ticks.tolist()
        while self._compute.step():
            pass
        for first in range(0, len(times), _TOGETHER):
            stop = min(first + _TOGETHER, len(times))
            while self._jobs.next_us <= times[stop - 1]:
                self._scheduled.advance_to(self._jobs.next_us)
                self._jobs.run_due(self._jobs.next_us)
            appended = self._append(streams, bounds, times, range(first, stop))
            for now, waiting in zip(times[first:stop], appended, strict=True):
                self._clock.advance_to(now)
                while waiting > 0 and (read := self._compute.step(until_us=now)):
                    waiting -= read
            while follow and stop - self._features.committed(INGEST_GROUP, WINDOWS, 0) > _AHEAD:
                time.sleep(_WAIT_S)
        self._compute.checkpoint()

    def _append(
        self, streams: Mapping[str, ArrivingEvents], bounds: Mapping[str, list[int]], times: list[int], at: range
    ) -> list[int]:
        """Append the events of the ticks `at`; returns how many each has."""
        counts = []
        for index in at:
            items = []
            for name, stream in streams.items():
                start, stop = bounds[name][index - 1] if index else 0, bounds[name][index]
                if stop > start:
                    block = stream.block(start, stop)
                    items.append(Append(name, 0, encode_block(block), block.n))
            self._arrivals.advance_to(times[index])
            self._raw.append(items)
            counts.append(sum(item.count for item in items))
        return counts


class Background:
    """One thread for work that does not decide anything the replay waits for (archiving, audits).

    Its results depend on the logs alone, so it makes no difference when it gets done. A failure is raised by the next
    `submit` or by `finish`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="replay-background")
        self._futures: list[Future[Any]] = []

    def submit(self, work: Callable[[], Any]) -> None:
        """Do `work` after what was submitted before."""
        for done in [future for future in self._futures if future.done()]:
            self._futures.remove(done)
            done.result()
        self._futures.append(self._pool.submit(work))

    def finish(self) -> None:
        """Wait for all of it."""
        for future in self._futures:
            future.result()
        self._futures.clear()
        self._pool.shutdown()

    def cancel(self) -> None:
        """Wait for what is being done, drop the rest, and its failures."""
        self._futures.clear()
        self._pool.shutdown(cancel_futures=True)


@dataclass(slots=True)
class Replay:
    """Follows a feeder through simulated time.

    Attributes:
        clock: moved along as simulated time goes on.
        features: the feature log that the feeder fills.
        ingest, scorer, scheduler: what runs in every tick.
        feeding: tells whether the feeder still runs; raises if it failed.
        tick_us: as the feeder's.
        serve_from_us: requests before it are not scored (there is no model yet).
        progress: called about once per simulated day.
    """

    clock: SimulatedClock
    features: EventLog
    ingest: OnlineIngest
    scorer: Scores
    scheduler: Scheduler
    feeding: Callable[[], bool] = field(default=lambda: False)
    tick_us: int = DEFAULT_TICK_US
    serve_from_us: int = 0
    progress: Callable[[ReplayProgress], None] | None = None

    def run(self, requests: CleanEvents) -> ReplayResult:
        """Go on until the feeder's last commit is applied and the last request is scored."""
        due = -(-requests.known_us // self.tick_us) * self.tick_us
        served = int(np.searchsorted(requests.known_us, self.serve_from_us, "left"))
        times = due.tolist()
        stops = np.searchsorted(due, due, "right").tolist()
        columns = requests.block.columns
        result, day, n = ReplayResult(), -1, len(times)
        while True:
            commit = self._next_commit()
            request = times[served] if served < n else MAX_US
            now = min(commit, request)
            if now == MAX_US:
                break
            if self.scheduler.next_us < now:
                now = self.scheduler.next_us
            self.clock.advance_to(now)
            result.ticks += 1
            self.ingest.step(until_us=now)
            if now >= self.scheduler.next_us:
                self.scheduler.run_due(now)
                if now >= self.serve_from_us:
                    self.scorer.reload()
            if request == now:
                stop = stops[served]
                rows = slice(served, stop)
                self.scorer.score({name: _rows(column, rows) for name, column in columns.items()})
                result.scored += stop - served
                served = stop
            if result.ticks % _LOOK_EVERY == 0:
                self.features.commit(INGEST_GROUP, WINDOWS, 0, self.ingest.position.windows)
            if self.progress is not None and now // US_PER_DAY != day:
                day = now // US_PER_DAY
                self.progress(ReplayProgress(now, self.ingest.events, result.scored))
        result.events = self.ingest.events
        return result

    def _next_commit(self) -> int:
        """When the next commit was made; waits for the feeder if it has not got there yet. MAX_US: there is none."""
        while (arrival := self.ingest.next_arrival_us) is None:
            if not self.feeding():
                # The feeder may have appended its last commits just before it ended.
                arrival = self.ingest.next_arrival_us
                return MAX_US if arrival is None else arrival
            self.features.commit(INGEST_GROUP, WINDOWS, 0, self.ingest.position.windows)
            time.sleep(_WAIT_S)
        return arrival


def _rows(column: Column, rows: slice) -> Column:
    return Column(column.dtype, column.values[rows], None if column.valid is None else column.valid[rows])


def feeder_alive(process: Any) -> Callable[[], bool]:
    """For `Replay.feeding`: whether a feeder process still runs; raises LogError if it failed."""

    def alive() -> bool:
        if process.exitcode not in (None, 0):
            raise LogError(f"the feeding process ended with code {process.exitcode}; see its output above")
        return process.exitcode is None

    return alive
