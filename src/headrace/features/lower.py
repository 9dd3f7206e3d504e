"""From the user's expressions to nodes: names resolved, derived streams substituted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.core.errors import PlanError
from headrace.core.schema import DType
from headrace.features.column import ColumnOf
from headrace.features.definition import definition_of
from headrace.features.event import event_definition
from headrace.features.expr import Constant, Expr, Operation
from headrace.features.function import Applied
from headrace.features.nodes import Call, ColumnRef, FunctionCall, Literal, Node

NOT_YET = "not computed by this version yet"
Resolve = Callable[[Expr[Any]], Node | None]


def lower(expr: Expr[Any], resolve: Resolve) -> Node:
    """The node of an expression; `resolve` decides what a part stands for, None leaves it to its own parts."""
    resolved = resolve(expr)
    if resolved is not None:
        return resolved
    args = tuple(lower(arg, resolve) for arg in expr.args)
    dtype = dtype_of(expr)
    if isinstance(expr, Operation):
        return Call(expr.op, args, dtype, expr.params)
    if isinstance(expr, Constant):
        return Literal(expr.value, dtype)
    if isinstance(expr, Applied):
        function = expr.function
        return FunctionCall(function.name, function.source_hash, args, dtype, function.plain, function.null_pass)
    raise PlanError(f"{expr!r} cannot stand here")


def lower_event(expr: Expr[Any]) -> Node:
    """The node of an expression over one event, in terms of the fields of its raw stream.

    Raises PlanError for a look-up of a group or table.
    """

    def resolve(part: Expr[Any]) -> Node | None:
        if not isinstance(part, ColumnOf):
            return None
        definition = definition_of(part.owner)
        if definition.kind != "event":
            raise PlanError(f"looks {part!r} up at each event, which is {NOT_YET}")
        if part.name in definition.computed:
            return lower(definition.computed[part.name], resolve)
        return ColumnRef(part.name, dtype_of(part))

    return lower(expr, resolve)


def lower_conditions(source: type, *more: Expr[bool] | None) -> Node | None:
    """The conjunction of the conditions of a derived stream, of those that it derives from, and of `more`."""
    conditions: list[Expr[Any]] = []
    cls: type | None = source
    while cls is not None:
        definition = event_definition(cls)
        if definition.where is not None:
            conditions.insert(0, definition.where)
        cls = definition.parent
    nodes = [lower_event(condition) for condition in (*conditions, *(m for m in more if m is not None))]
    whole: Node | None = None
    for node in nodes:
        whole = node if whole is None else Call("and", (whole, node), DType.BOOL)
    return whole


def dtype_of(expr: Expr[Any]) -> DType:
    """The type of an expression that its class has checked."""
    if expr.dtype is None:
        raise PlanError(f"{expr!r} has a problem: {expr.problem or 'one of its parts cannot be computed'}")
    return expr.dtype
