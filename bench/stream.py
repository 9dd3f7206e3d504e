"""How fast events become visible: from the event log through compute and ingestion to the online store.

The last line is one JSON object. An event belongs to a user, a card and a merchant, which have 20 aggregations in five
windows; `entities` is how many of the three kinds there are together, each with a record before anything is timed. Keys
follow Zipf's law. The real workers run in two processes, compute and ingestion, with the settings of production; this
process publishes and looks at the position that the online store reflects, as a reader does.

`events_per_s`: a backlog is in the log when the workers are let go; events over the time until the last is visible.
`visible_p99_s`: events are published at a steady rate, `--rate` a second, in blocks of 20 ms; seconds from the moment
when a block was due until the store reflects it, so what a late publisher costs is counted too. `sustained` says
whether the workers kept up: if not, the lag grows as long as events come, and the percentile depends on `--seconds`.
`kernel_events_per_s`: `StreamEngine.process` alone, from decoded columns to deltas, in steps of 50,000 events.
`uniform_events_per_s`: a backlog of events whose keys are equally frequent. Some answers are compared with the oracle,
value by value; one that differs ends the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.synchronize import Event as Gate
from pathlib import Path
from typing import Any

import numpy as np

import headrace as hr
from harness import versions
from headrace.app.clock import SystemClock
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.core.columns import Column
from headrace.core.events import EventBlock, encode_block
from headrace.core.positions import decode_position
from headrace.core.schema import DType
from headrace.core.time import US_PER_HOUR, US_PER_MINUTE
from headrace.engines.stream.engine import RawChunk, StreamEngine
from headrace.eventlog.base import Append
from headrace.features.compile import compile_project
from headrace.features.plan import ProjectPlan
from headrace.testing.oracle.events import RawEvent, judge
from headrace.testing.oracle.view import view_row

KEYS = ("user", "card", "merchant")
STREAM = "payment"
BLOCK = 1_000
STEP = 50_000
TICK_S = 0.02
IDLE_S = 0.002
APART_US = 20
"""Between the event times of a backlog: 50,000 a second."""
User, Card, Merchant = hr.Entity("user"), hr.Entity("card"), hr.Entity("merchant")


class Parties(hr.Event, abstract=True):
    """Who takes part."""

    user: hr.Field[int] = hr.key(User)
    card: hr.Field[int] = hr.key(Card)
    merchant: hr.Field[int] = hr.key(Merchant)
    at: hr.Field[datetime] = hr.event_time()


class Payment(Parties):
    """What is counted."""

    amount: hr.Field[float] = hr.field("in euros")


class Asked(Parties):
    """What is asked."""


# The most frequent entities have thousands of events a second, so event times are told apart by the second.
class ByUser(hr.FeatureGroup, key=Payment.user, resolution="1s"):
    n = hr.count(window=["10m", "1h"])
    total = hr.sum(Payment.amount, window=["10m", "1h", "1d"])
    most = hr.max(Payment.amount, window="7d")
    large = hr.share(Payment.amount > 100, window="1h")


class ByCard(hr.FeatureGroup, key=Payment.card, resolution="1s"):
    n = hr.count(window=["10m", "1d"])
    mean = hr.mean(Payment.amount, window=["1h", "7d"])
    spread = hr.std(Payment.amount, window="1d")
    least = hr.min(Payment.amount, window="1h")
    most = hr.max(Payment.amount, window="1h")


class ByMerchant(hr.FeatureGroup, key=Payment.merchant, resolution="1s"):
    n = hr.count(window=["10m", "1h", "30d"])
    mean = hr.mean(Payment.amount, window=["10m", "1h"])
    large = hr.share(Payment.amount > 100, window="1d")


VIEW = hr.FeatureView("asked", request=Asked, features=[ByUser, ByCard, ByMerchant])


@dataclass(frozen=True)
class Options:
    """What to measure."""

    entities: int
    events: int
    seconds: float
    rate: int
    checked: int
    seed: int

    @property
    def each(self) -> int:
        """Entities of one kind."""
        return self.entities // len(KEYS)


@dataclass
class Published:
    """What is in the log, in order of offsets: keys int64 [n, 3], amounts, times (arrival is no earlier)."""

    blocks: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]] = field(default_factory=list)
    end: int = 0

    def add(self, parts: Parts, keys: Any, amounts: Any, times: Any) -> None:
        """Append events to the log."""
        self.blocks.append((keys, amounts, times))
        self.end += len(times)
        parts.raw.append([Append(STREAM, 0, encode_block(block_of(keys, amounts, times)), len(times))])


class Source:
    """Random events: keys by a law, amounts."""

    def __init__(self, options: Options) -> None:
        self._random = np.random.default_rng(options.seed)
        self._each = options.each
        weights = 1 / np.arange(1, options.each + 1)
        self._shares = np.cumsum(weights) / weights.sum()
        # Entities that are frequent are no neighbours in the store.
        self.names = np.stack([self._random.permutation(options.each) for _ in KEYS])

    def zipf(self, n: int) -> np.ndarray[Any, Any]:
        """Keys int64 [n, 3]; the k-th most frequent entity of a kind has a share of 1 / k of the first one's."""
        ranks = np.searchsorted(self._shares, self._random.random((n, len(KEYS))))
        return np.stack([names[ranks[:, i]] for i, names in enumerate(self.names)], axis=1)

    def uniform(self, n: int) -> np.ndarray[Any, Any]:
        """Keys int64 [n, 3], all equally frequent."""
        return self._random.integers(0, self._each, (n, len(KEYS)))

    def amounts(self, n: int) -> np.ndarray[Any, Any]:
        """Amounts float64 [n]."""
        return np.round(self._random.exponential(60.0, n), 2)


