"""Number of events, or of values."""

from __future__ import annotations

from headrace.aggregations import codes
from headrace.aggregations.aggregation import Aggregation
from headrace.core.schema import DType


class Count(Aggregation):
    """How many events; 0 without any. In plans it may have a column, and counts its values then."""

    name = "count"
    gives = DType.INT
    code = codes.COUNT
    by_code = codes.BY_COUNT
    by_form = codes.SUMMED

    def slot_code(self, *, of_column: bool) -> int:
        return codes.COUNT_VALID if of_column else codes.COUNT

    def growing_form(self, *, by: bool, of_column: bool) -> int | None:
        return codes.COUNTS if by and not of_column else super().growing_form(by=by, of_column=of_column)
