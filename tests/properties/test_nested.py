"""Lists and maps of the kernel, and the most frequent value, are the oracle's values to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.aggregations.layout import GroupLayout, Scratch, layout_of, physical_columns
from headrace.aggregations.nested import decoded, read_nested
from headrace.aggregations.window_rows import read_rows
from headrace.core.columns import column_of
from headrace.core.schema import DType, list_of, map_of
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec
from headrace.testing.oracle.aggregations import Row, aggregate
from headrace.testing.oracle.rounding import clean
from headrace.testing.strategies import floats, integers
from tests.properties.world import bits

WINDOW_US = 50


def plan(dtype: DType, by: DType) -> GroupPlan:
    """Every list and map of the first input, bucketed by the second one, under the condition of the third."""
    made: list[AggregateSpec] = []

    def add(kind: str, gives: DType, source: int | None = 0, bucket: int | None = None, **params: Any) -> None:
        for where in (None, 2):
            spec = AggregateSpec(
                f"f{len(made)}", kind, source, where, WINDOW_US, 1, 0, gives, tuple(params.items()), by=bucket
            )
            made.append(spec)

    for n in (1, 2, 1_000):
        add("first_n", list_of(dtype), n=n)
        add("last_n", list_of(dtype), n=n)
        add("top_k", list_of(dtype), k=n)
    for cap in (1, 3, 1_000):
        add("histogram", map_of(dtype, DType.INT), cap=cap)
        add("most_frequent", dtype, cap=cap)
    add("top_k", list_of(dtype), k=2, cap=3)
    add("count", map_of(by, DType.INT), None, 1)
    if dtype is not DType.BOOL:
        add("min", map_of(by, dtype), 0, 1)
        add("max", map_of(by, dtype), 0, 1)
    if dtype in (DType.INT, DType.FLOAT):
        add("sum", map_of(by, dtype), 0, 1)
        add("mean", map_of(by, DType.FLOAT), 0, 1)
    inputs = tuple(InputSpec(ColumnRef(name, t), t) for name, t in (("x", dtype), ("by", by), ("where", DType.BOOL)))
    return GroupPlan("g", "0" * 16, "s", None, (), inputs, tuple(made), (), tuple(spec.name for spec in made))


PLANS = {
    (dtype, by): plan(dtype, by)
    for dtype, by in (
        (DType.FLOAT, DType.INT),
        (DType.INT, DType.BOOL),
        (DType.BOOL, DType.TIMESTAMP),
        (DType.TIMESTAMP, DType.INT),
    )
}
LAYOUTS = {types: layout_of(made) for types, made in PLANS.items()}
Rows = Sequence[tuple[Any, Any, Any]]


def read(layout: GroupLayout, types: Sequence[DType], rows: Rows, t_us: int) -> tuple[dict[str, Any], int]:
    """What the kernels read at t of events at 0, 1, 2, …; and how many values they could not hold."""
    n = len(rows)
    columns = [column_of(dtype, [row[index] for row in rows]) for index, dtype in enumerate(types)]
    words = physical_columns(layout, [(column.dtype, column.values, column.valid) for column in columns])
    i8 = np.concatenate([np.arange(n), *words, np.zeros(1, np.int64)])
    slots, s = len(layout.names), Scratch(len(layout.windows))
    out, valid = np.zeros(slots, np.int64), np.zeros(slots, np.bool_)
    read_rows(
        i8, i8.view(np.float64), 0, n, n, n, -1, 0, 0, layout.lanes, layout.windows, layout.features, t_us, -1, -1,
        np.zeros(1, np.int64), out, out.view(np.float64), valid, 0, s.lane, s.work, s.tally,
    )  # fmt: skip
    one = np.array([n])
    heap, begins = read_nested(
        i8, i8.view(np.float64), np.zeros(1, np.int64), one, one, one, layout.nested, layout.windows, np.array([t_us]),
        np.array([-1]), np.array([-1]), np.zeros((1, 1), np.int64), s.lane, s.work, s.tally,
    )  # fmt: skip
    found: dict[str, Any] = {}
    for name, dtype, word, ok in zip(layout.names, layout.dtypes, out, valid, strict=True):
        plain = word.view(np.float64).item() if dtype is DType.FLOAT else word.item()
        found[name] = (bool(plain) if dtype is DType.BOOL else plain) if ok else None
    for index, (name, dtype) in enumerate(zip(layout.nested_names, layout.nested_dtypes, strict=True)):
        found[name] = decoded(heap, begins[:, index].tolist(), dtype, lambda row: ())[0]
    return found, int(s.tally[0])


def same(types: tuple[DType, DType], rows: Rows, t_us: int) -> None:
    made = PLANS[types]
    lo_us = t_us - WINDOW_US
    kinds = (*types, DType.BOOL)
    inside = [
        Row(time, tuple(clean(value, dtype) for value, dtype in zip(row, kinds, strict=True)))
        for time, row in enumerate(rows)
        if lo_us <= time < t_us
    ]
    wanted = {spec.name: aggregate(spec, inside, t_us, lo_us, t_us) for spec in made.aggregates}
    found, _ = read(LAYOUTS[types], kinds, rows, t_us)
    names = {spec.name: f"{spec.kind} {spec.params} by {spec.by} where {spec.where}" for spec in made.aggregates}
    assert {names[n]: bits(found[n]) for n in found} == {names[n]: bits(wanted[n]) for n in wanted}


FLAGS = st.sampled_from((True, False, None))
FEW = st.sampled_from((0, 1, -5, 2**63 - 1, -(2**63))) | st.none()
TIMES_US = st.sampled_from((0, 3, 20, 20, 60))


def rows_of(values: st.SearchStrategy[Any], buckets: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.tuples(values | st.none(), buckets, FLAGS), max_size=20)


@given(rows_of(st.one_of(st.sampled_from((0.0, -0.0, 1.5, -1.5, 5e-324, -5e-324)), floats()), FEW), TIMES_US)
@example([(1e308, 1, True), (1e308, 1, True), (None, 2, True), (0.1, 3, True), (0.2, 3, None)], 20)
def test_floats(rows: Rows, t_us: int) -> None:
    same((DType.FLOAT, DType.INT), rows, t_us)


@given(rows_of(st.one_of(st.integers(-2, 2), integers()), FLAGS), TIMES_US)
@example([(2**63 - 1, True, True), (1, True, True), (-1, False, True), (-(2**63), False, True)], 20)
@example([(-1, True, True), (-2, True, True)], 20)
def test_integers(rows: Rows, t_us: int) -> None:
    same((DType.INT, DType.BOOL), rows, t_us)


@given(rows_of(st.booleans(), st.sampled_from((0, -1, 10**15)) | st.none()), TIMES_US)
def test_conditions(rows: Rows, t_us: int) -> None:
    same((DType.BOOL, DType.TIMESTAMP), rows, t_us)


@given(rows_of(st.sampled_from((0, 1, -5, 10**15)), FEW), TIMES_US)
def test_times(rows: Rows, t_us: int) -> None:
    same((DType.TIMESTAMP, DType.INT), rows, t_us)


@pytest.mark.parametrize("kind", ["histogram", "most_frequent"])
def test_more_than_a_thousand_different_values_are_null_and_counted(kind: str) -> None:
    gives = map_of(DType.INT, DType.INT) if kind == "histogram" else DType.INT
    spec = AggregateSpec("f", kind, 0, None, 10_000, 1, 0, gives)
    made = GroupPlan(
        "g", "0" * 16, "s", None, (), (InputSpec(ColumnRef("x", DType.INT), DType.INT),), (spec,), (), ("f",)
    )
    rows = [(i % 1_000,) for i in range(3_000)]
    found, tally = read(layout_of(made), (DType.INT,), rows, 5_000)
    assert found["f"] == (dict.fromkeys(range(1000), 3) if kind == "histogram" else 0)
    assert tally == 0
    assert read(layout_of(made), (DType.INT,), [*rows, (1_000,)], 5_000) == ({"f": None}, 1)


@pytest.mark.parametrize("kind", ["count", "max"])
def test_more_than_a_thousand_buckets_are_null_over_the_lifetime_alone(kind: str) -> None:
    source = None if kind == "count" else 0
    specs = tuple(
        AggregateSpec(name, kind, source, None, window, 1, 0, map_of(DType.INT, DType.INT), by=0)
        for name, window in (("ever", None), ("recent", 10_000))
    )
    inputs = (InputSpec(ColumnRef("x", DType.INT), DType.INT),)
    made = GroupPlan("g", "0" * 16, "s", None, (), inputs, specs, (), ("ever", "recent"))
    for different, tally in ((1_000, 0), (1_001, 1)):
        rows = [(i % different,) for i in range(1_500)]
        found, counted = read(layout_of(made), (DType.INT,), rows, 5_000)
        expected = {
            s.name: aggregate(s, [Row(at, row) for at, row in enumerate(rows)], 5_000, lo, 5_000)
            for s, lo in zip(specs, (None, -5_000), strict=True)
        }
        assert found == expected
        assert [found["ever"] is None, found["recent"] is None] == [different > 1_000, False]
        assert counted == tally


def test_a_sum_that_does_not_fit_is_a_null_bucket_and_counted() -> None:
    types = (DType.INT, DType.BOOL)
    name = next(spec.name for spec in PLANS[types].aggregates if spec.kind == "sum")
    tallies = []
    for big, total in ((1, 2), (2**63 - 1, None)):
        rows = [(big, True, None), (big, True, None), (4, False, None)]
        found, tally = read(LAYOUTS[types], (*types, DType.BOOL), rows, 9)
        assert found[name] == {False: 4, True: total}
        tallies.append(tally)
    assert tallies[1] - tallies[0] == 1
