"""Typed expressions over columns of one row: what operators and methods on fields and features build.

An `Expr[T]` is a description. Its operands are checked when it is built, but what is wrong with it is kept in
`problem` and reported by the class (or view, or model) that uses it, together with that class's other problems.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headrace.core.schema import DType
from headrace.features.entity import Entity
from headrace.features.site import refuse
from headrace.features.typing_rules import literal_of, operation_dtype, operation_problem

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")

Number = int | float


class Expr(Generic[T_co]):
    """A column of values of type T, to be computed; on an instance or a returned row, the value itself.

    Nulls go through: an operation on a null gives a null. Use `& | ~` for and, or, not (each in parentheses),
    `.between()` for ranges, `.is_in()` for membership and `.is_null()` for nulls.

    Attributes:
        dtype: the column type; None if the expression has a problem.
        args: the expressions that it reads directly.
        entity: the entity (or request event) that its values name, if it is a key.
        problem: why it cannot be computed, or None.
    """

    __slots__ = ("args", "dtype", "entity", "problem")

    dtype: DType | None
    args: tuple[Expr[Any], ...]
    entity: Any
    problem: str | None

    def __init__(self, dtype: DType | None, args: tuple[Expr[Any], ...] = (), problem: str | None = None) -> None:
        self.dtype = dtype
        self.args = args
        self.entity = None
        self.problem = problem

    @overload
    def __get__(self, instance: None, owner: type) -> Expr[T_co]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T_co: ...
    def __get__(self, instance: object, owner: type) -> Any:
        if instance is not None:
            raise AttributeError("this row has no value for it")
        read = getattr(type(owner), "read_column", None)
        return self if read is None else read(owner, self)

    @overload
    def __add__(self: Expr[int], other: Expr[int] | int) -> Expr[int]: ...
    @overload
    def __add__(self: Expr[float], other: Expr[float] | float) -> Expr[float]: ...
    @overload
    def __add__(self: Expr[datetime], other: Expr[timedelta] | timedelta) -> Expr[datetime]: ...
    @overload
    def __add__(self: Expr[timedelta], other: Expr[timedelta] | timedelta) -> Expr[timedelta]: ...
    def __add__(self, other: Any) -> Expr[Any]:
        return operation("add", self, other)

    @overload
    def __radd__(self: Expr[int], other: int) -> Expr[int]: ...
    @overload
    def __radd__(self: Expr[float], other: float) -> Expr[float]: ...
    def __radd__(self, other: Any) -> Expr[Any]:
        return operation("add", other, self)

    @overload
    def __sub__(self: Expr[int], other: Expr[int] | int) -> Expr[int]: ...
    @overload
    def __sub__(self: Expr[float], other: Expr[float] | float) -> Expr[float]: ...
    @overload
    def __sub__(self: Expr[datetime], other: Expr[datetime] | datetime) -> Expr[timedelta]: ...
    @overload
    def __sub__(self: Expr[datetime], other: Expr[timedelta] | timedelta) -> Expr[datetime]: ...
    @overload
    def __sub__(self: Expr[timedelta], other: Expr[timedelta] | timedelta) -> Expr[timedelta]: ...
    def __sub__(self, other: Any) -> Expr[Any]:
        return operation("sub", self, other)

    @overload
    def __rsub__(self: Expr[int], other: int) -> Expr[int]: ...
    @overload
    def __rsub__(self: Expr[float], other: float) -> Expr[float]: ...
    @overload
    def __rsub__(self: Expr[datetime], other: datetime) -> Expr[timedelta]: ...
    def __rsub__(self, other: Any) -> Expr[Any]:
        return operation("sub", other, self)

    @overload
    def __mul__(self: Expr[int], other: Expr[int] | int) -> Expr[int]: ...
    @overload
    def __mul__(self: Expr[float], other: Expr[float] | float) -> Expr[float]: ...
    @overload
    def __mul__(self: Expr[timedelta], other: Expr[int] | int) -> Expr[timedelta]: ...
    def __mul__(self, other: Any) -> Expr[Any]:
        return operation("mul", self, other)

    @overload
    def __rmul__(self: Expr[int], other: int) -> Expr[int]: ...
    @overload
    def __rmul__(self: Expr[float], other: float) -> Expr[float]: ...
    @overload
    def __rmul__(self: Expr[timedelta], other: int) -> Expr[timedelta]: ...
    def __rmul__(self, other: Any) -> Expr[Any]:
        return operation("mul", other, self)

    @overload
    def __truediv__(self: Expr[float], other: Expr[float] | float) -> Expr[float]: ...
    @overload
    def __truediv__(self: Expr[timedelta], other: Expr[timedelta] | timedelta) -> Expr[float]: ...
    def __truediv__(self, other: Any) -> Expr[float]:
        return operation("div", self, other)

    def __rtruediv__(self: Expr[float], other: float) -> Expr[float]:
        return operation("div", other, self)

    @overload
    def __neg__(self: Expr[int]) -> Expr[int]: ...
    @overload
    def __neg__(self: Expr[float]) -> Expr[float]: ...
    @overload
    def __neg__(self: Expr[timedelta]) -> Expr[timedelta]: ...
    def __neg__(self) -> Expr[Any]:
        return operation("neg", self)

    def __eq__(self, other: object) -> Expr[bool]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return operation("eq", self, other)

    def __ne__(self, other: object) -> Expr[bool]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return operation("ne", self, other)

    def __lt__(self: Expr[S], other: Expr[S] | S) -> Expr[bool]:
        return operation("lt", self, other)

    def __le__(self: Expr[S], other: Expr[S] | S) -> Expr[bool]:
        return operation("le", self, other)

    def __gt__(self: Expr[S], other: Expr[S] | S) -> Expr[bool]:
        return operation("gt", self, other)

    def __ge__(self: Expr[S], other: Expr[S] | S) -> Expr[bool]:
        return operation("ge", self, other)

    def __and__(self: Expr[bool], other: Expr[bool]) -> Expr[bool]:
        return operation("and", self, other)

    def __or__(self: Expr[bool], other: Expr[bool]) -> Expr[bool]:
        return operation("or", self, other)

    def __invert__(self: Expr[bool]) -> Expr[bool]:
        return operation("not", self)

    __hash__ = object.__hash__

    def is_null(self) -> Expr[bool]:
        """True where there is no value; never null itself."""
        return operation("is_null", self)

    def is_in(self: Expr[S], values: list[S] | tuple[S, ...] | set[S] | frozenset[S]) -> Expr[bool]:
        """True where the value is one of these constants; null where there is no value."""
        found = [literal_of(value) for value in values]
        wrong = [item for item in found if isinstance(item, str)]
        if wrong:
            return broken(f".is_in(): {wrong[0]}", self)
        constants = sorted((item for item in found if not isinstance(item, str)), key=lambda item: item[0])
        dtypes = {dtype for _, dtype in constants}
        if self.dtype is not None and any(operation_dtype("is_in", (self.dtype, dtype)) is None for dtype in dtypes):
            return broken(operation_problem("is_in", (self.dtype, *sorted(dtypes))), self)
        return Operation("is_in", (self,), DType.BOOL, tuple(dict.fromkeys(value for value, _ in constants)))

    def between(self: Expr[S], low: Expr[S] | S, high: Expr[S] | S) -> Expr[bool]:
        """True where `low <= value <= high`."""
        return operation("between", self, low, high)

    def fill_null(self: Expr[S], value: Expr[S] | S) -> Expr[S]:
        """The value, or `value` where there is none."""
        return operation("fill_null", self, value)

    def hour(self: Expr[datetime], zone: str = "UTC") -> Expr[int]:
        """Hour of the day, 0-23, on the clocks of `zone`."""
        return _calendar("hour", self, zone)

    def weekday(self: Expr[datetime], zone: str = "UTC") -> Expr[int]:
        """Day of the week in `zone`; Monday is 0."""
        return _calendar("weekday", self, zone)

    def month(self: Expr[datetime], zone: str = "UTC") -> Expr[int]:
        """Month, 1-12, in `zone`."""
        return _calendar("month", self, zone)

    def day(self: Expr[datetime], zone: str = "UTC") -> Expr[int]:
        """Day of the month, 1-31, in `zone`."""
        return _calendar("day", self, zone)

    def seconds(self: Expr[timedelta]) -> Expr[float]:
        """The duration in seconds."""
        return operation("seconds", self)

    def hours(self: Expr[timedelta]) -> Expr[float]:
        """The duration in hours."""
        return operation("hours", self)

    def days(self: Expr[timedelta]) -> Expr[float]:
        """The duration in days of 24 hours."""
        return operation("days", self)

    def cosine(self: Expr[list[float]], other: Expr[list[float]]) -> Expr[float]:
        """Cosine of the angle between two lists of one length; null if either is all zero."""
        return operation("cosine", self, other)

    def as_key(self, entity: Entity | type[Any]) -> Expr[T_co]:
        """The same values, declared to name entities of this kind."""
        keyed = copy.copy(self)
        keyed.entity = entity
        return keyed

    def __repr__(self) -> str:
        return f"Expr({self})"

    def __str__(self) -> str:
        problems = problems_of(self)
        if problems:
            return f"nothing: {problems[0]}"
        return f"an unnamed {self.dtype.value if self.dtype else 'broken'} expression"

    def __bool__(self) -> NoReturn:
        raise refuse(
            "an expression has no truth value: write & | ~ instead of and, or, not (with parentheses around "
            "comparisons), .between(low, high) instead of low < x < high, and no `if`"
        )

    if not TYPE_CHECKING:  # so that a checker reports len(), iteration and `in`

        def __len__(self):
            raise refuse("an expression has no length; count events with hr.count()")

        def __iter__(self):
            raise refuse("an expression is one column and cannot be iterated over")

        def __contains__(self, item):
            raise refuse("`in` cannot build an expression; write x.is_in([...])")


class Operation(Expr[T_co]):
    """A built-in operation; `op` and `params` as in `nodes.Call`."""

    __slots__ = ("op", "params")

    def __init__(self, op: str, args: tuple[Expr[Any], ...], dtype: DType | None, params: tuple[Any, ...] = ()) -> None:
        super().__init__(dtype, args)
        self.op = op
        self.params = params


class Constant(Expr[T_co]):
    """A constant; times are int µs."""

    __slots__ = ("value",)

    def __init__(self, value: Any, dtype: DType) -> None:
        super().__init__(dtype)
        self.value = value


class Broken(Expr[T_co]):
    """Stands for something that cannot be computed, so that a class can report all of its problems at once."""

    __slots__ = ()

    def __getitem__(self, window: str) -> Broken[T_co]:
        return self


def broken(problem: str, *args: Expr[Any]) -> Broken[Any]:
    """An expression with this problem."""
    return Broken(None, args, problem)


def operation(op: str, *operands: Any) -> Expr[Any]:
    """Apply a built-in operation to expressions and constants."""
    args = []
    for operand in operands:
        if operand is None:
            raise refuse("None is no operand; write x.is_null(), ~x.is_null() or x.fill_null(value)")
        args.append(constant(operand))
    dtypes = tuple(arg.dtype for arg in args if arg.dtype is not None)
    if len(dtypes) < len(args):
        return Operation(op, tuple(args), None)
    dtype = operation_dtype(op, dtypes)
    if dtype is None:
        return broken(operation_problem(op, dtypes), *args)
    return Operation(op, tuple(args), dtype)


def constant(value: Any) -> Expr[Any]:
    """`value` as an expression."""
    if isinstance(value, Expr):
        return value
    literal = literal_of(value)
    return Broken(None, (), literal) if isinstance(literal, str) else Constant(*literal)


def walk_expr(expr: Expr[Any]) -> Iterator[Expr[Any]]:
    """The expression and all that it is built from, without entering other definitions."""
    yield expr
    for arg in expr.args:
        yield from walk_expr(arg)


def problems_of(expr: Expr[Any]) -> list[str]:
    """Everything wrong with the expression, innermost first."""
    return [part.problem for part in reversed(list(walk_expr(expr))) if part.problem is not None]


def _calendar(op: str, at: Expr[Any], zone: str) -> Expr[Any]:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        return broken(f'.{op}(): "{zone}" is no time zone; write one such as "Europe/Berlin"', at)
    checked = operation(op, at)
    if isinstance(checked, Operation):
        checked.params = (zone,)
    return checked
