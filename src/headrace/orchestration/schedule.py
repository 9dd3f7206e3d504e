"""When jobs run: schedules over an injected clock, runs recorded, failures tried again.

The same scheduler stands in `headrace up` (driven by the machine's clock, every fraction of a second) and in a replay
(driven by the simulated clock, every tick), so a replay runs what production would have run, at the same times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.catalog.catalog import Catalog
from headrace.core.errors import CheckFailed, ConfigError, HeadraceError
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, floor_to, parse_duration

_NAMED = {"@hourly": US_PER_HOUR, "@daily": US_PER_DAY, "@weekly": 7 * US_PER_DAY}


def period_of(schedule: str) -> int:
    """Microseconds between two runs of "@hourly", "@daily", "@weekly" or a duration such as "15m"."""
    if schedule in _NAMED:
        return _NAMED[schedule]
    try:
        period = parse_duration(schedule)
    except ValueError:
        raise ConfigError(f'"{schedule}" is no schedule; write "@hourly", "@daily", "@weekly" or e.g. "15m"') from None
    if period <= 0:
        raise ConfigError(f'the schedule "{schedule}" has no length')
    return period


@dataclass(slots=True)
class Job:
    """A piece of work on a schedule.

    `work` gets the scheduled time and returns what is worth recording (or None). Runs fall on multiples of
    `period_us` since 1970 plus `offset_us`. With `record_quiet` False a run that returned None leaves no record.
    `attempts` is how often a run is tried before it counts as failed; the tries are `pause_us` apart.
    """

    name: str
    period_us: int
    work: Callable[[int], Mapping[str, Any] | None]
    offset_us: int = 0
    attempts: int = 3
    pause_us: int = US_PER_MINUTE
    record_quiet: bool = False


@dataclass(slots=True)
class _Due:
    at_us: int
    scheduled_us: int
    attempt: int


class Scheduler:
    """Runs due jobs one after the other. Missed runs are made up by one run, not by all of them."""

    def __init__(self, catalog: Catalog, jobs: list[Job], start_us: int) -> None:
        self._catalog = catalog
        self._jobs = {job.name: job for job in jobs}
        self._due = {job.name: self._first(job, start_us) for job in jobs}
        self._next = min((due.at_us for due in self._due.values()), default=2**63 - 1)

    @property
    def next_us(self) -> int:
        """When something is due next."""
        return self._next

    def run_due(self, now_us: int) -> int:
        """Run whatever is due at `now_us`; returns how many jobs ran."""
        if now_us < self._next:
            return 0
        ran = 0
        for name, due in sorted(self._due.items(), key=lambda item: (item[1].at_us, item[0])):
            if due.at_us <= now_us:
                self._due[name] = self._run(self._jobs[name], due, now_us)
                ran += 1
        self._next = min(due.at_us for due in self._due.values())
        return ran

    def run_now(self, name: str, now_us: int, trigger: str = "asked for") -> None:
        """Run a job out of turn; its schedule stays."""
        self._attempt(self._jobs[name], _Due(now_us, now_us, 1), trigger)

    def _first(self, job: Job, start_us: int) -> _Due:
        first = floor_to(start_us - job.offset_us, job.period_us) + job.offset_us
        if first < start_us:
            first += job.period_us
        return _Due(first, first, 1)

    def _run(self, job: Job, due: _Due, now_us: int) -> _Due:
        failed = self._attempt(job, due, "schedule")
        if failed and due.attempt < job.attempts:
            return _Due(now_us + job.pause_us, due.scheduled_us, due.attempt + 1)
        following = floor_to(now_us - job.offset_us, job.period_us) + job.offset_us + job.period_us
        return _Due(following, following, 1)

    def _attempt(self, job: Job, due: _Due, trigger: str) -> bool:
        """Run once; returns True if it should be tried again."""
        run = self._catalog.start_run(job.name, trigger, attempt=due.attempt) if job.record_quiet else None
        try:
            detail = job.work(due.scheduled_us)
        except CheckFailed as error:
            # Trying again would read the same data: the old values stay until the next scheduled run.
            self._record(run, job, trigger, due, "refused", {"reason": str(error)})
            self._catalog.raise_alert("data check", job.name, {"reason": str(error)}, "critical")
            return False
        except (HeadraceError, OSError) as error:
            self._record(run, job, trigger, due, "failed", {"reason": f"{type(error).__name__}: {error}"})
            if due.attempt >= job.attempts:
                self._catalog.raise_alert("job failed", job.name, {"reason": str(error)}, "critical")
            return True
        if detail is not None or run is not None:
            self._record(run, job, trigger, due, "done", dict(detail or {}))
        return False

    def _record(self, run: int | None, job: Job, trigger: str, due: _Due, status: Any, detail: dict[str, Any]) -> None:
        if run is None:
            self._catalog.record_run(job.name, trigger, status, detail, attempt=due.attempt)
        else:
            self._catalog.finish_run(run, status, detail)
