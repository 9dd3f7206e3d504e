"""Who may ask what: API keys, their scopes, what they may read, and how often they may ask.

The service is open until the first key is made; from then on every request needs one, also when all keys were revoked
again. Keys are looked at in memory; `refresh` takes over what changed in the catalog.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Final, Protocol

from headrace.catalog.records import SCOPES, ApiKey, token_id
from headrace.core.time import Clock
from headrace.serving.replies import Headers, Refused

ANY: Final = "any"
"""Scope of what every key may see: the description, the figures, the page."""
PUBLIC: Final = ""
"""Scope of what everybody may see: whether the service lives and is ready."""

_CHALLENGE: Headers = ((b"www-authenticate", b'Bearer realm="headrace"'),)
_HERE = rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?"
_LOCAL_HOST, _LOCAL_ORIGIN = re.compile(_HERE, re.IGNORECASE), re.compile(rb"https?://" + _HERE)
_HOW = "send the header Authorization: Bearer KEY (or X-API-Key: KEY); headrace keys make NAME --scope ... makes one"


class KeySource(Protocol):
    """Where keys are kept; `catalog.access.KeyTable`."""

    def list(self) -> list[ApiKey]: ...
    def generation(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `who` for the records, what for, and which groups, tables and views may be read (None: all)."""

    who: str
    scopes: frozenset[str]
    reads: frozenset[str] | None = None

    def may_read(self, name: str) -> bool:
        """True if the caller may read the features of a group, table or view."""
        return "read" in self.scopes and (self.reads is None or name in self.reads)

    def check_read(self, name: str) -> None:
        """Raise Refused (403) unless the caller may read what has this name."""
        if not self.may_read(name):
            raise Refused(403, f'{self.who} may not read "{name}"', hint="ask for a key with --scope read --read NAME")


ANYBODY: Final = Caller("anybody", frozenset(SCOPES))
"""Whoever asks a service that has no keys."""
NOBODY: Final = Caller("nobody", frozenset())
"""Whoever asks what is public without a key."""


@dataclass(slots=True)
class _Held:
    """A key in memory, with what it has left of its rate: `tokens` as of `at` (seconds of a monotonic clock)."""

    key: ApiKey
    caller: Caller
    tokens: float
    at: float


@dataclass(slots=True)
class Access:
    """Admits requests. Used from the event loop's thread; `refresh` may come from another.

    Args:
        keys: the keys of the catalog.
        clock: tells which have expired.
        seconds: a clock that only goes forward, for rates.
    """

    keys: KeySource
    clock: Clock
    seconds: Callable[[], float] = monotonic
    _held: dict[str, _Held] = field(default_factory=dict)
    _generation: int = -1
    _required: bool = False
    _refreshing: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.refresh()

    @property
    def required(self) -> bool:
        """True if a request needs a key."""
        return self._required

    def refresh(self) -> bool:
        """Take over what changed in the catalog; True if something has. Raises StoreError if it cannot be read, and
        then goes on with the keys that are known."""
        with self._refreshing:  # who began earlier and ends later would bring back what was known before
            return self._refresh()

    def _refresh(self) -> bool:
        generation = self.keys.generation()
        if generation == self._generation:
            return False
        found: dict[str, _Held] = {}
        for key in self.keys.list():
            if key.revoked_us is not None:
                continue
            caller = Caller(
                f"key {key.name}", frozenset(key.scopes), None if key.reads is None else frozenset(key.reads)
            )  # fmt: skip
            known = self._held.get(key.id)
            tokens, at = (float(key.burst or 0), self.seconds()) if known is None else (known.tokens, known.at)
            found[key.id] = _Held(key, caller, tokens, at)
        self._held, self._required, self._generation = found, generation > 0, generation
        return True

    def admit(self, headers: Iterable[tuple[bytes, bytes]], scope: str) -> Caller:
        """The caller of a request with these headers, names in lower case, that is for `scope`.

        Raises Refused: 401 without a key that is live, 429 with Retry-After if it asks too often, 403 if the key is
        not for this. A service without keys refuses what a browser sends for a page of another site (403), be it that
        the page says so (Origin) or that its name was made to point at this machine (Host).
        """
        if not self._required:
            try:
                _check_local(headers)
            except Refused:
                if scope != PUBLIC:
                    raise
                return NOBODY
            return ANYBODY
        if scope == PUBLIC:
            try:
                return self._known(headers).caller
            except Refused:
                return NOBODY
        held = self._known(headers)
        key = held.key
        if key.rate is not None:
            self._take(held, key.rate, key.burst or 1)
        if scope != ANY and scope not in held.caller.scopes:
            raise Refused(403, f"{held.caller.who} may not {scope}", hint=f"ask for a key with --scope {scope}")
        return held.caller

    def _known(self, headers: Iterable[tuple[bytes, bytes]]) -> _Held:
        token = _token(headers)
        id = token_id(token)
        held = None if id is None else self._held.get(id)
        if held is None or not held.key.fits(token):
            raise Refused(401, "this key is not known", hint=_HOW, headers=_CHALLENGE)
        expires_us = held.key.expires_us
        if expires_us is not None and self.clock.now_us() >= expires_us:
            raise Refused(401, f"{held.caller.who} has expired", hint=_HOW, headers=_CHALLENGE)
        return held

    def _take(self, held: _Held, rate: float, burst: int) -> None:
        now = self.seconds()
        tokens = min(held.tokens + (now - held.at) * rate, burst)
        held.at = now
        if tokens < 1.0:
            held.tokens = tokens
            wait = max(math.ceil((1.0 - tokens) / rate), 1)
            raise Refused(
                429, f"{held.caller.who} asks too often: {rate:g} requests a second are allowed, {burst} at once",
                hint=f"try again in {wait} s", headers=((b"retry-after", b"%d" % wait),),
            )  # fmt: skip
        held.tokens = tokens - 1.0


def _check_local(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Refused (403) if a browser asks for a page that is not of this machine. Programs may leave Host out."""
    for name, value in headers:
        if name == b"origin" and _LOCAL_ORIGIN.fullmatch(value) is None:
            what = "a page of another site may not ask a service without keys"
        elif name == b"host" and _LOCAL_HOST.fullmatch(value) is None:
            what = (
                "a service without keys answers to localhost and 127.0.0.1 alone, not to another name of this machine"
            )
        else:
            continue
        raise Refused(403, what, hint="make a key, and send it with each request: headrace keys make NAME --scope ...")


def _token(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The token that a request brings; raises Refused (401) if there is none, or more than one."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            token = token.strip()
            if scheme.lower() != b"bearer" or not token:
                raise Refused(401, "the header Authorization is not of the form Bearer KEY", hint=_HOW,
                              headers=_CHALLENGE)  # fmt: skip
        elif name == b"x-api-key":
            token = value.strip()
        else:
            continue
        if found is not None and token != found:
            raise Refused(401, "two different keys in one request", hint=_HOW, headers=_CHALLENGE)
        found = token
    if not found:
        raise Refused(401, "this service wants a key", hint=_HOW, headers=_CHALLENGE)
    return found
