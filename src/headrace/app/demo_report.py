"""From a demo's results to the data of its report and to the summary on the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from headrace.app.demo import DemoResult, champion_of, params_of, versions
from headrace.app.wiring import Parts
from headrace.catalog.records import Decision
from headrace.console.report_data import (
    AlertMark,
    AuditExample,
    AuditSummary,
    CheckFailure,
    DecisionMark,
    DriftMap,
    ExplainedPrediction,
    ExplainedValue,
    Histogram,
    Importance,
    MonthAccuracy,
    MonthSpeed,
    ReportData,
    StreamCounts,
    WeekAccuracy,
    calibrate,
    kind_of,
)
from headrace.core.accuracy import average_precision, roc_auc
from headrace.core.time import US_PER_DAY, from_us, to_iso
from headrace.engines.stream.admitted import VERDICT
from headrace.engines.stream.commits import DEAD_LETTERS, WINDOWS, decode_dead_letters
from headrace.engines.stream.verdicts import DUPLICATE, LATE
from headrace.engines.stream.worker import read_heads
from headrace.orchestration.watch import LOOK_BACK_US
from headrace.registry.predictor import load_model
from headrace.retrieval.history import HistoryReader
from headrace.retrieval.past import WRITER, events_table

_WEEK_US = 7 * US_PER_DAY


def report_of(demo: DemoResult) -> ReportData:
    """All that the page shows."""
    run, figures = demo.run, demo.figures
    outcomes = [o for o in run.watch.outcomes if o.version is not None and o.trigger != "first version"]
    truth = _Truth(demo)
    return ReportData(
        project=run.spec.project.name,
        model=run.model.name,
        question="One hour before its scheduled departure: will this flight arrive more than 30 minutes late?",
        period_start_us=int(demo.speed[0][0]),
        period_end_us=int(demo.speed[-1][0]),
        streams=tuple(_streams(demo)),
        events=demo.events,
        predictions=figures["predictions"],
        features_served=figures["predictions"] * len(demo.plan.views[run.model.view].visible),
        audit=AuditSummary(
            demo.audit.checked,
            demo.audit.differing,
            tuple(AuditExample(e.prediction, e.column, e.served, e.recomputed) for e in demo.audit.examples),
        ),
        months=tuple(MonthAccuracy(m.month, m.rows, m.positives, m.frozen, m.looped) for m in demo.months),
        weeks=tuple(truth.weeks()),
        decisions=tuple(_decisions(demo)),
        retrainings=dict(Counter(kind_of(o.trigger) for o in outcomes)),
        drift=_drift(demo),
        freshness=Histogram.of(demo.freshness_us / 1e6),
        latency=Histogram.of(demo.live.latencies_ms),
        speed=tuple(_speed(demo)),
        peak_memory_mb=figures["peak_rss_mb"],
        seconds=demo.seconds,
        check_failures=tuple(_check_failures(demo)),
        alerts=tuple(
            AlertMark(a.at_us, a.kind, a.subject, a.severity, str(a.detail.get("reason", "")))
            for a in run.parts.catalog.alerts(limit=1_000)
            if a.kind != "data check" and a.at_us <= demo.speed[-1][0] + US_PER_DAY
        ),
        importances=tuple(_importances(demo)),
        calibration=calibrate(truth.labels[truth.known], truth.scores[truth.known]),
        explained=_explained(demo),
        params=params_of(demo),
        versions=versions(),
    )


class _Truth:
    """Every prediction of the replay beside its truth."""

    def __init__(self, demo: DemoResult) -> None:
        chunks = demo.run.watch.tracker.window(-(2**62), 2**62)
        self.t = np.concatenate([batch.t_us for batch, _, _, _ in chunks])
        self.labels = np.concatenate([labels for _, labels, _, _ in chunks])
        self.scores = np.concatenate([batch.scores for batch, _, _, _ in chunks])
        self.known = ~np.isnan(self.labels)
        self.frozen = demo.frozen

    def weeks(self) -> Iterator[WeekAccuracy]:
        weeks = self.t // _WEEK_US
        for week in np.unique(weeks):
            at = (weeks == week) & self.known
            y = self.labels[at]
            both = 0 < y.sum() < len(y)
            yield WeekAccuracy(
                int(week * _WEEK_US),
                len(y),
                int(y.sum()),
                float(average_precision(y, self.scores[at])) if both else None,
                float(roc_auc(y, self.scores[at])) if both else None,
                float(average_precision(y, self.frozen[at])) if both else None,
            )


def _streams(demo: DemoResult) -> Iterator[StreamCounts]:
    features = demo.run.parts.features
    reasons: dict[str, Counter[str]] = {name: Counter() for name in demo.plan.streams}
    for batch in features.read(DEAD_LETTERS, 0, 0, 10_000_000) if features.end(DEAD_LETTERS, 0) else []:
        for letter in decode_dead_letters(batch.payload):
            reasons[letter.stream][_kind_of_reason(letter.reason)] += 1
    for name in demo.plan.streams:
        codes = _verdicts(demo.run.parts, name)
        events = demo.run.parts.raw.end(name, 0)
        yield StreamCounts(name, events, codes[DUPLICATE], codes[LATE], dict(reasons[name]))


def _verdicts(parts: Parts, stream: str) -> Counter[int]:
    """How many events of a stream got each verdict: those in the archive, and those it does not cover yet."""
    table = events_table(stream)
    archived = parts.offline.scan(table, [VERDICT])[VERDICT].value_counts().to_pylist()
    codes = Counter({each["values"]: each["counts"] for each in archived})
    covered = parts.offline.number(table, WRITER)
    for _, commit in read_heads(parts.features, covered, parts.features.end(WINDOWS, 0) - covered):
        if stream in commit.streams:
            codes.update(code for _, _, code in commit.streams[stream].exceptions)
    return codes


def _kind_of_reason(reason: str) -> str:
    """Reasons without the values that make each of them unique."""
    for words, kind in (
        ("lies more than", "event time too far ahead"),
        ("missing", "field missing"),
        ("unknown field", "unknown field"),
        ("not a field", "unknown field"),
        ("time", "unreadable time"),
    ):
        if words in reason:
            return kind
    return "wrong type"


def _decisions(demo: DemoResult) -> Iterator[DecisionMark]:
    catalog = demo.run.parts.catalog
    triggers = {o.version: o.trigger for o in demo.run.watch.outcomes}
    for decision in reversed(catalog.decisions(demo.run.model.name)):
        yield _mark(decision, triggers.get(decision.challenger, ""))


def _mark(decision: Decision, trigger: str) -> DecisionMark:
    row: dict[str, Any] = dict(decision.table[0]) if decision.table else {}
    return DecisionMark(
        decision.at_us,
        trigger,
        decision.challenger,
        decision.champion,
        decision.verdict == "promoted",
        decision.reason,
        row.get("difference"),
        row.get("low"),
        row.get("high"),
    )


def _drift(demo: DemoResult) -> DriftMap | None:
    """One look a week: the last one in each."""
    looks = {look.at_us // _WEEK_US: look for look in demo.run.watch.looks if look.found.enough}
    if not looks:
        return None
    weeks = sorted(looks)
    names = sorted({name for week in weeks for name in looks[week].found.psi})
    found = DriftMap(
        tuple(looks[week].at_us - LOOK_BACK_US for week in weeks),
        tuple(names),
        tuple(tuple(looks[week].found.psi.get(name) for week in weeks) for name in names),
        looks[weeks[0]].found.threshold,
        tuple(looks[week].found.score_psi for week in weeks),
    )
    return found.top(20)


def _speed(demo: DemoResult) -> Iterator[MonthSpeed]:
    """Events and real seconds by simulated month, from the marks that the replay left once a day."""
    by_month: dict[str, list[tuple[int, float]]] = {}
    for now, events, seconds in demo.speed:
        by_month.setdefault(from_us(now).strftime("%Y-%m"), []).append((events, seconds))
    before: tuple[int, float] | None = None
    for month, marks in by_month.items():
        first = before or marks[0]
        last = marks[-1]
        if last[1] > first[1] and last[0] > first[0]:
            yield MonthSpeed(month, last[0] - first[0], last[1] - first[1])
        before = last


def _check_failures(demo: DemoResult) -> Iterator[CheckFailure]:
    for alert in reversed(demo.run.parts.catalog.alerts("data check", limit=1_000)):
        if alert.at_us > demo.speed[-1][0] + US_PER_DAY:
            continue
        reason = str(alert.detail.get("reason", ""))
        table = alert.subject.removeprefix("batch ")
        worst = re.search(r'"(\w+)" lies outside \[([^,]+), ([^\]]+)\] .*\(from \S+ to ([\d.]+)\)', reason)
        if worst is not None:
            column, least, most, found = worst.groups()
            yield CheckFailure(
                alert.at_us,
                table,
                f'InRange("{column}", min={least}, max={most})',
                f"{float(found):,.0f}",
                f"{least} to {most}",
                column,
            )
        else:
            yield CheckFailure(alert.at_us, table, "declared check", reason.split(". ")[0], "")


def _importances(demo: DemoResult) -> Iterator[Importance]:
    number = champion_of(demo)
    if number is None:
        return
    fitted = load_model(demo.run.parts.registry, demo.run.model.name, number)
    if fitted.manifest.kind != "lightgbm":
        return
    gains = fitted.predictor.feature_importance("gain")
    order = np.argsort(-gains)[:15]
    for index in order.tolist():
        yield Importance(fitted.columns[index], float(gains[index] / gains.sum()))


def _explained(demo: DemoResult) -> ExplainedPrediction | None:
    """The surest of the last predictions that came true, recomputed as served."""
    chunks = [chunk for chunk in demo.run.watch.tracker.window(-(2**62), 2**62) if (chunk[1] == 1).any()]
    if not chunks:
        return None
    batch, labels, _, _ = chunks[-1]
    row = int(np.argmax(np.where(labels == 1, batch.scores, -1)))
    one = batch.take(np.array([row]))
    view = demo.plan.views[demo.run.model.view]
    again = HistoryReader(view, demo.plan, demo.run.parts.past).read(one.request, one.served_at)
    served, recomputed = one.features.to_pydict(), again.to_pydict()
    dtypes = {column.name: column.dtype.value for column in view.visible}
    values = tuple(
        ExplainedValue(
            name,
            _shown(served[name][0], dtypes[name]),
            _shown(recomputed[name][0], dtypes[name]),
            bool(
                one.features.valid[0, i] == again.valid[0, i]
                and (not again.valid[0, i] or one.features.words[0, i] == again.words[0, i])
            ),
        )
        for i, name in enumerate(one.features.names)
    )
    request = {f.name: _shown(one.request[f.name].to_pylist()[0], f.dtype.value) for f in view.request.fields}
    offsets = ", ".join(f"{name} {int(at[0].sum()):,}" for name, at in sorted(one.streams.items()))
    return ExplainedPrediction(
        one.ids[0], int(one.t_us[0]), int(one.versions[0]), float(one.scores[0]), request, values, offsets, True
    )


def _shown(value: Any, dtype: str) -> Any:
    return to_iso(value) if dtype == "timestamp" and value is not None else value


def summary_of(demo: DemoResult) -> str:
    """What the demo prints at the end."""
    f = demo.figures
    won = sum(m.looped > m.frozen for m in demo.months)
    lines = [
        "",
        f"  events             {f['events']:,} ({f['dead_letters']:,} dead letters), {f['events_per_s']:,}/s replayed",
        f"  predictions        {f['predictions']:,}, each of {params_of(demo)['features']} features",
        f"  skew               {demo.audit.in_words}, bit for bit, recomputed as served",
        f"  freshness          {f['freshness_p99_s']:g} s from known to visible online (99th percentile, simulated)",
        f"  retrainings        {f['retrainings']}, {f['retrainings_by_monitor']} of them asked for by a monitor",
        f"  promotions         {f['promotions']}; refused {f['refusals']}",
        f"  scoring over HTTP  {f['http_p50_ms']:.2f} ms median, {f['http_p99_ms']:.2f} ms 99th percentile",
        f"                     ({demo.live.requests} requests, {demo.live.failed} failed)",
        f"  memory             {f['peak_rss_mb']:,} MiB, the largest process",
        f"  time               {f['seconds']:.0f} s",
        "",
        "  average precision  frozen   looped   late flights",
    ]
    lines += [
        f"    {m.month}          {m.frozen:.3f}    {m.looped:.3f} {'+' if m.looped > m.frozen else ' '}  "
        f"{m.positives:,} of {m.rows:,}"
        for m in demo.months
    ]
    lines.append(f"  the loop beats the frozen January model in {won} of {len(demo.months)} months")
    return "\n".join(lines)
