"""Every aggregation of the catalog is a commutative monoid in its bits, and its values are those of the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.aggregations import layout
from headrace.aggregations.accumulator import Accumulator, Events, State
from headrace.aggregations.aggregation import Aggregation
from headrace.aggregations.registry import aggregation, aggregations
from headrace.core.columns import Column, IntArray, column_of
from headrace.core.errors import StoreError
from headrace.core.schema import DType
from headrace.features.plan import AggregateSpec
from headrace.testing.oracle.aggregations import Row, aggregate
from headrace.testing.oracle.sketch import signed, xxh64
from tests.properties.world import bits

SIZE = 2
FLOATS = (None, 0.0, 1.0, 1.0, 0.1, -2.5, 7.0, 1e300, -1e300, 1e-300, 2.0**53, 1.7976931348623157e308)
VALUES: dict[DType, st.SearchStrategy[Any]] = {
    DType.FLOAT: st.sampled_from(FLOATS),
    DType.INT: st.sampled_from((None, 0, 1, 1, -3, 300, 2**53 + 1, 2**63 - 1, -(2**63))),
    DType.BOOL: st.sampled_from((None, True, True, False)),
    DType.STRING: st.sampled_from((None, "", "a", "a", "b", "é", "\U0001f600")),
    DType.TIMESTAMP: st.sampled_from((None, 0, -5, -5, 10**15)),
    DType.DURATION: st.sampled_from((None, 0, 1, 1, 10**12)),
    DType.LIST: st.one_of(st.none(), st.lists(st.sampled_from(FLOATS), min_size=SIZE, max_size=SIZE)),
}
KEYS = (DType.INT, DType.BOOL, DType.STRING, DType.TIMESTAMP)


@dataclass(frozen=True, slots=True)
class Case:
    """An aggregation as it is set up, and events by offset: time, value, bucket and condition."""

    accumulator: Accumulator
    spec: AggregateSpec
    types: tuple[DType | None, DType | None]
    rows: list[tuple[int, Any, Any, Any]]
    resolution_us: int


def _nothing(tiled: IntArray, row_bytes: int) -> IntArray:
    """Keys of growing states that cost nothing, however few events there are."""
    return np.zeros(len(tiled), np.int64)


@st.composite
def cases(draw: st.DrawFn, kind: Aggregation) -> Case:
    dtypes: list[DType | None] = sorted(kind.takes)
    dtype = draw(st.sampled_from([*dtypes, None] if kind.takes_events or not dtypes else dtypes))
    by = None
    if kind.by_code is not None and dtype is not DType.LIST and draw(st.booleans()):
        by = draw(st.sampled_from(KEYS))
    hop_us = draw(st.sampled_from((1, 5)))
    params = dict(draw(st.sampled_from(kind.examples())))
    window_us = draw(st.sampled_from((20, 40, *(() if kind.needs_window else (None, None)))))
    if "halflife_us" in kind.parameters:
        params, window_us = {"halflife_us": hop_us}, draw(st.sampled_from((20, 60)))
    resolution_us = draw(st.sampled_from((1, hop_us)))
    # There are too few events here to make any tiles otherwise.
    tiles = draw(st.booleans())
    few = mock.patch.object(layout, "_fewest", return_value=1) if tiles else nullcontext()
    free = mock.patch.object(layout, "_state_costs", _nothing) if tiles else nullcontext()
    with few, free:
        accumulator = kind.accumulator(
            dtype, params=params, window_us=window_us, hop_us=hop_us, by=by, where=True, size=SIZE, horizon_us=3,
            resolution_us=resolution_us,
        )  # fmt: skip
    inputs = [part for part in (dtype, by) if part is not None]
    spec = AggregateSpec(
        "f", kind.name, None if dtype is None else 0, len(inputs), window_us, hop_us, 0, accumulator.dtype,
        tuple(params.items()), by=None if by is None else len(inputs) - 1,
    )  # fmt: skip
    value = st.none() if dtype is None else VALUES[dtype]
    bucket = st.none() if by is None else VALUES[by]
    row = st.tuples(st.integers(0, 90), value, bucket, st.sampled_from((True, True, True, False, None)))
    return Case(accumulator, spec, (dtype, by), draw(st.lists(row, max_size=16)), resolution_us)


def events_of(case: Case, places: Sequence[int]) -> Events:
    """The events at these places."""

    def column(part: int, dtype: DType | None) -> Column | None:
        return None if dtype is None else column_of(dtype, [case.rows[place][part] for place in places])

    dtype, by = case.types
    return Events(
        np.array([case.rows[place][0] for place in places], np.int64), np.array(places, np.int64),
        column(1, dtype), column(2, by), column(3, DType.BOOL),
    )  # fmt: skip


def wanted(case: Case, t_us: int) -> Any:
    hi_us = t_us // case.resolution_us * case.resolution_us
    window_us, hop_us = case.spec.window_us, case.spec.hop_us
    lo_us = None if window_us is None else (hi_us - window_us) // hop_us * hop_us
    hashed = aggregation(case.spec.kind).hashes_texts and case.types[0] is DType.STRING
    rows = []
    for _, (at, value, bucket, where) in sorted(enumerate(case.rows), key=lambda item: (item[1][0], item[0])):
        if at < hi_us and (lo_us is None or at >= lo_us):
            read = signed(xxh64(value.encode())) if hashed and value is not None else value
            given = zip((read, bucket), case.types, strict=True)
            rows.append(Row(at, (*(part for part, dtype in given if dtype is not None), where)))
    return aggregate(case.spec, rows, t_us, lo_us, hi_us)


@pytest.mark.parametrize("name", aggregations())
def test_states_merge_in_any_order_to_the_same_bytes_and_values(name: str) -> None:
    hold_for(aggregation(name))


def hold_for(kind: Aggregation) -> None:
    """The laws of one aggregation, in a share of the examples that one property gets."""

    @settings(max_examples=max(settings().max_examples // 4, 1))
    @given(cases(kind), st.randoms(use_true_random=False))
    def hold(case: Case, rng: Any) -> None:
        laws(case, rng)

    hold()


def laws(case: Case, rng: Any) -> None:
    one = case.accumulator
    places = list(range(len(case.rows)))
    whole = one.update(one.identity(), events_of(case, places))
    rng.shuffle(places)
    cuts = sorted((rng.randint(0, len(places)), rng.randint(0, len(places))))
    pieces = [events_of(case, part) for part in (places[: cuts[0]], places[cuts[0] : cuts[1]], places[cuts[1] :])]
    a, b, c = (one.update(one.identity(), piece) for piece in pieces)

    def merged(*states: State) -> State:
        found = one.identity()
        for state in states:
            found = one.merge(found, state)
        return found

    assert merged(a, b, c) == one.merge(a, one.merge(b, c)) == merged(c, a, b) == merged(b, c, a) == whole
    assert one.update(one.update(a, pieces[1]), pieces[2]) == whole
    assert one.merge(a, one.identity()) == a == one.merge(one.identity(), a)
    assert one.decode(one.encode(whole)) == whole
    assert one.encode(one.identity()) == b""
    newest = max((row[0] for row in case.rows), default=0)
    times = [newest - 3, newest, newest + 1, newest + 13, newest + 200]
    found = one.finalize(whole, np.array(times)).to_pylist()
    assert [bits(value) for value in found] == [bits(wanted(case, t_us)) for t_us in times]


def test_a_state_of_another_format_is_refused() -> None:
    one = aggregation("sum").accumulator(DType.INT)
    state = one.update(one.identity(), Events(np.array([3]), np.array([0]), column_of(DType.INT, [7])))
    encoded = bytearray(one.encode(state))
    encoded[0] = 2
    with pytest.raises(StoreError, match="window record of format 2"):
        one.decode(bytes(encoded))


def test_every_aggregation_is_known_to_the_oracle_or_says_what_is_wanted() -> None:
    for name, kind in aggregations().items():
        params = kind.examples()[0]
        spec = AggregateSpec("f", name, 0, None, 20, 5, 0, DType.FLOAT, (*params.items(), ("halflife_us", 5)))
        aggregate(spec, [Row(3, (True,))], 20, 0, 20)


@pytest.mark.parametrize(("name", "values"), [("min", (5.0, 7.0)), ("max", (-7.0, -5.0))])
def test_a_state_without_values_changes_no_extreme(name: str, values: tuple[float, float]) -> None:
    """All but the last events are behind the horizon, so that what is known of them are words of the whole lifetime."""
    one = aggregation(name).accumulator(DType.FLOAT, horizon_us=3)
    some = Events(np.array([0, 50]), np.array([0, 1]), column_of(DType.FLOAT, list(values)))
    none = Events(np.array([1, 60]), np.array([2, 3]), column_of(DType.FLOAT, [None, None]))
    a, b = (one.update(one.identity(), events) for events in (some, none))
    for merged in (one.merge(a, b), one.merge(b, a)):
        assert one.finalize(merged, np.array([61])).to_pylist() == [min(values) if name == "min" else max(values)]
