"""One database behind the catalog, SQLite or PostgreSQL: connections, transactions, the layout and its migrations."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from headrace.catalog import tables
from headrace.catalog.migrations import FORMAT, MIGRATIONS
from headrace.core.errors import Busy, ConfigError, StoreError, Unreachable
from headrace.core.time import Clock

_WAIT_S = 30
_CONNECT_S = 10
_WRITES = "headrace_writes"
_SCHEMA = "headrace"
_FORMAT = "catalog.format"
# SQLSTATE classes of a server that cannot just now: connection lost, out of resources, stopped by its operator.
_PASSING = ("08", "53", "57P", "58")
_REFUSED = ("authentication failed", "does not exist", "no pg_hba.conf", "not permitted")


class Database:
    """Short transactions on SQLite or PostgreSQL, which behave alike: one writer at a time, readers never wait for it.

    A writing transaction takes the lock of all writers when it begins, because one that turns from reading to writing
    midway would decide on what another one is changing. SQLite: `BEGIN IMMEDIATE` on a write-ahead log; commits survive
    the death of any process, not a power loss (`synchronous=NORMAL`). PostgreSQL: an advisory lock of the schema.
    Thread-safe; open it anew in a forked process.

    A database of PostgreSQL holds any number of catalogs, each in a schema: `?schema=` of the URL (default
    "headrace"), followed by "_" and the environment unless that is "default".
    """

    def __init__(self, url_or_path: str | Path, clock: Clock, env: str = "default") -> None:
        """Open, create what is missing, and bring an older layout up to this version's.

        Raises StoreError if the database cannot be opened or is of a later format, Unreachable if it does not answer.
        """
        self._clock = clock
        url, self._schema = _parsed(str(url_or_path), env)
        self._is_sqlite = url.get_backend_name() == "sqlite"
        self._name = (
            url.database if self._is_sqlite else f"{url.set(query={}).render_as_string()} schema {self._schema}"
        )
        if self._is_sqlite and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = (
            _sqlite(url) if self._is_sqlite else _postgresql(url, _key(self._schema or ""), self._schema or "")
        )
        self._writer = self._engine.execution_options(**{_WRITES: True})
        try:
            self._bring_up_to_date()
        except SQLAlchemyError as error:
            cure = (
                "check that the folder is writable and that the file is a Headrace catalog"
                if self._is_sqlite
                else "check address, user and rights: it must be allowed to create a schema, or own this one"
            )
            self.close()
            raise _failure(f"the catalog {self._name} cannot be opened", error, cure) from error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading.

        Raises StoreError if the database refuses, Unreachable if it does not answer.
        """
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _failure("the catalog cannot be read", error) from error

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection in a writing transaction, committed at the end, rolled back on an error.

        Raises StoreError if the database refuses, or if another writer holds it for more than 30 s; Unreachable if it
        does not answer, in which case a transaction at its very end may have been committed.
        """
        try:
            with self._writer.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _failure("the catalog cannot be written, nothing was changed", error) from error

    @contextmanager
    def hold(self, what: str) -> Iterator[None]:
        """Keep a name to this process, wherever the others run, until the block ends or the process does.

        Raises Busy naming the holder. PostgreSQL only: processes that share an SQLite file share a folder's locks.
        """
        if self._is_sqlite:
            raise StoreError("only a catalog on PostgreSQL can be held")
        key = _key(f"{self._schema}/{what}")
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(key))).scalar():
                    raise Busy(f"{what} is being done by {_holder(connection, key)}; try again when that is over")
                try:
                    yield
                finally:
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))
        except SQLAlchemyError as error:
            raise _failure(f"{what} cannot be kept to this process", error) from error

    def compact(self) -> None:
        """Leave no bytes of deleted and replaced rows in the file; on PostgreSQL that is the server's own affair."""
        if not self._is_sqlite:
            return
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("VACUUM")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        except SQLAlchemyError as error:
            raise _failure("the catalog was not compacted", error) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _bring_up_to_date(self) -> None:
        with self._engine.connect() as connection:
            if self._format(connection) == FORMAT:
                return
        with self._writer.begin() as connection:
            found = self._format(connection)  # another process may have been faster
            now_us = self._clock.now_us()
            if found is None:
                self._make_schema(connection)
                tables.metadata.create_all(connection)
                connection.execute(tables.settings.insert().values(name=_FORMAT, value=str(FORMAT)))
            elif found < FORMAT:
                if self._schema is not None:
                    connection.execute(sa.text(f'SET LOCAL search_path TO "{self._schema}"'))
                for number, migration in enumerate(MIGRATIONS[found - 1 :], found + 1):
                    for statement in migration.statements:
                        connection.execute(sa.text(statement))
                    row = {"number": number, "name": migration.name, "at_us": now_us}
                    connection.execute(tables.migrations.insert(), row)
                here = tables.settings.c.name == _FORMAT
                connection.execute(tables.settings.update().where(here).values(value=str(FORMAT)))

    def _format(self, connection: sa.Connection) -> int | None:
        """The number of the layout that is there; None if there is none. Raises StoreError if it is a later one."""
        if not sa.inspect(connection).has_table(tables.settings.name, schema=self._schema):
            return None
        value = connection.execute(sa.select(tables.settings.c.value).where(tables.settings.c.name == _FORMAT)).scalar()
        if value is not None and int(value) > FORMAT:
            raise StoreError(
                f"the catalog {self._name} has format {value}; this version reads up to {FORMAT}: upgrade headrace"
            )
        return None if value is None else int(value)

    def _make_schema(self, connection: sa.Connection) -> None:
        if self._schema is not None and self._schema not in sa.inspect(connection).get_schema_names():
            connection.execute(sa.schema.CreateSchema(self._schema))


