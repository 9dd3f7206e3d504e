"""The layer `copy`: streams of other systems into raw topics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from headrace.app.heartbeats import COPY
from headrace.app.services import FIRST_PAUSE_S, IDLE_S, LONGEST_PAUSE_S, Layer
from headrace.core.errors import ConfigError, LogMoved, Unreachable

if TYPE_CHECKING:
    from headrace.app.wiring import Parts


class CopyLayer(Layer):
    """Copies all configured streams in turn; one whose servers are away is tried again while the others go on."""

    name = COPY

    def __init__(self, parts: Parts) -> None:
        if not parts.settings.copied:
            raise ConfigError(
                'there is nothing to copy: no stream has streams.NAME = { kafka = "..." } or { kinesis = "..." }'
            )
        self._copiers = {stream: parts.copier(stream) for stream in parts.settings.copied}
        self._problems: dict[str, str] = {}
        self._pause_s = dict.fromkeys(self._copiers, 0.0)
        self._again_at = dict.fromkeys(self._copiers, 0.0)

    def step(self) -> int:
        """Copy what is there; the number of events, or 1 while something is waiting that cannot be asked for yet."""
        done = sum(self._copy(stream) for stream in self._copiers)
        if done or all(copier.caught_up() for copier in self._copiers.values()):
            return done
        time.sleep(IDLE_S)
        return 1

    def _copy(self, stream: str) -> int:
        if time.monotonic() < self._again_at[stream]:
            return 0
        try:
            done = self._copiers[stream].step()
        except LogMoved:
            self._problems[stream] = f"stream {stream} is copied by another process, too; nothing comes twice by that"
        except Unreachable as error:
            self._problems[stream] = str(error)
        else:
            self._problems.pop(stream, None)
            self._pause_s[stream] = 0.0
            return done
        self._pause_s[stream] = min(max(2 * self._pause_s[stream], FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._again_at[stream] = time.monotonic() + self._pause_s[stream]
        return 0

    def lag(self) -> int:
        """Milliseconds that the slowest shard is behind its newest record."""
        return max(copier.behind_ms() for copier in self._copiers.values())

    def counters(self) -> dict[str, float]:
        totals = [copier.totals for copier in self._copiers.values()]
        names = ("copied", "malformed", "throttled", "lost_shards", "lost_records")
        return {name: float(sum(getattr(found, name) for found in totals)) for name in names}

    def problem(self) -> str:
        return next(iter(self._problems.values()), "")

    def finish(self, *, drain: bool) -> None:
        """Every page was appended with its position; nothing is left to do."""
