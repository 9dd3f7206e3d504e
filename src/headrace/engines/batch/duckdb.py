"""BatchEngine on DuckDB, in this process.

Sources are kept as in-memory tables, sorted by when their rows became known, so that a run every hour costs what it
returns and not what the source holds. A file that has changed is read again; one too large to keep is read in place.
Each query is prepared once: its source names become common table expressions that see only rows known by the time of
the run, and where the caller says since when, the condition on the event time goes down into the scan.

DuckDB itself may open nothing: files come to it as Arrow, and a query is one SELECT over the sources that it names.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from headrace.core.addresses import shown
from headrace.core.errors import NotFound, PlanError, StoreError
from headrace.core.time import Clock
from headrace.engines.batch.base import BatchEngine
from headrace.engines.batch.databases import LOCKED, Databases, check_select
from headrace.engines.batch.files import SourceFiles
from headrace.engines.batch.sources import KNOWN_AT, Source, Sources
from headrace.features.plan import TablePlan

_KNOWN = "_headrace_known_us"
_PLAIN = {"BIGINT", "INTEGER", "SMALLINT", "DOUBLE", "FLOAT", "BOOLEAN", "VARCHAR", "TIMESTAMP WITH TIME ZONE"}
_BOUNDS = {
    "TIMESTAMP WITH TIME ZONE": "make_timestamptz({})",
    "TIMESTAMP": "make_timestamp({})",
    "BIGINT": "{}",
}


@dataclass(slots=True)
class _Loaded:
    """A source as DuckDB sees it: the text that a query selects from, and the files' state when it was read."""

    select: str
    timed: bool
    stamp: tuple[Any, ...]


@dataclass(slots=True)
class _Prepared:
    """A query made ready: a statement, which of the parameters (now, since) it takes, and how it is fetched.

    `small` says that NumPy holds all of its columns without loss, which costs half of Arrow where rows are few.
    """

    statement: Any
    takes_now: bool
    takes_since: bool
    small: bool


