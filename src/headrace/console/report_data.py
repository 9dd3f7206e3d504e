"""What a report shows: frozen figures of one run of the loop, without any of the data behind them.

Whoever ran the loop fills a `ReportData`; `console.report` turns it into a page. Every field but the names has a
default, and what is left empty is left out of the page. Times are int µs UTC, months are "2013-02".
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec
import numpy as np

from headrace.core.accuracy import Truth
from headrace.core.columns import FloatArray
from headrace.core.errors import SchemaError

Severity = Literal["info", "warning", "critical"]


class StreamCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Verdicts on the events of one stream: `events` is all that was published, `dead_letters` counts by reason."""

    stream: str
    events: int
    duplicates: int = 0
    late: int = 0
    dead_letters: dict[str, int] = {}


class AuditExample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value that was not recomputed to the same bits."""

    prediction: str
    column: str
    served: Any
    recomputed: Any


class AuditSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The skew audit: feature values recomputed as served, how many differ, and the first few that do."""

    values_checked: int
    values_differing: int
    examples: tuple[AuditExample, ...] = ()


class MonthAccuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Average precision of the frozen first model and of the looped one in one month; None where not defined."""

    month: str
    rows: int
    positives: int
    frozen: float | None
    looped: float | None


class WeekAccuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy of the looped model on one week of requests; None where not defined."""

    start_us: int
    rows: int
    positives: int
    average_precision: float | None
    roc_auc: float | None
    frozen_average_precision: float | None = None


class DecisionMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One judgement of a challenger.

    Attributes:
        trigger: what asked for the retraining: "schedule", "decay", "drift: column, ...".
        champion: version that it was compared with; None for the first one.
        difference: of the metric, positive where the challenger is better; None if it was not compared.
        low: lower bound of the interval of the difference.
        high: upper bound.
    """

    at_us: int
    trigger: str
    challenger: int
    champion: int | None
    promoted: bool
    reason: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None


class DriftMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Population stability index of each watched feature in each week, `psi[feature][week]`; None: too few rows.

    `score` is that of the model's score by week, or empty.
    """

    week_starts_us: tuple[int, ...]
    features: tuple[str, ...]
    psi: tuple[tuple[float | None, ...], ...]
    threshold: float
    score: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        weeks = len(self.week_starts_us)
        if len(self.psi) != len(self.features) or any(len(row) != weeks for row in self.psi):
            raise ValueError(f"psi must have {len(self.features)} rows, one per feature, of {weeks} weeks each")
        if self.score and len(self.score) != weeks:
            raise ValueError(f"score must have {weeks} values, one per week, or none")

    def top(self, count: int) -> DriftMap:
        """The features that drifted farthest in any week, the farthest first."""
        peak = [max((value for value in row if value is not None), default=-1.0) for row in self.psi]
        order = sorted(range(len(peak)), key=lambda row: (-peak[row], self.features[row]))[:count]
        return msgspec.structs.replace(
            self, features=tuple(self.features[row] for row in order), psi=tuple(self.psi[row] for row in order)
        )


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts between n + 1 rising edges, with the median and the 99th percentile of the values themselves."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    p50: float
    p99: float

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, not {len(self.edges)}")

    @classmethod
    def of(cls, values: FloatArray, bins: int = 40) -> Histogram:
        """Bin float64 [n > 0] values evenly from 0; the longest 0.1 % are counted in the last bin."""
        p50, p99, top = np.percentile(values, [50, 99, 99.9]).tolist()
        edges = np.linspace(0.0, top if top > 0 else 1.0, bins + 1)
        counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        return cls(tuple(edges.tolist()), tuple(counts.tolist()), p50, p99)


class MonthSpeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events of one simulated month and the real seconds that the whole loop took for them."""

    month: str
    events: int
    seconds: float


class CheckFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch run that a declared data check refused.

    Attributes:
        check: as declared, such as `InRange("wind_speed", 0, 150)`.
        found: what the run brought, in words for people: "1,048 mph".
        allowed: what was declared: "0 to 150 mph".
        note: a closing sentence for the story, or "".
    """

    at_us: int
    table: str
    check: str
    found: str
    allowed: str
    column: str = ""
    note: str = ""


class AlertMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One alert, in words."""

    at_us: int
    kind: str
    subject: str
    severity: Severity
    message: str = ""


class Importance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Share (0 to 1) of the champion's total gain that comes from one column."""

    column: str
    share: float


