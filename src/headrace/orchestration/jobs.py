"""The jobs of a project: what `headrace run schedule` runs by the machine's clock and a replay by the simulated one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.core.time import US_PER_DAY, US_PER_HOUR, Clock
from headrace.engines.batch.runner import BatchRunner
from headrace.features.plan import ModelPlan, ProjectPlan, TablePlan
from headrace.orchestration.rollout import Rollout
from headrace.orchestration.schedule import Job, period_of
from headrace.orchestration.watch import ModelWatch

LOOK_AT_US = 5 * US_PER_HOUR
"""Models are looked after at 05:00 UTC, when little happens on either side of the Atlantic."""


Where = Callable[[int], str]
"""From the time of a run to an SQL condition."""


@dataclass(slots=True)
class RunControl:
    """What a long run asks and tells on its way: whether to `stop`, and that it is alive."""

    stop: Callable[[], bool] = lambda: False
    alive: Callable[[], object] = lambda: None


def batch_jobs(project: ProjectPlan, runner: BatchRunner, control: RunControl | None = None) -> list[Job]:
    """One job per table with a query and a schedule, in order of the tables."""
    return [
        batch_job(f"batch {table.name}", table, table.schedule, runner, control)
        for table in project.tables.values()
        if table.query is not None and table.schedule is not None
    ]


def batch_job(
    name: str,
    table: TablePlan,
    schedule: str,
    runner: BatchRunner,
    control: RunControl | None = None,
    where: Where | None = None,
) -> Job:
    """A job that runs a table, or the part of it that `where` names."""
    return Job(name, period_of(schedule), _batch(table, runner, control or RunControl(), where))


def _batch(
    table: TablePlan, runner: BatchRunner, control: RunControl, where: Where | None
) -> Callable[[int], Mapping[str, Any] | None]:
    def work(now_us: int) -> Mapping[str, Any] | None:
        # A row older than the TTL can never be read again, so there is no need to ask for it.
        since = None if table.ttl_us is None else now_us - table.ttl_us
        part = None if where is None else where(now_us)
        # Asked at each step, since whoever made the jobs may say only later whom to ask.
        report = runner.run(
            table, since_us=since, where=part, stop=lambda: control.stop(), progress=lambda *_: control.alive()
        )
        if not report.appended and not report.left:
            return None
        stopped = {"left": report.left} if report.left else {}
        return {"rows": report.rows, "appended": report.appended, "checks": report.checks, **stopped}

    return work


def watch_job(watch: ModelWatch, period_us: int = US_PER_DAY) -> Job:
    """The daily look at a model."""
    return Job(f"watch {watch.model.name}", period_us, watch.look, LOOK_AT_US % period_us)


def every(name: str, period_us: int, work: Callable[[], Any], offset_us: int = 0) -> Job:
    """A job that leaves no record of its runs unless one fails."""

    def quiet(_: int) -> None:
        work()

    return Job(name, period_us, quiet, offset_us)


def rollout_jobs(model: ModelPlan, rollout: Rollout, clock: Clock, period_us: int) -> list[Job]:
    """What goes on with promotions in steps; nothing where a model declares none."""
    if model.promote is None or not model.promote.steps:
        return []
    return [every(f"rollout {model.name}", period_us, lambda: rollout.advance(clock.now_us()))]
