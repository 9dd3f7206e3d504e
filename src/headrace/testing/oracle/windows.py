"""Which events a windowed feature is made of, and what it is then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.features.plan import AggregateSpec, FeatureRead, GroupPlan
from headrace.testing.oracle.aggregations import Row, aggregate
from headrace.testing.oracle.events import Event
from headrace.testing.oracle.expressions import evaluate


def floor_to_multiple(x: int, step: int) -> int:
    """The greatest multiple of `step` that is not above `x`."""
    return x // step * step


def edges(group: GroupPlan, spec: AggregateSpec, t_us: int) -> tuple[int | None, int]:
    """(lo, hi) of the window at t: events with lo <= event time < hi are in it. lo is None for the whole lifetime."""
    hi = floor_to_multiple(t_us - spec.delay_us, group.resolution_us)
    if spec.window_us is None:
        return None, hi
    return floor_to_multiple(hi - spec.window_us, spec.hop_us), hi


def members(
    group: GroupPlan,
    spec: AggregateSpec,
    entity: tuple[Any, ...],
    t_us: int,
    events: Sequence[Event],
    position: Sequence[int] | None = None,
) -> list[Event]:
    """The counted `events` of the group's stream that the feature's window holds for `entity` at t, in order.

    `position` (first offset not known, per partition) limits them to what was known; None is everything. The feature's
    own condition is not looked at.
    """
    lo, hi = edges(group, spec, t_us)
    chosen = []
    for event in sorted(events, key=lambda event: event.order):
        known = position is None or event.offset < position[event.partition]
        inside = event.event_time_us < hi and (lo is None or lo <= event.event_time_us)
        wanted = group.where is None or evaluate(group.where, event.row) is True
        if known and inside and wanted and _belongs(group, event, entity):
            chosen.append(event)
    return chosen


def window_value(
    group: GroupPlan,
    spec: AggregateSpec,
    entity: tuple[Any, ...],
    t_us: int,
    events: Sequence[Event],
    position: Sequence[int] | None = None,
) -> Any:
    """The value of an aggregated feature for `entity` at t; None is null. Arguments as for `members`."""
    lo, hi = edges(group, spec, t_us)
    rows = [
        Row(event.event_time_us, tuple(evaluate(source.node, event.row) for source in group.inputs))
        for event in members(group, spec, entity, t_us, events, position)
    ]
    return aggregate(spec, rows, t_us, lo, hi)


def group_row(
    group: GroupPlan,
    entity: tuple[Any, ...],
    t_us: int,
    events: Sequence[Event],
    position: Sequence[int] | None = None,
    look_up: Callable[[FeatureRead, tuple[Any, ...]], Any] | None = None,
) -> dict[str, Any]:
    """All features of the group by name, in declared order: the aggregated ones and those made of them.

    `look_up` gives a feature of another group or a table for a key; needed if the group reads any.
    """
    row = {spec.name: window_value(group, spec, entity, t_us, events, position) for spec in group.aggregates}
    key = {part.name: value for part, value in zip(group.key, entity, strict=True)}
    for derived in group.derived:
        scope = dict(row)
        for read in derived.reads:
            assert look_up is not None, f"{group.name}.{derived.name} reads {read.name}"
            scope[read.name] = look_up(read, tuple(key[name] for name in read.keys))
        row[derived.name] = evaluate(derived.node, scope)
    return {name: row[name] for name in group.order}


def _belongs(group: GroupPlan, event: Event, entity: tuple[Any, ...]) -> bool:
    """True if the event is of the entity; a null part, on either side, belongs to nobody."""
    key = [event.row[part.name] for part in group.key]
    if None in key or None in entity:
        return False
    return len(key) == len(entity) and all(type(a) is type(b) and a == b for a, b in zip(key, entity, strict=True))
