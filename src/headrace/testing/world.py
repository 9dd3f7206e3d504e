"""Tests of features, in memory: give events and table rows, read with the verbs of a project.

Every read runs all paths (the oracle; history and online reads of a log as it came, with restarts midway, and shuffled
with duplicates) and raises AssertionError if any two differ in a bit, so that each test is also a test of parity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, overload

from headrace.app.history import listed_columns, spine_columns, spine_table, spine_view
from headrace.app.lookups import TIME, group_view, key_values
from headrace.app.rows import Row, python_values, request_columns
from headrace.app.times import Time, given_us
from headrace.core.columns import Column, column_of
from headrace.core.errors import SchemaError
from headrace.core.schema import DType, Field, Schema
from headrace.features.compile import compile_project
from headrace.features.definition import definition_of, unbound
from headrace.features.event import Event
from headrace.features.group import FeatureGroup, instance_of
from headrace.features.plan import Binding, KeyPart, ProjectPlan, TablePlan, ViewColumn, ViewPlan
from headrace.features.table import Table
from headrace.features.view import FeatureView
from headrace.retrieval.rows import Rows
from headrace.testing.arrivals import Arrival, Late, arrivals_of, late
from headrace.testing.oracle import latest
from headrace.testing.paths import Answer, Paths

G = TypeVar("G", bound=FeatureGroup)
T = TypeVar("T", bound=Table)


def given(*items: Event | Table | Late) -> World:
    """A world in which exactly this has arrived.

    An event or table row arrives at its event time, one wrapped in `late(..., by="5m")` that much later; a row of a
    table without event time was always there. Items of one moment arrive in the order in which they are given, which is
    also the write order of table rows. A table row counts from its arrival on: it is never read at a time before that
    (the `delay` of a table concerns backfills and does nothing here).

    Raises SchemaError naming item and field if an item does not fit its declaration.
    """
    return World(arrivals_of(items))


class World:
    """What was given, read with the verbs of a project. Made by `given`.

    A read is of the time that it names, after everything that was given has arrived. `served=True` reads what was known
    at that time: only what had arrived before it. A time that is left out is the moment after the last arrival.

    Every read raises AssertionError, naming columns, values and paths, if two paths to a value disagree, and PlanError
    for definitions that this version cannot compute.
    """

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._arrivals = list(arrivals)
        self._kept: dict[int, tuple[Any, Paths]] = {}
        timed = [arrival.arrival_us for arrival in arrivals if arrival.time_us is not None]
        self._now_us = max(timed, default=-1) + 1

    def online(self, view: FeatureView, request: Event | Mapping[str, Any], *, served: bool = False) -> Row:
        """The features of one request, an event or a mapping of its fields."""
        paths = self._paths(view)
        plan = paths.plan.views[view.name]
        columns = request_columns(plan.request, [request], self._now_us)
        answer = paths.read(plan, columns, served=served)
        asked_us = int(columns[plan.request.time_field or ""].values[0])
        newest_us = max(answer.position.clock_us.values(), default=None)
        age = None if newest_us is None else timedelta(microseconds=asked_us - newest_us)
        return Row(python_values(columns | _columns(plan, answer)), answer.position, age)

    @overload
    def get(self, source: type[G], *, at: Time | None = None, served: bool = False, **key: Any) -> G: ...
    @overload
    def get(self, source: type[T], *, at: Time | None = None, served: bool = False, **key: Any) -> T | None: ...
    def get(self, source: Any, *, at: Time | None = None, served: bool = False, **key: Any) -> Any:
        """The row of one key of a group or table, as an instance of its class: `.get(Spend, sender="u1", at=t)`.

        A table gives None if there is no row; a group of an unseen entity has empty windows.
        """
        kind = definition_of(source).kind if isinstance(source, type) else ""
        if kind not in ("group", "table"):
            raise SchemaError(f"get reads a feature group or a table, not {source!r}; read a view with online(...)")
        source = unbound(source)
        paths = self._paths(source)
        name = definition_of(source).name
        at_us = given_us(at, "at")
        t = self._now_us if at_us is None else at_us
        if kind == "table":
            return self._table_row(paths, source, paths.plan.tables[name], key, t, served)
        group = paths.plan.groups[name]
        view = group_view(group, paths.plan)
        answer = paths.read(view, _key_columns(name, group.key, key, t), served=served)
        return instance_of(source, python_values(_columns(view, answer)))

    def history(self, what: Any, rows: Any, *, served: bool = False) -> Rows:
        """The features of each row at the row's own time, beside the row's own columns.

        `what` is a view, or groups, tables and features, which are looked up by columns that are named as their keys
        (or as `.of(...)` says). `rows` are events, mappings, Arrow, pandas or Polars.
        """
        if isinstance(what, FeatureView):
            paths = self._paths(what)
            view = paths.plan.views[what.name]
            request, extra = spine_columns(view.request, rows)
        else:
            columns = listed_columns(what if isinstance(what, list | tuple) else [what], lambda name: name)
            paths = Paths(self._plan([unbound(column.owner) for column in columns]), self._arrivals)
            spine = spine_table(rows)
            view = spine_view(paths.plan, columns, spine)
            request, extra = spine_columns(view.request, spine)
        answer = paths.read(view, request, served=served)
        return Rows(request | extra | _columns(view, answer), answer.position)

    def _table_row(
        self, paths: Paths, source: type, table: TablePlan, key: Mapping[str, Any], t: int, served: bool
    ) -> Any:
        request = _key_columns(table.name, table.key, key, t)
        view = _table_view(table)
        answer = paths.read(view, request, served=served)
        entity = tuple(request[part.name].to_pylist()[0] for part in table.key)
        position = paths.positions(t)[1] if served else None
        found = latest(table, entity, t, paths.table_rows[table.name], position)
        if found is None:
            return None
        others = {f.name: column_of(f.dtype, [found[f.name]]) for f in table.schema if f not in table.features}
        return source(**python_values(others | _columns(view, answer)))

    def _paths(self, what: Any) -> Paths:
        """The paths for a view or class, kept for further reads."""
        if id(what) not in self._kept:
            self._kept[id(what)] = (what, Paths(self._plan([what]), self._arrivals))
        return self._kept[id(what)][1]

    def _plan(self, definitions: Sequence[Any]) -> ProjectPlan:
        return compile_project([*definitions, *dict.fromkeys(arrival.cls for arrival in self._arrivals)])


def _columns(view: ViewPlan, answer: Answer) -> dict[str, Column]:
    return {c.name: column_of(c.dtype, [row[c.name] for row in answer.rows]) for c in view.visible}


def _key_columns(name: str, parts: tuple[KeyPart, ...], key: Mapping[str, Any], t: int) -> dict[str, Column]:
    """One request for a key at a time."""
    values = key_values(name, parts, key)
    columns = {part.name: column_of(part.dtype, [values[part.name]]) for part in parts}
    return columns | {TIME: column_of(DType.TIMESTAMP, [t])}


def _table_view(table: TablePlan) -> ViewPlan:
    """A view of all features of one table, asked by its key and a time; columns have the features' own names."""
    fields = (*[Field(p.name, p.dtype, True, entity=p.entity) for p in table.key], Field(TIME, DType.TIMESTAMP))
    binding = Binding(table.name, True, "", tuple(part.name for part in table.key))
    columns = tuple(ViewColumn(f.name, f.dtype, "feature", 0, f.name) for f in table.features)
    return ViewPlan(f"get {table.name}", table.version, "", Schema("key", fields, TIME), (binding,), columns)


__all__ = ["World", "given", "late"]
