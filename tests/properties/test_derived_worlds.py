"""Whatever arrives in whatever order: all paths to features over derived streams agree, corrected and as served."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given as drawn
from hypothesis import strategies as st

from headrace.testing import given, late
from tests.properties.world import SOME
from tests.unit.testing.test_given_derived import (
    Chargeback,
    Disputes,
    LargeSpend,
    Returns,
    Spend,
    Visit,
    rate,
    t,
    transfer,
)

NAMES = st.sampled_from(["a", "b", "c", "d"])
AMOUNTS = st.sampled_from([0.1, 1.0, 1e300, -1e-300, 3.0])
MINUTES = st.integers(0, 40)
START = t("10:00")


@st.composite
def arrivals(draw: st.DrawFn) -> Any:
    """An event or table row that arrives at once or late."""
    at = START + timedelta(minutes=draw(MINUTES))
    kind = draw(st.sampled_from(["rate", "transfer", "transfer", "chargeback", "visit"]))
    made: Any
    if kind == "rate":
        made = rate(at, draw(st.sampled_from([None, 0.1, 2.0])), draw(st.sampled_from(["EUR", "USD"])))
    elif kind == "transfer":
        made = transfer(
            draw(NAMES),
            at,
            draw(AMOUNTS),
            sender=draw(st.sampled_from(["ann", "bob", None])),
            merchant=draw(st.sampled_from([7, 8, None])),
            currency=draw(st.sampled_from(["EUR", "USD", None])),
            channel=draw(st.sampled_from(["app", "test"])),
        )
    elif kind == "chargeback":
        made = Chargeback(transfer=draw(NAMES), fraud=draw(st.sampled_from([True, False, None])), at=at)
    else:
        made = Visit(user=draw(st.sampled_from(["ann", "bob"])), at=at)
    delay = draw(st.sampled_from([0, 0, 0, 7, 25]))
    return late(made, by=f"{delay}m") if delay else made


@SOME
@drawn(st.lists(arrivals(), min_size=1, max_size=14), st.lists(MINUTES, min_size=1, max_size=3), st.booleans())
def test_all_paths_agree(items: list[Any], times: list[int], served: bool) -> None:
    world = given(*items)
    rows = [
        {"sender": sender, "merchant": merchant, "at": START + timedelta(minutes=minute, seconds=30)}
        for minute in times
        for sender, merchant in (("ann", 7), ("bob", 8))
    ]
    # Each read compares all paths bit by bit, the oracle among them.
    world.history([Spend, Disputes, LargeSpend, Returns], rows, served=served)
