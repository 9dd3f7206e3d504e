"""What is known of the past: the archive in the offline store, and behind it the tail that only the logs hold yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.arrow import from_arrow, to_arrow
from headrace.core.columns import column_of
from headrace.core.schema import DType, Schema
from headrace.core.tablerows import TableRows, decode_table_rows
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION, VERDICT, judged_events
from headrace.engines.stream.commits import TABLES, WINDOWS, CommitHead
from headrace.engines.stream.verdicts import COUNTED
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import EventLog, LogBatch
from headrace.features.plan import ProjectPlan, TablePlan
from headrace.retrieval.stored import as_declared, stored_columns
from headrace.stores.offline.base import OfflineStore

WRITER = "archive"
EVENT_TIME, AVAILABLE, ORDER, DELETED = "_event_time_us", "_available_us", "_order", "_deleted"


def events_table(stream: str) -> str:
    """Name of the archive of a stream in the offline store."""
    return f"events/{stream}"


def rows_table(table: TablePlan) -> str:
    """Name of the history of a table in the offline store; a changed definition has a history of its own."""
    return f"tables/{table.name}-{table.version}"


def table_history(table: TablePlan, rows: TableRows, base: int) -> pa.Table:
    """Rows of a table as they are archived: key parts, features, and when each row was true, available and written."""
    columns: dict[str, pa.Array] = {}
    for index, part in enumerate(table.key):
        array = to_arrow(column_of(part.dtype, [key[index] for key in rows.keys]))
        columns[part.name] = array.cast(pa.int64()) if pa.types.is_temporal(array.type) else array
    for field in table.features:
        array = to_arrow(rows.columns[field.name])
        columns[field.name] = array.cast(pa.int64()) if pa.types.is_temporal(array.type) else array
    columns[EVENT_TIME] = pa.array(np.asarray(rows.event_time_us, np.int64))
    columns[AVAILABLE] = pa.array(np.asarray(rows.available_us, np.int64))
    columns[ORDER] = pa.array(np.arange(base, base + rows.n))
    columns[DELETED] = pa.array(np.asarray(rows.deleted, np.bool_))
    return pa.table(columns)


class Known(Protocol):
    """What history is read from: `Past`, or `GivenEvents`."""

    def events(
        self, stream: str, fields: Sequence[str], since_us: int | None = None, until_us: int | None = None
    ) -> pa.Table:
        """See `Past.events`."""
        ...

    def rows(self, table: TablePlan, since_us: int | None = None, until_us: int | None = None) -> pa.Table | None:
        """See `Past.rows`."""
        ...


class GivenEvents:
    """A past of Arrow tables of events, one per stream, every row of which counts; there are no rows of tables.

    A table holds the fields that are read, in the types of its stream; keys may be dictionaries, which saves the search
    for equal ones. Rows are in any order of time; ties of (event time, id) are in the order of the rows.
    """

    def __init__(self, plan: ProjectPlan, streams: Mapping[str, pa.Table]) -> None:
        self.plan = plan
        self._streams = streams

    def events(
        self, stream: str, fields: Sequence[str], since_us: int | None = None, until_us: int | None = None
    ) -> pa.Table:
        """The given events; see `Past.events`. An event without a time is left out."""
        time = self.plan.stream(stream).schema.time_field or ""
        given = self._streams[stream]
        column = from_arrow(given[time], DType.TIMESTAMP, time)
        keep = column.mask().copy()
        if since_us is not None:
            keep &= column.values >= since_us
        if until_us is not None:
            keep &= column.values < until_us
        n = given.num_rows
        columns = {name: given[name] for name in fields}
        columns |= {time: pa.array(column.values), PARTITION: pa.array(np.zeros(n, np.int64))}
        columns |= {OFFSET: pa.array(np.arange(n)), ARRIVAL: pa.array(column.values)}
        found = pa.table(columns)
        return found if keep.all() else found.filter(pa.array(keep))

    def rows(self, table: TablePlan, since_us: int | None = None, until_us: int | None = None) -> pa.Table | None:
        """None: no table has rows."""
        return None


class Past:
    """Reads archive and log tail as one; safe to use from several threads.

    `until` gives the offset in topic `windows` at which the known past ends. Without it that is the end of the log; a
    replay whose stream compute runs ahead of the simulated time sets it to where ingestion is.

    Attributes:
        logged: whether derived streams are read as they were logged, not derived again.
    """

    logged = False

    def __init__(
        self,
        plan: ProjectPlan,
        raw: EventLog,
        features: EventLog,
        offline: OfflineStore,
        *,
        until: Callable[[], int] | None = None,
    ) -> None:
        self.plan = plan
        self._raw = raw
        self._features = features
        self._offline = offline
        self._until = until

    def events(
        self, stream: str, fields: Sequence[str], since_us: int | None = None, until_us: int | None = None
    ) -> pa.Table:
        """Counted events with `since_us <= event time < until_us`: `fields`, event time, partition, offset, arrival.

        In no promised order. Times are int64 µs. Of a derived stream these are the records as they were derived, with
        the arrivals of their sources.
        """
        plan = self.plan.stream(stream)
        time = plan.schema.time_field or ""
        wanted = list(dict.fromkeys([*fields, time, PARTITION, OFFSET, ARRIVAL]))
        archived, pieces = self._scan(events_table(stream), (plan.schema, [*wanted, VERDICT]), since_us, until_us)
        pieces = [as_declared(rows.filter(pc.equal(rows[VERDICT], COUNTED)), plan.schema, wanted) for rows in pieces]
        commits = [commit for _, commit in self._commits(archived)]
        tail = judged_events(plan, self._raw, commits, derived=stream in self.plan.derived)
        if tail is not None:
            keep = pc.equal(tail[VERDICT], COUNTED)
            if since_us is not None:
                keep = pc.and_(keep, pc.greater_equal(tail[time], since_us))
            if until_us is not None:
                keep = pc.and_(keep, pc.less(tail[time], until_us))
            pieces.append(tail.filter(keep).select(wanted))
        if not pieces:
            return _empty(self.plan, stream, wanted)
        return pa.concat_tables(pieces, promote_options="default") if len(pieces) > 1 else pieces[0]

    def rows(self, table: TablePlan, since_us: int | None = None, until_us: int | None = None) -> pa.Table | None:
        """All rows ever written to a table, in the columns of `table_history`; None if there are none.

        Rows whose event time is not in `since_us <= event time < until_us` may be left out.
        """
        archived, pieces = self._scan(rows_table(table), None, since_us, until_us)
        if TABLES in self._features.topics():
            for batch in self._features.read(TABLES, 0, archived, 10_000_000):
                rows = decode_table_rows(batch.payload)
                if rows.table == table.name and rows.version == table.version and batch.base >= archived:
                    pieces.append(table_history(table, rows, batch.base))
        return pa.concat_tables(pieces, promote_options="default") if pieces else None

    def _scan(
        self, table: str, fields: tuple[Schema, Sequence[str]] | None, since_us: int | None, until_us: int | None
    ) -> tuple[int, list[pa.Table]]:
        """What is archived, and the feature-log offset up to which that goes.

        `fields`: only the columns that hold these names of a schema.

        The archive may grow between the two questions; then both are asked again, or rows would be read twice.
        """
        while True:
            archived = self._offline.number(table, WRITER)
            if archived < 0:
                return 0, []
            columns = None if fields is None else stored_columns(self._offline.columns(table), *fields)
            rows = self._offline.scan(table, columns, since_us=since_us, until_us=until_us)
            if self._offline.number(table, WRITER) == archived:
                return archived, [rows]

    def computed(self) -> dict[str, list[int]]:
        """Positions of stream compute: the events below them are what `events` can return."""
        if WINDOWS not in self._features.topics():
            return {}
        end = self._features.end(WINDOWS, 0) if self._until is None else self._until()
        found = read_heads(self._features, end - 1, 1) if end > 0 else []
        return found[0][1].positions if found else {}

    def _commits(self, start: int) -> list[tuple[LogBatch, CommitHead]]:
        if WINDOWS not in self._features.topics():
            return []
        end = self._features.end(WINDOWS, 0) if self._until is None else self._until()
        return read_heads(self._features, start, end - start) if end > start else []


def _empty(plan: ProjectPlan, stream: str, names: list[str]) -> pa.Table:
    schema = plan.stream(stream).schema
    columns = {}
    for name in names:
        if name in schema:
            array = to_arrow(column_of(schema[name].dtype, []))
            columns[name] = array.cast(pa.int64()) if pa.types.is_temporal(array.type) else array
        else:
            columns[name] = pa.array([], pa.int64())
    return pa.table(columns)
