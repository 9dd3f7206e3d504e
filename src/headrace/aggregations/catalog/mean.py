"""Mean of a number."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import LISTS, NUMBERS, Aggregation
from headrace.core.schema import DType


class Mean(Aggregation):
    """The quotient of the exact sum and the number of values, rounded once. Of lists by element."""

    name = "mean"
    takes = NUMBERS | LISTS
    gives = DType.FLOAT
    code, ops = codes.MEAN, codes.SUMS
    by_code, by_form = codes.BY_MEAN, codes.SUMMED
