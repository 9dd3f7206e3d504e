"""How fast rows of a table come from the feature log into the online store, embedded and in Redis, and are read there.

The last line is one JSON object. A table of 7 features (4 floats, 2 ints, a bool) gets a row for each of 1 M entities,
and then a newer one for each: both in record batches of a tenth, as runs of its query would write them, in random
order of their keys within a batch's range. What is timed is the ingestion worker from the first row to the last one
visible: decoding, reading the former records, merging, writing with the position. `*_new_*` are the first rows, the
plain figures are the mean over both. The Redis is a process of its own on the same machine, over its unix socket, with
an append-only file, unless `--url` names another one. Answers of the view are compared with what was put in, value by
value; then requests of the view of `bench/online.py` are timed over Redis, checked against the oracle.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import online as reads

import headrace as hr
from harness import versions
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.core.columns import BoolArray, Column, IntArray
from headrace.core.schema import DType
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import US_PER_HOUR, US_PER_SECOND, SimulatedClock, parse_time
from headrace.engines.stream.commits import TABLES
from headrace.eventlog.base import Append
from headrace.features.compile import compile_project
from headrace.features.plan import ProjectPlan

START_US = parse_time("2026-01-01")
User = hr.Entity("user")


class Profile(hr.Table):
    """Who a user is."""

    user: hr.Field[int] = hr.key(User)
    age_days: hr.Field[int]
    logins: hr.Field[int]
    spent: hr.Field[float]
    mean: hr.Field[float]
    risk: hr.Field[float | None]
    score: hr.Field[float]
    verified: hr.Field[bool]
    at: hr.Field[datetime] = hr.event_time()


class Asked(hr.Event):
    """What is asked."""

    user: hr.Field[int] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


VIEW = hr.FeatureView("asked", request=Asked, features=[Profile])


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rows: int
    checked: int
    reads: int
    events: int
    seed: int
    url: str


@dataclass(frozen=True)
class Made:
    """The rows of one round: column by column, in the order of users."""

    numbers: dict[str, IntArray]
    floats: dict[str, np.ndarray[Any, np.dtype[np.float64]]]
    known: BoolArray
    verified: BoolArray
    at_us: int

    def row(self, user: int) -> dict[str, Any]:
        """The values of a user's row."""
        found: dict[str, Any] = {name: int(values[user]) for name, values in self.numbers.items()}
        found |= {name: float(values[user]) for name, values in self.floats.items()}
        found["risk"] = found["risk"] if self.known[user] else None
        return found | {"verified": bool(self.verified[user])}

    def batch(self, plan: ProjectPlan, users: IntArray) -> TableRows:
        """The rows of some users."""
        n = len(users)
        columns = {name: Column(DType.INT, values[users]) for name, values in self.numbers.items()}
        columns |= {name: Column(DType.FLOAT, values[users]) for name, values in self.floats.items()}
        columns["risk"] = Column(DType.FLOAT, columns["risk"].values, self.known[users])
        columns["verified"] = Column(DType.BOOL, self.verified[users])
        table = plan.tables["profile"]
        at = np.full(n, self.at_us, np.int64)
        return TableRows(
            "profile", table.version, n, [(user,) for user in users.tolist()], at, at, columns, np.zeros(n, np.bool_)
        )


def made(rows: int, at_us: int, random: np.random.Generator) -> Made:
    """Random rows."""
    return Made(
        {name: random.integers(0, 10**6, rows) for name in ("age_days", "logins")},
        {name: random.normal(0.0, 1e3, rows) for name in ("spent", "mean", "risk", "score")},
        random.random(rows) < 0.9,
        random.random(rows) < 0.5,
        at_us,
    )


@contextmanager
def redis_at(options: Options) -> Iterator[str]:
    """The address of a Redis: the given one, or one that lives as long as this."""
    if options.url:
        yield options.url
        return
    with tempfile.TemporaryDirectory(prefix="headrace-redis-") as folder:
        program = shutil.which("redis-server")
        if program is None:
            raise SystemExit("there is no redis-server here: install it, or name one with --url")
        command = [program, "--port", "0", "--unixsocket", f"{folder}/s", "--dir", folder, "--appendonly", "yes"]
        server = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)
        while not Path(folder, "s").exists():
            time.sleep(0.01)
        try:
            yield f"unix://{folder}/s"
        finally:
            server.kill()
            server.wait()


def parts_at(folder: Path, plan: ProjectPlan, address: str, clock_us: int = START_US) -> Parts:
    """The parts of the project with the online store at an address."""
    settings = Settings(folder=folder, env=uuid.uuid4().hex, state=folder, sync=False, online=address)
    return Parts(settings, plan, SimulatedClock(clock_us))