def _parsed(text: str, env: str) -> tuple[sa.URL, str | None]:
    """The URL with its driver, and the schema (None on SQLite, where a catalog has its own file)."""
    if "://" not in text:
        return sa.URL.create("sqlite", database=text), None
    try:
        url = sa.make_url(text)
    except (SQLAlchemyError, ValueError):
        raise ConfigError("the catalog's address is no URL such as postgresql://user:password@host/database") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        return url, None
    schema = url.query.get("schema", _SCHEMA)
    if not isinstance(schema, str) or not schema or '"' in schema:
        raise ConfigError("the catalog's address names no schema or several in ?schema=")
    return url.difference_update_query(["schema"]), schema if env == "default" else f"{schema}_{env}"


def _sqlite(url: sa.URL) -> sa.Engine:
    arguments: dict[str, Any] = {"isolation_level": None, "timeout": _WAIT_S, "check_same_thread": False}
    engine = sa.create_engine(url, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={_WAIT_S * 1000}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get(_WRITES):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: sa.URL, key: int, schema: str) -> sa.Engine:
    arguments: dict[str, Any] = {"application_name": f"headrace process {os.getpid()} on {socket.gethostname()}"[:63]}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _CONNECT_S
    try:
        engine = sa.create_engine(url, connect_args=arguments, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise ConfigError(f'a catalog on PostgreSQL needs {error.name}: pip install "headrace[postgres]"') from None

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get(_WRITES):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT_S}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({key})")

    return engine.execution_options(schema_translate_map={None: schema})


def _key(name: str) -> int:
    """Number of an advisory lock."""
    return int.from_bytes(hashlib.sha256(f"headrace/{name}".encode()).digest()[:8], "big", signed=True)


def _holder(connection: sa.Connection, key: int) -> str:
    query = sa.text(
        "SELECT a.application_name, host(a.client_addr) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.classid = :high AND l.objid = :low"
    )
    unsigned = key % 2**64
    row = connection.execute(query, {"high": unsigned >> 32, "low": unsigned % 2**32}).first()
    return "another process" if row is None else f"{row[0] or 'another process'} ({row[1] or 'this machine'})"


def _failure(what: str, error: SQLAlchemyError, cure: str = "") -> StoreError:
    """Unreachable if the server may be back later, else StoreError; the driver's first line, without statements."""
    cause: Any = getattr(error, "orig", None) or error
    line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    state = getattr(cause, "sqlstate", None)
    lost = isinstance(error, sa.exc.DBAPIError) and (error.connection_invalidated or state is None)
    away = str(state).startswith(_PASSING) or (
        lost and isinstance(error, sa.exc.OperationalError) and not any(word in str(cause) for word in _REFUSED)
    )
    if away and error.__class__.__module__.startswith("sqlalchemy") and "sqlite" not in type(cause).__module__:
        return Unreachable(f"{what}: the database does not answer: {line}")
    if not cure and any(said in line for said in ("disk I/O error", "disk is full", "could not extend file")):
        cure = "its disk is full or fails: free some space and do it again"
    return StoreError(f"{what}: {type(cause).__name__}: {line}{f'; {cure}' if cure else ''}")
