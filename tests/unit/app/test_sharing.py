"""What keeps several compute workers of a project apart, and what is told of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.app.doctor import examine
from headrace.app.locks import FolderLock, holder_of
from headrace.app.project import Project
from headrace.app.services import run_layer
from headrace.app.settings import Settings, load_settings
from headrace.app.shared_layers import SharedCompute
from headrace.app.sharing import ROSTERS, await_rest, extra_workers, worker_slot, worker_status
from headrace.app.supervisor import Supervisor
from headrace.core.errors import Busy, ConfigError
from headrace.core.time import SimulatedClock, to_us
from headrace.orchestration.leases import Member, Roster
from tests.e2e.shop import orders, write_shop
from tests.unit.app.conftest import NOON
from tests.unit.app.test_supervisor import Said, steady, stop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_shop(tmp_path / "shop")
    (folder / "headrace.toml").write_text("sync = false\npartitions = 2\ncompute_workers = 2\nlease_s = 1\n")
    return folder


def opened(folder: Path) -> Project:
    project = Project.open(folder, clock=SimulatedClock(to_us(NOON)))
    project.apply()
    return project


def stands(project: Project, layer: str = "compute", **more: Any) -> None:
    """Somebody on another machine is in the roster."""
    member = Member("elsewhere", 7, "elsewhere:/state", 1, 0, 0, **more)
    roster = Roster({"elsewhere/7/0": member}, {"1": "elsewhere/7/0"})
    project.parts.catalog.set_setting(ROSTERS[layer], msgspec.to_builtins(roster))


def test_workers_of_one_folder_have_slots_and_keep_out_who_computes_alone(tmp_path: Path) -> None:
    with worker_slot(tmp_path, "compute") as one, worker_slot(tmp_path, "compute") as two:
        assert (one, two) == (1, 2)
        assert extra_workers(tmp_path) == ["compute-2"]
        with FolderLock(tmp_path, "compute", shared=True), FolderLock(tmp_path, "compute", shared=True):
            assert holder_of(tmp_path, "compute") == "several workers, of compute"
            with pytest.raises(Busy, match="held by several workers, of compute"):
                FolderLock(tmp_path, "compute")
    assert extra_workers(tmp_path) == []
    assert holder_of(tmp_path, "compute") is None
    with FolderLock(tmp_path, "compute"), pytest.raises(Busy, match="held by process"):
        FolderLock(tmp_path, "compute", shared=True)


def test_a_worker_once_computes_all_and_leaves(folder: Path) -> None:
    with opened(folder) as project:
        with FolderLock(project.settings.state, "ingest"):  # so that nothing is driven here
            project.publish("order", orders(40, NOON))
        run_layer(project.parts, "compute", once=True)
        assert project.status().streams[0].uncomputed == 0
        assert worker_status(project.parts) == []
        run_layer(project.parts, "ingest", once=True)
        found = {finding.what: finding for finding in examine(folder)}["workers of compute"]
        assert (found.ok, found.found) == (True, "none runs")


def test_what_a_worker_cannot_have_is_computed_by_the_other(folder: Path) -> None:
    with opened(folder) as project:
        stands(project)
        with FolderLock(project.settings.state, "ingest"):
            project.publish("order", orders(40, NOON))
        mine = SharedCompute(project.parts, 1)
        mine.step()
        assert mine.shares == {0}
        assert mine.lag() == 0
        left = project.status()
        assert 0 < left.streams[0].uncomputed < 40
        told = "compute on elsewhere, process 7: shares 1, seen"
        assert told in str(left)
        doctor = {finding.what: finding for finding in examine(folder)}["workers of compute"]
        assert not doctor.ok
        assert told in doctor.found
        mine.finish(drain=False)
        assert [worker.pid for worker in worker_status(project.parts)] == [7]


def test_more_workers_than_partitions_are_told(folder: Path) -> None:
    file = folder / "headrace.toml"
    file.write_text(file.read_text().replace("compute_workers = 2", "compute_workers = 3"))
    found = {finding.what: finding for finding in examine(folder)}["workers of compute"]
    assert not found.ok
    assert found.found == "3 workers, but no stream has more than 2 partitions"


def test_definitions_are_not_applied_under_a_worker_on_another_machine(folder: Path) -> None:
    with opened(folder) as project:
        stands(project)
        await_rest(project.parts)  # it has ended without a word
        done = threading.Event()

        def count_up() -> None:
            beats = 0
            while not done.wait(0.02):
                stands(project, beats=(beats := beats + 1))

        thread = threading.Thread(target=count_up, daemon=True)
        thread.start()
        try:
            with pytest.raises(Busy, match="process 7 on elsewhere runs compute by the former definitions"):
                await_rest(project.parts)
        finally:
            done.set()
            thread.join(10)


def test_a_supervisor_starts_as_many_workers_and_stops_them_with_their_layer(tmp_path: Path) -> None:
    state, said = tmp_path / "state", Said({"all layers are up": stop})
    Supervisor(Settings(tmp_path, state=state, port=0, compute_workers=3), said, command=steady(state)).run()
    stopped = [line.split()[0] for line in said if line.endswith("stopped")]
    assert stopped == ["serve", "schedule", "compute", "compute-2", "compute-3", "ingest"]


def test_a_supervised_worker_may_have_any_slot(tmp_path: Path) -> None:
    state, said = tmp_path / "state", Said({"all layers are up": stop})
    other = {"compute": "compute-2", "compute-2": "compute"}

    def command(layer: str) -> list[str]:
        return steady(state)(other.get(layer, layer))

    Supervisor(Settings(tmp_path, state=state, port=0, compute_workers=2), said, command=command).run()
    assert sum(line.startswith("compute") and "process" in line for line in said) == 2


@pytest.mark.parametrize("key", ["compute_workers", "ingest_workers", "lease_s"])
def test_less_than_one_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = 0: give it at least 1"):
        load_settings(tmp_path, **{key: 0})
