"""Many reads of one entity, which share running totals, against fractions."""

from __future__ import annotations

import math
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from headrace.core.columns import Column, column_of
from headrace.core.schema import DType
from headrace.features.compile import compile_project
from headrace.retrieval.history import HistoryReader
from headrace.retrieval.past import GivenEvents

User = hr.Entity("user")
WINDOWS = {"5us": 5, "20us": 20, "150us": 150}
START = 1_000_000


class Payment(hr.Event):
    user: hr.Field[str] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()
    amount: hr.Field[float | None]
    whole: hr.Field[int | None]


class Asked(hr.Event):
    user: hr.Field[str] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


class ByUser(hr.FeatureGroup, key=Payment.user):
    n = hr.count(window=list(WINDOWS))
    total = hr.sum(Payment.amount, window=list(WINDOWS))
    mean = hr.mean(Payment.amount, window=list(WINDOWS))
    least = hr.min(Payment.amount, window=list(WINDOWS))
    most = hr.max(Payment.amount, window=list(WINDOWS))
    big = hr.sum(Payment.whole, window=list(WINDOWS), where=Payment.amount > 0)
    high = hr.share(Payment.amount > 1, window=list(WINDOWS))
    per = hr.rate(Payment.amount, per="1us", window=list(WINDOWS))


PLAN = compile_project([ByUser, Payment, Asked, hr.FeatureView("asked", request=Asked, features=[ByUser])])

# Near each other, so that totals of 124 bits hold them; anything at all; and whole numbers near the ends of int64.
NEAR = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, -0.0, 0.1, 1e-9, 5e-324, -5e-324, math.nan]))
FAR = st.one_of(NEAR, st.floats(allow_nan=False, allow_infinity=False))
WHOLE = st.one_of(st.none(), st.integers(-100, 100), st.integers(-(2**63), 2**63 - 1))
Row = tuple[int, float | None, int | None]


def rows_of(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[Row]]:
    return st.lists(st.tuples(st.integers(0, 120), st.one_of(st.none(), values), WHOLE), max_size=40)


def rounded(value: Fraction) -> float | None:
    """The nearest float64; None if it is beyond all of them."""
    try:
        return float(value) + 0.0
    except OverflowError:
        return None


def expected(events: list[Row], t: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, length in WINDOWS.items():
        mine = [(amount, whole) for at, amount, whole in events if t - length <= at < t]
        amounts = [a + 0.0 for a, _ in mine if a is not None and not math.isnan(a)]
        wholes = [w for a, w in mine if w is not None and a is not None and a > 0]
        total = sum(map(Fraction, amounts))
        whole = sum(wholes)
        found[f"n_{name}"] = len(mine)
        found[f"total_{name}"] = rounded(Fraction(total)) if amounts else None
        found[f"mean_{name}"] = rounded(Fraction(total) / len(amounts)) if amounts else None
        found[f"least_{name}"] = min(amounts, default=None)
        found[f"most_{name}"] = max(amounts, default=None)
        found[f"big_{name}"] = whole if wholes and -(2**63) <= whole < 2**63 else None
        found[f"high_{name}"] = sum(a > 1 for a in amounts) / len(amounts) if amounts else None
        found[f"per_{name}"] = rounded(Fraction(total) / length) if amounts else None
    return found


@given(st.one_of(rows_of(NEAR), rows_of(FAR)), rows_of(NEAR), st.lists(st.integers(0, 140), min_size=1, max_size=40))
def test_reads_that_share_totals_give_what_fractions_give(mine: list[Row], other: list[Row], asked: list[int]) -> None:
    rows = [("a", *row) for row in mine] + [("b", *row) for row in other]
    events = pa.table(
        {
            "user": pa.array([user for user, *_ in rows], pa.string()),
            "at": pa.array([START + at for _, at, _, _ in rows], pa.timestamp("us", "UTC")),
            "amount": pa.array([amount for _, _, amount, _ in rows], pa.float64()),
            "whole": pa.array([whole for *_, whole in rows], pa.int64()),
        }
    )
    request: dict[str, Column] = {
        "user": column_of(DType.STRING, ["a", "b"] * len(asked)),
        "at": Column(DType.TIMESTAMP, np.repeat([START + t for t in asked], 2)),
    }
    block = HistoryReader(PLAN.views["asked"], PLAN, GivenEvents(PLAN, {"payment": events})).read(request)
    got = {name.removeprefix("by_user__"): values for name, values in block.to_pydict().items()}
    for index, t in enumerate(asked):
        for offset, own in enumerate((mine, other)):
            wanted = expected(own, t)
            assert {name: repr(values[2 * index + offset]) for name, values in got.items()} == {
                name: repr(value) for name, value in wanted.items()
            }