class CalibrationBin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean score of some predictions beside the share of them that came true."""

    predicted: float
    observed: float
    rows: int


class ExplainedValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature of the explained prediction; `equal` is the audit's word, bit for bit."""

    feature: str
    served: Any
    recomputed: Any
    equal: bool


class ExplainedPrediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prediction with all that it was made from; `truth` is None while unknown, `position` the log's, in words."""

    prediction: str
    at_us: int
    version: int
    score: float
    request: dict[str, Any]
    values: tuple[ExplainedValue, ...]
    position: str = ""
    truth: bool | None = None


class ReportData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All figures of one report.

    Attributes:
        question: what the model answers, one sentence.
        events: events published; None: the sum over `streams`.
        features_served: feature values served to predictions.
        retrainings: by kind of trigger ("schedule", "drift", "decay", ...); empty: counted from `decisions`.
        freshness: simulated seconds from an event becoming known to its being visible online.
        latency: milliseconds of scoring over HTTP.
        alerts: all but those of data checks, which `check_failures` tells.
        peak_memory_mb: of the largest process.
        seconds: real time of the whole run.
        params: of the run, for the footer.
        versions: of the software, for the footer.
    """

    project: str
    model: str
    question: str = ""
    period_start_us: int | None = None
    period_end_us: int | None = None
    streams: tuple[StreamCounts, ...] = ()
    events: int | None = None
    predictions: int | None = None
    features_served: int | None = None
    audit: AuditSummary | None = None
    months: tuple[MonthAccuracy, ...] = ()
    weeks: tuple[WeekAccuracy, ...] = ()
    decisions: tuple[DecisionMark, ...] = ()
    retrainings: dict[str, int] = {}
    drift: DriftMap | None = None
    freshness: Histogram | None = None
    latency: Histogram | None = None
    speed: tuple[MonthSpeed, ...] = ()
    peak_memory_mb: float | None = None
    seconds: float | None = None
    check_failures: tuple[CheckFailure, ...] = ()
    alerts: tuple[AlertMark, ...] = ()
    importances: tuple[Importance, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()
    explained: ExplainedPrediction | None = None
    params: dict[str, Any] = {}
    versions: dict[str, str] = {}

    @classmethod
    def from_json(cls, text: str | bytes) -> ReportData:
        """Read what `to_json` wrote. Raises SchemaError that names the place at fault."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise SchemaError(f"this is no data of a report: {error}; write it with ReportData.to_json") from error

    def to_json(self) -> bytes:
        """JSON that `from_json` reads back. NaN and infinities become null."""
        return msgspec.json.encode(self)

    @property
    def total_events(self) -> int | None:
        """Events published, over all streams; None if not known."""
        if self.events is None and self.streams:
            return sum(stream.events for stream in self.streams)
        return self.events

    @property
    def dead_letters(self) -> dict[str, int]:
        """Dead letters of all streams by reason, the most frequent first."""
        total = Counter[str]()
        for stream in self.streams:
            total.update(stream.dead_letters)
        return dict(total.most_common())

    @property
    def retrainings_by_kind(self) -> dict[str, int]:
        """Retrainings by kind of trigger, the most frequent first."""
        judged = (mark for mark in self.decisions if mark.champion is not None)
        counted = Counter(self.retrainings) or Counter(kind_of(mark.trigger) for mark in judged)
        return dict(counted.most_common())

    @property
    def promotions(self) -> tuple[DecisionMark, ...]:
        """Challengers that took the place of a champion; the first version took nobody's."""
        return tuple(mark for mark in self.decisions if mark.promoted and mark.champion is not None)

    @property
    def refusals(self) -> tuple[DecisionMark, ...]:
        """Challengers that were not promoted."""
        return tuple(mark for mark in self.decisions if not mark.promoted)

    @property
    def judged_months(self) -> tuple[tuple[str, float, float], ...]:
        """(month, frozen, looped) of the months in which both are defined."""
        return tuple(
            (m.month, m.frozen, m.looped) for m in self.months if m.frozen is not None and m.looped is not None
        )

    @property
    def months_won(self) -> int:
        """Months in which the looped model is the better one."""
        return sum(looped > frozen for _, frozen, looped in self.judged_months)


def calibrate(truth: Truth, scores: FloatArray, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Cut predictions, ordered by score, into bins of equal size; `truth` is bool or 0/1 [n]."""
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return tuple(
        CalibrationBin(float(scores[at].mean()), float((np.asarray(truth)[at] != 0).mean()), len(at)) for at in parts
    )


def kind_of(trigger: str) -> str:
    """The kind of a trigger: what stands before its colon ("drift: a, b" is "drift")."""
    return trigger.partition(":")[0].strip()
