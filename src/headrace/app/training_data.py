"""Named data sets as what a model is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headrace.app.datasets import WEIGHT, Dataset, Datasets, difference
from headrace.app.history import LABEL
from headrace.core.errors import ConfigError, TrainingError
from headrace.features.plan import ModelPlan
from headrace.registry.base import DatasetRef
from headrace.retrieval.rows import block_of
from headrace.training.dataset import TrainingSet

if TYPE_CHECKING:
    from headrace.app.wiring import Parts


def named_dataset(parts: Parts, data: str | Dataset) -> Dataset:
    """A data set by its name ("june": the newest version), or by name and version ("june@2").

    Raises ConfigError for a version that is no number, NotFound if there is no such data set.
    """
    if isinstance(data, Dataset):
        return data
    name, at, version = data.partition("@")
    if at and not version.isdecimal():
        raise ConfigError(f'"{data}" names no version of data set {name}; write a number, such as {name}@2')
    return Datasets(parts).get(name, int(version) if at else None)


def training_rows(parts: Parts, model: ModelPlan, dataset: Dataset) -> tuple[TrainingSet, DatasetRef]:
    """The rows of a data set as the training set of a model, and what they are called.

    Raises TrainingError, with the reason, if they are not what the model would be trained on: rows of something else,
    without labels, or read with other definitions; StoreError if the file is not what was stored.
    """
    info, plan = dataset.info, parts.plan
    view = plan.views[model.view]
    again = f"make it again: headrace dataset {info.name} {model.name} --until TIME"
    reason = ""
    if info.query.what != model.name:
        kind = "model" if info.query.what in plan.models else "view"
        reason = f"it holds rows of {kind} {info.query.what}"
    elif not info.query.label:
        reason = "it was made before labels were recorded"
    else:
        now = Datasets(parts).query_now(model, info.query)
        reason = difference(info.query, now)
    types = dict(zip(info.columns, info.types, strict=True))
    for column in view.visible:
        if not reason and types.get(column.name) != column.dtype.value:
            found = f"is {types[column.name]}" if column.name in types else "is missing"
            reason = f"its column {column.name} {found}, and view {view.name} gives {column.dtype.value}"
    if reason:
        raise TrainingError(
            f"model {model.name} cannot be trained on data set {info.name} version {info.version}: {reason}; {again}"
        )
    columns = dataset.rows.columns
    fields = {field.name for field in view.request.fields}
    data = TrainingSet(
        block=block_of({column.name: columns[column.name] for column in view.visible}),
        labels=columns[LABEL].values.astype(np.float64),
        t_us=columns[view.request.time_field or ""].values,
        request={name: column for name, column in columns.items() if name in fields},
        waiting=info.waiting,
        unlabelled=info.unlabelled,
        as_of=info.as_of,
        weights=columns[WEIGHT].values if info.query.negatives is not None else None,
    )
    return data, DatasetRef(info.name, info.version, info.sha256)
