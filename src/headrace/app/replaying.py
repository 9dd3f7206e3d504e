"""Wires a replay: the feeder as a process of its own, and everything that follows it in this one."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from headrace.app.scheduled import group_jobs
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.core.time import US_PER_DAY, US_PER_HOUR, SimulatedClock, floor_to
from headrace.features.discover import load_project
from headrace.features.plan import ModelPlan, ProjectPlan
from headrace.orchestration.disorder import ArrivingEvents, CleanEvents, Disorder, disturb
from headrace.orchestration.jobs import LOOK_AT_US, batch_jobs, every, rollout_jobs, watch_job
from headrace.orchestration.replay import (
    Background,
    Feeder,
    Replay,
    ReplayProgress,
    ReplayResult,
    feeder_alive,
)
from headrace.orchestration.retraining import RetrainingLoop, TriggerState
from headrace.orchestration.schedule import Scheduler
from headrace.orchestration.watch import ModelWatch, SkewWatch
from headrace.serving.prediction_log import PredictionLog

WEEK_US = 7 * US_PER_DAY


@dataclass(frozen=True, slots=True)
class ReplaySpec:
    """What to replay: a project's folder (with `data.py`, which gives its history), and how.

    Attributes:
        project: folder of the definitions and of `data.py`.
        state: folder of the scratch copy of all parts; must be empty or absent.
        until_us: events and requests that come up later are left out.
        serve_from_us: when the first model is trained and scoring begins.
        tick_us: length of a tick.
        seed, disorder: of the injected disorder.
        fit_us: simulated time that a fit takes. In the second that it really takes a replay gets on by days, so with
            too little of it the replay waits.
        scheduled: µs between two runs, by version, of the groups that do not run in the stream.
    """

    project: Path
    state: Path
    until_us: int
    serve_from_us: int
    tick_us: int
    seed: int
    disorder: Disorder = field(default_factory=Disorder)
    fit_us: int = US_PER_DAY
    scheduled: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """A project's history: events as they became known, the same events disturbed, and sources of its tables."""

    clean: dict[str, CleanEvents]
    arriving: dict[str, ArrivingEvents]
    sources: dict[str, Any]


def load_history(spec: ReplaySpec, plan: ProjectPlan) -> History:
    """Read a project's history through its `data.py`, whose `load()` has `streams` and `sources`."""
    loaded = data_module(spec.project).load()
    clean = {name: CleanEvents.from_arrow(plan.streams[name].schema, t) for name, t in loaded.streams.items()}
    return History(clean, disturb(clean, seed=spec.seed, disorder=spec.disorder), dict(loaded.sources))


def data_module(project: Path) -> ModuleType:
    """Import a project's `data.py` under a name of its own."""
    # By the whole path: two scratch copies may have one name.
    name = f"headrace_data_{hashlib.blake2b(str(project.resolve()).encode(), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, project / "data.py")
    if found is None or found.loader is None:
        raise FileNotFoundError(f"{project} has no data.py to replay from")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def settings_of(spec: ReplaySpec) -> Settings:
    """Settings of a replay: embedded parts in its scratch folder, made durable now and then instead of always."""
    return Settings(folder=spec.project, state=spec.state, sync=False)


def open_parts(spec: ReplaySpec, plan: ProjectPlan) -> Parts:
    """The parts of a replay, on a simulated clock."""
    return Parts(settings_of(spec), plan, SimulatedClock(0))


def feed(spec: ReplaySpec) -> None:
    """The feeder process: the computing layer and the archive, a few simulated days ahead of its followers at most."""
    plan = replace(load_project(spec.project), scheduled=spec.scheduled)
    arriving, computing, scheduled = (open_parts(spec, plan) for _ in range(3))
    history = load_history(spec, plan)
    streams = {name: stream.until(spec.until_us) for name, stream in history.arriving.items()}
    for name in streams:
        arriving.raw.create(name)
    archive = scheduled.archive()
    jobs = [
        *batch_jobs(plan, scheduled.batch(history.sources)),
        every("archive", 2 * WEEK_US, lambda: archive.step(1_000_000)),
    ]
    feeder = Feeder(
        _clock_of(arriving),
        arriving.raw,
        _clock_of(computing),
        computing.compute(),
        computing.features,
        _clock_of(scheduled),
        Scheduler(scheduled.catalog, jobs, _start(history)),
    )
    with _many_small_steps():
        feeder.run(streams, spec.tick_us, follow=True)
    for parts in (arriving, computing, scheduled):
        parts.close()


def _clock_of(parts: Parts) -> SimulatedClock:
    assert isinstance(parts.clock, SimulatedClock)
    return parts.clock


