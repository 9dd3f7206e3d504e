"""Replaying a project's own archive: the whole loop on a simulated clock, in a scratch copy that is thrown away."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from headrace.app.replaying import ReplayRun, ReplaySpec, wire_replay
from headrace.app.schedules import sources_of
from headrace.core.errors import ConfigError, NotFound, PlanError
from headrace.core.time import US_PER_DAY, to_iso
from headrace.orchestration.disorder import Disorder
from headrace.orchestration.jobs import LOOK_AT_US
from headrace.orchestration.replay import DEFAULT_TICK_US, ReplayProgress

if TYPE_CHECKING:
    from headrace.app.project import Project
    from headrace.app.wiring import Parts
    from headrace.features.plan import Binding, ModelPlan, ProjectPlan

IMPORTED_US = 7 * US_PER_DAY
"""An event that arrived later than this after it happened was imported: it counts as known when it happened."""

_AS_IT_WAS = Disorder(late=0.0, duplicated=0.0, swapped=0.0, malformed=0.0)
_DATA = '''"""Events of a project's archive, as they became known."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq

HERE = Path(__file__).parent
SOURCES = {sources!r}


def load():
    streams = {{file.stem: pq.read_table(file) for file in sorted((HERE / "events").glob("*.parquet"))}}
    return SimpleNamespace(streams=streams, sources=SOURCES)
