"""Calendar fields against the standard library, at changes of the clock, far dates and odd zones."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.columns import column_of
from headrace.core.schema import DType
from headrace.core.time import MAX_US, MIN_US, US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, from_us, to_us
from headrace.features.calendar import calendar_field
from headrace.features.evaluate import evaluate
from headrace.features.nodes import Call, ColumnRef

OPS = ("hour", "weekday", "month", "day")
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Monrovia", "Europe/Amsterdam")
MARCH = to_us(datetime(2013, 3, 10, 7, tzinfo=timezone.utc))
"""New York springs forward."""


def expected(op: str, us: int, zone: str) -> int:
    local = from_us(us).astimezone(ZoneInfo(zone))
    return local.weekday() if op == "weekday" else int(getattr(local, op))


@pytest.mark.parametrize("zone", ZONES)
@given(
    at=st.lists(
        st.integers(MIN_US + US_PER_DAY, MAX_US - US_PER_DAY)
        | st.integers(0, 2 * 10**15)
        | st.integers(MARCH - US_PER_HOUR, MARCH + US_PER_HOUR),
        min_size=1,
        max_size=5,
    )
)
def test_as_the_standard_library_says(zone: str, at: list[int]) -> None:
    for op in OPS:
        found, within = calendar_field(op, np.array(at), zone)
        assert within is None
        assert found.tolist() == [expected(op, us, zone) for us in at]


@pytest.mark.parametrize("zone", ZONES)
def test_many_at_once_are_as_each_alone(zone: str) -> None:
    year = np.arange(MARCH - 2 * US_PER_DAY, MARCH + 2 * US_PER_DAY, 7 * US_PER_MINUTE)
    spread = np.array([MIN_US + US_PER_DAY, *range(0, 60 * US_PER_DAY, US_PER_DAY), MAX_US - US_PER_DAY])
    for us in (year, spread):
        for op in OPS:
            assert calendar_field(op, us, zone)[0].tolist() == [expected(op, value, zone) for value in us.tolist()]


def test_an_offset_that_changes_within_a_quarter_hour_is_exact() -> None:
    # Liberia moved its clocks by 44 minutes 30 seconds at 1972-01-07T00:44:30 UTC.
    change = to_us(datetime(1972, 1, 7, 0, 44, 30, tzinfo=timezone.utc))
    around = np.array([change - 1, change, change + 1])
    assert calendar_field("hour", around, "Africa/Monrovia")[0].tolist() == [
        expected("hour", us, "Africa/Monrovia") for us in around.tolist()
    ]
    assert calendar_field("day", around, "Africa/Monrovia")[0].tolist() == [6, 7, 7]


def test_nulls_and_years_that_do_not_exist_are_null() -> None:
    column = column_of(DType.TIMESTAMP, [0, None, MAX_US + 1, MIN_US - 1])
    node = Call("day", (ColumnRef("t", DType.TIMESTAMP),), DType.INT, ("Europe/Amsterdam",))
    assert evaluate(node, {"t": column}, 4).to_pylist() == [1, None, None, None]


def test_the_first_and_last_instants_have_a_calendar() -> None:
    ends = np.array([MIN_US, MAX_US])
    for zone in ZONES:
        hours, within = calendar_field("hour", ends, zone)
        assert within is None
        assert ((hours >= 0) & (hours < 24)).all()
