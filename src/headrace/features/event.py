"""Events: what happened. A subclass of a concrete event is a derived stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform

from headrace.core import schema
from headrace.core.schema import DType, Schema
from headrace.features import field as fields_of
from headrace.features.column import ColumnOf
from headrace.features.definition import (
    Definition,
    begin,
    column_names,
    definition_of,
    own_doc,
    read_duration,
    take_computed,
    take_fields,
)
from headrace.features.expr import Expr, problems_of, walk_expr
from headrace.features.field import Field, entity_name
from headrace.features.keys import Scope, lookup_problems
from headrace.features.lists import list_size
from headrace.features.record import Record
from headrace.features.site import Problems
from headrace.features.typing_rules import shown


@dataclass(slots=True)
class EventDefinition(Definition):
    """An event class. `parent` is the concrete event that a derived stream filters, `where` its condition (an
    `Expr[bool]`, or None; typed Any because an expression is a descriptor to a type checker)."""

    kind: ClassVar[str] = "event"
    abstract: bool = False
    parent: type | None = None
    where: Any = None
    lateness_us: int | None = None
    dedupe_us: int = 86_400_000_000
    future_us: int = 3_600_000_000

    @property
    def root_name(self) -> str:
        """Name of the raw stream that this one is, or is derived from."""
        return self.name if self.parent is None else event_definition(self.parent).root_name

    def field_of_kind(self, kind: str) -> str | None:
        """Name of the id or event time; None if there is none."""
        return next((name for name, field in self.fields.items() if field.spec.kind == kind), None)


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(fields_of.key, fields_of.id, fields_of.event_time, fields_of.field),
)
class Event(Record):
    """Something that happened: annotated fields, one of them `hr.event_time()`.

    Class keywords: `abstract` for shared fields without a stream; `name` of the stream (class name in snake case);
    `lateness` beyond which events are late (never by default); `dedupe` horizon of ids ("1d"); `future` beyond which
    an event ahead of its arrival is a dead letter ("1h"). A subclass of a concrete event is a derived stream: `where`
    filters it, and assigned expressions are further columns.
    """

    def __init_subclass__(
        cls,
        *,
        abstract: bool = False,
        where: Expr[bool] | None = None,
        name: str | None = None,
        owner: str = "",
        tags: list[str] | tuple[str, ...] = (),
        lateness: str | None = None,
        dedupe: str = "1d",
        future: str = "1h",
    ) -> None:
        chosen, problems = begin(cls, name)
        parent = _concrete_parent(cls)
        definition = EventDefinition(cls, chosen, problems.site, owner, own_doc(cls), tuple(tags))
        definition.abstract, definition.parent, definition.where = abstract, parent, where
        definition.lateness_us = read_duration(lateness, "lateness", problems)
        definition.dedupe_us = read_duration(dedupe, "dedupe", problems) or 0
        definition.future_us = read_duration(future, "future", problems) or 0
        definition.fields = take_fields(cls, problems, allowed=parent is None)
        definition.computed = _computed(cls, parent, problems)
        type.__setattr__(cls, "__definition__", definition)
        type.__setattr__(cls, "__columns__", column_names(definition.computed))
        _check_event(definition, problems)
        problems.check()


def event_definition(cls: type) -> EventDefinition:
    """The description of an event class; raises DefinitionError if it is none."""
    definition = definition_of(cls)
    assert isinstance(definition, EventDefinition)
    return definition


def schema_of(cls: type) -> Schema:
    """Schema of an event or table class. A derived stream has that of its raw stream."""
    definition = definition_of(cls)
    name = definition.root_name if isinstance(definition, EventDefinition) else definition.name
    by_kind = {field.spec.kind: field.name for field in definition.fields.values()}
    fields = tuple(field.schema_field() for field in definition.fields.values())
    return Schema(name, fields, by_kind.get("event_time"), by_kind.get("id"), definition.doc)


def logged_event(cls: type) -> type:
    """The class whose records the log holds for this event class: itself if it is raw or logged, else the nearest such
    class that it derives from."""
    parent = event_definition(cls).parent
    return cls if parent is None or _is_logged(cls) else logged_event(parent)


def own_columns(cls: type) -> dict[str, Expr[Any]]:
    """The columns that a derived stream computes itself, by name; those that it inherits are left out."""
    definition = event_definition(cls)
    inherited = {} if definition.parent is None else event_definition(definition.parent).computed
    return {name: expr for name, expr in definition.computed.items() if name not in inherited}


def logged_schema(cls: type) -> Schema:
    """Schema of the records of a logged stream: for a derived one its source's fields, then its own columns."""
    definition = event_definition(cls)
    if definition.parent is None:
        return schema_of(cls)
    source = logged_schema(logged_event(definition.parent))
    scope = event_scope(cls).columns
    columns = tuple(
        schema.Field(name, *_nullable(scope[name]), size=list_size(definition.computed[name]))
        if scope[name][0] is DType.LIST
        else schema.Field(name, *_nullable(scope[name]))
        for name in _between(cls)
    )
    return Schema(definition.name, (*source.fields, *columns), source.time_field, source.id_field, definition.doc)


def _between(cls: type) -> list[str]:
    """Columns computed by a logged stream and by what lies between it and its source."""
    parent = event_definition(cls).parent
    assert parent is not None
    inherited = event_definition(logged_event(parent)).computed
    return [name for name in event_definition(cls).computed if name not in inherited]


def _nullable(column: tuple[DType, str | None]) -> tuple[DType, bool, bool, None, str | None]:
    dtype, entity = column
    return dtype, True, False, None, entity


