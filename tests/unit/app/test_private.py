"""No other user of the machine can look into a state folder that Headrace has made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import headrace as hr
from headrace.app.doctor import examine
from headrace.app.private import private_folder
from tests.e2e.shop import now, orders, write_shop


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("env", ["default", "test"])
def test_whatever_lies_in_the_state_folder_is_behind_its_owners_door(tmp_path: Path, env: str) -> None:
    folder = write_shop(tmp_path / "shop")
    with (folder / "headrace.toml").open("a") as file:
        file.write("[env.test]\n")
    with hr.connect(folder, env=env) as project:
        project.publish("order", orders(3, now()))
        project.get("spend", user="u0")
    state = folder / ".headrace"
    assert oct(state.stat().st_mode & 0o777) == oct(0o700)
    assert folder.stat().st_mode & 0o055  # the definitions are nobody's secret
    assert (state / "catalog.db" if env == "default" else state / env / "catalog.db").exists()


def test_a_folder_that_is_open_stays_so_and_doctor_says_it(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    state = folder / ".headrace"
    state.mkdir(mode=0o755)
    private_folder(state)
    assert oct(state.stat().st_mode & 0o777) == oct(0o755)
    (found,) = [finding for finding in examine(folder) if finding.what == "state folder"]
    assert "every user of this machine can read it" in found.found
    state.chmod(0o750)
    (found,) = [finding for finding in examine(folder) if finding.what == "state folder"]
    assert found.found.endswith("is writable")
