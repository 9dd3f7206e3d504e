"""Skewness of a population."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import NUMBERS, Aggregation
from headrace.core.schema import DType


class Skewness(Aggregation):
    """sign(M3)·sqrt(n·M3²/M2³) of exact moments; null without spread."""

    name = "skewness"
    takes = NUMBERS
    gives = DType.FLOAT
    code = codes.SKEWNESS
    form = codes.MOMENTS
