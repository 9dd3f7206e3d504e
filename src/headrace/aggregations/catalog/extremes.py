"""Least and greatest value."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import ORDERED, Aggregation


class Min(Aggregation):
    """The least value; null without any."""

    name = "min"
    takes = ORDERED
    code, ops = codes.MIN, codes.LEAST
    one_of_the_values = extreme = True
    by_code = codes.BY_MIN


class Max(Aggregation):
    """The greatest value; null without any."""

    name = "max"
    takes = ORDERED
    code, ops = codes.MAX, codes.MOST
    one_of_the_values = extreme = True
    by_code = codes.BY_MAX
