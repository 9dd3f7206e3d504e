"""The row that holds for each request equals the greatest of those that count, looked for one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.aggregations.latest import latest_rows, order_ties, take_words
from headrace.aggregations.runs import sort_runs
from headrace.core.time import NULL_US

ROWS, ASKED, KEYS = 3_000, 2_000, 6


def history(kind: str, random: np.random.Generator) -> dict[str, Any]:
    """Rows of few keys with many ties; `kind` says what hides them."""
    times = random.integers(0, 400, ROWS)
    late = {"in time": 0, "some late": random.choice([0, 0, 500], ROWS), "delayed": 50, "all late": 10_000}.get(kind, 0)
    if kind == "timeless":
        times = np.full(ROWS, NULL_US)
    return {
        "codes": random.choice([-1, 0, 0, 0, 1, 2, 3, 4], ROWS).astype(np.int32),
        "times": times,
        "available": times + late,
        "writes": random.permutation(ROWS),
        "deleted": random.random(ROWS) < (0.2 if kind == "deletions" else 0.0),
    }


def wanted(rows: dict[str, Any], code: int, t: int, ttl: int, limit: int) -> int:
    counting = [
        row
        for row in range(ROWS)
        if rows["codes"][row] == code
        and rows["times"][row] < t
        and rows["available"][row] < t
        and (limit < 0 or rows["writes"][row] < limit)
    ]
    if not counting:
        return -1
    found = max(counting, key=lambda row: (rows["times"][row], rows["writes"][row]))
    expired = ttl >= 0 and rows["times"][found] != NULL_US and rows["times"][found] < t - ttl
    return -1 if expired or rows["deleted"][found] else found


@pytest.mark.parametrize("ttl", [-1, 0, 7])
@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("kind", ["in time", "some late", "delayed", "all late", "deletions", "timeless"])
def test_rows_are_those_that_a_search_finds(kind: str, served: bool, ttl: int) -> None:
    random = np.random.default_rng(11)
    rows = history(kind, random)
    asked_codes = random.integers(0, KEYS, ASKED).astype(np.int32)
    t = random.integers(-5, 1_000, ASKED)
    limits = random.choice([-1, 0, 10, 1_500, ROWS], ASKED) if served else np.full(ASKED, -1)
    asked, asked_times, asked_edges = sort_runs(asked_codes, t, 0, KEYS)
    order, times, edges = sort_runs(rows["codes"], rows["times"], 0, KEYS)
    if not order_ties(order, times, edges, rows["writes"]):
        assert kind == "timeless", "few rows are tied"
        written = np.argsort(rows["writes"])
        order, times, edges = sort_runs(rows["codes"][written], rows["times"][written], 0, KEYS)
        order = written[order]
    chosen = np.full(ASKED, -7)
    latest_rows(
        order, times, edges, bool((rows["available"] > rows["times"]).any()), rows["available"], served,
        rows["writes"], bool(rows["deleted"].any()), rows["deleted"], asked, asked_times, asked_edges, ttl, limits,
        chosen,
    )  # fmt: skip
    expected = [
        wanted(rows, int(c), int(x), ttl, int(limit)) for c, x, limit in zip(asked_codes, t, limits, strict=True)
    ]
    assert chosen.tolist() == expected


def test_words_of_floats_are_normalised_and_nulls_are_zero() -> None:
    values = np.array([1.5, -0.0, np.nan, np.inf, -np.inf, 7.0, -2.5]).view(np.int64)
    present = np.array([True, True, True, True, True, False, True])
    chosen = np.array([0, 1, 2, 3, 4, 5, 6, -1])
    out, valid = np.zeros(8, np.int64), np.zeros(8, np.bool_)
    take_words(values, present, True, True, chosen, out, valid)
    assert valid.tolist() == [True, True, False, False, False, False, True, False]
    assert out.tolist() == [values[0], 0, 0, 0, 0, 0, values[6], 0]
    take_words(values, present, False, False, chosen, out, valid)
    assert valid.tolist() == [True] * 7 + [False]
    assert out.tolist() == [*values.tolist(), 0]
