"""Which row of a table is read at a time, at each edge of the rule: a row may be written before its own time."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.aggregations.reads import read_table

EARLY, LATE = 0, 1
TIMES, AVAILABLE = (100, 200), (50, 250)
"""The first row is known before its time, the second one after it."""


def row_at(t: int, *, ttl: int = -1, limit: int = -1) -> int:
    """The row that is read at t, -1 for none."""
    values, all_valid = (7, 8), (1, 1)
    i8 = np.array([*TIMES, *AVAILABLE, 0, 1, *all_valid, *values], np.int64)
    out, valid = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    row = int(read_table(i8, 0, 2, 4, 6, 8, 2, 2, 1, t, ttl, limit, out, valid, 0))
    assert (bool(valid[0]), int(out[0])) == ((True, values[row]) if row >= 0 else (False, 0))
    return row


@pytest.mark.parametrize(
    ("t", "row"), [(50, -1), (51, -1), (99, -1), (100, -1), (101, EARLY), (201, EARLY), (250, EARLY), (251, LATE)]
)
def test_a_row_counts_after_its_time_and_after_it_is_known(t: int, row: int) -> None:
    assert row_at(t) == row


@pytest.mark.parametrize(("t", "row"), [(130, EARLY), (131, -1)])
def test_it_counts_to_the_end_of_its_time_to_live(t: int, row: int) -> None:
    assert row_at(t, ttl=30) == row


@pytest.mark.parametrize(("limit", "row"), [(0, -1), (1, EARLY), (2, LATE), (-1, LATE)])
def test_it_counts_from_the_write_that_follows_it(limit: int, row: int) -> None:
    assert row_at(300, limit=limit) == row