class DuckDBBatchEngine(BatchEngine):
    """Runs queries on DuckDB over files, folders, Arrow tables and databases.

    Args:
        sources: by name: a path, an Arrow table, a database URL or a `Source`.
        clock: the time of runs that name none.
        folder: where a name that is no source is looked for as a file (`weather` as `weather.csv`, say).
        threads: DuckDB's threads; None leaves it to DuckDB.
        objects: how object storage is reached, see `headrace.stores.objects.s3_options`.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        clock: Clock,
        *,
        folder: Path | None = None,
        threads: int | None = 1,
        objects: Mapping[str, str] | None = None,
    ) -> None:
        self._sources = Sources(sources, folder)
        self._clock = clock
        options: dict[str, Any] = dict(LOCKED) if threads is None else LOCKED | {"threads": threads}
        self._connection = duckdb.connect(config=options)
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET lock_configuration = true")
        self._databases = Databases()
        self._files = SourceFiles(objects)
        self._loaded: dict[tuple[str, str], _Loaded] = {}
        self._prepared: dict[tuple[str, str, bool], tuple[_Prepared, tuple[Any, ...]]] = {}
        self._names: dict[str, list[str]] = {}
        self._lock = threading.RLock()

    def run(self, table: TablePlan, *, now_us: int | None = None, since_us: int | None = None) -> pa.Table:
        """See BatchEngine. A query with `on` the URL of a database runs there, with rows filtered here."""
        if table.query is None:
            raise PlanError(f"table {table.name} has no query; it is fed by put")
        now = self._clock.now_us() if now_us is None else now_us
        if table.on is not None and self._on_database(table):
            place = self._sources[table.on]
            return self._databases.run(table, str(place.data), now_us=now, since_us=since_us)
        sources = self._sources_of(table)
        with self._lock:
            try:
                plan, parameters = self._planned(table, table.query.strip().rstrip(";"), sources, now, since_us)
                if plan.small:
                    return _from_numpy(self._connection.execute(plan.statement, parameters).fetchnumpy())
                return self._connection.sql(plan.statement, params=parameters).to_arrow_table()
            except duckdb.Error as error:
                raise PlanError(f"the query of table {table.name} failed: {error}") from None

    def batches(
        self, table: TablePlan, rows: int, *, now_us: int | None = None, since_us: int | None = None
    ) -> Iterator[pa.Table]:
        """See BatchEngine. What runs in DuckDB is fetched as it goes; the result of a database comes whole."""
        if table.query is None or since_us is not None or self._on_database(table):
            yield self.run(table, now_us=now_us, since_us=since_us)
            return
        now = self._clock.now_us() if now_us is None else now_us
        with self._lock:
            try:
                query = table.query.strip().rstrip(";")
                plan, parameters = self._planned(table, query, self._sources_of(table), now, since_us)
                reader = self._connection.sql(plan.statement, params=parameters).to_arrow_reader(rows)
                none = True
                for batch in reader:
                    none = False
                    yield pa.Table.from_batches([batch])
                if none:
                    yield reader.schema.empty_table()
            except (duckdb.Error, pa.ArrowException) as error:
                raise PlanError(f"the query of table {table.name} failed: {error}") from None

    def look(self, name: str) -> str:
        """What a source is, in words, once it has answered; raises what `run` says."""
        source = self._sources[name]
        if source.is_database:
            self._databases.look(name, str(source.data))
            return f"a database at {shown(str(source.data))} that answers"
        if source.path is None and not source.is_objects:
            return f"{len(_as_arrow(source.data)):,} rows"
        stamp = self._files.stamp(source)
        size = sum(size for _, _, size in stamp)
        return f"{len(stamp)} files of {size / 2**20:,.1f} MiB at {shown(str(source.data))}"

    def close(self) -> None:
        """Close the connections and drop what they hold."""
        self._databases.close()
        with self._lock:
            self._connection.close()
            self._files.close()

    def _on_database(self, table: TablePlan) -> bool:
        return table.on is not None and self._sources[table.on].is_database

    def _sources_of(self, table: TablePlan) -> Sources:
        """The sources that a query names: with `on` a folder, the files in it."""
        place = None if table.on is None else self._sources[table.on]
        if place is None or place.path is None or not place.path.is_dir():
            return self._sources
        return self._sources.within(place.path)

    def _planned(
        self, table: TablePlan, query: str, sources: Sources, now: int, since: int | None
    ) -> tuple[_Prepared, dict[str, int] | None]:
        """A query made ready, and its parameters."""
        loaded = {name: self._load(name, table.on or "", sources) for name in self._names_in(table, query)}
        with_since = since is not None and table.schema.time_field is not None
        key = (query, table.on or "", with_since)
        stamps = tuple((name, source.stamp) for name, source in loaded.items())
        known = self._prepared.get(key)
        if known is None or known[1] != stamps:
            known = (self._prepare(table, query, loaded, with_since), stamps)
            self._prepared[key] = known
        plan = known[0]
        parameters = {"now": now} if plan.takes_now else {}
        if plan.takes_since and since is not None:
            parameters["since"] = since
        return plan, parameters or None

    def _names_in(self, table: TablePlan, query: str) -> list[str]:
        if query not in self._names:
            check_select(f"table {table.name}", query)
            self._names[query] = sorted(self._connection.get_table_names(query))
        return self._names[query]

    def _prepare(self, table: TablePlan, query: str, loaded: Mapping[str, _Loaded], with_since: bool) -> _Prepared:
        parts = [f"{_quoted(name)} AS NOT MATERIALIZED ({source.select})" for name, source in loaded.items()]
        head = f"WITH {', '.join(parts)} " if parts else ""
        text = f"{head}SELECT * FROM (\n{query}\n) AS result"
        timed = any(source.timed for source in loaded.values())
        time_field = table.schema.time_field
        since = small = False
        if with_since and time_field is not None:
            kinds = self._types(text, {"now": 0} if timed else None)
            if time_field in kinds:
                column = f"result.{_quoted(time_field)}"
                bound = _BOUNDS.get(kinds[time_field])
                if bound is None:
                    column, bound = f"CAST({column} AS TIMESTAMPTZ)", _BOUNDS["TIMESTAMP WITH TIME ZONE"]
                text += f" WHERE {column} > {bound.format('$since')} AND {column} <= {bound.format('$now')}"
                since = True
            small = set(kinds.values()) <= _PLAIN
        return _Prepared(self._connection.extract_statements(text)[0], timed or since, since, small)

    def _types(self, text: str, parameters: dict[str, int] | None) -> dict[str, str]:
        """Column types of a query by name."""
        self._connection.execute(f"SELECT * FROM ({text}) LIMIT 0", parameters)
        return {column[0]: str(column[1]) for column in self._connection.description or []}

    def _load(self, name: str, on: str, sources: Sources) -> _Loaded:
        known = self._loaded.get((on, name))
        if known is not None and known.stamp == ("arrow",):
            return known
        source = sources[name]
        if source.is_database:
            raise PlanError(f'source "{name}" is a database: a query runs on it whole, as hr.SQL(..., on="{name}")')
        stamp = ("arrow",) if source.path is None and not source.is_objects else self._files.stamp(source)
        if known is None or known.stamp != stamp:
            known = self._loaded[on, name] = self._read(source, f"_source_{len(self._loaded)}_{name}", stamp)
        return known

    def _read(self, source: Source, name: str, stamp: tuple[Any, ...]) -> _Loaded:
        inner, raw, connection = _quoted(name), f"{name}_files", self._connection
        in_files = source.path is not None or source.is_objects
        rows = self._files.read(source) if in_files else _as_arrow(source.data)
        connection.register(raw, rows)
        scan, kept = _quoted(raw), False
        try:
            columns = self._types(f"SELECT * FROM {scan}", None)
            known_at = source.known_at or (_quoted(KNOWN_AT) if KNOWN_AT in columns else None)
            if known_at is None and isinstance(rows, ds.Dataset):
                kept = True
                return _Loaded(f"SELECT * FROM {scan}", False, stamp)
            if known_at is None:
                connection.execute(f"CREATE OR REPLACE TABLE {inner} AS SELECT * FROM {scan}")
                return _Loaded(f"SELECT * FROM {inner}", False, stamp)
            kind = self._types(f"SELECT {known_at} AS t FROM {scan}", None)["t"]
            us = f"CAST({known_at} AS BIGINT)" if "INT" in kind else f"epoch_us(CAST({known_at} AS TIMESTAMPTZ))"
            connection.execute(
                f"CREATE OR REPLACE TABLE {inner} AS SELECT *, {us} AS {_KNOWN} FROM {scan} ORDER BY {_KNOWN}"
            )
            return _Loaded(f"SELECT * EXCLUDE ({_KNOWN}) FROM {inner} WHERE {_KNOWN} <= $now", True, stamp)
        except (duckdb.Error, OSError) as error:
            place = shown(str(source.data)) if in_files else name
            raise StoreError(f"source {place} cannot be read: {error}") from None
        finally:
            if not kept:
                connection.unregister(raw)


def _from_numpy(columns: Mapping[str, Any]) -> pa.Table:
    arrays = []
    for values in columns.values():
        masked = isinstance(values, np.ma.MaskedArray)
        arrays.append(pa.array(values.data, mask=np.ma.getmaskarray(values)) if masked else pa.array(values))
    return pa.table(arrays, names=list(columns))


def _as_arrow(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    raise NotFound(f"a source is {type(data).__name__}; give a path, an Arrow table or a database URL")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
