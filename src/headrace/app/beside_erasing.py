"""An erasure in the side that runs beside the served one: its commits, checkpoint, look-ups and online store.

What both sides have in common is erased once, by `app/erasing.py`. What a side has computed is computed again by the
version of the code that runs it, in a process of its own where that is another one: the key goes there over a pipe.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from headrace.app.beside import beside_of, catch_up_as, empty_side, run_as
from headrace.app.sides import Side, own_from
from headrace.core.errors import StoreError

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.erasure.places import Places

_FORMAT = 1


class SideErasure(msgspec.Struct, frozen=True):
    """What a side is asked to do of an erasure.

    Attributes:
        what: "count" what it holds; "log": erase commits and checkpoint, while events still say whose they are;
            "store": erase the online store, when they no longer do.
        entity, key, secret, whole: of the subject (`erasure/subject.py`).
        ids: whether ids of events become pseudonyms.
    """

    what: Literal["count", "log", "store"]
    entity: str
    key: Any
    secret: bytes
    whole: bool
    ids: bool = False
    format: int = _FORMAT


class SideErased(msgspec.Struct, frozen=True):
    """What it found or did: places with numbers and kinds, records of others computed again, and what remains."""

    places: list[tuple[str, int, str]] = []
    repaired: int = 0
    remains: list[str] = []


_decoder = msgspec.json.Decoder(SideErasure)
_erased = msgspec.json.Decoder(SideErased)


def bring_up(parts: Parts, side: Side) -> None:
    """Let a side come to the end of the served commits, so that what is edited is all there is; its layers rest."""
    if side.ready:
        catch_up_as(parts, side)


def erase_beside(parts: Parts, side: Side, asked: SideErasure) -> SideErased:
    """Do what is asked in the side beside; the caller holds its locks. Raises StoreError if its version cannot."""
    if side.interpreter == sys.executable:
        return erase_here(parts, asked)
    try:
        told = run_as(side, parts.settings, ["erase", "--json"], msgspec.json.encode(asked))
    except StoreError as error:
        raise StoreError(
            f"{error}; what is begun goes on when the erasure is asked for again: with a newer version in that "
            "environment, or without that side (headrace beside drop)"
        ) from None
    return _erased.decode(told.splitlines()[-1])


def erase_asked(parts: Parts, data: bytes) -> SideErased:
    """The same as another process asks for it; raises StoreError if it speaks another format."""
    asked = _decoder.decode(data)
    if asked.format != _FORMAT:
        raise StoreError(f"an erasure is asked for in format {asked.format}, this version knows {_FORMAT}")
    return erase_here(parts, asked)


def erase_here(parts: Parts, asked: SideErasure) -> SideErased:
    """The same by the code of this process. `parts` are those of the served side."""
    from headrace.erasure.places import Places, Stores
    from headrace.erasure.subject import subject_of

    subject = subject_of(parts.plan, asked.entity, asked.key, asked.secret, whole=asked.whole)
    with beside_of(parts) as beside:
        if not beside.side.ready:
            return _not_filled(beside, asked)
        stores = Stores(beside.raw, beside.features, beside.internal, beside.offline, beside.online)
        places, begin = Places(parts.plan, subject, stores), own_from(beside.side, beside.sides.served)
        if asked.what == "count":
            return SideErased(places.count_side(beside.checkpoint, begin))
        if asked.what == "log":
            places.erase_checkpoint(beside.checkpoint)
            places.erase_commits(begin)
            return SideErased()
        return _erase_store(beside, places, ids=asked.ids)


def _not_filled(beside: Parts, asked: SideErasure) -> SideErased:
    """A side whose filling was cut short is filled from the beginning: what it has so far goes."""
    if asked.what == "count":
        return SideErased()
    empty_side(beside)
    beside.online.wipe()
    return SideErased()


def _erase_store(beside: Parts, places: Places, *, ids: bool) -> SideErased:
    from headrace.app.erasing import erase_lookups

    places.erase_online()
    erase_lookups(beside)
    repaired = places.repair_others(beside.expected(), ids=ids)
    beside.online.wipe()
    return SideErased([], repaired, beside.online.remains())
