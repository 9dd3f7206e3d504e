"""The catalog's tables, in the SQL that SQLite and PostgreSQL share. Times are µs UTC, JSON is text."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, MetaData, Table, Text, text

metadata = MetaData()
_Name = Text().with_variant(Text(collation="C"), "postgresql")
"""Compared and sorted byte for byte, on any server."""

definitions = Table(
    "definitions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", _Name, nullable=False),
    Column("name", _Name, nullable=False),
    Column("version", _Name, nullable=False),
    Column("body", Text, nullable=False),
    Column("owner", _Name, nullable=False),
    Column("doc", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("applied_at_us", BigInteger, nullable=False),
    Column("active", Boolean, nullable=False),
    Index("definitions_by_name", "kind", "name", "active"),
    Index(
        "definitions_active", "kind", "name", unique=True, sqlite_where=text("active"), postgresql_where=text("active")
    ),
)

models = Table(
    "models",
    metadata,
    Column("model", _Name, primary_key=True),
    Column("last_number", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("model", _Name, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("created_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", _Name, primary_key=True),
    Column("alias", _Name, primary_key=True),
    Column("number", Integer, nullable=False),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", _Name, nullable=False, index=True),
    Column("alias", _Name, nullable=False),
    Column("number", Integer),
    Column("previous", Integer),
    Column("at_us", BigInteger, nullable=False),
    Column("who", _Name, nullable=False),
    Column("why", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", _Name, nullable=False, index=True),
    Column("trigger", _Name, nullable=False),
    Column("status", _Name, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("detail", Text, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", _Name, nullable=False),
    Column("subject", _Name, nullable=False),
    Column("severity", _Name, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("resolved_us", BigInteger),
    Column("detail", Text, nullable=False),
    Index("alerts_by_subject", "kind", "subject"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", _Name, nullable=False, index=True),
    Column("at_us", BigInteger, nullable=False),
    Column("challenger", Integer, nullable=False),
    Column("champion", Integer),
    Column("verdict", _Name, nullable=False),
    Column("reason", Text, nullable=False),
    Column("figures", Text, nullable=False),
)

profiles = Table(
    "profiles",
    metadata,
    Column("subject", _Name, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("value", Text, nullable=False),
)

migrations = Table(
    "migrations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("reads", Text),
    Column("rate", Float),
    Column("burst", Integer),
    Column("created_us", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
)

change_log = Table(
    "change_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
