"""The figures of a report, gathered from a project as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.console.report_data import (
    AlertMark,
    AuditSummary,
    DecisionMark,
    Importance,
    ReportData,
    StreamCounts,
    WeekAccuracy,
    calibrate,
)
from headrace.core.errors import NotFound

if TYPE_CHECKING:
    from headrace.app.project import Project
    from headrace.app.wiring import Parts
    from headrace.features.plan import ModelPlan
    from headrace.retrieval.predictions import PredictionBatch

_TOP = 20


def report_data(project: Project, model: str | None = None) -> ReportData:
    """Everything a report can show of a model (the project's only one if none is named).

    Raises NotFound if there is no such model, or several and none is named.
    """
    parts = project.parts
    names = list(parts.plan.models)
    if model is None and len(names) != 1:
        raise NotFound(f"name the model to report on: there are {', '.join(names) or 'none'}")
    plan = parts.model(model or names[0])
    batch = _predictions(parts, plan)
    audit = project.model(plan.name).audit()
    t = batch.t_us
    return ReportData(
        project=parts.settings.folder.name,
        model=plan.name,
        question=plan.doc,
        period_start_us=int(t.min()) if len(t) else None,
        period_end_us=int(t.max()) if len(t) else None,
        streams=_streams(project),
        predictions=len(batch),
        features_served=len(batch) * len(batch.features.names),
        audit=AuditSummary(audit.checked, audit.differing),
        decisions=_decisions(parts, plan),
        alerts=_alerts(parts),
        importances=_importances(parts, plan),
        **_accuracy(parts, plan, batch),
    )


def _predictions(parts: Parts, model: ModelPlan) -> PredictionBatch:
    from headrace.retrieval.predictions import read_predictions

    return read_predictions(parts.internal, model.name, parts.plan.views[model.view], 0, 10_000_000)[0]


def _streams(project: Project) -> tuple[StreamCounts, ...]:
    from collections import Counter

    from headrace.engines.stream.commits import DEAD_LETTERS, decode_dead_letters
    from headrace.ingestion.masking import Masker

    log, masker = project.parts.features, Masker(project.parts.plan.streams)
    reasons: dict[str, Counter[str]] = {}
    at = log.begin(DEAD_LETTERS, 0) if DEAD_LETTERS in log.topics() else None
    while at is not None and (batches := log.read(DEAD_LETTERS, 0, at, 10_000)):
        for batch in batches:
            for letter in decode_dead_letters(batch.payload):
                reason = masker.reason(letter.stream, letter.field, letter.reason)
                reasons.setdefault(letter.stream, Counter())[reason.partition(",")[0]] += 1
        at = batches[-1].end
    return tuple(
        StreamCounts(stream.name, stream.events, dead_letters=dict(reasons.get(stream.name, {})))
        for stream in project.status().streams
    )


def _accuracy(parts: Parts, model: ModelPlan, batch: PredictionBatch) -> dict[str, Any]:
    """Accuracy by week and calibration, on the predictions whose truth is known."""
    from headrace.monitoring.accuracy import accuracy_over_time
    from headrace.retrieval.labels import labels_of

    identity = parts.plan.views[model.view].request.id_field
    if not len(batch) or identity is None:
        return {}
    found = labels_of(parts.past, parts.plan, model.label, batch.request[identity].to_pylist())
    at = np.flatnonzero(found.known)
    if not len(at):
        return {}
    truth, scores = found.values[at] != 0, batch.scores[at]
    points = accuracy_over_time(batch.t_us[at], truth, scores, "week")
    weeks = tuple(WeekAccuracy(p.start_us, p.rows, p.positives, p.average_precision, p.roc_auc) for p in points)
    return {"weeks": weeks, "calibration": calibrate(truth, scores)}


def _decisions(parts: Parts, model: ModelPlan) -> tuple[DecisionMark, ...]:
    versions = {version.number: version.info.tags for version in parts.registry.list(model.name)}
    marks = []
    for decision in reversed(parts.catalog.decisions(model.name)):
        first = decision.table[0] if decision.table else {}
        trigger = versions.get(decision.challenger, {}).get("trigger", "asked for")
        marks.append(
            DecisionMark(
                decision.at_us,
                trigger,
                decision.challenger,
                decision.champion,
                decision.verdict == "promoted",
                decision.reason,
                first.get("difference"),
                first.get("low"),
                first.get("high"),
            )
        )
    return tuple(marks)


def _alerts(parts: Parts) -> tuple[AlertMark, ...]:
    return tuple(
        AlertMark(alert.at_us, alert.kind, alert.subject, alert.severity, str(alert.detail.get("reason", "")))
        for alert in reversed(parts.catalog.alerts())
    )


def _importances(parts: Parts, model: ModelPlan) -> tuple[Importance, ...]:
    from headrace.registry.base import CHAMPION
    from headrace.registry.predictor import load_model

    champion = parts.registry.alias(model.name, CHAMPION)
    if champion is None:
        return ()
    fitted = load_model(parts.registry, model.name, champion)
    if fitted.manifest.kind != "lightgbm":
        return ()
    gains = np.asarray(fitted.predictor.feature_importance("gain"), np.float64)
    total = gains.sum()
    if not total:
        return ()
    order = np.argsort(-gains, kind="stable")[:_TOP]
    return tuple(Importance(fitted.columns[i], float(gains[i] / total)) for i in order.tolist())
