"""Jobs on several cores of one process: for work that lets go of the interpreter lock (Arrow, compiled kernels)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_MOST = 4
"""Each job holds memory of its own, so more cores than this are not used."""


def cores() -> int:
    """How many jobs `in_threads` runs at a time."""
    return min(os.cpu_count() or 1, _MOST)


def in_threads(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs return, in their order; raises what the first of them that failed raised."""
    if len(jobs) < 2 or cores() < 2:
        return [job() for job in jobs]
    with ThreadPoolExecutor(min(len(jobs), cores()), "headrace-job") as pool:
        return list(pool.map(lambda job: job(), jobs))
