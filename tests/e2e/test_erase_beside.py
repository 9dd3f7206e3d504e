"""Erasing a user while another version runs beside the served one: both sides lose them, and stay alike."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import headrace as hr
from headrace.app.beside import begin_side, beside_of, catch_up, drop, fill_side, switch
from headrace.app.comparing import compare_sides
from headrace.app.reconciling import reconcile_all
from headrace.core.errors import Busy, StoreError
from headrace.core.keys import encode_part
from headrace.core.schema import DType
from tests.e2e.bank import NEEDLE, OTHER, named_in, payments, run_bank, write_bank
from tests.unit.app.test_beside import records


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_bank(tmp_path_factory.mktemp("erase") / "bank")
    run_bank(folder, 60, model=False)
    return folder


@pytest.fixture
def bank(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "bank")
    return tmp_path / "bank"


def more(project: hr.Project, seed: int) -> None:
    """Payments of which some name the user."""
    project.publish("pay", payments(30, datetime.now(timezone.utc) - timedelta(minutes=30), seed=seed))


def commits(project: hr.Project) -> bytes:
    """All commits of all sides, as they lie in the feature log."""
    log = project.parts.plain_features
    topics = [topic for topic in log.topics() if topic.startswith("windows")]
    return b"".join(batch.payload for topic in topics for batch in log.read(topic, 0, log.begin(topic, 0), 10**6))


def check_alike(project: hr.Project, gone: str) -> None:
    """Both sides hold the same, nothing of it is of the user, and it is what log and archive say."""
    part = encode_part(gone, DType.STRING)
    with beside_of(project.parts) as beside:
        assert records(beside) == records(project.parts)
        assert len(records(beside)) > 10
        assert not any(part in key for key, _ in beside.online.scan())
    found = compare_sides(project.parts, None)
    assert (found.differing, found.compared > 100) == (0, True)
    assert reconcile_all(project.parts).wrong == 0
    assert part not in commits(project)


def test_both_sides_lose_who_is_erased_before_and_after_a_switch(bank: Path) -> None:
    with hr.connect(bank) as project:
        begin_side(project.parts, "green", sys.executable)
        fill_side(project.parts)
        more(project, 3)
        catch_up(project.parts)
        more(project, 4)  # which the side beside has yet to compute
        alone = {place.place: place.records for place in project.erase("user", NEEDLE, dry_run=True).places}
        assert alone["feature log windows of side green"] < alone["feature log windows"]
        receipt = project.erase("user", NEEDLE)
        told = {place.place: place.records for place in receipt.places}
        assert told["online store of side green"] == told["online store"] > 5
        assert 0 < told["feature log windows of side green"] < told["feature log windows"]
        assert told["checkpoint of side green"] == told["checkpoint"] > 0
        assert NEEDLE not in str(receipt)
        assert named_in(bank) == []
        assert project.get("sent", sender=NEEDLE).n["7d"] == 0
        check_alike(project, NEEDLE)
        assert encode_part(OTHER, DType.STRING) in commits(project)
        switch(project.parts)
        project.settle()
        more(project, 5)
        assert project.erase("user", OTHER).records > 50
        assert (project.parts.side.name, project.get("sent", sender=OTHER).n["7d"]) == ("green", 0)
        check_alike(project, OTHER)
        switch(project.parts, back=True)
        project.settle()
        check_alike(project, OTHER)


def interpreter(folder: Path, refused: str = "") -> Path:
    """A Python that notes what it is started with, and knows no command of one name."""
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/started\n'
        f'case "$*" in *"beside {refused or "nothing"}"*) echo "No such command" >&2; exit 2;; esac\n'
        f'exec {sys.executable} "$@"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    return python


def test_a_side_is_erased_by_its_own_interpreter_which_is_not_told_the_key_where_others_see_it(
    bank: Path, tmp_path: Path
) -> None:
    with hr.connect(bank) as project:
        begin_side(project.parts, "green", str(interpreter(tmp_path)))
        fill_side(project.parts)
        more(project, 3)
        project.erase("user", NEEDLE)
        assert named_in(bank) == []
        check_alike(project, NEEDLE)
    started = (tmp_path / "started").read_text().splitlines()
    words = [line.split(" --")[0].removeprefix("-m headrace beside ") for line in started]
    assert words[:4] == ["catch-up", "erase", "erase", "erase"]
    assert NEEDLE not in "\n".join(started)


def test_a_version_that_cannot_erase_is_named_and_without_it_the_erasure_goes_on(bank: Path, tmp_path: Path) -> None:
    with hr.connect(bank) as project:
        begin_side(project.parts, "green", str(interpreter(tmp_path, "erase")))
        fill_side(project.parts)
        with pytest.raises(StoreError, match=r"side green .*No such command.*headrace beside drop"):
            project.erase("user", NEEDLE)
        for refused in (lambda: switch(project.parts), lambda: begin_side(project.parts, "green", sys.executable)):
            with pytest.raises(Busy, match="of one user was cut short"):
                refused()
        assert drop(project.parts).name == "green"
        assert project.erase("user", NEEDLE).ended
        assert named_in(bank) == []
        assert reconcile_all(project.parts).wrong == 0
        begin_side(project.parts, "green", sys.executable)


def test_what_a_fill_that_was_cut_short_has_left_goes_as_well(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headrace.ingestion.reconcile as reconcile

    def power(*_: object) -> None:
        raise RuntimeError("power")

    with hr.connect(bank) as project:
        begin_side(project.parts, "green", sys.executable)
        with monkeypatch.context() as patched:
            patched.setattr(reconcile, "clocks_at", power)
            with pytest.raises(RuntimeError, match="power"):
                fill_side(project.parts)
        assert any("sides/green" in file for file in named_in(bank))
        project.erase("user", NEEDLE)
        assert named_in(bank) == []
        fill_side(project.parts)
        check_alike(project, NEEDLE)
