"""Dead letters over HTTP: list, show, fix, replay, drop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from headrace.core.time import parse_time
from headrace.engines.stream.letters import Chosen, Letter, Listing, Replayed
from headrace.serving.calls import Call
from headrace.serving.replies import Refused, Reply, body_of, encode_json

_MOST = 1_000


class LetterDoor(Protocol):
    """Dead letters of a project; `ingestion.letters.DeadLetters`."""

    def find(self, chosen: Chosen | None = None, *, limit: int = 100, personal: bool = False) -> Listing: ...
    def get(self, letter: str, *, personal: bool = False) -> Letter: ...
    def replay(
        self, chosen: Chosen | None = None, *, who: str, why: str = "", dry_run: bool = False, personal: bool = False
    ) -> Replayed: ...
    def fix(
        self, letter: str, changes: Mapping[str, Any] | None = None, *, who: str, why: str = "",
        remove: Sequence[str] = (), event: Any = None, stream: str | None = None, personal: bool = False,
    ) -> Letter: ...  # fmt: skip
    def drop(self, chosen: Chosen, *, who: str, why: str, personal: bool = False) -> int: ...


class _Which(msgspec.Struct, forbid_unknown_fields=True):
    """Which letters a request means; `since` and `until` as ISO 8601."""

    letters: tuple[str, ...] = ()
    stream: str | None = None
    field: str | None = None
    reason: str | None = None
    since: str | None = None
    until: str | None = None
    why: str = ""
    dry_run: bool = False


class _Fix(msgspec.Struct, forbid_unknown_fields=True):
    """How a letter is corrected."""

    set: dict[str, Any] = {}
    remove: tuple[str, ...] = ()
    event: dict[str, Any] | list[dict[str, Any]] | None = None
    stream: str | None = None
    why: str = ""


class LetterHandlers:
    """Answers calls about dead letters; every method raises Refused or a HeadraceError for what cannot be answered."""

    def __init__(self, door: LetterDoor | None) -> None:
        self._given = door

    async def list(self, call: Call) -> Reply:
        """`GET /v1/dead_letters`: the newest of the chosen ones, and how many there are for which reason."""
        options = {name: call.option(name) for name in ("stream", "field", "reason", "since", "until")}
        which = _Which(letters=(), **options)  # type: ignore[arg-type]
        limit = call.option("limit") or "100"
        if not limit.isascii() or not limit.isdecimal() or len(limit) > 9 or not 1 <= int(limit) <= _MOST:
            raise Refused(422, f'limit = "{limit[:20]}" is no number from 1 to {_MOST}', field="limit")
        chosen = _chosen(which, call.option("state") or "open")
        found = await asyncio.to_thread(self._door.find, chosen, limit=int(limit), personal=_sees_all(call))
        return Reply(encode_json(found))

    async def get(self, call: Call) -> Reply:
        """`GET /v1/dead_letters/{stream}/{partition}/{offset}`: one letter."""
        return Reply(encode_json(await asyncio.to_thread(self._door.get, _id(call), personal=_sees_all(call))))

    async def fix(self, call: Call) -> Reply:
        """`POST /v1/dead_letters/{stream}/{partition}/{offset}/fix`: publish the corrected event."""
        asked = body_of(call.body, _Fix)
        fixed = await asyncio.to_thread(
            self._door.fix, _id(call), asked.set, who=call.caller.who, why=asked.why, remove=asked.remove,
            event=asked.event, stream=asked.stream, personal=_sees_all(call),
        )  # fmt: skip
        return Reply(encode_json(fixed))

    async def replay(self, call: Call) -> Reply:
        """`POST /v1/dead_letters/replay`: publish again what fits today."""
        asked = body_of(call.body, _Which)
        done = await asyncio.to_thread(
            self._door.replay, _chosen(asked), who=call.caller.who, why=asked.why, dry_run=asked.dry_run,
            personal=_sees_all(call),
        )  # fmt: skip
        return Reply(encode_json(done))

    async def drop(self, call: Call) -> Reply:
        """`POST /v1/dead_letters/drop`: mark as dropped."""
        asked = body_of(call.body, _Which)
        if asked.dry_run:
            raise Refused(422, "dry_run is of replay", field="dry_run", hint="list them instead")
        dropped = await asyncio.to_thread(
            self._door.drop, _chosen(asked), who=call.caller.who, why=asked.why, personal=_sees_all(call)
        )
        return Reply(encode_json({"dropped": dropped}))

    @property
    def _door(self) -> LetterDoor:
        if self._given is None:
            raise Refused(503, "this service has no dead letters", hint="ask where the feature log is written")
        return self._given


def _sees_all(call: Call) -> bool:
    """True if values of personal fields may be shown."""
    return "personal" in call.caller.scopes


def _id(call: Call) -> str:
    return "/".join(call.params[part] for part in ("stream", "partition", "offset"))


def _chosen(asked: _Which, state: str = "open") -> Chosen:
    return Chosen(
        asked.letters, asked.stream, asked.field, asked.reason, _time(asked.since, "since"),
        _time(asked.until, "until"), state,
    )  # fmt: skip


def _time(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise Refused(422, str(error), field=field) from None
