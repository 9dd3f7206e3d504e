"""Aggregations that give lists and maps. Those that count values need a window."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack, overload

from headrace.aggregations.limits import DISTINCT_CAP
from headrace.features.aggregate import Options, Windows, capped, make
from headrace.features.column import Family
from headrace.features.expr import Expr

T = TypeVar("T")


@overload
def first_n(column: Expr[T], n: int, *, window: str | None = None, **options: Unpack[Options]) -> Expr[list[T]]: ...
@overload
def first_n(column: Expr[T], n: int, *, window: Windows, **options: Unpack[Options]) -> Family[list[T]]: ...
def first_n(column: Any, n: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """The oldest `n` values that are not null, the oldest first; all of them if there are fewer."""
    return make("first_n", column, window, options, n=n)


@overload
def last_n(column: Expr[T], n: int, *, window: str | None = None, **options: Unpack[Options]) -> Expr[list[T]]: ...
@overload
def last_n(column: Expr[T], n: int, *, window: Windows, **options: Unpack[Options]) -> Family[list[T]]: ...
def last_n(column: Any, n: Any, *, window: Any = None, **options: Unpack[Options]) -> Any:
    """The newest `n` values that are not null, the oldest first; all of them if there are fewer."""
    return make("last_n", column, window, options, n=n)


@overload
def histogram(
    column: Expr[T], *, window: str | None = None, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Expr[dict[T, int]]: ...
@overload
def histogram(
    column: Expr[T], *, window: Windows, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Family[dict[T, int]]: ...
def histogram(column: Any, *, window: Any = None, cap: Any = DISTINCT_CAP, **options: Unpack[Options]) -> Any:
    """How often each value occurs; null and a warning beyond `cap` different values."""
    return make("histogram", column, window, options, **capped(cap))


@overload
def top_k(
    column: Expr[T], k: int, *, window: str | None = None, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Expr[list[T]]: ...
@overload
def top_k(
    column: Expr[T], k: int, *, window: Windows, cap: int = DISTINCT_CAP, **options: Unpack[Options]
) -> Family[list[T]]: ...
def top_k(column: Any, k: Any, *, window: Any = None, cap: Any = DISTINCT_CAP, **options: Unpack[Options]) -> Any:
    """The `k` values that occur most often, the most frequent first; of equally frequent ones the least goes first.

    Null and a warning beyond `cap` different values.
    """
    return make("top_k", column, window, options, k=k, **capped(cap))
