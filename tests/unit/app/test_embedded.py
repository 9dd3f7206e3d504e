"""The workers inside the caller's process beside others that they did not know of."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest

from headrace.app import embedded
from headrace.app.project import Project
from headrace.ingestion.archive import ArchiveWorker
from tests.e2e.shop import orders
from tests.unit.app.conftest import NOON


def test_an_archive_that_another_process_writes_all_the_time_is_left_to_it(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is a second worker that archives one commit more whenever this one is about to append."""
    for number in range(9):
        shop.publish("order", orders(3, NOON - timedelta(hours=1), start=3 * number, users=2, step_s=1))
        shop.settle()
    assert shop.parts.offline.tables() == []
    append, contests, inside = ArchiveWorker._append, 0, False

    def contested(self: ArchiveWorker, table: str, rows: pa.Table, time_column: str, end: int) -> None:
        nonlocal contests, inside
        if not inside:
            inside, contests = True, contests + 1
            shop.parts.archive().step(contests)
            inside = False
        append(self, table, rows, time_column, end)

    warnings: list[str] = []
    # Not by way of the handlers, which a service in another test may have set up otherwise.
    monkeypatch.setattr(embedded._logger, "warning", lambda text, *of: warnings.append(text % of))
    monkeypatch.setattr(embedded, "_ARCHIVE_AFTER", 1)
    monkeypatch.setattr(embedded, "_ARCHIVE_PAUSE_S", 3600.0)
    monkeypatch.setattr(ArchiveWorker, "_append", contested)
    shop.publish("order", orders(1, NOON - timedelta(hours=1), start=100, users=2, step_s=1))
    shop.settle()
    assert contests == 5
    assert len(warnings) == 1
    assert "another process archives all the time" in warnings[0]
    assert str(shop.settings.state) in warnings[0]
    assert shop.parts.offline.count("events/order") == 15
    shop.settle()
    assert contests == 5, "it is left alone for a while"
    assert shop.history("order").to_arrow().num_rows == 28
    assert sum(shop.get("spend", user=user).n["7d"] for user in ("u0", "u1")) == 28

    monkeypatch.setattr(ArchiveWorker, "_append", append)
    shop._workers._archive_at = 0.0
    shop.settle()
    assert shop.parts.offline.count("events/order") == 28
    assert shop.history("order").to_arrow().num_rows == 28
