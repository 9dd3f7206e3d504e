"""Reconciliation as a job and as commands, on a project of groups and a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.app.project import Project
from headrace.app.reconciling import JOB, SHARES, reconcile_all, reconcile_job, reconciler
from headrace.app.schedules import project_scheduler
from headrace.cli.main import main
from headrace.core.time import SimulatedClock, to_us
from headrace.ingestion.expected import Share
from headrace.orchestration.jobs import RunControl
from tests.e2e.bank import payments, write_bank
from tests.e2e.shop import orders, write_shop
from tests.unit.app.conftest import NOON
from tests.unit.app.test_refresh import TABLE, write_points


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_shop(tmp_path / "shop")
    features = folder / "features.py"
    features.write_text(features.read_text() + TABLE)
    (folder / "headrace.toml").write_text('sync = false\n[sources]\npoints = "points.csv"\n')
    write_points(folder, 1)
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        project.apply()
        project.publish("order", orders(60, NOON - timedelta(hours=2), step_s=60))
        scheduler, _ = project_scheduler(project.parts)
        scheduler.run_now("batch points", project.clock.now_us())
        project.settle()
    return folder


@pytest.fixture
def project(folder: Path) -> Iterator[Project]:
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        yield project


def damage(project: Project, *, every: int) -> dict[bytes, bytes]:
    """Delete and change records; returns what was there before."""
    store = project.parts.online
    sound = dict(store.scan())
    for number, key in enumerate(sorted(sound)[::every]):
        record = sound[key]
        store.write([(key, None if number % 2 else record[:-1] + bytes([record[-1] ^ 1]))], store.position())
    return sound


@pytest.mark.parametrize("seed", [3, 7])
def test_in_which_pieces_events_came_makes_no_difference(tmp_path: Path, seed: int) -> None:
    # Two partitions are read by turns, and events of one time come one after the other.
    with Project.open(write_bank(tmp_path / "bank"), clock=SimulatedClock(to_us(NOON))) as project:
        rows = payments(60, NOON, seed=seed)
        again = rows[7 + seed]
        for piece in (rows[:30], rows[30:], [again, again | {"pay_id": "new"}]):
            project.publish("pay", piece)
        assert reconcile_all(project.parts, repair=False).wrong == 0


def test_the_job_comes_to_all_shares_and_repairs_with_an_alert(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.app.reconciling._REST", -1)  # the test does not wait between two runs
    sound = damage(project, every=2)
    clock = project.clock
    assert isinstance(clock, SimulatedClock)
    scheduler, _ = project_scheduler(project.parts)
    for _ in range(SHARES):
        scheduler.run_now(JOB, clock.now_us())
    assert project.parts.catalog.setting("next share to reconcile") in range(SHARES)
    assert [alert.kind for alert in project.parts.catalog.alerts(open_only=True)][:1] == ["online store repaired"]
    assert dict(project.parts.online.scan()) == sound


def test_a_look_that_is_stopped_is_made_again(project: Project) -> None:
    sound = damage(project, every=1)
    asked: list[str] = []
    control = RunControl(lambda: len(asked) > 1, lambda: asked.append("alive"))
    job = reconcile_job(project.parts, reconciler(project.parts), control)
    assert job.work(0) is None
    assert project.parts.catalog.setting("next share to reconcile") is None
    assert asked == ["alive", "alive"]
    control.stop = lambda: False
    share = Share(0, SHARES)
    mine = [key for key, own in zip(sound, share.holds(list(sound)).tolist(), strict=True) if own]
    found = job.work(0)
    assert (0 if found is None else found["repaired"]) == len(mine)
    assert {key: record for key, record in project.parts.online.scan() if key in mine} == {k: sound[k] for k in mine}


def test_the_command_tells_or_repairs(folder: Path, project: Project) -> None:
    sound = damage(project, every=3)
    told = CliRunner().invoke(main, ["--project", str(folder), "reconcile", "--dry-run", "--json"])
    assert told.exit_code == 1, told.output
    found = json.loads(told.stdout)
    wrong = len(sorted(sound)[::3])
    assert (sum(found["missing"].values()) + sum(found["differing"].values()), found["repaired"]) == (wrong, 0)
    done = CliRunner().invoke(main, ["--project", str(folder), "reconcile"])
    assert done.exit_code == 0, done.output
    assert f"{wrong} repaired" in done.output
    assert dict(project.parts.online.scan()) == sound


def test_a_lost_store_is_made_anew_by_one_command(folder: Path, project: Project) -> None:
    store = project.parts.online
    sound, position = dict(store.scan()), store.position()
    full = CliRunner().invoke(main, ["--project", str(folder), "rebuild", "online"])
    assert full.exit_code == 1
    assert "--replace" in full.output
    store.write([(key, b"rubbish!") for key in sound], b"")
    store.write([(b"i\0nobody's", b"rubbish!")], b"")
    done = CliRunner().invoke(main, ["--project", str(folder), "rebuild", "online", "--replace"])
    assert done.exit_code == 0, done.output
    found = {key: record for key, record in store.scan() if not key.startswith(b"\xff\xff")}
    assert found == sound
    assert store.position() == position
