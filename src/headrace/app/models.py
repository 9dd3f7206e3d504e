"""A model in a caller's hands: train, judge, promote, roll back, score."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from headrace.app.clock import SystemClock
from headrace.app.kept import rolled_back_to
from headrace.app.rows import request_columns
from headrace.app.times import Time, given_us
from headrace.app.users import os_user
from headrace.core.errors import ConfigError, NotFound, PlanError, TrainingError
from headrace.core.positions import Position
from headrace.core.time import Clock, to_iso
from headrace.features.plan import ModelPlan
from headrace.registry.base import CANARY, CHAMPION, SHADOW, AliasChange, DataSnapshot, ModelVersion

if TYPE_CHECKING:
    from headrace.app.datasets import Dataset
    from headrace.app.wiring import Parts
    from headrace.features.event import Event
    from headrace.monitoring.skew import Audit
    from headrace.orchestration.retraining import RetrainingLoop, Trained
    from headrace.orchestration.rollout import Rollout
    from headrace.retrieval.rows import FeatureBlock
    from headrace.serving.prediction_log import PredictionLog
    from headrace.serving.scorer import Scored, Scorer
    from headrace.serving.split import Split
    from headrace.training.dataset import TrainingSet
    from headrace.training.promotion import Verdict

ALIASES = (CHAMPION, CANARY, SHADOW)
_SHARE = 0.1
_MOST_REQUESTS = 2_000
_AUDITED_AT_ONCE = 50_000
_scorers = count()


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version: figures on data that it was not fitted on, and what it was trained on."""

    model: str
    number: int
    metrics: Mapping[str, float]
    snapshot: DataSnapshot
    feature_versions: Mapping[str, str]
    estimator: str
    created_us: int
    trigger: str

    @classmethod
    def of(cls, version: ModelVersion) -> Version:
        """The version as the registry keeps it, in the caller's terms."""
        info = version.info
        return cls(
            info.model, version.number, dict(info.metrics), info.snapshot, dict(info.feature_versions), info.estimator,
            version.created_us, info.tags.get("trigger", ""),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction. `degraded` names what makes it worse than it should be, if anything; see `serving.scorer`."""

    id: str
    value: float
    version: int
    position: Position
    degraded: tuple[str, ...]
    features: Mapping[str, Any]
    block: FeatureBlock = field(repr=False)


@dataclass(frozen=True, slots=True)
class Promotion:
    """A moved alias: which version it named before and names now (None: none)."""

    model: str
    alias: str
    previous: int | None
    number: int | None

    @classmethod
    def of(cls, change: AliasChange) -> Promotion:
        """The move as the registry keeps it, in the caller's terms."""
        return cls(change.model, change.alias, change.previous, change.number)


def scorer_of(parts: Parts, model: ModelPlan, log: PredictionLog | None, *, clock: Clock | None = None) -> Scorer:
    """A scorer whose prediction ids no other scorer gives: they hold the machine's time, the process and a count."""
    from headrace.serving.scorer import Scorer
    from headrace.serving.split import read_split

    prefix = (SystemClock().now_us() << 24) + (os.getpid() % 65_536 << 8) + next(_scorers) % 256
    return Scorer(
        parts.plan, model, parts.reader(model.view), parts.registry, clock or parts.clock, log,
        id_prefix=prefix, shadows=(SHADOW,), open_reader=parts.view_reader,
        split=partial(read_split, parts.catalog.setting, model.name),
    )  # fmt: skip


class ModelHandle:
    """One model of a project. `v` is everywhere a `Version` or its number."""

    def __init__(self, parts: Parts, model: ModelPlan) -> None:
        self._parts = parts
        self._model = model
        self._scorer: Scorer | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def champion(self) -> int | None:
        """Number of the version that answers; None before the first promotion."""
        return self._parts.registry.alias(self.name, CHAMPION)

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        return [Version.of(version) for version in self._parts.registry.list(self.name)]

    def version(self, number: int) -> Version:
        """One version; NotFound if there is none of that number."""
        return Version.of(self._parts.registry.get(self.name, number))

    def train(
        self, until: Time | None = None, *, data: str | Dataset | None = None, trigger: str = "asked for"
    ) -> Version:
        """Train a version on what is known at `until` (now) and register it; the champion stays what it is.

        data: a named data set instead ("june": its newest version, "june@2" that one), whose rows, weights and time
        range are taken as they were kept; the version records which it was.

        Raises TrainingError if there is too little truth, or if the data set does not fit the model as it is declared.
        """
        at = given_us(until, "until")
        if at is not None and data is not None:
            raise ConfigError("a data set says itself until when; give until= or data=")
        catalog = self._parts.catalog
        run = catalog.start_run(f"train {self.name}", trigger)
        try:
            trained = self._train(at, data, trigger)
        except Exception as error:
            catalog.finish_run(run, "refused" if isinstance(error, TrainingError) else "failed", {"reason": str(error)})
            raise
        version = Version.of(trained.version)
        named = {} if version.snapshot.dataset is None else {"dataset": str(version.snapshot.dataset)}
        catalog.finish_run(run, "done", {"version": version.number, "rows": version.snapshot.rows} | named)
        return version

    def _train(self, at_us: int | None, data: str | Dataset | None, trigger: str) -> Trained:
        loop = self._loop()
        if data is None:
            return loop.train(self._parts.clock.now_us() if at_us is None else at_us, trigger, baseline=True)
        from headrace.app.training_data import named_dataset, training_rows
        from headrace.orchestration.retraining import fit

        dataset = named_dataset(self._parts, data)
        rows, named = training_rows(self._parts, self._model, dataset)
        until_us = dataset.info.query.until_us
        return loop.register(fit(loop.parted(rows, until_us, trigger, baseline=True, dataset=named)))

    def evaluate(self, v: Version | int | None = None, *, until: Time | None = None) -> Verdict:
        """Judge a version (the newest) beside the champion on truth that neither was trained on; nothing is changed.

        Raises TrainingError if there is no such truth, NotFound for an unknown version.
        """
        from headrace.orchestration.retraining import DEFAULT_JUDGING, predict_on
        from headrace.training.promotion import Verdict, judge

        number = self._number(v)
        champion = self.champion
        if champion is None:
            return Verdict(True, "the first version: there is no champion to compare it with", [])
        if champion == number:
            return Verdict(False, f"version {number} is the champion", [])
        rule, parts = self._model.promote or DEFAULT_JUDGING, self._parts
        registry = parts.registry
        known = [self._served_version(n).info.snapshot.until_us for n in (number, champion)]
        data = self._unseen(max(known), given_us(until, "until"), rule.on_us)
        block = data.block
        return judge(
            rule,
            data.labels,
            predict_on(parts.plan, parts.past, registry, self.name, champion, data),
            predict_on(parts.plan, parts.past, registry, self.name, number, data),
            {column: np.array(block.column(column).to_pylist(), object) for column in rule.no_worse_in},
            metric=self._model.metric,
            seed=number,
        )

    def promote(
        self,
        v: Version | int,
        *,
        why: str,
        to: str | None = None,
        share: float | None = None,
        by: str | None = None,
    ) -> Promotion:
        """Let a version answer: through the steps that the model declares, if any, or at once with `to="champion"`.

        to: "shadow" lets it score beside the champion without effect; "canary" lets it answer a share of the requests
        and the champion the others, until it is promoted further or taken back (`rollback`).
        share: of the requests, between 0 and 1; the one of the declared `hr.Canary`, or 0.1, if it is left out.
        by: the request's field whose value decides who answers ("sender": one user, one version); its id if left out.

        Raises PlanError if it was trained on another version of the view than the one that is served, or if there is
        no champion beside which it could be on trial.
        """
        if to is not None and to not in ALIASES:
            raise PlanError(f'a version is promoted to {", ".join(ALIASES)}, not to "{to}"')
        if to != CANARY and (share is not None or by is not None):
            raise PlanError('only a canary answers a share of the requests: give to="canary" as well')
        number = self._served_version(self._number(v)).number
        rollout, who = self._rollout, os_user()
        if to is None:
            return Promotion.of(rollout.begin(number, who=who, why=why))
        if to == CHAMPION:
            return Promotion.of(rollout.champion(number, who=who, why=why))
        if to == SHADOW:
            return Promotion.of(rollout.shadow(number, who=who, why=why))
        return Promotion.of(rollout.canary(self._split(number, share, by), who=who, why=why))

    def rollback(self, *, why: str) -> Promotion:
        """Take the canary back; without one, make the version that was champion before this one champion again.

        Raises NotFound if there is neither.
        """
        taken = self._rollout.take_back(who=os_user(), why=why)
        if taken is not None:
            return Promotion.of(taken)
        number = rolled_back_to(self._parts.registry, self.name)
        if number is None:
            raise NotFound(f'model "{self.name}" had no other champion before; there is nothing to go back to')
        return self.promote(number, why=why, to=CHAMPION)

    @property
    def canary(self) -> Split | None:
        """The version that answers a share of the requests, and which share; None: the champion answers all."""
        from headrace.serving.split import read_split

        split = read_split(self._parts.catalog.setting, self.name)
        number = self._parts.registry.alias(self.name, CANARY)
        return split if split is not None and split.number == number else None

    def _split(self, number: int, share: float | None, by: str | None) -> Split:
        from headrace.serving.split import Split

        champion = self.champion
        if champion is None or champion == number:
            told = "there is no champion yet" if champion is None else f"version {number} is the champion"
            raise PlanError(f"model {self.name}: {told}, so there is nobody to share requests with")
        steps = () if self._model.promote is None else self._model.promote.steps
        declared = next((told[0] for alias, told in steps if alias == CANARY), _SHARE)
        chosen = declared if share is None else share
        if not 0 < chosen < 1:
            raise PlanError(f"share={share}: a share of requests between 0 and 1, such as 0.1")
        request = self._parts.plan.views[self._model.view].request
        if by is not None and by not in request:
            names = ", ".join(field.name for field in request)
            raise PlanError(f'requests of {request.name} have no field "{by}"; they have {names}')
        return Split(number, chosen, by)

    @property
    def _rollout(self) -> Rollout:
        from headrace.orchestration.rollout import Rollout

        return Rollout(self._model, self._parts.registry, self._parts.catalog)

    @overload
    def score(self, request: Event | Mapping[str, Any], *, log: bool = True) -> Answer: ...
    @overload
    def score(self, request: Sequence[Event | Mapping[str, Any]], *, log: bool = True) -> list[Answer]: ...
    def score(self, request: Any, *, log: bool = True) -> Any:
        """Score one request (an event or a mapping): an `Answer`; a list of them: a list of answers.

        Predictions are kept in the log unless `log` is False. Raises NotFound while there is no champion, SchemaError
        naming the field of a request that does not fit.
        """
        single = not isinstance(request, list | tuple)
        asked: Sequence[Any] = [request] if single else request
        view = self._parts.plan.views[self._model.view]
        columns = request_columns(view.request, asked, self._parts.clock.now_us())
        scorer = self._scorer_now(log)
        answers: list[Answer] = []
        for start in range(0, len(asked), _MOST_REQUESTS):
            part = np.arange(start, min(start + _MOST_REQUESTS, len(asked)))
            scored = scorer.score({name: column.take(part) for name, column in columns.items()})
            answers += scored.in_order(_answers)
        return answers[0] if single else answers

    def contributions(self, answer: Answer) -> dict[str, float]:
        """What each column added to the log odds of an answer (to the number, for a regression).

        Raises PlanError if the version that answered is not LightGBM's.
        """
        from headrace.registry.predictor import load_model

        fitted = load_model(self._parts.registry, self.name, answer.version)
        if fitted.manifest.kind != "lightgbm":
            raise PlanError(f"version {answer.version} of model {self.name} is no LightGBM model; only these explain")
        shares = fitted.predictor.predict(fitted.preprocessor.transform(answer.block), pred_contrib=True)[0]
        return {name: float(share) for name, share in zip(fitted.columns, shares, strict=False)}

    def audit(self) -> Audit:
        """Recompute every feature of every logged prediction as it was served and compare the bits."""
        from headrace.monitoring.skew import ERASURES, Audit, audit, erasures_of
        from headrace.retrieval.history import HistoryReader
        from headrace.retrieval.predictions import read_predictions

        parts, total = self._parts, Audit()
        erasures = erasures_of(parts.catalog.setting(ERASURES, {}))
        for view in parts.plan.views_of(self.name):
            at, reader = 0, HistoryReader(view, parts.plan, parts.past)
            while True:
                batch, end = read_predictions(parts.internal, self.name, view, at, _AUDITED_AT_ONCE)
                if end == at:
                    break
                total, at = total + audit(batch, reader, view, erasures), end
        return total

    def _scorer_now(self, log: bool) -> Scorer:
        if not log:
            return scorer_of(self._parts, self._model, None)
        if self._scorer is None:
            from headrace.serving.prediction_log import PredictionLog

            self._scorer = scorer_of(self._parts, self._model, PredictionLog(self._parts.internal))
        self._scorer.reload()
        return self._scorer

    def _number(self, v: Version | int | None) -> int:
        if isinstance(v, Version):
            return v.number
        if v is not None:
            return int(v)
        versions = self._parts.registry.list(self.name)
        if not versions:
            raise NotFound(f'model "{self.name}" has no version yet; train one with: headrace train {self.name}')
        return versions[-1].number

    def _served_version(self, number: int) -> ModelVersion:
        """A version, if it reads the view as it is now, or one that is kept."""
        version = self._parts.registry.get(self.name, number)
        view = self._parts.plan.views[self._model.view]
        if version.info.view_version not in (view.version, *self._parts.plan.kept_views):
            raise PlanError(
                f"version {number} of model {self.name} was trained on view {version.info.view} "
                f"{version.info.view_version}, but the project has {view.version}; train a new version"
            )
        return version

    def _unseen(self, since_us: int, until_us: int | None, on_us: int) -> TrainingSet:
        from headrace.training.dataset import training_set

        parts = self._parts
        now = parts.clock.now_us()
        until = now if until_us is None else until_us
        data = training_set(
            parts.plan, self._model, parts.past, until_us=until, since_us=max(since_us, until - on_us), now_us=now
        )
        if not len(data):
            data = training_set(parts.plan, self._model, parts.past, until_us=until, since_us=since_us, now_us=now)
        if not len(data):
            raise TrainingError(
                f"model {self.name}: no request after {to_iso(since_us)}, when training ended, has a known truth "
                f"({data.waiting} are waiting for it)"
            )
        return data

    def _loop(self) -> RetrainingLoop:
        from headrace.orchestration.retraining import RetrainingLoop

        parts = self._parts
        return RetrainingLoop(parts.plan, self._model, parts.past, parts.registry, parts.catalog)

    def __repr__(self) -> str:
        return f"ModelHandle({self.name!r}, champion={self.champion})"


def _answers(scored: Scored) -> list[Answer]:
    features = scored.features.to_pydict()
    return [
        Answer(
            scored.ids[row], float(scored.values[row]), scored.version, scored.position, scored.degraded,
            {name: values[row] for name, values in features.items()}, scored.features.take(np.array([row])),
        )
        for row in range(len(scored))
    ]  # fmt: skip
