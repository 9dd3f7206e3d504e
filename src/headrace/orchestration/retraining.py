"""The retraining loop of one model: monitors and schedule ask for a challenger, truth decides about it.

A challenger is trained on requests up to the judging window (`promote.on` before now) and judged on the window itself:
requests whose truth is known and that neither it nor the champion was trained on. It is promoted, or refused with the
reason; both are recorded. Every step is a function of the logs and of the time that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.catalog.catalog import Catalog
from headrace.core.columns import BoolArray, FloatArray
from headrace.core.errors import TrainingError
from headrace.core.time import US_PER_DAY, to_iso
from headrace.features.plan import ModelPlan, ProjectPlan, PromotionPlan, Trigger
from headrace.monitoring.truth import TruthTracker
from headrace.orchestration.rollout import Rollout
from headrace.orchestration.served import served_set
from headrace.registry.base import DatasetRef, DataSnapshot, ModelRegistry, ModelVersion, NewVersion
from headrace.registry.predictor import FittedModel, load_model
from headrace.registry.profile import Profile, profile_block
from headrace.retrieval.history import HistoryReader, everything_below
from headrace.retrieval.past import Past
from headrace.training.dataset import TrainingSet, joined, stood_for, training_set
from headrace.training.evaluate import evaluate
from headrace.training.fit import dataset_hash, describe, logistic_baseline, train
from headrace.training.promotion import Verdict, judge

DEFAULT_JUDGING = PromotionPlan(on_us=7 * US_PER_DAY, confidence=0.95)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Labelled rows for a challenger: it is fitted on those in `early` (bool [n]) and judged on the others."""

    model: ModelPlan
    data: TrainingSet
    early: BoolArray
    until_us: int
    trigger: str
    baseline: bool
    dataset: DatasetRef | None = None


@dataclass(frozen=True, slots=True)
class Challenger:
    """A fitted model that is not registered yet, with its figures on the rows that it was not fitted on."""

    prepared: Prepared
    fitted: FittedModel
    metrics: dict[str, float]
    profile: Profile
    dataset_hash: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A registered challenger with what is needed to judge it: the rows of the judging window."""

    version: ModelVersion
    fitted: FittedModel
    window: TrainingSet
    at: np.ndarray[Any, np.dtype[np.bool_]]

    @property
    def truth(self) -> np.ndarray[Any, Any]:
        """Labels of the judging window."""
        labels: np.ndarray[Any, Any] = self.window.labels[self.at]
        return labels


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a retraining: its trigger, the new version, whether it was promoted and why (not)."""

    trigger: str
    version: int | None
    promoted: bool
    reason: str


