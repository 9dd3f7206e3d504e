"""Cells of a notebook that are run again: what still holds the former classes says so."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest

EVENT = """
from datetime import datetime
import headrace as hr
class Pay(hr.Event):
    pay_id: hr.Field[str] = hr.id()
    user: hr.Field[str]
    at: hr.Field[datetime] = hr.event_time()
"""
GROUP = 'class Spend(hr.FeatureGroup, key=Pay.user):\n    n = hr.count(window="1d")\n'
VIEW = 'view = hr.FeatureView("pay", request=Pay, features=[Spend])\n'


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a cell as a notebook does, and gives the warnings that it made."""
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = iter(range(1, 100))

    def run(source: str) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exec(compile(source, f"<cell {next(ran)}>", "exec", dont_inherit=True), names)
        for name in ("Pay", "Spend", "view"):
            if name in names:
                monkeypatch.setattr(sys.modules["__main__"], name, names[name], raising=False)
        return [str(warning.message) for warning in caught]

    return run


def test_cells_in_their_order_say_nothing(cell: Any) -> None:
    for _ in range(2):
        assert [cell(source) for source in (EVENT, GROUP, VIEW)] == [[], [], []]


def test_what_holds_a_former_class_names_both_cells(cell: Any) -> None:
    for source in (EVENT, GROUP, VIEW, GROUP):
        assert cell(source) == []
    (told,) = cell("view.warn_of_superseded()")
    assert told.startswith("hr.FeatureView('pay') uses Spend of <cell 2>:1, which <cell 4>:1 has defined again since")
    assert cell(VIEW) == []
    assert cell(EVENT) == []
    (told,) = cell(VIEW.replace("request=Pay", "request=Spend.__definition__.source"))
    assert "uses Pay of <cell 1>:4, which <cell 7>:4 has defined again" in told
    (told,) = cell(GROUP.replace("key=Pay.user", "key=view.request.user"))
    assert told.startswith("group Spend uses Pay of <cell 1>:4")
