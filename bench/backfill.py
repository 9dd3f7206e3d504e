"""How fast, and in how much memory, new features are computed over history that is archived already.

The last line is one JSON object. Events of users at shops (both by Zipf's law) go through the log, stream compute and
the archive at an even rate per simulated day. Then a process of its own defines 20 features over them, of users and
of shops, over windows of 1 hour to 30 days and over the whole lifetime, backfills them and publishes them.
`peak_rss_mb` is the highest memory of that process, `events_per_s` the events read per second of the backfill alone.
The same is done for a history of half the length at the same rate per day: memory must not depend on how long history
is. Answers at the end of history, of random users and of their shops, are compared with the oracle bit for bit; one
that differs ends the run. The full claim is made with --events 50000000.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import headrace as hr
from harness import peak_mb, versions
from headrace.app.project import Project
from headrace.core.columns import Column
from headrace.core.events import EventBlock, encode_block
from headrace.core.schema import DType
from headrace.core.time import US_PER_DAY, SimulatedClock, parse_time
from headrace.eventlog.base import Append
from headrace.testing.oracle import RawEvent, judge
from headrace.testing.oracle.view import view_row

START_US = parse_time("2025-01-01")
BLOCK = 5_000
User, Shop = hr.Entity("user"), hr.Entity("shop")


class Payment(hr.Event):
    """What has happened."""

    payment_id: hr.Field[int] = hr.id()
    user: hr.Field[str] = hr.key(User)
    shop: hr.Field[str] = hr.key(Shop)
    amount: hr.Field[float] = hr.field("in euros")
    at: hr.Field[datetime] = hr.event_time()


class ByUser(hr.FeatureGroup, key=Payment.user):
    n = hr.count(window=["1h", "1d", "30d"])
    total = hr.sum(Payment.amount, window=["1d", "30d"])
    most = hr.max(Payment.amount, window=["1d", "30d"])
    mean_30d = hr.mean(Payment.amount, window="30d")
    n_ever = hr.count()
    total_ever = hr.sum(Payment.amount)
    last = hr.last(Payment.amount)
    since_last = hr.time_since_last()


class ByShop(hr.FeatureGroup, key=Payment.shop, resolution="1s"):
    n = hr.count(window=["1h", "1d"])
    total = hr.sum(Payment.amount, window=["1h", "1d"])
    most_1d = hr.max(Payment.amount, window="1d")
    std_1d = hr.std(Payment.amount, window="1d")
    n_ever = hr.count()
    mean_ever = hr.mean(Payment.amount)


VIEW = hr.FeatureView("payment", request=Payment, features=[ByUser, ByShop])


@dataclass(frozen=True)
class Options:
    """What to measure."""

    events: int
    per_day: int
    users: int
    shops: int
    checked: int
    seed: int


def history(options: Options) -> Any:
    """Blocks of events, day by day: users and shops as numbers int64 [n], amounts, times."""
    random = np.random.default_rng(options.seed)
    shares = [np.cumsum(1 / np.arange(1, n + 1) ** 0.8) for n in (options.users, options.shops)]
    for start in range(0, options.events, options.per_day):
        n = min(options.per_day, options.events - start)
        at = START_US + start // options.per_day * US_PER_DAY + np.sort(random.integers(0, US_PER_DAY, n))
        user, shop = (np.searchsorted(share / share[-1], random.random(n)) for share in shares)
        yield start, user, shop, np.round(random.exponential(60.0, n), 2), at


def fill(folder: Path, options: Options) -> None:
    """Publish, compute (verdicts only) and archive the history."""
    clock = SimulatedClock(START_US)
    names = [np.array([f"{kind}-{i:07d}" for i in range(n)], np.object_) for kind, n in
             (("user", options.users), ("shop", options.shops))]  # fmt: skip
    with Project.open(folder, clock=clock, definitions=[Payment], sync=False) as project:
        project.apply()
        parts = project.parts
        compute, ingest = parts.compute(), parts.ingest()
        archive = parts.archive()
        for start, user, shop, amount, at in history(options):
            for low in range(0, len(at), BLOCK):
                rows = slice(low, low + BLOCK)
                n = len(at[rows])
                clock.advance_to(int(at[rows][-1]))
                columns = {
                    "payment_id": Column(DType.INT, start + low + np.arange(n)),
                    "user": Column(DType.STRING, names[0][user[rows]]),
                    "shop": Column(DType.STRING, names[1][shop[rows]]),
                    "amount": Column(DType.FLOAT, amount[rows]),
                    "at": Column(DType.TIMESTAMP, at[rows]),
                }
                parts.raw.append([Append("payment", 0, encode_block(EventBlock(n, columns)), n)])
            while compute.step():
                pass
            while ingest.step():
                pass
            while archive.step():
                pass


def backfill(folder: Path, end_us: int, pipe: Connection) -> None:
    """The measured process: define, backfill, publish."""
    with Project.open(folder, clock=SimulatedClock(end_us), definitions=[VIEW], sync=False) as project:
        report = project.backfill()
        began = time.perf_counter()
        project.apply()
        pipe.send(
            {
                "events_per_s": round(report.events_per_s),
                "seconds": round(report.seconds, 1),
                "publish_seconds": round(time.perf_counter() - began, 2),
                "records": project.parts.online.count(),
                "peak_rss_mb": peak_mb(),
            }
        )


def check(folder: Path, end_us: int, options: Options) -> dict[str, int]:
    """Compare answers at the end of history with the oracle, which computes from the raw events."""
    random = np.random.default_rng(options.seed + 1)
    with Project.open(folder, clock=SimulatedClock(end_us), definitions=[VIEW], sync=False) as project:
        plan = project.definition_plan
        view = plan.views["payment"]
        rows = project.parts.past.events("payment", ["payment_id", "user", "shop", "amount"])
        # Frequent entities have too many events for the oracle: users and shops of the rarer half are asked about.
        users = [f"user-{i:07d}" for i in random.integers(options.users // 2, options.users, options.checked)]
        shops = [f"shop-{i:07d}" for i in random.integers(options.shops // 2, options.shops, 20)]
        known = rows.filter(pc.or_(pc.is_in(rows["user"], pa.array(users)), pc.is_in(rows["shop"], pa.array(shops))))
        by_user, by_shop = _by(known, "user", set(users)), _by(known, "shop", set(shops))
        compared = 0
        for number, user in enumerate(users):
            t = end_us - int(random.integers(0, 590_000_000))
            asked = {"payment_id": number, "user": user, "shop": shops[number % 20], "amount": 1.0, "at": t}
            mine = {event["_offset"]: event for event in by_user.get(user, []) + by_shop.get(asked["shop"], [])}
            raw = [RawEvent(0, o, e["_arrival_us"], {k: e[k] for k in asked}) for o, e in sorted(mine.items())]
            expected = view_row(plan, view, asked, t, {"payment": judge(plan.streams["payment"], raw)}, {})
            found = project.online("payment", {**asked, "at": t}).to_dict()
            plain = {name: _plain(found[name]) for name in expected}
            if repr(plain) != repr(expected):
                raise SystemExit(f"{asked}: read {plain}, the oracle says {expected}")
            compared += len(expected)
    return {"answers": len(users), "values": compared, "differing": 0}


def _by(rows: pa.Table, name: str, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for event in rows.to_pylist():
        if event[name] in wanted:
            found.setdefault(event[name], []).append(event)
    return found


def _plain(value: Any) -> Any:
    return round(value.total_seconds() * 1e6) if hasattr(value, "total_seconds") else value


def measure(options: Options, folder: Path) -> dict[str, Any]:
    """Fill, backfill in a process of its own, check."""
    began = time.perf_counter()
    fill(folder, options)
    filled = time.perf_counter() - began
    print(f"{options.events:,} events are archived after {filled:.0f} s; backfilling", flush=True)
    end_us = START_US + -(-options.events // options.per_day) * US_PER_DAY
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=backfill, args=(folder, end_us, there))
    process.start()
    there.close()
    figures: dict[str, Any] = here.recv()
    process.join()
    print(f"backfilled: {figures}; checking", flush=True)
    return {
        "events": options.events,
        "days": -(-options.events // options.per_day),
        **figures,
        "fill_seconds": round(filled, 1),
        "checked": check(folder, end_us, options),
    }


def main() -> None:
    """Parse arguments, measure both lengths of history, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--per-day", type=int, default=20_000, help="events per simulated day")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--shops", type=int, default=2_000)
    parser.add_argument("--checked", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--alone", action="store_true", help="not the half of this length as well")
    parser.add_argument("--dir", default=None, help="folder on the disk to measure (default: a temporary one)")
    a = parser.parse_args()
    runs = []
    for events in (a.events,) if a.alone else (a.events // 2, a.events):
        with tempfile.TemporaryDirectory(dir=a.dir, prefix="headrace-bench-") as folder:
            options = Options(events, a.per_day, a.users, a.shops, a.checked, a.seed)
            runs.append(measure(options, Path(folder)))
    short, long = runs[0], runs[-1]
    print(
        json.dumps(
            {
                "bench": "backfill",
                "params": vars(a) | {"features": 20},
                "figures": {
                    "events_per_s": long["events_per_s"],
                    "peak_rss_mb": long["peak_rss_mb"],
                    "peak_rss_mb_of_half_of_history": None if a.alone else short["peak_rss_mb"],
                    "seconds": long["seconds"],
                    "publish_seconds": long["publish_seconds"],
                    "answers_checked": sum(run["checked"]["answers"] for run in runs),
                    "differing": 0,
                },
                "runs": runs,
                "versions": versions("numpy", "pyarrow"),
            }
        )
    )


if __name__ == "__main__":
    main()
