"""The catalog: what is defined, what ran, what was raised, what was decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from headrace.catalog import tables
from headrace.catalog.access import ChangeTable, KeyTable, log_change
from headrace.catalog.database import Database
from headrace.catalog.models import ModelTables
from headrace.catalog.records import (
    Alert,
    Decision,
    Definition,
    DefinitionChange,
    DefinitionRecord,
    Run,
    RunStatus,
    Severity,
    Verdict,
)
from headrace.core.errors import NotFound, PlanError
from headrace.core.time import Clock

_encoder = msgspec.json.Encoder()
_GENERATION = "definitions.generation"


class Catalog:
    """Small durable records of a project, shared by all of its processes.

    Every write is one transaction and visible to all processes when the call returns. `detail` and `body` arguments
    are plain JSON values. Thread-safe. What `models` holds belongs to the model registry;
    `keys` are those of the HTTP service, `changes` is the log of who changed what.
    """

    def __init__(self, url_or_path: str | Path, clock: Clock, *, env: str = "default") -> None:
        """Open or create; `url_or_path` is a file path (SQLite) or a URL (see `Database`, also for `env`).

        Raises StoreError if it cannot be opened, Unreachable if its server does not answer.
        """
        self._database = Database(url_or_path, clock, env)
        self._clock = clock
        self.models = ModelTables(self._database, clock)
        self.keys = KeyTable(self._database, clock)
        self.changes = ChangeTable(self._database, clock)

    def hold(self, what: str) -> AbstractContextManager[None]:
        """Keep `what` to this process among all that share the catalog; Busy names who has it. On PostgreSQL only."""
        return self._database.hold(what)

    def close(self) -> None:
        """Close all connections; the catalog cannot be used afterwards."""
        self._database.close()

    # -- definitions ------------------------------------------------------------------------------------------------

    def diff(self, records: Sequence[DefinitionRecord]) -> list[DefinitionChange]:
        """What `apply(records)` would change: the given definitions in order, then the removed ones by name."""
        with self._database.read() as connection:
            return _diff(_active(connection), records)

    def generation(self) -> int:
        """How many times `apply` has changed the definitions."""
        return int(self.setting(_GENERATION, 0))

    def apply(
        self,
        records: Sequence[DefinitionRecord],
        *,
        generation: int | None = None,
        settings: Mapping[str, Any] | None = None,
        who: str | None = None,
    ) -> list[DefinitionChange]:
        """Make these the active definitions, all of them: what is not among them is removed (kept, inactive).

        With `generation`, the one that the caller decided upon, PlanError if another process has applied since then.
        `settings`, JSON values by name, change with the definitions or not at all, and count as they do. `who` is for
        the log of changes, which is written with it.
        """
        now_us = self._clock.now_us()
        table = tables.definitions
        with self._database.write() as connection:
            found = int(_setting(connection, _GENERATION) or 0)
            if generation not in (None, found):
                raise PlanError(
                    "another process has applied definitions meanwhile; nothing was changed. Look with: headrace plan"
                )
            active = _active(connection)
            changes = _diff(active, records)
            # An unchanged version may still have a new owner, doc or tag, so every row that differs is replaced.
            keep = {id for id, record in active.values() if record in records}
            gone = [id for id, _ in active.values() if id not in keep]
            if gone:
                connection.execute(table.update().where(table.c.id.in_(gone)).values(active=False))
            kept = [record for id, record in active.values() if id in keep]
            rows = [_definition_row(record, now_us) for record in records if record not in kept]
            if rows:
                connection.execute(table.insert(), rows)
            told = {name: _json(value) for name, value in (settings or {}).items()}
            told = {name: value for name, value in told.items() if _setting(connection, name) != value}
            for name, value in told.items():
                _put(connection, tables.settings, "name", name, {"value": value})
            if rows or gone or told:
                _put(connection, tables.settings, "name", _GENERATION, {"value": _json(found + 1)})
                named = [f"{c.change} {c.kind} {c.name}" for c in changes if c.change != "unchanged"] + sorted(told)
                log_change(connection, now_us, who or "unknown", "apply", "definitions", {"changes": named})
        return changes

    def definitions(self, kind: str | None = None, *, active: bool = True) -> list[Definition]:
        """Definitions by kind and name; `active=False` adds the former ones, oldest first within a name."""
        table = tables.definitions
        query = sa.select(table).order_by(table.c.kind, table.c.name, table.c.id)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        if active:
            query = query.where(table.c.active)
        with self._database.read() as connection:
            return [_definition(row) for row in connection.execute(query)]

    def definition(self, kind: str, name: str) -> Definition:
        """The active definition of that name; NotFound lists the names that there are."""
        found = self.definitions(kind)
        for definition in found:
            if definition.record.name == name:
                return definition
        names = ", ".join(definition.record.name for definition in found) or "none; run apply first"
        raise NotFound(f'no {kind} "{name}" is applied; there are: {names}')

    def search(self, text: str) -> list[Definition]:
        """Active definitions whose kind, name, owner, doc or tags contain every word of `text`, whatever the case."""
        words = text.lower().split()
        found = []
        for definition in self.definitions():
            record = definition.record
            haystack = " ".join((record.kind, record.name, record.owner, record.doc, *record.tags)).lower()
            if all(word in haystack for word in words):
                found.append(definition)
        return found

    # -- runs -------------------------------------------------------------------------------------------------------

    def start_run(self, job: str, trigger: str, *, attempt: int = 1, detail: Mapping[str, Any] | None = None) -> int:
        """Record that a job starts and return the run's id."""
        row = {
            "job": job,
            "trigger": trigger,
            "status": "running",
            "attempt": attempt,
            "started_us": self._clock.now_us(),
            "ended_us": None,
            "detail": _json(detail or {}),
        }
        return self._insert(tables.runs, row)

    def record_run(
        self, job: str, trigger: str, status: RunStatus, detail: Mapping[str, Any] | None = None, *, attempt: int = 1
    ) -> int:
        """Record a run that is over already, at once, and return its id."""
        now = self._clock.now_us()
        row = {
            "job": job,
            "trigger": trigger,
            "status": status,
            "attempt": attempt,
            "started_us": now,
            "ended_us": now,
            "detail": _json(detail or {}),
        }
        return self._insert(tables.runs, row)

    def finish_run(self, run_id: int, status: RunStatus, detail: Mapping[str, Any] | None = None) -> None:
        """Record how a run ended; `detail` replaces the one given at the start. Unknown id: NotFound."""
        values: dict[str, Any] = {"status": status, "ended_us": self._clock.now_us()}
        if detail is not None:
            values["detail"] = _json(detail)
        with self._database.write() as connection:
            done = connection.execute(tables.runs.update().where(tables.runs.c.id == run_id).values(**values))
            if done.rowcount == 0:
                raise NotFound(f"there is no run {run_id} to finish")

    def abandon_runs(self, reason: str, job: str | None = None) -> int:
        """Mark runs that were cut off (of one job, or all) as failed; for a process that starts anew.

        Returns how many there were.
        """
        table = tables.runs
        values = {"status": "failed", "ended_us": self._clock.now_us(), "detail": _json({"error": reason})}
        change = table.update().where(table.c.status == "running").values(**values)
        if job is not None:
            change = change.where(table.c.job == job)
        with self._database.write() as connection:
            return int(connection.execute(change).rowcount)

    def runs(self, job: str | None = None, *, status: RunStatus | None = None, limit: int = 100) -> list[Run]:
        """The newest runs first."""
        table = tables.runs
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        if job is not None:
            query = query.where(table.c.job == job)
        if status is not None:
            query = query.where(table.c.status == status)
        with self._database.read() as connection:
            return [Run(**_with_json(row, "detail")) for row in connection.execute(query)]

    # -- alerts -----------------------------------------------------------------------------------------------------

    def raise_alert(
        self, kind: str, subject: str, detail: Mapping[str, Any] | None = None, severity: Severity = "warning"
    ) -> int:
        """Record an alert and return its id; each call is a record of its own."""
        row = {
            "kind": kind,
            "subject": subject,
            "severity": severity,
            "at_us": self._clock.now_us(),
            "resolved_us": None,
            "detail": _json(detail or {}),
        }
        return self._insert(tables.alerts, row)

    def resolve_alerts(self, kind: str, subject: str) -> int:
        """Close the open alerts of that kind and subject; returns how many there were."""
        table = tables.alerts
        here = (table.c.kind == kind) & (table.c.subject == subject) & table.c.resolved_us.is_(None)
        with self._database.write() as connection:
            done = connection.execute(table.update().where(here).values(resolved_us=self._clock.now_us()))
            return int(done.rowcount)

    def alerts(
        self, kind: str | None = None, subject: str | None = None, *, open_only: bool = False, limit: int = 100
    ) -> list[Alert]:
        """The newest alerts first."""
        table = tables.alerts
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        if subject is not None:
            query = query.where(table.c.subject == subject)
        if open_only:
            query = query.where(table.c.resolved_us.is_(None))
        with self._database.read() as connection:
            return [Alert(**_with_json(row, "detail")) for row in connection.execute(query)]

    # -- decisions --------------------------------------------------------------------------------------------------

    def record_decision(
        self,
        model: str,
        *,
        challenger: int,
        champion: int | None,
        verdict: Verdict,
        reason: str,
        table: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """Record why a challenger was promoted or refused; returns the decision's id."""
        row = {
            "model": model,
            "at_us": self._clock.now_us(),
            "challenger": challenger,
            "champion": champion,
            "verdict": verdict,
            "reason": reason,
            "figures": _json(list(table)),
        }
        return self._insert(tables.decisions, row)

    def decisions(self, model: str | None = None, *, limit: int = 1000) -> list[Decision]:
        """The newest decisions first."""
        table = tables.decisions
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(table.c.model == model)
        with self._database.read() as connection:
            rows = [_with_json(row, "figures") for row in connection.execute(query)]
        return [Decision(table=row.pop("figures"), **row) for row in rows]

    # -- profiles and settings --------------------------------------------------------------------------------------

    def save_profile(self, subject: str, profile: Any) -> None:
        """Keep the newest profile (JSON values or msgspec Structs) of a feature group, column or table."""
        self._upsert(tables.profiles, "subject", subject, {"at_us": self._clock.now_us(), "body": _json(profile)})

    def profile(self, subject: str) -> Any:
        """The newest profile as plain JSON values; None if there is none."""
        with self._database.read() as connection:
            query = sa.select(tables.profiles.c.body).where(tables.profiles.c.subject == subject)
            body = connection.execute(query).scalar()
        return None if body is None else msgspec.json.decode(body)

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        self._upsert(tables.settings, "name", name, {"value": _json(value)})

    def setting(self, name: str, default: Any = None) -> Any:
        """The value under a name, or `default`."""
        with self._database.read() as connection:
            value = _setting(connection, name)
        return default if value is None else msgspec.json.decode(value)

    def revise_setting(self, name: str, change: Callable[[Any], Any]) -> Any:
        """Replace the value under a name (None: there is none) by what `change` makes of it; returns the new one.

        No other process writes to the catalog between its reading and its writing. `change` must not use the catalog.
        """
        with self._database.write() as connection:
            held = _setting(connection, name)
            value = _json(change(None if held is None else msgspec.json.decode(held)))
            if value != held:
                _put(connection, tables.settings, "name", name, {"value": value})
        return msgspec.json.decode(value)

    def replace_texts(self, clean: Callable[[str], str]) -> int:
        """Put what `clean` makes of them in the place of details, bodies and figures that runs, alerts, decisions,
        profiles and the log of changes hold; returns how many changed. On SQLite no former bytes stay in the file."""
        found = 0
        with self._database.write() as connection:
            for table, key, columns in _TEXTS:
                for row in connection.execute(sa.select(key, *columns)).all():
                    values = dict(zip((column.name for column in columns), row[1:], strict=True))
                    new = {name: clean(text) for name, text in values.items() if text is not None}
                    changed = {name: text for name, text in new.items() if text != values[name]}
                    if changed:
                        connection.execute(table.update().where(key == row[0]).values(**changed))
                        found += 1
        self._database.compact()
        return found

    def _insert(self, table: sa.Table, row: dict[str, Any]) -> int:
        with self._database.write() as connection:
            key = connection.execute(table.insert(), row).inserted_primary_key
        assert key is not None
        return int(key[0])

    def _upsert(self, table: sa.Table, key: str, name: str, values: dict[str, Any]) -> None:
        with self._database.write() as connection:
            _put(connection, table, key, name, values)


_TEXTS = (
    (tables.runs, tables.runs.c.id, (tables.runs.c.detail,)),
    (tables.alerts, tables.alerts.c.id, (tables.alerts.c.subject, tables.alerts.c.detail)),
    (tables.decisions, tables.decisions.c.id, (tables.decisions.c.reason, tables.decisions.c.figures)),
    (tables.profiles, tables.profiles.c.subject, (tables.profiles.c.body,)),
    (tables.change_log, tables.change_log.c.id, (tables.change_log.c.subject, tables.change_log.c.detail)),
)
"""Where values of events may have been told: table, its key, its texts."""


def _put(connection: sa.Connection, table: sa.Table, key: str, name: str, values: dict[str, Any]) -> None:
    changed = connection.execute(table.update().where(table.c[key] == name).values(**values))
    if changed.rowcount == 0:
        connection.execute(table.insert(), {key: name, **values})


def _setting(connection: sa.Connection, name: str) -> str | None:
    value: str | None = connection.execute(
        sa.select(tables.settings.c.value).where(tables.settings.c.name == name)
    ).scalar()
    return value


def _json(value: Any) -> str:
    return _encoder.encode(value).decode()


def _with_json(row: Any, name: str) -> dict[str, Any]:
    values = dict(row._mapping)
    values[name] = msgspec.json.decode(values[name])
    return values


def _definition_row(record: DefinitionRecord, now_us: int) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in ("kind", "name", "version", "owner", "doc")}
    return {**row, "body": _json(record.body), "tags": _json(record.tags), "applied_at_us": now_us, "active": True}


