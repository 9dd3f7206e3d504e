"""Verdicts, clocks and positions, worked by hand. Times are µs; the stream's limits are given in each test."""

from __future__ import annotations

import math
from typing import Any

import pytest

from headrace.core.schema import DType, Field, Schema
from headrace.core.time import MAX_US, MIN_US
from headrace.features.plan import StreamPlan
from headrace.testing.oracle import RawEvent, clock, judge, position_at, verdicts
from headrace.testing.oracle.events import row_of


def stream(identity: DType | None = DType.STRING, **settings: Any) -> StreamPlan:
    fields = (Field("at", DType.TIMESTAMP), Field("x", DType.FLOAT, nullable=True))
    if identity is None:
        return StreamPlan("s", Schema("s", fields, "at"), **settings)
    return StreamPlan("s", Schema("s", (Field("id", identity), *fields), "at", "id"), **settings)


def log(*entries: tuple[str, int, int], partition: int = 0) -> list[RawEvent]:
    """Records of (id, event time, arrival) in offset order."""
    return [
        RawEvent(partition, offset, arrival, {"id": name, "at": time, "x": 1.0})
        for offset, (name, time, arrival) in enumerate(entries)
    ]


def test_an_event_further_ahead_than_the_limit_is_dead() -> None:
    records = log(("a", 1_100, 1_000), ("b", 1_101, 1_000))
    assert verdicts(stream(future_us=100), records) == ["counted", "dead"]


def test_dead_letters_move_no_clock() -> None:
    plan = stream(future_us=100, lateness_us=0)
    records = [*log(("a", 1_000, 1_000), ("b", 9_000, 2_000)), RawEvent(0, 2, 3_000, None)]
    assert verdicts(plan, records) == ["counted", "dead", "dead"]
    assert clock(plan, records) == 1_000
    assert verdicts(plan, [*records, RawEvent(0, 3, 4_000, {"id": "c", "at": 1_000})])[-1] == "counted"


def test_dead_letters_register_no_id() -> None:
    records = log(("a", 9_000, 1_000), ("a", 1_000, 2_000))
    assert verdicts(stream(future_us=100), records) == ["dead", "counted"]


def test_the_clock_follows_the_lesser_of_event_time_and_arrival() -> None:
    # Ahead of its arrival: the clock moves to the arrival only. Long after: to the event time only.
    assert clock(stream(future_us=100), log(("a", 1_100, 1_000))) == 1_000
    assert clock(stream(), log(("a", 500, 1_000))) == 500


def test_the_clock_never_goes_back() -> None:
    assert clock(stream(), log(("a", 900, 900), ("b", 100, 1_000))) == 900


def test_the_clock_of_nothing_is_none() -> None:
    assert clock(stream(), []) is None
    assert clock(stream(), log(("a", 5, 5)), [0]) is None


def test_n_of_p_is_the_greatest_clock_below_the_position() -> None:
    records = log(("a", 100, 100), ("b", 900, 900)) + log(("c", 500, 500), partition=1)
    assert clock(stream(), records) == 900
    assert clock(stream(), records, [1, 1]) == 500
    assert clock(stream(), records, [1, 0]) == 100


def test_late_is_below_the_clock_minus_lateness() -> None:
    records = log(("a", 1_000, 1_000), ("b", 900, 1_001), ("c", 899, 1_002))
    assert verdicts(stream(lateness_us=100), records) == ["counted", "counted", "late"]


def test_lateness_is_unlimited_by_default() -> None:
    assert verdicts(stream(), log(("a", 10**15, 10**15), ("b", -(10**15), 10**15))) == ["counted", "counted"]


def test_lateness_is_judged_by_the_own_partition_alone() -> None:
    plan = stream(lateness_us=0)
    records = log(("a", 1_000, 1_000)) + log(("b", 10, 1_000), partition=1)
    assert verdicts(plan, records) == ["counted", "counted"]


