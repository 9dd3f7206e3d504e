"""Merging rows of a table into the record of its key."""

from __future__ import annotations

from headrace.aggregations.table_records import TableRow, decode_rows, merge_rows

HORIZON = 100


def row(order: int, at: int) -> TableRow:
    return TableRow(at, at, order, 1, [order], [])


def test_rows_that_a_record_holds_already_change_nothing() -> None:
    """A worker that died between writing and telling so brings the same rows again."""
    once = merge_rows(None, [row(3, 10), row(4, 20)], 1, HORIZON, 25)
    assert merge_rows(once, [row(4, 20)], 1, HORIZON, 25) == once
    assert merge_rows(once, [row(3, 10), row(4, 20)], 1, HORIZON, 25) == once
    more = merge_rows(once, [row(4, 20), row(5, 15)], 1, HORIZON, 30)
    assert sorted(held.order for held in decode_rows(more, 1)) == [3, 4, 5]
