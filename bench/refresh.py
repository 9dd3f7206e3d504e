"""How fast the hourly refresh of a table goes into both stores: most rows of its query are as they were.

The last line is one JSON object. A table has 20 floats for each of `--users` users, in Parquet, in random order. An
earlier run is in both stores when the clock starts. A hundredth of the users is active, and 80 % of these have changed
since; of the others 5 % have. What is timed is the refresh with the settings of production: the query, what is new in
it, the feature log, the online and the offline store, until both are durable. `written_share` is the share of rows that
were written, `peak_rss_mb` the most memory of the process that did it (the pages of the online store that it maps are
counted, too). `cpu_s` are the seconds of both cores that it took, whatever else ran.

Then `--ceiling-users` users are refreshed under a ceiling of `--ceiling` writes a second: `ceiling_writes_per_s` over
the time that writing took should be the ceiling. `first_load_s` is the run that filled the empty stores. Some answers
of the online store and of history are compared with what the last Parquet held, to the bit; one that differs ends the
run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import headrace as hr
from harness import peak_mb, versions
from headrace.app.clock import SystemClock
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.core.columns import Column
from headrace.core.schema import DType
from headrace.features.compile import compile_project
from headrace.ingestion.ceiling import WriteCeiling
from headrace.ingestion.materialize import GROUPS, ROWS
from headrace.retrieval.history import HistoryReader

FEATURES = tuple(f"x{i:02}" for i in range(20))
ACTIVE, ACTIVE_CHANGED, INACTIVE_CHANGED = 0.01, 0.8, 0.05
ROW_GROUP = 500_000
User = hr.Entity("user")


class Profile(
    hr.Table,
    source=hr.SQL("select * from users"),
    schedule="@hourly",
):
    """Twenty figures of a user."""

    user: hr.Field[int] = hr.key(User)
    x00: hr.Field[float]
    x01: hr.Field[float]
    x02: hr.Field[float]
    x03: hr.Field[float]
    x04: hr.Field[float]
    x05: hr.Field[float]
    x06: hr.Field[float]
    x07: hr.Field[float]
    x08: hr.Field[float]
    x09: hr.Field[float]
    x10: hr.Field[float]
    x11: hr.Field[float]
    x12: hr.Field[float]
    x13: hr.Field[float]
    x14: hr.Field[float]
    x15: hr.Field[float]
    x16: hr.Field[float]
    x17: hr.Field[float]
    x18: hr.Field[float]
    x19: hr.Field[float]


class Asked(hr.Event):
    """What is asked."""

    user: hr.Field[int] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


VIEW = hr.FeatureView("asked", request=Asked, features=[Profile])
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Options:
    """What to measure."""

    users: int
    ceiling: int
    ceiling_users: int
    checked: int
    seed: int


def mixed(words: Words) -> Words:
    """Words that look random and can be made again (the finaliser of SplitMix64, Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def changed(users: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    """Which users have changed by the second hour."""
    luck = mixed(users.astype(np.uint64) + np.uint64(seed * 7_919 + 1)).astype(np.float64) / 2.0**64
    active = mixed(users.astype(np.uint64) ^ np.uint64(seed + 99)).astype(np.float64) / 2.0**64 < ACTIVE
    return luck < np.where(active, ACTIVE_CHANGED, INACTIVE_CHANGED)


def values(users: npt.NDArray[np.int64], feature: int, hour: int, seed: int) -> npt.NDArray[np.float64]:
    """A feature of users at an hour; of those who have not changed it is that of the hour before."""
    since = np.where(changed(users, seed), hour, 0).astype(np.uint64)
    words = mixed((users.astype(np.uint64) * np.uint64(64) + np.uint64(feature)) * np.uint64(8) + since)
    return words.astype(np.float64) / 2.0**53


def write_source(path: Path, options: Options, users: int, hour: int) -> None:
    """What the query reads at an hour, in an order of its own."""
    order = np.random.default_rng([options.seed, hour]).permutation(users)
    schema = pa.schema([("user", pa.int64()), *[(name, pa.float64()) for name in FEATURES]])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as out:
        for start in range(0, users, ROW_GROUP):
            some = order[start : start + ROW_GROUP]
            columns = {name: values(some, i, hour, options.seed) for i, name in enumerate(FEATURES)}
            out.write_table(pa.table({"user": some, **columns}, schema))


def parts_in(folder: Path) -> Parts:
    """The parts of the project, with the settings that it has in production."""
    plan = compile_project([Profile, VIEW, Asked])
    return Parts(Settings(folder=folder, state=folder / "state"), plan, SystemClock())


def refresh(folder: str, hour: int, ceiling: int = 0) -> dict[str, float]:
    """One run of the table's query into both stores, in a process of its own."""
    parts = parts_in(Path(folder))
    runner = parts.batch({"users": str(Path(folder) / f"users-{hour}.parquet")})
    began, worked = time.perf_counter(), time.process_time()
    report = runner.run(parts.plan.tables["profile"])
    appended = time.perf_counter()

    def archive() -> None:
        worker = parts.archive()
        while worker.step():
            pass

    archiving = threading.Thread(target=archive)
    archiving.start()
    limit = WriteCeiling(ceiling, parts.clock, (GROUPS, ROWS)) if ceiling else None
    ingest = parts.ingest(limit)
    writing = time.perf_counter()
    while ingest.step() or ingest.held_back:
        if ingest.held_back:
            time.sleep(0.001)
    parts.online.sync()
    written = time.perf_counter()
    archiving.join()
    ended = time.perf_counter()
    parts.close()
    return {
        "seconds": ended - began,
        "cpu_s": time.process_time() - worked,
        "run_s": appended - began,
        "online_s": written - writing,
        "rows": report.rows,
        "appended": report.appended,
        "throttled_s": 0.0 if limit is None else limit.throttled_us / 1e6,
        "rss_mb": peak_mb(),
    }


def check(folder: str, options: Options, users: int, hour: int) -> dict[str, int]:
    """Compare answers of both stores with what the query held; half of them of users that have changed."""
    parts = parts_in(Path(folder))
    random = np.random.default_rng([options.seed, 5])
    some = random.integers(0, users, 50 * options.checked)
    both = [some[changed(some, options.seed)], some[~changed(some, options.seed)]]
    asked = np.concatenate([part[: options.checked // 2] for part in both])
    request = {
        "user": Column(DType.INT, asked),
        "at": Column(DType.TIMESTAMP, np.full(len(asked), parts.clock.now_us(), np.int64)),
    }
    online = parts.reader("asked").read(request)
    past = HistoryReader(parts.plan.views["asked"], parts.plan, parts.past).read(request)
    compared = 0
    for index, name in enumerate(FEATURES):
        wanted = values(asked, index, hour, options.seed)
        for block in (online, past):
            column = block.column(f"profile__{name}")
            if not (column.mask().all() and np.array_equal(column.values.view(np.int64), wanted.view(np.int64))):
                raise SystemExit(f"{name} differs from what the query held")
            compared += len(asked)
    parts.close()
    return {"requests": len(asked), "values": compared, "differing": 0}


def in_a_process(function: Any, *arguments: Any) -> Any:
    """What a function returns that has a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(options: Options, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    small = folder / "small"
    for place, users in ((small, min(options.ceiling_users, options.users)), (folder, options.users)):
        place.mkdir(exist_ok=True)
        for hour in (0, 1):
            write_source(place / f"users-{hour}.parquet", options, users, hour)
    in_a_process(refresh, str(small), 0)
    held = in_a_process(refresh, str(small), 1, options.ceiling)
    first = in_a_process(refresh, str(folder), 0)
    hourly = in_a_process(refresh, str(folder), 1)
    checked = in_a_process(check, str(folder), options, options.users, 1)
    return {
        "bench": "refresh",
        "params": {**asdict(options), "features": len(FEATURES)},
        "figures": {
            "users_per_s": round(hourly["rows"] / hourly["seconds"]),
            "written_share": round(hourly["appended"] / hourly["rows"], 4),
            "peak_rss_mb": round(hourly["rss_mb"]),
            "seconds": round(hourly["seconds"], 2),
            "cpu_s": round(hourly["cpu_s"], 2),
            "run_s": round(hourly["run_s"], 2),
            "online_s": round(hourly["online_s"], 2),
            "ceiling_writes_per_s": round(held["appended"] / held["online_s"]),
            "ceiling_throttled_share": round(held["throttled_s"] / held["online_s"], 3),
            "first_load_s": round(first["seconds"], 1),
            "first_load_rss_mb": round(first["rss_mb"]),
        },
        "checked": checked,
        "peers": {},
        "versions": versions("numpy", "numba", "lmdb", "duckdb", "deltalake"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=3_000_000, help="rows of the table")
    parser.add_argument("--ceiling", type=int, default=10_000, help="writes per second of the throttled refresh")
    parser.add_argument("--ceiling-users", type=int, default=1_000_000, help="rows of the throttled refresh")
    parser.add_argument("--checked", type=int, default=1_000, help="requests whose answers are compared")
    parser.add_argument("--seed", type=int, default=7)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
