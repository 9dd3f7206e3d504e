"""What `headrace run schedule` does when: the project's jobs on the machine's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.app.refresh import seen_sources
from headrace.core.errors import PlanError
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.app.wiring import Parts
    from headrace.engines.batch.runner import BatchRunner
    from headrace.features.plan import ModelPlan
    from headrace.orchestration.jobs import RunControl
    from headrace.orchestration.schedule import Job, Scheduler

_AUDIT_US = 10 * US_PER_MINUTE
_COMPACT_US = 3 * US_PER_HOUR
_AUDITED = "audited until "
_IN_FILES = ("duckdb", "sqlite")
_DUCKDB = (".duckdb", ".ddb")
"""Schemes of databases that are a file, and how files of DuckDB are called."""


def project_scheduler(
    parts: Parts,
    runner: BatchRunner | None = None,
    control: RunControl | None = None,
    *,
    reconcile: bool = True,
) -> tuple[Scheduler, list[str]]:
    """The scheduler of a project, and the names of the jobs that run at its start.

    Every table with a query runs at the start (a run appends only what is new) and by its schedule, and so does every
    scheduled group; active parts of tables run by theirs; truth is joined by the minute; models with triggers are
    looked after by the hour; served values are audited every ten minutes; the online store is compared with the
    archive, unless `reconcile` is False. `runner` and `control` are those of tables.
    """
    from headrace.app.reconciling import reconcile_job, reconciler
    from headrace.app.scheduled import group_jobs
    from headrace.orchestration.jobs import batch_jobs
    from headrace.orchestration.schedule import Scheduler

    now = parts.clock.now_us()
    runner = runner or parts.batch(sources_of(parts))
    at_start = batch_jobs(parts.plan, runner, control) + _unscheduled(parts, runner, control) + group_jobs(parts)
    jobs = [*at_start, *_upkeep(parts), *_active(parts, runner, control)]
    if reconcile and parts.settings.reconcile_s:
        jobs.append(reconcile_job(parts, reconciler(parts), control))
    for model in parts.plan.models.values():
        jobs += _model_jobs(parts, model, now)
    for job in jobs:
        parts.catalog.abandon_runs("the process ended while it ran", job.name)
    for model in parts.plan.models.values():
        parts.catalog.abandon_runs("the process ended while it ran", f"retrain {model.name}")
    return Scheduler(parts.catalog, jobs, now), [job.name for job in at_start]


def _upkeep(parts: Parts) -> list[Job]:
    """Raw topics lose what is old and archived, by the hour; the archive's small files become large ones at night."""
    from headrace.app.retention import trim_raw
    from headrace.app.settings import retention_us
    from headrace.orchestration.jobs import every

    keep_us = retention_us(parts.settings.retention)

    def compact() -> None:
        for table in parts.offline.tables():
            parts.offline.compact(table)

    jobs = [every("compact archive", US_PER_DAY, compact, offset_us=_COMPACT_US)]
    if keep_us is not None:
        jobs.append(every("retention", US_PER_HOUR, lambda: trim_raw(parts, keep_us)))
    return jobs


def sources_of(parts: Parts) -> dict[str, object]:
    """The configured sources of queries; paths, of database files too, are relative to the project's folder."""
    folder = parts.settings.folder
    configured = {name: _placed(folder, address) for name, address in parts.settings.sources.items()}
    return {**configured, **seen_sources(parts.settings)}


def _placed(folder: Path, address: str) -> str:
    scheme, mark, path = address.partition(":///")
    if mark and scheme in _IN_FILES and path:
        return f"{scheme}:///{folder / path}"
    if "://" in address:
        return address
    return f"duckdb:///{folder / address}" if address.endswith(_DUCKDB) else str(folder / address)


def _active(parts: Parts, runner: BatchRunner, control: RunControl | None) -> list[Job]:
    """The refreshes of active entities."""
    from headrace.app.refresh import active_part
    from headrace.orchestration.jobs import batch_job

    jobs = []
    for name, refresh in parts.settings.refresh.items():
        table = parts.plan.tables.get(name)
        if table is None:
            raise PlanError(f"[refresh.{name}]: there is no table {name}; there are {', '.join(parts.plan.tables)}")
        where = active_part(parts, table, refresh)
        jobs.append(batch_job(f"batch {name} active", table, refresh.every, runner, control, where))
    return jobs


def _unscheduled(parts: Parts, runner: BatchRunner, control: RunControl | None) -> list[Job]:
    """Tables with a query and no schedule run once per start: their period never ends."""
    from dataclasses import replace

    from headrace.orchestration.jobs import batch_jobs

    plan = parts.plan
    once = {
        name: replace(table, schedule="36500d")
        for name, table in plan.tables.items()
        if table.query is not None and table.schedule is None
    }
    return batch_jobs(replace(plan, tables=once), runner, control)


def _model_jobs(parts: Parts, model: ModelPlan, now_us: int) -> list[Job]:
    from headrace.monitoring.truth import TruthTracker
    from headrace.orchestration.jobs import every, rollout_jobs, watch_job
    from headrace.orchestration.retraining import RetrainingLoop, TriggerState
    from headrace.orchestration.rollout import Rollout
    from headrace.orchestration.watch import ModelWatch, SkewWatch

    tracker = TruthTracker(parts.plan, model, parts.raw, parts.features, parts.internal)
    skew = SkewWatch(parts.plan, model, parts.internal, parts.past, parts.catalog)
    skew.offset = int(parts.catalog.setting(_AUDITED + model.name, 0))

    def audited() -> None:
        before = skew.offset
        while skew.look().rows:
            pass
        if skew.offset != before:
            parts.catalog.set_setting(_AUDITED + model.name, skew.offset)

    jobs = [
        *rollout_jobs(model, Rollout(model, parts.registry, parts.catalog), parts.clock, US_PER_MINUTE),
        every(f"truth {model.name}", US_PER_MINUTE, tracker.update),
        every(f"audit {model.name}", _AUDIT_US, audited, offset_us=30 * 1_000_000),
    ]
    if model.retrain:
        last = parts.catalog.runs(f"retrain {model.name}", limit=1)
        started = last[0].started_us if last else now_us - US_PER_DAY
        loop = RetrainingLoop(parts.plan, model, parts.past, parts.registry, parts.catalog, served=tracker)
        triggers = TriggerState(model.retrain, started)
        watch = ModelWatch(parts.plan, model, tracker, loop, parts.registry, parts.catalog, triggers)
        jobs.append(watch_job(watch, US_PER_HOUR))
    return jobs
