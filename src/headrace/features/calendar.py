"""Hours, days and months of a time zone, for whole columns at once.

Zones change their offset from UTC only on quarter hours in practice, so the offset is looked up once per quarter hour
that occurs. A quarter hour at whose two ends the offset differs is computed value by value, so nothing is assumed.
"""

from __future__ import annotations

from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from headrace.core.columns import BoolArray, IntArray
from headrace.core.time import MAX_US, MIN_US, US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, from_us

_QUARTER_US = 15 * US_PER_MINUTE
_SMALL = 48
_TABLE_SPAN = 4_000_000
_MIXED = 2**62
_THURSDAY = 3  # 1970-01-01, with Monday as 0


class Zone:
    """A time zone with remembered offsets."""

    def __init__(self, name: str) -> None:
        self._zone = ZoneInfo(name)
        self._offsets: dict[int, int] = {}

    def local_us(self, us: IntArray) -> IntArray:
        """Wall-clock time of each instant, as µs since 1970-01-01T00:00 of that same wall clock."""
        if len(us) <= _SMALL:
            few = [self._quarter(instant // _QUARTER_US) for instant in us.tolist()]
            offsets = np.array(few, np.int64)
            if _MIXED not in few:
                return us + offsets
        else:
            offsets = self._many(us // _QUARTER_US)
        if (mixed := offsets == _MIXED).any():
            offsets[mixed] = [self._offset(value) for value in us[mixed].tolist()]
        return us + offsets

    def _many(self, quarters: IntArray) -> IntArray:
        low, high = int(quarters.min()), int(quarters.max())
        span = high - low + 1
        if span > _TABLE_SPAN:
            unique, inverse = np.unique(quarters, return_inverse=True)
            return np.fromiter((self._quarter(q) for q in unique.tolist()), np.int64, len(unique))[inverse]
        table = np.zeros(span, np.int64)
        at = quarters - low
        present = np.zeros(span, np.bool_)
        present[at] = True
        for index in np.flatnonzero(present).tolist():
            table[index] = self._quarter(low + index)
        return table[at]

    def _quarter(self, quarter: int) -> int:
        """Offset during a quarter hour; _MIXED if it changes within."""
        offset = self._offsets.get(quarter)
        if offset is None:
            start = quarter * _QUARTER_US
            first, last = self._offset(start), self._offset(start + _QUARTER_US - 1)
            offset = self._offsets[quarter] = first if first == last else _MIXED
        return offset

    def _offset(self, us: int) -> int:
        # A day's margin, so that the local time of the first and last instants is in range too.
        moment = from_us(min(max(us, MIN_US + US_PER_DAY), MAX_US - US_PER_DAY))
        offset = moment.astimezone(self._zone).utcoffset()
        assert offset is not None
        return (offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds


@lru_cache(maxsize=64)
def zone(name: str) -> Zone:
    """The zone of this name; raises ZoneInfoNotFoundError."""
    return Zone(name)


def calendar_field(op: str, us: IntArray, zone_name: str) -> tuple[IntArray, BoolArray | None]:
    """Hour, weekday (Monday 0), month or day of instants in a zone, and which of them lie in years 1-9999."""
    local, within = local_time(us, zone_name)
    return field_of(op, local), within


def local_time(us: IntArray, zone_name: str) -> tuple[IntArray, BoolArray | None]:
    """Wall-clock time of instants in a zone as µs, and which of them lie in years 1-9999 (None: all of them)."""
    within: BoolArray | None = None
    if len(us) and not MIN_US <= us.min() <= us.max() <= MAX_US:
        within = (us >= MIN_US) & (us <= MAX_US)
        us = np.clip(us, MIN_US, MAX_US)
    return us if zone_name == "UTC" else zone(zone_name).local_us(us), within


def field_of(op: str, local: IntArray) -> IntArray:
    """Hour, weekday (Monday 0), month or day of wall-clock times."""
    if op == "hour":
        return local // US_PER_HOUR % 24
    days = local // US_PER_DAY
    if op == "weekday":
        return (days + _THURSDAY) % 7
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    past: IntArray = months.astype(np.int64) % 12
    if op == "day":
        past = (dates - months.astype("datetime64[D]")).astype(np.int64)
    return past + 1
