"""The offline stores against lists of rows, under any sequence of calls by two that hold the store open."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from headrace.core.errors import NotFound, StoreError
from headrace.core.time import US_PER_DAY
from headrace.stores.offline.base import OfflineStore
from headrace.stores.offline.delta import DeltaOfflineStore
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.testing.capabilities import capability

_TABLES = st.sampled_from(["events/a", "events/b", "t"])
_NAMES = ("events/a", "events/b", "t")
_WRITERS = st.sampled_from(["w", "v"])
_TIME = st.integers(-2 * US_PER_DAY, 2 * US_PER_DAY)
_ROW = st.tuples(_TIME, st.none() | st.text(max_size=4), st.none() | st.integers(-(2**63), 2**63 - 1))
_EXTRA = ("more", pa.float64())


@capability("any sequence of calls, against a model")
class OfflineMachine(RuleBasedStateMachine):
    """The store in memory; `appends` are the rows of each append by table, of which a version is a beginning."""

    port = "OfflineStore"
    adapter = "memory"
    keeps = False

    def __init__(self) -> None:
        super().__init__()
        self.appends: dict[str, list[list[dict[str, Any]]]] = {}
        self.versions: dict[str, dict[int, int]] = {}
        self.numbers: dict[tuple[str, str], int] = {}
        self.stores = self.opened()

    def opened(self) -> list[OfflineStore]:
        return [MemoryOfflineStore()]

    def open(self) -> OfflineStore:
        raise NotImplementedError

    def _pick(self, pick: int) -> OfflineStore:
        return self.stores[pick % len(self.stores)]

    def _rows(self, table: str, appends: int | None = None) -> list[dict[str, Any]]:
        return [row for rows in self.appends[table][:appends] for row in rows]

    @rule(
        pick=st.integers(0, 1),
        table=_TABLES,
        rows=st.lists(_ROW, max_size=5),
        writer=_WRITERS,
        number=st.integers(0, 12),
        wider=st.booleans(),
    )
    def append(self, pick: int, table: str, rows: list[Any], writer: str, number: int, wider: bool) -> None:
        columns = {
            "at": pa.array([row[0] for row in rows], pa.int64()),
            "text": pa.array([row[1] for row in rows], pa.string()),
            "n": pa.array([row[2] for row in rows], pa.int64()),
        }
        if wider:
            columns[_EXTRA[0]] = pa.array([0.5] * len(rows), _EXTRA[1])
        given = pa.table(columns)
        version = self._pick(pick).append(table, given, time_column="at", writer=writer, number=number)
        if number > self.numbers.get((table, writer), -1):
            self.numbers[table, writer] = number
            self.appends.setdefault(table, []).append(given.to_pylist())
        self.versions.setdefault(table, {})[version] = len(self.appends[table])

    @rule(pick=st.integers(0, 1), table=_TABLES, time=_TIME)
    def append_of_another_type(self, pick: int, table: str, time: int) -> None:
        if table in self.appends:
            wrong = pa.table({"at": pa.array([time], pa.int64()), "n": ["text"]})
            with pytest.raises(StoreError, match='"n"'):
                self._pick(pick).append(table, wrong, time_column="at", writer="w", number=99)

    @rule(pick=st.integers(0, 1), table=_TABLES, since=st.none() | _TIME, until=st.none() | _TIME)
    def scan(self, pick: int, table: str, since: int | None, until: int | None) -> None:
        store = self._pick(pick)
        if table not in self.appends:
            with pytest.raises(NotFound):
                store.scan(table)
            return
        wanted = [
            row
            for row in self._rows(table)
            if (since is None or row["at"] >= since) and (until is None or row["at"] < until)
        ]
        assert _bag(store.scan(table, since_us=since, until_us=until).to_pylist()) == _bag(wanted)
        pieces = [row for rows in store.batches(table, since_us=since, until_us=until) for row in rows.to_pylist()]
        assert _bag(pieces) == _bag(wanted)
        assert store.count(table, since_us=since, until_us=until) >= len(wanted)

    @rule(pick=st.integers(0, 1), table=_TABLES, low=st.integers(-5, 5), size=st.integers(0, 2**62))
    def scan_a_piece(self, pick: int, table: str, low: int, size: int) -> None:
        if table in self.appends:
            found = self._pick(pick).scan(table, ["n", "at"], between=("n", low, low + size))
            wanted = [row for row in self._rows(table) if row["n"] is not None and low <= row["n"] < low + size]
            assert found.column_names == ["n", "at"]
            assert _bag(found.to_pylist()) == _bag([{"n": row["n"], "at": row["at"]} for row in wanted])

    @rule(pick=st.integers(0, 1), table=_TABLES, back=st.integers(0, 5))
    def scan_a_former_version(self, pick: int, table: str, back: int) -> None:
        if table in self.versions:
            versions = sorted(self.versions[table])
            version = versions[max(0, len(versions) - 1 - back)]
            found = self._pick(pick).scan(table, version=version).to_pylist()
            assert _bag(found) == _bag(self._rows(table, self.versions[table][version]))

    @rule(pick=st.integers(0, 1), table=_TABLES)
    def compact(self, pick: int, table: str) -> None:
        if table in self.appends:
            self._pick(pick).compact(table)
            version = self._pick(pick).version(table)
            assert version is not None
            self.versions[table][version] = len(self.appends[table])

    @precondition(lambda self: self.keeps)
    @rule(pick=st.integers(0, 1))
    def reopen(self, pick: int) -> None:
        self._pick(pick).close()
        self.stores[pick % len(self.stores)] = self.open()

    @invariant()
    def all_of_them_show_the_same(self) -> None:
        for store in self.stores:
            assert store.tables() == sorted(self.appends)
            for table in _NAMES:
                assert store.version(table) == max(self.versions.get(table, {}), default=None)
                for writer in ("w", "v"):
                    assert store.number(table, writer) == self.numbers.get((table, writer), -1)

    def teardown(self) -> None:
        for store in self.stores:
            store.close()


class DeltaMachine(OfflineMachine):
    """On a folder."""

    adapter = "Delta Lake, folder"
    keeps = True

    def opened(self) -> list[OfflineStore]:
        self.place = Path(tempfile.mkdtemp(prefix="headrace-offline-"))
        return [self.open(), self.open()]

    def open(self) -> OfflineStore:
        return DeltaOfflineStore(self.place)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.place)


def _bag(rows: list[dict[str, Any]]) -> Counter[tuple[tuple[str, Any], ...]]:
    """Rows whatever their order; a column that an append lacks is null in its rows."""
    return Counter(tuple(sorted((k, v) for k, v in row.items() if v is not None)) for row in rows)


@pytest.mark.parametrize(("machine", "examples"), [(OfflineMachine, 25), (DeltaMachine, 20)], ids=["memory", "delta"])
def test_an_offline_store_behaves_like_lists(machine: type[OfflineMachine], examples: int) -> None:
    steps = settings(stateful_step_count=15, max_examples=examples, deadline=None)
    run_state_machine_as_test(machine, settings=steps)
