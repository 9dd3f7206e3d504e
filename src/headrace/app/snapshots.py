"""Snapshots: the row of every entity at one moment, for batch scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.app.history import HistoryRows
from headrace.core.columns import Column
from headrace.core.schema import DType
from headrace.features.plan import GroupPlan, TablePlan, ViewPlan
from headrace.retrieval.history import HistoryReader, everything_below
from headrace.retrieval.past import EVENT_TIME
from headrace.training.dataset import request_columns, requests

if TYPE_CHECKING:
    from headrace.app.wiring import Parts

_ROW = "_row"


def view_snapshot(parts: Parts, view: ViewPlan, at_us: int, since_us: int | None) -> HistoryRows:
    """A view at `at_us`, for each combination of its keys among the requests in `[since_us, at_us)`.

    Other request fields are those of the newest request of the combination; its time is `at_us`. In order of the keys.
    """
    past = parts.past
    as_of, tables = past.computed(), past.known_table_rows()
    rows = requests(parts.plan, view, past, since_us, at_us, as_of)
    keys = list(dict.fromkeys(name for binding in view.bindings for name in binding.request_keys))
    # Requests come in order of time, so the last row of a combination is its newest.
    rows = rows.append_column(_ROW, pa.array(np.arange(rows.num_rows)))
    newest = rows.group_by(keys).aggregate([(_ROW, "max")])
    newest = newest.sort_by([(name, "ascending") for name in keys] or [(f"{_ROW}_max", "ascending")])
    request = request_columns(view, rows.take(newest[f"{_ROW}_max"]) if rows.num_rows else rows)
    n = len(next(iter(request.values())))
    request[view.request.time_field or ""] = Column(DType.TIMESTAMP, np.full(n, at_us))
    block = HistoryReader(view, parts.plan, past).read(request, everything_below(as_of, n))
    columns = dict(request) | {name: block.column(name) for name in block.names}
    return HistoryRows(columns, as_of=as_of, tables=tables)


def group_entities(parts: Parts, group: GroupPlan, at_us: int, since_us: int | None) -> pa.Table:
    """The keys of a group that occur in events in `[since_us, at_us)`, each once, in order, with the time `at_us`."""
    names = [part.name for part in group.key]
    time = parts.plan.stream(group.stream).schema.time_field or "at"
    rows = parts.past.events(group.stream, names or [time], since_us, at_us)
    return _asked(rows, names, time, at_us)


def table_entities(parts: Parts, table: TablePlan, at_us: int, since_us: int | None) -> pa.Table:
    """The keys of a table that have a row with event time in `[since_us, at_us)`, as those of a group."""
    names = [part.name for part in table.key]
    rows = parts.past.rows(table)
    if rows is None:
        rows = pa.table({name: pa.array([], pa.string()) for name in (*names, EVENT_TIME)})
    else:
        rows = rows.filter(pc.less(rows[EVENT_TIME], at_us))
        rows = rows if since_us is None else rows.filter(pc.greater_equal(rows[EVENT_TIME], since_us))
    return _asked(rows, names, table.schema.time_field or "at", at_us)


def _asked(rows: pa.Table, names: list[str], time: str, at_us: int) -> pa.Table:
    if not names:  # `key=()`: the whole stream is one entity, which occurs as soon as there is an event
        return pa.table({time: pa.array([at_us] * min(rows.num_rows, 1), pa.timestamp("us", "UTC"))})
    keys = rows.select(names)
    for name in names:
        keys = keys.filter(pc.is_valid(keys[name]))
    found = keys.group_by(names).aggregate([]).sort_by([(name, "ascending") for name in names])
    return found.append_column(time, pa.array(np.full(found.num_rows, at_us), pa.timestamp("us", "UTC")))
