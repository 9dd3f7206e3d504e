"""The row of a table that a read sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.features.plan import TablePlan


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row as written: `offset` is its write order.

    `event_time_us` None is a table without event time: always true. `fields` None is a deletion. A row that came live
    is available from `written_us`; a backfilled one from its event time plus the table's delay.
    """

    offset: int
    written_us: int
    key: tuple[Any, ...]
    event_time_us: int | None
    fields: Mapping[str, Any] | None
    backfilled: bool = False


def latest(
    table: TablePlan, key: tuple[Any, ...], t_us: int | None, rows: Sequence[TableRow], position: int | None = None
) -> Mapping[str, Any] | None:
    """The fields of the row that holds for `key` at t, None if there is none; without t, of the newest row.

    `position` is the first write that is not known; None is all of them.
    """
    if None in key:
        return None
    candidates = [
        row
        for row in rows
        if row.key == key
        and (position is None or row.offset < position)
        and (t_us is None or _counts(table, row, t_us))
    ]
    if not candidates:
        return None
    winner = max(candidates, key=_recency)
    # The time to live comes last: an expired row does not let an older one through.
    return None if t_us is not None and _expired(table, winner, t_us) else winner.fields


def _counts(table: TablePlan, row: TableRow, t_us: int) -> bool:
    """True if the row is of the time before t and was available before t."""
    true_before = row.event_time_us is None or row.event_time_us < t_us
    if not row.backfilled:
        return true_before and row.written_us < t_us
    return true_before and (row.event_time_us is None or row.event_time_us + table.delay_us < t_us)


def _expired(table: TablePlan, row: TableRow, t_us: int) -> bool:
    return table.ttl_us is not None and row.event_time_us is not None and row.event_time_us < t_us - table.ttl_us


def _recency(row: TableRow) -> tuple[bool, int, int]:
    """Greatest (event time, write order); no event time is before every time."""
    return (row.event_time_us is not None, row.event_time_us or 0, row.offset)
