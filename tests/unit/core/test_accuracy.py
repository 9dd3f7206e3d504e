"""Accuracy figures against scikit-learn, ties included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from headrace.core.accuracy import METRICS, average_precision, brier, log_loss, roc_auc

ROWS = st.lists(
    st.tuples(st.booleans(), st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))),
    min_size=2,
    max_size=40,
).filter(lambda rows: len({truth for truth, _ in rows}) == 2)


@given(ROWS)
def test_figures_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    truth, scores = np.array([t for t, _ in rows]), np.array([s for _, s in rows])
    assert average_precision(truth, scores) == pytest.approx(metrics.average_precision_score(truth, scores), abs=1e-12)
    assert roc_auc(truth, scores) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
    assert log_loss(truth, scores) == pytest.approx(metrics.log_loss(truth, scores), rel=1e-9)
    assert brier(truth, scores) == pytest.approx(metrics.brier_score_loss(truth, scores), abs=1e-12)


def test_by_hand() -> None:
    truth, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.8, 0.1])
    assert average_precision(truth, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert roc_auc(truth, scores) == pytest.approx(3.5 / 4)
    assert brier(truth, scores) == pytest.approx((0.01 + 0.64 + 0.04 + 0.01) / 4)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_no_rows_have_no_figure(name: str) -> None:
    assert math.isnan(METRICS[name](np.array([], bool), np.array([], float)))


def test_one_class_has_no_ranking() -> None:
    scores = np.array([0.1, 0.2])
    assert math.isnan(average_precision(np.zeros(2), scores))
    assert math.isnan(roc_auc(np.zeros(2), scores))
    assert math.isnan(roc_auc(np.ones(2), scores))
    assert average_precision(np.ones(2), scores) == 1.0
