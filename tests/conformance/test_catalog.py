"""The catalog on SQLite and on a real PostgreSQL against its kit, and what only a server can do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from headrace.catalog.catalog import Catalog
from headrace.catalog.records import DefinitionRecord
from headrace.core.errors import Busy, ConfigError, StoreError, Unreachable
from headrace.core.time import SimulatedClock
from headrace.testing.capabilities import capability
from headrace.testing.catalog import CatalogTests
from tests.link import Link
from tests.postgres import database, engine


class TestCatalogOnSqlite(CatalogTests):
    adapter = "SQLite"
    numbered_key = "INTEGER NOT NULL PRIMARY KEY"

    def opener(self, place: Path) -> Callable[[], Catalog]:
        return partial(Catalog, place / "catalog.db", SimulatedClock(1))

    def execute(self, place: Path, statement: str) -> list[Any]:
        return _execute(self._engine(place), statement)

    def inspect(self, place: Path) -> tuple[sa.Inspector, str | None]:
        return sa.inspect(self._engine(place)), None

    def _engine(self, place: Path) -> sa.Engine:
        place.mkdir(exist_ok=True)
        return sa.create_engine(f"sqlite:///{place / 'catalog.db'}", poolclass=sa.NullPool)


@pytest.mark.postgres
class TestCatalogOnPostgres(CatalogTests):
    adapter = "PostgreSQL"
    numbered_key = "SERIAL NOT NULL PRIMARY KEY"

    @pytest.fixture(autouse=True)
    def _database(self) -> Iterator[None]:
        with database() as self.url:
            self.plain = engine(self.url, pooled=True)
            yield
            self.plain.dispose()

    def opener(self, place: Path) -> Callable[[], Catalog]:
        return partial(Catalog, f"{self.url}?schema={place.name}", SimulatedClock(1))

    def execute(self, place: Path, statement: str) -> list[Any]:
        schema = f"CREATE SCHEMA IF NOT EXISTS {place.name}"
        return _execute(self.plain, schema, f"SET LOCAL search_path TO {place.name}", statement)

    def inspect(self, place: Path) -> tuple[sa.Inspector, str | None]:
        return sa.inspect(self.plain), place.name

    @capability("environments share a database")
    def test_environments_share_a_database(self) -> None:
        opened = {env: Catalog(self.url, SimulatedClock(1), env=env) for env in ("default", "prod", "Test-2")}
        for env, catalog in opened.items():
            catalog.apply([DefinitionRecord("group", env, "v1")])
        for env, catalog in opened.items():
            assert [d.record.name for d in catalog.definitions()] == [env]
            catalog.close()
        schemas = sa.inspect(engine(self.url)).get_schema_names()
        assert {"headrace", "headrace_prod", "headrace_Test-2"} <= set(schemas)

    @capability("applying holds off other machines")
    def test_what_is_held_is_held_against_all_others_until_its_holder_is_gone(self) -> None:
        first, second = (Catalog(self.url, SimulatedClock(1)) for _ in range(2))
        with first.hold("apply"):
            with (
                pytest.raises(Busy, match=f"apply is being done by headrace process {os.getpid()}"),
                second.hold("apply"),
            ):
                pass
            with second.hold("other"):
                pass
            second.set_setting("x", 1)
        with second.hold("apply"), pytest.raises(Busy), first.hold("apply"):
            pass
        second._database._engine.dispose()
        with first.hold("apply"):
            pass
        first.close()

    @capability("a server that was away is taken up again")
    def test_a_server_that_is_away_is_named_and_taken_up_again(self) -> None:
        port = urlsplit(self.url).port
        assert port is not None
        with Link(port) as link:
            url = self.url.replace(f":{port}/", f":{link.port}/")
            catalog = Catalog(url, SimulatedClock(1))
            catalog.set_setting("x", 1)
            link.cut()
            for refused in (
                lambda: catalog.setting("x"),
                lambda: catalog.set_setting("x", 2),
                lambda: Catalog(url, SimulatedClock()),
            ):
                with pytest.raises(Unreachable, match="does not answer") as raised:
                    refused()
                assert "headrace-secret" not in str(raised.value)
            link.mend()
            assert catalog.setting("x") == 1
            catalog.set_setting("x", 3)
            catalog.close()

    @capability("passwords stay out of errors")
    def test_a_wrong_password_database_or_address_is_told_without_it(self) -> None:
        right = urlsplit(self.url)
        for url, told in (
            (self.url.replace("headrace-secret", "not-the-secret"), "password authentication failed"),
            (self.url + "_not_there", "does not exist"),
            (
                f"postgresql://{right.hostname}:{right.port}{right.path}?user=headrace&password=not-the-secret",
                "password authentication failed",
            ),
        ):
            with pytest.raises(StoreError, match=told) as raised:
                Catalog(url, SimulatedClock())
            assert not isinstance(raised.value, Unreachable)
            assert "secret" not in str(raised.value)
        with pytest.raises(ConfigError, match="no URL"):
            Catalog("postgresql://user:not-the-secret@host:port/x", SimulatedClock())


def _execute(found: sa.Engine, *statements: str) -> list[Any]:
    with found.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
        return list(result) if result.returns_rows else []
