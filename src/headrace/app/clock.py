"""The wall clock: the only place from which real time comes."""

from __future__ import annotations

import time


class SystemClock:
    """Time of the machine, UTC µs."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000
