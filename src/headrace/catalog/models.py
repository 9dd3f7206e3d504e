"""The catalog's side of the model registry: version numbers, aliases and their history.

A version's record is opaque text here. One integer per model, its generation, grows with every change, so that a
process may ask as often as it likes whether something is new.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from headrace.catalog import tables
from headrace.catalog.access import log_change
from headrace.catalog.database import Database
from headrace.catalog.records import AliasRow
from headrace.core.errors import NotFound
from headrace.core.time import Clock

_GENERATION = sa.select(tables.models.c.generation).where(tables.models.c.model == sa.bindparam("model"))


class ModelTables:
    """Versions and aliases of models. Thread-safe; all processes see a change as soon as the call has returned."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add_version(self, model: str, make: Callable[[int, int], str]) -> int:
        """Store a new version and return its number (1, 2, 3, ...).

        `make(number, created_us)` returns its record and is called within the transaction, while no other process
        can take a number; if it raises, the number is not used.
        """
        created_us = self._clock.now_us()
        with self._database.write() as connection:
            number = _bump(connection, model, versions=1)
            body = make(number, created_us)
            row = {"model": model, "number": number, "created_us": created_us, "body": body}
            connection.execute(tables.model_versions.insert(), row)
        return number

    def names(self) -> list[str]:
        """All models that have a version, sorted."""
        table = tables.model_versions
        with self._database.read() as connection:
            return list(connection.execute(sa.select(table.c.model).distinct().order_by(table.c.model)).scalars())

    def versions(self, model: str) -> list[str]:
        """Records of all versions in order of their numbers."""
        table = tables.model_versions
        query = sa.select(table.c.body).where(table.c.model == model).order_by(table.c.number)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def version(self, model: str, number: int) -> str | None:
        """The record of one version; None if there is none."""
        table = tables.model_versions
        query = sa.select(table.c.body).where(table.c.model == model, table.c.number == number)
        with self._database.read() as connection:
            body: str | None = connection.execute(query).scalar()
        return body

    def set_alias(self, model: str, alias: str, number: int | None, who: str, why: str) -> AliasRow:
        """Point an alias at a version (None removes it) and record the change, in one transaction.

        Raises NotFound if the model has no such version.
        """
        at_us = self._clock.now_us()
        with self._database.write() as connection:
            if number is not None:
                _require_version(connection, model, number)
            table = tables.aliases
            here = (table.c.model == model) & (table.c.alias == alias)
            previous = connection.execute(sa.select(table.c.number).where(here)).scalar()
            if number is None:
                connection.execute(table.delete().where(here))
            elif previous is None:
                connection.execute(table.insert(), {"model": model, "alias": alias, "number": number})
            else:
                connection.execute(table.update().where(here).values(number=number))
            row = {
                "model": model,
                "alias": alias,
                "number": number,
                "previous": previous,
                "at_us": at_us,
                "who": who,
                "why": why,
            }
            key = connection.execute(tables.alias_history.insert(), row).inserted_primary_key
            assert key is not None
            _bump(connection, model, versions=0)
            detail = {"alias": alias, "version": number, "previous": previous, "why": why}
            # To go to an older version is to roll back, whatever it was asked for as.
            action = "withdraw" if number is None else "rollback" if number < (previous or 0) else "promote"
            log_change(connection, at_us, who, action, model, detail)
        return AliasRow(key[0], model, alias, number, previous, at_us, who, why)

    def alias(self, model: str, alias: str) -> int | None:
        """The version that an alias points at; None if it points at none."""
        return self.aliases(model).get(alias)

    def aliases(self, model: str) -> dict[str, int]:
        """Version by alias."""
        table = tables.aliases
        query = sa.select(table.c.alias, table.c.number).where(table.c.model == model).order_by(table.c.alias)
        with self._database.read() as connection:
            return {row.alias: row.number for row in connection.execute(query)}

    def alias_history(self, model: str, alias: str | None = None) -> list[AliasRow]:
        """All changes of one alias, or of all, oldest first."""
        table = tables.alias_history
        query = sa.select(table).where(table.c.model == model).order_by(table.c.id)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        with self._database.read() as connection:
            return [AliasRow(**row._mapping) for row in connection.execute(query)]

    def generation(self, model: str) -> int:
        """A number that grows with each new version and each alias change; 0 before the first."""
        with self._database.read() as connection:
            return int(connection.execute(_GENERATION, {"model": model}).scalar() or 0)


def _bump(connection: sa.Connection, model: str, versions: int) -> int:
    """Count a change of the model and return its last version number; locks the model's row until commit."""
    table = tables.models
    if connection.execute(sa.select(table.c.model).where(table.c.model == model)).first() is None:
        connection.execute(table.insert(), {"model": model, "last_number": 0, "generation": 0})
    change = (
        table.update()
        .where(table.c.model == model)
        .values(last_number=table.c.last_number + versions, generation=table.c.generation + 1)
        .returning(table.c.last_number)
    )
    return int(connection.execute(change).scalar_one())


def _require_version(connection: sa.Connection, model: str, number: int) -> None:
    table = tables.model_versions
    query = sa.select(table.c.number).where(table.c.model == model).order_by(table.c.number)
    numbers = list(connection.execute(query).scalars())
    if number not in numbers:
        there = f"there are {numbers[0]} to {numbers[-1]}" if numbers else "it has no version yet, train it first"
        raise NotFound(f'model "{model}" has no version {number}: {there}')
