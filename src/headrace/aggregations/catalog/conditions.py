"""What a condition was: ever true, always true, and how often; events in which it is null are left out."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import CONDITIONS, Aggregation
from headrace.core.schema import DType


class Share(Aggregation):
    """Share of the values that are true; null without values."""

    name = "share"
    takes = CONDITIONS
    gives = DType.FLOAT
    code, ops = codes.SHARE, codes.TRUES
    cure = "; it takes a condition, such as Paid.usd > 100"


class Any(Share):
    """Whether a value is true; null without values."""

    name = "any"
    gives = DType.BOOL
    code = codes.ANY


class All(Share):
    """Whether every value is true; null without values."""

    name = "all"
    gives = DType.BOOL
    code = codes.ALL
