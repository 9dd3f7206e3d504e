"""Layers of which several processes share the work: each does what it has leases for."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from headrace.app.services import Layer
from headrace.app.sharing import INGEST_SHARES, Membership, layer_name
from headrace.core.errors import LogMoved, StoreMoved, Unreachable

if TYPE_CHECKING:
    from headrace.app.archives import Archiving
    from headrace.app.ingesting import Ingesting
    from headrace.app.wiring import Parts
    from headrace.derivation.worker import ComputingLayer

_ONLINE, _ARCHIVE = range(len(INGEST_SHARES))
_SAVE_EVERY_S = 300.0
_logger = logging.getLogger(__name__)


def share_count(parts: Parts) -> int:
    """How many shares compute has: as many as the stream with the most partitions."""
    topics, default = parts.raw.topics(), parts.settings.partitions
    return max((topics.get(name, default) for name in parts.plan.streams), default=1)


class SharedCompute(Layer):
    """Stream compute of the partitions that this process has; the worker is made anew whenever these change."""

    def __init__(self, parts: Parts, slot: int) -> None:
        self.name = layer_name("compute", slot)
        self._parts = parts
        self._member = Membership(parts, "compute", slot)
        self._saved_at = 0.0
        self._worker: ComputingLayer | None = None
        self.shares: frozenset[int] = frozenset()
        self._counted = self._dead = self._lag = 0
        self._problem = ""

    def step(self) -> int:
        """Renew the leases if it is time, then compute what is waiting; returns how many events were read."""
        try:
            if self._member.due:
                self._renew()
            done = 0 if self._worker is None else self._worker.step()
        except (LogMoved, StoreMoved) as error:
            # Another worker has taken over a share: what it has written stands, and this one had written nothing.
            _logger.info("%s", error)
            self._drop()
            self._member.hurry()
            return 0
        except Unreachable as error:
            self._problem = str(error)
            return 0
        self._problem = ""
        return done

    def _renew(self) -> None:
        surplus = self._member.renew(share_count(self._parts))
        if surplus:
            self._save()
            self._drop()
            self._member.release(surplus)
        elif time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            # Whoever trims the raw log keeps what lies past it.
            self._save()
        held = self._member.held
        if held != self.shares:
            self._save()
            self._drop()
            if held:
                _logger.info("computing shares %s", ", ".join(map(str, sorted(held))))
                self._worker, self.shares = self._parts.compute(held), held
                self._saved_at = time.monotonic()

    def _save(self) -> None:
        if self._worker is not None:
            self._worker.checkpoint()
            self._saved_at = time.monotonic()

    def _drop(self) -> None:
        if self._worker is not None:
            self._counted += self._worker.counted
            self._dead += self._worker.dead
        self._worker, self.shares = None, frozenset()

    def lag(self) -> int:
        """Events of its shares that are not computed yet."""
        with suppress(Unreachable):
            self._lag = 0 if self._worker is None else sum(self._worker.lag().values())
        return self._lag

    def problem(self) -> str:
        return self._problem or self._member.problem

    def counters(self) -> dict[str, float]:
        worker = self._worker
        counted, dead = (0, 0) if worker is None else (worker.counted, worker.dead)
        return {"counted": self._counted + counted, "dead_letters": self._dead + dead, "shares": len(self.shares)}

    def finish(self, *, drain: bool) -> None:
        """Put the shares in order and give them to the others."""
        with suppress(Unreachable):
            self._save()
        self._drop()
        self._member.leave()


class SharedIngest(Layer):
    """Ingestion into the stores that this process has: the online store, the archive, both, or none while it stands by.

    Each store has one writer at a time. One that has lost it unawares is refused by the store and writes nothing.
    """

    def __init__(self, parts: Parts, slot: int) -> None:
        self.name = layer_name("ingest", slot)
        self._parts = parts
        self._member = Membership(parts, "ingest", slot)
        self._online: Ingesting | None = None
        self._archive: Archiving | None = None

    @property
    def shares(self) -> frozenset[int]:
        """What it writes."""
        return frozenset(
            share for share, part in ((_ONLINE, self._online), (_ARCHIVE, self._archive)) if part is not None
        )

    def step(self) -> int:
        if self._member.due:
            surplus = self._member.renew(len(INGEST_SHARES))
            self._take(self._member.held - surplus)
            if surplus:
                self._member.release(surplus)
        if self._archive is not None and self._archive.failure is not None:
            raise self._archive.failure
        return 0 if self._online is None else self._online.step()

    def _take(self, shares: frozenset[int]) -> None:
        from headrace.app.archives import Archiving
        from headrace.app.ingesting import Ingesting

        if shares != self.shares:
            told = " and ".join(INGEST_SHARES[share] for share in sorted(shares))
            _logger.info("writing %s", told or "nothing: standing by")
        if _ONLINE not in shares:
            self._online = None
        elif self._online is None:
            self._online = Ingesting(self._parts)
        if _ARCHIVE not in shares:
            archive, self._archive = self._archive, None
            if archive is not None:
                archive.stop()
        elif self._archive is None:
            self._archive = Archiving(self._parts)

    def lag(self) -> int:
        return 0 if self._online is None else self._online.lag()

    def counters(self) -> dict[str, float]:
        found: dict[str, float] = {"shares": len(self.shares)}
        for part in (self._online, self._archive):
            found |= {} if part is None else part.counters()
        return found

    def problem(self) -> str:
        problems = [part.problem for part in (self._online, self._archive) if part is not None]
        return next((problem for problem in (*problems, self._member.problem) if problem), "")

    def finish(self, *, drain: bool) -> None:
        if self._archive is not None:
            self._archive.stop()
            if drain:
                self._archive.drain()
        problem = "" if self._online is None else self._online.problem
        self._online = self._archive = None
        self._member.leave()
        if drain and problem:
            raise Unreachable(problem)
