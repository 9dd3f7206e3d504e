"""From definitions to the plan of a project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headrace.core.errors import DefinitionError, PlanError
from headrace.core.time import parse_duration
from headrace.features.column import ColumnOf, column_name
from headrace.features.compile_derived import compile_derived
from headrace.features.compile_group import compile_group
from headrace.features.compile_view import compile_view
from headrace.features.definition import Definition, definition_of, unbound
from headrace.features.event import EventDefinition, event_definition, logged_event, root_event, schema_of
from headrace.features.expr import Constant, Expr, constant, walk_expr
from headrace.features.field import MISSING
from headrace.features.group import GroupDefinition
from headrace.features.lower import dtype_of, lower_conditions, lower_event
from headrace.features.model import Better, Every, Model, OnDrift, Shadow
from headrace.features.model import Trigger as DeclaredTrigger
from headrace.features.plan import (
    DerivedPlan,
    GroupPlan,
    LabelPlan,
    ModelPlan,
    ProjectPlan,
    PromotionPlan,
    StreamPlan,
    TablePlan,
    Trigger,
)
from headrace.features.site import Problems
from headrace.features.table import TableDefinition
from headrace.features.version import digest
from headrace.features.view import FeatureView, sources_of


def compile_project(definitions: Iterable[Any]) -> ProjectPlan:
    """The plan of these classes, views and models and of all that they read.

    Raises DefinitionError if two different definitions have one name, and PlanError, listing everything, for what
    this version declares but does not compute.
    """
    found = _Collected()
    for definition in definitions:
        found.add(definition)
    return _compile(found)


class _Collected:
    """Definitions by name, each with all that it depends on."""

    def __init__(self) -> None:
        self.streams: dict[str, EventDefinition] = {}
        self.derived: dict[str, EventDefinition] = {}
        self.groups: dict[str, GroupDefinition] = {}
        self.tables: dict[str, TableDefinition] = {}
        self.views: dict[str, FeatureView] = {}
        self.models: dict[str, Model] = {}
        self._names: dict[tuple[str, str], Any] = {}
        self._seen: set[int] = set()

    def add(self, item: Any) -> None:
        """Take in a class, view or model; anything else is refused."""
        if isinstance(item, type):
            item = unbound(item)
        if id(item) in self._seen:
            return
        self._seen.add(id(item))
        if isinstance(item, Model):
            self.add(item.view)
            self._read(item.label.truth)
            self._name("model", item.name, item)
            self.models[item.name] = item
        elif isinstance(item, FeatureView):
            self.add(item.request)
            for source in sources_of(item):
                self.add(source)
            self._name("view", item.name, item)
            self.views[item.name] = item
        else:
            self._add_class(definition_of(item))

    def _add_class(self, definition: Definition) -> None:
        if isinstance(definition, EventDefinition):
            self._add_event(definition)
        elif isinstance(definition, GroupDefinition):
            assert definition.source is not None
            self.add(definition.source)
            self._name("group or table", definition.name, definition)
            self.groups[definition.name] = definition
        elif isinstance(definition, TableDefinition):
            self._name("group or table", definition.name, definition)
            self.tables[definition.name] = definition
        for expr in definition.computed.values():
            self._read(expr)

    def _add_event(self, definition: EventDefinition) -> None:
        if definition.abstract:
            return
        self._name("stream", definition.name, definition)
        for field in definition.fields.values():
            if isinstance(field.spec.entity, type):
                self.add(root_event(field.spec.entity))
        if definition.parent is None:
            self.streams[definition.name] = definition
        else:
            self.derived[definition.name] = definition
            self.add(definition.parent)
            if definition.where is not None:
                self._read(definition.where)

    def _read(self, expr: Expr[Any]) -> None:
        for part in walk_expr(expr):
            if isinstance(part, ColumnOf):
                self.add(part.owner)

    def _name(self, kind: str, name: str, item: Any) -> None:
        other = self._names.setdefault((kind, name), item)
        if other is not item:
            sites = f"{other.site.at()} and {item.site.at()}"
            raise DefinitionError(f'two different definitions of one {kind} name, "{name}": {sites}; rename one')


def _compile(found: _Collected) -> ProjectPlan:
    compiled = _Sources(found)
    for group in found.groups.values():
        compiled.group(group)
    for derived in found.derived.values():
        compiled.events(derived.cls)
    problems = compiled.problems
    if problems:
        raise PlanError("\n".join(problems))
    groups, tables = compiled.groups, compiled.tables
    views, models = {}, {}
    for name, view in found.views.items():
        try:
            views[name] = compile_view(view, groups, tables)
        except PlanError as error:
            problems.append(f'{view.site.at()} view "{name}": {error}')
    for name, model in found.models.items():
        try:
            models[name] = _model(model, compiled)
        except PlanError as error:
            problems.append(f'{model.site.at()} model "{name}": {error}')
    if problems:
        raise PlanError("\n".join(problems))
    ordered = {name: groups[name] for name in found.groups}
    return ProjectPlan(compiled.streams, ordered, tables, views, models, compiled.derived)


class _Sources:
    """Streams, tables and groups as plans, each after all that it reads."""

    def __init__(self, found: _Collected) -> None:
        self._found = found
        self._done: dict[str, str | None] = {}
        self.streams = {name: _stream(definition) for name, definition in found.streams.items()}
        self.tables = {name: _table(definition) for name, definition in found.tables.items()}
        self.groups: dict[str, GroupPlan] = {}
        self.derived: dict[str, DerivedPlan] = {}
        self.problems: list[str] = []

    def events(self, cls: type) -> StreamPlan | None:
        """The logged stream that holds the events of a class; None if it cannot be planned."""
        logged = event_definition(logged_event(cls))
        if logged.parent is None:
            return self.streams[logged.name]
        if logged.name not in self._done:
            self._done[logged.name] = self._derive(logged)
        topic = self._done[logged.name]
        return None if topic is None else self.derived[topic].stream

    def _derive(self, definition: EventDefinition) -> str | None:
        assert definition.parent is not None
        source = self.events(definition.parent)
        conditions = [] if definition.where is None else [definition.where]
        read = [self._read(expr) for expr in (*definition.computed.values(), *conditions)]
        if source is None or not all(read):
            return None
        noted = Problems(definition.cls.__name__, definition.site)
        plan = compile_derived(definition, source, self.groups, self.tables, noted)
        self.problems += noted.found
        if plan is None:
            return None
        self.derived[plan.topic] = plan
        return plan.topic

    def group(self, definition: GroupDefinition) -> bool:
        """Plan a group; False if it, or something that it reads, cannot be planned."""
        name = f"group {definition.name}"
        if name not in self._done:
            self._done[name] = self._group(definition)
        return self._done[name] is not None

    def _group(self, definition: GroupDefinition) -> str | None:
        assert definition.source is not None
        events = self.events(definition.source)
        read = [self._read(expr) for expr in definition.computed.values()]
        if events is None or not all(read):
            return None
        noted = Problems(definition.cls.__name__, definition.site)
        plan = compile_group(definition, events, self.groups, self.tables, noted)
        self.problems += noted.found
        if plan is None:
            return None
        self.groups[plan.name] = plan
        return plan.name

    def _read(self, expr: Expr[Any]) -> bool:
        """Plan the groups that an expression looks up."""
        owners = {id(part.owner): part.owner for part in walk_expr(expr) if isinstance(part, ColumnOf)}
        looked_up = [definition_of(owner) for owner in owners.values()]
        return all(self.group(other) for other in looked_up if isinstance(other, GroupDefinition))


def _stream(definition: EventDefinition) -> StreamPlan:
    identity = definition.field_of_kind("id")
    return StreamPlan(
        definition.name, schema_of(definition.cls), () if identity is None else (identity,), definition.future_us,
        definition.lateness_us, definition.dedupe_us, definition.owner, definition.doc, definition.tags,
    )  # fmt: skip


def _table(definition: TableDefinition) -> TablePlan:
    schema = schema_of(definition.cls)
    source = definition.source
    query, on = (None, None) if source is None else (source.query.strip(), source.on)
    fields = [[f.name, f.dtype.value, f.nullable, f.size] for f in schema]
    key = [part.name for part in definition.key]
    version = digest([fields, key, schema.time_field, query, on, definition.ttl_us, definition.delay_us])
    return TablePlan(
        definition.name, version, schema, definition.key, query, on, definition.schedule, definition.ttl_us,
        definition.delay_us, definition.checks, definition.owner, definition.doc, definition.tags,
    )  # fmt: skip


def _model(model: Model, sources: _Sources) -> ModelPlan:
    return ModelPlan(
        model.name, model.view.name, _label(model, sources), model.estimator, model.metric, model.train_on_us,
        tuple(_trigger(trigger) for trigger in model.retrain),
        None if model.promote is None else _promotion(model.promote), model.owner, model.doc, model.tags,
    )  # fmt: skip


def _label(model: Model, sources: _Sources) -> LabelPlan:
    assert model.truth_event is not None
    assert model.join_field is not None
    assert model.wait_us is not None
    events = sources.events(model.truth_event)
    assert events is not None, "what cannot be planned was reported before"
    truth, default = model.label.truth, model.label.default
    has_default = default is not MISSING
    read = constant(default) if has_default else None
    return LabelPlan(
        events.name, model.join_field, lower_event(truth, model.truth_event), dtype_of(truth), model.wait_us,
        has_default, read.value if isinstance(read, Constant) else None, lower_conditions(model.truth_event),
    )  # fmt: skip


def _trigger(trigger: DeclaredTrigger) -> Trigger:
    if isinstance(trigger, Every):
        return Trigger("every", (("every_us", parse_duration(trigger.period)),))
    if isinstance(trigger, OnDrift):
        return Trigger("on_drift", (("psi", trigger.psi),))
    return Trigger("on_decay", (("drop", trigger.drop),))


def _promotion(better: Better) -> PromotionPlan:
    steps: list[tuple[str, Any]] = []
    for step in better.steps:
        duration_us = parse_duration(step.duration)
        steps.append(("shadow", duration_us) if isinstance(step, Shadow) else ("canary", (step.share, duration_us)))
    fields = tuple(column_name(column) for column in better.no_worse_in if isinstance(column, ColumnOf))
    return PromotionPlan(parse_duration(better.on), better.confidence, fields, tuple(steps))
