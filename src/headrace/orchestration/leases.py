"""Leases: which of several workers has which share of the work, agreed upon through a setting of the catalog.

Whoever is in the roster gets an equal part of the shares, the longest there the larger one. A worker that has more
than its part gives some up once it has put them in order; free ones are taken by those that have less. A worker shows
that it lives by counting up; one whose count has stood still for the length of a lease, by the clock of who looks, is
struck off, and its shares are free. So the clocks of machines need not agree.

Leases keep workers from doing the same work twice. They do not make the result right: that is up to what each share's
worker writes, which the log refuses from any but the last to have taken it over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from headrace.core.time import Clock


class Member(msgspec.Struct, frozen=True):
    """A worker in the roster.

    Attributes:
        host, pid: where it runs.
        place: what tells its state folder from those of other machines.
        slot: its number among the workers of that folder.
        started_us, seen_us: when it came and when it counted up last, by its own clock.
        beats: how often it has.
    """

    host: str
    pid: int
    place: str
    slot: int
    started_us: int
    seen_us: int
    beats: int = 0


class Roster(msgspec.Struct):
    """Who works (by name), and who has which share (its number as a text)."""

    members: dict[str, Member] = {}
    owners: dict[str, str] = {}

    def shares_of(self, name: str) -> list[int]:
        """The shares of a worker, in order."""
        return sorted(int(share) for share, owner in self.owners.items() if owner == name)


def read_roster(value: Any) -> Roster:
    """The roster from the setting that holds it; None is an empty one."""
    return Roster() if value is None else msgspec.convert(value, Roster)


class Leases:
    """One worker's part in a roster.

    Args:
        revise: replaces the setting by what a function makes of it, with nobody else between (`revise_setting`).
        me: this worker.
        lease_us: how long a worker that shows no sign of life keeps its shares.
        gone: tells of a worker that it is known to have ended.

    Attributes:
        held: the shares of this worker, as of the last call.
    """

    def __init__(
        self,
        revise: Callable[[Callable[[Any], Any]], Any],
        me: Member,
        clock: Clock,
        lease_us: int,
        *,
        gone: Callable[[Member], bool] = lambda _: False,
    ) -> None:
        self._revise, self._me, self._clock, self._lease_us, self._gone = revise, me, clock, lease_us, gone
        self.name = f"{me.host}/{me.pid}/{me.started_us}"
        self.held: frozenset[int] = frozenset()
        self._seen: dict[str, tuple[int, int]] = {}
        self._beats = 0

    def renew(self, shares: int) -> frozenset[int]:
        """Say that this worker lives and take what is free up to its part of `shares` (numbers below that).

        Returns those of `held` that belong to others: to be put in order, and then to be released.
        """
        surplus: list[int] = []

        def change(value: Any) -> Any:
            roster = read_roster(value)
            now = self._clock.now_us()
            # Counted here: one that was struck off must not begin anew, or it would seem to stand still.
            self._beats += 1
            roster.members[self.name] = msgspec.structs.replace(self._me, seen_us=now, beats=self._beats)
            for name in [name for name, member in roster.members.items() if self._is_dead(name, member, now)]:
                del roster.members[name]
                self._seen.pop(name, None)
            roster.owners = {
                share: owner
                for share, owner in roster.owners.items()
                if owner in roster.members and int(share) < shares
            }
            part = _parts(roster, shares)[self.name]
            had = roster.shares_of(self.name)
            surplus[:] = had[part:]
            free = [share for share in range(shares) if str(share) not in roster.owners]
            for share in free[: max(part - len(had), 0)]:
                roster.owners[str(share)] = self.name
            return msgspec.to_builtins(roster)

        self._note(self._revise(change))
        return frozenset(surplus)

    def release(self, shares: Collection[int]) -> None:
        """Give shares free that this worker has put in order."""

        def change(value: Any) -> Any:
            roster = read_roster(value)
            for share in shares:
                if roster.owners.get(str(share)) == self.name:
                    del roster.owners[str(share)]
            return msgspec.to_builtins(roster)

        self._note(self._revise(change))

    def leave(self) -> None:
        """Give everything free and leave the roster."""

        def change(value: Any) -> Any:
            roster = read_roster(value)
            roster.members.pop(self.name, None)
            roster.owners = {share: owner for share, owner in roster.owners.items() if owner != self.name}
            return msgspec.to_builtins(roster)

        self._note(self._revise(change))

    def _note(self, value: Any) -> None:
        self.held = frozenset(read_roster(value).shares_of(self.name))

    def _is_dead(self, name: str, member: Member, now: int) -> bool:
        if name == self.name:
            return False
        beats, since = self._seen.get(name, (-1, now))
        if beats != member.beats:
            self._seen[name] = member.beats, now
            since = now
        return now - since > self._lease_us or self._gone(member)


def _parts(roster: Roster, shares: int) -> dict[str, int]:
    """How many shares each worker is to have."""
    order = sorted(roster.members, key=lambda name: (roster.members[name].started_us, name))
    each, more = divmod(shares, len(order))
    return {name: each + (place < more) for place, name in enumerate(order)}
