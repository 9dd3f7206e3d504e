"""When jobs run, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headrace.catalog.catalog import Catalog
from headrace.core.errors import CheckFailed, ConfigError, StoreError
from headrace.core.time import US_PER_HOUR, US_PER_MINUTE, SimulatedClock
from headrace.orchestration.schedule import Job, Scheduler, period_of


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(tmp_path / "catalog.db", SimulatedClock(0))
    yield catalog
    catalog.close()


def test_runs_fall_on_multiples_of_the_period_and_missed_ones_are_made_up_by_one(catalog: Catalog) -> None:
    ran: list[tuple[str, int]] = []
    hour = US_PER_HOUR

    def work(name: str) -> Any:
        return lambda at: ran.append((name, at // hour))

    jobs = [Job("b", hour, work("b")), Job("a", hour, work("a")), Job("late", 6 * hour, work("late"), 2 * hour)]
    scheduler = Scheduler(catalog, jobs, hour + 1)
    assert scheduler.next_us == 2 * hour
    assert scheduler.run_due(2 * hour - 1) == 0
    assert scheduler.run_due(2 * hour) == 3
    assert scheduler.run_due(9 * hour + 5) == 3
    assert ran == [("a", 2), ("b", 2), ("late", 2), ("a", 3), ("b", 3), ("late", 8)]
    assert scheduler.next_us == 10 * hour


def test_a_failure_is_tried_again_and_then_raises_an_alert(catalog: Catalog) -> None:
    def work(at: int) -> Mapping[str, Any] | None:
        raise StoreError("the disk is full")

    scheduler = Scheduler(catalog, [Job("batch", US_PER_HOUR, work, attempts=3)], 0)
    times = []
    for _ in range(4):
        times.append(scheduler.next_us)
        scheduler.run_due(scheduler.next_us)
    assert times == [0, US_PER_MINUTE, 2 * US_PER_MINUTE, US_PER_HOUR]
    runs = catalog.runs("batch")
    assert [(run.status, run.attempt) for run in reversed(runs)] == [("failed", n) for n in (1, 2, 3, 1)]
    assert [(alert.kind, alert.subject) for alert in catalog.alerts()] == [("job failed", "batch")]


def test_a_refused_check_is_not_tried_again(catalog: Catalog) -> None:
    def work(at: int) -> Mapping[str, Any] | None:
        raise CheckFailed("too few rows")

    scheduler = Scheduler(catalog, [Job("batch", US_PER_HOUR, work)], 0)
    scheduler.run_due(0)
    assert scheduler.next_us == US_PER_HOUR
    assert [run.status for run in catalog.runs("batch")] == ["refused"]
    assert [alert.kind for alert in catalog.alerts()] == ["data check"]


def test_schedules_are_read() -> None:
    assert [period_of(text) for text in ("@hourly", "@daily", "15m")] == [
        US_PER_HOUR, 24 * US_PER_HOUR, 15 * US_PER_MINUTE,
    ]  # fmt: skip
    for wrong in ("daily", "0m", "* * * * *"):
        with pytest.raises(ConfigError):
            period_of(wrong)
