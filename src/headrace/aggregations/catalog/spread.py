"""Variance and its root."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import NUMBERS, Aggregation, Params
from headrace.core.schema import DType


class Var(Aggregation):
    """Σ(x − mean)² / (n − ddof), rounded once; ddof is 1 of a sample, 0 of a population. Null for n ≤ ddof."""

    name = "var"
    takes = NUMBERS
    gives = DType.FLOAT
    parameters = ("ddof",)
    code, ops = codes.VAR, codes.SUMS | codes.SQUARES

    def param(self, params: Params) -> int:
        return int(params.get("ddof", 1))

    def examples(self) -> tuple[Params, ...]:
        return ({"ddof": 0}, {"ddof": 1})


class Std(Var):
    """Square root of the float64 variance."""

    name = "std"
    code = codes.STD
