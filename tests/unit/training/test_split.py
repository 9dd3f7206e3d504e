"""Time splits keep the future out of training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.training.split import split_by_share, split_by_time


def test_cuts_are_half_open_and_the_embargo_lies_before_them() -> None:
    times = np.array([0, 4, 5, 9, 10, 14, 15, 19, 20, 99])
    split = split_by_time(times, validation_from_us=10, test_from_us=20, embargo_us=5)
    assert times[split.train].tolist() == [0, 4]
    assert times[split.validation].tolist() == [10, 14]
    assert times[split.test].tolist() == [20, 99]


def test_without_test_part_validation_goes_to_the_end() -> None:
    times = np.array([0, 9, 10, 2**62])
    split = split_by_time(times, validation_from_us=10)
    assert times[split.validation].tolist() == [10, 2**62]
    assert not split.test.any()


@pytest.mark.parametrize(("validation", "test", "embargo"), [(10, 9, 0), (10, 20, -1)])
def test_impossible_cuts_are_refused(validation: int, test: int, embargo: int) -> None:
    with pytest.raises(ValueError, match="must not begin before validation"):
        split_by_time(np.array([1]), validation_from_us=validation, test_from_us=test, embargo_us=embargo)


def test_shares_of_the_rows() -> None:
    times = np.random.default_rng(0).permutation(1_000)
    split = split_by_share(times, validation=0.2, test=0.1)
    assert (split.train.sum(), split.validation.sum(), split.test.sum()) == (700, 200, 100)
    assert times[split.train].max() < times[split.validation].min() <= times[split.validation].max()
    assert times[split.validation].max() < times[split.test].min()


@pytest.mark.parametrize(("rows", "validation", "test"), [(0, 0.1, 0.1), (5, 0.5, 0.5), (5, -0.1, 0), (5, 0, 1.0)])
def test_shares_that_leave_nothing_are_refused(rows: int, validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        split_by_share(np.arange(rows), validation=validation, test=test)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 10))
def test_parts_never_overlap_nor_mix_times(times: list[int], embargo: int) -> None:
    at = np.array(times)
    split = split_by_share(at, validation=0.3, test=0.2, embargo_us=embargo)
    parts = split.train.astype(int) + split.validation + split.test
    assert parts.max(initial=0) <= 1
    assert (at[split.train] + embargo < split.validation_from_us).all()
    assert (at[split.validation] + embargo < split.test_from_us).all()
    if embargo == 0:
        assert parts.min() == 1, "without an embargo no row is lost"