'''


class MonthOutcome(msgspec.Struct, frozen=True):
    """Average precision in one month of the first version, kept, and of the versions that the loop promoted."""

    month: str
    rows: int
    positives: int
    frozen: float
    looped: float


class ReplayOutcome(msgspec.Struct, frozen=True):
    """What the loop would have done; `values_differing` counts served values that are not the same recomputed."""

    model: str
    events: int
    scored: int
    retrainings: list[dict[str, Any]]
    promotions: int
    values_checked: int
    values_differing: int
    months: list[MonthOutcome]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(msgspec.to_builtins(self))

    def __str__(self) -> str:
        lines = [
            f"{self.events:,} events, {self.scored:,} requests scored",
            f"{self.values_differing:,} of {self.values_checked:,} values differ",
            f"{len(self.retrainings)} retrainings, {self.promotions} promotions",
        ]
        lines += [f"  {r['trigger']}: version {r['version']}: {r['reason']}" for r in self.retrainings]
        lines += [
            f"{m.month}  {m.rows:>8,} rows  {m.positives:>7,} positive  frozen {m.frozen:.4f}  looped {m.looped:.4f}"
            for m in self.months
        ]
        return "\n".join(lines)


def replay_project(
    project: Project,
    model: ModelPlan,
    since_us: int | None,
    until_us: int | None,
    progress: Callable[[ReplayProgress], None] | None = None,
) -> ReplayOutcome:
    """Replay the archive of a project: the first model is trained at `since_us` on all before, then the loop runs.

    `since_us` is moved to the next 08:00 UTC, when models are looked after.

    Uses a process beside this one, so a script that calls it needs the usual `if __name__ == "__main__":`. A folder
    with `data.py` is replayed from what that loads. Raises ConfigError if there is nothing to replay, PlanError if the
    model reads a table that is fed by `put` (such rows come from nowhere in a replay).
    """
    plan = project.definition_plan
    view = plan.views[model.view]
    fed = [name for name in sorted(_tables_behind(plan, view.bindings)) if plan.tables[name].query is None]
    if fed:
        raise PlanError(f"model {model.name} reads table {fed[0]}, which is fed by put; a replay has no rows for it")
    state = project.settings.state
    state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="replay-", dir=state) as scratch:
        folder = project.settings.folder
        first, last = 0, 0
        if not (folder / "data.py").is_file():
            folder = _copied(project, Path(scratch) / "project")
            first, last = _exported(project.parts, folder)
        elif since_us is None or until_us is None:
            raise ConfigError(f"{folder / 'data.py'} gives the events: say since when and until when to replay them")
        end = last if until_us is None else until_us
        start = first + max((end - first) // 4, US_PER_DAY) if since_us is None else since_us
        # Models are looked after once a day: the first is trained then, and only from then on there is one to ask.
        start = -(-(start - LOOK_AT_US) // US_PER_DAY) * US_PER_DAY + LOOK_AT_US
        if start >= end:
            raise ConfigError(f"there is nothing to replay between {to_iso(start)} and {to_iso(end)}")
        spec = ReplaySpec(
            folder, Path(scratch) / "state", end, start, DEFAULT_TICK_US, 0, _AS_IT_WAS, scheduled=plan.scheduled
        )
        run = wire_replay(spec, plan, model, progress)
        try:
            return _outcome(run)
        finally:
            run.close()


def _tables_behind(plan: ProjectPlan, bindings: Iterable[Binding]) -> set[str]:
    """The tables that these bindings look up, also at the events of derived streams."""
    found: set[str] = set()
    for binding in bindings:
        if binding.is_table:
            found.add(binding.source)
            continue
        topic = plan.groups[binding.source].stream
        while topic in plan.derived:
            found |= _tables_behind(plan, plan.derived[topic].view.bindings)
            topic = plan.derived[topic].source
    return found


def _copied(project: Project, folder: Path) -> Path:
    """The definitions, in a folder of their own."""
    folder.mkdir(parents=True)
    source = project.settings.folder
    if (source / "features").is_dir():
        shutil.copytree(source / "features", folder / "features")
    else:
        shutil.copy(source / "features.py", folder / "features.py")
    (folder / "headrace.toml").touch()
    (folder / "data.py").write_text(_DATA.format(sources=sources_of(project.parts)), encoding="utf-8")
    return folder


def _exported(parts: Parts, folder: Path) -> tuple[int, int]:
    """Write every stream's counted events with when each became known; returns the first and the last such time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from headrace.engines.stream.admitted import ARRIVAL

    (folder / "events").mkdir()
    first, last = 2**62, -(2**62)
    for name, stream in parts.plan.streams.items():
        time = stream.schema.time_field or ""
        rows = parts.past.events(name, [field.name for field in stream.schema])
        arrival, at = np.asarray(rows[ARRIVAL]), np.asarray(rows[time])
        known = np.where(arrival - at > IMPORTED_US, at, arrival)
        table = rows.select([field.name for field in stream.schema]).append_column("known_us", pa.array(known))
        pq.write_table(table, folder / "events" / f"{name}.parquet")
        if len(known):
            first, last = min(first, int(known.min())), max(last, int(known.max()))
    if first > last:
        raise ConfigError("no events were published yet, so there is nothing to replay")
    return first, last


def _outcome(run: ReplayRun) -> ReplayOutcome:
    from headrace.app.demo import months_of
    from headrace.registry.predictor import load_model

    try:
        result = run.run()
    except NotFound as error:
        refused = [outcome.reason for outcome in run.watch.outcomes if outcome.version is None]
        if not refused:
            raise
        raise ConfigError(
            f"no version of model {run.model.name} could be trained before the first request: {refused[0]}; replay "
            "from a later time (since)"
        ) from error
    run.watch.tracker.update()
    audit = run.skew.finish()
    months = []
    chunks = run.watch.tracker.window(-(2**62), 2**62)
    if chunks:
        first = load_model(run.parts.registry, run.model.name, 1)
        frozen = np.concatenate([first.predict(batch.features) for batch, _, _, _ in chunks])
        months = [
            MonthOutcome(m.month, m.rows, m.positives, m.frozen, m.looped) for m in months_of(run.watch.tracker, frozen)
        ]
    outcomes = run.watch.outcomes
    retrainings = [
        {"trigger": o.trigger, "version": o.version, "promoted": o.promoted, "reason": o.reason} for o in outcomes
    ]
    promoted = sum(o.promoted for o in outcomes)
    return ReplayOutcome(
        run.model.name, result.events, result.scored, retrainings, promoted, audit.checked, audit.differing, months
    )
