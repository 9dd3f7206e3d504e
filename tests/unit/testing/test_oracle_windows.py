"""Membership of windows, worked by hand: half-open edges, hops, delays, conditions, keys, order, positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headrace.core.schema import DType, Field, Schema
from headrace.features.nodes import Call, ColumnRef, Literal, Node
from headrace.features.plan import AggregateSpec, DerivedSpec, GroupPlan, InputSpec, KeyPart, StreamPlan
from headrace.testing.oracle import Event, RawEvent, group_row, judge, members, window_value
from headrace.testing.oracle.windows import edges

X = ColumnRef("x", DType.FLOAT)
STREAM = StreamPlan(
    "s",
    Schema(
        "s",
        (
            Field("user", DType.STRING, nullable=True),
            Field("shop", DType.INT, nullable=True),
            Field("x", DType.FLOAT, nullable=True),
            Field("flag", DType.BOOL, nullable=True),
            Field("at", DType.TIMESTAMP),
        ),
        "at",
    ),
    future_us=10**18,
)
COUNT = AggregateSpec("n", "count", None, None, 60, 1, 0, DType.INT)


def group(
    *aggregates: AggregateSpec, key: str = "user", where: Node | None = None, resolution_us: int = 1
) -> GroupPlan:
    dtypes = {"user": DType.STRING, "shop": DType.INT}
    return GroupPlan(
        name="g",
        version="0" * 16,
        stream="s",
        where=where,
        key=tuple(KeyPart(name, dtypes[name], None) for name in key.split()),
        inputs=(InputSpec(X, DType.FLOAT),),
        aggregates=aggregates,
        derived=(),
        order=tuple(spec.name for spec in aggregates),
        resolution_us=resolution_us,
    )


def happened(*times: int, **fields: Any) -> list[Event]:
    row = {"user": "ann", "shop": 1, "x": 1.0, **fields}
    return judge(STREAM, [RawEvent(0, offset, time, {**row, "at": time}) for offset, time in enumerate(times)])


def times_in(spec: AggregateSpec, t: int, events: list[Event], resolution_us: int = 1) -> list[int]:
    held = members(group(spec, resolution_us=resolution_us), spec, ("ann",), t, events)
    return [event.event_time_us for event in held]


def test_an_event_at_t_is_outside_and_one_just_before_inside() -> None:
    assert times_in(COUNT, 100, happened(99, 100, 101)) == [99]


def test_the_lower_edge_is_inside() -> None:
    assert times_in(COUNT, 100, happened(39, 40, 41)) == [40, 41]


def test_the_lower_edge_is_floored_to_the_hop() -> None:
    spec = replace(COUNT, hop_us=20)
    # hi = 119, hi − 60 = 59, floored to 40.
    assert times_in(spec, 119, happened(39, 40, 59, 118, 119)) == [40, 59, 118]
    assert times_in(spec, 120, happened(39, 40, 59, 60)) == [60]


def test_flooring_goes_toward_minus_infinity() -> None:
    spec = replace(COUNT, hop_us=20)
    # hi = −5, hi − 60 = −65, floored to −80.
    assert edges(group(spec), spec, -5) == (-80, -5)
    assert times_in(spec, -5, happened(-81, -80, -65, -6, -5)) == [-80, -65, -6]


def test_the_upper_edge_is_floored_to_the_resolution() -> None:
    spec = replace(COUNT, hop_us=10)
    assert edges(group(spec, resolution_us=10), spec, 109) == (40, 100)
    assert edges(group(spec, resolution_us=10), spec, -1) == (-70, -10)
    assert times_in(spec, 109, happened(39, 40, 99, 100, 108), resolution_us=10) == [40, 99]
    assert times_in(spec, 110, happened(99, 109, 110), resolution_us=10) == [99, 109]


def test_the_delay_comes_before_the_flooring() -> None:
    spec = replace(COUNT, hop_us=10, delay_us=5)
    assert edges(group(spec, resolution_us=10), spec, 104) == (30, 90)
    assert edges(group(spec, resolution_us=10), spec, 105) == (40, 100)
    assert times_in(replace(COUNT, delay_us=5), 105, happened(39, 40, 99, 100)) == [40, 99]


def test_the_lifetime_has_no_lower_edge_but_the_same_upper_one() -> None:
    spec = replace(COUNT, window_us=None, delay_us=5)
    assert edges(group(spec, resolution_us=10), spec, 104) == (None, 90)
    assert times_in(spec, 105, happened(-(10**15), 99, 100)) == [-(10**15), 99]


def test_the_groups_condition_takes_null_as_false() -> None:
    events = [
        *happened(1, x=1.0, flag=True),
        *happened(2, x=10.0, flag=False),
        *happened(3, x=100.0, flag=None),
    ]
    spec = AggregateSpec("total", "sum", 0, None, 60, 1, 0, DType.FLOAT)
    assert window_value(group(spec, where=ColumnRef("flag", DType.BOOL)), spec, ("ann",), 50, events) == 1.0
    assert window_value(group(spec), spec, ("ann",), 50, events) == 111.0


def test_inputs_are_expressions_over_the_event() -> None:
    spec = AggregateSpec("total", "sum", 0, None, 60, 1, 0, DType.FLOAT)
    twice = InputSpec(Call("mul", (X, Literal(2.0, DType.FLOAT)), DType.FLOAT), DType.FLOAT)
    plan = replace(group(spec), inputs=(twice,))
    assert window_value(plan, spec, ("ann",), 50, [*happened(1, x=1.5), *happened(2, x=None)]) == 3.0


def test_only_the_entitys_own_events_are_members() -> None:
    events = [*happened(1), *happened(2, user="Ann"), *happened(3, user="ann ")]
    assert [event.event_time_us for event in members(group(COUNT), COUNT, ("ann",), 50, events)] == [1]


def test_text_keys_are_compared_byte_for_byte() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    events = [*happened(1, user=composed), *happened(2, user=decomposed)]
    assert window_value(group(COUNT), COUNT, (composed,), 50, events) == 1


def test_a_null_part_of_a_key_belongs_to_nobody() -> None:
    events = [*happened(1, user=None), *happened(2, shop=None), *happened(3)]
    both = group(COUNT, key="user shop")
    assert window_value(group(COUNT), COUNT, (None,), 50, events) == 0
    assert window_value(both, COUNT, ("ann", None), 50, events) == 0
    assert window_value(both, COUNT, ("ann", 1), 50, events) == 1


def test_an_empty_key_is_the_whole_stream() -> None:
    events = [*happened(1, user=None), *happened(2, user="bob")]
    assert window_value(group(COUNT, key=""), COUNT, (), 50, events) == 2


def test_an_unseen_entity_has_the_values_of_an_empty_window() -> None:
    last = AggregateSpec("last", "last", 0, None, None, 1, 0, DType.FLOAT)
    assert group_row(group(COUNT, last), ("nobody",), 50, happened(1)) == {"n": 0, "last": None}


def test_only_counted_records_are_members() -> None:
    plan = replace(STREAM, future_us=0, lateness_us=10)
    records = [
        RawEvent(0, 0, 100, {"user": "ann", "shop": 1, "at": 100}),
        RawEvent(0, 1, 101, {"user": "ann", "shop": 1, "at": 89}),  # late
        RawEvent(0, 2, 102, {"user": "ann", "shop": 1, "at": 103}),  # ahead of its arrival
        RawEvent(0, 3, 103, None),
    ]
    assert [e.event_time_us for e in members(group(COUNT), COUNT, ("ann",), 140, judge(plan, records))] == [100]


def test_as_served_holds_what_lies_below_the_position_of_its_partition() -> None:
    records = [
        RawEvent(partition, offset, 10, {"user": "ann", "shop": 1, "at": 10 * partition + offset})
        for partition in range(2)
        for offset in range(3)
    ]
    events = judge(STREAM, records)
    held = members(group(COUNT), COUNT, ("ann",), 50, events, [1, 2])
    assert [(event.partition, event.offset) for event in held] == [(0, 0), (1, 0), (1, 1)]
    assert window_value(group(COUNT), COUNT, ("ann",), 50, events, [0, 0]) == 0
    assert window_value(group(COUNT), COUNT, ("ann",), 50, events) == 6


@pytest.mark.parametrize(("kind", "expected"), [("first", 3.0), ("last", 2.0)])
def test_ties_of_time_are_decided_by_the_id_then_the_place_in_the_log(kind: str, expected: float) -> None:
    schema = replace(STREAM.schema, fields=(*STREAM.schema.fields, Field("id", DType.STRING)), id_field="id")
    plan = replace(STREAM, schema=schema)
    records = [
        RawEvent(0, 0, 5, {"user": "ann", "shop": 1, "x": 1.0, "at": 5, "id": "b"}),
        RawEvent(0, 1, 5, {"user": "ann", "shop": 1, "x": 2.0, "at": 5, "id": "\U0001f600"}),
        RawEvent(0, 2, 5, {"user": "ann", "shop": 1, "x": 3.0, "at": 5, "id": "a"}),
        RawEvent(0, 3, 5, {"user": "ann", "shop": 1, "x": 4.0, "at": 5, "id": "\uffff"}),
        RawEvent(1, 0, 5, {"user": "ann", "shop": 1, "x": 5.0, "at": 5, "id": "a"}),
    ]
    spec = AggregateSpec("edge", kind, 0, None, None, 1, 0, DType.FLOAT)
    assert window_value(group(spec), spec, ("ann",), 50, judge(plan, records)) == expected


def test_a_group_row_has_features_of_features_in_declared_order() -> None:
    total = AggregateSpec("total", "sum", 0, None, 60, 1, 0, DType.FLOAT)
    ratio = Call("div", (ColumnRef("total", DType.FLOAT), ColumnRef("n", DType.INT)), DType.FLOAT)
    half = Call("div", (ColumnRef("ratio", DType.FLOAT), Literal(2, DType.INT)), DType.FLOAT)
    plan = replace(
        group(COUNT, total),
        derived=(DerivedSpec("ratio", ratio, DType.FLOAT), DerivedSpec("half", half, DType.FLOAT)),
        order=("ratio", "n", "half", "total"),
    )
    row = group_row(plan, ("ann",), 50, [*happened(1, x=1.0), *happened(2, x=4.0)])
    assert list(row.items()) == [("ratio", 2.5), ("n", 2), ("half", 1.25), ("total", 5.0)]
    assert group_row(plan, ("bob",), 50, []) == {"ratio": None, "n": 0, "half": None, "total": None}
