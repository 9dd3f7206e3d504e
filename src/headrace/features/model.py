"""Models: an estimator on a view, its truth, when it is retrained and how it is promoted."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from headrace.core.accuracy import METRICS
from headrace.core.schema import DType
from headrace.features.column import ColumnOf
from headrace.features.definition import definition_of, read_duration
from headrace.features.entity import name_problem
from headrace.features.event import EventDefinition, event_definition, root_event
from headrace.features.expr import Constant, Expr, constant, problems_of, walk_expr
from headrace.features.field import MISSING
from headrace.features.site import Problems, user_site
from headrace.features.typing_rules import shown
from headrace.features.view import FeatureView


class Estimator(Protocol):
    """What a model fits: anything with scikit-learn's `fit`."""

    def fit(self, X: Any, y: Any) -> Any:  # noqa: N803 (scikit-learn's own name)
        """Fit to a float64 matrix (nulls are NaN) and its labels."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """Retrain once per period."""

    period: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDrift:
    """Retrain when the population stability index of a feature or of the score reaches `psi`."""

    psi: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDecay:
    """Retrain when the metric on the newest truth has fallen by `drop` below that at training."""

    drop: float


@dataclass(frozen=True, slots=True)
class Shadow:
    """A promotion step: score beside the champion, without effect, for this long."""

    duration: str


@dataclass(frozen=True, slots=True)
class Canary:
    """A promotion step: answer this share of requests for this long."""

    share: float
    duration: str


Trigger: TypeAlias = Every | OnDrift | OnDecay
Step: TypeAlias = Shadow | Canary


@dataclass(frozen=True, slots=True, kw_only=True)
class Better:
    """Promote a challenger that is better than the champion on the newest `on` of truth, with this confidence.

    `no_worse_in` names request fields in none of whose values it may be worse; `steps` are gone through in order.
    """

    on: str
    confidence: float = 0.95
    no_worse_in: Sequence[Expr[Any]] = ()
    steps: Sequence[Step] = ()


class Label:
    """The truth of a request: an expression over the event that brings it.

    Args:
        truth: over one event, such as `Chargeback.fraud` or `Arrival.delay > 30`; the event is joined through its
            field that is `hr.key(<request>)`.
        wait: how long after the request the truth counts as known.
        default: the truth of a request about which nothing came within `wait`; without it such a row is left out.
    """

    def __init__(self, truth: Expr[Any], *, wait: str, default: object = MISSING) -> None:
        self.truth = truth
        self.wait = wait
        self.default = default


class Model:
    """A model of a view.

    Args:
        name: names the model.
        view: the features that it sees.
        label: its truth.
        estimator: an unfitted scikit-learn style estimator.
        metric: by which versions are compared, such as "average_precision".
        train_on: how much of the newest history it is trained on ("180d"); all of it if not given.
        retrain: what starts a training: `hr.Every`, `hr.OnDrift`, `hr.OnDecay`.
        promote: when a new version takes over; by hand if not given.
        owner: who answers for it.
        doc: what it is for.
        tags: words to find it by.

    Raises DefinitionError with every problem at once.
    """

    def __init__(
        self,
        name: str,
        *,
        view: FeatureView,
        label: Label,
        estimator: Estimator,
        metric: str = "average_precision",
        train_on: str | None = None,
        retrain: Sequence[Trigger] = (),
        promote: Better | None = None,
        owner: str = "",
        doc: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        self.tags = tuple(tags)
        self.name, self.view, self.label, self.estimator, self.metric = name, view, label, estimator, metric
        self.promote, self.owner, self.doc = promote, owner, inspect.cleandoc(doc)
        self.retrain = tuple(retrain) if isinstance(retrain, list | tuple) else ()
        self.site = user_site()
        problems = Problems(f'model "{name}"', self.site)
        problem = name_problem(name)
        if problem:
            problems.add(problem)
        self.train_on_us = read_duration(train_on, "train_on", problems)
        self.wait_us: int | None = None
        self.truth_event: type | None = None
        self.join_field: str | None = None
        if not isinstance(view, FeatureView):
            problems.add(f"view= takes an hr.FeatureView, not {view!r}")
        elif not isinstance(label, Label):
            problems.add(f'label= takes an hr.Label, such as hr.Label(Chargeback.fraud, wait="45d"), not {label!r}')
        else:
            self.wait_us = read_duration(label.wait, "label wait", problems)
            self._check_label(problems)
        if metric not in METRICS:
            problems.add(f'metric="{metric}" is not known; there are {", ".join(METRICS)}')
        if isinstance(estimator, type):
            problems.add(f"estimator= takes an estimator, not its class; write {estimator.__name__}()")
        elif not hasattr(estimator, "fit"):
            problems.add(f"estimator= takes an unfitted estimator with a fit method, not {estimator!r}")
        if not isinstance(retrain, list | tuple):
            problems.add(f'retrain= takes a list, such as [hr.Every("1d")], not {retrain!r}')
        self._check_rules(problems)
        problems.check()
        view.warn_of_superseded()

    def _check_label(self, problems: Problems) -> None:
        truth = self.label.truth
        problems.add_all(f"label: {text}" for text in problems_of(truth))
        owners = list(dict.fromkeys(part.owner for part in walk_expr(truth) if isinstance(part, ColumnOf)))
        events = [owner for owner in owners if isinstance(definition_of(owner), EventDefinition)]
        if len(owners) != 1 or len(events) != 1:
            names = ", ".join(owner.__name__ for owner in owners) or "nothing"
            problems.add(f"label: the truth is an expression over one event, but this one reads {names}")
            return
        if truth.dtype not in (DType.BOOL, DType.INT, DType.FLOAT, None):
            problems.add(f"label: the truth is a condition or a number, not {shown(truth.dtype)}")
        self.truth_event = owners[0]
        asked = root_event(self.view.request)
        joins = [
            name
            for name, field in event_definition(owners[0]).fields.items()
            if isinstance(field.spec.entity, type) and root_event(field.spec.entity) is asked
        ]
        if len(joins) != 1:
            problems.add(
                f"label: {owners[0].__name__} needs one field that is hr.key({asked.__name__}), by which its truth "
                f"is joined; it has {len(joins)}"
            )
        else:
            self.join_field = joins[0]
        default = self.label.default
        if default is not MISSING and truth.dtype is not None:
            read = constant(default)
            if not isinstance(read, Constant) or read.dtype is not truth.dtype:
                problems.add(f"label: default={default!r} is no {shown(truth.dtype)}")

    def _check_rules(self, problems: Problems) -> None:
        for trigger in self.retrain:
            if isinstance(trigger, Every):
                read_duration(trigger.period, "hr.Every", problems)
            elif not isinstance(trigger, OnDrift | OnDecay):
                problems.add(f"retrain= takes hr.Every, hr.OnDrift and hr.OnDecay, not {trigger!r}")
        if self.promote is None:
            return
        read_duration(self.promote.on, "hr.Better(on=)", problems)
        if not 0 < self.promote.confidence < 1:
            problems.add(f"hr.Better(confidence={self.promote.confidence}): a share between 0 and 1, such as 0.95")
        for step in self.promote.steps:
            if not isinstance(step, Shadow | Canary):
                problems.add(f"hr.Better(steps=) takes hr.Shadow and hr.Canary, not {step!r}")
                continue
            read_duration(step.duration, f"hr.{type(step).__name__}", problems)
            if isinstance(step, Canary) and not 0 < step.share < 1:
                problems.add(f"hr.Canary({step.share}): a share of requests between 0 and 1, such as 0.1")
        for column in self.promote.no_worse_in:
            if not isinstance(column, ColumnOf) or definition_of(column.owner).kind != "event":
                problems.add(f"hr.Better(no_worse_in=): {column!r} is no field of the request")

    def __repr__(self) -> str:
        return f"hr.Model({self.name!r})"