@dataclass
class ReplayRun:
    """A wired replay: `run` it, then look at `watch`, `skew`, `result` and `parts`."""

    spec: ReplaySpec
    parts: Parts
    model: ModelPlan
    history: History
    requests: CleanEvents
    watch: ModelWatch
    skew: SkewWatch
    replay: Replay
    predictions: PredictionLog
    background: Background
    fitting: ThreadPoolExecutor
    feeder: BaseProcess
    result: ReplayResult | None = None

    def run(self) -> ReplayResult:
        """Replay, then finish what runs in the background."""
        with _many_small_steps():
            self.result = self.replay.run(self.requests)
        self.predictions.flush()
        self.watch.conclude()
        self.background.finish()
        self.fitting.shutdown()
        return self.result

    def close(self) -> None:
        """End what still runs, after a failure too, and close the parts: from here on nothing writes to the folder."""
        self.background.cancel()
        self.fitting.shutdown(cancel_futures=True)
        self.feeder.terminate()
        self.feeder.join()
        self.parts.close()


@contextmanager
def _many_small_steps() -> Iterator[None]:
    """Sets Python up for hundreds of thousands of ticks, and back."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    # Other threads only fit and audit; they must not make a tick wait for the usual 5 ms whenever it lets them in.
    sys.setswitchinterval(0.0005)
    # What is there by now stays, and ticks leave few cycles: looking for them all the time costs a twentieth.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def start_feeder(spec: ReplaySpec) -> BaseProcess:
    """Start the feeding process; it needs some seconds to get going, so start it before anything else."""
    feeder = multiprocessing.get_context("spawn").Process(
        target=feed, args=(spec,), name="headrace-feeder", daemon=True
    )
    feeder.start()
    return feeder


def wire_replay(
    spec: ReplaySpec,
    plan: ProjectPlan,
    model: ModelPlan,
    progress: Callable[[ReplayProgress], None] | None = None,
    feeder: BaseProcess | None = None,
) -> ReplayRun:
    """Open the parts, start the feeder unless it was started, and wire what follows it.

    Groups run as the specification says, whatever `plan` does.
    """
    from headrace.monitoring.truth import TruthTracker
    from headrace.retrieval.past import Past
    from headrace.serving.scorer import Scorer
    from headrace.serving.split import read_split

    feeder = feeder or start_feeder(spec)
    plan = replace(plan, scheduled=spec.scheduled)
    parts = open_parts(spec, plan)
    for name in plan.streams:
        parts.raw.create(name)
    history = load_history(spec, plan)
    requests = _requests_until(history.clean[plan.views[model.view].stream], spec.until_us)
    ingest = parts.ingest()
    past = Past(plan, parts.raw, parts.features, parts.offline, until=lambda: ingest.position.windows)
    log = PredictionLog(parts.internal, gather=20)
    split = partial(read_split, parts.catalog.setting, model.name)
    scorer = Scorer(plan, model, parts.reader(model.view), parts.registry, parts.clock, log, split=split)
    tracker = TruthTracker(
        plan,
        model,
        parts.raw,
        parts.features,
        parts.internal,
        keep_us=400 * US_PER_DAY,
        until=lambda: ingest.position.windows,
    )
    loop = RetrainingLoop(plan, model, past, parts.registry, parts.catalog, served=tracker)
    watch = ModelWatch(
        plan,
        model,
        tracker,
        loop,
        parts.registry,
        parts.catalog,
        TriggerState(model.retrain, spec.serve_from_us),
        spec.serve_from_us,
    )
    fitting = ThreadPoolExecutor(1, thread_name_prefix="replay-fit")
    watch.beside, watch.fit_us = (lambda work: fitting.submit(work)), spec.fit_us
    skew = SkewWatch(plan, model, parts.internal, past, parts.catalog)
    background = Background()
    jobs = [
        *group_jobs(parts, lambda: ingest.position.streams),
        *rollout_jobs(model, loop.rollout, parts.clock, US_PER_HOUR),
        every("audit", 4 * WEEK_US, lambda: background.submit(skew.look), US_PER_DAY),
        # Before the look of the same time, which reads them: jobs that are due together run in order of their names.
        every("flush predictions", US_PER_DAY, log.flush, LOOK_AT_US),
        watch_job(watch),
    ]
    start = _start(history)
    clock = _clock_of(parts)
    clock.advance_to(start)
    replay = Replay(
        clock,
        parts.features,
        ingest,
        scorer,
        Scheduler(parts.catalog, jobs, start),
        feeder_alive(feeder),
        spec.tick_us,
        spec.serve_from_us,
        progress,
    )
    return ReplayRun(spec, parts, model, history, requests, watch, skew, replay, log, background, fitting, feeder)


def _start(history: History) -> int:
    """The hour in which the first event becomes known."""
    return floor_to(min(int(clean.known_us[0]) for clean in history.clean.values() if len(clean.known_us)), US_PER_HOUR)


def _requests_until(clean: CleanEvents, until_us: int) -> CleanEvents:
    stop = int(np.searchsorted(clean.known_us, until_us, "right"))
    return CleanEvents(clean.schema, clean.block.slice(0, stop), clean.known_us[:stop])