def _definition(row: Any) -> Definition:
    body, tags = msgspec.json.decode(row.body), tuple(msgspec.json.decode(row.tags))
    record = DefinitionRecord(row.kind, row.name, row.version, body, row.owner, row.doc, tags)
    return Definition(record, row.applied_at_us, row.active)


def _active(connection: sa.Connection) -> dict[tuple[str, str], tuple[int, DefinitionRecord]]:
    rows = connection.execute(sa.select(tables.definitions).where(tables.definitions.c.active))
    return {(row.kind, row.name): (row.id, _definition(row).record) for row in rows}


def _diff(
    active: Mapping[tuple[str, str], tuple[int, DefinitionRecord]], records: Sequence[DefinitionRecord]
) -> list[DefinitionChange]:
    changes = []
    for record in records:
        before = active.get((record.kind, record.name))
        if before is None:
            changes.append(DefinitionChange(record.kind, record.name, "added", None, record.version))
            continue
        old = before[1].version
        change = "unchanged" if old == record.version else "changed"
        changes.append(DefinitionChange(record.kind, record.name, change, old, record.version))  # type: ignore[arg-type]
    given = {(record.kind, record.name) for record in records}
    for (kind, name), (_, old_record) in sorted(active.items(), key=lambda item: item[0]):
        if (kind, name) not in given:
            changes.append(DefinitionChange(kind, name, "removed", old_record.version, None))
    return changes
