"""The way from an older layout of the catalog to the newest one: numbered steps, forward only.

A new catalog is made whole from `tables`. An older one takes the steps that it lacks, all in the transaction that also
writes its new number, so a catalog is never between two layouts. A step is written in the SQL that SQLite and
PostgreSQL share and is never edited once released; `tables` changes with it, and the tests hold the two ways against
each other.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Migration(NamedTuple):
    """One step: what it is for, and its statements."""

    name: str
    statements: tuple[str, ...]


MIGRATIONS: Final = (
    Migration(
        "a list of migrations",
        ("CREATE TABLE migrations (number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, at_us BIGINT NOT NULL)",),
    ),
    Migration(
        "one active definition of a name",
        (
            """UPDATE definitions SET active = false WHERE active AND EXISTS (
                SELECT 1 FROM definitions AS later WHERE later.active AND later.kind = definitions.kind
                AND later.name = definitions.name AND later.id > definitions.id)""",
            "CREATE UNIQUE INDEX definitions_active ON definitions (kind, name) WHERE active",
        ),
    ),
    Migration(
        "keys of the HTTP service, and a log of changes",
        (
            """CREATE TABLE api_keys (id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL,
                scopes TEXT NOT NULL, reads TEXT, rate FLOAT, burst INTEGER, created_us BIGINT NOT NULL,
                created_by TEXT NOT NULL, expires_us BIGINT, revoked_us BIGINT)""",
            """CREATE TABLE change_log (id INTEGER NOT NULL PRIMARY KEY, at_us BIGINT NOT NULL, who TEXT NOT NULL,
                action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL)""",
        ),
    ),
)
"""The steps to formats 2, 3, ..."""

FORMAT: Final = len(MIGRATIONS) + 1
"""Number of the newest layout; a catalog holds its own under the setting "catalog.format"."""
