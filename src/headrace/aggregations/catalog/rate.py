"""Events, or the sum of a number, per unit of time."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import NUMBERS, Aggregation, Params
from headrace.core.schema import DType
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_SECOND


class Rate(Aggregation):
    """The exact sum times the unit, divided by the span of the window, rounded once; 0.0 without events."""

    name = "rate"
    takes = NUMBERS
    takes_events = True
    gives = DType.FLOAT
    parameters = ("unit_us",)
    code, ops = codes.RATE, codes.SUMS
    needs_window = True

    def problem(self, params: Params, window: str | None) -> str | None:
        if window is None:
            return 'hr.rate is per unit of time over a window; name one, such as window="1d"'
        return None if isinstance(params["unit_us"], int) else f"hr.rate: {params['unit_us']}"

    def param(self, params: Params) -> int:
        return int(params["unit_us"])

    def slot_ops(self, *, of_column: bool) -> int:
        return self.ops if of_column else 0

    def examples(self) -> tuple[Params, ...]:
        # Powers of ten, a prime, and one that no sum times it fits an int64.
        units_us = (1, US_PER_SECOND, US_PER_HOUR, 1_000_003, 36_525 * US_PER_DAY)
        return tuple({"unit_us": unit_us} for unit_us in units_us)
