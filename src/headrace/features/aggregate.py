"""Aggregations over events. Functions aggregate; operators and methods work on one row.

Every function takes `window` (a duration; a list of them gives a family; none means the whole lifetime), and the
options of `Options`. `sum`, `min`, `max`, `any` and `all` hide builtins here on purpose and none of them is used below.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack, overload

from headrace.aggregations.aggregation import Aggregation
from headrace.aggregations.limits import DISTINCT_CAP
from headrace.aggregations.registry import aggregation
from headrace.core.schema import SCALARS, DType, map_of
from headrace.core.time import US_PER_DAY, parse_duration
from headrace.features.column import Family, suffix
from headrace.features.expr import Expr, broken, constant
from headrace.features.typing_rules import shown

T = TypeVar("T")
N = TypeVar("N", int, float)
K = TypeVar("K")
Windows = list[str] | tuple[str, ...]

_BUCKETS = SCALARS - {DType.FLOAT}


class Options(TypedDict, total=False):
    """Options of every aggregation.

    where: count only events for which it is true. hop: step of the window's lower edge ("5m"), or "exact".
    delay: leave out the newest events ("10m"). doc: what the feature means.
    """

    where: Expr[bool]
    hop: str
    delay: str
    doc: str


class Aggregate(Expr[T]):
    """An aggregation as it is declared; `args` are its column, condition and buckets, as far as it has them."""

    __slots__ = ("by", "delay", "doc", "hop", "input", "kind", "params", "where", "window")

    def __init__(
        self,
        kind: str,
        column: Expr[Any] | None,
        window: str | None,
        options: Options,
        params: dict[str, Any],
        by: Expr[Any] | None = None,
    ) -> None:
        where = options.get("where")
        self.kind, self.input, self.window, self.params = kind, column, window, params
        self.where = None if where is None else constant(where)
        self.hop, self.delay, self.doc = options.get("hop"), options.get("delay"), options.get("doc", "")
        self.by = by
        args = tuple(part for part in (self.input, self.where, self.by) if part is not None)
        super().__init__(None, args)
        unknown = builtins.sorted(set(options) - set(Options.__annotations__))
        if unknown:
            self.problem = f"hr.{kind} has no option {unknown[0]}=; it has window, where, hop, delay and doc"
        elif not isinstance(where, Expr | None):
            self.problem = f"where= takes a condition, not {where!r}"
        elif self.where is not None and self.where.dtype not in (DType.BOOL, None):
            self.problem = (
                f"where= takes a condition, but this is {shown(self.where.dtype)}; write one, such as Paid.usd > 100"
            )
        else:
            self.problem = self._window() or self._take_type()

    def _window(self) -> str | None:
        """What is wrong with parameters and window; takes over the window and the hop that the parameters imply."""
        kind = aggregation(self.kind)
        problem = kind.problem(self.params, self.window)
        if problem is None:
            self.window, self.hop, problem = kind.windowed(self.params, self.window, self.hop)
        return problem

    def _take_type(self) -> str | None:
        """What is wrong with the types of column and buckets; else the type of the value is known, if theirs are."""
        kind, column, by = aggregation(self.kind), self.input, self.by
        if column is None and kind.takes and not kind.takes_events:
            return f"hr.{self.kind} needs a column"
        if by is not None and kind.by_code is None:
            return f"hr.{self.kind} takes no by="
        if column is None:
            self.dtype = kind.gives_for(None)
        elif column.dtype is not None:
            if column.dtype not in kind.takes:
                return f"hr.{self.kind} does not take {shown(column.dtype)}{_cure(kind, column.dtype)}"
            self.dtype = kind.gives_for(column.dtype)
        if by is None or self.dtype is None:
            return None
        if self.dtype is DType.LIST:
            return f"hr.{self.kind} of lists takes no by=; a map holds no lists"
        found, self.dtype = self.dtype, None
        if by.dtype is not None and by.dtype not in _BUCKETS:
            cure = ", it has no exact equality" if by.dtype is DType.FLOAT else ""
            return f"hr.{self.kind}: by= does not take {shown(by.dtype)}{cure}"
        self.dtype = None if by.dtype is None else map_of(by.dtype, found)
        return None


def _cure(kind: Aggregation, dtype: DType) -> str:
    if dtype is DType.BOOL:
        return "; the share of true ones is hr.share, their number hr.count(where=...)"
    return kind.cure or f"; it takes {', '.join(builtins.sorted(map(shown, kind.takes)))}"


def duration_param(name: str, text: Any) -> int | str:
    """The µs of a parameter that is a duration, or what is wrong with it."""
    if not isinstance(text, str):
        return f'{name}={text!r}: write a duration as a text, such as "1h"'
    try:
        found_us = parse_duration(text)
    except ValueError as error:
        return f"{name}={error}"
    longest = 36_525 * US_PER_DAY
    return found_us if 0 < found_us <= longest else f'{name}="{text}" must be longer than nothing and at most 100 years'


def capped(cap: Any) -> dict[str, Any]:
    """The parameter of a cap; the default one stands in no version."""
    return {} if cap == DISTINCT_CAP and not isinstance(cap, bool) else {"cap": cap}


def make(kind: str, column: Any, window: Any, options: Any, *, by: Any = None, **params: Any) -> Any:
    """An aggregation, or a family of them where there are several windows."""
    buckets = None if by is None else constant(by)
    read = None if column is None else constant(column)
    if isinstance(window, list | tuple):
        members: dict[str, Expr[Any]] = {}
        for text in window or ("",):
            made: Aggregate[Any] = Aggregate(kind, read, text, options, params, buckets)
            name = suffix(text) if isinstance(text, str) else repr(text)
            if name in members:
                made.problem = f'the window "{name}" stands there twice'
            members[name] = made
        return Family(members)
    return Aggregate(kind, read, window, options, params, buckets)


def function_of(kind: Aggregation) -> Callable[..., Any]:
    """What declares an aggregation that has no typed function of its own."""

    def declare(column: Any = None, *, window: Any = None, by: Any = None, **given: Any) -> Any:
        params = {name: given.pop(name) for name in kind.parameters if name in given}
        return make(kind.name, column, window, given, by=by, **params)

    declare.__name__ = declare.__qualname__ = kind.name
    declare.__doc__ = kind.__doc__
    return declare


@overload
def count(*, window: str | None = None, by: None = None, **options: Unpack[Options]) -> Expr[int]: ...
@overload
def count(*, window: Windows, by: None = None, **options: Unpack[Options]) -> Family[int]: ...
@overload
def count(*, window: str | None = None, by: Expr[K], **options: Unpack[Options]) -> Expr[dict[K, int]]: ...
@overload
def count(*, window: Windows, by: Expr[K], **options: Unpack[Options]) -> Family[dict[K, int]]: ...
def count(*columns: Any, window: Any = None, by: Any = None, **options: Unpack[Options]) -> Any:
    """Number of events; 0 if there is none.

    by: a second key; the value is a map of its values to this of their events, and those without one are left out.
    """
    if columns:
        return broken(
            f"hr.count counts events and takes no column; its values are hr.count(where=~{columns[0]}.is_null())"
        )
    return make("count", None, window, options, by=by)


@overload
def sum(column: Expr[N], *, window: str | None = None, by: None = None, **options: Unpack[Options]) -> Expr[N]: ...
@overload
def sum(column: Expr[N], *, window: Windows, by: None = None, **options: Unpack[Options]) -> Family[N]: ...
@overload
def sum(
    column: Expr[N], *, window: str | None = None, by: Expr[K], **options: Unpack[Options]
) -> Expr[dict[K, N | None]]: ...
@overload
def sum(column: Expr[N], *, window: Windows, by: Expr[K], **options: Unpack[Options]) -> Family[dict[K, N | None]]: ...
@overload
def sum(
    column: Expr[list[float]], *, window: str | None = None, by: None = None, **options: Unpack[Options]
) -> Expr[list[float]]: ...
@overload
def sum(
    column: Expr[list[float]], *, window: Windows, by: None = None, **options: Unpack[Options]
) -> Family[list[float]]: ...
def sum(column: Any, *, window: Any = None, by: Any = None, **options: Unpack[Options]) -> Any:
    """Sum of a number; exact for int (overflow is null), correctly rounded for float; null if there is none.

    Of a list: the list of the sums by position. An element without a value is null, and so is the list if no element
    has one.

    by: a second key; the value is a map of its values to this of their events, and those without one are left out.
    Lists take none.
    """
    return make("sum", column, window, options, by=by)


@overload
def mean(
    column: Expr[float], *, window: str | None = None, by: None = None, **options: Unpack[Options]
) -> Expr[float]: ...
@overload
def mean(column: Expr[float], *, window: Windows, by: None = None, **options: Unpack[Options]) -> Family[float]: ...
@overload
def mean(
    column: Expr[float], *, window: str | None = None, by: Expr[K], **options: Unpack[Options]
) -> Expr[dict[K, float | None]]: ...
@overload
def mean(
    column: Expr[float], *, window: Windows, by: Expr[K], **options: Unpack[Options]
) -> Family[dict[K, float | None]]: ...
@overload
def mean(
    column: Expr[list[float]], *, window: str | None = None, by: None = None, **options: Unpack[Options]
) -> Expr[list[float]]: ...
@overload
def mean(
    column: Expr[list[float]], *, window: Windows, by: None = None, **options: Unpack[Options]
) -> Family[list[float]]: ...
def mean(column: Any, *, window: Any = None, by: Any = None, **options: Unpack[Options]) -> Any:
    """Mean of a number, correctly rounded; null if there is none.

    Of a list: the list of the means by position, each over the events that have a value there. An element without a
    value is null, and so is the list if no element has one.

    by: a second key; the value is a map of its values to this of their events, and those without one are left out.
    Lists take none.
    """
    return make("mean", column, window, options, by=by)


@overload
def rate(
    column: Expr[float] | None = None, *, per: str = "1h", window: str, **options: Unpack[Options]
) -> Expr[float]: ...
@overload
def rate(
    column: Expr[float] | None = None, *, per: str = "1h", window: Windows, **options: Unpack[Options]
) -> Family[float]: ...
def rate(column: Any = None, *, per: Any = "1h", window: Any = None, **options: Unpack[Options]) -> Any:
    """Events, or the sum of a number, per unit of time: the exact quotient over the window's span, rounded once.

    per: the unit, a duration. The span is that which the window really has: from its lower edge, which moves in steps
    of the hop, to its upper one. Without events 0.0; of a column, null if it has no value. Needs a window.
    """
    return make("rate", column, window, options, unit_us=duration_param("per", per))


@overload
def min(column: Expr[T], *, window: str | None = None, by: None = None, **options: Unpack[Options]) -> Expr[T]: ...
@overload
def min(column: Expr[T], *, window: Windows, by: None = None, **options: Unpack[Options]) -> Family[T]: ...
@overload
def min(
    column: Expr[T], *, window: str | None = None, by: Expr[K], **options: Unpack[Options]
) -> Expr[dict[K, T | None]]: ...
@overload
def min(column: Expr[T], *, window: Windows, by: Expr[K], **options: Unpack[Options]) -> Family[dict[K, T | None]]: ...
def min(column: Any, *, window: Any = None, by: Any = None, **options: Unpack[Options]) -> Any:
    """Least value; null if there is none.

    by: a second key; the value is a map of its values to this of their events, and those without one are left out.
    """
    return make("min", column, window, options, by=by)


@overload
def max(column: Expr[T], *, window: str | None = None, by: None = None, **options: Unpack[Options]) -> Expr[T]: ...
@overload
def max(column: Expr[T], *, window: Windows, by: None = None, **options: Unpack[Options]) -> Family[T]: ...
@overload
def max(
    column: Expr[T], *, window: str | None = None, by: Expr[K], **options: Unpack[Options]
) -> Expr[dict[K, T | None]]: ...
@overload
def max(column: Expr[T], *, window: Windows, by: Expr[K], **options: Unpack[Options]) -> Family[dict[K, T | None]]: ...
def max(column: Any, *, window: Any = None, by: Any = None, **options: Unpack[Options]) -> Any:
    """Greatest value; null if there is none.

    by: a second key; the value is a map of its values to this of their events, and those without one are left out.
    """
    return make("max", column, window, options, by=by)


@overload
def var(
    column: Expr[float], *, window: str | None = None, population: bool = False, **options: Unpack[Options]
) -> Expr[float]: ...
@overload
def var(
    column: Expr[float], *, window: Windows, population: bool = False, **options: Unpack[Options]
) -> Family[float]: ...
def var(column: Any, *, window: Any = None, population: bool = False, **options: Unpack[Options]) -> Any:
    """Variance, correctly rounded: of a sample, null for fewer than two values.

    population: divide by the number of values instead of one less; of one value it is 0, of none null.
    """
    return make("var", column, window, options, **({"ddof": 0} if population else {}))


@overload
def std(
    column: Expr[float], *, window: str | None = None, population: bool = False, **options: Unpack[Options]
) -> Expr[float]: ...
@overload
def std(
    column: Expr[float], *, window: Windows, population: bool = False, **options: Unpack[Options]
) -> Family[float]: ...
def std(column: Any, *, window: Any = None, population: bool = False, **options: Unpack[Options]) -> Any:
    """Square root of the variance, which is correctly rounded first: of a sample, null for fewer than two values.

    population: divide by the number of values instead of one less; of one value it is 0, of none null.
    """
    return make("std", column, window, options, **({"ddof": 0} if population else {}))


@overload
def skewness(column: Expr[float], *, window: str | None = None, **options: Unpack[Options]) -> Expr[float]: ...
@overload
def skewness(column: Expr[float], *, window: Windows, **options: Unpack[Options]) -> Family[float]: ...
def skewness(column: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Population skewness; null without spread. Needs a window.

    It is sign(M3)·sqrt(n·M3²/M2³), where the quotient is exact and rounded once, and its root once more.
    """
    return make("skewness", column, window, options)


