"""The jobs of a project: what `headrace run schedule` runs by the machine's clock and a replay by the simulated one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace.core.time import US_PER_DAY, US_PER_HOUR
from headrace.engines.batch.runner import BatchRunner
from headrace.features.plan import ProjectPlan, TablePlan
from headrace.orchestration.schedule import Job, period_of
from headrace.orchestration.watch import ModelWatch

LOOK_AT_US = 5 * US_PER_HOUR
"""Models are looked after at 05:00 UTC, when little happens on either side of the Atlantic."""


def batch_jobs(project: ProjectPlan, runner: BatchRunner) -> list[Job]:
    """One job per table with a query and a schedule, in order of the tables."""
    return [
        Job(f"batch {table.name}", period_of(table.schedule), _batch(table, runner))
        for table in project.tables.values()
        if table.query is not None and table.schedule is not None
    ]


def _batch(table: TablePlan, runner: BatchRunner) -> Callable[[int], Mapping[str, Any] | None]:
    def work(now_us: int) -> Mapping[str, Any] | None:
        # A row older than the TTL can never be read again, so there is no need to ask for it.
        since = None if table.ttl_us is None else now_us - table.ttl_us
        report = runner.run(table, since_us=since)
        return {"rows": report.rows, "appended": report.appended, "checks": report.checks} if report.appended else None

    return work


def watch_job(watch: ModelWatch, period_us: int = US_PER_DAY) -> Job:
    """The daily look at a model."""
    return Job(f"watch {watch.model.name}", period_us, watch.look, LOOK_AT_US % period_us)


def every(name: str, period_us: int, work: Callable[[], Any], offset_us: int = 0) -> Job:
    """A job that leaves no record of its runs unless one fails."""

    def quiet(_: int) -> None:
        work()

    return Job(name, period_us, quiet, offset_us)
