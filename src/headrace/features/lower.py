"""From the user's expressions to nodes: names resolved, derived streams substituted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.core.errors import PlanError
from headrace.core.schema import DType
from headrace.features.column import ColumnOf
from headrace.features.definition import definition_of
from headrace.features.event import event_definition, logged_event
from headrace.features.expr import Constant, Expr, Operation
from headrace.features.function import Applied
from headrace.features.lists import list_size
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
        list_size(expr)  # raises for lists of several lengths
        return Call(expr.op, args, dtype, expr.params)
    if isinstance(expr, Constant):
        return Literal(expr.value, dtype)
    if isinstance(expr, Applied):
        function = expr.function
        return FunctionCall(function.name, function.source_hash, args, dtype, function.plain, function.null_pass)
    raise PlanError(f"{expr!r} cannot stand here")


def lower_event(expr: Expr[Any], source: type) -> Node:
    """The node of an expression over one event of `source`, in terms of the columns of its logged stream.

    Raises PlanError for a look-up of a group or table.
    """
    return lower(expr, event_columns(source))


def event_columns(source: type) -> Resolve:
    """What the columns of one event of `source` stand for: columns of its logged stream, others by what computes them.

    A look-up of a group or table raises PlanError.
    """
    logged = event_definition(logged_event(source)).computed
    computed = event_definition(source).computed

    def resolve(part: Expr[Any]) -> Node | None:
        if not isinstance(part, ColumnOf):
            return None
        if definition_of(part.owner).kind != "event":
            raise PlanError(
                f"looks {part!r} up at each event; compute it in a derived stream first: "
                f"class Derived({source.__name__}): {part.name} = {part!r}"
            )
        if part.name in computed and part.name not in logged:
            return lower(computed[part.name], resolve)
        return ColumnRef(part.name, dtype_of(part))

    return resolve


def lower_conditions(source: type, *more: Expr[bool] | None) -> Node | None:
    """The conjunction of the conditions of a derived stream, of those that it derives from, and of `more`.

    The conditions of a logged stream are left out: they decide which of its records are there.
    """
    conditions: list[Expr[Any]] = []
    cls, logged = source, logged_event(source)
    while cls is not logged:
        definition = event_definition(cls)
        if definition.where is not None:
            conditions.insert(0, definition.where)
        assert definition.parent is not None
        cls = definition.parent
    nodes = [lower_event(condition, source) for condition in (*conditions, *(m for m in more if m is not None))]
    return conjunction(nodes)


def conjunction(nodes: Sequence[Node]) -> Node | None:
    """All of these conditions; None if there are none."""
    whole: Node | None = None
    for node in nodes:
        whole = node if whole is None else Call("and", (whole, node), DType.BOOL)
    return whole


def dtype_of(expr: Expr[Any]) -> DType:
    """The type of an expression that its class has checked."""
    if expr.dtype is None:
        raise PlanError(f"{expr!r} has a problem: {expr.problem or 'one of its parts cannot be computed'}")
    return expr.dtype
