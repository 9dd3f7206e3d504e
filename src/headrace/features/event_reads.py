"""What is read at one event or request: its fields, what is looked up by them, and expressions over both.

A name used in an expression is read as of the event's own time; so views, on-request features and derived streams that
look something up are all made here, of the same bindings and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.errors import PlanError
from headrace.core.schema import DType, Schema
from headrace.features.aggregate import Aggregate
from headrace.features.column import ColumnOf, column_name
from headrace.features.definition import Definition, definition_of
from headrace.features.event import event_definition, event_scope, own_columns
from headrace.features.expr import Expr
from headrace.features.keys import bind_key
from headrace.features.lower import NOT_YET, Resolve, dtype_of, lower
from headrace.features.nodes import Call, ColumnRef, Literal, Node
from headrace.features.plan import Binding, GroupPlan, TablePlan, ViewColumn
from headrace.features.view_columns import ViewColumns

_CALENDAR = ("hour", "weekday", "month", "day")


class EventReads:
    """Collects bindings and columns of what is read at events of `cls`, whose fields at hand are those of `fields`.

    A column of the event class that is no field is computed from fields and what it looks up.
    """

    def __init__(
        self, cls: type, fields: Schema, groups: Mapping[str, GroupPlan], tables: Mapping[str, TablePlan]
    ) -> None:
        self.cls = cls
        self.fields = fields
        self.found = ViewColumns(groups, tables, fields.first_names)

    def add(self, column: ColumnOf[Any]) -> ColumnRef:
        """Make sure that a column of a view is there; the reference to it."""
        definition = definition_of(column.owner)
        if definition.kind == "onrequest":
            return self._on_request(definition, column.name)
        if definition.kind == "event" and column.name not in self.fields:
            self.expression(column_name(column), column, self.cls)
            return ColumnRef(column_name(column), dtype_of(column))
        found = self._resolved(column, self.cls)
        assert isinstance(found, ColumnRef)
        return found

    def expression(self, name: str, expr: Expr[Any], at: type) -> None:
        """Add the computed column `name`: an expression over events of `at` and what is looked up by their columns."""
        node = lower(expr, self._resolve(at))
        self.found.computed(name, node, dtype_of(expr), calendar=self._is_calendar(node))

    def condition(self, expr: Expr[bool], at: type) -> Node:
        """The node of a condition over events of `at`; what it looks up is added."""
        return lower(expr, self._resolve(at))

    def _resolve(self, at: type) -> Resolve:
        return lambda part: self._resolved(part, at) if isinstance(part, ColumnOf) else None

    def _resolved(self, column: ColumnOf[Any], at: type) -> Node:
        definition = definition_of(column.owner)
        if definition.kind == "onrequest":
            return self._on_request(definition, column.name)
        if definition.kind != "event":
            return self._looked_up(column, at)
        if column.name in self.fields:
            return self._field(column, definition)
        defining = column.owner
        while column.name not in own_columns(defining):
            parent = event_definition(defining).parent
            assert parent is not None
            defining = parent
        parent = event_definition(defining).parent
        assert parent is not None
        return lower(own_columns(defining)[column.name], self._resolve(parent))

    def _field(self, column: ColumnOf[Any], definition: Definition) -> ColumnRef:
        name = column.name
        if name not in self.found.columns:
            doc = definition.fields[name].spec.doc if name in definition.fields else ""
            self.found.keep(ViewColumn(name, dtype_of(column), "request", doc=doc), self.fields[name].first_name)
        return ColumnRef(name, dtype_of(column))

    def _looked_up(self, column: ColumnOf[Any], at: type) -> ColumnRef:
        definition = definition_of(column.owner)
        bound = bind_key(column.owner, event_scope(at))
        if isinstance(bound, str):
            raise PlanError(bound)
        keys = tuple(self._key_field(name, at, column) for name in bound)
        given: tuple[ColumnOf[Any], ...] = getattr(column.owner, "__bound__", ())
        prefix = "".join(f"{part.name}__" for part in given)
        name = column_name(column)
        stem = name[: len(name) - len(column.name)]
        binding = Binding(definition.name, definition.kind == "table", prefix, keys)
        known = self.found.columns.get(name)
        if known is not None and not self._same(known, binding):
            # Two classes in one line of descent may find the same table by different fields.
            stem = "_" + "".join(f"{key}__" for key in keys) + f"{definition.name}__"
        return self.found.feature(stem, binding, column.name, dtype_of(column), _doc(definition, column.name))

    def _same(self, column: ViewColumn, binding: Binding) -> bool:
        if column.binding is None:
            return True
        return self.found.bindings[column.binding].request_keys == binding.request_keys

    def _key_field(self, name: str, at: type, column: ColumnOf[Any]) -> str:
        """The field at hand that holds the column `name` of events of `at`, by which `column` is looked up."""
        while name not in self.fields:
            expr = event_definition(at).computed[name]
            if not isinstance(expr, ColumnOf) or definition_of(expr.owner).kind != "event":
                raise PlanError(
                    f"{column!r} is looked up by {at.__name__}.{name}, which is computed or looked up itself; a key "
                    f"of a key at one request is {NOT_YET}: derive a stream that looks {name} up, and read from that"
                )
            name = expr.name
        return name

    def _on_request(self, definition: Definition, feature: str) -> ColumnRef:
        name = f"{definition.name}__{feature}"
        whole = definition.computed[feature]
        if name not in self.found.columns:
            names = {id(expr): other for other, expr in definition.computed.items()}

            def resolve(part: Expr[Any]) -> Node | None:
                if part is not whole and id(part) in names:
                    return self._on_request(definition, names[id(part)])
                return self._resolved(part, self.cls) if isinstance(part, ColumnOf) else None

            node = lower(whole, resolve)
            self.found.computed(name, node, dtype_of(whole), calendar=self._is_calendar(node))
        return ColumnRef(name, dtype_of(whole))

    def _is_calendar(self, node: Node) -> bool:
        """True if all that the expression reads is the calendar date or hour of the request's own times."""
        if isinstance(node, Literal):
            return True
        if isinstance(node, ColumnRef):
            return self.found.columns[node.name].calendar
        if isinstance(node, Call) and node.op in _CALENDAR and isinstance(node.args[0], ColumnRef):
            read = self.found.columns[node.args[0].name]
            if read.origin == "request" and read.dtype is DType.TIMESTAMP:
                return True
        return all(self._is_calendar(arg) for arg in node.args)


def _doc(definition: Definition, name: str) -> str:
    if name in definition.fields:
        return definition.fields[name].spec.doc
    expr = definition.computed[name]
    return expr.doc if isinstance(expr, Aggregate) else ""
