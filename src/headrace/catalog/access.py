"""Who may do what over HTTP, and who did what: API keys and the log of changes."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from headrace.catalog import tables
from headrace.catalog.database import Database
from headrace.catalog.records import SCOPES, ApiKey, LoggedChange
from headrace.core.errors import ConfigError, NotFound
from headrace.core.time import Clock

_PREFIX = "hr"
_ID_BYTES, _SECRET_BYTES = 5, 32
_GENERATION = "keys.generation"
_encode = msgspec.json.Encoder().encode


class ChangeTable:
    """The log of changes: only ever added to. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, who: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> int:
        """Write one line; returns its number."""
        with self._database.write() as connection:
            return log_change(connection, self._clock.now_us(), who, action, subject, detail or {})

    def list(
        self,
        *,
        who: str | None = None,
        action: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        limit: int = 100,
    ) -> list[LoggedChange]:
        """The newest lines first; `who` and `action` are parts of theirs, times are in [since, until) µs."""
        table = tables.change_log
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        for column, part in ((table.c.who, who), (table.c.action, action)):
            if part is not None:
                query = query.where(column.contains(part, autoescape=True))
        if since_us is not None:
            query = query.where(table.c.at_us >= since_us)
        if until_us is not None:
            query = query.where(table.c.at_us < until_us)
        with self._database.read() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return [LoggedChange(**(row | {"detail": msgspec.json.decode(row["detail"])})) for row in rows]


class KeyTable:
    """API keys. Each change is logged in its own transaction. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def make(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        who: str,
        reads: Sequence[str] | None = None,
        rate: float | None = None,
        burst: int | None = None,
        expires_us: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; returns it and its token, which is stored nowhere. `burst` defaults to the rate, at least 1.

        Raises ConfigError for a name that a live key has, an unknown scope, or a limit that lets nothing through.
        """
        if not name or not name.isprintable() or len(name) > 100:
            raise ConfigError("a key needs a name of 1 to 100 printable characters")
        strangers = [scope for scope in scopes if scope not in SCOPES]
        if strangers:
            raise ConfigError(f'there is no scope "{strangers[0]}"; there are {", ".join(SCOPES)}')
        if rate is not None and not 0 < rate < 1e9:
            raise ConfigError(f"rate = {rate:g}: give requests per second above 0, or no rate for no limit")
        if burst is not None and (rate is None or burst < 1):
            raise ConfigError("burst is how many requests may come at once, at least 1; it needs a rate")
        now_us = self._clock.now_us()
        if expires_us is not None and expires_us <= now_us:
            raise ConfigError("the key would have expired already; give a later time")
        id = base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower()
        token = f"{_PREFIX}_{id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = ApiKey(
            id, name, hashlib.sha256(token.encode()).hexdigest(), tuple(s for s in SCOPES if s in scopes),
            None if reads is None else tuple(reads), rate, max(int(rate), 1) if rate and burst is None else burst,
            now_us, who, expires_us,
        )  # fmt: skip
        with self._database.write() as connection:
            if any(one.name == name and one.state(now_us) == "live" for one in _keys(connection)):
                raise ConfigError(f'there is a live key "{name}"; revoke it first, or give another name')
            row = msgspec.structs.asdict(key)
            row |= {"scopes": _json(key.scopes), "reads": None if key.reads is None else _json(key.reads)}
            connection.execute(tables.api_keys.insert(), row)
            detail = {"id": id, "scopes": key.scopes, "reads": key.reads, "rate": rate, "expires_us": expires_us}
            _changed(connection, now_us, who, "keys make", name, detail)
        return key, token

    def revoke(self, name: str, *, who: str) -> ApiKey:
        """Revoke the live key of that name or id, for good. Raises NotFound naming the live ones."""
        now_us = self._clock.now_us()
        table = tables.api_keys
        with self._database.write() as connection:
            live = [key for key in _keys(connection) if key.revoked_us is None]
            found = next((key for key in live if name in (key.id, key.name)), None)
            if found is None:
                names = ", ".join(key.name for key in live) or "none"
                raise NotFound(f'there is no key "{name}" to revoke; there are: {names}')
            connection.execute(table.update().where(table.c.id == found.id).values(revoked_us=now_us))
            _changed(connection, now_us, who, "keys revoke", found.name, {"id": found.id})
        return msgspec.structs.replace(found, revoked_us=now_us)

    def list(self) -> list[ApiKey]:
        """All keys that were ever made, the oldest first."""
        with self._database.read() as connection:
            return _keys(connection)

    def generation(self) -> int:
        """A number that grows with every change of a key; 0 if no key was ever made."""
        with self._database.read() as connection:
            return _generation(connection)


def _changed(
    connection: sa.Connection, now_us: int, who: str, action: str, name: str, detail: Mapping[str, Any]
) -> None:
    log_change(connection, now_us, who, action, name, detail)
    number = _generation(connection) + 1
    table = tables.settings
    done = connection.execute(table.update().where(table.c.name == _GENERATION).values(value=str(number)))
    if done.rowcount == 0:
        connection.execute(table.insert().values(name=_GENERATION, value=str(number)))


def _generation(connection: sa.Connection) -> int:
    table = tables.settings
    return int(connection.execute(sa.select(table.c.value).where(table.c.name == _GENERATION)).scalar() or 0)


def _keys(connection: sa.Connection) -> list[ApiKey]:
    table = tables.api_keys
    found = []
    for row in connection.execute(sa.select(table).order_by(table.c.created_us, table.c.id)):
        values = dict(row._mapping)
        reads = values["reads"]
        values["scopes"] = tuple(msgspec.json.decode(values["scopes"]))
        values["reads"] = None if reads is None else tuple(msgspec.json.decode(reads))
        found.append(ApiKey(**values))
    return found


def log_change(
    connection: sa.Connection, now_us: int, who: str, action: str, subject: str, detail: Mapping[str, Any]
) -> int:
    """Write one line of the log of changes within a writing transaction; returns its number."""
    table = tables.change_log
    # There is one writer at a time, so the next number is nobody else's.
    number = int(connection.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0) + 1
    row = {"id": number, "at_us": now_us, "who": who, "action": action, "subject": subject, "detail": _json(detail)}
    connection.execute(table.insert(), row)
    return number


def _json(value: Any) -> str:
    return _encode(value).decode()
