"""The row of a table that holds at a time, worked by hand."""

from __future__ import annotations

from typing import Any

from headrace.core.schema import DType, Field, Schema
from headrace.features.plan import KeyPart, TablePlan
from headrace.testing.oracle import TableRow, latest


def table(ttl_us: int | None = None, delay_us: int = 0) -> TablePlan:
    schema = Schema("p", (Field("user", DType.STRING), Field("v", DType.INT), Field("at", DType.TIMESTAMP)), "at")
    key = (KeyPart("user", DType.STRING, None),)
    return TablePlan("p", "0" * 16, schema, key, None, None, None, ttl_us, delay_us, ())


def row(offset: int, at: int | None, written: int, v: int | None = 0, **settings: Any) -> TableRow:
    """A row of user "a"; v None is a deletion."""
    return TableRow(offset, written, ("a",), at, None if v is None else {"v": v}, **settings)


def v_at(t: int | None, *rows: TableRow, plan: TablePlan | None = None, position: int | None = None) -> int | None:
    found = latest(plan or table(), ("a",), t, rows, position)
    return None if found is None else found["v"]


def test_a_row_counts_after_its_event_time_and_not_at_it() -> None:
    assert v_at(10, row(0, 10, 0, 7)) is None
    assert v_at(11, row(0, 10, 0, 7)) == 7


def test_a_live_row_counts_after_its_write_time_and_not_at_it() -> None:
    assert v_at(20, row(0, 10, 20, 7)) is None
    assert v_at(21, row(0, 10, 20, 7)) == 7


def test_a_backfilled_row_counts_from_its_event_time_plus_the_delay() -> None:
    loaded = row(0, 10, 99_999, 7, backfilled=True)
    assert v_at(11, loaded) == 7
    assert v_at(15, loaded, plan=table(delay_us=5)) is None
    assert v_at(16, loaded, plan=table(delay_us=5)) == 7


def test_the_greatest_event_time_wins_whenever_it_was_written() -> None:
    assert v_at(100, row(0, 20, 20, 1), row(1, 10, 30, 2)) == 1


def test_equal_event_times_are_decided_by_write_order() -> None:
    assert v_at(100, row(1, 20, 20, 2), row(0, 20, 20, 1)) == 2


def test_an_earlier_read_sees_the_earlier_row() -> None:
    rows = (row(0, 10, 10, 1), row(1, 20, 20, 2))
    assert [v_at(t, *rows) for t in (10, 11, 20, 21)] == [None, 1, 1, 2]


def test_rows_at_or_past_the_position_are_not_known() -> None:
    rows = (row(0, 10, 10, 1), row(1, 20, 20, 2))
    assert [v_at(100, *rows, position=p) for p in (0, 1, 2)] == [None, 1, 2]


def test_a_deletion_is_a_row() -> None:
    rows = (row(0, 10, 10, 1), row(1, 20, 20, None), row(2, 30, 30, 3))
    assert [v_at(t, *rows) for t in (20, 21, 31)] == [1, None, 3]


def test_time_to_live_comes_last_so_nothing_older_shows_through() -> None:
    plan = table(ttl_us=5)
    assert v_at(15, row(0, 10, 10, 1), plan=plan) == 1
    assert v_at(16, row(0, 10, 10, 1), plan=plan) is None
    # The deleted row hides the one that has not expired.
    assert v_at(15, row(0, 11, 11, 1), row(1, 12, 12, None), plan=plan) is None


def test_a_read_without_a_time_takes_the_newest_row() -> None:
    assert v_at(None, row(0, 10**18, 10**18, 1), row(1, 5, 5, 2)) == 1


def test_a_table_without_event_time_is_always_true_and_the_last_write_wins() -> None:
    rows = (row(0, None, 50, 1, backfilled=True), row(1, None, 60, 2))
    assert [v_at(t, *rows) for t in (-(10**15), 60, 61)] == [1, 1, 2]


def test_other_keys_and_null_keys_see_nothing() -> None:
    assert latest(table(), ("b",), 100, [row(0, 10, 10)]) is None
    assert latest(table(), (None,), 100, [TableRow(0, 0, (None,), 1, {"v": 1})]) is None
