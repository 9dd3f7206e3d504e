"""Watching one model: truth joined, drift and decay looked at, retraining asked for, served values audited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from headrace.catalog.catalog import Catalog
from headrace.core.columns import BoolArray, FloatArray
from headrace.core.errors import TrainingError
from headrace.core.time import US_PER_DAY
from headrace.eventlog.base import EventLog
from headrace.features.plan import ModelPlan, ProjectPlan, ViewPlan
from headrace.monitoring.accuracy import find_decay
from headrace.monitoring.drift import Drift, find_drift, watched_columns
from headrace.monitoring.skew import ERASURES, Audit, audit, erasures_of
from headrace.monitoring.truth import TruthTracker
from headrace.orchestration.retraining import Challenger, Outcome, RetrainingLoop, TriggerState, fit
from headrace.registry.base import CHAMPION, ModelRegistry
from headrace.retrieval.history import HistoryReader
from headrace.retrieval.past import Past
from headrace.retrieval.predictions import PredictionBatch, read_predictions_of
from headrace.retrieval.rows import concat_features

Beside: TypeAlias = Callable[[Callable[[], Challenger]], "Future[Challenger]"]
LOOK_BACK_US = 7 * US_PER_DAY
"""Drift and decay are judged on the last week of requests."""


@dataclass(frozen=True, slots=True)
class DriftLook:
    """One look at drift: when, and what was found."""

    at_us: int
    found: Drift


@dataclass(slots=True)
class ModelWatch:
    """Looks after one model, about once a day.

    Attributes:
        first_us: train the first version at this time (or at the first look after it), if there is no champion.
        outcomes: what became of each retraining since this object was made.
        looks: drift as found at each look.
        beside: runs a function in another thread. With it a fit takes `fit_us`, as training takes time; the challenger
            is registered and judged at the first look after that. Without it a retraining is done in the look itself.
        fit_us: time on the clock of `look` that a fit beside is given.
    """

    project: ProjectPlan
    model: ModelPlan
    tracker: TruthTracker
    loop: RetrainingLoop
    registry: ModelRegistry
    catalog: Catalog
    triggers: TriggerState
    first_us: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    looks: list[DriftLook] = field(default_factory=list)
    beside: Beside | None = None
    fit_us: int = US_PER_DAY
    _pending: tuple[int, int, str, Future[Challenger]] | None = None

    def look(self, now_us: int) -> Mapping[str, Any] | None:
        """Join truth, look at drift and decay, retrain if that is due; returns what is worth recording."""
        joined = self.tracker.update()
        if self._pending is not None and self._pending[0] <= now_us:
            self.conclude()
        name = self.model.name
        champion = self.registry.alias(name, CHAMPION)
        if champion is None:
            return self._first(now_us)
        drifted, decayed = self._drift(now_us, champion), self._decay(now_us, champion)
        if self._pending is not None:
            return None  # one retraining at a time: what asks for the next one will still ask when this one is done
        reason = self.triggers.due(now_us, champion, drifted, decayed)
        if reason is None:
            return None
        if reason != "schedule":
            self.catalog.raise_alert(reason.split(":")[0], name, {"reason": reason})
        if self.beside is not None:
            self._begin(now_us, reason, self.beside)
            return {"trigger": reason, "joined": joined}
        outcome = self.loop.retrain(now_us, reason)
        self.outcomes.append(outcome)
        return {"trigger": reason, "version": outcome.version, "promoted": outcome.promoted, "joined": joined}

    def conclude(self) -> None:
        """Wait for the fit that runs beside, if any, and decide about its challenger."""
        if self._pending is None:
            return
        (_, run, trigger, fitting), self._pending = self._pending, None
        try:
            self.outcomes.append(self.loop.conclude(run, fitting.result()))
        except TrainingError as error:
            self.outcomes.append(self.loop.refuse(run, trigger, error))

    def _begin(self, now_us: int, reason: str, beside: Beside) -> None:
        try:
            run, prepared = self.loop.begin(now_us, reason)
        except TrainingError as error:
            self.outcomes.append(Outcome(reason, None, False, str(error)))
            return
        self._pending = (now_us + self.fit_us, run, reason, beside(lambda: fit(prepared)))

    def _first(self, now_us: int) -> Mapping[str, Any] | None:
        if now_us < self.first_us:
            return None
        outcome = self.loop.retrain(now_us, "first version", baseline=True)
        self.outcomes.append(outcome)
        return {"trigger": outcome.trigger, "version": outcome.version, "promoted": outcome.promoted}

    def _drift(self, now_us: int, champion: int) -> tuple[str, ...]:
        profile = self.registry.get(self.model.name, champion).info.profile
        if self.triggers.psi is None or profile is None:
            return ()
        view = self._view_of(champion)
        window = [batch for batch, _, _ in self._answered(now_us, view.version)]
        if not window:
            return ()
        block = concat_features([batch.features for batch in window])
        scores = np.concatenate([batch.scores for batch in window])
        watched = watched_columns(view)
        found = find_drift(profile, block, watched, scores, threshold=self.triggers.psi)
        self.looks.append(DriftLook(now_us, found))
        return found.over

    def _view_of(self, champion: int) -> ViewPlan:
        """The view that the champion reads: as it is declared, or a version that is kept for it."""
        version = self.registry.get(self.model.name, champion).info.view_version
        views = self.project.views_of(self.model.name)
        return next((view for view in views if view.version == version), views[0])

    def _answered(self, now_us: int, view_version: str) -> list[tuple[PredictionBatch, FloatArray, BoolArray]]:
        """Lately scored requests, with labels and which are known, but for those that a canary answered."""
        window = self.tracker.window(now_us - LOOK_BACK_US, now_us, view_version)
        champions = [change.number for change in self.registry.alias_history(self.model.name, CHAMPION)]
        found = []
        for batch, labels, known, _ in window:
            rows = np.flatnonzero(np.isin(batch.versions, [n for n in champions if n is not None]))
            if len(rows) == len(batch):
                found.append((batch, labels, known))
            elif len(rows):
                found.append((batch.take(rows), labels[rows], known[rows]))
        return found

    def _decay(self, now_us: int, champion: int) -> bool:
        metric = self.model.metric
        before = self.registry.get(self.model.name, champion).info.metrics.get(metric)
        if self.triggers.drop is None or before is None:
            return False
        version = self._view_of(champion).version
        window = self._answered(now_us, version)
        if not window:
            return False
        known = np.concatenate([k for _, _, k in window])
        labels = np.concatenate([labels for _, labels, _ in window])[known]
        scores = np.concatenate([batch.scores for batch, _, _ in window])[known]
        return find_decay(labels, scores, at_promotion=before, drop=self.triggers.drop, metric=metric).decayed


@dataclass(slots=True)
class SkewWatch:
    """Recomputes every served value as served and compares the bits; remembers how far it came.

    A difference raises an alert that names the prediction, the column and both values.
    """

    project: ProjectPlan
    model: ModelPlan
    internal: EventLog
    past: Past
    catalog: Catalog
    offset: int = 0
    total: Audit = field(default_factory=Audit)

    def look(self, max_predictions: int = 50_000) -> Audit:
        """Audit the predictions logged since the last look."""
        views = self.project.views_of(self.model.name)
        batches, end = read_predictions_of(self.internal, self.model.name, views, self.offset, max_predictions)
        result, self.offset = Audit(), end
        erasures = erasures_of(self.catalog.setting(ERASURES, {}))
        for view, batch in zip(views, batches, strict=True):
            result = result + audit(batch, HistoryReader(view, self.project, self.past), view, erasures)
        self.total = self.total + result
        if result.differing:
            first = result.examples[0]
            self.catalog.raise_alert(
                "skew",
                self.model.name,
                {"differing": result.differing, "checked": result.checked, "prediction": first.prediction}
                | {"column": first.column, "served": str(first.served), "recomputed": str(first.recomputed)},
                "critical",
            )
        return result

    def finish(self) -> Audit:
        """Audit whatever is left."""
        while self.look().rows:
            pass
        return self.total
