"""One database behind the catalog: connections, transactions, the first creation of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from headrace.catalog import tables
from headrace.core.errors import StoreError

_BUSY_S = 30
_WRITES = "headrace_writes"


class Database:
    """Short transactions on SQLite or PostgreSQL.

    On SQLite: write-ahead log, so readers never wait for a writer; every writing transaction takes the write lock
    when it begins (`BEGIN IMMEDIATE`), because one that turns from reading to writing midway cannot wait for another
    writer but fails; commits survive the death of any process, not a power loss (`synchronous=NORMAL`).
    Thread-safe; open it anew in a forked process.
    """

    def __init__(self, url_or_path: str | Path) -> None:
        """Open, and create what is missing.

        Raises StoreError if the database cannot be opened or is of a later format.
        """
        text = str(url_or_path)
        if "://" not in text:
            Path(text).parent.mkdir(parents=True, exist_ok=True)
            text = f"sqlite:///{text}"
        try:
            self._engine = _engine(text)
            self._writer = self._engine.execution_options(**{_WRITES: True})
            self._create(text)
        except SQLAlchemyError as error:
            raise StoreError(
                f"the catalog {text} cannot be opened: {error.__class__.__name__}: {_first_line(error)}; "
                "check that the folder is writable and that the file is a Headrace catalog"
            ) from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading.

        Raises StoreError if the database refuses.
        """
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"the catalog cannot be read: {_first_line(error)}") from error

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection in a writing transaction, committed at the end, rolled back on an error.

        Raises StoreError if the database refuses, or if another writer holds it for more than 30 s.
        """
        try:
            with self._writer.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"the catalog cannot be written, nothing was changed: {_first_line(error)}") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _create(self, url: str) -> None:
        with self._writer.begin() as connection:
            tables.metadata.create_all(connection)
            name = "catalog.format"
            stored = connection.execute(
                sa.select(tables.settings.c.value).where(tables.settings.c.name == name)
            ).scalar()
            if stored is None:
                connection.execute(tables.settings.insert().values(name=name, value=str(tables.FORMAT)))
            elif int(stored) > tables.FORMAT:
                raise StoreError(
                    f"the catalog {url} has format {stored}; this version reads up to {tables.FORMAT}: upgrade headrace"
                )


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url)
    arguments: dict[str, Any] = {"isolation_level": None, "timeout": _BUSY_S, "check_same_thread": False}
    engine = sa.create_engine(url, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get(_WRITES):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else error.__class__.__name__
