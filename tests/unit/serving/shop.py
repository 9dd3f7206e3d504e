"""A small project with every part of it real: payments, what their senders spent, their profiles, and a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier

from headrace.catalog.catalog import Catalog
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, SimulatedClock
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.features.nodes import Call, ColumnRef
from headrace.features.plan import (
    AggregateSpec,
    Binding,
    GroupPlan,
    InputSpec,
    KeyPart,
    LabelPlan,
    ModelPlan,
    ProjectPlan,
    StreamPlan,
    TablePlan,
    ViewColumn,
    ViewPlan,
)
from headrace.ingestion.materialize import OnlineIngest
from headrace.ingestion.publisher import Publisher
from headrace.registry.base import CHAMPION, DataSnapshot, NewVersion
from headrace.registry.local import LocalModelRegistry
from headrace.registry.predictor import FittedModel
from headrace.retrieval.online import OnlineReader
from headrace.serving.prediction_log import PredictionLog
from headrace.serving.scorer import Scorer
from headrace.serving.service import Service
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.training.fit import train
from tests.unit.training.blocks import block_of

START = 1_359_712_800_000_000
"""2013-02-01T10:00:00Z"""
HORIZON_US = 10 * US_PER_MINUTE

PAYMENT = Schema(
    "Payment",
    (
        Field("payment_id", DType.STRING),
        Field("user", DType.STRING, nullable=True, entity="user"),
        Field("amount", DType.FLOAT, doc="in euros"),
        Field("channel", DType.STRING, has_default=True, default="app"),
        Field("at", DType.TIMESTAMP),
    ),
    time_field="at",
    id_field="payment_id",
    doc="Money that a user sends.",
)
CHARGEBACK = Schema(
    "Chargeback",
    (Field("payment", DType.STRING), Field("fraud", DType.BOOL), Field("at", DType.TIMESTAMP)),
    time_field="at",
)
USER = (KeyPart("user", DType.STRING, "user"),)
SPEND = GroupPlan(
    "Spend",
    "0123456789abcdef",
    "Payment",
    None,
    USER,
    (InputSpec(ColumnRef("amount", DType.FLOAT), DType.FLOAT),),
    (
        AggregateSpec("n_1h", "count", None, None, US_PER_HOUR, 1, 0, DType.INT),
        AggregateSpec("mean_1d", "mean", 0, None, US_PER_DAY, 1, 0, DType.FLOAT),
        AggregateSpec("last", "last", 0, None, US_PER_DAY, 1, 0, DType.FLOAT),
    ),
    (),
    ("n_1h", "mean_1d", "last"),
)
PROFILE = TablePlan(
    "Profile",
    "fedcba9876543210",
    Schema(
        "Profile",
        (
            Field("user", DType.STRING, entity="user"),
            Field("age", DType.INT),
            Field("tier", DType.STRING, nullable=True),
            Field("since", DType.TIMESTAMP, nullable=True),
            Field("at", DType.TIMESTAMP),
        ),
        time_field="at",
    ),
    USER,
    query=None,
    on=None,
    schedule=None,
    ttl_us=None,
    delay_us=0,
    checks=(),
)
VIEW = ViewPlan(
    "payment",
    "1111222233334444",
    "Payment",
    PAYMENT,
    (Binding("Spend", False, "", ("user",)), Binding("Profile", True, "", ("user",))),
    (
        ViewColumn("spend__n_1h", DType.INT, "feature", binding=0, feature="n_1h"),
        ViewColumn("spend__mean_1d", DType.FLOAT, "feature", binding=0, feature="mean_1d"),
        ViewColumn("profile__age", DType.INT, "feature", binding=1, feature="age"),
        ViewColumn("profile__tier", DType.STRING, "feature", binding=1, feature="tier"),
        ViewColumn("profile__since", DType.TIMESTAMP, "feature", binding=1, feature="since"),
        ViewColumn("amount", DType.FLOAT, "request"),
        ViewColumn(
            "ratio",
            DType.FLOAT,
            "computed",
            node=Call("div", (ColumnRef("amount", DType.FLOAT), ColumnRef("spend__mean_1d", DType.FLOAT)), DType.FLOAT),
        ),
    ),
)
MODEL = ModelPlan(
    "fraud",
    "payment",
    LabelPlan("Chargeback", "payment", ColumnRef("fraud", DType.BOOL), DType.BOOL, 0, False, None),
    estimator=LGBMClassifier(n_estimators=5, min_child_samples=2),
    metric="average_precision",
    train_on_us=None,
    retrain=(),
    promote=None,
)
PROJECT = ProjectPlan(
    streams={
        "Payment": StreamPlan("Payment", PAYMENT, partition_key=("user",)),
        "Chargeback": StreamPlan("Chargeback", CHARGEBACK, partition_key=("payment",)),
    },
    groups={"Spend": SPEND},
    tables={"Profile": PROFILE},
    views={"payment": VIEW},
    models={"fraud": MODEL},
)


def fitted(threshold: float) -> FittedModel:
    """A model that thinks amounts above `threshold` are fraud; two thresholds never give the same score."""
    n = 60
    amounts = [float(i) for i in range(n)]
    block = block_of(
        spend__n_1h=(DType.INT, [i % 4 for i in range(n)]),
        spend__mean_1d=(DType.FLOAT, [1.0 + i % 3 for i in range(n)]),
        profile__age=(DType.INT, [None] * n),
        profile__tier=(DType.STRING, ["gold", "base"] * (n // 2)),
        profile__since=(DType.TIMESTAMP, [None] * n),
        amount=(DType.FLOAT, amounts),
        ratio=(DType.FLOAT, amounts),
    )
    return train(MODEL.estimator, block, np.array([amount > threshold for amount in amounts]))


@dataclass
class Shop:
    """The parts of the project, opened in one folder."""

    clock: SimulatedClock
    raw: LmdbEventLog
    features: LmdbEventLog
    internal: LmdbEventLog
    store: LmdbOnlineStore
    registry: LocalModelRegistry
    publisher: Publisher
    compute: ComputeWorker
    ingest: OnlineIngest
    predictions: PredictionLog
    scorer: Scorer

    def settle(self) -> None:
        """Compute and ingest until nothing is left."""
        while self.compute.step() + self.ingest.step():
            pass

    def pay(self, *payments: tuple[str, str, float, int]) -> None:
        """Publish payments (id, user, amount, minutes after the start) and let them reach the store."""
        rows = [
            {"payment_id": name, "user": user, "amount": amount, "at": START + minute * US_PER_MINUTE}
            for name, user, amount, minute in payments
        ]
        self.publisher.publish("Payment", rows)
        self.settle()

    def register(self, model: FittedModel) -> int:
        """Register a version and make it champion."""
        info = NewVersion("fraud", VIEW.name, VIEW.version, model.columns, {}, DataSnapshot(60, 30, 0, 1))
        number = self.registry.register(info, model.to_files()).number
        self.promote(number)
        return number

    def promote(self, number: int | None) -> None:
        self.registry.set_alias("fraud", CHAMPION, number, who="test", why="test")

    def service(self, **changed: Any) -> Service:
        parts: dict[str, Any] = {
            "project": PROJECT,
            "clock": self.clock,
            "publisher": self.publisher,
            "online": self.store,
            "horizon_us": HORIZON_US,
            "internal": self.internal,
            "scorers": {"fraud": self.scorer},
            "predictions": self.predictions,
            "raw": self.raw,
            "features": self.features,
            "poll_s": 0.01,
        }
        return Service(**(parts | changed))


@contextmanager
def opened(folder: Path) -> Iterator[Shop]:
    """The shop in `folder`, half past the start, with nothing in it."""
    clock = SimulatedClock(START + 30 * US_PER_MINUTE)
    raw = LmdbEventLog(folder / "raw", clock, sync=False)
    features = LmdbEventLog(folder / "features", clock, sync=False)
    internal = LmdbEventLog(folder / "internal", clock, sync=False)
    store = LmdbOnlineStore(folder / "online")
    catalog = Catalog(folder / "catalog.db", clock)
    registry = LocalModelRegistry(catalog, folder / "models")
    compute = ComputeWorker(PROJECT, raw, features, folder / "compute.checkpoint")
    ingest = OnlineIngest(PROJECT, features, store, horizon_us=HORIZON_US)
    predictions = PredictionLog(internal, background=True)
    reader = OnlineReader(VIEW, PROJECT, store, horizon_us=HORIZON_US)
    scorer = Scorer(PROJECT, MODEL, reader, registry, clock, predictions, id_prefix=7)
    publisher = Publisher(raw, PROJECT.streams)
    yield Shop(clock, raw, features, internal, store, registry, publisher, compute, ingest, predictions, scorer)
    predictions.close()
    for part in (raw, features, internal, store, catalog):
        part.close()
