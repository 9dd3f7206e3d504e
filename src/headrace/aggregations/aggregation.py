"""What an aggregation is: one small class that says all that is known of it.

The classes lie in `catalog/`, one file each (or one for a few that are one idea), and whoever asks for one asks
`registry.py`. They name what the compiled passes have: the code of a finish, what a lane keeps track of, the form of a
growing state. An aggregation that is made of others (`Composed`) needs no code of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from headrace.aggregations.limits import DISTINCT_CAP
from headrace.core.columns import BoolArray
from headrace.core.errors import DefinitionError
from headrace.core.schema import SCALARS, DType

if TYPE_CHECKING:
    from headrace.aggregations.accumulator import Accumulator

NUMBERS = frozenset({DType.INT, DType.FLOAT})
ORDERED = NUMBERS | {DType.TIMESTAMP, DType.DURATION, DType.STRING}
CONDITIONS = frozenset({DType.BOOL})
LISTS = frozenset({DType.LIST})
MOST_ITEMS = 1_000
"""A list that an aggregation makes has not more values than its `n` or `k`, and these are not more than this."""

Params: TypeAlias = Mapping[str, Any]
Part: TypeAlias = tuple[np.ndarray[Any, Any], BoolArray]
"""Values of many reads and which of them are there; what is not there has any value."""


class Aggregation:
    """One aggregation. Subclasses set what differs; nothing here is changed after that.

    Attributes:
        name: as in `hr.NAME`, in plans and in versions of features: it never changes.
        takes: types of the columns that it aggregates; none aggregates whole events.
        takes_events: it may be asked for without a column, too.
        gives: the type of its value; None is that of its column.
        parameters: names of what it is told besides window and options.
        code: the finish that writes its slot (`codes.py`); None: it is a list or a map, or made of others.
        ops: what its lane has to keep track of.
        one_of_the_values: its value is one of the column's, so of a BOOL it is a BOOL.
        by_place: ties of event time decide its value, so records keep ids and offsets.
        extreme: of texts over the lifetime, and of buckets, the record keeps its row.
        list_code: the code by which it writes a list or a map (`nested.py`); None: it does not.
        by_code: the code of its values by bucket; None: it takes no by=.
        form: the growing state that it needs over the lifetime (`growing.py`); None: it needs none.
        by_form: likewise, of its values by bucket.
        tile_code: over a window some of the rows of a tile are enough for it, those that `kept.py` keeps by this code;
            None: it needs all, or those that `kept_rows` says.
        hashes_texts: of a column of texts it aggregates their hashes.
        packs_lists: it gives one of a column's lists as it is.
        needs_window: it has no value over the lifetime.
        cure: what a message says behind "does not take TYPE".
    """

    name: ClassVar[str]
    takes: ClassVar[frozenset[DType]] = frozenset()
    takes_events: ClassVar[bool] = False
    gives: ClassVar[DType | None] = None
    parameters: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[int | None] = None
    ops: ClassVar[int] = 0
    one_of_the_values: ClassVar[bool] = False
    by_place: ClassVar[bool] = False
    extreme: ClassVar[bool] = False
    list_code: ClassVar[int | None] = None
    by_code: ClassVar[int | None] = None
    form: ClassVar[int | None] = None
    by_form: ClassVar[int | None] = None
    tile_code: ClassVar[int | None] = None
    hashes_texts: ClassVar[bool] = False
    packs_lists: ClassVar[bool] = False
    needs_window: ClassVar[bool] = False
    cure: ClassVar[str] = ""

    def gives_for(self, dtype: DType | None) -> DType:
        """The type of its value over a column of this type (None: over events). Of lists it is a list."""
        if dtype is DType.LIST:
            return dtype
        found = self.gives if self.gives is not None else dtype
        assert found is not None, f"{self.name} of events has no type"
        return found

    def problem(self, params: Params, window: str | None) -> str | None:
        """What is wrong with these parameters and this window (None: the lifetime), as a sentence with its cure."""
        if self.needs_window and window is None:
            return f'hr.{self.name} needs a window; name one, such as window="1d"'
        return None

    def windowed(
        self, params: Params, window: str | None, hop: str | None
    ) -> tuple[str | None, str | None, str | None]:
        """Window and hop, with those that the parameters imply, and what is wrong with them."""
        return window, hop, None

    def param(self, params: Params) -> int:
        """The number that the compiled passes are told: degrees of freedom, a cap, a length, µs of a unit."""
        return 0

    def slot_code(self, *, of_column: bool) -> int | None:
        """`code`, where it depends on whether a column is aggregated or whole events."""
        return self.code

    def slot_ops(self, *, of_column: bool) -> int:
        """`ops`, likewise."""
        return self.ops

    def growing_form(self, *, by: bool, of_column: bool) -> int | None:
        """The growing state that it needs over the lifetime: `form`, or `by_form` where it has buckets."""
        return self.by_form if by else self.form

    def kept_rows(self, params: Params) -> int:
        """How many rows that are counted elsewhere, the first or the last, its value needs one by one."""
        return 0

    @property
    def is_nested(self) -> bool:
        """True if its value is a list or a map."""
        return self.list_code is not None

    def accumulator(self, dtype: DType | None = None, **settings: Any) -> Accumulator:
        """This aggregation by itself: identity, update, merge, finalize, encode and decode of its states.

        `dtype` is the type of its column (None: it aggregates events), `settings` are those of `Accumulator`.
        """
        from headrace.aggregations.accumulator import Accumulator

        return Accumulator(self, dtype, **settings)

    def examples(self) -> tuple[Params, ...]:
        """Parameters that the tests of all aggregations draw: usual ones and the ends of what is allowed."""
        return ({},)

    def wanted(self, values: list[Any], params: Params) -> Any:
        """The value of these values (no nulls, in the order of events) in plain Python, for the tests; None is null.

        Aggregations that the oracle of `headrace.testing` does not know bring it here. It shares no code with what is
        compiled, and sums are exact (`fractions.Fraction`), rounded once.
        """
        raise DefinitionError(
            f"the tests have nothing to hold hr.{self.name} to: write its wanted(), or its function in the oracle"
        )


class Capped(Aggregation):
    """Counts different values, up to `cap` of them; beyond it is null, with a counted warning."""

    takes = SCALARS
    parameters: ClassVar[tuple[str, ...]] = ("cap",)

    def problem(self, params: Params, window: str | None) -> str | None:
        if "cap" in params and not is_count(params["cap"], 2**62):
            return f"hr.{self.name}: cap= is a number of different values, at least 1, not {params['cap']!r}"
        return super().problem(params, window)

    def param(self, params: Params) -> int:
        return int(params.get("cap", DISTINCT_CAP))

    def examples(self) -> tuple[Params, ...]:
        return ({}, {}, {"cap": 1}, {"cap": 2}, {"cap": 5})


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One of the aggregations that another one is made of, with its parameters; over the same column and window."""

    kind: str
    params: tuple[tuple[str, Any], ...] = ()


class Composed(Aggregation):
    """Made of the finished values of others, which share their lanes, tiles and growing states with the rest of the
    group; `finish` is computed column by column, online and over history."""

    parts: ClassVar[tuple[Ingredient, ...]]

    @abstractmethod
    def finish(self, parts: list[Part], params: Params) -> Part:
        """The values, one per read, from those of the parts; FLOAT as float64, BOOL as bool, others as int64.

        Where the result is not finite it is null, whatever is said of it.
        """

    def finished(self, parts: list[Part], params: Params) -> Part:
        """What `finish` gives, without infinities, NaN and -0.0, as everywhere."""
        with np.errstate(all="ignore"):
            found, valid = self.finish(parts, params)
            return (found + 0.0, valid & np.isfinite(found)) if found.dtype.kind == "f" else (found, valid)


def is_count(value: Any, most: int) -> bool:
    """True for a whole number from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
