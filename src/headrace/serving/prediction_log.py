"""Writes predictions to the log: at once for a replay, or off the response path for a service."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from headrace.core.errors import LogError
from headrace.eventlog.base import Append, EventLog
from headrace.retrieval.prediction_blocks import TOPIC, ScoredBlock, encode_predictions

_logger = logging.getLogger("headrace.serving")
_MOST_AT_ONCE = 100
_TICK_S = 0.02
_RETRY_S = 0.2


class PredictionLog:
    """The one way by which predictions reach the log; nothing that was handed to `write` is lost but by a kill.

    Args:
        log: the internal log; topic `predictions` is created if need be.
        background: True: `write` only queues, and a thread of its own encodes and appends what has come, fifty times
            a second. A full queue makes `write` append by itself. False: `write` appends before it returns.
        capacity: blocks that the queue holds.
        gather: without `background`, append only once this many blocks are waiting; `flush` appends the rest.

    Thread-safe. Blocks of one thread stay in their order.
    """

    def __init__(self, log: EventLog, *, background: bool = False, capacity: int = 10_000, gather: int = 1) -> None:
        log.create(TOPIC)
        self._log = log
        self._capacity = capacity
        self._gather = gather
        self._waiting: deque[ScoredBlock] = deque()
        self._stop = threading.Event()
        self._appending = threading.Lock()
        self._closed = False
        self.written = 0
        self.failures = 0
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
            self._thread.start()

    @property
    def queued(self) -> int:
        """Blocks that wait to be written."""
        return len(self._waiting)

    @property
    def capacity(self) -> int:
        """Blocks that may wait before `write` has to append by itself."""
        return self._capacity

    def write(self, block: ScoredBlock) -> None:
        """Take over a scored batch, which must not change afterwards.

        Raises LogError if this log is closed, or if there is no room because the event log refuses what waits.
        """
        if self._closed:
            raise LogError("the prediction log is closed; open the service again before scoring")
        if len(self._waiting) >= self._capacity:
            self.flush()
        self._waiting.append(block)
        if self._thread is None and len(self._waiting) >= self._gather:
            self.flush()

    def flush(self) -> None:
        """Append everything that was written so far; raises LogError if the log refuses (it is kept then)."""
        while self._append_some():
            pass

    def close(self) -> None:
        """Append what waits and stop; no `write` may come afterwards."""
        self._closed = True
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        self.flush()

    def _append_some(self) -> int:
        # One at a time, so that blocks reach the log in the order in which they were written.
        with self._appending:
            taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
            if taken:
                try:
                    self._log.append(_appends(taken))
                except BaseException:
                    self._waiting.extendleft(reversed(taken))
                    raise
                self.written += sum(map(len, taken))
            return len(taken)

    def _run(self) -> None:
        # Woken by time rather than by every block: a thread that wakes with each request takes its turn from the next.
        while not self._stop.wait(_TICK_S):
            try:
                while self._append_some():
                    time.sleep(0)
            except Exception as error:
                self.failures += 1
                _logger.error("%d batches of predictions wait, the log refuses them: %s", self.queued, error)
                self._stop.wait(_RETRY_S)


def _appends(blocks: Sequence[ScoredBlock]) -> list[Append]:
    return [Append(TOPIC, 0, encode_predictions(block), len(block)) for block in blocks]
