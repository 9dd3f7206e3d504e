"""`headrace demo flights`: a year of real flights through the whole loop, then the last hours over real services."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrace.app.changes import project_changes
from headrace.app.live import LiveResult, run_live
from headrace.app.replaying import ReplayRun, ReplaySpec, start_feeder, wire_replay
from headrace.core.accuracy import average_precision
from headrace.core.columns import FloatArray, IntArray
from headrace.core.errors import ConfigError, NotFound
from headrace.core.time import US_PER_DAY, from_us, parse_duration, parse_time
from headrace.features.discover import load_project
from headrace.features.plan import ProjectPlan
from headrace.monitoring.skew import Audit
from headrace.monitoring.truth import TruthTracker
from headrace.orchestration.replay import ReplayProgress, freshness_us
from headrace.registry.base import CHAMPION
from headrace.registry.predictor import load_model

MARK = "headrace-demo"
"""A file in the demo's state folder that says it may be wiped."""
_PACKAGES = ("headrace", "numpy", "numba", "pyarrow", "lmdb", "deltalake", "duckdb", "lightgbm", "scikit-learn")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to replay and where.

    Attributes:
        state: scratch folder of all parts; wiped first if a demo made it.
        until: end of the replay; what comes up later goes over HTTP.
        train_at: when the first model is trained (on all before) and scoring begins.
        live_until: end of the part over HTTP.
        tick: length of a tick.
    """

    state: Path
    seed: int = 7
    train_at: str = "2013-02-01T05:00:00Z"
    until: str = "2013-12-31T15:00:00Z"
    live_until: str = "2014-01-01T12:00:00Z"
    tick: str = "2m"

    def spec(self, project: Path) -> ReplaySpec:
        """The replay of these options, for the project in a folder."""
        return ReplaySpec(
            project,
            self.state,
            parse_time(self.until),
            parse_time(self.train_at),
            parse_duration(self.tick),
            self.seed,
            fit_us=3 * US_PER_DAY,
        )


@dataclass(slots=True)
class MonthFigures:
    """One month's predictions with known truth: AP of the frozen first model and of the looped one."""

    month: str
    rows: int
    positives: int
    frozen: float
    looped: float


@dataclass(slots=True)
class DemoResult:
    """Everything that the summary, the JSON figures and the report are made of."""

    options: DemoOptions
    plan: ProjectPlan
    run: ReplayRun
    live: LiveResult
    audit: Audit
    months: list[MonthFigures]
    freshness_us: IntArray
    speed: list[tuple[int, int, float]]
    replay_seconds: float
    seconds: float
    frozen: FloatArray
    dead_letters: int
    events: int
    figures: dict[str, Any] = field(default_factory=dict)


def example_folder(name: str) -> Path:
    """The folder of a bundled example; raises NotFound naming those that there are."""
    import headrace

    package = Path(headrace.__file__).parent
    for home in (package / "_examples", package.parents[1] / "examples"):
        if (home / name / "features.py").is_file():
            return home / name
    raise NotFound(f'there is no demo "{name}"; there is: flights')


def run_demo(
    name: str, options: DemoOptions, say: Callable[[str], None], progress: Callable[[str, ReplayProgress, float], None]
) -> DemoResult:
    """Replay, go live, audit, and gather the figures.

    `say` is told each phase in a line; `progress` the simulated time, where the replay is, and its real seconds.
    """
    start = time.perf_counter()
    project = example_folder(name)
    _clean(options.state)
    spec = options.spec(project)
    speed: list[tuple[int, int, float]] = []

    def seen(at: ReplayProgress) -> None:
        seconds = time.perf_counter() - start
        speed.append((at.now_us, at.events, seconds))
        progress(from_us(at.now_us).strftime("%B %Y"), at, seconds)

    say(f"replaying {project.name}: reading the events, starting the computing layer")
    feeder = start_feeder(spec)
    plan = load_project(project)
    run = wire_replay(spec, plan, next(iter(plan.models.values())), seen, feeder)
    catalog = run.parts.catalog
    catalog.apply(project_changes(plan, catalog, "").records)
    began = time.perf_counter()
    result = run.run()
    replay_seconds = time.perf_counter() - began
    say(
        f"replayed {result.events:,} events in {replay_seconds:.0f} s; auditing what was served last, starting services"
    )
    run.watch.tracker.update()
    frozen = _frozen_scores(run)
    months = months_of(run.watch.tracker, frozen)
    history = run.history
    fresh = freshness_us({k: v.until(spec.until_us) for k, v in history.arriving.items()}, spec.tick_us)
    live = run_live(run, history, parse_time(options.live_until), run.skew.finish)
    say(f"scored {live.requests:,} flights over HTTP; auditing them too")
    # The services moved the logs on: from here on all of them is the past.
    run.skew.past = run.parts.past
    run.skew.finish()
    dead = run.parts.features.end("dead_letters", 0)
    demo = DemoResult(
        options,
        plan,
        run,
        live,
        run.skew.total,
        months,
        fresh,
        speed,
        replay_seconds,
        0.0,
        frozen,
        dead,
        result.events + live.events,
    )
    demo.seconds = time.perf_counter() - start
    demo.figures = figures_of(demo)
    return demo


