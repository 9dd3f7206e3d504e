"""Feature groups to plans: inputs shared, windows resolved, versions by content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.aggregations.registry import aggregation
from headrace.core.errors import PlanError
from headrace.core.schema import DType
from headrace.features.aggregate import Aggregate
from headrace.features.column import ColumnOf, column_name
from headrace.features.definition import definition_of
from headrace.features.expr import Expr
from headrace.features.group import GroupDefinition
from headrace.features.keys import bind_key
from headrace.features.lists import list_size
from headrace.features.lower import dtype_of, lower, lower_conditions, lower_event
from headrace.features.nodes import Call, ColumnRef, Node
from headrace.features.plan import (
    AggregateSpec,
    DerivedSpec,
    FeatureRead,
    GroupPlan,
    InputSpec,
    KeyPart,
    StreamPlan,
    TablePlan,
)
from headrace.features.site import Problems
from headrace.features.version import digest, node_content
from headrace.features.view_columns import feature_versions


class _Inputs:
    """Input columns of a group; equal expressions share one."""

    def __init__(self, source: type) -> None:
        self._source = source
        self.specs: list[InputSpec] = []
        self._index: dict[Node, int] = {}

    def add(self, expr: Expr[Any] | None, *, hashed: bool = False, whole: bool = False) -> int | None:
        """The input that holds the expression, or the hashes of its texts; with `whole`, its lists as texts."""
        if expr is None:
            return None
        node, dtype = lower_event(expr, self._source), dtype_of(expr)
        if hashed and dtype is DType.STRING:
            node, dtype = Call("xxh64", (node,), DType.INT), DType.INT
        if whole and dtype is DType.LIST:
            node, dtype = Call("packed", (node,), DType.STRING), DType.STRING
        index = self._index.setdefault(node, len(self.specs))
        if index == len(self.specs):
            self.specs.append(InputSpec(node, dtype, list_size(expr) if dtype is DType.LIST else None))
        return index


def compile_group(
    definition: GroupDefinition,
    events: StreamPlan,
    groups: Mapping[str, GroupPlan],
    tables: Mapping[str, TablePlan],
    problems: Problems,
) -> GroupPlan | None:
    """The plan of a group over the logged stream `events`; None if `problems` got any.

    `groups` and `tables` are the plans of those that it reads.
    """
    before = len(problems.found)
    assert definition.source is not None
    inputs = _Inputs(definition.source)
    where, key = _source(definition, problems)
    stream = events.name
    # A renamed field is the same field: versions are made of the oldest names.
    names: Mapping[str, str] = events.schema.first_names
    content = [
        stream,
        node_content(where, names),
        [[names.get(part.name, part.name), part.dtype.value] for part in key],
        definition.resolution_us,
    ]
    aggregates = []
    for name, expr in definition.computed.items():
        if isinstance(expr, Aggregate):
            try:
                aggregates.append(_aggregate(definition, name, expr, inputs, content, names))
            except PlanError as error:
                problems.add(str(error), name)
    versions = {spec.name: spec.version for spec in aggregates}
    derived = _derived(definition, versions, names, feature_versions(groups, tables), problems)
    if len(problems.found) > before:
        return None
    state = [
        [s.kind, s.input, s.where, s.window_us, s.hop_us, s.delay_us, list(s.params), *([] if s.by is None else [s.by])]
        for s in aggregates
    ]
    version = digest([*content, [node_content(spec.node, names) for spec in inputs.specs], state])
    return GroupPlan(
        definition.name, version, stream, where, key, tuple(inputs.specs), tuple(aggregates), derived,
        tuple(definition.computed), definition.resolution_us, definition.owner, definition.doc, definition.tags,
    )  # fmt: skip


def _source(definition: GroupDefinition, problems: Problems) -> tuple[Node | None, tuple[KeyPart, ...]]:
    where: Node | None = None
    key = []
    assert definition.source is not None
    try:
        where = lower_conditions(definition.source, definition.where)
    except PlanError as error:
        problems.add(f"where: {error}")
    for part in definition.key:
        try:
            node = lower_event(getattr(definition.source, part.name), definition.source)
            if not isinstance(node, ColumnRef):
                raise PlanError(f"is computed; say what it names: {part.name} = (...).as_key(Entity)")
            key.append(KeyPart(node.name, part.dtype, part.entity))
        except PlanError as error:
            problems.add(f'key "{part.name}" {error}')
    return where, tuple(key)


def _aggregate(
    definition: GroupDefinition,
    name: str,
    expr: Aggregate[Any],
    inputs: _Inputs,
    content: list[Any],
    names: Mapping[str, str],
) -> AggregateSpec:
    kind = aggregation(expr.kind)
    window = definition.windows[name]
    column = inputs.add(expr.input, hashed=kind.hashes_texts, whole=kind.packs_lists)
    where, by = inputs.add(expr.where), inputs.add(expr.by)
    read = (column, where) if by is None else (column, where, by)
    nodes = [None if index is None else node_content(inputs.specs[index].node, names) for index in read]
    params = tuple(sorted(expr.params.items()))
    version = digest([*content, expr.kind, nodes, window.window_us, window.hop_us, window.delay_us, list(params)])
    return AggregateSpec(
        name, expr.kind, column, where, window.window_us, window.hop_us, window.delay_us, dtype_of(expr), params,
        version, expr.doc, by,
    )  # fmt: skip


def _derived(
    definition: GroupDefinition,
    versions: dict[str, Any],
    first_names: Mapping[str, str],
    features: Mapping[tuple[str, str], str],
    problems: Problems,
) -> tuple[DerivedSpec, ...]:
    """Features of features; `features` are the versions of those of other groups and tables."""
    names = {id(expr): name for name, expr in definition.computed.items()}
    specs = []
    for name, expr in definition.computed.items():
        if isinstance(expr, Aggregate):
            continue
        reads: dict[str, FeatureRead] = {}

        def resolve(part: Expr[Any], whole: Expr[Any] = expr, reads: dict[str, FeatureRead] = reads) -> Node | None:
            if part is not whole and id(part) in names:
                return ColumnRef(names[id(part)], dtype_of(part))
            if not isinstance(part, ColumnOf):
                return None
            read = reads[column_name(part)] = _read(definition, part)
            return ColumnRef(read.name, read.dtype)

        try:
            node = lower(expr, resolve)
        except PlanError as error:
            problems.add(str(error), name)
            continue
        elsewhere = {
            read.name: [features[read.source, read.feature], [first_names.get(key, key) for key in read.keys]]
            for read in reads.values()
        }
        versions[name] = digest(node_content(node, versions | elsewhere))
        specs.append(DerivedSpec(name, node, dtype_of(expr), versions[name], reads=tuple(reads.values())))
    return tuple(specs)


def _read(definition: GroupDefinition, column: ColumnOf[Any]) -> FeatureRead:
    """What a column of another group or a table means in a feature of this group: looked up by this group's key."""
    keys = bind_key(column.owner, definition.scope())
    if isinstance(keys, str):
        raise PlanError(keys)
    other = definition_of(column.owner)
    return FeatureRead(column_name(column), other.name, other.kind == "table", column.name, dtype_of(column), keys)
