"""Training sets: requests of the past with the features that could be known then and the truth that is known now."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, Column, FloatArray, IntArray
from headrace.core.errors import PlanError
from headrace.core.events import concat_columns
from headrace.features.plan import ModelPlan, ProjectPlan, ViewPlan
from headrace.retrieval.history import HistoryReader, below_positions, everything_below
from headrace.retrieval.labels import labels_of
from headrace.retrieval.past import Past
from headrace.retrieval.rows import FeatureBlock, concat_features


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labelled rows in order of request time (then offset).

    Attributes:
        block: features, n rows.
        labels: float64 [n], BOOL labels as 0 and 1.
        t_us: request times, int64 [n].
        request: the request's fields.
        waiting: requests whose wait is not over, left out.
        unlabelled: requests whose wait is over without truth and without a default, left out.
        as_of: positions of the raw streams below which everything was read.
        weights: for how many rows each stands, float64 [n]; None: for itself.
    """

    block: FeatureBlock
    labels: FloatArray
    t_us: IntArray
    request: dict[str, Column]
    waiting: int
    unlabelled: int
    as_of: dict[str, list[int]]
    weights: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def since(self, since_us: int | None) -> TrainingSet:
        """The rows of requests at or after `since_us` (None: all)."""
        if since_us is None or not len(self) or int(self.t_us[0]) >= since_us:
            return self
        at = self.t_us >= since_us
        request = {name: column.take(at) for name, column in self.request.items()}
        weights = None if self.weights is None else self.weights[at]
        return replace(
            self,
            block=self.block.take(at),
            labels=self.labels[at],
            t_us=self.t_us[at],
            request=request,
            weights=weights,
        )


def stood_for(weights: FloatArray) -> IntArray:
    """Row numbers [about the sum of the weights], each about as often as its weight, in order.

    Figures over these rows are those of the rows that the weighted ones stand for.
    """
    ends = np.floor(np.cumsum(weights) + 0.5).astype(np.int64)
    return np.repeat(np.arange(len(weights)), np.diff(ends, prepend=0))


def training_set(
    project: ProjectPlan,
    model: ModelPlan,
    past: Past,
    *,
    until_us: int,
    since_us: int | None = None,
    now_us: int,
) -> TrainingSet:
    """Build the training set of a model: requests in `[since_us, until_us)` whose wait has passed at `now_us`.

    Features and labels are those known at this moment (the positions of stream compute are taken first and nothing
    past them is read), each feature at its request's own time. Rows without a known truth get the label's default, or
    are left out and counted.
    """
    view = project.views[model.view]
    as_of = past.computed()
    rows = requests(project, view, past, since_us, until_us, as_of)
    t = np.asarray(rows[view.request.time_field], dtype=np.int64)
    done = t + model.label.wait_us <= now_us
    waiting = int(len(t) - done.sum())
    rows, t = rows.filter(pa.array(done)), t[done]
    identity = view.request.id_field
    if identity is None:
        raise PlanError(f"view {view.name}: its request {view.request.name} has no id, so no truth can be joined to it")
    found = labels_of(past, project, model.label, rows[identity].combine_chunks(), below=as_of)
    labels, known = found.values, found.known
    if model.label.has_default:
        labels = np.where(known, labels, float(model.label.default))
        known = np.ones(len(t), np.bool_)
    unlabelled = int(len(t) - known.sum())
    rows, t, labels = rows.filter(pa.array(known)), t[known], labels[known]
    request = request_columns(view, rows)
    block = HistoryReader(view, project, past).read(request, everything_below(as_of, len(t), logged=past.logged))
    return TrainingSet(block, labels, t, request, waiting, unlabelled, as_of)


def joined(first: TrainingSet, second: TrainingSet) -> TrainingSet:
    """The rows of both, `first` before `second`; positions are those of the second."""
    if not len(first):
        return second
    return TrainingSet(
        concat_features([first.block, second.block]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.t_us, second.t_us]),
        {name: concat_columns([column, second.request[name]]) for name, column in first.request.items()},
        first.waiting + second.waiting,
        first.unlabelled + second.unlabelled,
        second.as_of,
    )


def requests(
    project: ProjectPlan,
    view: ViewPlan,
    past: Past,
    since_us: int | None,
    until_us: int | None,
    below: dict[str, list[int]] | None = None,
) -> pa.Table:
    """The events of a view's request stream in `[since_us, until_us)`, in order of time, partition and offset.

    One without a key that its schema requires was erased with its entity, and is nobody's request.
    """
    names = [field.name for field in project.streams[view.stream].schema.fields]
    rows = past.events(view.stream, names, since_us, until_us)
    if below is not None:
        rows = rows.filter(below_positions(rows, below.get(view.stream, [0])))
    for spec in project.streams[view.stream].schema:
        if spec.entity is not None and not spec.nullable and rows[spec.name].null_count:
            rows = rows.filter(pc.is_valid(rows[spec.name]))
    if view.where is not None:
        rows = rows.filter(pa.array(_meets(project, view, past, rows, below)))
    return rows.sort_by(
        [(view.request.time_field or "", "ascending"), ("_partition", "ascending"), ("_offset", "ascending")]
    )


def _meets(
    project: ProjectPlan, view: ViewPlan, past: Past, rows: pa.Table, below: dict[str, list[int]] | None
) -> BoolArray:
    """Which events meet the condition of the derived stream that the view is asked about, bool [n]."""
    shown = tuple(replace(column, hidden=column.name != view.where) for column in view.columns)
    served = None if below is None else everything_below(below, rows.num_rows, logged=past.logged)
    reader = HistoryReader(replace(view, columns=shown), project, past)
    found = reader.read(request_columns(view, rows), served).column(view.where or "")
    return found.values & found.mask()


def request_columns(view: ViewPlan, rows: pa.Table) -> dict[str, Column]:
    """Request fields of rows as columns."""
    return {field.name: from_arrow(rows[field.name], field.dtype, field.name) for field in view.request.fields}