def test_lateness_is_judged_by_records_up_to_itself() -> None:
    plan = stream(lateness_us=0)
    assert verdicts(plan, log(("a", 10, 1_000), ("b", 1_000, 1_000))) == ["counted", "counted"]
    assert verdicts(plan, log(("b", 1_000, 1_000), ("a", 10, 1_000))) == ["counted", "late"]


def test_the_first_of_an_id_wins_whatever_the_contents() -> None:
    records = log(("a", 10, 10), ("a", 77, 90))
    assert verdicts(stream(), records) == ["counted", "duplicate"]
    assert [event.event_time_us for event in judge(stream(), records)] == [10]


def test_ids_are_apart_in_each_partition() -> None:
    records = log(("a", 10, 10)) + log(("a", 10, 10), partition=1)
    assert verdicts(stream(), records) == ["counted", "counted"]


def test_an_id_counts_again_beyond_the_dedupe_horizon_of_the_clock() -> None:
    plan = stream(dedupe_us=100)
    assert verdicts(plan, log(("a", 0, 0), ("b", 100, 100), ("a", 5, 500))) == ["counted", "counted", "duplicate"]
    assert verdicts(plan, log(("a", 0, 0), ("b", 101, 101), ("a", 5, 500))) == ["counted", "counted", "counted"]


def test_the_dedupe_horizon_ends_by_the_records_own_move_of_the_clock() -> None:
    # The clock at a record is that of the records up to itself.
    assert verdicts(stream(dedupe_us=100), log(("a", 0, 0), ("a", 101, 101))) == ["counted", "counted"]


def test_the_dedupe_horizon_is_of_the_clock_not_of_the_arrival() -> None:
    assert verdicts(stream(dedupe_us=100), log(("a", 0, 0), ("a", 0, 9_999))) == ["counted", "duplicate"]


def test_a_duplicate_does_not_prolong_the_horizon() -> None:
    records = log(("a", 0, 0), ("a", 80, 80), ("a", 120, 120), ("a", 130, 130))
    assert verdicts(stream(dedupe_us=100), records) == ["counted", "duplicate", "counted", "duplicate"]


def test_a_duplicate_moves_the_clock() -> None:
    plan = stream(lateness_us=10)
    records = log(("a", 0, 0), ("a", 500, 500), ("b", 489, 501), ("c", 490, 502))
    assert verdicts(plan, records) == ["counted", "duplicate", "late", "counted"]
    assert clock(plan, records) == 500


def test_a_late_event_registers_no_id() -> None:
    # Only counted events do: the same id in time afterwards is no duplicate.
    records = log(("b", 1_000, 1_000), ("a", 10, 1_001), ("a", 1_000, 1_002))
    assert verdicts(stream(lateness_us=100), records) == ["counted", "late", "counted"]


def test_a_late_event_of_a_counted_id_is_a_duplicate() -> None:
    records = log(("a", 1_000, 1_000), ("a", 10, 1_001))
    assert verdicts(stream(lateness_us=100), records) == ["counted", "duplicate"]


def test_verdicts_do_not_depend_on_the_order_in_which_records_are_listed() -> None:
    plan = stream(lateness_us=0)
    records = log(("b", 1_000, 1_000), ("a", 10, 1_000), ("b", 1, 1_001))
    assert verdicts(plan, records[::-1]) == verdicts(plan, records)[::-1] == ["duplicate", "late", "counted"]


def test_without_a_declared_id_nothing_is_a_duplicate() -> None:
    plan = stream(None)
    records = [RawEvent(0, offset, 10, {"at": 10, "x": 1.0}) for offset in range(3)]
    assert verdicts(plan, records) == ["counted"] * 3


