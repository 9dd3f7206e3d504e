"""Feature groups: aggregations over the events of one stream, per entity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from headrace.core.schema import DType
from headrace.features.aggregate import Aggregate
from headrace.features.column import ColumnOf, Family
from headrace.features.definition import (
    NO_HEIR,
    Definition,
    DefinitionBase,
    begin,
    column_names,
    definition_of,
    is_bound,
    own_doc,
    read_duration,
    take_computed,
    take_fields,
)
from headrace.features.event import EventDefinition, event_scope
from headrace.features.expr import Expr, problems_of, walk_expr
from headrace.features.keys import Scope, bound_class, lookup_problems
from headrace.features.plan import KeyPart
from headrace.features.site import Problems
from headrace.features.superseded import warn_of_superseded
from headrace.features.typing_rules import shown
from headrace.features.window import Window, resolve_window

C = TypeVar("C")


@dataclass(slots=True)
class GroupDefinition(Definition):
    """A feature group class. `windows` holds the resolved window of each aggregated feature."""

    kind: ClassVar[str] = "group"
    source: type | None = None
    where: Any = None
    resolution_us: int = 1
    windows: dict[str, Window] = field(default_factory=dict)

    def scope(self) -> Scope:
        """Columns by which further lookups can be bound: those of the key."""
        assert self.source is not None
        return Scope(self.source, {part.name: (part.dtype, part.entity) for part in self.key})


class FeatureGroup(DefinitionBase):
    """Features of the entity that `key` names, computed from the events that hold that key.

    Class keywords: `key`, a field of an event or derived stream, or a tuple of them; `where`, which events count;
    `resolution` of event times ("1s") for hot entities; `name`, `owner`, `tags`. Names are assigned aggregations such
    as `n = hr.count(window="1h")`, and expressions over the names before them.
    """

    __required__ = ("key", "write the field that names the entity, such as key=Transfer.sender")

    def __init_subclass__(
        cls,
        *,
        key: Expr[Any] | tuple[Expr[Any], ...] = (),
        where: Expr[bool] | None = None,
        resolution: str | None = None,
        name: str | None = None,
        owner: str = "",
        tags: list[str] | tuple[str, ...] = (),
    ) -> None:
        if is_bound(cls):
            return
        chosen, problems = begin(cls, name)
        definition = GroupDefinition(cls, chosen, problems.site, owner, own_doc(cls), tuple(tags))
        resolution_us = read_duration(resolution, "resolution", problems)
        if resolution_us == 0:
            problems.add("a resolution must be longer than nothing")
        definition.resolution_us = resolution_us or 1
        take_fields(cls, problems, allowed=False)
        definition.computed = take_computed(cls, problems)
        definition.where = where
        if cls.__bases__ != (FeatureGroup,):
            problems.add(NO_HEIR)
        _check_key(definition, key if isinstance(key, tuple) else (key,), problems)
        _check_features(definition, problems)
        type.__setattr__(cls, "__definition__", definition)
        type.__setattr__(cls, "__columns__", column_names(definition.computed))
        problems.check()
        warn_of_superseded(f"group {cls.__name__}", [] if definition.source is None else [definition.source])

    @classmethod
    def of(cls: type[C], *fields: Expr[Any]) -> type[C]:
        """This group looked up by these fields of a request, one per part of its key."""
        return bound_class(cls, fields)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def instance_of(cls: type[C], values: Mapping[str, Any]) -> C:
    """A row of a group: its features as attributes, families as mappings of windows to values.

    `values` are by local feature name ("n_1h"); a missing one is None.
    """
    row = cls.__new__(cls)
    for name, value in vars(definition_of(cls).cls).items():
        if isinstance(value, Family):
            row.__dict__[name] = {window: values.get(f"{name}_{window}") for window in value.members}
        elif isinstance(value, Expr):
            row.__dict__[name] = values.get(name)
    return row


def _check_key(definition: GroupDefinition, key: tuple[Any, ...], problems: Problems) -> None:
    parts: list[KeyPart] = []
    owners: list[type] = []
    for given in key:
        if not isinstance(given, ColumnOf):
            wrong = problems_of(given) if isinstance(given, Expr) else []
            problems.add_all(wrong or [f"key= takes fields of an event, such as Transfer.sender, not {given!r}"])
            continue
        event = definition_of(given.owner)
        if not isinstance(event, EventDefinition):
            problems.add(f"key={given!r}: {given.owner.__name__} is no event; a key is a field of an event")
        elif event.abstract:
            problems.add(f"key={given!r}: {given.owner.__name__} is abstract and has no stream; name a subclass")
        elif given.dtype is not None and given.dtype in (DType.FLOAT, DType.LIST):
            problems.add(f"key={given!r}: a {shown(given.dtype)} cannot be a key, it has no exact equality")
        elif given.dtype is not None:
            parts.append(KeyPart(given.name, given.dtype, event_scope(given.owner).columns[given.name][1]))
            owners.append(given.owner)
    if len({part.name for part in parts}) < len(parts):
        problems.add("the key names a field twice")
    definition.key = tuple(parts)
    if not key:
        owners = [part.owner for expr in definition.computed.values() for part in _columns(expr)]
        if not owners:
            problems.add("key=() is the whole stream, but no feature says of which one; aggregate a column of it")
    for owner in owners:
        if definition.source is None or issubclass(owner, definition.source):
            definition.source = owner
        elif not issubclass(definition.source, owner):
            problems.add(f"the key mixes fields of {definition.source.__name__} and {owner.__name__}")


def _check_features(definition: GroupDefinition, problems: Problems) -> None:
    if not definition.computed:
        problems.add('no features; add one such as "n = hr.count(window="1h")"')
    if definition.where is not None:
        _check_where(definition, problems)
    named = {id(expr) for expr in definition.computed.values()}
    for name, expr in definition.computed.items():
        if isinstance(expr, Aggregate):
            _check_aggregate(definition, name, expr, problems)
        else:
            _check_derived(definition, name, expr, named, problems)


def _check_where(definition: GroupDefinition, problems: Problems) -> None:
    where = definition.where
    if not isinstance(where, Expr):
        problems.add(f"where= takes a condition, not {where!r}")
        return
    problems.add_all(problems_of(where))
    if where.dtype not in (DType.BOOL, None):
        problems.add(f"where= takes a condition, but this is {shown(where.dtype)}")
    _check_event_columns(definition, None, where, problems)


def _check_aggregate(definition: GroupDefinition, name: str, expr: Aggregate[Any], problems: Problems) -> None:
    resolved = resolve_window(expr.window, expr.hop, expr.delay, definition.resolution_us)
    if isinstance(resolved, str):
        problems.add(resolved, name)
    else:
        definition.windows[name] = resolved
    for arg in expr.args:
        if any(isinstance(part, Aggregate) for part in walk_expr(arg)):
            problems.add("an aggregation of an aggregation; aggregate a derived stream instead", name)
        _check_event_columns(definition, name, arg, problems)


def _check_event_columns(definition: GroupDefinition, name: str | None, expr: Expr[Any], problems: Problems) -> None:
    source = definition.source
    if source is None:
        return
    for part in _columns(expr):
        if definition_of(part.owner).kind != "event":
            problems.add_all(lookup_problems(part, event_scope(source)), name)
        elif not issubclass(source, part.owner):
            problems.add(f"{part!r} is no column of {source.__name__}, over whose events this group is", name)


def _check_derived(
    definition: GroupDefinition, name: str, expr: Expr[Any], named: set[int], problems: Problems
) -> None:
    for part in _leaves(expr, named):
        if isinstance(part, Aggregate):
            problems.add(f"hr.{part.kind}(...) needs a line and a name of its own before it is used here", name)
        elif isinstance(part, ColumnOf):
            if definition_of(part.owner).kind == "event":
                problems.add(f"{part!r} is a column of events; aggregate it first, such as hr.last({part!r})", name)
            elif definition.source is not None:
                problems.add_all(lookup_problems(part, definition.scope()), name)


def _leaves(expr: Expr[Any], named: set[int]) -> list[Expr[Any]]:
    """Parts of a derived feature that are neither operations nor features of its own group."""
    found: list[Expr[Any]] = []
    for arg in expr.args if not isinstance(expr, Aggregate) else ():
        if id(arg) not in named:
            found += _leaves(arg, named)
    return found if expr.args and not isinstance(expr, Aggregate) else [expr]


def _columns(expr: Expr[Any]) -> list[ColumnOf[Any]]:
    return [part for part in walk_expr(expr) if isinstance(part, ColumnOf)]
