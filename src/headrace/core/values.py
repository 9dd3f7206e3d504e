"""One value at the door: what each type accepts, and what is said of a value that does not fit.

Strict: text is no number, a bool is no int, a float is no int; an int serves as a float. Times come as datetimes, ISO
8601 text or int µs; nanoseconds are floored, naive times are UTC, years outside 1-9999 do not fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from headrace.core.schema import DType, Field
from headrace.core.time import MAX_US, MIN_US, parse_time, to_us

MIN_INT, MAX_INT = -(2**63), 2**63 - 1
_DEEPEST = 50


class Misfit(ValueError):
    """A value that does not fit its field; the text is the reason."""


def read_value(value: Any, field: Field) -> Any:
    """The value as columns hold it (int µs for times, list of float for lists), None for null.

    Raises Misfit for anything that the field does not accept, null included where it is not nullable.
    """
    if value is not None:
        try:
            value = READERS[field.dtype](value, field)
        except OverflowError:
            raise Misfit("out of range") from None
    if value is None and not field.nullable:
        raise Misfit("null in a field that is not nullable")
    return value


def _int(value: Any, field: Field) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise Misfit(f"expected int, got {_shown(value)}")
    return _in_int64(int(value))


def _float(value: Any, field: Field) -> float | None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise Misfit(f"expected float, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise Misfit("too large for a float") from None
    if math.isinf(number):
        raise Misfit("infinite")
    return None if math.isnan(number) else number


def _bool(value: Any, field: Field) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise Misfit(f"expected bool, got {_shown(value)}")
    return bool(value)


def _string(value: Any, field: Field) -> str:
    if not isinstance(value, str):
        raise Misfit(f"expected string, got {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Misfit("text that is not valid Unicode") from None
    return str(value)


def _timestamp(value: Any, field: Field) -> int | None:
    if isinstance(value, datetime):
        if value != value:  # pandas' NaT, its null
            return None
        us = to_us(value)
    elif isinstance(value, np.datetime64):
        if np.isnat(value):
            return None
        us = int(value.astype("datetime64[us]").astype(np.int64))
    elif isinstance(value, str):
        try:
            us = parse_time(value)
        except ValueError as error:
            raise Misfit(str(error)) from None
    elif isinstance(value, int | np.integer) and not isinstance(value, bool):
        us = int(value)
    else:
        raise Misfit(f"expected a time (datetime, ISO 8601 text or int µs), got {_shown(value)}")
    if not MIN_US <= us <= MAX_US:
        raise Misfit("a time outside the years 1 to 9999")
    return us


def _duration(value: Any, field: Field) -> int:
    if isinstance(value, timedelta):
        return _in_int64(value // timedelta(microseconds=1))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return _in_int64(int(value))
    raise Misfit(f"expected a duration (timedelta or int µs), got {_shown(value)}")


def _list(value: Any, field: Field) -> list[float | None]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise Misfit(f"expected a list of floats, got {_shown(value)}")
    if field.size is not None and len(value) != field.size:
        raise Misfit(f"expected a list of {field.size} floats, got {len(value)}")
    return [None if item is None else _float(item, field) for item in value]


READERS: dict[DType, Callable[[Any, Field], Any]] = {
    DType.INT: _int,
    DType.FLOAT: _float,
    DType.BOOL: _bool,
    DType.STRING: _string,
    DType.TIMESTAMP: _timestamp,
    DType.DURATION: _duration,
    DType.LIST: _list,
}


def _in_int64(value: int) -> int:
    if not MIN_INT <= value <= MAX_INT:
        raise Misfit("outside the range of int64")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(_plain(value, 0), ensure_ascii=False)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def payload_of(row: Any) -> bytes:
    """JSON bytes of whatever came, for the dead letter. Never fails: what JSON cannot hold is written as text."""
    return json.dumps(_plain(row, 0), ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        return int(value) if MIN_INT <= value <= MAX_INT else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind != "O":
        return _plain(value.tolist(), depth)
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {_plain(str(key), depth): _plain(item, depth + 1) for key, item in value.items()}
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    return _described(value)


def _described(value: Any) -> str:
    try:
        return repr(value).encode("utf-8", "backslashreplace").decode()
    except Exception:
        # A foreign object may raise anything from its repr; the dead letter must be written all the same.
        return f"<{type(value).__name__}>"
