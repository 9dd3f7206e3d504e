"""What the catalog gives back: frozen records. All times are int µs UTC."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

RunStatus = Literal["running", "done", "failed", "refused"]
Severity = Literal["info", "warning", "critical"]
Verdict = Literal["promoted", "refused"]
ChangeKind = Literal["added", "changed", "unchanged", "removed"]


class DefinitionRecord(msgspec.Struct, frozen=True):
    """One definition of a project, as given to `apply`.

    Attributes:
        kind: "stream", "group", "table", "view", "model", ...
        version: hash of everything that decides a value.
        body: the definition as plain JSON values.
    """

    kind: str
    name: str
    version: str
    body: dict[str, Any] = {}
    owner: str = ""
    doc: str = ""
    tags: tuple[str, ...] = ()


class Definition(msgspec.Struct, frozen=True):
    """A definition as stored; `active` is False once a later `apply` changed or removed it."""

    record: DefinitionRecord
    applied_at_us: int
    active: bool


class DefinitionChange(msgspec.Struct, frozen=True):
    """What an `apply` does to one definition; `before` and `after` are versions, None where there is none."""

    kind: str
    name: str
    change: ChangeKind
    before: str | None
    after: str | None


class Run(msgspec.Struct, frozen=True):
    """One run of a job. `ended_us` is None while it runs; `attempt` counts from 1."""

    id: int
    job: str
    trigger: str
    status: RunStatus
    attempt: int
    started_us: int
    ended_us: int | None
    detail: dict[str, Any]


class Alert(msgspec.Struct, frozen=True):
    """Something that a person should know. `resolved_us` is None while it is open."""

    id: int
    kind: str
    subject: str
    severity: Severity
    at_us: int
    resolved_us: int | None
    detail: dict[str, Any]


class Decision(msgspec.Struct, frozen=True):
    """A judgement of a challenger: version numbers (`champion` None when there was none), why, and the figures."""

    id: int
    model: str
    at_us: int
    challenger: int
    champion: int | None
    verdict: Verdict
    reason: str
    table: list[dict[str, Any]]


class AliasRow(msgspec.Struct, frozen=True):
    """One change of an alias: from version `previous` to `number`; None stands for no version."""

    id: int
    model: str
    alias: str
    number: int | None
    previous: int | None
    at_us: int
    who: str
    why: str
