"""Times as users give them."""

from __future__ import annotations

from datetime import datetime

from headrace.core.errors import ConfigError
from headrace.core.time import parse_time, to_us

Time = datetime | str | int


def given_us(value: Time | None, what: str) -> int | None:
    """int µs of a datetime (naive is UTC), ISO 8601 text or int µs; None stays None. Raises ConfigError otherwise."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return to_us(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return parse_time(str(value))
    except ValueError:
        raise ConfigError(f'{what} = {value!r} is no time; write a datetime or e.g. "2013-02-01T10:00:00Z"') from None
