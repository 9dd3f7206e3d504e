"""The adapters of the offline store against their kit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.core.errors import StoreError
from headrace.stores.offline.base import OfflineStore
from headrace.stores.offline.delta import DeltaOfflineStore
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.testing.capabilities import capability
from headrace.testing.offline_store import DurableOfflineStoreTests, OfflineStoreTests


class TestMemoryOfflineStore(OfflineStoreTests):
    adapter = "memory"

    def open(self, place: Path) -> OfflineStore:
        return MemoryOfflineStore()

    def raw_rows(self, store: OfflineStore, place: Path, table: str) -> list[dict[str, Any]]:
        assert isinstance(store, MemoryOfflineStore)
        assert store._tables is not None
        rows: list[dict[str, Any]] = store._tables[table].versions[-1].to_pylist()
        return rows


class TestDeltaOfflineStore(DurableOfflineStoreTests):
    adapter = "Delta Lake, folder"

    def open(self, place: Path) -> OfflineStore:
        return DeltaOfflineStore(place)

    def opener(self, place: Path) -> Callable[[], OfflineStore]:
        return partial(DeltaOfflineStore, place)

    def raw_rows(self, store: OfflineStore, place: Path, table: str) -> list[dict[str, Any]]:
        return [row for file in sorted(_live_files(place / table)) for row in pq.ParquetFile(file).read().to_pylist()]

    def test_rows_lie_under_their_day(self, store: OfflineStore, place: Path) -> None:
        times = [1_356_998_400_000_000, 1_356_998_399_999_999, None, -(2**63), -62_135_596_800_000_000]
        store.append("t", pa.table({"at": times}), time_column="at", writer="w", number=0)
        days = {
            file.parent.name.removeprefix("day="): sorted(
                pq.ParquetFile(file).read(["at"])["at"].to_pylist(), key=lambda at: (at is None, at)
            )
            for file in _live_files(place / "t")
        }
        assert days == {
            "2013-01-01": [1_356_998_400_000_000],
            "2012-12-31": [1_356_998_399_999_999],
            "1970-01-01": [-(2**63), None],
            "0001-01-01": [-62_135_596_800_000_000],
        }

    @capability("a scan reads the files of its days only")
    def test_a_scan_reads_the_files_of_its_days_only(self, store: OfflineStore, place: Path) -> None:
        day = 86_400_000_000
        for number in range(3):
            rows = pa.table({"at": [number * day, number * day + 1]})
            store.append("t", rows, time_column="at", writer="w", number=number)
        for file in _live_files(place / "t"):
            if file.parent.name != "day=1970-01-02":
                file.unlink()
        assert store.scan("t", since_us=day, until_us=2 * day).num_rows == 2

    def test_compacting_leaves_one_file_per_day(self, store: OfflineStore, place: Path) -> None:
        for number in range(5):
            store.append("t", pa.table({"at": [number]}), time_column="at", writer="w", number=number)
        assert len(_live_files(place / "t")) == 5
        store.compact("t")
        assert len(_live_files(place / "t")) == 1

    def test_a_uri_is_as_good_as_a_folder(self, place: Path) -> None:
        place.mkdir()
        store = DeltaOfflineStore(place.as_uri())
        assert store.tables() == []
        for name in ("events/flight", "rows"):
            store.append(name, pa.table({"at": [1]}), time_column="at", writer="w", number=0)
        assert store.tables() == DeltaOfflineStore(place).tables() == ["events/flight", "rows"]
        assert store.scan("events/flight").to_pylist() == [{"at": 1}]
        store.close()

    def test_a_table_that_cannot_be_read_is_named(self, store: OfflineStore, place: Path) -> None:
        store.append("t", pa.table({"at": [1]}), time_column="at", writer="w", number=0)
        for file in (place / "t" / "_delta_log").glob("*.json"):
            file.write_text("no log entry")
        with pytest.raises(StoreError, match='table "t"'):
            DeltaOfflineStore(place).scan("t")


def _live_files(table: Path) -> list[Path]:
    """Data files of the newest version, from the log's own entries and what these go on from."""
    log = table / "_delta_log"
    entries, checkpoints = sorted(log.glob("*.json")), sorted(log.glob("*.checkpoint.parquet"))
    found = _live_paths((entry.read_text() for entry in entries), [file.read_bytes() for file in checkpoints[-1:]])
    return [table / path for path in found]


def _live_paths(entries: Iterable[str], checkpoint: Iterable[bytes] = ()) -> list[str]:
    """The paths after all entries; those of `checkpoint` were there before the first."""
    added = [pq.read_table(pa.BufferReader(data))["add"].to_pylist() for data in checkpoint]
    files = {action["path"] for actions in added for action in actions if action is not None}
    for entry in entries:
        for line in entry.splitlines():
            action = json.loads(line)
            if "add" in action:
                files.add(action["add"]["path"])
            elif "remove" in action:
                files.discard(action["remove"]["path"])
    return sorted(files)
