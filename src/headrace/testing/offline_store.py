"""Conformance kit of the OfflineStore port: derive a test class per adapter, say how to open it and look behind it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from headrace.core.errors import NotFound, StoreError, StoreMoved
from headrace.core.time import MAX_US, MIN_US, NULL_US, US_PER_DAY
from headrace.stores.offline.base import OfflineStore
from headrace.testing.capabilities import capability
from headrace.testing.processes import ROWS, append_tables, finished, killed_after, started

_EVERY_TYPE = pa.table(
    {
        "at": pa.array([10, 20, 30], pa.int64()),
        "whole": pa.array([1, None, -(2**63)], pa.int64()),
        "real": pa.array([0.1, None, -1e300], pa.float64()),
        "flag": pa.array([True, None, False], pa.bool_()),
        "text": pa.array(["ß", None, ""], pa.string()),
        "vector": pa.array([[1.5, None], None, []], pa.list_(pa.float64())),
        "bytes": pa.array([b"\0\xff", None, b""], pa.binary()),
    }
)


def _timed(*times: int | None) -> pa.Table:
    return pa.table({"at": pa.array(times, pa.int64()), "n": pa.array(range(len(times)), pa.int64())})


class OfflineStoreTests(ABC):
    """What every offline store does. Override `open` and `raw_rows`."""

    port = "OfflineStore"

    @abstractmethod
    def open(self, place: Path) -> OfflineStore:
        """Open the store that lies at `place`, an absent folder at first."""

    @abstractmethod
    def raw_rows(self, store: OfflineStore, place: Path, table: str) -> list[dict[str, Any]]:
        """All stored rows of the newest version, in any order, read without the methods of the adapter."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where the store lies."""
        return tmp_path / "offline"

    @pytest.fixture
    def store(self, place: Path) -> Iterator[OfflineStore]:
        """The open store, empty."""
        store = self.open(place)
        yield store
        store.close()

    @staticmethod
    def put(store: OfflineStore, rows: pa.Table, number: int, *, table: str = "t", writer: str = "w") -> int:
        """Append with the time column "at"."""
        return store.append(table, rows, time_column="at", writer=writer, number=number)

    @capability("rows as given, of every type")
    def test_an_empty_store_has_no_tables(self, store: OfflineStore) -> None:
        assert [store.tables(), store.version("t"), store.number("t", "w")] == [[], None, -1]
        for refused in (lambda: store.scan("t"), lambda: store.compact("t")):
            with pytest.raises(NotFound, match='no table "t"'):
                refused()

    @capability("rows as given, of every type")
    def test_rows_come_back_as_given(self, store: OfflineStore, place: Path) -> None:
        self.put(store, _EVERY_TYPE, 0)
        found = store.scan("t")
        assert found.schema.equals(_EVERY_TYPE.schema)
        assert _rows(found) == _rows(_EVERY_TYPE)
        assert _bag(self.raw_rows(store, place, "t")) == _rows(_EVERY_TYPE)

    @capability("versions to go back to")
    def test_appends_add_up_and_versions_grow(self, store: OfflineStore) -> None:
        versions = [self.put(store, _timed(*range(number, number + 3)), number) for number in range(4)]
        assert versions == sorted(set(versions))
        assert store.version("t") == versions[-1]
        assert _times(store.scan("t")) == sorted([*range(3), *range(1, 4), *range(2, 5), *range(3, 6)])
        assert [_times(store.scan("t", version=version)) for version in versions[:2]] == [[0, 1, 2], [0, 1, 1, 2, 2, 3]]
        for version in (-1, versions[-1] + 1):
            with pytest.raises(NotFound, match=str(version)):
                store.scan("t", version=version)

    @capability("appends count once")
    def test_an_append_with_an_old_number_does_nothing(self, store: OfflineStore, place: Path) -> None:
        first = self.put(store, _timed(1, 2), 7)
        for number in (7, 6, 0):
            assert self.put(store, _timed(3), number) == first
        assert [store.number("t", "w"), store.number("t", "x"), store.version("t")] == [7, -1, first]
        self.put(store, _timed(4), 0, writer="x")
        self.put(store, _timed(5), 1_000_000_007)
        assert [store.number("t", "w"), store.number("t", "x")] == [1_000_000_007, 0]
        assert sorted(row["at"] for row in self.raw_rows(store, place, "t")) == [1, 2, 4, 5]

    @capability("appends count once")
    def test_an_append_that_comes_after_another_than_it_says_is_refused(self, store: OfflineStore, place: Path) -> None:
        def append(store: OfflineStore, at: int, number: int, after: int) -> int:
            return store.append("t", _timed(at), time_column="at", writer="w", number=number, after=after)

        append(store, 1, 7, -1)
        first = append(store, 2, 9, 7)
        for number, after in ((12, 7), (12, -1), (12, 11)):
            with pytest.raises(StoreMoved, match="up to number 9"):
                append(store, 3, number, after)
        assert append(store, 3, 9, 7) == first  # it was done, by whomever
        append(store, 4, 10, 9)
        assert sorted(row["at"] for row in self.raw_rows(store, place, "t")) == [1, 2, 4]
        assert store.number("t", "w") == 10

    @capability("appends count once")
    def test_an_append_without_rows_makes_the_table_and_keeps_the_number(self, store: OfflineStore) -> None:
        self.put(store, _EVERY_TYPE.slice(0, 0), 3)
        assert [store.tables(), store.number("t", "w")] == [["t"], 3]
        assert store.scan("t").num_rows == 0
        assert store.scan("t").schema.equals(_EVERY_TYPE.schema)
        self.put(store, _EVERY_TYPE, 4)
        self.put(store, _EVERY_TYPE.slice(0, 0), 9)
        assert [store.scan("t").num_rows, store.number("t", "w")] == [3, 9]

    @capability("reads of an interval")
    def test_the_interval_includes_its_begin_and_not_its_end(self, store: OfflineStore) -> None:
        day = US_PER_DAY
        times = [0, 1, day - 1, day, day + 1, 3 * day, -1, -day, -day - 1, 15_706 * day, 15_707 * day - 1]
        self.put(store, _timed(*times), 0)
        bounds = [None, *sorted({time + d for time in times for d in (0, 1)}), MAX_US]
        for since in bounds:
            for until in bounds[::3]:
                expected = [t for t in times if (since is None or t >= since) and (until is None or t < until)]
                assert _times(store.scan("t", ["at"], since_us=since, until_us=until)) == sorted(expected)

    @capability("reads piece by piece")
    def test_rows_are_read_piece_by_piece_of_a_column(self, store: OfflineStore) -> None:
        for number in range(3):
            at = [10 * number, 10 * number + 1, US_PER_DAY + number]
            self.put(store, pa.table({"at": at, "n": [3 * number + i for i in range(3)]}), number)
        store.compact("t")
        whole = {row["n"]: row["at"] for row in store.scan("t").to_pylist()}
        for low, high in ((0, 9), (0, 4), (4, 5), (4, 4), (-5, 2), (7, 2**62)):
            found = store.scan("t", ["at"], between=("n", low, high))
            assert found.column_names == ["at"]
            assert _times(found) == sorted(at for n, at in whole.items() if low <= n < high)
        assert _times(store.scan("t", between=("n", 1, 7), since_us=10, until_us=US_PER_DAY)) == [10, 11, 20]

    @capability("reads piece by piece")
    def test_batches_together_are_what_a_scan_gives(self, store: OfflineStore) -> None:
        """Of an interval, of some columns, of an older version."""
        versions = [
            store.append("t", _timed(*range(number, 4_000, 3)), time_column="at", writer="w", number=number)
            for number in range(3)
        ]
        first = list(store.batches("t", ["n", "at"], since_us=10, until_us=3_000, version=versions[0]))
        whole = store.scan("t", ["n", "at"], since_us=10, until_us=3_000, version=versions[0])
        assert len(whole) == 996
        assert _rows(pa.concat_tables(first)) == _rows(whole)
        assert _rows(pa.concat_tables(store.batches("t"))) == _rows(store.scan("t"))
        assert list(store.batches("t", since_us=4_000)) == []

    @capability("reads of an interval")
    def test_the_count_is_no_less_than_what_a_scan_gives(self, store: OfflineStore) -> None:
        assert store.count("t") == 0
        days = [day * US_PER_DAY + 5 for day in range(10)]
        store.append("t", _timed(*days, None, MAX_US + 1), time_column="at", writer="w", number=0)
        assert store.count("t") == 12
        for since, until in ((None, None), (5, 6), (days[3], days[7]), (days[3] + 1, None), (None, days[3])):
            assert store.count("t", since_us=since, until_us=until) >= len(
                store.scan("t", since_us=since, until_us=until)
            )

    @capability("rows as given, of every type")
    def test_rows_without_a_usable_time_are_kept(self, store: OfflineStore) -> None:
        times = [None, NULL_US, MIN_US - 1, MIN_US, 5, MAX_US, MAX_US + 1, 2**63 - 1]
        self.put(store, _timed(*times), 0)
        assert Counter(store.scan("t")["at"].to_pylist()) == Counter(times)
        known = [time for time in times if time is not None]
        for since, until in [
            (NULL_US, None),
            (None, MIN_US),
            (MIN_US, MAX_US + 1),
            (MAX_US + 1, None),
            (None, 2**63 - 1),
        ]:
            expected = [t for t in known if (since is None or t >= since) and (until is None or t < until)]
            assert _times(store.scan("t", since_us=since, until_us=until)) == expected

    @capability("columns may be added")
    def test_columns_are_those_asked_in_that_order(self, store: OfflineStore) -> None:
        self.put(store, _EVERY_TYPE, 0)
        found = store.scan("t", ["text", "whole"], since_us=10, until_us=11)
        assert [found.column_names, found.to_pylist()] == [["text", "whole"], [{"text": "ß", "whole": 1}]]
        for missing in ("texts", "day"):
            with pytest.raises(NotFound, match=f'no column "{missing}"'):
                store.scan("t", ["at", missing])

    @capability("columns may be added")
    def test_a_new_column_is_null_in_older_rows_and_a_missing_one_in_newer(self, store: OfflineStore) -> None:
        self.put(store, pa.table({"at": [1], "old": [1]}), 0)
        self.put(store, pa.table({"at": [2], "new": ["x"]}), 1)
        self.put(store, pa.table({"new": ["y"], "old": [3], "at": [3]}), 2)
        assert _rows(store.scan("t", ["at", "old", "new"])) == _rows(
            pa.table({"at": [1, 2, 3], "old": [1, None, 3], "new": [None, "x", "y"]})
        )

    @capability("columns may be added")
    def test_a_table_names_its_columns(self, store: OfflineStore) -> None:
        assert store.columns("t") == {}
        self.put(store, _EVERY_TYPE, 0)
        assert store.columns("t") == {field.name: field.type for field in _EVERY_TYPE.schema}
        self.put(store, pa.table({"at": [5], "new": ["b"]}), 1)
        assert store.columns("t")["new"] == pa.string()

    @capability("rows that do not fit are refused")
    def test_rows_that_do_not_fit_are_refused_with_the_column_named(self, store: OfflineStore) -> None:
        self.put(store, _timed(1), 0)
        for rows, named in [
            (pa.table({"n": [1]}), '"at"'),
            (pa.table({"at": ["1970"], "n": [1]}), '"at"'),
            (pa.table({"at": [1], "n": ["text"]}), '"n"'),
            (pa.table({"at": [1], "day": [1]}), '"day"'),
            (pa.table([pa.array([1]), pa.array([1]), pa.array([2])], names=["at", "n", "n"]), "twice"),
        ]:
            with pytest.raises(StoreError, match=named):
                self.put(store, rows, 1)
        with pytest.raises(StoreError, match='is "at", not "n"'):
            store.append("t", _timed(1), time_column="n", writer="w", number=1)
        assert [store.scan("t").num_rows, store.number("t", "w")] == [1, 0]

    @capability("rows as given, of every type")
    def test_tables_have_names_with_parts(self, store: OfflineStore) -> None:
        for name in ("events/flight", "events/arrival", "rows", "a/b/c"):
            self.put(store, _timed(1), 0, table=name)
        assert store.tables() == ["a/b/c", "events/arrival", "events/flight", "rows"]
        for name in ("", "/", "../x", "a//b", "_delta_log", "a/.hidden", "a b"):
            with pytest.raises(StoreError, match="no usable table name"):
                self.put(store, _timed(1), 0, table=name)

    @capability("compaction")
    def test_compacting_keeps_rows_numbers_and_older_versions(self, store: OfflineStore) -> None:
        versions = [self.put(store, _timed(number, US_PER_DAY + number), number) for number in range(6)]
        before = _rows(store.scan("t"))
        store.compact("t")
        assert _rows(store.scan("t")) == before
        assert store.number("t", "w") == 5
        assert _times(store.scan("t", version=versions[1])) == [0, 1, US_PER_DAY, US_PER_DAY + 1]
        self.put(store, _timed(9), 6)
        assert store.scan("t").num_rows == 13

    @capability("rows rewritten in place (erasure)")
    def test_rewritten_rows_stand_in_the_place_of_the_old_ones(self, store: OfflineStore, place: Path) -> None:
        for number in range(4):
            at = [number, US_PER_DAY + number, None if number == 2 else 2 * US_PER_DAY]
            self.put(store, pa.table({"at": at, "who": ["a", "b", None], "n": [number] * 3}), number)
        before = store.version("t")
        assert before is not None
        seen: list[str] = []

        def change(rows: pa.Table) -> pa.Table:
            seen.extend(rows["who"].to_pylist())
            rows = rows.set_column(rows.column_names.index("who"), "who", pa.nulls(rows.num_rows, pa.string()))
            return rows.filter(pc.not_equal(rows["n"], 3))

        assert store.rewrite("t", pc.field("who") == "b", change) == 4
        assert seen == ["b"] * 4
        found = store.scan("t")
        assert sorted(zip(found["n"].to_pylist(), map(str, found["who"].to_pylist()), strict=True)) == [
            *((n, text) for n in range(3) for text in ("None", "None", "a")), (3, "None"), (3, "a"),
        ]  # fmt: skip
        assert _bag(self.raw_rows(store, place, "t")) == _rows(found)
        assert store.rewrite("t", pc.field("who") == "b", change) == 0
        store.forget("t")
        store.forget("t")
        assert _rows(store.scan("t")) == _rows(found) == _bag(self.raw_rows(store, place, "t"))
        assert store.number("t", "w") == 3
        assert self.put(store, pa.table({"at": [5], "who": ["c"], "n": [9]}), 4) > before
        assert store.scan("t").num_rows == 12
        for refused in (lambda: store.rewrite("u", pc.field("who") == "b", change), lambda: store.forget("u")):
            with pytest.raises(NotFound, match='no table "u"'):
                refused()

    @capability("damaged files are found")
    def test_a_sound_table_has_no_damaged_files_and_loses_nothing_with_them(self, store: OfflineStore) -> None:
        assert store.damaged("t") == []
        for number in range(3):
            self.put(store, _timed(number, US_PER_DAY + number), number)
        store.compact("t")
        before = _rows(store.scan("t"))
        assert store.damaged("t") == []
        assert store.drop_damaged("t") == 0
        assert _rows(store.scan("t")) == before
        assert store.number("t", "w") == 2

    @capability("threads")
    def test_threads_append_to_one_table_at_once(self, store: OfflineStore, place: Path) -> None:
        failures: list[BaseException] = []

        def work(writer: int) -> None:
            try:
                for number in range(4):
                    self.put(store, _timed(writer, number), number, writer=f"w{writer}")
                    store.scan("t")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(writer,), daemon=True) for writer in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(self.raw_rows(store, place, "t")) == 24
        assert [store.number("t", f"w{writer}") for writer in range(3)] == [3, 3, 3]

    @capability("threads")
    def test_a_closed_store_refuses(self, store: OfflineStore) -> None:
        self.put(store, _timed(1), 0)
        store.close()
        for refused in (store.tables, lambda: store.scan("t"), lambda: self.put(store, _timed(2), 1)):
            with pytest.raises(StoreError, match="closed"):
                refused()


