"""How long the lists of an expression are: a list has the length that its field declares."""

from __future__ import annotations

from typing import Any

from headrace.core.errors import PlanError
from headrace.core.schema import DType
from headrace.features.column import ColumnOf
from headrace.features.definition import definition_of
from headrace.features.expr import Expr


def list_size(expr: Expr[Any]) -> int | None:
    """The length of the lists that an expression gives or, of one that gives none, of those that it reads.

    None if it reads none. Raises PlanError if it puts lists of several lengths together.
    """
    if isinstance(expr, ColumnOf):
        definition = definition_of(expr.owner)
        if expr.name in definition.fields:
            return definition.fields[expr.name].spec.size
        return list_size(definition.computed[expr.name])
    sizes = sorted({list_size(arg) or 0 for arg in expr.args if arg.dtype is DType.LIST})
    if len(sizes) > 1:
        raise PlanError(f"lists of {' and '.join(map(str, sizes))} elements do not go together; lists have one length")
    return sizes[0] if sizes else None
