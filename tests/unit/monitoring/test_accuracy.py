"""Accuracy over time and its decay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.accuracy import average_precision, brier, roc_auc
from headrace.core.errors import ConfigError
from headrace.core.time import MIN_US, US_PER_DAY, from_us, parse_time
from headrace.monitoring.accuracy import Every, accuracy_over_time, find_decay, period_starts


@given(st.lists(st.integers(MIN_US, 4 * 10**15), min_size=1, max_size=20), st.sampled_from(["day", "week", "month"]))
def test_periods_begin_at_midnight_on_the_right_day(times: list[int], every: Every) -> None:
    for time_us, start_us in zip(times, period_starts(np.array(times), every).tolist(), strict=True):
        start, at = from_us(start_us), from_us(time_us)
        assert start <= at
        assert (start.hour, start.minute, start.second, start.microsecond) == (0, 0, 0, 0)
        if every == "day":
            assert start.date() == at.date()
        elif every == "week":
            assert start.isocalendar()[2] == 1
            assert start.isocalendar()[:2] == at.isocalendar()[:2]
        else:
            assert (start.year, start.month, start.day) == (at.year, at.month, 1)


def test_months_of_a_year_with_their_figures() -> None:
    generator = np.random.default_rng(0)
    begin = parse_time("2013-11-15")
    times = begin + generator.integers(0, 60 * US_PER_DAY, 3_000)
    truth, scores = generator.random(3_000) < 0.3, generator.random(3_000)
    points = accuracy_over_time(times, truth, scores, "month")
    assert [(p.start_us, p.end_us) for p in points] == [
        (parse_time("2013-11-01"), parse_time("2013-12-01")),
        (parse_time("2013-12-01"), parse_time("2014-01-01")),
        (parse_time("2014-01-01"), parse_time("2014-02-01")),
    ]
    assert sum(p.rows for p in points) == 3_000
    december = (times >= points[1].start_us) & (times < points[1].end_us)
    assert (points[1].rows, points[1].positives) == (december.sum(), truth[december].sum())
    assert points[1].average_precision == pytest.approx(average_precision(truth[december], scores[december]))
    assert points[1].roc_auc == pytest.approx(roc_auc(truth[december], scores[december]))


@pytest.mark.parametrize(("every", "days"), [("day", 1), ("week", 7)])
def test_windows_without_rows_are_left_out(every: Every, days: int) -> None:
    times = np.array([parse_time("2013-01-07T10:00:00"), parse_time("2013-01-28T23:59:59")])
    points = accuracy_over_time(times, np.array([True, False]), np.array([0.5, 0.5]), every)
    assert [p.start_us for p in points] == [parse_time("2013-01-07"), parse_time("2013-01-28")]
    assert all(p.end_us - p.start_us == days * US_PER_DAY for p in points)
    assert [(p.average_precision, p.roc_auc) for p in points] == [(1.0, None), (None, None)]


def test_nothing_scored_has_no_points() -> None:
    assert accuracy_over_time(np.array([], np.int64), np.array([], bool), np.array([]), "day") == []


TRUTH = np.random.default_rng(1).random(1_000) < 0.3
GOOD = np.where(TRUTH, 0.9, 0.1)
BAD = np.random.default_rng(2).random(1_000)


def test_a_fall_below_the_promotion_figure_is_decay() -> None:
    fallen = find_decay(TRUTH, BAD, at_promotion=0.6, drop=0.05)
    assert fallen.decayed
    assert fallen.drop == pytest.approx(0.6 - average_precision(TRUTH, BAD))
    assert fallen.in_words == f"AP {fallen.now:.3f} on 1000 rows, 0.600 at promotion"
    held = find_decay(TRUTH, GOOD, at_promotion=0.6, drop=0.05)
    assert (held.decayed, held.now, held.drop) == (False, 1.0, pytest.approx(-0.4))


def test_the_drop_must_be_exceeded() -> None:
    now = average_precision(TRUTH, BAD)
    assert not find_decay(TRUTH, BAD, at_promotion=now + 0.25, drop=0.25 + 1e-9).decayed
    assert find_decay(TRUTH, BAD, at_promotion=now + 0.25, drop=0.25 - 1e-9).decayed


def test_losses_decay_upward() -> None:
    loss = brier(TRUTH, BAD)
    assert find_decay(TRUTH, BAD, at_promotion=loss - 0.1, drop=0.05, metric="brier").decayed
    assert not find_decay(TRUTH, BAD, at_promotion=loss + 0.1, drop=0.05, metric="brier").decayed


@pytest.mark.parametrize(("rows", "positives"), [(499, 150), (600, 19), (600, 581)])
def test_too_little_truth_is_no_decay(rows: int, positives: int) -> None:
    truth = np.arange(rows) < positives
    decay = find_decay(truth, np.random.default_rng(0).random(rows), at_promotion=1.0, drop=0.0)
    assert (decay.enough, decay.decayed, decay.now, decay.drop) == (False, False, None, None)
    assert decay.in_words == f"too little truth to tell: {positives} of {rows} rows are true"


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ConfigError, match='no metric "f1"'):
        find_decay(TRUTH, BAD, at_promotion=1.0, drop=0.0, metric="f1")
