"""The refresh of tables: active entities have a schedule of their own; a ceiling of writes; a stop; what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from headrace.app.ingesting import Ingesting
from headrace.app.project import Project
from headrace.app.schedules import project_scheduler
from headrace.app.services import ScheduleLayer, run_layer
from headrace.app.settings import load_settings
from headrace.core.errors import ConfigError, PlanError
from headrace.core.positions import decode_position
from headrace.core.time import SimulatedClock, to_us
from headrace.engines.batch import runner as runners
from tests.e2e.shop import write_shop
from tests.unit.app.conftest import NOON

TABLE = '''

class Points(hr.Table, schedule="@daily", source=hr.SQL("select user, points, seen_at from points")):
    """What a user has collected."""

    user: hr.Field[str] = hr.key(User)
    points: hr.Field[int]
'''


def opened(folder: Path, refresh: str) -> Project:
    features = folder / "features.py"
    if "Points" not in features.read_text():
        features.write_text(features.read_text() + TABLE)
    (folder / "headrace.toml").write_text(f'sync = false\n[sources]\npoints = "points.csv"\n{refresh}')
    return Project.open(folder, clock=SimulatedClock(to_us(NOON)))


def write_points(folder: Path, points: int, users: int = 3) -> None:
    days = [(f"u{i}", f"2026-04-{29 if i == 1 else 10}T00:00:00Z") for i in range(users)]
    lines = ["user,points,seen_at", *[f"{user},{points},{day}" for user, day in days]]
    (folder / "points.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_shop(tmp_path / "shop")
    write_points(folder, 1)
    return folder


def points_of(project: Project) -> list[int]:
    project.settle()
    return [project.get("points", user=f"u{i}").points for i in range(3)]


@pytest.fixture(params=["condition", "stream"])
def project(folder: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    active = {
        "condition": "active = \"seen_at > timestamptz '2026-04-20'\"",
        "stream": 'seen_in = "order.user"\nwithin = "7d"',
    }[request.param]
    with opened(folder, f'[refresh.points]\nevery = "1h"\n{active}\n') as project:
        project.apply()
        order = {"order_id": "o", "user": "u1", "amount": 5.0, "at": NOON - timedelta(days=3)}
        old = {"order_id": "p", "user": "u2", "amount": 5.0, "at": NOON - timedelta(days=9)}
        project.publish("order", [order, old])
        yield project


def test_active_entities_are_refreshed_by_their_schedule_and_all_by_that_of_the_table(project: Project) -> None:
    clock = project.clock
    assert isinstance(clock, SimulatedClock)
    scheduler, at_start = project_scheduler(project.parts)
    assert at_start == ["batch points"]
    scheduler.run_now("batch points", clock.now_us(), "start")
    assert points_of(project) == [1, 1, 1]
    write_points(project.settings.folder, 2)
    clock.advance_to(to_us(NOON + timedelta(hours=1)))
    scheduler.run_due(clock.now_us())
    assert points_of(project) == [1, 2, 1]
    (run,) = project.parts.catalog.runs("batch points active")
    assert (run.detail["rows"], run.detail["appended"]) == (1, 1)
    clock.advance_to(to_us(NOON + timedelta(hours=13)))
    scheduler.run_due(clock.now_us())
    assert points_of(project) == [2, 2, 2]
    assert project.parts.catalog.runs("batch points")[0].detail["appended"] == 2


@pytest.mark.parametrize(
    ("refresh", "words"),
    [
        ('[refresh.points]\nevery = "1h"\n', "either active"),
        ('[refresh.points]\nevery = "often"\nactive = "true"\n', '"often" is no schedule'),
        ('[refresh.points]\nevery = "1h"\nseen_in = "order.user"\n', "either active"),
        ("[refresh.points]\nhourly = true\n", "it takes every"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(folder: Path, refresh: str, words: str) -> None:
    (folder / "headrace.toml").write_text(refresh)
    with pytest.raises(ConfigError, match=words):
        load_settings(folder)


@pytest.mark.parametrize(
    ("refresh", "words"),
    [
        ('[refresh.pints]\nevery = "1h"\nactive = "true"\n', "there is no table pints"),
        ('[refresh.points]\nevery = "1h"\nseen_in = "order.nobody"\nwithin = "1d"\n', "no field of a stream"),
    ],
)
def test_a_name_that_does_not_exist_is_told_when_the_schedule_is_made(folder: Path, refresh: str, words: str) -> None:
    with opened(folder, refresh) as project:
        project.apply()
        with pytest.raises(PlanError, match=words):
            project_scheduler(project.parts)


def test_a_refresh_that_is_stopped_keeps_what_it_wrote_and_the_next_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "PIECE", 1)
    with opened(folder, "") as project:
        project.apply()
        layer = ScheduleLayer(project.parts)
        asked = iter([False, True])
        layer.stopping = lambda: next(asked)
        beats: list[int] = []
        layer.alive = lambda: beats.append(1)
        layer.step()
        assert layer.counters() == {
            "jobs_run": 1, "rows_read": 3, "rows_unchanged": 0, "rows_written": 1, "rows_dead": 0, "throttled_s": 0.0,
            "reconciled": 0, "repaired": 0, "suspected": 0, "archive_missing": 0, "archive_restored": 0,
        }  # fmt: skip
        assert beats
        (run,) = project.parts.catalog.runs("batch points")
        assert run.detail["left"] == 2
        run_layer(project.parts, "schedule", once=True)
        assert project.parts.catalog.runs("batch points")[0].detail["appended"] == 2
        assert points_of(project) == [1, 1, 1]


def test_ingestion_keeps_under_the_ceiling_and_still_comes_to_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "PIECE", 10)
    write_points(folder, 1, users=400)
    with opened(folder, "") as project:
        project.apply()
        run_layer(project.parts, "schedule", once=True)
    with Project.open(folder, clock=SimulatedClock(to_us(NOON)), writes_per_s=100) as project:
        clock = project.clock
        assert isinstance(clock, SimulatedClock)
        ingest = Ingesting(project.parts)
        written = [0.0]
        # That something is left is not nothing to do: `--once` must not end there.
        while ingest.step():
            clock.advance_to(clock.now_us() + 100_000)
            written.append(ingest.counters()["records_written"])
        assert decode_position(project.parts.online.position()).tables == 400
        assert 36 <= len(written) <= 42, "400 rows at 100 a second, a step each tenth of a second"
        assert max(b - a for a, b in zip(written, written[10:], strict=False)) <= 100 + 25 + 10
        assert ingest.counters()["throttled_s"] >= 2
