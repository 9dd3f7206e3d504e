"""Sum of a number."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import LISTS, NUMBERS, Aggregation


class Sum(Aggregation):
    """Exact, rounded once; null without values, and where it does not fit its type. Of lists by element."""

    name = "sum"
    takes = NUMBERS | LISTS
    code, ops = codes.SUM, codes.SUMS
    by_code, by_form = codes.BY_SUM, codes.SUMMED
