"""An aggregation as a contributor adds one: this file alone, in the folder of the catalog."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from headrace.aggregations.aggregation import NUMBERS, Composed, Ingredient, Params, Part


class ValueRange(Composed):
    """The greatest value less the least one, times `scale`; null without values, and where it does not fit its type."""

    name = "value_range"
    takes = NUMBERS
    parameters = ("scale",)
    parts = (Ingredient("max"), Ingredient("min"))

    def problem(self, params: Params, window: str | None) -> str | None:
        return (
            None if params.get("scale", 1) in (1, -1) else f"hr.value_range: scale is 1 or -1, not {params['scale']!r}"
        )

    def examples(self) -> tuple[Params, ...]:
        return ({}, {"scale": -1})

    def finish(self, parts: list[Part], params: Params) -> Part:
        (most, there), (least, _) = parts
        # A difference of int64 that does not fit comes out negative.
        found = most - least
        return found * params.get("scale", 1), there & (found >= 0)

    def wanted(self, values: list[Any], params: Params) -> Any:
        if not values:
            return None
        span = (Fraction(max(values)) - Fraction(min(values))) * params.get("scale", 1)
        if isinstance(values[0], int):
            return int(span) if abs(span) < 2**63 else None
        try:
            return float(span) + 0.0
        except OverflowError:
            return None
