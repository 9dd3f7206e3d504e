"""Aggregations over a handful of values, worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from headrace.core.schema import DType
from headrace.features.plan import AggregateSpec
from headrace.testing.oracle import Row, aggregate

LARGEST = 1.7976931348623157e308
TINY = 5e-324


def value(kind: str, *values: Any, dtype: DType = DType.FLOAT, t: int = 100, **params: Any) -> Any:
    """The aggregate of a column with these values at times 0, 1, 2, …, read at `t` over [0, t)."""
    spec = AggregateSpec("f", kind, 0, None, 100, 1, 0, dtype, tuple(params.items()))
    return aggregate(spec, [Row(time, (item,)) for time, item in enumerate(values)], t, t - 100, t)


def rows_value(kind: str, *times: int, dtype: DType = DType.INT, t: int = 100, **params: Any) -> Any:
    """The aggregate of no column over rows at these times."""
    spec = AggregateSpec("f", kind, None, None, 100, 1, 0, dtype, tuple(params.items()))
    return aggregate(spec, [Row(time, ()) for time in times], t, t - 100, t)


def test_count_counts_rows_and_of_a_column_its_values() -> None:
    assert rows_value("count", 1, 1, 2) == 3
    assert value("count", 1.0, None, 2.0, dtype=DType.INT) == 2


@pytest.mark.parametrize(
    "kind",
    ["sum", "mean", "min", "max", "var", "std", "first", "last", "share", "any", "all", "time_since_last",
     "time_since_first", "skewness", "most_frequent", "quantile", "decayed_sum", "decayed_mean"],
)  # fmt: skip
def test_nothing_is_null(kind: str) -> None:
    assert value(kind, q=0.5, halflife_us=10) is None
    assert value(kind, None, None, q=0.5, halflife_us=10) is None


def test_counts_of_nothing_are_zero_and_lists_and_maps_are_empty() -> None:
    assert rows_value("count") == 0
    assert value("count", None, dtype=DType.INT) == 0
    assert value("n_unique", None) == 0
    assert value("first_n", None, n=2) == value("last_n", n=2) == value("top_k", k=2) == []
    assert value("histogram") == {}
    assert rows_value("decayed_count", halflife_us=10) == 0.0


def test_the_condition_takes_null_as_false() -> None:
    spec = AggregateSpec("f", "sum", 0, 1, 100, 1, 0, DType.FLOAT)
    rows = [Row(0, (1.0, True)), Row(1, (10.0, False)), Row(2, (100.0, None)), Row(3, (1000.0, True))]
    assert aggregate(spec, rows, 100, 0, 100) == 1001.0


def test_sum_is_rounded_once() -> None:
    assert value("sum", 0.1, 0.2, 0.3) == 0.6  # one by one it would be 0.6000000000000001
    assert value("sum", 1e16, 1.0, 1.0) == 1e16 + 2


def test_sum_survives_cancellation() -> None:
    assert value("sum", 1e308, 1.0, -1e308) == 1.0
    assert value("sum", 1e16, 1.0, -1e16, TINY) == 1.0
    assert value("sum", LARGEST, LARGEST, -LARGEST) == LARGEST


def test_sum_of_subnormals_is_exact() -> None:
    assert value("sum", TINY, TINY, TINY) == 3 * TINY
    assert value("sum", 2.2250738585072014e-308, -TINY) == 2.225073858507201e-308


def test_an_infinite_sum_is_null() -> None:
    assert value("sum", LARGEST, LARGEST) is None
    assert value("sum", -LARGEST, -LARGEST) is None
    assert value("sum", LARGEST, 1.0) == LARGEST


def test_a_sum_that_cancels_to_zero_is_positive_zero() -> None:
    assert math.copysign(1.0, value("sum", 1.0, -1.0)) == 1.0


def test_integer_sums_are_exact_and_null_beyond_int64() -> None:
    assert value("sum", 2**53, 1, dtype=DType.INT) == 2**53 + 1
    assert value("sum", 2**63 - 1, 1, -1, dtype=DType.INT) == 2**63 - 1
    assert value("sum", 2**63 - 1, 1, dtype=DType.INT) is None
    assert value("sum", -(2**63), -1, dtype=DType.INT) is None


def test_mean_rounds_the_exact_quotient_once() -> None:
    assert value("mean", 1, 2) == 1.5
    assert value("mean", 0.1, 0.1, 0.1) == 0.1  # a rounded sum of 0.30000000000000004 would give 0.10000000000000002
    assert value("mean", LARGEST, LARGEST) == LARGEST  # though their sum is infinite
    assert value("mean", TINY, 0.0) == 0.0  # half of the least step goes to the even one
    assert value("mean", 3 * TINY, 0.0) == 2 * TINY


def test_mean_of_large_integers_is_correctly_rounded() -> None:
    # (2^53 + 1 + 2^53 + 1) / 2 = 2^53 + 1 is half way: to even. With one more it is above half way.
    assert value("mean", 2**53 + 1, 2**53 + 1) == 2.0**53
    assert value("mean", 2**53 + 1, 2**53 + 2) == 2.0**53 + 2
    assert value("mean", 2**63 - 1, 2**63 - 1) == 2.0**63


def test_variance_of_one_value() -> None:
    assert value("var", 5.0) is None
    assert value("std", 5.0) is None
    assert value("var", 5.0, ddof=0) == 0.0
    assert value("std", 5.0, ddof=0) == 0.0


def test_variance_is_of_a_sample_by_default() -> None:
    assert value("var", 1.0, 2.0, 3.0, 4.0) == 5 / 3
    assert value("var", 1.0, 2.0, 3.0, 4.0, ddof=0) == 1.25
    assert value("std", 1.0, 2.0, 3.0, 4.0) == math.sqrt(5 / 3)
    assert value("var", 1, None, 3, dtype=DType.FLOAT) == 2.0


def test_variance_does_not_cancel() -> None:
    assert value("var", 1e9 + 1, 1e9 + 2, 1e9 + 3) == 1.0
    assert value("var", 2**63 - 1, 2**63 - 3) == 2.0
    assert value("var", 1e308, 1e308) == 0.0


def test_an_infinite_variance_is_null_and_so_is_its_root() -> None:
    assert value("var", 1e200, -1e200) is None
    assert value("std", 1e200, -1e200) is None


def test_a_variance_may_underflow() -> None:
    assert value("var", TINY, 3 * TINY) == 0.0


def test_minimum_and_maximum() -> None:
    assert (value("min", 2.0, None, -1.0), value("max", 2.0, None, -1.0)) == (-1.0, 2.0)
    assert (value("min", 2**53 + 1, 2**53), value("max", 2**53 + 1, 2**53)) == (2**53, 2**53 + 1)
    assert value("max", "z", "é", dtype=DType.STRING) == "é"


def test_first_and_last_skip_nulls() -> None:
    assert value("first", None, 1.0, 2.0, None) == 1.0
    assert value("last", None, 1.0, 2.0, None) == 2.0
    assert value("first_n", None, 1.0, None, 2.0, 3.0, n=2) == [1.0, 2.0]
    assert value("last_n", None, 1.0, None, 2.0, 3.0, None, n=2) == [2.0, 3.0]
    assert value("last_n", 1.0, n=2) == [1.0]


def test_share_any_and_all_skip_nulls() -> None:
    assert value("share", True, None, False, True) == 2 / 3
    assert value("any", False, None) is False
    assert value("any", None, True, False) is True
    assert value("all", True, None) is True
    assert value("all", True, False) is False


def test_time_since_counts_from_the_read_not_from_the_window() -> None:
    assert rows_value("time_since_last", 10, 40, t=95) == 55
    assert rows_value("time_since_first", 10, 40, t=95) == 85
    assert value("time_since_last", 1.0, 2.0, None) == 99


def test_skewness_is_of_the_population() -> None:
    # 0, 0, 3: mean 1, M2 = 6, M3 = 6; 3·36/216 = 1/2.
    assert value("skewness", 0.0, 0.0, 3.0) == math.sqrt(0.5)
    assert value("skewness", 0.0, 0.0, -3.0) == -math.sqrt(0.5)
    assert value("skewness", -1.0, 0.0, 1.0) == 0.0
    assert value("skewness", 2.0, 2.0) is None
    assert value("skewness", 1e300, 0.0, 0.0) == math.sqrt(0.5)


def test_distinct_values() -> None:
    assert value("n_unique", 1, 2, 1, None, dtype=DType.INT) == 2
    assert value("histogram", "a", "b", "a") == {"a": 2, "b": 1}
    assert value("top_k", "b", "c", "c", "a", k=2) == ["c", "a"]
    assert value("most_frequent", "z", "é", "é", "z", dtype=DType.STRING) == "z"


@pytest.mark.parametrize("kind", ["n_unique", "histogram", "top_k", "most_frequent"])
def test_more_distinct_values_than_the_cap_are_null(kind: str) -> None:
    assert value(kind, 1, 2, 3, cap=2, k=1) is None
    assert value(kind, 1, 2, 2, cap=2, k=1) is not None


def test_quantile_is_the_midpoint_of_the_bucket_at_its_rank() -> None:
    values = [float(x) for x in range(1, 11)]
    middle = 1 + 2**-8  # of the bucket [1, 1 + 2^-7)
    assert value("quantile", *values, q=0.1) == middle
    assert value("quantile", *values, q=0.0) == middle
    assert value("quantile", *values, q=0.11) == 2 * middle
    assert value("quantile", *values, q=1.0) == 10 * (1 + 2**-8 / 1.25)
    assert value("quantile", -1.0, q=0.5) == -middle
    assert value("quantile", 0.0, q=0.5) == 0.0


def test_rate_is_per_unit_over_the_window() -> None:
    assert rows_value("rate", 1, 2, 3, dtype=DType.FLOAT, unit_us=10) == 0.3
    assert rows_value("rate", dtype=DType.FLOAT, unit_us=10) == 0.0
    assert value("rate", 2.0, 3.0, unit_us=10) == 0.5
    assert value("rate", None, unit_us=10) is None


def test_decay_halves_with_each_half_life() -> None:
    # Values at times 0, 1, 2 seen from 4 with a half-life of 1: weights 1/16, 1/8, 1/4.
    assert value("decayed_sum", 16.0, 8.0, 4.0, t=4, halflife_us=1) == 3.0
    assert rows_value("decayed_count", 0, 1, 2, dtype=DType.FLOAT, t=4, halflife_us=1) == 0.4375
    assert value("decayed_mean", 16.0, 8.0, 4.0, t=4, halflife_us=1) == 3 / 0.4375
    # Half of a half-life: the float64 next to 2^-0.5.
    assert rows_value("decayed_count", 99, dtype=DType.FLOAT, t=100, halflife_us=2) == math.sqrt(0.5)
