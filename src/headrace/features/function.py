"""`@hr.function`: NumPy code of one's own inside definitions, over whole columns."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy.typing as npt

from headrace.core.errors import DefinitionError
from headrace.core.schema import DType
from headrace.features.expr import Expr, broken, constant
from headrace.features.site import refuse
from headrace.features.typing_rules import PYTHON_TYPES

T = TypeVar("T")
Column: TypeAlias = npt.NDArray[Any]
"""What an `@hr.function` takes and returns: one NumPy array per argument, all of one length.

Numbers and booleans are their NumPy types, times datetime64[us], durations timedelta64[us], texts and lists objects.
"""
_CONSTANTS = (int, float, str, bytes, bool, type(None), tuple, frozenset)


class Function(Generic[T]):
    """A function made by `@hr.function`. Called with expressions it makes one; `.plain` takes arrays."""

    def __init__(self, plain: Callable[..., Column], dtype: DType, nulls: str, version: int) -> None:
        self.plain = plain
        self.dtype = dtype
        self.null_pass = nulls == "pass"
        self.name = plain.__name__
        self.version = version
        self.__doc__ = plain.__doc__

    def __call__(self, *args: Expr[Any] | float | str) -> Expr[T]:
        """The function applied to these columns and constants."""
        operands = tuple(constant(arg) for arg in args)
        try:
            inspect.signature(self.plain).bind(*args)
        except TypeError as error:
            return broken(f"{self.name}(): {error}", *operands)
        return Applied(self, operands)

    @property
    def source_hash(self) -> str:
        """16 hex digits: the normalised source of the function and of the project's functions that it calls."""
        return hashlib.blake2b(repr(_source(self.plain, self.version)).encode(), digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"hr.function({self.name})"


class Applied(Expr[T]):
    """A call of a function."""

    __slots__ = ("function",)

    def __init__(self, function: Function[T], args: tuple[Expr[Any], ...]) -> None:
        super().__init__(function.dtype, args)
        self.function = function


def function(
    *, returns: type[T], nulls: Literal["skip", "pass"] = "skip", version: int = 1
) -> Callable[[Callable[..., Column]], Function[T]]:
    """Make a function over whole columns usable in definitions.

    It is not called for rows with a null argument (their result is null) unless `nulls="pass"`: then numbers and
    booleans come as float64 with NaN, times as NaT, texts and lists as None. It must give a row the same value
    whatever rows stand beside it. `version` forces a new version when a library below it has changed.
    """
    dtype = PYTHON_TYPES.get(returns)
    if dtype is None or dtype is DType.LIST:
        raise refuse(f"hr.function(returns={returns!r}): returns is bool, int, float, str, datetime or timedelta")
    if nulls not in ("skip", "pass"):
        raise refuse(f'hr.function(nulls={nulls!r}): nulls is "skip" or "pass"')

    def decorate(plain: Callable[..., Column]) -> Function[T]:
        if not isinstance(plain, types.FunctionType):
            raise DefinitionError(f"hr.function decorates a plain function, not {plain!r}")
        return Function(plain, dtype, nulls, version)

    return decorate


def _source(plain: Any, version: int, seen: frozenset[str] = frozenset()) -> list[Any]:
    """What a function does: its code without types, comments and docstring, and the globals of its file it reads."""
    parts: list[Any] = [_normalised(plain), version]
    for name in sorted(_names(plain.__code__)):
        value = plain.__globals__.get(name)
        if isinstance(value, Function):
            value = value.plain
        if isinstance(value, types.FunctionType) and name not in seen and _is_project(value, plain):
            parts.append([name, _source(value, 0, seen | {name, plain.__name__})])
        elif isinstance(value, _CONSTANTS) and name in plain.__globals__:
            parts.append([name, repr(value)])
    return parts


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= _names(inner)
    return found


def _is_project(value: types.FunctionType, caller: types.FunctionType) -> bool:
    """True for functions of the caller's own package: libraries are pinned by other means."""
    return value.__module__.partition(".")[0] == caller.__module__.partition(".")[0]


def _normalised(plain: types.FunctionType) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(plain))).body[0]
    except (OSError, SyntaxError, TypeError):
        return plain.__code__.co_code.hex() + repr([c for c in plain.__code__.co_consts if isinstance(c, _CONSTANTS)])
    if isinstance(tree, ast.FunctionDef):
        tree.decorator_list, tree.name, tree.returns = [], "", None
        for argument in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs):
            argument.annotation = None
        if ast.get_docstring(tree) is not None:
            tree.body = tree.body[1:]
    return ast.unparse(tree)
