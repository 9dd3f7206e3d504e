"""Event time and clocks. All times are int64 microseconds since 1970-01-01 UTC unless a name says otherwise."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Protocol

US_PER_SECOND = 1_000_000
US_PER_MINUTE = 60 * US_PER_SECOND
US_PER_HOUR = 60 * US_PER_MINUTE
US_PER_DAY = 24 * US_PER_HOUR

NULL_US = -(2**63)
"""Stands for "no time" in int64 columns. Outside years 1-9999, so never a real event time."""
MIN_US = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z."""
MAX_US = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z."""

_UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": US_PER_SECOND,
    "m": US_PER_MINUTE,
    "h": US_PER_HOUR,
    "d": US_PER_DAY,
    "w": 7 * US_PER_DAY,
}
_DURATION = re.compile(r"\s*(\d+)\s*(us|ms|s|m|h|d|w)\s*")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Clock(Protocol):
    """Tells the time. Passed in wherever time matters, so that any run can be replayed."""

    def now_us(self) -> int:
        """Current time in microseconds since the epoch, UTC."""
        ...


class SimulatedClock:
    """A clock that moves only when told to; never backwards."""

    def __init__(self, start_us: int = 0) -> None:
        self._now_us = start_us

    def now_us(self) -> int:
        return self._now_us

    def advance_to(self, now_us: int) -> None:
        """Move to `now_us`; raises ValueError if that lies in the past."""
        if now_us < self._now_us:
            raise ValueError(f"the simulated clock cannot go back from {to_iso(self._now_us)} to {to_iso(now_us)}")
        self._now_us = now_us


def parse_duration(text: str) -> int:
    """Return the microseconds of a duration such as "10m", "1h", "7d" or "1d 12h".

    Units: us, ms, s, m (minutes), h, d (24 h), w. Raises ValueError on anything else.
    """
    position, total = 0, 0
    for part in _DURATION.finditer(text):
        if part.start() != position:
            break
        total += int(part[1]) * _UNITS[part[2]]
        position = part.end()
    if position != len(text) or not text:
        raise ValueError(f'"{text}" is not a duration; write a number and a unit, such as "10m", "1h" or "7d"')
    return total


def format_duration(us: int) -> str:
    """Return the shortest text that `parse_duration` reads back, such as "90m" or "7d"."""
    for unit in ("d", "h", "m", "s", "ms"):
        if us and us % _UNITS[unit] == 0:
            return f"{us // _UNITS[unit]}{unit}"
    return f"{us}us"


def to_us(value: datetime) -> int:
    """Return the microseconds of a datetime; naive ones are taken as UTC."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    return (value - _EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """Return the aware UTC datetime of `us`."""
    return _EPOCH + timedelta(microseconds=us)


def parse_time(text: str) -> int:
    """Return the microseconds of an ISO 8601 text ("2013-02-01", "2013-02-01T10:00:00Z"); naive is UTC.

    Nanoseconds are floored. Raises ValueError if it is no such text.
    """
    cleaned = re.sub(r"(\.\d{6})\d+", r"\1", text.strip())
    try:
        return to_us(datetime.fromisoformat(cleaned))
    except ValueError:
        raise ValueError(f'"{text}" is not a time; write ISO 8601, such as "2013-02-01T10:00:00Z"') from None


def to_iso(us: int) -> str:
    """Return ISO 8601 with a trailing Z, without needless fractions; times outside years 1-9999 as a number."""
    if not MIN_US <= us <= MAX_US:
        return f"{us}us"
    return from_us(us).isoformat().replace("+00:00", "Z")


def floor_to(us: int, step_us: int) -> int:
    """Round down to a multiple of `step_us`, toward minus infinity."""
    return us - us % step_us
