"""Aggregations in which an event weighs half as much after each half-life, and quotients of finished values.

An event at e weighs 2^((j(e) - j(hi)) / 1024) in a window that ends at hi, where j(x) = floor(1024 x / half-life); the
sums are exact and rounded once. A window is 64 half-lives long unless it is named, and its hop is the half-life.
"""

from __future__ import annotations

from typing import Any, Unpack, overload

from headrace.features.aggregate import Aggregate, Options, Windows, duration_param, make
from headrace.features.column import Family, suffix
from headrace.features.expr import Expr, broken, operation


@overload
def decayed_sum(
    column: Expr[float], *, halflife: str, window: str | None = None, **options: Unpack[Options]
) -> Expr[float]: ...
@overload
def decayed_sum(
    column: Expr[float], *, halflife: Windows, window: str | None = None, **options: Unpack[Options]
) -> Family[float]: ...
def decayed_sum(column: Any, *, halflife: Any, window: Any = None, **options: Unpack[Options]) -> Any:
    """Sum of values, each worth half after every half-life; null if there is none.

    halflife: a duration, or a list of them, which gives a family. window: 64 half-lives at most, and by default.
    """
    return _decayed("decayed_sum", column, halflife, window, options)


@overload
def decayed_count(*, halflife: str, window: str | None = None, **options: Unpack[Options]) -> Expr[float]: ...
@overload
def decayed_count(*, halflife: Windows, window: str | None = None, **options: Unpack[Options]) -> Family[float]: ...
def decayed_count(*, halflife: Any, window: Any = None, **options: Unpack[Options]) -> Any:
    """Number of events, each worth half after every half-life; 0.0 if there is none.

    halflife: a duration, or a list of them, which gives a family. window: 64 half-lives at most, and by default.
    """
    return _decayed("decayed_count", None, halflife, window, options)


@overload
def decayed_mean(
    column: Expr[float], *, halflife: str, window: str | None = None, **options: Unpack[Options]
) -> Expr[float]: ...
@overload
def decayed_mean(
    column: Expr[float], *, halflife: Windows, window: str | None = None, **options: Unpack[Options]
) -> Family[float]: ...
def decayed_mean(column: Any, *, halflife: Any, window: Any = None, **options: Unpack[Options]) -> Any:
    """Mean of values, each weighing half after every half-life; the quotient is rounded once. Null if there is none.

    halflife: a duration, or a list of them, which gives a family. window: 64 half-lives at most, and by default.
    """
    return _decayed("decayed_mean", column, halflife, window, options)


def _decayed(kind: str, column: Any, halflife: Any, window: Any, options: Any) -> Any:
    if not isinstance(halflife, list | tuple):
        return make(kind, column, window, options, halflife_us=duration_param("halflife", halflife))
    members: dict[str, Expr[Any]] = {}
    for text in halflife or ("",):
        made: Aggregate[Any] = make(kind, column, window, options, halflife_us=duration_param("halflife", text))
        name = suffix(text) if isinstance(text, str) else repr(text)
        if name in members:
            made.problem = f'the half-life "{name}" stands there twice'
        members[name] = made
    return Family(members)


@overload
def ratio(a: Expr[float], b: Expr[float]) -> Expr[float]: ...
@overload
def ratio(a: Family[float], b: Family[float]) -> Family[float]: ...
def ratio(a: Any, b: Any) -> Any:
    """The float64 quotient of two features; null where either is, and where `b` is zero.

    Of two families of the same windows it is a family: window by window.
    """
    if not isinstance(a, Family) and not isinstance(b, Family):
        return operation("div", a, b)
    if not isinstance(a, Family) or not isinstance(b, Family):
        return broken('hr.ratio of a family and one feature; name a window of the family, such as n["1h"]')
    if list(a.members) != list(b.members):
        return broken(f"hr.ratio of families over other windows: {', '.join(a)}, and {', '.join(b)}")
    return Family({window: operation("div", member, b.members[window]) for window, member in a.members.items()})
