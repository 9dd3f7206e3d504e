"""The archive holds every event and every table row once, whatever it was stopped at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.core.columns import column_of
from headrace.core.errors import StoreMoved, Unreachable
from headrace.core.schema import DType, Field, Schema
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import SimulatedClock
from headrace.engines.stream.commits import TABLES, WINDOWS
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import KeyPart, ProjectPlan, TablePlan
from headrace.ingestion.archive import ArchiveWorker
from headrace.retrieval.past import ORDER, Past, rows_table
from headrace.stores.offline.memory import MemoryOfflineStore


def table(name: str, version: str) -> TablePlan:
    schema = Schema(name, (Field("user", DType.STRING), Field("age", DType.INT), Field("at", DType.TIMESTAMP)), "at")
    return TablePlan(name, version, schema, (KeyPart("user", DType.STRING, None),), None, None, None, None, 0, ())


A, B = table("a", "00000000000000aa"), table("b", "00000000000000bb")
PROJECT = ProjectPlan({}, {}, {"a": A, "b": B}, {}, {})


def rows(plan: TablePlan, at: int) -> Append:
    stamps = np.array([at], np.int64)
    columns = {"age": column_of(DType.INT, [at])}
    batch = TableRows(plan.name, plan.version, 1, [("ann",)], stamps, stamps, columns, np.zeros(1, np.bool_))
    return Append(TABLES, 0, encode_table_rows(batch))


def test_it_may_be_the_first_layer_that_starts() -> None:
    log, raw = MemoryEventLog(SimulatedClock()), MemoryEventLog(SimulatedClock())
    archive = ArchiveWorker(PROJECT, raw, log, MemoryOfflineStore())
    assert archive.step() == 0
    assert archive.lag() == 0


def test_tables_that_were_archived_up_to_different_offsets_get_no_row_twice() -> None:
    log, raw, offline = (MemoryEventLog(SimulatedClock()), MemoryEventLog(SimulatedClock()), MemoryOfflineStore())
    log.create(TABLES)
    log.create(WINDOWS)
    for at in range(4):
        log.append([rows(A, at)])
    first = ArchiveWorker(PROJECT, raw, log, offline)
    while first.step(1):
        pass
    log.append([rows(B, 4)])
    log.append([rows(A, 5)])
    # Nothing of B is archived, so a new worker starts at 0; A is done up to 4.
    second = ArchiveWorker(PROJECT, raw, log, offline)
    while second.step(1):
        pass
    assert sorted(offline.scan(rows_table(A))[ORDER].to_pylist()) == [0, 1, 2, 3, 5]
    assert offline.scan(rows_table(B))[ORDER].to_pylist() == [4]
    past = Past(PROJECT, raw, log, offline)
    known = past.rows(A)
    assert known is not None
    assert sorted(known[ORDER].to_pylist()) == [0, 1, 2, 3, 5]


def test_a_second_worker_of_one_store_archives_no_row_twice() -> None:
    """As when a machine that was thought dead goes on beside the one that took over."""
    log, raw, offline = MemoryEventLog(SimulatedClock()), MemoryEventLog(SimulatedClock()), MemoryOfflineStore()
    log.create(TABLES)
    log.create(WINDOWS)
    first, second = (ArchiveWorker(PROJECT, raw, log, offline) for _ in range(2))
    log.append([rows(A, 0)])
    first.step()
    log.append([rows(A, 1)])
    with pytest.raises(StoreMoved, match="up to number 1, its writer has left it at -1"):
        second.step()
    assert second.step() > 0
    log.append([rows(A, 2)])
    second.step()
    first.step(1)  # it is done already, and this worker does not know by whom
    log.append([rows(A, 3)])
    with pytest.raises(StoreMoved):
        first.step()
    while first.step():
        pass
    assert sorted(offline.scan(rows_table(A))[ORDER].to_pylist()) == [0, 1, 2, 3]


class AnswersGetLost(MemoryOfflineStore):
    """A store that does what it is told and, when `lost` is set, is not heard any more."""

    lost = False

    def append(self, table: str, rows: pa.Table, **told: Any) -> int:
        version = super().append(table, rows, **told)
        if self.lost:
            raise Unreachable("the answer was lost")
        return version


def test_an_append_whose_answer_was_lost_is_not_done_again_with_what_came_after_it() -> None:
    log, raw, offline = MemoryEventLog(SimulatedClock()), MemoryEventLog(SimulatedClock()), AnswersGetLost()
    log.create(TABLES)
    log.create(WINDOWS)
    log.append([rows(A, 0)])
    archive = ArchiveWorker(PROJECT, raw, log, offline)
    for at in range(1, 4):
        offline.lost = True
        with pytest.raises(Unreachable):
            archive.step()
        offline.lost = False
        log.append([rows(A, at)])
    while archive.step():
        pass
    assert sorted(offline.scan(rows_table(A))[ORDER].to_pylist()) == [0, 1, 2, 3]
