"""Groups over events with lists, filled from the archive after an edit."""

from __future__ import annotations

from pathlib import Path

from headrace.app.project import Project
from headrace.core.time import SimulatedClock, to_us
from tests.e2e.shop import write_shop
from tests.unit.app.conftest import NOON
from tests.unit.app.test_lists import EXPECTED, LOOKS, SEEN


def test_an_edited_group_is_filled_from_the_archive(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    file = folder / "features.py"
    source = file.read_text(encoding="utf-8").replace("view = ", SEEN.lstrip("\n"), 1)
    file.write_text(source, encoding="utf-8")
    clock = SimulatedClock(to_us(NOON))
    with Project.open(folder, clock=clock) as project:
        project.publish("look", LOOKS)
        assert "list" in str(project.describe("seen.total_7d"))
    more = 'last = hr.last(Look.item)\n    long = hr.sum(Look.item, window="30d")\n    first = hr.first(Look.item)'
    file.write_text(source.replace("last = hr.last(Look.item)", more), encoding="utf-8")
    with Project.open(folder, clock=clock) as project:
        project.backfill("seen")
        project.apply()
        row = project.get("seen", user="u1")
        assert (row.long, row.mean) == (EXPECTED["seen__total_7d"], EXPECTED["seen__mean"])
        assert (row.first, row.last) == ([1e16, 1.0, None], EXPECTED["seen__last"])
