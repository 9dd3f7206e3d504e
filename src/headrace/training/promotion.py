"""The judgement of a challenger: better than the champion beyond doubt, on truth that neither has seen, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.core.accuracy import METRICS, SHORT_NAMES, Truth
from headrace.core.columns import FloatArray
from headrace.core.errors import ConfigError, TrainingError
from headrace.features.plan import PromotionPlan
from headrace.training.evaluate import Interval, paired_bootstrap, rows_by_value

MIN_ROWS = 100
MIN_OF_EACH_CLASS = 10
"""With less truth than this a bootstrap interval says nothing; the challenger is refused, a segment is not judged."""


class Comparison(msgspec.Struct, frozen=True):
    """Champion beside challenger on some rows. `segment` is "" for all rows, else "column=value".

    `difference`, `low` and `high` are positive where the challenger is better, whatever the metric; None, like the
    figures, where there is too little truth to tell.
    """

    segment: str
    metric: str
    rows: int
    positives: int
    champion: float | None
    challenger: float | None
    difference: float | None
    low: float | None
    high: float | None


class Verdict(msgspec.Struct, frozen=True):
    """Whether to promote, why in words, and the figures behind it (all rows first, then the guarded segments)."""

    promote: bool
    reason: str
    table: list[Comparison]

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain JSON values, as the catalog keeps it."""
        return [msgspec.structs.asdict(row) for row in self.table]


def judge(
    promote: PromotionPlan,
    truth: Truth,
    champion_scores: FloatArray,
    challenger_scores: FloatArray,
    segments: Mapping[str, npt.NDArray[Any]] | None = None,
    *,
    metric: str = "average_precision",
    samples: int = 1_000,
    seed: int = 0,
) -> Verdict:
    """Judge on the same rows, of request times that neither model was fitted on.

    Promote if the lower bound of the two-sided interval of the difference, at the plan's confidence, is above 0 and
    the challenger is not worse beyond doubt (upper bound below 0) in any value of the columns in `no_worse_in`.

    Args:
        promote: the model's rule; its `on_us` is the caller's business (it picks the rows).
        truth: bool or 0/1 [n].
        champion_scores: float64 [n].
        challenger_scores: float64 [n].
        segments: values [n] by column name, at least of the columns in `promote.no_worse_in`.
        metric: a name in `core.accuracy.METRICS`.
        samples: bootstrap resamples.
        seed: of the resampling; the same seed gives the same verdict.

    Raises:
        TrainingError: a score is not a number, or the arrays differ in length.
        ConfigError: no metric of that name, or a column of `no_worse_in` is not in `segments`.
    """
    truth = np.asarray(truth) != 0
    segments = segments or {}
    _check(promote, truth, champion_scores, challenger_scores, segments)
    short = too_little_truth(truth)
    if short is not None:
        return Verdict(False, short, [_comparison("", metric, truth, champion_scores, challenger_scores, None)])

    def compare(segment: str, at: Any) -> Comparison:
        y, a, b = truth[at], champion_scores[at], challenger_scores[at]
        if too_little_truth(y) is not None:
            return _comparison(segment, metric, y, a, b, None)
        found = paired_bootstrap(y, a, b, metric, samples=samples, seed=seed, confidence=promote.confidence)
        return _comparison(segment, metric, y, a, b, found)

    table = [compare("", slice(None))]
    for column in promote.no_worse_in:
        for value, at in rows_by_value(segments[column]).items():
            table.append(compare(f"{column}={value}", at))
    return _verdict(promote, table)


def too_little_truth(truth: Truth) -> str | None:
    """Why these rows do not allow a judgement, in words; None if they do."""
    rows, positives = len(truth), int((truth != 0).sum())
    if rows < MIN_ROWS:
        return f"too little truth: {rows} rows, {MIN_ROWS} are needed"
    if positives in (0, rows):
        return f"the truth is of one class only: all {rows} rows are {'true' if positives else 'false'}"
    if min(positives, rows - positives) < MIN_OF_EACH_CLASS:
        scarce = "true" if positives < MIN_OF_EACH_CLASS else "false"
        count = min(positives, rows - positives)
        return f"too little truth: {count} of {rows} rows are {scarce}, {MIN_OF_EACH_CLASS} are needed"
    return None


def _check(
    promote: PromotionPlan, truth: Truth, a: FloatArray, b: FloatArray, segments: Mapping[str, npt.NDArray[Any]]
) -> None:
    if not len(truth) == len(a) == len(b):
        raise TrainingError(f"{len(truth)} truths, {len(a)} champion and {len(b)} challenger scores: give one per row")
    for who, scores in (("champion", a), ("challenger", b)):
        bad = int((~np.isfinite(scores)).sum())
        if bad:
            raise TrainingError(f"{bad} of {len(scores)} scores of the {who} are null; judge on rows that both scored")
    for column in promote.no_worse_in:
        if column not in segments:
            there = ", ".join(segments) or "none"
            raise ConfigError(f'the promotion rule guards "{column}", which is no segment; there are: {there}')


def _verdict(promote: PromotionPlan, table: list[Comparison]) -> Verdict:
    overall = _in_words(table[0], promote.confidence)
    if table[0].low is None or not table[0].low > 0:
        return Verdict(False, f"not better beyond doubt: {overall}", table)
    worse = [row for row in table[1:] if row.high is not None and row.high < 0]
    if worse:
        where = "; ".join(f"{row.segment} {_in_words(row, promote.confidence)}" for row in worse)
        return Verdict(False, f"{overall}, but worse in {where}", table)
    return Verdict(True, overall, table)


def _in_words(row: Comparison, confidence: float) -> str:
    name = SHORT_NAMES.get(row.metric, row.metric)
    return f"{name} {row.difference:+.3f}, {100 * confidence:g} % [{row.low:+.3f}, {row.high:+.3f}]"


def _comparison(
    segment: str, metric: str, truth: Truth, a: FloatArray, b: FloatArray, found: Interval | None
) -> Comparison:
    rows, positives = len(truth), int((truth != 0).sum())
    champion, challenger = (_defined(METRICS[metric](truth, scores)) for scores in (a, b))
    difference, low, high = (None, None, None) if found is None else (_defined(value) for value in found)
    return Comparison(segment, metric, rows, positives, champion, challenger, difference, low, high)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
