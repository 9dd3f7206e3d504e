"""Erasures over HTTP: begin one, look what it would find, show receipts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from headrace.core.errors import Busy, PlanError
from headrace.serving.calls import Call
from headrace.serving.replies import Refused, Reply, body_of, encode_json

_BY_HAND = "stop the layers that run and say: headrace erase ENTITY -; under headrace up it works while they run"
R = TypeVar("R", bound="Receipt", covariant=True)


class Receipt(Protocol):
    """What an erasure did; `app.erasing.ErasureReceipt`."""

    @property
    def id(self) -> str: ...
    @property
    def ended(self) -> str: ...
    @property
    def places(self) -> Sequence[Any]: ...


class ErasureDoor(Protocol[R]):
    """Erasures of a project; `app.erasures.Erasures`."""

    def start(self, entity: str, key: str | int, *, events: str, who: str) -> R: ...
    def look(self, entity: str, key: str | int, *, events: str) -> R: ...
    def list(self) -> Sequence[R]: ...
    def running(self) -> str | None: ...


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    entity: str
    key: str | int
    events: str = "unlink"
    dry_run: bool = False


class ErasureHandlers:
    """Answers calls about erasures; every method raises Refused or a HeadraceError for what cannot be answered."""

    def __init__(self, door: ErasureDoor[Receipt] | None) -> None:
        self._given = door

    async def post(self, call: Call) -> Reply:
        """`POST /v1/erasures`: begin one (202, its receipt as it is), or with `dry_run` tell what there is (200)."""
        asked = body_of(call.body, _Asked)
        door = self._door
        try:
            if asked.dry_run:
                found = await asyncio.to_thread(door.look, asked.entity, asked.key, events=asked.events)
                return Reply(encode_json({"entity": asked.entity, "places": found.places}))
            begun = await asyncio.to_thread(
                door.start, asked.entity, asked.key, events=asked.events, who=call.caller.who
            )  # fmt: skip
        except (Busy, PlanError) as error:
            raise Refused(409, str(error), hint=_BY_HAND) from None
        where = f"/v1/erasures/{begun.id}".encode()
        return Reply(encode_json(_shown(begun, begun.id)), 202, headers=((b"location", where),))

    async def list(self, call: Call) -> Reply:
        """`GET /v1/erasures`: the receipts of all, the newest last."""
        door = self._door
        found = await asyncio.to_thread(door.list)
        return Reply(encode_json({"erasures": [_shown(one, door.running()) for one in found]}))

    async def get(self, call: Call) -> Reply:
        """`GET /v1/erasures/{id}`: one receipt."""
        id, door = call.params["id"], self._door
        found = next((one for one in await asyncio.to_thread(door.list) if one.id == id), None)
        if found is None:
            raise Refused(404, "there is no such erasure", hint="GET /v1/erasures lists them all")
        return Reply(encode_json(_shown(found, door.running())))

    @property
    def _door(self) -> ErasureDoor[Receipt]:
        if self._given is None:
            raise Refused(503, "this service erases nothing", hint="say headrace erase where the project is")
        return self._given


def _shown(receipt: Receipt, running: str | None) -> dict[str, Any]:
    state = "ended" if receipt.ended else "running" if receipt.id == running else "open"
    return {"state": state, **msgspec.to_builtins(receipt)}
