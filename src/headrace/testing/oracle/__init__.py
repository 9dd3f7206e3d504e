"""The oracle: what every value must be, in plain, slow and obvious Python over raw events.

It is written from the rules of time, windows and exactness alone and shares no code with what it judges: of the package
it reads only the declarations (schemas, expression trees, plans). Sums are exact fractions, rounded once at the end.
Costs grow with events times reads, so give it small histories.
"""

from headrace.testing.oracle.aggregations import Row, aggregate
from headrace.testing.oracle.derived import KnownAt, with_derived
from headrace.testing.oracle.events import Event, RawEvent, clock, judge, position_at, verdicts
from headrace.testing.oracle.expressions import evaluate
from headrace.testing.oracle.rounding import to_float64
from headrace.testing.oracle.tables import TableRow, latest
from headrace.testing.oracle.view import view_row
from headrace.testing.oracle.windows import group_row, members, window_value

__all__ = [
    "Event",
    "KnownAt",
    "RawEvent",
    "Row",
    "TableRow",
    "aggregate",
    "clock",
    "evaluate",
    "group_row",
    "judge",
    "latest",
    "members",
    "position_at",
    "to_float64",
    "verdicts",
    "view_row",
    "window_value",
    "with_derived",
]
