"""Several processes of a layer, on one machine or many, that share its work out among themselves."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from headrace.app.locks import FolderLock, holder_of
from headrace.core.errors import Busy, Unreachable
from headrace.core.time import US_PER_SECOND
from headrace.orchestration.leases import Leases, Member, Roster, read_roster

if TYPE_CHECKING:
    from headrace.app.settings import Settings
    from headrace.app.wiring import Parts
    from headrace.catalog.catalog import Catalog

ROSTERS = {"compute": "compute workers", "ingest": "ingest workers"}
"""The layers that may have several workers, and the setting of the catalog that says who has which shares."""
INGEST_SHARES = ("online store", "archive")
"""What the shares of ingestion are; those of compute are partitions."""
_MOST_SLOTS = 256


def workers_of(settings: Settings, layer: str) -> int:
    """How many workers a layer is to have."""
    return {"compute": settings.compute_workers, "ingest": settings.ingest_workers}.get(layer, 1)


def beside_others(settings: Settings, layer: str) -> FolderLock:
    """The role of a layer, held with other workers. Raises Busy if a process that works alone holds it for long.

    A notebook does so while it brings the stores up to the log.
    """
    deadline = time.monotonic() + settings.lease_s
    while True:
        try:
            return FolderLock(settings.state, layer, shared=True)
        except Busy:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@contextmanager
def worker_slot(state: Path, layer: str) -> Iterator[int]:
    """The least number from 1 that no other worker of this folder has, kept until the block ends."""
    for slot in range(1, _MOST_SLOTS + 1):
        try:
            lock = FolderLock(state, slot_role(layer, slot))
        except Busy:
            continue
        with lock:
            yield slot
        return
    raise Busy(f"{_MOST_SLOTS} workers of {layer} run in {state} already")


def slot_role(layer: str, slot: int) -> str:
    """The lock of a slot."""
    return f"{layer}-{slot}"


def layer_name(layer: str, slot: int) -> str:
    """What the worker of a slot is called in status and heartbeats."""
    return layer if slot == 1 else slot_role(layer, slot)


def layer_role(name: str, settings: Settings) -> str:
    """The lock that the process of a layer alone holds."""
    return slot_role(name, 1) if workers_of(settings, name) > 1 else name


def process_names(settings: Settings, layers: Collection[str]) -> list[str]:
    """What the processes of the layers are called, beginning with each layer's first."""
    more = [(layer, slot) for layer in layers for slot in range(2, workers_of(settings, layer) + 1)]
    return [*layers, *(layer_name(layer, slot) for layer, slot in more)]


def extra_workers(state: Path) -> list[str]:
    """The names of the workers beside the first of their layer that run in this folder."""
    found = []
    for layer in ROSTERS:
        for file in state.glob(f"{layer}-*.lock"):
            number = file.stem.removeprefix(f"{layer}-")
            if number.isdigit() and int(number) > 1 and holder_of(state, file.stem) is not None:
                found.append((layer, int(number)))
    return [layer_name(layer, slot) for layer, slot in sorted(found)]


def layer_roster(catalog: Catalog, layer: str) -> Roster:
    """Who works for a layer, and has which shares."""
    return read_roster(catalog.setting(ROSTERS[layer]))


def place_of(settings: Settings) -> str:
    """What tells a state folder from those of other machines."""
    return f"{socket.gethostname()}:{settings.state.resolve()}"


def await_rest(parts: Parts) -> None:
    """Return when no worker is left on any machine; of this folder the caller has seen to it.

    Raises Busy naming one that works on.
    """
    for layer in ROSTERS:
        if workers_of(parts.settings, layer) > 1:
            _await_rest(parts, layer)


def _await_rest(parts: Parts, layer: str) -> None:
    members, here = layer_roster(parts.catalog, layer).members, place_of(parts.settings)
    beats = {name: member.beats for name, member in members.items() if member.place != here}
    deadline = time.monotonic() + parts.settings.lease_s
    while beats:
        now = layer_roster(parts.catalog, layer).members
        moved = [member for name, member in now.items() if name in beats and member.beats > beats[name]]
        if moved:
            raise Busy(
                f"process {moved[0].pid} on {moved[0].host} runs {layer} by the former definitions; stop all workers "
                "on other machines first"
            )
        beats = {name: count for name, count in beats.items() if name in now}
        if time.monotonic() > deadline:  # they have ended without a word
            return
        time.sleep(0.05)


class Membership:
    """A worker's place in the roster of its layer, kept up now and then.

    Attributes:
        problem: why the leases cannot be renewed; empty if all is well.
    """

    def __init__(self, parts: Parts, layer: str, slot: int) -> None:
        settings, now = parts.settings, parts.clock.now_us()
        place = place_of(settings)
        me = Member(socket.gethostname(), os.getpid(), place, slot, now, now)
        self._leases = Leases(
            partial(parts.catalog.revise_setting, ROSTERS[layer]), me, parts.clock, settings.lease_s * US_PER_SECOND,
            gone=partial(_has_ended, settings.state, layer, place, slot),
        )  # fmt: skip
        self._every_s = min(settings.lease_s / 5, 1.0)
        self._again_at = 0.0
        self.problem = ""

    @property
    def due(self) -> bool:
        """True if it is time to renew."""
        return time.monotonic() >= self._again_at

    @property
    def held(self) -> frozenset[int]:
        """The shares of this worker."""
        return self._leases.held

    def renew(self, shares: int) -> frozenset[int]:
        """See `Leases.renew`. What this worker has, it keeps while the catalog is away: should others take it over
        meanwhile, the log and the stores tell."""
        self._again_at = time.monotonic() + self._every_s
        try:
            surplus = self._leases.renew(shares)
        except Unreachable as error:
            self.problem = str(error)
            return frozenset()
        self.problem = ""
        return surplus

    def release(self, shares: Collection[int]) -> None:
        """Give shares to the others."""
        with suppress(Unreachable):  # it is asked for again
            self._leases.release(shares)

    def hurry(self) -> None:
        """Renew at the next opportunity."""
        self._again_at = 0.0

    def leave(self) -> None:
        """Give everything to the others."""
        with suppress(Unreachable):
            self._leases.leave()


def _has_ended(state: Path, layer: str, place: str, slot: int, member: Member) -> bool:
    """True of a worker of this folder whose slot is free, or this worker's own."""
    return member.place == place and (member.slot == slot or holder_of(state, slot_role(layer, member.slot)) is None)


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker of several, on any machine: where it runs, its shares, and how long ago it was seen."""

    layer: str
    host: str
    pid: int
    shares: list[int]
    seen_us: int

    def __str__(self) -> str:
        if self.layer == "ingest":
            what = " and ".join(INGEST_SHARES[share] for share in self.shares) or "nothing"
        else:
            what = f"shares {', '.join(map(str, self.shares)) or 'none'}"
        return f"{self.layer} on {self.host}, process {self.pid}: {what}, seen {self.seen_us / US_PER_SECOND:.0f} s ago"


def worker_status(parts: Parts) -> list[WorkerStatus]:
    """The workers of layers that may have several, the longest there first."""
    found, now = [], parts.clock.now_us()
    for layer in ROSTERS:
        if workers_of(parts.settings, layer) > 1:
            roster = layer_roster(parts.catalog, layer)
            for name, m in sorted(roster.members.items(), key=lambda item: item[1].started_us):
                found.append(WorkerStatus(layer, m.host, m.pid, roster.shares_of(name), max(now - m.seen_us, 0)))
    return found
