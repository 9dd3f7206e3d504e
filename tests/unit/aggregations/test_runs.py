"""Sorting into runs equals the plain sort, whatever the times look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.aggregations.runs import sort_runs

N = 30_000


def times_of(kind: str, random: np.random.Generator) -> Any:
    """Spread evenly, in order, backwards, in far clumps of near ties, or all the same."""
    if kind == "spread":
        return random.integers(-(10**15), 10**15, N)
    if kind == "clumps":
        return random.choice([-(2**61), 0, 2**61], N) + random.integers(0, 500, N)
    if kind == "same":
        return np.zeros(N, np.int64)
    return np.arange(N) if kind == "ordered" else np.arange(N)[::-1].copy()


@pytest.mark.parametrize("kind", ["spread", "ordered", "backwards", "clumps", "same"])
def test_runs_are_sorted_stably_and_rows_of_nobody_are_left_out(kind: str) -> None:
    random = np.random.default_rng(5)
    # Runs of 2, 60, 300, 7,000 and the rest: insertion, 8-bit digits and 11-bit digits; code 5 has none.
    codes = random.permutation(np.repeat([0, 1, 2, 3, 4, -1], [2, 60, 300, 7_000, N - 7_462, 100]))
    times = times_of(kind, random)
    order, sorted_times, edges = sort_runs(codes, times, 0, 6)
    wanted = [row for row in sorted(range(N), key=lambda row: (codes[row], times[row], row)) if codes[row] >= 0]
    assert order.tolist() == wanted
    assert sorted_times.tolist() == times[wanted].tolist()
    assert edges.tolist() == [0, 2, 62, 362, 7_362, N - 100, N - 100]
