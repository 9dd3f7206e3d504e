"""Accuracy against the truth: over time, and whether it has decayed since the model was promoted."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Literal

import msgspec
import numpy as np

from headrace.core.accuracy import METRICS, SHORT_NAMES, SMALLER_IS_BETTER, Truth, average_precision, roc_auc
from headrace.core.columns import FloatArray, IntArray
from headrace.core.errors import ConfigError
from headrace.core.time import US_PER_DAY, from_us, to_us

Every = Literal["day", "week", "month"]

MIN_ROWS = 500
MIN_POSITIVES = 20
"""With less truth the metric of a window swings by chance further than any drop worth an alarm."""

_MONDAY_US = 4 * US_PER_DAY
"""1970-01-05 was a Monday."""


class AccuracyPoint(msgspec.Struct, frozen=True):
    """Figures of the predictions of one day, week (from Monday) or month, UTC; None where not defined."""

    start_us: int
    end_us: int
    rows: int
    positives: int
    average_precision: float | None
    roc_auc: float | None


class Decay(msgspec.Struct, frozen=True):
    """The metric on recent truth against what it was at promotion.

    Attributes:
        enough: False with too little truth; then `now` and `drop` are None.
        at_promotion: the metric when the model was promoted.
        now: the metric on the window.
        drop: how much worse it is now (positive is worse, whatever the metric).
        decayed: True if `drop` is above the threshold.
    """

    metric: str
    rows: int
    positives: int
    enough: bool
    at_promotion: float
    now: float | None
    drop: float | None
    threshold: float
    decayed: bool

    @property
    def in_words(self) -> str:
        """One line for people."""
        name = SHORT_NAMES[self.metric]
        if self.now is None:
            return f"too little truth to tell: {self.positives} of {self.rows} rows are true"
        return f"{name} {self.now:.3f} on {self.rows} rows, {self.at_promotion:.3f} at promotion"


def accuracy_over_time(times_us: IntArray, truth: Truth, scores: FloatArray, every: Every) -> list[AccuracyPoint]:
    """Figures per calendar window of the request times int64 [n], oldest first; windows without rows are left out."""
    if not len(times_us):
        return []
    starts = period_starts(times_us, every)
    order = np.argsort(starts, kind="stable")
    firsts = np.flatnonzero(np.diff(starts[order], prepend=starts[order[0]] - 1))
    return [_point(int(starts[at[0]]), every, truth[at], scores[at]) for at in np.split(order, firsts[1:])]


def period_starts(times_us: IntArray, every: Every) -> IntArray:
    """Begin of the day, week (Monday) or month, UTC, that each time lies in; int64 [n] µs."""
    if every == "day":
        return times_us - times_us % US_PER_DAY
    if every == "week":
        return times_us - (times_us - _MONDAY_US) % (7 * US_PER_DAY)
    months = times_us.astype("datetime64[us]").astype("datetime64[M]")
    return months.astype("datetime64[us]").astype(np.int64)


def find_decay(
    truth: Truth,
    scores: FloatArray,
    *,
    at_promotion: float,
    drop: float,
    metric: str = "average_precision",
    min_rows: int = MIN_ROWS,
    min_positives: int = MIN_POSITIVES,
) -> Decay:
    """Compare the metric on the last window of truth with its value at promotion.

    Args:
        truth: bool or 0/1 [n] of the window.
        scores: float64 [n] that the champion served.
        at_promotion: the champion's metric on the truth on which it was promoted.
        drop: decayed if the metric is worse than that by more.
        metric: a name in `core.accuracy.METRICS`.
        min_rows: with fewer rows nothing is computed.
        min_positives: with fewer true rows (or fewer false ones) nothing is computed.

    Raises:
        ConfigError: no metric of that name.
    """
    if metric not in METRICS:
        raise ConfigError(f'no metric "{metric}"; there are: {", ".join(METRICS)}')
    rows, positives = len(truth), int((np.asarray(truth) != 0).sum())
    if rows < min_rows or min(positives, rows - positives) < min_positives:
        return Decay(metric, rows, positives, False, at_promotion, None, None, drop, False)
    now = METRICS[metric](truth, scores)
    worse = now - at_promotion if metric in SMALLER_IS_BETTER else at_promotion - now
    return Decay(metric, rows, positives, True, at_promotion, now, worse, drop, worse > drop)


def _point(start_us: int, every: Every, truth: Truth, scores: FloatArray) -> AccuracyPoint:
    figures = [metric(truth, scores) for metric in (average_precision, roc_auc)]
    ap, auc = (None if np.isnan(figure) else figure for figure in figures)
    return AccuracyPoint(start_us, _end_us(start_us, every), len(truth), int((truth != 0).sum()), ap, auc)


def _end_us(start_us: int, every: Every) -> int:
    if every != "month":
        return start_us + (1 if every == "day" else 7) * US_PER_DAY
    start = from_us(start_us)
    year, month = (start.year + 1, 1) if start.month == 12 else (start.year, start.month + 1)
    return to_us(datetime(year, month, 1, tzinfo=timezone.utc))