@overload
def first(column: Expr[T], *, window: str | None = None, **options: Unpack[Options]) -> Expr[T]: ...
@overload
def first(column: Expr[T], *, window: Windows, **options: Unpack[Options]) -> Family[T]: ...
def first(column: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Oldest value that is not null; of a list column the oldest list, whole, with its null elements."""
    return make("first", column, window, options)


@overload
def last(column: Expr[T], *, window: str | None = None, **options: Unpack[Options]) -> Expr[T]: ...
@overload
def last(column: Expr[T], *, window: Windows, **options: Unpack[Options]) -> Family[T]: ...
def last(column: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Newest value that is not null; of a list column the newest list, whole, with its null elements."""
    return make("last", column, window, options)


@overload
def n_unique(
    column: Expr[Any], *, window: str | None = None, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Expr[int]: ...
@overload
def n_unique(
    column: Expr[Any], *, window: Windows, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Family[int]: ...
def n_unique(column: Any, *, window: Any = None, cap: Any = DISTINCT_CAP, **options: Unpack[Options]) -> Any:
    """Number of different values; 0 if there is none, null and a warning beyond `cap`."""
    return make("n_unique", column, window, options, **capped(cap))


@overload
def approx_n_unique(column: Expr[Any], *, window: str | None = None, **options: Unpack[Options]) -> Expr[int]: ...
@overload
def approx_n_unique(column: Expr[Any], *, window: Windows, **options: Unpack[Options]) -> Family[int]: ...
def approx_n_unique(column: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Estimated number of different values, however many there are; 0 if there is none. Needs a window.

    HyperLogLog of 4,096 registers: the standard error is 1.6 %, and the same values give the same bits in any order.
    """
    return make("approx_n_unique", column, window, options)


@overload
def most_frequent(
    column: Expr[T], *, window: str | None = None, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Expr[T]: ...
@overload
def most_frequent(
    column: Expr[T], *, window: Windows, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Family[T]: ...
def most_frequent(column: Any, *, window: Any = None, cap: Any = DISTINCT_CAP, **options: Unpack[Options]) -> Any:
    """The value that occurs most often; ties go to the least. Null if there is none, and beyond `cap` different ones.

    Needs a window.
    """
    return make("most_frequent", column, window, options, **capped(cap))


@overload
def quantile(
    column: Expr[float], q: float, *, window: str | None = None, **options: Unpack[Options]
) -> Expr[float]: ...
@overload
def quantile(column: Expr[float], q: float, *, window: Windows, **options: Unpack[Options]) -> Family[float]: ...
def quantile(column: Any, q: float, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Value of rank max(1, ceil(q * n)), to a relative error of 2**-8; null if there is none. Needs a window.

    q: from 0 to 1, with at most 9 decimals, taken as written: of ten values, 0.1 is the first. Values of one sign,
    exponent and first 7 bits of the mantissa share a bucket, whose middle is the answer.
    """
    return make("quantile", column, window, options, q=q)


@overload
def share(condition: Expr[bool], *, window: str | None = None, **options: Unpack[Options]) -> Expr[float]: ...
@overload
def share(condition: Expr[bool], *, window: Windows, **options: Unpack[Options]) -> Family[float]: ...
def share(condition: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Share of the events whose condition is true; those whose condition is null are left out."""
    return make("share", condition, window, options)


@overload
def any(condition: Expr[bool], *, window: str | None = None, **options: Unpack[Options]) -> Expr[bool]: ...
@overload
def any(condition: Expr[bool], *, window: Windows, **options: Unpack[Options]) -> Family[bool]: ...
def any(condition: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Whether the condition was ever true; null if it never had a value."""
    return make("any", condition, window, options)


@overload
def all(condition: Expr[bool], *, window: str | None = None, **options: Unpack[Options]) -> Expr[bool]: ...
@overload
def all(condition: Expr[bool], *, window: Windows, **options: Unpack[Options]) -> Family[bool]: ...
def all(condition: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """Whether the condition was always true; null if it never had a value."""
    return make("all", condition, window, options)


@overload
def time_since_last(*, window: str | None = None, **options: Unpack[Options]) -> Expr[timedelta]: ...
@overload
def time_since_last(*, window: Windows, **options: Unpack[Options]) -> Family[timedelta]: ...
def time_since_last(*, window: Any = None, **options: Unpack[Options]) -> Any:
    """Time from the newest event to the time of reading; null if there is none."""
    return make("time_since_last", None, window, options)


@overload
def time_since_first(*, window: str | None = None, **options: Unpack[Options]) -> Expr[timedelta]: ...
@overload
def time_since_first(*, window: Windows, **options: Unpack[Options]) -> Family[timedelta]: ...
def time_since_first(*, window: Any = None, **options: Unpack[Options]) -> Any:
    """Time from the oldest event to the time of reading; null if there is none."""
    return make("time_since_first", None, window, options)