class DurableOfflineStoreTests(OfflineStoreTests):
    """What a store does that outlives its process and is shared. Override `opener` too."""

    @abstractmethod
    def opener(self, place: Path) -> Callable[[], OfflineStore]:
        """Something that can be pickled and opens the store at `place` in another process."""

    @capability("everything is there after reopening")
    def test_everything_is_there_after_reopening_and_appends_stay_idempotent(
        self, store: OfflineStore, place: Path
    ) -> None:
        version = self.put(store, _EVERY_TYPE, 5, table="events/flight")
        store.close()
        store = self.open(place)
        assert [store.tables(), store.number("events/flight", "w")] == [["events/flight"], 5]
        assert self.put(store, _EVERY_TYPE, 5, table="events/flight") == version
        assert _rows(store.scan("events/flight", since_us=10, until_us=31)) == _rows(_EVERY_TYPE)
        assert self.put(store, _EVERY_TYPE, 6, table="events/flight") > version
        store.close()

    @capability("several processes append")
    def test_one_process_may_open_it_twice(self, store: OfflineStore, place: Path) -> None:
        other = self.open(place)
        for number in range(3):
            self.put(store, _timed(number), number)
            assert self.put(other, _timed(99), number) == store.version("t") == other.version("t")
            self.put(other, _timed(10 + number), number, writer="other")
        assert _times(store.scan("t")) == _times(other.scan("t")) == [0, 1, 2, 10, 11, 12]
        other.close()

    @capability("several processes append")
    def test_two_processes_append_to_one_new_table(self, store: OfflineStore, place: Path) -> None:
        with (
            started(append_tables, self.opener(place), "t", "a", 6) as (first, _),
            started(append_tables, self.opener(place), "t", "b", 6) as (second, _),
        ):
            finished(first)
            finished(second)
        for writer in ("a", "b"):
            assert store.number("t", writer) == 5
            assert _written(self.raw_rows(store, place, "t"), writer) == dict.fromkeys(range(6), ROWS)

    @capability("appends count once")
    def test_two_processes_of_one_writer_append_each_number_once(self, store: OfflineStore, place: Path) -> None:
        """As when a machine that was thought dead goes on beside the one that took over."""
        self.put(store, pa.table({"at": [0] * ROWS, "writer": ["w"] * ROWS}), 0)
        with (
            started(append_tables, self.opener(place), "t", "w", 8) as (first, _),
            started(append_tables, self.opener(place), "t", "w", 8) as (second, _),
        ):
            finished(first)
            finished(second)
        assert store.number("t", "w") == 7
        assert _written(self.raw_rows(store, place, "t"), "w") == dict.fromkeys(range(8), ROWS)

    @capability("compaction")
    def test_a_table_is_compacted_while_another_process_appends(self, store: OfflineStore, place: Path) -> None:
        with started(append_tables, self.opener(place), "t", "w", 10) as (process, pipe):
            pipe.recv_bytes()
            while process.is_alive():
                store.compact("t")
            finished(process)
        store.compact("t")
        assert _written(self.raw_rows(store, place, "t"), "w") == dict.fromkeys(range(10), ROWS)
        assert store.number("t", "w") == 9

    @capability("kill -9 of a writer")
    def test_a_killed_writer_leaves_whole_appends_and_goes_on_after_the_last(
        self, store: OfflineStore, place: Path
    ) -> None:
        for reports in (1, 9):
            reported = killed_after(append_tables, self.opener(place), "t", "w", 10**6, reports=reports)
            number = store.number("t", "w")
            assert number >= reported
            expected = dict.fromkeys(range(number + 1), ROWS)
            assert _written(self.raw_rows(store, place, "t"), "w") == expected
            assert _written(store.scan("t").to_pylist(), "w") == expected


def _rows(table: pa.Table) -> Counter[str]:
    return _bag(table.to_pylist())


def _bag(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    return Counter(repr(sorted(row.items())) for row in rows)


def _times(table: pa.Table) -> list[int]:
    return sorted(table["at"].to_pylist())


def _written(rows: Sequence[dict[str, Any]], writer: str) -> dict[int, int]:
    """How many rows of each number the writer has stored."""
    return dict(sorted(Counter(row["at"] for row in rows if row["writer"] == writer).items()))
