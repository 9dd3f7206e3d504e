"""Derived streams that are logged, to plans: what is looked up at each event of the source, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.errors import PlanError
from headrace.core.schema import DType, Schema
from headrace.features.event import EventDefinition, event_definition, logged_event, logged_schema, own_columns
from headrace.features.event_reads import EventReads
from headrace.features.lower import conjunction
from headrace.features.nodes import Node
from headrace.features.plan import WHERE, DerivedPlan, GroupPlan, StreamPlan, TablePlan, ViewPlan
from headrace.features.site import Problems
from headrace.features.typing_rules import shown
from headrace.features.version import digest
from headrace.features.view_columns import hidden_except


def compile_derived(
    definition: EventDefinition,
    source: StreamPlan,
    groups: Mapping[str, GroupPlan],
    tables: Mapping[str, TablePlan],
    problems: Problems,
) -> DerivedPlan | None:
    """The plan of a logged derived stream whose events come from `source`; None if `problems` got any."""
    before = len(problems.found)
    assert definition.parent is not None
    origin = logged_event(definition.parent)
    request = source.schema
    reads = EventReads(definition.cls, request, groups, tables)
    conditions: list[Node] = []
    for cls in _line(definition.cls, origin):
        described = event_definition(cls)
        assert described.parent is not None
        for name, expr in own_columns(cls).items():
            if expr.dtype is not None and expr.dtype.is_nested:
                problems.add(
                    f"is a {shown(expr.dtype)}, and an event has no column of lists or maps; look a single value up, "
                    "such as one of hr.most_frequent or hr.last",
                    name,
                )
                continue
            try:
                reads.expression(name, expr, described.parent)
            except PlanError as error:
                problems.add(str(error), name)
        if described.where is not None:
            try:
                conditions.append(reads.condition(described.where, described.parent))
            except PlanError as error:
                problems.add(f"where: {error}")
    if len(problems.found) > before:
        return None
    schema = logged_schema(definition.cls)
    computed = [field.name for field in schema if field.name not in request]
    listed = set(computed)
    whole = conjunction(conditions)
    found = reads.found
    if whole is not None:
        listed.add(found.computed(WHERE, whole, DType.BOOL).name)
    columns = hidden_except(found.columns, listed)
    content: list[Any] = [source.name, [[name, found.versions[name]] for name in sorted(listed)]]
    version = digest(content)
    view = ViewPlan(definition.name, version, source.name, request, tuple(found.bindings), columns)
    return DerivedPlan(definition.name, version, _stream(definition, version, schema, source), view)


def _line(cls: type, origin: type) -> list[type]:
    """The classes from the one below `origin` down to `cls`."""
    found: list[type] = []
    while cls is not origin:
        found.insert(0, cls)
        parent = event_definition(cls).parent
        assert parent is not None
        cls = parent
    return found


def _stream(definition: EventDefinition, version: str, schema: Schema, source: StreamPlan) -> StreamPlan:
    return StreamPlan(
        f"{definition.name}-{version}", schema, source.partition_key, source.future_us, source.lateness_us,
        source.dedupe_us, definition.owner, definition.doc, definition.tags,
    )  # fmt: skip
