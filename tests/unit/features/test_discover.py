"""A project's folder to its definitions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.core.errors import ConfigError, DefinitionError
from headrace.features.discover import find_project, load_definitions, load_project
from tests.unit.features.declaring import SHOP

FLIGHTS = Path(__file__).resolve().parents[3] / "examples" / "flights"


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "features"}
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "features"]:
        del sys.modules[name]
    sys.modules.update(kept)


def names(path: Path) -> list[str]:
    return [getattr(item, "__name__", None) or item.name for item in load_definitions(path)]


def test_the_folder_with_headrace_toml_here_or_above(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_project(deep) == deep
    (tmp_path / "headrace.toml").write_text("")
    assert find_project(deep) == tmp_path
    assert find_project(tmp_path / "features.py") == tmp_path


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text(SHOP + "here = Spend.of(Transfer.sender)\nunused = hr.Entity('other')\n")
    assert names(tmp_path) == ["Transfer", "Spend", "Profile"]
    plan = load_project(tmp_path)
    assert (list(plan.streams), list(plan.groups), list(plan.tables)) == (["transfer"], ["spend"], ["profile"])
    assert str(tmp_path) not in sys.path


def test_a_package_whose_files_import_each_other(tmp_path: Path) -> None:
    package = tmp_path / "features"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "events.py").write_text(SHOP)
    (package / "groups.py").write_text(
        "import headrace as hr\nfrom features.events import Spend, Transfer\n"
        "from .more import N\n"
        "view = hr.FeatureView('v', request=Transfer, features=[Spend, N])\n"
    )
    (package / "more.py").write_text(
        "import headrace as hr\nfrom .events import Transfer\nclass N(hr.FeatureGroup, key=Transfer.sender):\n"
        "    n = hr.count()\n"
    )
    assert sorted(names(tmp_path)) == ["N", "Profile", "Spend", "Transfer", "v"]
    assert load_project(tmp_path).views["v"].bindings[1].source == "n"


def test_files_are_imported_once_until_they_change(tmp_path: Path) -> None:
    path = tmp_path / "features.py"
    path.write_text(SHOP)
    first = load_definitions(tmp_path)
    assert load_definitions(tmp_path) == first
    path.write_text(SHOP.replace("class Spend", "class Spent"))
    os.utime(path, ns=(0, 1))
    assert names(tmp_path) == ["Transfer", "Spent", "Profile"]


def test_an_edit_within_the_second_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for number, name in enumerate(("Spend", "Spent", "Spens", "Spenz")):
        (tmp_path / "features.py").write_text(SHOP.replace("class Spend", f"class {name}"))
        assert names(tmp_path)[1] == name, number


def test_another_project_is_another_module(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "features.py").write_text(SHOP.replace("Spend", name.title()))
    assert names(tmp_path / "one")[1] == "One"
    assert names(tmp_path / "two")[1] == "Two"
    assert names(tmp_path / "one")[1] == "One"


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no definitions in .*: write features\.py"):
        load_definitions(tmp_path)
    (tmp_path / "features.py").write_text("import headrace as hr\n")
    with pytest.raises(ConfigError, match="defines no events, tables, groups"):
        load_definitions(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import headrace as hr\nx = 1 +\n", r"features\.py:2 SyntaxError"),
        ("import headrace as hr\n\n\nx = nothing\n", r"features\.py:4 NameError: name 'nothing' is not defined"),
        ("import headrace as hr\nimport no_such_module\n", r"features\.py:2 ModuleNotFoundError"),
        (SHOP + "Spend.totl\n", r"features\.py:22 Spend has no column"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "features.py").write_text(text)
    with pytest.raises(DefinitionError, match=message):
        load_definitions(tmp_path)


def test_the_flights_project() -> None:
    plan = load_project(FLIGHTS)
    view = plan.views["flight"]
    assert (len(plan.streams), len(plan.groups), len(plan.tables)) == (3, 6, 2)
    assert len(view.visible) == 64
    assert [column.name for column in view.columns if column.calendar] == ["now__hour", "now__weekday", "now__month"]
    assert [column.name for column in view.columns if column.hidden] == ["leaves", "at"]
    label = plan.models["late"].label
    assert (label.stream, label.join_field, label.has_default) == ("arrival", "flight", False)
