"""The PostgreSQL of the tests, over a plain client."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from tests.services import address


def engine(url: str, *, pooled: bool = False) -> sa.Engine:
    """A plain client; `pooled`: the caller disposes of it."""
    text = url.replace("postgresql://", "postgresql+psycopg://")
    return sa.create_engine(text, poolclass=None if pooled else sa.NullPool)


@contextmanager
def database() -> Iterator[str]:
    """The URL of a database of the test's own, dropped at the end."""
    name = f"test_{secrets.token_hex(6)}"
    url = address("postgres")
    admin = engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield f"{url.rsplit('/', 1)[0]}/{name}"
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
