"""Headrace: the whole real-time machine-learning loop from one file of definitions.

`import headrace as hr`. `hr.sum`, `hr.min`, `hr.max`, `hr.any`, `hr.all` and `hr.id` are left out of `__all__`, so that
a star import hides no builtin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.features import aggregate as _aggregate
from headrace.features import field as _field
from headrace.features.aggregate import (
    approx_n_unique,
    count,
    first,
    last,
    mean,
    most_frequent,
    n_unique,
    quantile,
    rate,
    share,
    skewness,
    std,
    time_since_first,
    time_since_last,
    var,
)
from headrace.features.collect import first_n, histogram, last_n, top_k
from headrace.features.column import Family
from headrace.features.decay import decayed_count, decayed_mean, decayed_sum, ratio
from headrace.features.entity import Entity
from headrace.features.event import Event
from headrace.features.expr import Expr
from headrace.features.field import Field, event_time, field, key
from headrace.features.function import Column, Function, function
from headrace.features.group import FeatureGroup
from headrace.features.model import Better, Canary, Every, Label, Model, OnDecay, OnDrift, Shadow
from headrace.features.onrequest import OnRequest
from headrace.features.table import SQL, InRange, NullShare, RowCount, Table, UniqueKey
from headrace.features.view import FeatureView

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from headrace.app.project import Project
    from headrace.core.time import Clock

__version__ = "0.1.0"

all = _aggregate.all
any = _aggregate.any
id = _field.id
max = _aggregate.max
min = _aggregate.min
sum = _aggregate.sum

__all__ = [
    "SQL",
    "Better",
    "Canary",
    "Column",
    "Entity",
    "Event",
    "Every",
    "Expr",
    "Family",
    "FeatureGroup",
    "FeatureView",
    "Field",
    "Function",
    "InRange",
    "Label",
    "Model",
    "NullShare",
    "OnDecay",
    "OnDrift",
    "OnRequest",
    "RowCount",
    "Shadow",
    "Table",
    "UniqueKey",
    "approx_n_unique",
    "connect",
    "count",
    "decayed_count",
    "decayed_mean",
    "decayed_sum",
    "event_time",
    "field",
    "first",
    "first_n",
    "function",
    "histogram",
    "key",
    "last",
    "last_n",
    "mean",
    "most_frequent",
    "n_unique",
    "quantile",
    "rate",
    "ratio",
    "share",
    "skewness",
    "std",
    "time_since_first",
    "time_since_last",
    "top_k",
    "var",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """An aggregation that was added to the catalog, and has no typed function yet."""
        from headrace.aggregations.registry import aggregations

        if name.startswith("_") or name not in aggregations():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _aggregate.function_of(aggregations()[name])


def connect(
    folder: str | Path | None = None, *, env: str | None = None, clock: Clock | None = None, **settings: Any
) -> Project:
    """Open the project of this folder, or of `folder`; `env` picks a section of `headrace.toml`.

    Other keywords are settings (`state`, `sync`, `port`, …) and win over every file and variable. `clock` tells the
    time instead of the machine's clock.
    """
    from headrace.app.project import Project

    return Project.open(folder, env=env, clock=clock, **settings)
