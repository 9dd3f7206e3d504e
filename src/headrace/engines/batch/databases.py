"""Queries that run on a database of their own: PostgreSQL, DuckDB files, and whatever SQLAlchemy reaches.

A query only reads: it is one SELECT, in a transaction that cannot write where the database knows such a thing.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from headrace.core.errors import ConfigError, PlanError, StoreError, Unreachable
from headrace.core.fitting import fit_column
from headrace.features.plan import TablePlan

if TYPE_CHECKING:
    import sqlalchemy as sa

LOCKED: Final[dict[str, Any]] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
"""Options of a DuckDB that opens no file but its own, fetches nothing and sees no variable of this program."""
_DUCKDB: Final = "duckdb:///"
_POSTGRES: Final = ("postgresql://", "postgres://", "postgresql+psycopg://")

_DRIVERS: Final = {
    "bigquery": "sqlalchemy-bigquery",
    "clickhouse": "clickhouse-sqlalchemy",
    "databricks": "databricks-sqlalchemy",
    "redshift": "sqlalchemy-redshift",
    "snowflake": "snowflake-sqlalchemy",
    "trino": '"trino[sqlalchemy]"',
}
"""Packages with which SQLAlchemy reaches warehouses, by the scheme of their URLs."""


class Databases:
    """Connections to databases by URL, opened when first needed and kept.

    A database keeps no record of when its rows became known: a run sees what is there now.
    """

    def __init__(self) -> None:
        self._engines: dict[str, Any] = {}
        self._lock = threading.Lock()

    def run(self, table: TablePlan, url: str, *, now_us: int, since_us: int | None) -> pa.Table:
        """The rows of the table's query on the database at `url`, as they come; with `since_us` those of that span.

        Raises StoreError if the database cannot be reached (Unreachable if it may be later), PlanError if it refuses
        the query.
        """
        query = (table.query or "").strip().rstrip(";")
        rows = self._query(f"table {table.name}", url, query)
        return rows if since_us is None else _within(rows, table, since_us, now_us)

    def look(self, name: str, url: str) -> None:
        """Raise what `run` would if the database of a source does not answer."""
        self._query(f"source {name}", url, "SELECT 1 AS one")

    def _query(self, what: str, url: str, query: str) -> pa.Table:
        if url.startswith(_DUCKDB):
            return _on_duckdb(what, url.removeprefix(_DUCKDB), query)
        if url.startswith("duckdb:"):
            raise ConfigError(f"the database of {what}: write duckdb:///FILE, or duckdb:////PATH from the root")
        if url.startswith(_POSTGRES):
            from headrace.engines.batch.postgres import query_postgres

            return query_postgres(what, url, query)
        return self._on_sqlalchemy(what, url, query)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()

    def _on_sqlalchemy(self, what: str, url: str, query: str) -> pa.Table:
        import sqlalchemy as sa

        try:
            with self._engine(url).connect() as connection:
                try:
                    _read_only(connection)
                    result = connection.exec_driver_sql(query)
                    names, rows = list(result.keys()), result.fetchall()
                except sa.exc.SQLAlchemyError as error:
                    raise PlanError(f"the query of {what} failed: {_cause(error)}") from None
        except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(_no_driver(what, url, error)) from None
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the database of {what} cannot be reached: {_cause(error)}") from None
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        try:
            return pa.table([pa.array(list(column)) for column in columns], names=names)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise PlanError(f"the query of {what} gives a column of mixed types: {error}; cast it") from None

    def _engine(self, url: str) -> Any:
        import sqlalchemy as sa

        with self._lock:
            if url not in self._engines:
                self._engines[url] = sa.create_engine(url)
            return self._engines[url]


def check_select(what: str, query: str) -> None:
    """Raise PlanError unless the query is one SELECT, as DuckDB reads it; duckdb.Error if it is no SQL."""
    import duckdb

    statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise PlanError(f"the query of {what} is not one SELECT: it may not change anything, and nothing may follow it")


def _on_duckdb(what: str, path: str, query: str) -> pa.Table:
    import duckdb

    try:
        with duckdb.connect(path, read_only=True, config=dict(LOCKED)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET lock_configuration = true")
            check_select(what, query)
            return connection.sql(query).to_arrow_table()
    except (duckdb.IOException, duckdb.ConnectionException) as error:
        # DuckDB's file belongs to whoever writes it; others wait until it is closed.
        kind = Unreachable if "lock" in str(error) else StoreError
        raise kind(f"the database of {what} cannot be opened: {error}") from None
    except duckdb.Error as error:
        raise PlanError(f"the query of {what} failed: {error}") from None


def _read_only(connection: sa.Connection) -> None:
    # Elsewhere nothing is committed either.
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        driver.set_authorizer(_only_reads)


def _only_reads(action: int, *_: object) -> int:
    """SQLite's authorizer: a query reads its own database, and attaches no other."""
    reads = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in (*reads, sqlite3.SQLITE_TRANSACTION) else sqlite3.SQLITE_DENY


def _within(rows: pa.Table, table: TablePlan, since_us: int, now_us: int) -> pa.Table:
    """The rows with `since_us < event time <= now_us`, and those whose time is not one: the caller refuses these."""
    time = table.schema.time_field
    if time is None or time not in rows.column_names:
        return rows
    fitted = fit_column(rows.column(time), table.schema[time], f"the query of table {table.name}")
    at = fitted.column.values
    keep = (at > since_us) & (at <= now_us)
    keep[list(fitted.misfits)] = True
    return rows.filter(pa.array(keep))


def _no_driver(what: str, url: str, error: Exception) -> str:
    scheme = url.split("://", 1)[0]
    package = _DRIVERS.get(scheme.split("+", 1)[0])
    if package is None and isinstance(error, ModuleNotFoundError):
        package = error.name
    if package is None:
        return (
            f"the database of {what}: nothing here knows {scheme}://; install the package that brings it to SQLAlchemy"
        )
    return f"the database of {what} at {scheme}:// needs a driver: pip install {package}"


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)
