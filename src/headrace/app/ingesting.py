"""The way into the online store as a layer takes it: it waits while the store's server is away, and goes on after."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from headrace.app.heartbeats import STALE_US, Heartbeat, read_heartbeat
from headrace.app.sharing import extra_workers
from headrace.core.errors import StoreError, StoreMoved, Unreachable
from headrace.core.time import US_PER_SECOND, Clock

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.ingestion.ceiling import BackgroundShare, WriteCeiling
    from headrace.ingestion.materialize import OnlineIngest

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
_HELD_BACK_S = 0.01
_logger = logging.getLogger(__name__)


class StreamRate:
    """Records per second that the ingestion layer of a project writes, as its reports tell; 0 while it does not run."""

    def __init__(self, parts: Parts) -> None:
        self._folder, self._clock = parts.role_folder, parts.clock
        self._last: dict[str, Heartbeat] = {}
        self._rates: dict[str, float] = {}

    def __call__(self) -> float:
        workers = [name for name in extra_workers(self._folder) if name.startswith("ingest")]
        return sum(map(self._of, ("ingest", *workers)))

    def _of(self, worker: str) -> float:
        beat = read_heartbeat(self._folder, worker)
        if beat is None or self._clock.now_us() - beat.at_us > STALE_US:
            return 0.0
        last = self._last.get(worker)
        if last is None or last.at_us != beat.at_us:
            self._last[worker] = beat
            written = beat.counters.get("records_written", 0.0)
            same = last is not None and last.pid == beat.pid and beat.at_us > last.at_us
            before = last.counters.get("records_written", 0.0) if last is not None and same else 0.0
            passed_us = beat.at_us - (last.at_us if last is not None and same else beat.started_us)
            self._rates[worker] = (written - before) / max(passed_us / US_PER_SECOND, 1.0)
        return self._rates[worker]


class _Uptime(Clock):
    """Time that goes on while somebody sleeps, whatever the project's clock does."""

    def now_us(self) -> int:
        return time.monotonic_ns() // 1_000


def background_share(parts: Parts) -> BackgroundShare | None:
    """What backfills and repairs may write beside the stream; None where there is no ceiling."""
    from headrace.ingestion.ceiling import BackgroundShare

    per_s = parts.settings.writes_per_s
    return BackgroundShare(per_s, _Uptime(), StreamRate(parts), time.sleep) if per_s else None


class Ingesting:
    """Steps of `OnlineIngest`, with a new one where the store was away or stands elsewhere than the last one left it.

    Attributes:
        problem: what it waits for; empty if all is well.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._worker: OnlineIngest | None = None
        self._written = 0
        self._ceiling = self._ceiling_of(parts)
        self._pause_s, self._again_at = 0.0, 0.0
        self.problem = ""
        self._open()

    def step(self) -> int:
        """Apply what is waiting, a bounded piece of it; 0 if there is nothing, or the store does not take it now."""
        if time.monotonic() < self._again_at:
            return 0
        worker = self._worker or self._open()
        if worker is None:
            return 0
        before = worker.records_written
        try:
            done = worker.step()
        except (Unreachable, StoreMoved) as error:
            # What the last write did is known to the server alone: the next worker begins where the store stands.
            self._worker = None
            self._wait(error)
            return 0
        self._written += worker.records_written - before
        if self.problem:
            _logger.warning("the online store takes writes again")
            self._pause_s, self.problem = 0.0, ""
        if not done and worker.held_back:
            time.sleep(_HELD_BACK_S)
            return 1  # something is left to be done
        return done

    @staticmethod
    def _ceiling_of(parts: Parts) -> WriteCeiling | None:
        from headrace.ingestion.ceiling import WriteCeiling
        from headrace.ingestion.materialize import GROUPS, ROWS

        per_s = parts.settings.writes_per_s
        return WriteCeiling(per_s, parts.clock, (GROUPS, ROWS)) if per_s else None

    def _open(self) -> OnlineIngest | None:
        try:
            self._worker = self._parts.ingest(self._ceiling)
        except Unreachable as error:
            self._wait(error)
        return self._worker

    def _wait(self, error: StoreError) -> None:
        if not self.problem:
            _logger.warning("waiting: %s", error)
        self.problem = str(error)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_WAIT_S), _LONGEST_WAIT_S)
        self._again_at = time.monotonic() + self._pause_s

    def lag(self) -> int:
        """Commits that the store does not reflect; 0 while it cannot say."""
        return 0 if self._worker is None else self._worker.lag()

    def counters(self) -> dict[str, float]:
        """Totals since the start."""
        throttled_s = 0.0 if self._ceiling is None else self._ceiling.throttled_us / US_PER_SECOND
        return {
            "records_written": self._written,
            "throttled_s": throttled_s,
            "online_store_waits": float(self._worker is None),
        }
