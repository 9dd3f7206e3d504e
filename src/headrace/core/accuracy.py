"""Figures of how well scores rank and fit a binary truth. Pure NumPy; ties are treated as scikit-learn treats them.

`truth` is bool or 0/1 [n], `scores` float64 [n], larger means more likely true. A figure that is not defined (no row,
one class only) is NaN, never a number that looks like one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.core.columns import BoolArray, FloatArray, IntArray

Truth = npt.NDArray[Any]

_EPSILON = float(np.finfo(np.float64).eps)


def ranking(scores: FloatArray) -> tuple[IntArray, BoolArray]:
    """Return the order of falling scores and, in that order, whether a row is the last of its tied group."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.ones(len(scores), np.bool_)
    last[:-1] = ranked[1:] != ranked[:-1]
    return order, last


def average_precision(truth: Truth, scores: FloatArray) -> float:
    """Area under the precision-recall steps: sum of (gain in recall) x (precision) over the distinct scores."""
    order, last = ranking(scores)
    hits = np.cumsum(truth[order] != 0)[last]
    total = int(hits[-1]) if len(hits) else 0
    if total == 0:
        return float("nan")
    rows = np.flatnonzero(last) + 1
    return float((np.diff(hits, prepend=0) * (hits / rows)).sum() / total)


def roc_auc(truth: Truth, scores: FloatArray) -> float:
    """The chance that a true row scores above a false one, a tie counting half; NaN unless there are both."""
    order, last = ranking(scores)
    hits = np.cumsum(truth[order] != 0)[last]
    rows = np.flatnonzero(last) + 1
    if not len(rows) or hits[-1] in (0, rows[-1]):
        return float("nan")
    misses = rows - hits
    gained = np.diff(misses, prepend=0)
    above = hits - np.diff(hits, prepend=0) / 2
    return float((gained * above).sum() / (int(hits[-1]) * int(misses[-1])))


def log_loss(truth: Truth, scores: FloatArray) -> float:
    """Mean −ln of the probability given to what happened; scores are clipped to [ε, 1−ε] of float64."""
    return float(log_losses(truth, scores).mean()) if len(scores) else float("nan")


def brier(truth: Truth, scores: FloatArray) -> float:
    """Mean squared difference of probability and truth."""
    return float(brier_losses(truth, scores).mean()) if len(scores) else float("nan")


def log_losses(truth: Truth, scores: FloatArray) -> FloatArray:
    """Log loss per row, float64 [n]."""
    clipped = np.clip(scores, _EPSILON, 1 - _EPSILON)
    losses: FloatArray = -np.log(np.where(truth != 0, clipped, 1 - clipped))
    return losses


def brier_losses(truth: Truth, scores: FloatArray) -> FloatArray:
    """Squared error per row, float64 [n]."""
    losses: FloatArray = (scores - (truth != 0)) ** 2
    return losses


METRICS: dict[str, Callable[[Truth, FloatArray], float]] = {
    "average_precision": average_precision,
    "roc_auc": roc_auc,
    "log_loss": log_loss,
    "brier": brier,
}
"""Metrics by the names that a model's `metric` may have."""

SMALLER_IS_BETTER = frozenset({"log_loss", "brier"})

SHORT_NAMES = {"average_precision": "AP", "roc_auc": "AUC", "log_loss": "log loss", "brier": "Brier"}
"""How people write them."""
