"""Expression trees over the columns of one row: data, not code.

A node is evaluated in a scope, a mapping of flat column names to columns. In the scope of an event these are the
stream's field names; inside a group, the names of its features; in a view, request fields by their own name and
features by their full column name. The same evaluation serves one row and ten million (`features/evaluate.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from headrace.core.schema import DType


@dataclass(frozen=True, slots=True)
class ColumnRef:
    """The column `name` of the scope."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; None is the null of its type. Timestamps and durations are int µs."""

    value: Any
    dtype: DType


@dataclass(frozen=True, slots=True)
class Call:
    """A built-in operation on one row. `params` are plain constants such as a time zone.

    Operations: add sub mul div neg · eq ne lt le gt ge · and or not · is_null is_in between fill_null ·
    hour weekday month day (of a timestamp, param: zone name) · seconds hours days (of a duration) · cosine ·
    xxh64 (of a text, for approx_n_unique).
    """

    op: str
    args: tuple[Node, ...]
    dtype: DType
    params: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of a user's `@hr.function`; `source_hash` identifies it, `function` takes and returns NumPy arrays."""

    name: str
    source_hash: str
    args: tuple[Node, ...]
    dtype: DType
    function: Callable[..., Any]
    null_pass: bool = False


Node: TypeAlias = ColumnRef | Literal | Call | FunctionCall


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    yield node
    if isinstance(node, Call | FunctionCall):
        for arg in node.args:
            yield from walk(arg)


def references(node: Node) -> set[str]:
    """Names of the columns that the expression reads."""
    return {part.name for part in walk(node) if isinstance(part, ColumnRef)}


def replaced(node: Node, resolve: Callable[[str], Node | None]) -> Node | None:
    """The expression with each column replaced by what `resolve` says of its name; None if it says None of one."""
    if isinstance(node, ColumnRef):
        return resolve(node.name)
    if isinstance(node, Literal):
        return node
    args = [replaced(arg, resolve) for arg in node.args]
    return None if None in args else replace(node, args=tuple(arg for arg in args if arg is not None))


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The same expression over columns of other names; those that `names` lacks keep theirs."""
    if isinstance(node, ColumnRef):
        return replace(node, name=names.get(node.name, node.name))
    if isinstance(node, Literal):
        return node
    return replace(node, args=tuple(renamed(arg, names) for arg in node.args))