def ingested(parts: Parts, rounds: list[Made], options: Options, random: np.random.Generator) -> list[float]:
    """Seconds that each round took from the feature log into the online store."""
    seconds = []
    parts.features.create(TABLES)
    ingest = parts.ingest()
    clock = parts.clock
    assert isinstance(clock, SimulatedClock)
    for each in rounds:
        clock.advance_to(each.at_us + US_PER_SECOND)
        for users in np.array_split(np.arange(options.rows), 10):
            batch = each.batch(parts.plan, random.permutation(users))
            parts.features.append([Append(TABLES, 0, encode_table_rows(batch), batch.n)])
        began = time.perf_counter()
        while ingest.step():
            pass
        seconds.append(time.perf_counter() - began)
    return seconds


def check(parts: Parts, newest: Made, options: Options, random: np.random.Generator) -> int:
    """Compare what the view answers for random users with what was put in; returns how many values."""
    reader = parts.reader("asked")
    compared = 0
    for user in random.integers(0, options.rows, options.checked).tolist():
        request = {
            "user": Column(DType.INT, np.array([user])),
            "at": Column(DType.TIMESTAMP, np.array([newest.at_us + US_PER_HOUR])),
        }
        found = {name.split("__")[-1]: values[0] for name, values in reader.read(request).to_pydict().items()}
        expected = newest.row(user)
        if repr(sorted(found.items())) != repr(sorted(expected.items())):
            raise SystemExit(f"user {user}: read {found}, put in was {expected}")
        compared += len(expected)
    if parts.online.count() != options.rows:
        raise SystemExit(f"the store has {parts.online.count()} records, not {options.rows}")
    return compared


def rate(rows: int, seconds: list[float]) -> int:
    """Rows per second over all rounds."""
    return round(rows * len(seconds) / sum(seconds))


def read_times(address: str, folder: Path, options: Options) -> dict[str, float]:
    """Requests of the view of `bench/online.py`, one at a time, over the store at an address."""
    random = np.random.default_rng(options.seed)
    plan = compile_project([*reads.GROUPS, reads.Payment, reads.Asked, reads.VIEW])
    parts = parts_at(folder, plan, address, reads.END_US)
    asked = reads.Options(
        entities=100_000, events=options.events, reads=options.reads, checked=min(options.checked, 200), connections=0,
        seconds=0.0, seed=options.seed,
    )  # fmt: skip
    filled = reads.fill(parts, asked, random)
    requests = reads.requests_of(asked, int(filled.times[-1]), parts.horizon_us, options.reads, random)
    figures, _ = reads.in_process(parts, filled, requests, asked)
    parts.close()
    return figures


def measure(options: Options, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    random = np.random.default_rng(options.seed)
    plan = compile_project([Profile, Asked, VIEW])
    rounds = [made(options.rows, START_US + hours * US_PER_HOUR, random) for hours in (1, 2)]
    seconds: dict[str, list[float]] = {}
    checked = 0
    few = replace(options, rows=1_000)
    with redis_at(options) as address:
        for name, where in (("embedded", "embedded"), ("redis", address)):
            # The first rows compile the kernels, or load them.
            warm = parts_at(folder / f"warm-{name}", plan, where)
            ingested(warm, [made(1_000, START_US + US_PER_HOUR, random)] * 2, few, random)
            warm.close()
            parts = parts_at(folder / name, plan, where)
            seconds[name] = ingested(parts, rounds, options, random)
            checked += check(parts, rounds[-1], options, random)
            parts.close()
        one = read_times(address, folder / "reads", options)
    return {
        "bench": "materialize",
        "params": {"rows": options.rows, "features": 7, "reads": options.reads, "seed": options.seed},
        "figures": {
            "embedded_rows_per_s": rate(options.rows, seconds["embedded"]),
            "redis_rows_per_s": rate(options.rows, seconds["redis"]),
            "embedded_new_rows_per_s": rate(options.rows, seconds["embedded"][:1]),
            "redis_new_rows_per_s": rate(options.rows, seconds["redis"][:1]),
            "redis_one_p50_us": one["one_p50_us"],
            "redis_one_p99_us": one["one_p99_us"],
            "redis_hundred_p50_us": one["hundred_p50_us"],
        },
        "checked": {"requests": 2 * options.checked, "values": checked, "differing": 0},
        "peers": {},
        "versions": versions("numpy", "numba", "lmdb", "redis", "hiredis"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="entities; each gets two rows")
    parser.add_argument("--checked", type=int, default=1_000, help="answers of each store that are compared")
    parser.add_argument("--reads", type=int, default=20_000, help="requests over Redis that are timed")
    parser.add_argument("--events", type=int, default=200_000, help="that fill the store for these requests")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--url", default="", help="a running Redis, such as redis://127.0.0.1:6379/0")
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
