"""The catalog's tables, in the SQL that SQLite and PostgreSQL share. Times are µs UTC, JSON is text."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, Text

FORMAT = 1
"""Number of this layout; stored under the setting "catalog.format"."""

metadata = MetaData()

definitions = Table(
    "definitions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(40), nullable=False),
    Column("name", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("owner", String(255), nullable=False),
    Column("doc", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("applied_at_us", BigInteger, nullable=False),
    Column("active", Boolean, nullable=False),
    Index("definitions_by_name", "kind", "name", "active"),
)

models = Table(
    "models",
    metadata,
    Column("model", String(255), primary_key=True),
    Column("last_number", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("model", String(255), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("created_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", String(255), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String(255), nullable=False, index=True),
    Column("alias", String(64), nullable=False),
    Column("number", Integer),
    Column("previous", Integer),
    Column("at_us", BigInteger, nullable=False),
    Column("who", String(255), nullable=False),
    Column("why", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(255), nullable=False, index=True),
    Column("trigger", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("detail", Text, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("resolved_us", BigInteger),
    Column("detail", Text, nullable=False),
    Index("alerts_by_subject", "kind", "subject"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String(255), nullable=False, index=True),
    Column("at_us", BigInteger, nullable=False),
    Column("challenger", Integer, nullable=False),
    Column("champion", Integer),
    Column("verdict", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("figures", Text, nullable=False),
)

profiles = Table(
    "profiles",
    metadata,
    Column("subject", String(255), primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("value", Text, nullable=False),
)
