"""Plans as JSON values: what is kept of a view, so that it can be computed after its definitions have changed.

Classes never travel; of a user's function only the hash of its source does, and the function is found again among the
present ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from headrace.core.errors import PlanError
from headrace.core.schema import DType, Field, Schema
from headrace.features.nodes import Call, ColumnRef, FunctionCall, Literal, Node, walk
from headrace.features.plan import (
    AggregateSpec,
    Binding,
    DerivedSpec,
    FeatureRead,
    GroupPlan,
    InputSpec,
    KeyPart,
    ProjectPlan,
    ViewColumn,
    ViewPlan,
)

_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        AggregateSpec, Binding, Call, ColumnRef, DerivedSpec, FeatureRead, Field, FunctionCall, GroupPlan, InputSpec,
        KeyPart, Literal, Schema, ViewColumn, ViewPlan,
    )
}  # fmt: skip
_KIND, _ITEMS, _TYPE = "=", "items", "type"


def plan_to_json(value: Any) -> Any:
    """JSON values that `plan_from_json` reads back; TypeError for what has no such form."""
    if isinstance(value, DType):
        return {_KIND: _TYPE, _ITEMS: value.value}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, tuple | list):
        return [plan_to_json(item) for item in value]
    if is_dataclass(value) and type(value).__name__ in _CLASSES:
        kept = [field.name for field in fields(value) if field.name != "function"]
        return {_KIND: type(value).__name__} | {name: plan_to_json(getattr(value, name)) for name in kept}
    raise TypeError(f"a plan holds no {type(value).__name__}")


def plan_from_json(data: Any, functions: Mapping[str, Callable[..., Any]]) -> Any:
    """What `plan_to_json` was given, lists as tuples; `functions` by the hash of their source.

    Raises PlanError, naming the function, if one of that hash is no longer there.
    """
    if isinstance(data, list):
        return tuple(plan_from_json(item, functions) for item in data)
    if not isinstance(data, dict):
        return data
    if data[_KIND] == _TYPE:
        return DType(data[_ITEMS])
    values = {name: plan_from_json(item, functions) for name, item in data.items() if name != _KIND}
    if data[_KIND] == FunctionCall.__name__:
        if values["source_hash"] not in functions:
            raise PlanError(f"function {values['name']} has changed or is gone")
        values["function"] = functions[values["source_hash"]]
    return _CLASSES[data[_KIND]](**values)


def functions_of(plan: ProjectPlan) -> dict[str, Callable[..., Any]]:
    """The user's functions that a project calls, by the hash of their source."""
    return {
        node.source_hash: node.function
        for whole in _nodes(plan.groups.values(), plan.views.values())
        for node in walk(whole)
        if isinstance(node, FunctionCall)
    }


def _nodes(groups: Iterable[GroupPlan], views: Iterable[ViewPlan]) -> Iterator[Node]:
    for group in groups:
        yield from group_nodes(group)
    for view in views:
        yield from (column.node for column in view.columns if column.node is not None)


def group_nodes(group: GroupPlan) -> Iterator[Node]:
    """The expressions of a group over fields of its stream, and over its own features."""
    if group.where is not None:
        yield group.where
    yield from (spec.node for spec in group.inputs)
    yield from (spec.node for spec in group.derived)
