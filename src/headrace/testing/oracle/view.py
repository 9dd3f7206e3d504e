"""A whole row of a feature view for one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.features.plan import Binding, FeatureRead, ProjectPlan, ViewPlan
from headrace.testing.oracle.events import Event
from headrace.testing.oracle.expressions import evaluate
from headrace.testing.oracle.rounding import clean
from headrace.testing.oracle.tables import TableRow, latest
from headrace.testing.oracle.windows import group_row


def view_row(
    project: ProjectPlan,
    view: ViewPlan,
    request: Mapping[str, Any],
    t_us: int,
    events: Mapping[str, Sequence[Event]],
    table_rows: Mapping[str, Sequence[TableRow]],
    positions: Mapping[str, Sequence[int]] | None = None,
    table_position: int | None = None,
) -> dict[str, Any]:
    """The visible columns of `view` for `request` at t, in output order; None is null.

    `events` are the counted events by stream, `table_rows` the rows as written by table. `positions` (by stream) and
    `table_position` limit both to what was known; None is everything.
    """

    def looked_up(binding: Binding) -> Mapping[str, Any]:
        return features_of(binding.source, binding.is_table, tuple(scope[name] for name in binding.request_keys))

    def features_of(source: str, is_table: bool, key: tuple[Any, ...]) -> Mapping[str, Any]:
        if is_table:
            return latest(project.tables[source], key, t_us, table_rows.get(source, ()), table_position) or {}
        group = project.groups[source]
        position = None if positions is None else positions[group.stream]
        return group_row(group, key, t_us, events.get(group.stream, ()), position, feature_of)

    def feature_of(read: FeatureRead, key: tuple[Any, ...]) -> Any:
        return clean(features_of(read.source, read.is_table, key).get(read.feature), read.dtype)

    scope = {field.name: clean(request.get(field.name), field.dtype) for field in view.request}
    found = [looked_up(binding) for binding in view.bindings]
    for column in view.columns:
        if column.origin == "computed":
            assert column.node is not None
            scope[column.name] = evaluate(column.node, scope)
        elif column.origin == "feature":
            assert column.binding is not None
            assert column.feature is not None
            scope[column.name] = clean(found[column.binding].get(column.feature), column.dtype)
    return {column.name: scope[column.name] for column in view.visible}