class RetrainingLoop:
    """Trains, judges and promotes versions of one model."""

    def __init__(
        self,
        project: ProjectPlan,
        model: ModelPlan,
        past: Past,
        registry: ModelRegistry,
        catalog: Catalog,
        *,
        served: TruthTracker | None = None,
    ) -> None:
        """With `served`, requests that were scored are trained on with the features that they were served."""
        self.project = project
        self.model = model
        self._past = past
        self._registry = registry
        self._catalog = catalog
        self._rule = model.promote or DEFAULT_JUDGING
        self.rollout = Rollout(model, registry, catalog)
        self._served = served
        self._before: TrainingSet | None = None
        self._before_us = 0

    def train(self, until_us: int, trigger: str, *, baseline: bool = False) -> Trained:
        """Train and register a version on what is known at `until_us`; raises TrainingError if that is too little."""
        return self.register(fit(self.prepare(until_us, trigger, baseline=baseline)))

    def prepare(self, until_us: int, trigger: str, *, baseline: bool = False) -> Prepared:
        """Gather what a challenger is trained and judged on; raises TrainingError if nothing is known."""
        since = None if self.model.train_on_us is None else until_us - self._rule.on_us - self.model.train_on_us
        data = self._data(since, until_us)
        return self.parted(data, until_us, trigger, baseline=baseline)

    def parted(
        self, data: TrainingSet, until_us: int, trigger: str, *, baseline: bool, dataset: DatasetRef | None = None
    ) -> Prepared:
        """Keep the rows of the judging window before `until_us` back; raises TrainingError if there are none at all."""
        if not len(data):
            raise TrainingError(
                f"model {self.model.name}: no request before {to_iso(until_us)} has a known truth "
                f"({data.waiting} are waiting for it, {data.unlabelled} have none)"
            )
        early = data.t_us < until_us - self._rule.on_us
        if early.sum() < 100:
            # Too little before the judging window: judge on the last fifth of the time that there is.
            early = data.t_us < int(np.quantile(data.t_us, 0.8))
        return Prepared(self.model, data, early, until_us, trigger, baseline, dataset)

    def _data(self, since_us: int | None, now_us: int) -> TrainingSet:
        """Labelled requests up to now: as served where they were scored, recomputed as of now where they were not.

        What was served is what the model will see, and the skew audit proves that recomputing it gives the same bits.
        """
        first = None if self._served is None else self._served.first_us
        if self._served is None or first is None or first >= now_us:
            return training_set(self.project, self.model, self._past, until_us=now_us, since_us=since_us, now_us=now_us)
        begin = first if since_us is None else max(first, since_us)
        scored = served_set(self.model, self._served, self._past, begin, now_us)
        if since_us is not None and since_us >= first:
            return scored
        # After a rollback to a version of a kept view, more has to be recomputed than before it.
        if self._before is None or (self.project.kept_views and self._before_us != first):
            self._before_us = first
            self._before = training_set(
                self.project, self.model, self._past, until_us=first, since_us=since_us, now_us=now_us
            )
        return joined(self._before.since(since_us), scored)

    def register(self, challenger: Challenger) -> Trained:
        """Make a fitted challenger a version of the registry."""
        prepared, view = challenger.prepared, self.project.views[self.model.view]
        data, early = prepared.data, prepared.early
        t = data.t_us[early]
        snapshot = DataSnapshot(
            rows=len(t),
            positives=int((data.labels[early] != 0).sum()),
            since_us=int(t.min()),
            until_us=int(t.max()) + 1,
            as_of=data.as_of,
            dataset_hash=challenger.dataset_hash,
            dataset=prepared.dataset,
        )
        sources = {b.source: self.project.tables if b.is_table else self.project.groups for b in view.bindings}
        new = NewVersion(
            model=self.model.name,
            view=view.name,
            view_version=view.version,
            columns=challenger.fitted.columns,
            metrics={name: value for name, value in challenger.metrics.items() if np.isfinite(value)},
            snapshot=snapshot,
            feature_versions={name: plans[name].version for name, plans in sources.items()},
            profile=challenger.profile,
            estimator=describe(self.model.estimator),
            tags={"trigger": prepared.trigger, "trained_at": to_iso(prepared.until_us)},
        )
        version = self._registry.register(new, challenger.fitted.to_files())
        return Trained(version, challenger.fitted, data, ~early)

    def decide(self, trained: Trained, *, seed: int = 0) -> Verdict:
        """Judge a challenger against the champion on the judging window, promote or refuse it, and record which.

        Where steps of a promotion are declared, it goes through these first.
        """
        name, number = self.model.name, trained.version.number
        self._registry.set_alias(name, "challenger", number, who="loop", why=trained.version.info.tags["trigger"])
        champion = self._registry.alias(name, "champion")
        if champion is None:
            verdict = Verdict(True, "the first version: there is no champion to compare it with", [])
        else:
            window = trained.window.block.take(trained.at)
            verdict = judge(
                self._rule,
                trained.truth,
                predict_on(self.project, self._past, self._registry, name, champion, trained.window)[trained.at],
                trained.fitted.predict(window),
                {column: np.array(window.column(column).to_pylist(), object) for column in self._rule.no_worse_in},
                metric=self.model.metric,
                samples=200,
                seed=seed + number,
            )
        if verdict.promote:
            self.rollout.begin(number, who="loop", why=verdict.reason)
        self._catalog.record_decision(
            name,
            challenger=number,
            champion=champion,
            verdict="promoted" if verdict.promote else "refused",
            reason=verdict.reason,
            table=verdict.rows(),
        )
        return verdict

    def retrain(self, now_us: int, trigger: str, *, baseline: bool = False) -> Outcome:
        """Train and decide as one recorded run; too little truth leaves the champion as it is."""
        run = self._catalog.start_run(f"retrain {self.model.name}", trigger)
        try:
            return self.conclude(run, fit(self.prepare(now_us, trigger, baseline=baseline)))
        except TrainingError as error:
            return self.refuse(run, trigger, error)

    def begin(self, now_us: int, trigger: str) -> tuple[int, Prepared]:
        """The first part of a retraining whose fit runs elsewhere: the run's id, and what `fit` needs."""
        return self._catalog.start_run(f"retrain {self.model.name}", trigger), self.prepare(now_us, trigger)

    def conclude(self, run: int, challenger: Challenger) -> Outcome:
        """The last part: register, judge, promote or refuse, and record."""
        trained = self.register(challenger)
        verdict = self.decide(trained)
        outcome = Outcome(challenger.prepared.trigger, trained.version.number, verdict.promote, verdict.reason)
        self._catalog.finish_run(
            run,
            "done",
            {"version": outcome.version, "promoted": outcome.promoted, "reason": outcome.reason}
            | {"rows": trained.version.info.snapshot.rows},
        )
        return outcome

    def refuse(self, run: int, trigger: str, error: TrainingError) -> Outcome:
        """Record that a retraining came to nothing."""
        self._catalog.finish_run(run, "refused", {"reason": str(error)})
        return Outcome(trigger, None, False, str(error))


