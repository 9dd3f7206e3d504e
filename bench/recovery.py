"""How long a lost online store takes to be made anew from archive and log by `headrace rebuild online`.

The last line is one JSON object. A table of 20 floats has a row for each of `--keys` users, archived; a windowed group
has a record for each of a tenth as many, from `--events` events of which the newest tenth is in the log alone. The
store is deleted, made anew by the command in a process of its own, durable at the end, and compared with the former one
record by record; one byte that differs ends the run. `seconds` is the whole command, its start included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from harness import versions
from headrace.app.project import Project
from headrace.app.schedules import project_scheduler
from headrace.core.columns import Column
from headrace.core.events import EventBlock, encode_block
from headrace.core.schema import DType
from headrace.eventlog.base import Append

FEATURES = tuple(f"x{i:02}" for i in range(20))
STEP = 50_000
DEFINITIONS = '''
from datetime import datetime

import headrace as hr

User = hr.Entity("user")


class Payment(hr.Event):
    """What is counted."""

    user: hr.Field[int] = hr.key(User)
    amount: hr.Field[float] = hr.field("in euros")
    at: hr.Field[datetime] = hr.event_time()


class Spend(hr.FeatureGroup, key=Payment.user):
    """What a user pays."""

    n = hr.count(window=["1h", "7d"])
    total = hr.sum(Payment.amount, window=["1h", "7d"])
    ever = hr.mean(Payment.amount)


class Profile(hr.Table, source=hr.SQL("select * from users"), schedule="@daily"):
    """Figures of a user."""

    user: hr.Field[int] = hr.key(User)
'''


@dataclass(frozen=True)
class Options:
    """What to measure."""

    keys: int
    events: int
    seed: int


def write_project(folder: Path, options: Options) -> None:
    """Definitions, and what the query reads, in random order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = "".join(f"    {name}: hr.Field[float]\n" for name in FEATURES)
    (folder / "features.py").write_text(DEFINITIONS + fields)
    (folder / "headrace.toml").write_text('sync = false\n[sources]\nusers = "users.parquet"\n')
    random = np.random.default_rng(options.seed)
    users = random.permutation(options.keys)
    pq.write_table(pa.table({"user": users, **{name: random.random(options.keys) for name in FEATURES}}),
                   folder / "users.parquet", row_group_size=500_000)  # fmt: skip


def fill(folder: Path, options: Options) -> None:
    """Bring all of it into both stores, as the layers would."""
    random = np.random.default_rng([options.seed, 1])
    with Project.open(folder) as project:
        project.apply()
        parts = project.parts
        scheduler, _ = project_scheduler(parts)
        scheduler.run_now("batch profile", parts.clock.now_us())
        parts.raw.create("payment", 1)
        compute, ingest, archive = parts.compute(), parts.ingest(), parts.archive()
        begin_us = parts.clock.now_us() - options.events * 1_000
        for start in range(0, options.events, STEP):
            n = min(STEP, options.events - start)
            columns = {
                "user": Column(DType.INT, random.integers(0, max(options.keys // 10, 1), n)),
                "amount": Column(DType.FLOAT, random.random(n)),
                "at": Column(DType.TIMESTAMP, begin_us + np.arange(start, start + n) * 1_000),
            }
            parts.raw.append([Append("payment", 0, encode_block(EventBlock(n, columns)), n)])
            while compute.step():
                pass
            if start <= options.events * 9 // 10:
                while archive.step():
                    pass
        while ingest.step():
            pass
        parts.online.sync()


def contents(folder: Path) -> tuple[int, str]:
    """How many records there are, and a digest of keys and records; without how far groups are."""
    digest, n = hashlib.blake2b(), 0
    with Project.open(folder) as project:
        for key, record in project.parts.online.scan():
            if not key.startswith(b"\xff\xff"):
                digest.update(key)
                digest.update(record)
                n += 1
        digest.update(project.parts.online.position())
    return n, digest.hexdigest()


def measure(options: Options, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    write_project(folder, options)
    fill(folder, options)
    before = contents(folder)
    shutil.rmtree(folder / ".headrace" / "online")
    began = time.perf_counter()
    command = [sys.executable, "-m", "headrace", "--project", str(folder), "rebuild", "online", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if contents(folder) != before:
        raise SystemExit(f"the store made anew differs from the lost one, which had {before[0]} records")
    return {
        "bench": "recovery",
        "params": {**asdict(options), "features": len(FEATURES)},
        "figures": {
            "seconds": round(seconds, 2),
            "records_per_s": round(before[0] / seconds),
            "seconds_inside": round(json.loads(done.stdout)["seconds"], 2),
        },
        "checked": {"records": before[0], "differing": 0},
        "peers": {},
        "versions": versions("numpy", "numba", "lmdb", "deltalake"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=2_000_000, help="rows of the table")
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the windowed group")
    parser.add_argument("--seed", type=int, default=7)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
