"""A shop on a clock that stands still, and one that has history and a model."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from headrace.app.project import Project
from headrace.core.time import SimulatedClock, to_us
from tests.e2e.shop import orders, outcomes, write_shop

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(to_us(NOON))


@pytest.fixture
def shop(tmp_path: Path, clock: SimulatedClock) -> Iterator[Project]:
    """An empty shop at noon."""
    with Project.open(write_shop(tmp_path / "shop"), clock=clock) as project:
        yield project


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A shop with 400 orders, their outcomes, two versions and the first of them champion; tests add to it only."""
    folder = write_shop(tmp_path_factory.mktemp("trained") / "shop")
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        model = project.model("risk")
        model.promote(model.train(), why="the first one")
        model.train()
        yield project
