"""What the kernel reads from the rows of a window, one by one, are the oracle's values to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.aggregations import kernel as k
from headrace.aggregations.layout import GroupLayout, Scratch, layout_of, physical_columns
from headrace.aggregations.sketch import hash_texts, hash_word
from headrace.aggregations.window_rows import read_rows
from headrace.core.columns import column_of
from headrace.core.schema import DType
from headrace.core.time import US_PER_DAY, US_PER_HOUR
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec
from headrace.testing.oracle.aggregations import Row, aggregate
from headrace.testing.oracle.sketch import canonical, signed, xxh64
from headrace.testing.strategies import floats, integers

HOP_US = 1_000
UNITS_US = (1, 7, US_PER_HOUR, 36_525 * US_PER_DAY)
# From one step of weights per µs to weights that hardly fall; a century times 1,024 does not fit an int64.
HALFLIVES_US = (1, 3, 1_000, 1_024 * 7, 36_525 * US_PER_DAY)
SHARES = (0.0, 1e-9, 0.1, 0.25, 0.3, 0.5, 0.7, 0.95, 1.0)


def specs(dtype: DType) -> list[AggregateSpec]:
    made = []

    def add(kind: str, gives: DType, window_us: int = 10_000, source: int | None = 0, **params: Any) -> None:
        name = f"f{len(made)}"
        hop_us = params.get("halflife_us", HOP_US)
        made.append(AggregateSpec(name, kind, source, None, window_us, hop_us, 0, gives, tuple(params.items())))

    if dtype in (DType.INT, DType.FLOAT):
        for unit_us in UNITS_US:
            # A window of about 100 years has a span that no digit holds.
            for window_us in (10_000, 36_524 * US_PER_DAY):
                add("rate", DType.FLOAT, window_us, unit_us=unit_us)
                add("rate", DType.FLOAT, window_us, None, unit_us=unit_us)
        for q in SHARES:
            add("quantile", DType.FLOAT, q=q)
        add("skewness", DType.FLOAT)
        for halflife_us in HALFLIVES_US:
            for kind in ("decayed_sum", "decayed_mean"):
                add(kind, DType.FLOAT, 64 * halflife_us, halflife_us=halflife_us)
            add("decayed_count", DType.FLOAT, 64 * halflife_us, None, halflife_us=halflife_us)
        add("decayed_mean", DType.FLOAT, 20, halflife_us=10)
        # Beside another feature of the same lane.
        add("sum", dtype)
    for cap in (1, 2, 5):
        add("n_unique", DType.INT, cap=cap)
    add("n_unique", DType.INT)
    add("approx_n_unique", DType.INT)
    return made


def group(dtype: DType) -> GroupPlan:
    made = tuple(specs(dtype))
    inputs = (InputSpec(ColumnRef("x", dtype), dtype),)
    return GroupPlan("g", "0" * 16, "s", None, (), inputs, made, (), tuple(spec.name for spec in made))


PLANS = {dtype: group(dtype) for dtype in (DType.FLOAT, DType.INT, DType.BOOL, DType.TIMESTAMP)}
LAYOUTS = {dtype: layout_of(plan) for dtype, plan in PLANS.items()}


def read(layout: GroupLayout, values: Sequence[Any], dtype: DType, t_us: int) -> tuple[dict[str, Any], int]:
    """What the kernel reads at t of events at 0, 1, 2, …; and how many values it could not hold."""
    n, slots = len(values), len(layout.names)
    column = column_of(dtype, list(values))
    columns = physical_columns(layout, [(dtype, column.values, column.valid)])
    i8 = np.concatenate([np.arange(n), *columns])
    out, valid, s = np.zeros(slots, np.int64), np.zeros(slots, np.bool_), Scratch(len(layout.windows))
    k.read_group(
        i8, i8.view(np.float64), 0, n, n, n, -1, 0, 0, -1, layout.lanes, layout.windows, layout.features,
        layout.pointers, t_us, -1, -1, -1, np.zeros(1, np.int64), out, out.view(np.float64), valid, 0, s.lane, s.work,
        s.other, s.bounds, s.tally,
    )  # fmt: skip
    read_rows(
        i8, i8.view(np.float64), 0, n, n, n, -1, 0, 0, layout.lanes, layout.windows, layout.features, t_us, -1, -1,
        np.zeros(1, np.int64), out, out.view(np.float64), valid, 0, s.lane, s.work, s.tally,
    )  # fmt: skip
    found: dict[str, Any] = {}
    for name, kind, word, ok in zip(layout.names, layout.dtypes, out, valid, strict=True):
        plain = word.view(np.float64) if kind is DType.FLOAT else word
        found[name] = plain.item() if ok else None
    return found, int(s.tally[0])


def same(values: Sequence[Any], dtype: DType, t_us: int) -> None:
    plan = PLANS[dtype]
    wanted = {}
    for spec in plan.aggregates:
        assert spec.window_us is not None
        lo_us = (t_us - spec.window_us) // spec.hop_us * spec.hop_us
        rows = [Row(time, (value,)) for time, value in enumerate(values) if lo_us <= time < t_us]
        wanted[spec.name] = aggregate(spec, rows, t_us, lo_us, t_us)
    found, _ = read(LAYOUTS[dtype], values, dtype, t_us)
    names = {spec.name: f"{spec.kind} {spec.window_us} {spec.params}" for spec in plan.aggregates}

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        return {names[name]: value.hex() if isinstance(value, float) else value for name, value in row.items()}

    assert shown(found) == shown(wanted)


# Values of one scale, as amounts are, have short sums of powers; those of any scale have sums of thousands of bits.
MONEY = st.lists(st.integers(-10_000, 10_000).map(lambda cents: cents / 100) | st.none(), max_size=30)
FLOATS = st.one_of(MONEY, st.lists(floats() | st.none(), max_size=12))
INTS = st.lists(integers() | st.none(), max_size=12)
TIMES_US = st.integers(0, 20_000)


@given(FLOATS, TIMES_US)
@example([1.7976931348623157e308, 1.7976931348623157e308, 5e-324], 9)
@example([1.7976931348623157e308, -1.7976931348623157e308, 5e-324, -5e-324], 9)
@example([5e-324, 1e-323, 2e-323], 9)
@example([0.0, -0.0, 5e-324], 9)
@example([1.0, 1.0, 1.0 + 2**-52], 9)
@example([2.0**52, 2.0**52 + 1, 2.0**52 + 3], 9)
@example([0.1] * 5, 9)
@example([1e300, 1e-300, 0.0], 9)
@example([-1.0, 0.0, 1.0, 1e-200], 9)  # hardly any lean: the quotient is subnormal, or 0
@example([-1.0, 0.0, 1.0, 1e-160], 9)
def test_floats(values: list[float | None], t_us: int) -> None:
    same(values, DType.FLOAT, t_us)


@given(INTS, TIMES_US)
@example([2**63 - 1, -(2**63), 0], 9)
@example([2**63 - 1, 2**63 - 1, 2**63 - 2], 9)
@example([-(2**63)] * 3 + [1], 9)
@example([-1, -1, 0], 9)
@example([2**53 + 1, 2**53 + 3], 9)
def test_integers(values: list[int | None], t_us: int) -> None:
    same(values, DType.INT, t_us)


@given(st.lists(st.sampled_from((True, False, None)), max_size=6), TIMES_US)
def test_conditions(values: list[bool | None], t_us: int) -> None:
    same(values, DType.BOOL, t_us)


@given(st.lists(st.sampled_from((0, 1, -5, 10**15)) | st.none(), max_size=8), TIMES_US)
def test_times(values: list[int | None], t_us: int) -> None:
    same(values, DType.TIMESTAMP, t_us)


@given(st.integers(0, 2**32 - 1), st.sampled_from((1e-3, 1.0, 1e6, 1e18)), st.sampled_from((50, 150, 300)))
@example(1, 1.0, 3_000)
def test_long_windows(seed: int, scale: float, n: int) -> None:
    drawn = np.random.default_rng(seed).lognormal(0, 2, n) * scale
    same(np.round(drawn, 2).tolist(), DType.FLOAT, n)


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.INT, DType.TIMESTAMP])
def test_more_than_a_thousand_different_values_are_null_and_counted(dtype: DType) -> None:
    name = next(spec.name for spec in PLANS[dtype].aggregates if spec.kind == "n_unique" and not spec.params)
    make = float if dtype is DType.FLOAT else int
    many = [make(i % 1_000) for i in range(4_000)]
    assert read(LAYOUTS[dtype], many, dtype, 4_000)[0][name] == 1_000
    found, overflows = read(LAYOUTS[dtype], [*many, make(1_000)], dtype, 4_001)
    capped = sum(spec.kind == "n_unique" for spec in PLANS[dtype].aggregates)
    assert (found[name], overflows) == (None, capped)


def test_a_rate_divides_by_the_span_that_the_window_really_has() -> None:
    # At 10,500 the lower edge of the 10 ms window is 0: 4 events in 10.5 ms.
    name = next(s.name for s in PLANS[DType.INT].aggregates if s.input is None and dict(s.params)["unit_us"] == 7)
    found, _ = read(LAYOUTS[DType.INT], [1, 1, 1, 1], DType.INT, 10_500)
    assert found[name] == 4 * 7 / 10_500


@pytest.mark.parametrize("n", [1, 2, 10, 100, 1_000, 5_000, 20_000, 100_000, 1_000_000])
def test_an_approximate_count_lies_within_four_standard_errors(n: int) -> None:
    plan = GroupPlan(
        "g", "0" * 16, "s", None, (), (InputSpec(ColumnRef("x", DType.INT), DType.INT),),
        (AggregateSpec("f", "approx_n_unique", 0, None, 2**40, 1, 0, DType.INT),), (), ("f",),
    )  # fmt: skip
    for seed in range(3):
        values = np.random.default_rng(seed).permutation(n) * 1_000_003 + seed
        found, _ = read(layout_of(plan), [*values.tolist(), *values[: n // 2].tolist()], DType.INT, 2**40)
        assert abs(found["f"] - n) <= max(4 * 1.04 / 64 * n, 0.5)


@given(st.text(max_size=80))
@example("")
@example("abc")
@example("\U0001f600" * 16)
def test_the_hash_of_a_text_is_xxh64_of_its_utf8_bytes(text: str) -> None:
    assert hash_texts([text, "x" + text]).tolist() == [
        signed(xxh64(text.encode())),
        signed(xxh64(b"x" + text.encode())),
    ]


@given(integers())
@example(0)
@example(-1)
def test_the_hash_of_a_number_is_xxh64_of_its_eight_bytes(number: int) -> None:
    assert int(hash_word(np.int64(number))) == xxh64(canonical(number))


def test_the_oracle_hashes_as_the_specification_says() -> None:
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"abc") == 0x44BC2CF5AD770999
    assert xxh64(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1


def test_weights_halve_with_each_half_life() -> None:
    plan = PLANS[DType.FLOAT]
    name = next(s.name for s in plan.aggregates if s.kind == "decayed_sum" and s.params == (("halflife_us", 1_000),))
    found, _ = read(LAYOUTS[DType.FLOAT], [8.0], DType.FLOAT, 3_000)
    assert found[name] == 1.0
