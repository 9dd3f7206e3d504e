"""Profiles and the population stability index."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.columns import Column, column_of
from headrace.core.schema import DType
from headrace.registry.profile import (
    Profile,
    bin_counts,
    population_stability,
    profile_block,
    profile_column,
    profile_scores,
    psi,
    psi_of,
    psi_of_scores,
)
from tests.unit.training.blocks import block_of


def normal(rows: int, seed: int, shift: float = 0.0) -> Column:
    return Column(DType.FLOAT, np.random.default_rng(seed).normal(shift, 1, rows))


def test_ten_bins_of_a_tenth_each() -> None:
    profile = profile_column(Column(DType.INT, np.arange(1_000)))
    assert profile.counts == (100,) * 10 + (0,)
    assert profile.edges == (99, 199, 299, 399, 499, 599, 699, 799, 899)
    assert (profile.mean, profile.null_share) == (499.5, 0.0)
    assert profile.std == pytest.approx(np.arange(1_000).std())


def test_nulls_have_a_bin_and_do_not_count_as_values() -> None:
    profile = profile_column(column_of(DType.FLOAT, [1.0, None, 3.0, None]))
    assert profile.counts[-1] == 2
    assert sum(profile.counts) == 4
    assert (profile.mean, profile.std, profile.null_share) == (2.0, 1.0, 0.5)


def test_a_frequent_value_has_a_bin_of_its_own() -> None:
    values = [0] * 700 + list(range(-150, 0)) + list(range(1, 151))
    profile = profile_column(column_of(DType.INT, values))
    moved_down = column_of(DType.INT, [-1] * 700 + values[700:])
    assert 700 in profile.counts
    assert psi_of(profile, column_of(DType.INT, values)) == 0.0
    assert psi_of(profile, moved_down) > 1.0


@pytest.mark.parametrize("now", [4.0, 6.0, None])
def test_a_constant_that_changes_is_seen(now: float | None) -> None:
    profile = profile_column(column_of(DType.FLOAT, [5.0] * 1_000))
    assert psi_of(profile, column_of(DType.FLOAT, [5.0] * 500)) == 0.0
    assert psi_of(profile, column_of(DType.FLOAT, [now] * 500)) > 5.0


def test_categories_by_frequency_with_all_others_together() -> None:
    texts = ["AA"] * 5 + ["UA"] * 3 + [f"x{number:02}" for number in range(30)] + [None]
    profile = profile_column(column_of(DType.STRING, texts))
    assert profile.categories[:3] == ("AA", "UA", "x00")
    assert len(profile.categories) == 20
    assert profile.counts == (5, 3, *[1] * 18, 12, 1)
    unseen = column_of(DType.STRING, ["new", "AA", None])
    assert bin_counts(profile, unseen).tolist() == [1, *[0] * 19, 1, 1]


def test_stability_by_hand() -> None:
    # Shares (80.5/101, 20.5/101) against (20.5/101, 80.5/101).
    expected = 2 * (60 / 101) * math.log(80.5 / 20.5)
    assert population_stability([80, 20], [20, 80]) == pytest.approx(expected, rel=1e-12)
    assert population_stability([80, 0, 20], [20, 0, 80]) == pytest.approx(expected, rel=1e-12)
    assert population_stability([1, 2], [0, 0]) == 0.0
    assert population_stability([], []) == 0.0


def test_a_shift_is_seen_and_chance_is_not() -> None:
    profile = profile_column(normal(20_000, seed=1))
    assert psi_of(profile, normal(2_000, seed=2)) < 0.02
    assert 0.15 < psi_of(profile, normal(2_000, seed=3, shift=0.5)) < 0.4
    assert psi_of(profile, normal(2_000, seed=4, shift=2.0)) > 1.0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_stability_is_never_negative_and_the_same_both_ways(left: list[int], right: list[int]) -> None:
    bins = min(len(left), len(right))
    there, back = (population_stability(a[:bins], b[:bins]) for a, b in ((left, right), (right, left)))
    assert there >= 0
    assert there == pytest.approx(back, abs=1e-12)


@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9), st.just(0.0)), min_size=1, max_size=60))
def test_every_row_lies_in_one_bin_and_a_column_equals_itself(values: list[float | None]) -> None:
    column = column_of(DType.FLOAT, values)
    profile = profile_column(column)
    assert sum(profile.counts) == len(values)
    assert list(profile.edges) == sorted(set(profile.edges))
    assert psi_of(profile, column) == 0.0


def test_blocks_leave_out_times_and_lists_and_take_only_asked_columns() -> None:
    block = block_of(
        t=(DType.TIMESTAMP, [1, 2]),
        v=(DType.LIST, [[1.0], [2.0]]),
        f=(DType.FLOAT, [0.5, None]),
        b=(DType.BOOL, [True, False]),
        s=(DType.STRING, ["a", "b"]),
    )
    profile = profile_block(block, np.array([0.1, 0.9]))
    assert list(profile.columns) == ["f", "b", "s"]
    assert profile.rows == 2
    assert profile.score is not None
    assert psi(profile, block) == {"f": 0.0, "b": 0.0, "s": 0.0}
    assert psi(profile, block, ["s", "t"]) == {"s": 0.0}


def test_profiles_survive_json() -> None:
    profile = profile_block(block_of(f=(DType.FLOAT, [0.1, None, 1e300]), s=(DType.STRING, ["a", None, "ß"])))
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


def test_scores_have_a_profile_too() -> None:
    generator = np.random.default_rng(0)
    profile = profile_scores(generator.beta(2, 8, 5_000))
    assert psi_of_scores(profile, generator.beta(2, 8, 2_000)) < 0.05
    assert psi_of_scores(profile, generator.beta(4, 6, 2_000)) > 0.5


def test_empty_columns_have_no_distribution_and_do_not_move() -> None:
    profile = profile_column(column_of(DType.FLOAT, []))
    assert (profile.counts, profile.mean, profile.null_share) == ((0, 0), None, None)
    assert psi_of(profile, column_of(DType.FLOAT, [1.0])) == 0.0
