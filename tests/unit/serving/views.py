"""A small view, blocks of it and a reader that gives them, for tests that need no store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.core.columns import Column, column_of
from headrace.core.positions import Position
from headrace.core.schema import DType, Field, Schema
from headrace.features.nodes import ColumnRef
from headrace.features.plan import LabelPlan, ModelPlan, ProjectPlan, ViewColumn, ViewPlan
from headrace.retrieval.rows import FeatureBlock

REQUEST = Schema(
    "Payment",
    (
        Field("payment_id", DType.STRING),
        Field("user", DType.STRING, nullable=True),
        Field("amount", DType.FLOAT, nullable=True),
        Field("taste", DType.LIST, nullable=True, size=2),
        Field("at", DType.TIMESTAMP),
    ),
    time_field="at",
    id_field="payment_id",
)
VIEW = ViewPlan(
    "payment",
    "view-1",
    "Payment",
    REQUEST,
    bindings=(),
    columns=(
        ViewColumn("n", DType.INT, "feature"),
        ViewColumn("hidden", DType.FLOAT, "feature", hidden=True),
        ViewColumn("mean", DType.FLOAT, "feature"),
        ViewColumn("vip", DType.BOOL, "feature"),
        ViewColumn("tier", DType.STRING, "feature"),
        ViewColumn("vector", DType.LIST, "feature"),
        ViewColumn("seen", DType.TIMESTAMP, "feature"),
    ),
)
MODEL = ModelPlan(
    "fraud",
    "payment",
    LabelPlan("Chargeback", "payment", ColumnRef("fraud", DType.BOOL), DType.BOOL, 0, False, None),
    estimator=None,
    metric="average_precision",
    train_on_us=None,
    retrain=(),
    promote=None,
)
PROJECT = ProjectPlan(streams={}, groups={}, tables={}, views={"payment": VIEW}, models={"fraud": MODEL})


def position(offset: int) -> Position:
    return Position(
        streams={"Payment": [offset, offset + 1], "Login": [3]}, tables=7, windows=2, clock_us={"Payment": 90}
    )


def features(rows: list[list[Any]], at: Position | None = None) -> FeatureBlock:
    """A block of the view's visible columns from Python rows, None for null."""
    names = tuple(column.name for column in VIEW.visible)
    dtypes = tuple(column.dtype for column in VIEW.visible)
    words = np.zeros((len(rows), len(names)), np.int64)
    valid = np.zeros((len(rows), len(names)), np.bool_)
    objects = {}
    for index, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        column = column_of(dtype, [row[index] for row in rows])
        valid[:, index] = column.mask()
        if dtype in (DType.STRING, DType.LIST):
            objects[name] = column
            continue
        values = column.values.view(np.int64) if dtype is DType.FLOAT else column.values.astype(np.int64)
        words[:, index] = np.where(valid[:, index], values, 0)
    return FeatureBlock(names, dtypes, words, valid, objects, at or position(5))


def request(ids: list[str], t_us: list[int], users: list[str | None] | None = None) -> dict[str, Column]:
    n = len(ids)
    return {
        "payment_id": column_of(DType.STRING, ids),
        "user": column_of(DType.STRING, users or ["u"] * n),
        "amount": column_of(DType.FLOAT, [None if i % 3 == 2 else 1.5 * i for i in range(n)]),
        "taste": column_of(DType.LIST, [[0.5, float(i)] if i % 2 else None for i in range(n)]),
        "at": column_of(DType.TIMESTAMP, t_us),
    }


class FakeReader:
    """Gives `n` = the request's row number and the given position; counts as many overflows as it is told."""

    def __init__(self, at: Position | None = None) -> None:
        self.at = at or position(5)
        self.overflows = 0
        self.overflows_per_read = 0

    def read(self, request: Mapping[str, Column]) -> FeatureBlock:
        self.overflows += self.overflows_per_read
        n = len(request["at"])
        return features([[i, i / 7, True, "gold", None, 5] for i in range(n)], self.at)