def _clean(state: Path) -> None:
    if state.exists():
        if not (state / MARK).is_file() and any(state.iterdir()):
            raise ConfigError(f"{state} is not empty and was not made by a demo; give another folder with --state")
        shutil.rmtree(state)
    state.mkdir(parents=True)
    (state / MARK).write_text("made by headrace demo; wiped by the next one\n")


def _frozen_scores(run: ReplayRun) -> FloatArray:
    """Scores that the very first version gives on the features as they were served to its successors."""
    first = load_model(run.parts.registry, run.model.name, 1)
    chunks = run.watch.tracker.window(-(2**62), 2**62)
    return np.concatenate([first.predict(batch.features) for batch, _, _, _ in chunks])


def months_of(tracker: TruthTracker, frozen: FloatArray) -> list[MonthFigures]:
    """Accuracy by calendar month (UTC) of the requests; `frozen` in the order of the tracker's predictions."""
    chunks = tracker.window(-(2**62), 2**62)
    t = np.concatenate([batch.t_us for batch, _, _, _ in chunks])
    labels = np.concatenate([labels for _, labels, _, _ in chunks])
    scores = np.concatenate([batch.scores for batch, _, _, _ in chunks])
    months = t.astype("datetime64[us]").astype("datetime64[M]")
    found = []
    for month in np.unique(months):
        at = (months == month) & ~np.isnan(labels)
        if at.sum():
            y = labels[at]
            ap = (float(average_precision(y, frozen[at])), float(average_precision(y, scores[at])))
            found.append(MonthFigures(str(month), int(at.sum()), int(y.sum()), *ap))
    return found


def figures_of(demo: DemoResult) -> dict[str, Any]:
    """The figures of the JSON output; docs/demo.md says what each means."""
    outcomes = [o for o in demo.run.watch.outcomes if o.version is not None and o.trigger != "first version"]
    latency = demo.live.latencies_ms
    return {
        "events": demo.events,
        "dead_letters": demo.dead_letters,
        "values_checked": demo.audit.checked,
        "values_differing": demo.audit.differing,
        "predictions": demo.audit.rows,
        "freshness_p99_s": round(float(np.percentile(demo.freshness_us, 99)) / 1e6, 3),
        "retrainings": len(outcomes),
        "retrainings_by_monitor": sum(o.trigger != "schedule" for o in outcomes),
        "promotions": sum(o.promoted for o in outcomes),
        "refusals": sum(not o.promoted for o in outcomes),
        "ap_by_month": {
            m.month: {"frozen": round(m.frozen, 4), "looped": round(m.looped, 4), "positives": m.positives}
            for m in demo.months
        },
        "http_p50_ms": round(float(np.percentile(latency, 50)), 3),
        "http_p99_ms": round(float(np.percentile(latency, 99)), 3),
        "events_per_s": round(demo.run.result.events / demo.replay_seconds) if demo.run.result else 0,
        "seconds": round(demo.seconds, 1),
        "peak_rss_mb": round(peak_rss_mb()),
    }


def as_json(demo: DemoResult) -> str:
    """The file that `--json` writes."""
    return json.dumps({"figures": demo.figures, "params": params_of(demo), "versions": versions()}, indent=1)


def params_of(demo: DemoResult) -> dict[str, Any]:
    """What was asked for."""
    options = demo.options
    return {
        "seed": options.seed,
        "tick": options.tick,
        "train_at": options.train_at,
        "until": options.until,
        "live_until": options.live_until,
        "cores": os.cpu_count(),
        "features": len(demo.plan.views[demo.run.model.view].visible),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the figures depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def peak_rss_mb() -> float:
    """Peak memory of the largest process so far, MiB: this one or any that it waited for."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def champion_of(demo: DemoResult) -> int | None:
    """The version that answers at the end."""
    return demo.run.parts.registry.alias(demo.run.model.name, CHAMPION)
