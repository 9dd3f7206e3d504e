"""Evaluation and the paired bootstrap, against scikit-learn and a plain resampling loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from headrace.core.accuracy import METRICS
from headrace.core.errors import ConfigError
from headrace.training.evaluate import _WEIGHTED, evaluate, evaluate_segments, paired_bootstrap

REFERENCE = {
    "average_precision": metrics.average_precision_score,
    "roc_auc": metrics.roc_auc_score,
    "log_loss": metrics.log_loss,
    "brier": metrics.brier_score_loss,
}


def scored(rows: int, skill: float, seed: int = 0, decimals: int = 16) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.random(rows) < 0.2
    raw = skill * truth + np.random.default_rng(seed + 100).normal(size=rows)
    return truth, np.round(1 / (1 + np.exp(-raw + 1)), decimals)


@pytest.mark.parametrize("decimals", [1, 16])
@pytest.mark.parametrize("name", sorted(METRICS))
def test_weighing_rows_is_scoring_drawn_rows(name: str, decimals: int) -> None:
    truth, scores = scored(200, 1.0, decimals=decimals)
    weights = np.random.default_rng(5).multinomial(200, [1 / 200] * 200, 7).astype(np.float64)
    weights[:, np.argmax(scores)] = 0
    found = _WEIGHTED[name](truth, scores)(weights)
    expected = [REFERENCE[name](np.repeat(truth, w.astype(int)), np.repeat(scores, w.astype(int))) for w in weights]
    if name in ("log_loss", "brier"):
        expected = [value * w.sum() / 200 for value, w in zip(expected, weights, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_better_score_is_better_whatever_the_metric(name: str) -> None:
    truth, worse = scored(2_000, 0.5, seed=1)
    better = np.clip(0.8 * worse + 0.15 * truth, 0, 1)
    found = paired_bootstrap(truth, worse, better, name)
    assert 0 < found.low < found.difference < found.high
    back = paired_bootstrap(truth, better, worse, name)
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_the_interval_is_that_of_a_plain_loop() -> None:
    truth, a = scored(400, 0.8, seed=2)
    _, b = scored(400, 1.1, seed=2)
    b = np.round(b, 2)
    found = paired_bootstrap(truth, a, b, samples=600, seed=3)
    generator = np.random.default_rng(9)
    plain = []
    for _ in range(600):
        at = generator.integers(0, 400, 400)
        plain.append(
            metrics.average_precision_score(truth[at], b[at]) - metrics.average_precision_score(truth[at], a[at])
        )
    low, high = np.quantile(plain, [0.025, 0.975])
    spread = high - low
    assert found.low == pytest.approx(low, abs=0.15 * spread)
    assert found.high == pytest.approx(high, abs=0.15 * spread)


def test_equal_scores_differ_by_nothing_and_confidence_widens() -> None:
    truth, a = scored(500, 1.0)
    assert paired_bootstrap(truth, a, a) == (0.0, 0.0, 0.0)
    _, b = scored(500, 1.0, seed=0, decimals=1)
    narrow, wide = (paired_bootstrap(truth, a, b, confidence=confidence) for confidence in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_seed_decides_the_draws() -> None:
    truth, a = scored(300, 1.0)
    b = np.round(a, 1)
    assert paired_bootstrap(truth, a, b, seed=1) == paired_bootstrap(truth, a, b, seed=1)
    assert paired_bootstrap(truth, a, b, seed=1) != paired_bootstrap(truth, a, b, seed=2)


def test_undefined_is_nan_and_an_unknown_metric_is_named() -> None:
    assert all(math.isnan(value) for value in paired_bootstrap(np.zeros(5), np.zeros(5), np.ones(5)))
    with pytest.raises(ConfigError, match='no metric "f1"; there are: average_precision'):
        paired_bootstrap(np.array([0, 1]), np.zeros(2), np.ones(2), "f1")


def test_resamples_without_a_positive_are_left_out() -> None:
    truth = np.array([True, False, False])
    found = paired_bootstrap(truth, np.array([0.1, 0.5, 0.6]), np.array([0.9, 0.5, 0.1]), samples=200)
    assert np.isfinite(found).all()


def test_evaluation_leaves_undefined_figures_empty() -> None:
    truth, scores = scored(300, 1.0)
    full = evaluate(truth, scores)
    assert (full.rows, full.positives) == (300, int(truth.sum()))
    assert full.average_precision == pytest.approx(metrics.average_precision_score(truth, scores))
    assert set(full.metrics()) == set(METRICS)
    one_class = evaluate(np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert (one_class.average_precision, one_class.roc_auc) == (None, None)
    assert set(one_class.metrics()) == {"log_loss", "brier"}


def test_segments_are_evaluated_apart() -> None:
    truth, scores = scored(300, 1.0)
    carrier = np.array(["UA", "AA", None] * 100, dtype=object)
    found = evaluate_segments(truth, scores, {"carrier": carrier, "month": np.repeat([2, 10], 150)})
    assert list(found["carrier"]) == ["AA", "None", "UA"]
    assert found["carrier"]["UA"] == evaluate(truth[::3], scores[::3])
    assert {value: e.rows for value, e in found["month"].items()} == {"10": 150, "2": 150}
