"""Views to plans: keys bound, hidden columns added, each computed column after all that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.errors import PlanError
from headrace.core.schema import DType
from headrace.features.aggregate import Aggregate
from headrace.features.column import ColumnOf, column_name
from headrace.features.definition import Definition, definition_of
from headrace.features.event import event_definition, event_scope, schema_of
from headrace.features.expr import Expr
from headrace.features.keys import bind_key
from headrace.features.lower import NOT_YET, dtype_of, lower
from headrace.features.nodes import Call, ColumnRef, Literal, Node
from headrace.features.plan import Binding, GroupPlan, TablePlan, ViewColumn, ViewPlan
from headrace.features.version import digest, node_content
from headrace.features.view import FeatureView

_CALENDAR = ("hour", "weekday", "month", "day")


def compile_view(view: FeatureView, groups: Mapping[str, GroupPlan], tables: Mapping[str, TablePlan]) -> ViewPlan:
    """The plan of a view over these plans of its groups and tables.

    Raises PlanError for what this version cannot compute.
    """
    if event_definition(view.request).parent is not None:
        raise PlanError(f"a view over the derived stream {view.request.__name__} is {NOT_YET}")
    builder = _Builder(view, feature_versions(groups, tables))
    for column in view.columns:
        builder.add(column)
    listed = {column_name(column) for column in view.columns}
    columns = tuple(_with_hidden(column, column.name not in listed) for column in builder.columns.values())
    # A request field that the model sees goes by its own name and type; what is computed from one, by its oldest name.
    shown: list[Any] = [
        [column.name, column.dtype.value] if column.origin == "request" else builder.versions[column.name]
        for column in columns
        if not column.hidden
    ]
    request = schema_of(view.request)
    return ViewPlan(
        view.name, digest([request.name, shown]), request.name, request, tuple(builder.bindings), columns,
        view.owner, view.doc,
    )  # fmt: skip


def feature_versions(groups: Mapping[str, GroupPlan], tables: Mapping[str, TablePlan]) -> dict[tuple[str, str], str]:
    """Versions by (group or table, local feature name)."""
    found = {}
    for group in groups.values():
        found.update({(group.name, spec.name): spec.version for spec in group.aggregates})
        found.update({(group.name, spec.name): spec.version for spec in group.derived})
    for table in tables.values():
        for field in table.features:
            found[table.name, field.name] = digest([table.version, field.name])
    return found


class _Builder:
    """Collects the bindings and columns of one view, dependencies first."""

    def __init__(self, view: FeatureView, features: Mapping[tuple[str, str], str]) -> None:
        self.scope = event_scope(view.request)
        self.first_names = schema_of(view.request).first_names
        self.features = features
        self.bindings: list[Binding] = []
        self.columns: dict[str, ViewColumn] = {}
        self.versions: dict[str, str] = {}

    def add(self, column: ColumnOf[Any]) -> ColumnRef:
        """Make sure that the column is there; the reference to it."""
        name = column_name(column)
        if name not in self.columns:
            definition = definition_of(column.owner)
            if definition.kind == "event":
                self._keep(
                    ViewColumn(name, dtype_of(column), "request", doc=definition.fields[name].spec.doc),
                    self.first_names[name],
                )
            elif definition.kind == "onrequest":
                self._add_computed(definition, column.name)
            else:
                self._add_feature(definition, column, name)
        return ColumnRef(name, dtype_of(column))

    def _add_feature(self, definition: Definition, column: ColumnOf[Any], name: str) -> None:
        keys = bind_key(column.owner, self.scope)
        if isinstance(keys, str):
            raise PlanError(keys)
        bound: tuple[ColumnOf[Any], ...] = getattr(column.owner, "__bound__", ())
        prefix = "".join(f"{part.name}__" for part in bound)
        binding = Binding(definition.name, definition.kind == "table", prefix, keys)
        if binding not in self.bindings:
            self.bindings.append(binding)
        version = digest(
            [self.features[definition.name, column.name], [self.first_names.get(key, key) for key in keys]]
        )
        index = self.bindings.index(binding)
        doc = _doc(definition, column.name)
        self._keep(ViewColumn(name, dtype_of(column), "feature", index, column.name, doc=doc), version)

    def _add_computed(self, definition: Definition, feature: str) -> None:
        name = f"{definition.name}__{feature}"
        if name in self.columns:
            return
        names = {id(expr): other for other, expr in definition.computed.items()}
        whole = definition.computed[feature]

        def resolve(part: Expr[Any]) -> Node | None:
            if part is not whole and id(part) in names:
                self._add_computed(definition, names[id(part)])
                return ColumnRef(f"{definition.name}__{names[id(part)]}", dtype_of(part))
            return self.add(part) if isinstance(part, ColumnOf) else None

        node = lower(whole, resolve)
        version = digest(node_content(node, self.versions))
        calendar = self._is_calendar(node)
        self._keep(ViewColumn(name, dtype_of(whole), "computed", node=node, calendar=calendar), version)

    def _keep(self, column: ViewColumn, version: str) -> None:
        self.columns[column.name] = column
        self.versions[column.name] = version

    def _is_calendar(self, node: Node) -> bool:
        """True if all that the expression reads is the calendar date or hour of the request's own times."""
        if isinstance(node, Literal):
            return True
        if isinstance(node, ColumnRef):
            return self.columns[node.name].calendar
        if isinstance(node, Call) and node.op in _CALENDAR and isinstance(node.args[0], ColumnRef):
            read = self.columns[node.args[0].name]
            if read.origin == "request" and read.dtype is DType.TIMESTAMP:
                return True
        return all(self._is_calendar(arg) for arg in node.args)


def _doc(definition: Definition, name: str) -> str:
    if name in definition.fields:
        return definition.fields[name].spec.doc
    expr = definition.computed[name]
    return expr.doc if isinstance(expr, Aggregate) else ""


def _with_hidden(column: ViewColumn, hidden: bool) -> ViewColumn:
    return ViewColumn(
        column.name, column.dtype, column.origin, column.binding, column.feature, column.node, hidden,
        column.calendar, column.doc,
    )  # fmt: skip