def block_of(keys: np.ndarray[Any, Any], amounts: np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> EventBlock:
    """Events as a block."""
    columns = {name: Column(DType.INT, keys[:, i].copy()) for i, name in enumerate(KEYS)}
    columns |= {"at": Column(DType.TIMESTAMP, times), "amount": Column(DType.FLOAT, amounts)}
    return EventBlock(len(times), columns)


def project() -> ProjectPlan:
    """The plan of the project."""
    return compile_project([ByUser, ByCard, ByMerchant, Payment, Asked, VIEW])


def parts_in(folder: Path, log: str = "embedded") -> Parts:
    """The parts of the project, with the settings that it has in production; `log` is the address of the logs."""
    return Parts(Settings(folder=folder, state=folder, log=log), project(), SystemClock())


def run_worker(role: str, folder: str, log: str, go: Gate, idle: Gate, stop: Gate) -> None:
    """Work as `headrace run compute` and `headrace run ingest` do; wait while `go` is not set."""
    parts = parts_in(Path(folder), log)
    worker = parts.compute() if role == "compute" else parts.ingest()
    while not stop.is_set():
        if not go.is_set():
            idle.set()
            go.wait(0.05)
        elif not worker.step():
            time.sleep(IDLE_S)
    parts.close()


class Workers:
    """The two processes, and where the online store stands."""

    def __init__(self, folder: Path, parts: Parts) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._parts = parts
        self._go, self._stop = spawn.Event(), spawn.Event()
        self._idle = [spawn.Event(), spawn.Event()]
        self._processes = [
            spawn.Process(target=run_worker, args=(role, str(folder), parts.settings.log, self._go, idle, self._stop))
            for role, idle in zip(("compute", "ingest"), self._idle, strict=True)
        ]
        for process in self._processes:
            process.start()
        self._raw = b""
        self._seen = 0

    def hold(self) -> None:
        """Let both stop between two steps."""
        self._go.clear()
        for idle in self._idle:
            idle.clear()
        for idle in self._idle:
            while not idle.wait(1.0):
                self.check_alive()

    def go(self) -> None:
        """Let both work."""
        self._go.set()

    def visible(self) -> int:
        """How many events the online store reflects."""
        raw = self._parts.online.position()
        if raw != self._raw:
            self._raw = raw
            self._seen = decode_position(raw).streams[STREAM][0]
        return self._seen

    def wait(self, end: int) -> float:
        """Wait until `end` events are visible; returns seconds."""
        began = time.perf_counter()
        while self.visible() < end:
            time.sleep(IDLE_S)
            self.check_alive()
        return time.perf_counter() - began

    def check_alive(self) -> None:
        """Raise SystemExit if a worker has ended."""
        if not all(process.is_alive() for process in self._processes):
            raise SystemExit("a worker failed; its error is above")

    def close(self) -> None:
        """Stop both."""
        self._stop.set()
        self._go.set()
        for process in self._processes:
            process.join(30)
            if process.is_alive():
                process.kill()


def backlog(parts: Parts, workers: Workers, made: Published, keys: Any, amounts: Any, start_us: int) -> float:
    """Publish events while the workers are held, let these go; returns seconds until the last event is visible."""
    workers.hold()
    for at in range(0, len(keys), BLOCK):
        stop = min(at + BLOCK, len(keys))
        made.add(parts, keys[at:stop], amounts[at:stop], start_us + APART_US * np.arange(at, stop))
    workers.go()
    return workers.wait(made.end)


def steady(
    parts: Parts, workers: Workers, made: Published, draw: Callable[[int], Any], amounts: Any, rate: int, seconds: float
) -> dict[str, Any]:
    """Publish `rate` events a second for some seconds; how long it took until they were visible."""
    size = max(1, round(rate * TICK_S))
    ticks = max(1, round(seconds / TICK_S))
    keys, values = draw(size * ticks), amounts(size * ticks)
    due = np.arange(ticks) * TICK_S
    ends = made.end + size * np.arange(1, ticks + 1)
    seen = np.empty(ticks)
    published = reflected = 0
    published_s = 0.0
    behind = 0
    began = time.perf_counter()
    while reflected < ticks:
        now = time.perf_counter() - began
        if published < ticks and due[published] <= now:
            at = slice(size * published, size * (published + 1))
            made.add(parts, keys[at], values[at], time.time_ns() // 1_000 + np.zeros(size, np.int64))
            published += 1
            published_s = time.perf_counter() - began
            behind = made.end - workers.visible()
        count = int(np.searchsorted(ends, workers.visible(), "right"))
        if count > reflected:
            seen[reflected:count] = time.perf_counter() - began
            reflected = count
        if published == ticks or due[published] > time.perf_counter() - began:
            time.sleep(IDLE_S)
            workers.check_alive()
    waited = seen - due
    half = ticks // 2
    # A steady lag is the same in both halves, give or take a second; one that grows shows in their difference.
    grows = float(np.median(waited[half:]) - np.median(waited[:half])) if half else 0.0
    return {
        "p50_s": round(float(np.quantile(waited, 0.5)), 3),
        "p99_s": round(float(np.quantile(waited, 0.99)), 3),
        "most_s": round(float(waited.max()), 3),
        "published_per_s": round(size * ticks / max(published_s, seconds)),
        "events_behind_at_end": behind,
        "lag_grows_s": round(grows, 3),
        "sustained": bool(published_s < 1.05 * seconds + TICK_S and grows < max(0.5, 0.1 * seconds)),
    }


def kernel_rate(source: Source, n: int, start_us: int) -> float:
    """Events per second of the compute engine alone, over columns in memory; the first two steps are not timed."""
    engine = StreamEngine(project())
    size = min(STEP, n)
    blocks = []
    for at in range(0, n - size + 1, size):
        times = start_us + APART_US * np.arange(at, at + size)
        blocks.append((at, block_of(source.zipf(size), source.amounts(size), times), times + 1))
    spent = []
    for at, block, arrivals in [*blocks[:2], *blocks]:
        if at == 0:
            engine.states.clear()
        began = time.perf_counter()
        engine.process({STREAM: [RawChunk(0, at, block, arrivals)]}, {STREAM: [at]})
        spent.append(time.perf_counter() - began)
    return size * len(blocks) / sum(spent[len(blocks[:2]) :])


def check(parts: Parts, made: Published, source: Source, options: Options) -> dict[str, int]:
    """Compare answers with the oracle, bit for bit.

    Requests are of random entities; one is of frequent ones: the oracle is too slow for more.
    """
    plan, random = parts.plan, np.random.default_rng(options.seed + 1)
    keys, amounts, times = (np.concatenate(part) for part in zip(*made.blocks, strict=True))
    orders = [np.argsort(keys[:, i], kind="stable") for i in range(len(KEYS))]
    sorted_keys = [keys[order, i] for i, order in enumerate(orders)]
    asked = random.integers(0, options.each, (options.checked, len(KEYS)))
    asked[0] = source.names[:, min(99, options.each - 1)]
    newest = int(times.max())
    at = random.integers(newest - parts.horizon_us, newest + US_PER_MINUTE, options.checked)
    reader = parts.reader("asked")
    compared = most = 0
    for row, t in zip(asked, at.tolist(), strict=True):
        request = dict(zip(KEYS, row.tolist(), strict=True)) | {"at": t}
        mine = np.unique(
            np.concatenate(
                [
                    order[np.searchsorted(values, key) : np.searchsorted(values, key, "right")]
                    for order, values, key in zip(orders, sorted_keys, row.tolist(), strict=True)
                ]
            )
        )
        most = max(most, len(mine))
        raw = [
            RawEvent(
                0,
                i,
                int(times[i]),
                dict(zip(KEYS, keys[i].tolist(), strict=True)) | {"at": int(times[i]), "amount": float(amounts[i])},
            )
            for i in mine.tolist()
        ]
        expected = view_row(plan, plan.views["asked"], request, t, {STREAM: judge(plan.streams[STREAM], raw)}, {})
        columns = {
            name: Column(DType.TIMESTAMP if name == "at" else DType.INT, np.array([value]))
            for name, value in request.items()
        }
        found = {name: values[0] for name, values in reader.read(columns).to_pydict().items()}
        if repr(found) != repr(expected):
            raise SystemExit(f"request {request}: read {found}, the oracle says {expected}")
        compared += len(expected)
    return {"requests": len(asked), "values": compared, "most_events_of_a_request": most, "differing": 0}


def measure(options: Options, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    source, made = Source(options), Published()
    start_us = time.time_ns() // 1_000
    kernel = kernel_rate(source, min(options.events, 20 * STEP), start_us)
    parts = parts_in(folder)
    parts.raw.create(STREAM)
    parts.features.create("windows")
    workers = Workers(folder, parts)
    try:
        everyone = np.stack([np.arange(options.each)] * len(KEYS), axis=1)
        filled_s = backlog(parts, workers, made, everyone, source.amounts(options.each), start_us - 3 * US_PER_HOUR)
        records = parts.online.count()
        # What is compiled when it is first needed shall not count.
        warm = min(options.events, STEP // 2)
        backlog(
            parts, workers, made, source.zipf(warm), source.amounts(warm), start_us - 2 * US_PER_HOUR - US_PER_MINUTE
        )
        few = max(1, options.events // 4)
        uniform_s = backlog(parts, workers, made, source.uniform(few), source.amounts(few), start_us - 2 * US_PER_HOUR)
        zipf_s = backlog(
            parts, workers, made, source.zipf(options.events), source.amounts(options.events), start_us - US_PER_HOUR
        )
        fast = steady(parts, workers, made, source.zipf, source.amounts, options.rate, options.seconds)
        slow = steady(parts, workers, made, source.zipf, source.amounts, options.rate // 5, options.seconds)
    finally:
        workers.close()
    checked = check(parts, made, source, options)
    parts.close()
    return {
        "bench": "stream",
        "params": {
            "groups": len(parts.plan.groups),
            "aggregations": sum(len(group.aggregates) for group in parts.plan.groups.values()),
            "entities": records,
            "events": options.events,
            "uniform_events": few,
            "rate": options.rate,
            "seconds": options.seconds,
            "published": made.end,
            "synced": parts.settings.sync,
            "seed": options.seed,
            "fill_s": round(filled_s, 1),
        },
        "figures": {
            "events_per_s": round(options.events / zipf_s),
            "visible_p99_s": fast["p99_s"],
            "visible_p99_s_at_10k": slow["p99_s"],
            "kernel_events_per_s": round(kernel),
            "uniform_events_per_s": round(few / uniform_s),
            "at_rate": fast,
            "at_a_fifth": slow,
        },
        "checked": checked,
        "peers": {},
        "versions": versions("numpy", "numba", "lmdb"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=1_000_000, help="of all three kinds together")
    parser.add_argument("--events", type=int, default=1_000_000, help="of the backlog by Zipf's law")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each steady rate")
    parser.add_argument("--rate", type=int, default=50_000, help="steady events per second; then a fifth of it")
    parser.add_argument("--checked", type=int, default=1_000, help="answers that are compared with the oracle")
    parser.add_argument("--seed", type=int, default=7)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
