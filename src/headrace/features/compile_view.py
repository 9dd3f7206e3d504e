"""Views to plans: keys bound, hidden columns added, each computed column after all that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.schema import DType
from headrace.features.column import column_name
from headrace.features.event import event_definition, root_event, schema_of
from headrace.features.event_reads import EventReads
from headrace.features.lower import conjunction
from headrace.features.nodes import Node
from headrace.features.plan import WHERE, GroupPlan, TablePlan, ViewPlan
from headrace.features.version import digest
from headrace.features.view import FeatureView
from headrace.features.view_columns import hidden_except


def compile_view(view: FeatureView, groups: Mapping[str, GroupPlan], tables: Mapping[str, TablePlan]) -> ViewPlan:
    """The plan of a view over these plans of its groups and tables.

    A request for a derived stream holds the fields of its raw stream; what the stream computes is computed for the
    request. Raises PlanError for what this version cannot compute.
    """
    request = schema_of(view.request)
    reads = EventReads(view.request, request, groups, tables)
    for column in view.columns:
        reads.add(column)
    where = _where(reads, view.request)
    found = reads.found
    columns = hidden_except(found.columns, {column_name(column) for column in view.columns})
    # A request field that the model sees goes by its own name and type; what is computed from one, by its oldest name.
    shown: list[Any] = [
        [column.name, column.dtype.value] if column.origin == "request" else found.versions[column.name]
        for column in columns
        if not column.hidden
    ]
    content = [request.name, shown] if where is None else [request.name, shown, found.versions[where]]
    return ViewPlan(
        view.name, digest(content), request.name, request, tuple(found.bindings), columns, view.owner, view.doc, where,
        view.tags,
    )  # fmt: skip


def _where(reads: EventReads, request: type) -> str | None:
    """Add the conditions that events have to meet to be requests; the name of that column, None if there are none."""
    cls, root = request, root_event(request)
    nodes: list[Node] = []
    while cls is not root:
        definition = event_definition(cls)
        assert definition.parent is not None
        if definition.where is not None:
            nodes.insert(0, reads.condition(definition.where, definition.parent))
        cls = definition.parent
    whole = conjunction(nodes)
    return None if whole is None else reads.found.computed(WHERE, whole, DType.BOOL).name
