"""The oldest and the newest values, one or some of them; ties of event time are decided by id and place in the log."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import LISTS, MOST_ITEMS, Aggregation, Params, is_count
from headrace.core.schema import SCALARS, DType, list_of


class First(Aggregation):
    """The oldest value that is not null."""

    name = "first"
    takes = SCALARS | LISTS
    code, ops = codes.FIRST, codes.EDGES
    one_of_the_values = by_place = packs_lists = True


class Last(First):
    """The newest value that is not null."""

    name = "last"
    code = codes.LAST


class FirstN(Aggregation):
    """The oldest `n` values that are not null, the oldest first."""

    name = "first_n"
    takes = SCALARS
    parameters = ("n",)
    list_code = codes.FIRST_N
    by_place = True

    def gives_for(self, dtype: DType | None) -> DType:
        assert dtype is not None
        return list_of(dtype)

    def problem(self, params: Params, window: str | None) -> str | None:
        if not is_count(params["n"], MOST_ITEMS):
            return f"hr.{self.name}: n is how many values, from 1 to {MOST_ITEMS:,}, not {params['n']!r}"
        return super().problem(params, window)

    def param(self, params: Params) -> int:
        return int(params["n"])

    def kept_rows(self, params: Params) -> int:
        return int(params["n"])

    def examples(self) -> tuple[Params, ...]:
        return tuple({"n": n} for n in (1, 2, 3, MOST_ITEMS))


class LastN(FirstN):
    """The newest `n` values that are not null, the oldest first."""

    name = "last_n"
    list_code = codes.LAST_N
