"""A second compute worker beside the first: the same raw events in the same steps, into a topic of its own.

Commit k of both reads the same events, so whatever names an offset of topic `windows` (positions, the archive, derived
batches) means the same under either, and one can take over from the other at any commit.
"""

from __future__ import annotations

from pathlib import Path

from headrace.engines.stream.commits import WINDOWS
from headrace.engines.stream.worker import ComputeWorker, read_heads
from headrace.eventlog.base import EventLog
from headrace.features.plan import ProjectPlan

_AT_ONCE = 64


class FollowingWorker:
    """Follows the commits of the worker that leads; it derives nothing and sets no dead letters aside.

    Killing it between or inside steps loses nothing and doubles nothing. `checkpoint` may be a copy of one of the
    leader's, from a time before `features` goes its own way.
    """

    def __init__(
        self, plan: ProjectPlan, raw: EventLog, features: EventLog, leader: EventLog, checkpoint: Path
    ) -> None:
        self._worker = ComputeWorker(plan, raw, features, checkpoint)
        self._leader = leader

    def step(self) -> int:
        """Compute the next commits of the leader; returns how many there were (0: caught up)."""
        return self._worker.follow([head for _, head in read_heads(self._leader, self._worker.end, _AT_ONCE)])

    def lag(self) -> dict[str, int]:
        """Commits of the leader that are not computed here yet."""
        return {WINDOWS: self._leader.end(WINDOWS, 0) - self._worker.end}

    @property
    def counted(self) -> int:
        """Raw events that counted."""
        return self._worker.counted

    @property
    def dead(self) -> int:
        """Dead letters."""
        return self._worker.dead

    def checkpoint(self) -> None:
        """Save the verdict state; see `ComputeWorker.checkpoint`."""
        self._worker.checkpoint()
