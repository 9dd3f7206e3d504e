"""A shop whose orders get a rate and whose visits find a user's last order, and a computing layer that is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import headrace as hr
from headrace.core.columns import column_of
from headrace.core.events import encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import US_PER_HOUR, US_PER_SECOND, SimulatedClock
from headrace.derivation.worker import ComputingLayer
from headrace.engines.stream.commits import TABLES
from headrace.eventlog.base import Append, EventLog
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.features.compile import compile_project
from headrace.features.plan import ProjectPlan
from headrace.ingestion.materialize import OnlineIngest
from headrace.retrieval.past import Past
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.stores.online.base import OnlineStore
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.stores.online.memory import MemoryOnlineStore

HORIZON_US = 30 * US_PER_SECOND
User, Currency = hr.Entity("user"), hr.Entity("currency")


class Order(hr.Event, lateness="2h"):
    order_id: hr.Field[str] = hr.id()
    user: hr.Field[str | None] = hr.key(User)
    currency: hr.Field[str] = hr.key(Currency)
    amount: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Rate(hr.Table):
    currency: hr.Field[str] = hr.key(Currency)
    usd: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Visit(hr.Event):
    user: hr.Field[str | None] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


class Priced(Order, where=Rate.usd < 3.0):
    usd = Order.amount * Rate.usd


class Spend(hr.FeatureGroup, key=Priced.user):
    n = hr.count(window="1m")
    total = hr.sum(Priced.usd)
    last = hr.last(Priced.usd)


class Returning(Visit):
    spent = Spend.total
    orders = Spend.n


class Returns(hr.FeatureGroup, key=Returning.user):
    n = hr.count()
    spent = hr.sum(Returning.spent)
    orders = hr.max(Returning.orders)


PROJECT: ProjectPlan = compile_project([Order, Rate, Visit, Priced, Spend, Returning, Returns])
PRICED, RETURNING = PROJECT.derived
Deed = Callable[[EventLog, EventLog], None]


def deeds(seed: int, count: int) -> Iterator[tuple[int, Deed]]:
    """What happens in the shop and when, one append after the other; the same for the same seed.

    Every batch holds late, repeated and malformed events among the others.
    """
    rng = random.Random(seed)
    now, known = US_PER_HOUR * 5, ["o"]
    for number in range(count):
        now += rng.randrange(1, 20 * US_PER_SECOND)
        orders = [_order(rng, now, known, f"o{number}.{index}") for index in range(rng.randrange(1, 8))]
        visits = [{"user": rng.choice(("u0", "u1", "u2", None)), "at": now} for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.3:
            yield now, _put(now, rng.choice("EU"), rng.choice((0.5, 1.25, 2.0, 5.0)), now - rng.randrange(US_PER_HOUR))
        yield now, _publish("order", orders)
        yield now, _publish("visit", visits)


def _order(rng: random.Random, now: int, known: list[str], name: str) -> dict[str, Any]:
    known.append(name)
    late = rng.choice((0, 0, 0, US_PER_SECOND, 90 * US_PER_SECOND, 3 * US_PER_HOUR, -2 * US_PER_HOUR))
    return {
        "order_id": name if rng.random() < 0.9 else rng.choice(known[-20:]),
        "user": rng.choice(("u0", "u1", "u2", None)),
        "currency": rng.choice("EU"),
        "amount": rng.choice((None, 0.1, 1e300, -1e-300, rng.gauss(0, 1e6))) if rng.random() < 0.95 else "much",
        "at": now - late,
    }


def _publish(stream: str, rows: list[dict[str, Any]]) -> Deed:
    payload = encode_block(encode_rows(PROJECT.streams[stream].schema, rows))

    def publish(raw: EventLog, features: EventLog) -> None:
        raw.append([Append(stream, 0, payload, len(rows))])

    return publish


def _put(now_us: int, currency: str, usd: float, at_us: int) -> Deed:
    table = PROJECT.tables["rate"]
    at, now = np.array([at_us], np.int64), np.array([now_us], np.int64)
    columns = {"usd": column_of(DType.FLOAT, [usd])}
    rows = TableRows(table.name, table.version, 1, [(currency,)], at, now, columns, np.zeros(1, np.bool_))

    def put(raw: EventLog, features: EventLog) -> None:
        features.append([Append(TABLES, 0, encode_table_rows(rows))])

    return put


def prepare(raw: EventLog, features: EventLog) -> None:
    """Create the topics that the deeds write to."""
    for name in PROJECT.streams:
        raw.create(name)
    features.create(TABLES)


def past_of(raw: EventLog, features: EventLog) -> Past:
    """The past, from the logs alone."""
    return Past(PROJECT, raw, features, MemoryOfflineStore())


def computing(raw: EventLog, features: EventLog, folder: Path, state: OnlineStore) -> ComputingLayer:
    return ComputingLayer(
        PROJECT,
        raw,
        features,
        folder / "compute.checkpoint",
        state=lambda: state,
        past=lambda: past_of(raw, features),
        horizon_us=HORIZON_US,
    )


def records_of(features: EventLog) -> dict[bytes, bytes]:
    """What ingestion makes of the feature log."""
    store = MemoryOnlineStore()
    ingest = OnlineIngest(PROJECT, features, store, horizon_us=HORIZON_US)
    while ingest.step():
        pass
    return dict(store.scan())


def logs(folder: Path, clock: SimulatedClock) -> tuple[LmdbEventLog, LmdbEventLog]:
    """Both logs of a folder."""
    return LmdbEventLog(folder / "raw", clock, sync=False), LmdbEventLog(folder / "features", clock, sync=False)


def work(folder: Path, seed: int, pipe: Connection) -> None:
    """Compute and derive until killed: steps of random size, checkpoints now and then; reports after each step."""
    rng = random.Random(seed)
    raw, features = logs(folder, SimulatedClock(0))
    worker = computing(raw, features, folder, LmdbOnlineStore(folder / "derivation", sync=False))
    pipe.send_bytes(b"ready")
    while True:
        if rng.random() < 0.2:
            worker.checkpoint()
        if worker.step(rng.choice((1, 5, 20))):
            pipe.send_bytes(b"step")
        else:
            time.sleep(0.002)
