"""A ceiling on the records that are written per second: shared fairly by the stream's own writers, and what these leave
of it goes to backfills and repairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from headrace.core.errors import ConfigError
from headrace.core.time import US_PER_SECOND, Clock

_BURST_S = 0.25
"""Of the ceiling, what may be written at once after a pause."""


_LEAST = 0.1
"""Of the ceiling, what backfills and repairs have whatever the stream writes: else one that is busy for ever would keep
them from ever coming to an end."""
_SHORTEST_S, _LONGEST_S = 0.001, 0.25


class WriteCeiling:
    """A token bucket for each writer: all fill at the same speed, and what is too much for one goes to the others.

    So a writer that is alone has the whole ceiling, and one that comes seldom finds its bucket full, whatever the
    others have waiting. A write of any size may begin while there is a token; what it takes beyond is a debt.

    Args:
        per_s: writes per second of all together.
        clock: the time.
        writers: their names.

    Attributes:
        throttled_us: how long somebody had something to write and had to wait, in all.
    """

    def __init__(self, per_s: int, clock: Clock, writers: Sequence[str]) -> None:
        if per_s < 1:
            raise ConfigError(f"a ceiling of {per_s} writes per second lets nothing through; leave it out for none")
        self._per_us, self._clock = per_s / US_PER_SECOND, clock
        self._most = per_s * _BURST_S / len(writers)
        self._held = dict.fromkeys(writers, self._most)
        self._at_us = clock.now_us()
        self._waits_since_us: int | None = None
        self.throttled_us = 0

    def room(self, writer: str) -> int:
        """How many records the writer may write now; it may begin with a greater piece if it is at least 1."""
        self._fill()
        return max(int(self._held[writer]), 0)

    def spend(self, writer: str, records: int) -> None:
        """Note what was written."""
        self._held[writer] -= records

    def waiting(self, someone: bool) -> None:
        """Note whether someone has to wait from now on."""
        now = self._clock.now_us()
        if self._waits_since_us is not None:
            self.throttled_us += now - self._waits_since_us
        self._waits_since_us = now if someone else None

    def _fill(self) -> None:
        now = self._clock.now_us()
        left = max(now - self._at_us, 0) * self._per_us
        self._at_us = now
        open_ = [name for name, held in self._held.items() if held < self._most]
        while open_ and left > 1e-9:
            share = left / len(open_)
            for name in open_:
                given = min(share, self._most - self._held[name])
                self._held[name] += given
                left -= given
            open_ = [name for name in open_ if self._held[name] < self._most - 1e-9]


class BackgroundShare:
    """A token bucket of backfills and repairs, which fills with what the stream leaves of the ceiling.

    The stream's own writes never wait for it. A write of any size may begin while there is a token; what it takes
    beyond is a debt, which the next one waits for. Thread-safe.

    Args:
        per_s: the ceiling, writes per second.
        clock: the time; it has to go on while `sleep` waits.
        stream_per_s: how many records the stream writes per second just now.
        sleep: waits so many seconds.

    Attributes:
        written: records that were let through.
        throttled_us: how long writers waited, in all.
    """

    def __init__(
        self, per_s: int, clock: Clock, stream_per_s: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._per_s, self._clock, self._stream_per_s, self._sleep = per_s, clock, stream_per_s, sleep
        self._most = max(per_s * _BURST_S, 1.0)
        self._held = self._most
        self._at_us = clock.now_us()
        self._lock = threading.Lock()
        self.written = 0
        self.throttled_us = 0

    def take(self, records: int, on_way: Callable[[], object] = lambda: None) -> None:
        """Wait until there is room for `records`, which the caller writes then; what `on_way` raises ends the wait."""
        if not records:
            return
        began = self._clock.now_us()
        while True:
            with self._lock:
                rate = self._fill()
                short = 1 - self._held
                if short <= 0:
                    self._held -= records
                    self.written += records
                    self.throttled_us += self._clock.now_us() - began
                    return
            on_way()
            self._sleep(min(max(short / rate, _SHORTEST_S), _LONGEST_S))

    def _fill(self) -> float:
        """Fill the bucket up to now; returns the records per second at which it fills."""
        now = self._clock.now_us()
        rate = max(self._per_s - self._stream_per_s(), self._per_s * _LEAST)
        self._held = min(self._held + max(now - self._at_us, 0) / US_PER_SECOND * rate, self._most)
        self._at_us = now
        return rate
