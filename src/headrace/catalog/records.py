"""What the catalog gives back: frozen records. All times are int µs UTC."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final, Literal

import msgspec

RunStatus = Literal["running", "done", "failed", "refused"]
Severity = Literal["info", "warning", "critical"]
Verdict = Literal["promoted", "refused"]
SCOPES: Final = ("publish", "read", "score", "label", "admin", "personal")
"""What a key may be for."""
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


class ApiKey(msgspec.Struct, frozen=True):
    """A key as the catalog holds it: everything but its secret.

    Attributes:
        id: part of the token, not secret.
        digest: SHA-256 of the whole token, hex. The secret has 256 random bits, so no one can guess a token of a given
            digest, and a slow or salted hash, which is for passwords that people choose, would only cost time.
        scopes: of `SCOPES`; a key without any may only see that the service is there, its figures and its description.
        reads: groups, tables and views that it may read; None is all.
        rate, burst: requests a second, and how many may come at once; None is no limit.
    """

    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    reads: tuple[str, ...] | None
    rate: float | None
    burst: int | None
    created_us: int
    created_by: str
    expires_us: int | None = None
    revoked_us: int | None = None

    def fits(self, token: bytes) -> bool:
        """True if this is the key of a token; takes the same time whatever the token is."""
        return hmac.compare_digest(hashlib.sha256(token).hexdigest(), self.digest)

    def state(self, now_us: int) -> str:
        """live, expired or revoked."""
        if self.revoked_us is not None:
            return "revoked"
        return "expired" if self.expires_us is not None and now_us >= self.expires_us else "live"


class LoggedChange(msgspec.Struct, frozen=True):
    """One line of the log of changes: who (an OS user, "key NAME" or a layer) did what to what; `detail` is JSON."""

    id: int
    at_us: int
    who: str
    action: str
    subject: str
    detail: dict[str, Any]


def token_id(token: bytes) -> str | None:
    """The id in a token; None if it has not the form of one."""
    parts = token.split(b"_", 2)
    if len(parts) != 3 or parts[0] != b"hr" or not 8 <= len(parts[1]) <= 16 or len(token) > 200:
        return None
    return parts[1].decode("latin-1")
