"""How good a model is, for whom, and how sure one can be that another is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.core.accuracy import (
    METRICS,
    SMALLER_IS_BETTER,
    Truth,
    average_precision,
    brier,
    brier_losses,
    log_loss,
    log_losses,
    ranking,
    roc_auc,
)
from headrace.core.columns import FloatArray, IntArray
from headrace.core.errors import ConfigError

_CHUNK_CELLS = 400_000
"""Resamples are weighed this many cells at a time, so that they stay in the processor's cache."""


class Evaluation(msgspec.Struct, frozen=True):
    """Figures of one set of rows; a figure that is not defined there (no row, one class) is None."""

    rows: int
    positives: int
    average_precision: float | None
    roc_auc: float | None
    log_loss: float | None
    brier: float | None

    def metrics(self) -> dict[str, float]:
        """The figures that are defined, by name."""
        return {name: value for name in METRICS if (value := getattr(self, name)) is not None}


class Interval(NamedTuple):
    """By how much B is better than A, and the bounds within which that lies with the asked confidence."""

    difference: float
    low: float
    high: float


def evaluate(truth: Truth, scores: FloatArray) -> Evaluation:
    """All figures; `truth` is bool or 0/1 [n], `scores` are probabilities float64 [n]."""
    figures = [metric(truth, scores) for metric in (average_precision, roc_auc, log_loss, brier)]
    return Evaluation(len(scores), int((truth != 0).sum()), *(None if np.isnan(f) else f for f in figures))


def evaluate_segments(
    truth: Truth, scores: FloatArray, segments: Mapping[str, npt.NDArray[Any]]
) -> dict[str, dict[str, Evaluation]]:
    """Figures per segment column and value; the values of a column [n] are sorted as text, None stands for null."""
    found: dict[str, dict[str, Evaluation]] = {}
    for column, values in segments.items():
        found[column] = {value: evaluate(truth[at], scores[at]) for value, at in rows_by_value(values).items()}
    return found


def rows_by_value(values: npt.NDArray[Any]) -> dict[str, IntArray]:
    """Row numbers by the text of their value, sorted by the text."""
    texts = np.array([str(value) for value in values.tolist()], np.object_)
    names, codes = np.unique(texts.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    return {str(name): order[bounds[i] : bounds[i + 1]] for i, name in enumerate(names)}


def paired_bootstrap(
    truth: Truth,
    score_a: FloatArray,
    score_b: FloatArray,
    metric: str = "average_precision",
    *,
    samples: int = 400,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """How much better B ranks or fits than A on the same rows, with a two-sided percentile interval.

    Idea: draw n of the n rows with replacement `samples` times; the draw is nothing but a weight (how often drawn) per
    row, so each score is sorted once and every resample is a weighted sum over that order. Both scores see the same
    draws. A resample in which the metric is not defined is left out.

    Args:
        truth: bool or 0/1 [n].
        score_a: of the champion, float64 [n].
        score_b: of the challenger, float64 [n].
        metric: a name in `core.accuracy.METRICS`. Of losses the sign is turned: positive always means B is better.
        samples: number of resamples.
        seed: of the draws; the same seed gives the same interval.
        confidence: between 0 and 1; 0.95 gives the 2.5 % and 97.5 % quantiles.

    Returns:
        All NaN where the metric is not defined on the rows themselves.

    Raises:
        ConfigError: no metric of that name.
    """
    if metric not in METRICS:
        raise ConfigError(f'no metric "{metric}"; there are: {", ".join(METRICS)}')
    sign = -1.0 if metric in SMALLER_IS_BETTER else 1.0
    difference = sign * (METRICS[metric](truth, score_b) - METRICS[metric](truth, score_a))
    if np.isnan(difference):
        return Interval(difference, difference, difference)
    weighted = [_WEIGHTED[metric](truth, scores) for scores in (score_a, score_b)]
    generator = np.random.default_rng(seed)
    rows = len(truth)
    step = max(1, _CHUNK_CELLS // rows)
    differences: list[FloatArray] = []
    for start in range(0, samples, step):
        weights = _draw(generator, min(step, samples - start), rows)
        differences.append(sign * (weighted[1](weights) - weighted[0](weights)))
    drawn = np.concatenate(differences)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(difference, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(difference, float(low), float(high))


def _draw(generator: np.random.Generator, samples: int, rows: int) -> FloatArray:
    """How often each row is drawn, float64 [samples, rows]; each line sums to `rows`."""
    picked = generator.integers(0, rows, (samples, rows)) + np.arange(samples)[:, None] * rows
    counts = np.bincount(picked.ravel(), minlength=samples * rows)
    return counts.reshape(samples, rows).astype(np.float64)


class _WeightedRanking:
    """Weighted AP or AUC of one score for many weightings: float64 [samples] from weights [samples, n]."""

    def __init__(self, truth: Truth, scores: FloatArray, *, area: bool) -> None:
        self._order, last = ranking(scores)
        self._hit = (truth[self._order] != 0).astype(np.float64)
        self._ends = None if last.all() else np.flatnonzero(last)
        self._area = area

    def __call__(self, weights: FloatArray) -> FloatArray:
        ranked = weights.take(self._order, axis=1)
        rows = np.cumsum(ranked, axis=1)
        hits = np.cumsum(ranked * self._hit, axis=1)
        if self._ends is not None:
            rows, hits = rows.take(self._ends, axis=1), hits.take(self._ends, axis=1)
        gained = np.diff(hits, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            if self._area:
                misses = np.diff(rows - hits, axis=1, prepend=0.0)
                total = hits[:, -1] * (rows[:, -1] - hits[:, -1])
                return np.asarray((misses * (hits - gained / 2)).sum(axis=1) / total, np.float64)
            # Rows drawn zero times at the head have 0 of 0 precision and gain nothing.
            precision = hits / np.maximum(rows, 1.0)
            return np.asarray((gained * precision).sum(axis=1) / hits[:, -1], np.float64)


class _WeightedMean:
    """Weighted mean of losses per row, for many weightings."""

    def __init__(self, losses: FloatArray) -> None:
        self._losses = losses

    def __call__(self, weights: FloatArray) -> FloatArray:
        return np.asarray(weights @ self._losses / len(self._losses), np.float64)


_WEIGHTED: dict[str, Any] = {
    "average_precision": lambda truth, scores: _WeightedRanking(truth, scores, area=False),
    "roc_auc": lambda truth, scores: _WeightedRanking(truth, scores, area=True),
    "log_loss": lambda truth, scores: _WeightedMean(log_losses(truth, scores)),
    "brier": lambda truth, scores: _WeightedMean(brier_losses(truth, scores)),
}
