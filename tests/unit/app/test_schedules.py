"""The schedule of a project: tables run at the start, truth and audits by the clock, and all of it is recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

import headrace as hr
from headrace.app.doctor import examine
from headrace.app.project import Project
from headrace.app.schedules import project_scheduler
from headrace.app.services import run_layer
from headrace.core.time import US_PER_HOUR, SimulatedClock, to_us
from tests.e2e.shop import orders, outcomes, write_shop
from tests.unit.app.conftest import NOON

_TABLES = '''

class City(hr.Table, schedule="@hourly", source=hr.SQL("select user, city, now_at as at from cities")):
    """Where a user lives."""

    user: hr.Field[str] = hr.key(User)
    city: hr.Field[str]
    at: hr.Field[datetime] = hr.event_time()


class Shop(hr.Table, source=hr.SQL("select name, size from shops")):
    """Never changes: its query runs once per start."""

    name: hr.Field[str] = hr.key(hr.Entity("shop"))
    size: hr.Field[int]
'''


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    folder = write_shop(tmp_path / "shop")
    features = folder / "features.py"
    features.write_text(features.read_text() + _TABLES)
    (folder / "cities.csv").write_text("user,city,now_at\nu1,Ulm,2026-05-01T09:00:00Z\nu2,Bonn,2026-05-01T09:00:00Z\n")
    (folder / "shops.csv").write_text("name,size\nnorth,3\n")
    (folder / "headrace.toml").write_text('sync = false\n[sources]\ncities = "cities.csv"\nshops = "shops.csv"\n')
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as opened:
        opened.apply()
        yield opened


def advance(project: Project, **by: int) -> None:
    assert isinstance(project.clock, SimulatedClock)
    project.clock.advance_to(project.clock.now_us() + timedelta(**by) // timedelta(microseconds=1))


@pytest.mark.parametrize("address", ["lake/house.duckdb", "duckdb:///lake/house.duckdb", "sqlite:///lake/house.db"])
def test_a_database_in_a_file_lies_in_the_projects_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    folder = tmp_path / "shop"
    (folder / "lake").mkdir(parents=True)
    with duckdb.connect(str(folder / "lake" / "house.duckdb")) as database:
        database.execute("create table sizes as select * from (values ('north', 3), ('south', 4)) v(name, size)")
    with sqlite3.connect(folder / "lake" / "house.db") as lite:
        lite.execute("create table sizes (name text, size integer)")
        lite.executemany("insert into sizes values (?, ?)", [("north", 3), ("south", 4)])
    lite.close()
    monkeypatch.chdir(tmp_path)

    class Shop(hr.Table, source=hr.SQL("select name, size from sizes", on="house")):
        name: hr.Field[str] = hr.key(hr.Entity("shop"))
        size: hr.Field[int]

    (folder / "headrace.toml").write_text(f'[sources]\nhouse = "{address}"\n')
    with Project.open(folder, definitions=[Shop], sync=False) as opened:
        opened.ensure_applied()
        assert opened.backfill("shop").events == 2
        found = opened.get(Shop, name="south")
        assert found is not None
        assert found.size == 4
    told = {finding.what: finding for finding in examine(folder)}["source house"]
    assert (told.ok, told.found.endswith("that answers")) == (True, True), told


def test_tables_run_at_the_start_and_write_what_is_new(project: Project) -> None:
    run_layer(project.parts, "schedule", once=True)
    project.settle()
    assert project.get("shop", name="north").size == 3
    assert project.get("city", user="u1").city == "Ulm"
    runs = project.parts.catalog.runs("batch city")
    assert [(run.trigger, run.status, run.detail["appended"]) for run in runs] == [("start", "done", 2)]
    run_layer(project.parts, "schedule", once=True)
    assert len(project.parts.catalog.runs("batch city")) == 1, "a run that brings nothing new leaves no record"


def test_the_hourly_run_sees_the_changed_file(project: Project) -> None:
    scheduler, at_start = project_scheduler(project.parts)
    assert at_start == ["batch city", "batch shop"]
    for name in at_start:
        scheduler.run_now(name, project.clock.now_us(), "start")
    cities = project.settings.folder / "cities.csv"
    cities.write_text(cities.read_text().replace("Ulm,2026-05-01T09", "Jena,2026-05-01T12"))
    advance(project, hours=1)
    assert scheduler.next_us <= project.clock.now_us()
    scheduler.run_due(project.clock.now_us())
    project.settle()
    assert project.get("city", user="u1").city == "Jena"
    assert project.parts.catalog.runs("batch city")[0].trigger == "schedule"
    assert scheduler.next_us <= project.clock.now_us() + US_PER_HOUR


def test_a_source_that_is_gone_fails_the_run_and_keeps_the_rows(project: Project) -> None:
    run_layer(project.parts, "schedule", once=True)
    (project.settings.folder / "cities.csv").unlink()
    run_layer(project.parts, "schedule", once=True)
    project.settle()
    runs = project.parts.catalog.runs("batch city")
    assert runs[-1].status == "done"
    assert {run.status for run in runs[:-1]} == {"failed"}
    assert "cities" in runs[0].detail["reason"]
    assert project.get("city", user="u2").city == "Bonn"


def test_truth_is_joined_and_served_values_are_audited(project: Project) -> None:
    past = orders(400, NOON - timedelta(hours=2), step_s=1000)
    project.publish("order", past)
    project.publish("outcome", outcomes(past))
    model = project.model("risk")
    model.promote(model.train(), why="the first one")
    asked = [{"order_id": f"q{i}", "user": f"u{i}", "amount": 60.0} for i in range(5)]
    model.score(asked)
    happened = NOON + timedelta(minutes=10)
    project.publish("outcome", [{"outcome_id": "y", "order": "q1", "bad": True, "at": happened}])
    scheduler, _ = project_scheduler(project.parts)
    advance(project, minutes=20)
    scheduler.run_due(project.clock.now_us())
    assert project.parts.catalog.setting("audited until risk") == 5
    assert project.parts.catalog.alerts(open_only=True) == []
    served = project.history("risk", served=True)
    assert dict(zip(served["order_id"], served["label"], strict=True)) == {
        "q0": None,
        "q1": True,
        "q2": None,
        "q3": None,
        "q4": None,
    }
    log = project.parts.internal
    assert log.end("truth", 0) == 1
