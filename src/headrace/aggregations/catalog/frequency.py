"""How often values occur: all of them, the most frequent ones, the most frequent one; ties go to the least value."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import MOST_ITEMS, Capped, Params, is_count
from headrace.core.schema import DType, list_of, map_of


class MostFrequent(Capped):
    """The value that occurs most often; null without values."""

    name = "most_frequent"
    code = codes.MOST_FREQUENT
    form = codes.COUNTS
    one_of_the_values = True


class Histogram(Capped):
    """How often each value occurs, by ascending values."""

    name = "histogram"
    list_code = codes.HISTOGRAM
    form = codes.COUNTS

    def gives_for(self, dtype: DType | None) -> DType:
        assert dtype is not None
        return map_of(dtype, DType.INT)

    def param(self, params: Params) -> int:
        return 0


class TopK(Capped):
    """The `k` values that occur most often, the most frequent first."""

    name = "top_k"
    parameters = ("k", "cap")
    list_code = codes.TOP_K
    form = codes.COUNTS

    def gives_for(self, dtype: DType | None) -> DType:
        assert dtype is not None
        return list_of(dtype)

    def problem(self, params: Params, window: str | None) -> str | None:
        if not is_count(params["k"], MOST_ITEMS):
            return f"hr.{self.name}: k is how many values, from 1 to {MOST_ITEMS:,}, not {params['k']!r}"
        return super().problem(params, window)

    def param(self, params: Params) -> int:
        return int(params["k"])

    def examples(self) -> tuple[Params, ...]:
        return tuple({"k": k} for k in (1, 2, 3, MOST_ITEMS))
