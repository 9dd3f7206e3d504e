"""Time from an event to the time of reading."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import Aggregation
from headrace.core.schema import DType


class TimeSinceLast(Aggregation):
    """µs from the newest event to t; null without events."""

    name = "time_since_last"
    gives = DType.DURATION
    code, ops = codes.SINCE_LAST, codes.EDGES


class TimeSinceFirst(TimeSinceLast):
    """µs from the oldest event to t; null without events."""

    name = "time_since_first"
    code = codes.SINCE_FIRST