def test_order_is_time_then_id_bytes_then_partition_then_offset() -> None:
    records = [
        RawEvent(1, 0, 10, {"id": "é", "at": 5}),
        RawEvent(0, 0, 10, {"id": "é", "at": 5}),
        RawEvent(0, 1, 10, {"id": "z", "at": 5}),
        RawEvent(0, 2, 10, {"id": "Z", "at": 5}),
        RawEvent(1, 1, 10, {"id": "zzz", "at": 4}),
    ]
    assert [event.order for event in judge(stream(), records)] == [
        (4, b"zzz", 1, 1), (5, b"Z", 0, 2), (5, b"z", 0, 1), (5, "é".encode(), 0, 0), (5, "é".encode(), 1, 0),
    ]  # fmt: skip


def test_text_ids_are_ordered_by_utf8_bytes_and_numbers_by_value() -> None:
    text = [RawEvent(0, i, 10, {"id": name, "at": 5}) for i, name in enumerate(["\U0001f600", "\uffff", "10", "9"])]
    assert [event.row["id"] for event in judge(stream(), text)] == ["10", "9", "\uffff", "\U0001f600"]
    numbers = [RawEvent(0, i, 10, {"id": number, "at": 5}) for i, number in enumerate([10, 9, -1])]
    assert [event.row["id"] for event in judge(stream(DType.INT), numbers)] == [-1, 9, 10]


def test_the_default_id_is_partition_and_offset() -> None:
    records = [RawEvent(1, 0, 10, {"at": 5}), RawEvent(0, 7, 10, {"at": 5}), RawEvent(0, 3, 10, {"at": 5})]
    assert [(e.partition, e.offset) for e in judge(stream(None), records)] == [(0, 3), (0, 7), (1, 0)]


def test_the_position_of_a_time_is_the_first_offset_that_arrived_then_or_later() -> None:
    records = log(("a", 0, 10), ("b", 0, 20), ("c", 0, 20), ("d", 0, 30)) + log(("e", 0, 5), partition=1)
    assert position_at(records, 3, 20) == [1, 1, 0]
    assert position_at(records, 2, 21) == [3, 1]
    assert position_at(records, 2, 5) == [0, 0]


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {"id": "a"},
        {"id": "a", "at": None},
        {"id": None, "at": 5},
        {"at": 5},
        {"id": 7, "at": 5},
        {"id": "a", "at": 5.0},
        {"id": "a", "at": True},
        {"id": "a", "at": MAX_US + 1},
        {"id": "a", "at": MIN_US - 1},
        {"id": "a", "at": 5, "x": "1"},
        {"id": "a", "at": 5, "x": math.inf},
        {"id": "a", "at": 5, "x": -math.inf},
    ],
    ids=str,
)
def test_what_does_not_fit_its_stream_is_dead(fields: dict[str, Any] | None) -> None:
    assert verdicts(stream(), [RawEvent(0, 0, MAX_US, fields)]) == ["dead"]


def test_a_null_id_is_dead_even_where_the_field_may_be_null() -> None:
    schema = Schema("s", (Field("id", DType.STRING, nullable=True), Field("at", DType.TIMESTAMP)), "at", "id")
    assert row_of(schema, {"at": 5}) is None


def test_a_row_has_nan_as_null_and_no_negative_zero_and_its_defaults() -> None:
    fields = (
        Field("at", DType.TIMESTAMP),
        Field("x", DType.FLOAT, nullable=True),
        Field("y", DType.FLOAT),
        Field("channel", DType.STRING, has_default=True, default="app"),
    )
    row = row_of(Schema("s", fields, "at"), {"at": 5, "x": math.nan, "y": -0.0})
    assert row == {"at": 5, "x": None, "y": 0.0, "channel": "app"}
    assert math.copysign(1.0, row["y"]) == 1.0
    assert row_of(Schema("s", fields, "at"), {"at": 5, "x": 1.0, "y": math.nan}) is None


def test_a_list_has_its_declared_length() -> None:
    schema = Schema("s", (Field("at", DType.TIMESTAMP), Field("v", DType.LIST, size=2)), "at")
    assert row_of(schema, {"at": 5, "v": [1.0, None]}) == {"at": 5, "v": [1.0, None]}
    assert row_of(schema, {"at": 5, "v": [1.0]}) is None
