"""Quantile by buckets of sign, exponent and first bits."""

from __future__ import annotations

from decimal import Decimal

from headrace.aggregations import codes
from headrace.aggregations.aggregation import NUMBERS, Aggregation, Params
from headrace.core.schema import DType


class Quantile(Aggregation):
    """The midpoint of the bucket of rank max(1, ⌈q·n⌉), to a relative error of 2⁻⁸; null without values."""

    name = "quantile"
    takes = NUMBERS
    gives = DType.FLOAT
    parameters = ("q",)
    code = codes.QUANTILE
    form = codes.BUCKETS

    def problem(self, params: Params, window: str | None) -> str | None:
        q = params["q"]
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 1:
            return f"hr.quantile takes a share from 0 to 1, such as 0.95, not {q!r}"
        if Decimal(str(q)) != round(Decimal(str(q)), 9):
            return f"hr.quantile takes a share of at most 9 decimals; write {round(q, 9)} instead of {q}"
        return None

    def param(self, params: Params) -> int:
        # The decimal as it was written, not the float64 nearest to it.
        return int(Decimal(str(params["q"])) * codes.QUANTILE_STEPS)

    def examples(self) -> tuple[Params, ...]:
        return tuple({"q": q} for q in (0.0, 0.1, 0.3, 0.5, 0.95, 1.0, 1e-9))
