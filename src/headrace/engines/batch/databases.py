"""Queries that run on a database of their own: DuckDB files, and whatever SQLAlchemy reaches."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa

from headrace.core.errors import PlanError, StoreError
from headrace.features.plan import TablePlan

_DUCKDB = "duckdb:///"


class Databases:
    """Connections to databases by URL, opened when first needed and kept.

    A database keeps no record of when its rows became known: a run sees what is there now.
    """

    def __init__(self) -> None:
        self._engines: dict[str, Any] = {}
        self._lock = threading.Lock()

    def run(self, table: TablePlan, url: str) -> pa.Table:
        """The rows of the table's query on the database at `url`, as they come.

        Raises StoreError if the database cannot be reached, PlanError if it refuses the query.
        """
        query = (table.query or "").strip().rstrip(";")
        if url.startswith(_DUCKDB):
            return _on_duckdb(table, url.removeprefix(_DUCKDB), query)
        return self._on_sqlalchemy(table, url, query)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()

    def _on_sqlalchemy(self, table: TablePlan, url: str, query: str) -> pa.Table:
        import sqlalchemy as sa

        try:
            with self._engine(url).connect() as connection:
                try:
                    result = connection.exec_driver_sql(query)
                    names, rows = list(result.keys()), result.fetchall()
                except sa.exc.SQLAlchemyError as error:
                    raise PlanError(f"the query of table {table.name} failed: {_cause(error)}") from None
        except (sa.exc.SQLAlchemyError, ModuleNotFoundError) as error:
            raise StoreError(f"the database of table {table.name} cannot be reached: {_cause(error)}") from None
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        try:
            return pa.table([pa.array(list(column)) for column in columns], names=names)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise PlanError(
                f"the query of table {table.name} gives a column of mixed types: {error}; cast it"
            ) from None

    def _engine(self, url: str) -> Any:
        import sqlalchemy as sa

        with self._lock:
            if url not in self._engines:
                self._engines[url] = sa.create_engine(url)
            return self._engines[url]


def _on_duckdb(table: TablePlan, path: str, query: str) -> pa.Table:
    import duckdb

    try:
        with duckdb.connect(path, read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            rows = connection.sql(query)
            if rows is None:
                raise PlanError(f"the query of table {table.name} returns no rows; it must be one SELECT")
            return rows.to_arrow_table()
    except duckdb.IOException as error:
        raise StoreError(f"the database of table {table.name} cannot be opened: {error}") from None
    except duckdb.Error as error:
        raise PlanError(f"the query of table {table.name} failed: {error}") from None


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)
