"""Sum, number and mean of events of which each is worth half after every half-life."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import NUMBERS, Aggregation, Params
from headrace.aggregations.limits import LOOKBACK
from headrace.core.schema import DType
from headrace.core.time import format_duration, parse_duration


class DecayedSum(Aggregation):
    """Exact over weights 2^((j(e) − j(hi))/1024), rounded once; null without values.

    Its hop is the half-life, its window 64 of them at most and by default.
    """

    name = "decayed_sum"
    takes = NUMBERS
    gives = DType.FLOAT
    parameters = ("halflife_us",)
    code = codes.DECAYED_SUM
    needs_window = True

    def problem(self, params: Params, window: str | None) -> str | None:
        halflife_us = params["halflife_us"]
        return None if isinstance(halflife_us, int) else f"hr.{self.name}: {halflife_us}"

    def windowed(
        self, params: Params, window: str | None, hop: str | None
    ) -> tuple[str | None, str | None, str | None]:
        halflife_us = params["halflife_us"]
        halflife, longest = format_duration(halflife_us), format_duration(LOOKBACK * halflife_us)
        window = longest if window is None else window
        if hop is not None:
            return window, halflife, f'hr.{self.name} has no option hop=; its hop is the half-life, "{halflife}"'
        try:
            window_us = parse_duration(window)
        except (ValueError, TypeError):
            return window, halflife, None  # reported with the windows
        if window_us <= LOOKBACK * halflife_us:
            return window, halflife, None
        return (
            window,
            halflife,
            (
                f'window "{window}" is longer than {LOOKBACK} half-lives of "{halflife}", beyond which an event has no '
                f'weight left; leave it out, or use at most "{longest}"'
            ),
        )

    def param(self, params: Params) -> int:
        return int(params["halflife_us"])


class DecayedCount(DecayedSum):
    """The sum of the weights of events; 0.0 without any."""

    name = "decayed_count"
    takes = frozenset()
    code = codes.DECAYED_COUNT


class DecayedMean(DecayedSum):
    """The quotient of the exact sums of weighted values and of weights, rounded once; null without values."""

    name = "decayed_mean"
    code = codes.DECAYED_MEAN