def _is_logged(cls: type) -> bool:
    """True if the class itself, not what it derives from, looks something up or computes a key."""
    definition = event_definition(cls)
    own = list(own_columns(cls).values())
    conditions = [definition.where] if definition.where is not None else []
    for expr in (*own, *conditions):
        for part in walk_expr(expr):
            if isinstance(part, ColumnOf) and definition_of(part.owner).kind != "event":
                return True
    return any(expr.entity is not None and not _is_copy(expr) for expr in own)


def _is_copy(expr: Expr[Any]) -> bool:
    """True for a field, or a column that is one under another name."""
    while isinstance(expr, ColumnOf):
        computed = definition_of(expr.owner).computed
        if expr.name not in computed:
            return True
        expr = computed[expr.name]
    return False


def root_event(cls: type) -> type:
    """The raw event class of a derived stream; of another, itself."""
    parent = event_definition(cls).parent
    return cls if parent is None else root_event(parent)


def _concrete_parent(cls: type) -> type | None:
    for base in cls.__mro__[1:]:
        definition = base.__dict__.get("__definition__")
        if isinstance(definition, EventDefinition) and not definition.abstract:
            return base
    return None


def _computed(cls: type, parent: type | None, problems: Problems) -> dict[str, Expr[Any]]:
    own = take_computed(cls, problems)
    if parent is None:
        for name in own:
            problems.add("a raw event computes nothing; compute in a subclass, which is a derived stream", name)
        return own
    inherited = definition_of(parent)
    for name in own:
        if name in inherited.fields or name in inherited.computed:
            problems.add("an inherited column of this name exists; give this one another name", name)
    return {**inherited.computed, **own}


def _check_event(definition: EventDefinition, problems: Problems) -> None:
    _check_aliases(definition, problems)
    for kind, shown_kind in (("event_time", "event time"), ("id", "id")):
        named = [name for name, field in definition.fields.items() if field.spec.kind == kind]
        if len(named) > 1:
            problems.add(f"a second {shown_kind} beside {named[0]}; one event has one", named[1])
        if not named and kind == "event_time" and not definition.abstract:
            problems.add('no event time; add "at: hr.Field[datetime] = hr.event_time()"')
    for name, field in definition.fields.items():
        _check_reference(name, field, problems)
    if definition.where is not None and definition.parent is None:
        problems.add("where= filters a derived stream; write it on a subclass of a concrete event")
    if definition.abstract and definition.parent is not None:
        problems.add("a derived stream cannot be abstract")
    if definition.where is not None and definition.parent is not None:
        _check_where(definition, problems)
    if definition.parent is not None:
        for name, expr in own_columns(definition.cls).items():
            _check_columns(definition, name, expr, problems)


def _check_aliases(definition: EventDefinition, problems: Problems) -> None:
    taken = {name: name for name in definition.fields}
    for name, field in definition.fields.items():
        for alias in field.spec.aliases:
            other = taken.setdefault(alias, name)
            if other != name or alias == name or field.spec.aliases.count(alias) > 1:
                problems.add(f'the alias "{alias}" is a name of {other} already; give each name once', name)


def _check_reference(name: str, field: Field[Any], problems: Problems) -> None:
    entity = field.spec.entity
    if not isinstance(entity, type):
        return
    referenced = getattr(entity, "__definition__", None)
    if not isinstance(referenced, EventDefinition):
        problems.add("hr.key takes an hr.Entity or an event class", name)
        return
    identity = referenced.field_of_kind("id")
    if identity is None:
        problems.add(f"{entity.__name__} has no hr.id(), so no field can be its key", name)
    elif referenced.fields[identity].dtype is not field.dtype:
        wanted = shown(referenced.fields[identity].dtype)
        problems.add(f"{entity.__name__}.{identity} is {wanted}, but this key is {shown(field.dtype)}", name)


def _check_where(definition: EventDefinition, problems: Problems) -> None:
    where = definition.where
    assert where is not None
    if not isinstance(where, Expr):
        problems.add(f"where= takes a condition, not {where!r}")
        return
    problems.add_all(problems_of(where))
    if where.dtype not in (DType.BOOL, None):
        problems.add(f"where= takes a condition, but this is {shown(where.dtype)}")
    _check_columns(definition, None, where, problems)


def _check_columns(definition: EventDefinition, name: str | None, expr: Expr[Any], problems: Problems) -> None:
    for part in walk_expr(expr):
        if isinstance(part, ColumnOf):
            owner = definition_of(part.owner)
            if isinstance(owner, EventDefinition):
                if not issubclass(definition.cls, part.owner):
                    problems.add(f"{part!r} is no column of {definition.cls.__name__} or of what it derives from", name)
            else:
                # What is looked up cannot be the key of another look-up of the same class: that is a second stream.
                assert definition.parent is not None
                problems.add_all(lookup_problems(part, event_scope(definition.parent)), name)
        elif getattr(part, "kind", None) is not None:
            problems.add("aggregations belong in an hr.FeatureGroup", name)


def event_scope(cls: type) -> Scope:
    """Columns of an event by which keys can be bound. An id names its own event."""
    definition = event_definition(cls)
    columns: dict[str, tuple[DType, str | None]] = {}
    for name, field in definition.fields.items():
        entity = definition.root_name if field.spec.kind == "id" else entity_name(field.spec.entity)
        columns[name] = (field.dtype, entity)
    for name, expr in definition.computed.items():
        if expr.dtype is not None:
            columns[name] = (expr.dtype, entity_name(getattr(cls, name).entity))
    return Scope(cls, columns)
