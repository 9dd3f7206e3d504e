"""A small shop, its year in the raw log, and the worker processes that are killed while they compute it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from headrace.core.columns import column_of
from headrace.core.events import encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema, map_of
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND, SimulatedClock
from headrace.engines.stream.commits import TABLES
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec, KeyPart, ProjectPlan, StreamPlan, TablePlan
from headrace.ingestion.archive import ArchiveWorker
from headrace.ingestion.materialize import OnlineIngest
from headrace.stores.offline.delta import DeltaOfflineStore
from headrace.stores.online.lmdb import LmdbOnlineStore

HORIZON_US = 30 * US_PER_SECOND
_FIELDS = (
    Field("order_id", DType.STRING),
    Field("user", DType.STRING, nullable=True),
    Field("amount", DType.FLOAT, nullable=True),
    Field("items", DType.INT),
    Field("at", DType.TIMESTAMP),
)
ORDER = StreamPlan("order", Schema("order", _FIELDS, "at", "order_id"), lateness_us=2 * US_PER_HOUR)
VISIT = StreamPlan("visit", Schema("visit", _FIELDS[1:], "at"))
_AMOUNT = InputSpec(ColumnRef("amount", DType.FLOAT), DType.FLOAT)
_ITEMS = InputSpec(ColumnRef("items", DType.INT), DType.INT)


def _group(name: str, version: str, stream: str, key: str | None) -> GroupPlan:
    aggregates = tuple(
        AggregateSpec(f"{kind}_{window or 'ever'}", kind, source, None, window, 1, 0, dtype)
        for kind, source, dtype in (
            ("count", None, DType.INT),
            ("sum", 0, DType.FLOAT),
            ("last", 0, DType.FLOAT),
            ("max", 1, DType.INT),
        )
        for window in (US_PER_MINUTE, None)
    )
    aggregates += tuple(
        AggregateSpec(f"{kind}_growing", kind, source, None, None, 1, 0, dtype, params, by=by)
        for kind, source, dtype, params, by in (
            ("quantile", 0, DType.FLOAT, (("q", 0.9),), None),
            ("skewness", 1, DType.FLOAT, (), None),
            ("approx_n_unique", 1, DType.INT, (), None),
            ("most_frequent", 1, DType.INT, (), None),
            ("mean", 0, map_of(DType.INT, DType.FLOAT), (), 1),
        )
    )
    parts = () if key is None else (KeyPart(key, DType.STRING, key),)
    names = tuple(spec.name for spec in aggregates)
    return GroupPlan(name, version, stream, None, parts, (_AMOUNT, _ITEMS), aggregates, (), names)


_PROFILE = Schema("profile", (Field("user", DType.STRING), Field("age", DType.INT), Field("at", DType.TIMESTAMP)), "at")
PROFILE = TablePlan(
    "profile", "00000000000000cc", _PROFILE, (KeyPart("user", DType.STRING, "user"),), None, None, None, None, 0, ()
)
GROUPS = (_group("spend", "00000000000000aa", "order", "user"), _group("traffic", "00000000000000bb", "visit", None))
PROJECT = ProjectPlan(
    {"order": ORDER, "visit": VISIT}, {group.name: group for group in GROUPS}, {"profile": PROFILE}, {}, {}
)


class Shop:
    """The parts of the project in a folder; `clock_us` is where the clock of the logs stands."""

    def __init__(self, folder: Path, clock_us: int = 0) -> None:
        self.folder = folder
        self.clock = SimulatedClock(clock_us)
        self.raw = LmdbEventLog(folder / "raw", self.clock, sync=False)
        self.features = LmdbEventLog(folder / "features", self.clock, sync=False)
        for name in PROJECT.streams:
            self.raw.create(name)
        self.features.create(TABLES)

    def compute(self) -> ComputeWorker:
        return ComputeWorker(PROJECT, self.raw, self.features, self.folder / "compute.checkpoint")

    def archive(self) -> ArchiveWorker:
        return ArchiveWorker(PROJECT, self.raw, self.features, self.offline())

    def online(self) -> LmdbOnlineStore:
        return LmdbOnlineStore(self.folder / "online", sync=False)

    def offline(self) -> DeltaOfflineStore:
        return DeltaOfflineStore(self.folder / "offline")

    def close(self) -> None:
        self.raw.close()
        self.features.close()


def deeds(seed: int, count: int) -> Iterator[Callable[[Shop], None]]:
    """What happens in the shop, one append after the other; the same for the same seed.

    Every batch holds late, repeated and malformed events among the others.
    """
    rng = random.Random(seed)
    now, known = US_PER_HOUR, ["o0"]
    for number in range(count):
        now += rng.randrange(1, 20 * US_PER_SECOND)
        orders = [_order(rng, now, known, f"o{number}.{index}") for index in range(rng.randrange(1, 12))]
        visits = [{key: value for key, value in _order(rng, now, known, "").items() if key != "order_id"}]
        profile = (f"u{rng.randrange(6)}", number, now - rng.randrange(0, 90) * US_PER_SECOND)
        yield lambda shop, now=now, rows=orders: publish(shop, ORDER, now, rows)  # type: ignore[misc]
        yield lambda shop, now=now, rows=visits: publish(shop, VISIT, now, rows)  # type: ignore[misc]
        if rng.random() < 0.2:
            yield lambda shop, now=now, row=profile: put(shop, now, *row)  # type: ignore[misc]


def _order(rng: random.Random, now: int, known: list[str], name: str) -> dict[str, Any]:
    known.append(name)
    at = now - rng.choice((0, 0, 0, US_PER_SECOND, 90 * US_PER_SECOND, 3 * US_PER_HOUR, -2 * US_PER_HOUR))
    return {
        "order_id": name if rng.random() < 0.9 else rng.choice(known[-20:]),
        "user": rng.choice(("u0", "u1", "u2", "u3", "u4", "u5", None)),
        "amount": rng.choice((None, 0.1, 1e300, -1e-300, rng.gauss(0, 1e6))),
        "items": rng.choice((1, 2, -(2**62))) if rng.random() < 0.95 else "many",
        "at": at,
    }


def publish(shop: Shop, stream: StreamPlan, now_us: int, rows: list[dict[str, Any]]) -> None:
    shop.clock.advance_to(now_us)
    shop.raw.append([Append(stream.name, 0, encode_block(encode_rows(stream.schema, rows)), len(rows))])


def put(shop: Shop, now_us: int, user: str, age: int, at_us: int) -> None:
    shop.clock.advance_to(now_us)
    columns = {"age": column_of(DType.INT, [age])}
    at, now = np.array([at_us], np.int64), np.array([now_us], np.int64)
    rows = TableRows(PROFILE.name, PROFILE.version, 1, [(user,)], at, now, columns, np.zeros(1, np.bool_))
    shop.features.append([Append(TABLES, 0, encode_table_rows(rows))])


def work(role: str, folder: Path, seed: int, pipe: Connection) -> None:
    """Run one worker until killed: steps of random size, checkpoints now and then; reports after each step."""
    rng = random.Random(seed)
    shop = Shop(folder)
    step = steps_of(role, shop, rng)
    pipe.send_bytes(b"ready")
    while True:
        if step():
            pipe.send_bytes(b"step")
        else:
            time.sleep(0.002)


def steps_of(role: str, shop: Shop, rng: random.Random) -> Callable[[], int]:
    """The step of a worker of this role."""
    if role == "compute":
        compute = shop.compute()

        def compute_step() -> int:
            if rng.random() < 0.2:
                compute.checkpoint()
            return compute.step(rng.choice((1, 5, 20)))

        return compute_step
    if role == "ingest":
        ingest = OnlineIngest(PROJECT, shop.features, shop.online(), horizon_us=HORIZON_US)
        return lambda: ingest.step(rng.choice((1, 3)))
    archive = shop.archive()
    return lambda: archive.step(rng.choice((1, 2, 5)))