def predict_on(
    project: ProjectPlan, past: Past, registry: ModelRegistry, model: str, number: int, data: TrainingSet
) -> FloatArray:
    """Scores, float64 [n], of a version on the requests of `data`, with the features of the view it was trained on.

    `data` has those of the view as it is declared; a version of a kept view gets its own, as they were known.
    """
    fitted = load_model(registry, model, number)
    view = project.kept_views.get(registry.get(model, number).info.view_version)
    if view is None:
        return fitted.predict(data.block)
    return fitted.predict(
        HistoryReader(view, project, past).read(data.request, everything_below(data.as_of, len(data)))
    )


def fit(prepared: Prepared) -> Challenger:
    """Fit a challenger and measure it; reads nothing but its argument, so it may run in another thread.

    Where rows have weights, figures and profile are those of the rows that they stand for.
    """
    data, early, late = prepared.data, prepared.early, ~prepared.early
    block, labels = data.block.take(early), data.labels[early]
    weights = None if data.weights is None else data.weights[early]
    fitted = train(prepared.model.estimator, block, labels, weights)
    metrics: dict[str, float] = {}
    if late.any():
        at = np.flatnonzero(late)
        at = at if data.weights is None else at[stood_for(data.weights[late])]
        unseen, truth = data.block.take(at), data.labels[at]
        metrics |= evaluate(truth, fitted.predict(unseen)).metrics()
        if prepared.baseline:
            plain = train(logistic_baseline(block), block, labels, weights)
            metrics |= {f"baseline_{k}": v for k, v in evaluate(truth, plain.predict(unseen)).metrics().items()}
    whole = block if weights is None else block.take(stood_for(weights))
    profile = profile_block(whole, fitted.predict(whole))
    return Challenger(prepared, fitted, metrics, profile, dataset_hash(block, labels, weights))


class TriggerState:
    """Which triggers of a model are due.

    Drift and decay are looked at by the caller; a monitor asks for a retraining once per alarm: a column that stays
    drifted asks again only after another version has become champion, and any two retrainings are `pause_us` apart.
    """

    def __init__(self, triggers: tuple[Trigger, ...], started_us: int, pause_us: int = 6 * US_PER_DAY) -> None:
        self._every = next((t["every_us"] for t in triggers if t.kind == "every"), None)
        self.psi: float | None = next((t["psi"] for t in triggers if t.kind == "on_drift"), None)
        self.drop: float | None = next((t["drop"] for t in triggers if t.kind == "on_decay"), None)
        self._pause_us = pause_us
        self._last_us = started_us
        self._champion: int | None = None
        self._alarmed: set[str] = set()

    def due(self, now_us: int, champion: int | None, drifted: tuple[str, ...], decayed: bool) -> str | None:
        """The reason to retrain now, or None. Monitors go before the schedule, so that their share is visible."""
        if champion != self._champion:
            self._champion, self._alarmed = champion, set()
        fresh = [name for name in drifted if name not in self._alarmed]
        waited = now_us - self._last_us
        reason = None
        if waited >= self._pause_us and decayed and "" not in self._alarmed:
            reason = "decay"
            self._alarmed.add("")
        elif waited >= self._pause_us and fresh:
            reason = "drift: " + ", ".join(fresh[:3]) + (f" and {len(fresh) - 3} more" if len(fresh) > 3 else "")
            self._alarmed |= set(drifted)
        elif self._every is not None and waited >= self._every:
            reason = "schedule"
        if reason is not None:
            self._last_us = now_us
        return reason
