"""Sums, means and variances are exact arithmetic rounded once, and their states do not depend on order or split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.aggregations import exact
from headrace.aggregations import kernel as k
from headrace.aggregations import lanes as ln
from headrace.aggregations.layout import GroupLayout, Scratch, layout_of, physical_columns
from headrace.aggregations.tiles import fold_rows
from headrace.core.columns import IntArray, column_of
from headrace.core.schema import DType
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec
from headrace.testing.oracle import to_float64
from headrace.testing.strategies import floats, integers

POWERS = st.builds(math.ldexp, st.sampled_from((1.0, -1.0, 1.5, 1 + 2**-52, -1 - 2**-52)), st.integers(-1074, 1023))
NEAR_FAST_PATH = st.builds(
    lambda power, sign, beside: sign * (2.0**power + beside),
    st.integers(29, 54),
    st.sampled_from((1, -1)),
    st.sampled_from((0, 1, -1, 0.5)),
)
FLOATS = st.lists(st.one_of(floats(), POWERS, NEAR_FAST_PATH), min_size=1, max_size=12)
INTS = st.lists(integers(), min_size=1, max_size=12)
SUMS, VARIANCES = ("sum", "mean"), ("var", "std")


def exact_values(values: Sequence[float | int], dtype: DType) -> dict[str, Any]:
    n, total = len(values), sum(map(Fraction, values))
    spread = sum((Fraction(x) - total / n) ** 2 for x in values)
    fits = -(2**63) <= total < 2**63
    population, sample = to_float64(spread / n), to_float64(spread / (n - 1)) if n > 1 else None
    return {
        "sum": to_float64(total) if dtype is DType.FLOAT else int(total) if fits else None,
        "mean": to_float64(total / n),
        "var_0": population,
        "var_1": sample,
        "std_0": None if population is None else math.sqrt(population),
        "std_1": None if sample is None else math.sqrt(sample),
    }


def group(dtype: DType, window_us: int | None) -> GroupPlan:
    """Every additive aggregation of one column `x`."""
    sums = [AggregateSpec(kind, kind, 0, None, window_us, 1, 0, DType.FLOAT) for kind in SUMS]
    if dtype is DType.INT:
        sums[0] = AggregateSpec("sum", "sum", 0, None, window_us, 1, 0, DType.INT)
    variances = [
        AggregateSpec(f"{kind}_{ddof}", kind, 0, None, window_us, 1, 0, DType.FLOAT, (("ddof", ddof),))
        for kind in VARIANCES
        for ddof in (0, 1)
    ]
    inputs = (InputSpec(ColumnRef("x", dtype), dtype),)
    names = tuple(spec.name for spec in (*sums, *variances))
    return GroupPlan("g", "0" * 16, "s", None, (), inputs, (*sums, *variances), (), names)


LAYOUTS = {(dtype, w): layout_of(group(dtype, w)) for dtype in (DType.FLOAT, DType.INT) for w in (None, 1_000)}


def words_of(layout: GroupLayout, values: Sequence[Any], dtype: DType) -> IntArray:
    """Times 0, 1, 2, … and the columns of these values, one after the other."""
    column = column_of(dtype, list(values))
    columns = physical_columns(layout, [(dtype, column.values, column.valid)])
    return np.concatenate([np.arange(len(values)), *columns])


def read(layout: GroupLayout, values: Sequence[Any], dtype: DType, folded: int = 0) -> dict[str, Any]:
    """What the kernel reads of these values, the first `folded` of them as a base."""
    n, slots = len(values), len(layout.names)
    base = np.zeros(layout.base_words, np.int64)
    rows = words_of(layout, values, dtype)
    if layout.base_words:
        fold_rows(rows, rows.view(np.float64), n, n, 0, folded, layout.lanes, base)
    rows = np.ascontiguousarray(rows.reshape(-1, n)[:, folded:]).reshape(-1)
    i8 = np.concatenate([base, rows])
    start, left = len(base), n - folded
    out, valid, s = np.zeros(slots, np.int64), np.zeros(slots, np.bool_), Scratch(len(layout.windows))
    k.read_group(
        i8, i8.view(np.float64), start, start + left, left, left, -1, 0, 0, -1 if not start else 0, layout.lanes,
        layout.windows, layout.features, layout.pointers, n, -1, -1, -1, np.zeros(1, np.int64), out,
        out.view(np.float64), valid, 0, s.lane, s.work, s.other, s.bounds, s.tally,
    )  # fmt: skip
    found: dict[str, Any] = {}
    for name, kind, word, ok in zip(layout.names, layout.dtypes, out, valid, strict=True):
        plain = word.view(np.float64) if kind is DType.FLOAT else word
        found[name] = plain.item() if ok else None
    return found


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    shown = {name: value.hex() if isinstance(value, float) else value for name, value in found.items()}
    assert shown == {name: value.hex() if isinstance(value, float) else value for name, value in wanted.items()}


@given(FLOATS)
@example([1.7976931348623157e308, 1.7976931348623157e308])
@example([1.7976931348623157e308, 1.7976931348623157e308, -1.7976931348623157e308])
@example([1.7976931348623157e308, 9.979201547673599e291])  # one ulp / 2: rounds to infinity
@example([5e-324, 5e-324, -5e-324])
@example([5e-324, 0.0])  # half of the least subnormal: ties to even, 0
@example([2.0**31, -(2.0**31), 2.0**31 - 1, 0.5])
@example([2147483647.0] * 9)
@example([1e16, 1.0, -1e16])
def test_float_windows_are_exact(values: list[float]) -> None:
    same(read(LAYOUTS[DType.FLOAT, 1_000], values, DType.FLOAT), exact_values(values, DType.FLOAT))


@given(INTS)
@example([2**63 - 1, 1])
@example([-(2**63), -1])
@example([2**63 - 1, 2**63 - 1, -(2**63), -(2**63)])
@example([-1])
@example([-(2**32), -1])
def test_int_windows_are_exact(values: list[int]) -> None:
    same(read(LAYOUTS[DType.INT, 1_000], values, DType.INT), exact_values(values, DType.INT))


@given(st.one_of(st.tuples(st.just(DType.FLOAT), FLOATS), st.tuples(st.just(DType.INT), INTS)), st.data())
def test_a_folded_base_changes_nothing(case: tuple[DType, list[Any]], data: st.DataObject) -> None:
    dtype, values = case
    folded = data.draw(st.integers(0, len(values)))
    same(read(LAYOUTS[dtype, None], values, dtype, folded), exact_values(values, dtype))


@given(st.one_of(st.tuples(st.just(DType.FLOAT), FLOATS), st.tuples(st.just(DType.INT), INTS)), st.data())
def test_any_order_and_split_gives_the_same_words(case: tuple[DType, list[Any]], data: st.DataObject) -> None:
    dtype, values = case
    shuffled = data.draw(st.permutations(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    layout = LAYOUTS[dtype, None]
    whole = folded_words(layout, values, dtype, [])
    assert folded_words(layout, shuffled, dtype, cuts) == whole
    parts = [np.array(folded_words(layout, part, dtype, []), np.int64) for part in split(shuffled, cuts)]
    merged = np.sum(parts, axis=0)
    ln.settle(merged, 0, ln.FLOAT if dtype is DType.FLOAT else ln.NULLABLE_INT, ln.SUMS | ln.SQUARES)
    assert merged.tolist() == whole


def split(values: Sequence[Any], cuts: list[int]) -> list[Sequence[Any]]:
    edges = [0, *cuts, len(values)]
    return [values[a:b] for a, b in itertools.pairwise(edges)]


def folded_words(layout: GroupLayout, values: Sequence[Any], dtype: DType, cuts: list[int]) -> list[int]:
    """The lifetime's words after folding the pieces one after the other, settling after each."""
    base = np.zeros(layout.base_words, np.int64)
    for part in split(values, cuts):
        rows, n = words_of(layout, part, dtype), len(part)
        fold_rows(rows, rows.view(np.float64), n, n, 0, n, layout.lanes, base)
    return [int(word) for word in base]


@given(FLOATS, st.integers(1, 2**31 - 1))
def test_the_accumulator_divides_and_rounds_once(values: list[float], divisor: int) -> None:
    words, work = np.zeros(exact.SUM_WORDS, np.int64), exact.scratch()
    for bits in np.array(values).view(np.int64):
        exact.add_float(words, 0, bits)
    found = exact.finish(words, 0, exact.SUM_WORDS, -1074, divisor, work)
    wanted = to_float64(sum(map(Fraction, values), Fraction(0)) / divisor)
    assert (None if math.isinf(found) else found.hex()) == (None if wanted is None else wanted.hex())


@pytest.mark.parametrize("value", [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 1 / 3, 2.0**31 - 1])
def test_many_additions_do_not_overflow_a_word(value: float) -> None:
    values = np.full(100_000, value)
    found = read(WIDE, values.tolist(), DType.FLOAT)
    assert found["sum"] == to_float64(Fraction(value) * 100_000)
    assert found["mean"] == value
    assert found["var_1"] == 0.0


WIDE = layout_of(group(DType.FLOAT, 1_000_000))
