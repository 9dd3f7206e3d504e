"""What is known of the past: the archive in the offline store, and behind it the tail that only the logs hold yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
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
MEMORY_BYTES = 4 * 2**30
"""How much memory one stream or table may take while history is read from it; what is larger is cut into parts."""
_COMMITS = 256
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
    columns[ORDER] = pa.array(rows.orders(base))
    columns[DELETED] = pa.array(np.asarray(rows.deleted, np.bool_))
    return pa.table(columns)


class Known(Protocol):
    """What history is read from: `Past`, or `GivenEvents`."""

    def events(
        self, stream: str, fields: Sequence[str], since_us: int | None = None, until_us: int | None = None
    ) -> pa.Table:
        """See `Past.events`."""
        ...

    def knowing(self, plan: ProjectPlan) -> Known:
        """See `Past.knowing`."""
        ...

    def rows(self, table: TablePlan, since_us: int | None = None, until_us: int | None = None) -> pa.Table | None:
        """See `Past.rows`."""
        ...

    def most_rows(self, columns: int) -> int:
        """See `Past.most_rows`."""
        ...

    def count_events(self, stream: str, since_us: int | None, until_us: int | None) -> int:
        """See `Past.count_events`."""
        ...

    def count_rows(self, table: TablePlan, since_us: int | None, until_us: int | None) -> int:
        """See `Past.count_rows`."""
        ...

    def event_batches(
        self, stream: str, fields: Sequence[str], since_us: int | None, until_us: int | None
    ) -> Iterator[pa.Table]:
        """See `Past.event_batches`."""
        ...

    def row_batches(
        self, table: TablePlan, names: Sequence[str] | None, since_us: int | None, until_us: int | None
    ) -> Iterator[pa.Table]:
        """See `Past.row_batches`."""
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

    def knowing(self, plan: ProjectPlan) -> GivenEvents:
        """The same events of the streams of another plan."""
        return GivenEvents(plan, self._streams)

    def rows(self, table: TablePlan, since_us: int | None = None, until_us: int | None = None) -> pa.Table | None:
        """None: no table has rows."""
        return None

    def most_rows(self, columns: int) -> int:
        """What is given is in memory already: there is no limit."""
        return 2**62

    def count_events(self, stream: str, since_us: int | None, until_us: int | None) -> int:
        """How many events are given."""
        return int(self._streams[stream].num_rows)

    def count_rows(self, table: TablePlan, since_us: int | None, until_us: int | None) -> int:
        """None."""
        return 0

    def event_batches(
        self, stream: str, fields: Sequence[str], since_us: int | None, until_us: int | None
    ) -> Iterator[pa.Table]:
        """The given events at once."""
        yield self.events(stream, fields, since_us, until_us)

    def row_batches(
        self, table: TablePlan, names: Sequence[str] | None, since_us: int | None, until_us: int | None
    ) -> Iterator[pa.Table]:
        """None."""
        yield from ()


class Past:
    """Reads archive and log tail as one; safe to use from several threads.

    `until` gives the offset in topic `windows` at which the known past ends. Without it that is the end of the log; a
    replay whose stream compute runs ahead of the simulated time sets it to where ingestion is. `memory_bytes` is how
    much of one stream or table is held in memory at a time.

    Attributes:
        logged: whether derived streams are read as they were logged, not derived again.
        offline: the store that holds the archive.
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
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.plan = plan
        self._raw = raw
        self._features = features
        self.offline = offline
        self._until = until
        self._memory_bytes = memory_bytes

    def knowing(self, plan: ProjectPlan) -> Past:
        """The same past for another plan, one of other generations of derived streams, say."""
        found = copy(self)
        found.plan = plan
        return found

    def most_rows(self, columns: int) -> int:
        """How many rows with so many columns of interest may be held in memory and sorted."""
        # Measured: two words per column, as it was read and as it is sorted; beside them times, positions, keys, order.
        return max(1, self._memory_bytes // (8 * (2 * columns + 18)))

    def count_events(self, stream: str, since_us: int | None, until_us: int | None) -> int:
        """At least the number of events that `events` returns: those of whole days, and all of the log's tail."""
        name = events_table(stream)
        spans = [commit.streams.get(stream) for _, commit in self._commits(max(self.offline.number(name, WRITER), 0))]
        tail = sum(sum(span.end) - sum(span.begin) for span in spans if span is not None)
        return self.offline.count(name, since_us=since_us, until_us=until_us) + tail

    def count_rows(self, table: TablePlan, since_us: int | None, until_us: int | None) -> int:
        """At least the number of rows that `rows` returns, likewise."""
        name = rows_table(table)
        end = self._features.end(TABLES, 0) if TABLES in self._features.topics() else 0
        tail = max(end - max(self.offline.number(name, WRITER), 0), 0)
        return self.offline.count(name, since_us=since_us, until_us=until_us) + tail

    def events(
        self, stream: str, fields: Sequence[str], since_us: int | None = None, until_us: int | None = None
    ) -> pa.Table:
        """Counted events with `since_us <= event time < until_us`: `fields`, event time, partition, offset, arrival.

        In no promised order. Times are int64 µs. Of a derived stream these are the records as they were derived, with
        the arrivals of their sources.
        """
        pieces = list(self._event_pieces(stream, fields, since_us, until_us, whole=True))
        return pa.concat_tables(pieces, promote_options="default") if len(pieces) > 1 else pieces[0]

    def event_batches(
        self, stream: str, fields: Sequence[str], since_us: int | None, until_us: int | None
    ) -> Iterator[pa.Table]:
        """What `events` returns, in batches that are never in memory together."""
        return self._event_pieces(stream, fields, since_us, until_us, whole=False)

    def _event_pieces(
        self, stream: str, fields: Sequence[str], since_us: int | None, until_us: int | None, *, whole: bool
    ) -> Iterator[pa.Table]:
        plan = self.plan.stream(stream)
        time = plan.schema.time_field or ""
        wanted = list(dict.fromkeys([*fields, time, PARTITION, OFFSET, ARRIVAL]))
        archived, pieces = self._scan(
            events_table(stream), (plan.schema, [*wanted, VERDICT]), since_us, until_us, whole
        )
        none = True
        for rows in pieces:
            none = False
            yield as_declared(rows.filter(pc.equal(rows[VERDICT], COUNTED)), plan.schema, wanted)
        commits = [commit for _, commit in self._commits(archived)]
        step = max(1, len(commits) if whole else _COMMITS)
        for start in range(0, len(commits), step):
            tail = judged_events(plan, self._raw, commits[start : start + step], derived=stream in self.plan.derived)
            if tail is None:
                continue
            keep = pc.equal(tail[VERDICT], COUNTED)
            if since_us is not None:
                keep = pc.and_(keep, pc.greater_equal(tail[time], since_us))
            if until_us is not None:
                keep = pc.and_(keep, pc.less(tail[time], until_us))
            none = False
            yield tail.filter(keep).select(wanted)
        if none:
            yield _empty(self.plan, stream, wanted)

    def rows(self, table: TablePlan, since_us: int | None = None, until_us: int | None = None) -> pa.Table | None:
        """All rows ever written to a table, in the columns of `table_history`; None if there are none.

        Rows whose event time is not in `since_us <= event time < until_us` may be left out.
        """
        pieces = list(self._row_pieces(table, None, since_us, until_us, whole=True))
        return pa.concat_tables(pieces, promote_options="default") if pieces else None

    def row_batches(
        self, table: TablePlan, names: Sequence[str] | None, since_us: int | None, until_us: int | None
    ) -> Iterator[pa.Table]:
        """What `rows` returns, in batches that are never in memory together; `names`: these columns only."""
        return self._row_pieces(table, names, since_us, until_us, whole=False)

    def _row_pieces(
        self,
        table: TablePlan,
        names: Sequence[str] | None,
        since_us: int | None,
        until_us: int | None,
        *,
        whole: bool,
    ) -> Iterator[pa.Table]:
        archived, pieces = self._scan(rows_table(table), None, since_us, until_us, whole, names)
        yield from pieces
        if TABLES in self._features.topics():
            for batch in self._features.read(TABLES, 0, archived, 10_000_000):
                rows = decode_table_rows(batch.payload)
                if rows.table == table.name and rows.version == table.version and batch.base >= archived:
                    history = table_history(table, rows, batch.base)
                    yield history if names is None else history.select(names)

    def _scan(
        self,
        table: str,
        fields: tuple[Schema, Sequence[str]] | None,
        since_us: int | None,
        until_us: int | None,
        whole: bool,
        names: Sequence[str] | None = None,
    ) -> tuple[int, Iterator[pa.Table]]:
        """What is archived, `whole` or in batches, and the feature-log offset up to which that goes.

        `fields`: only the columns that hold these names of a schema; `names`: only these columns. The archive may grow
        meanwhile: what is read is the version to which the offset belongs, or rows would be read twice.
        """
        while True:
            version = self.offline.version(table)
            archived = self.offline.number(table, WRITER)
            columns = names if fields is None else stored_columns(self.offline.columns(table), *fields)
            if self.offline.version(table) == version:
                break
        if version is None or archived < 0:
            return 0, iter(())
        read = (lambda *of, **span: iter((self.offline.scan(*of, **span),))) if whole else self.offline.batches
        return archived, read(table, columns, since_us=since_us, until_us=until_us, version=version)

    def known_table_rows(self) -> int:
        """The first offset of the topic of table rows that is not known."""
        return self._features.end(TABLES, 0) if TABLES in self._features.topics() else 0

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
