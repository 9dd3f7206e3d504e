"""How fast real events go through the durable log: encoded, appended with sync, tailed and decoded elsewhere.

The last line is one JSON object. Rows are events of six fields in blocks of 1,000, one block per append; each append
is on the disk before the next begins. The tail is a second process that decodes every block while the first one still
writes; its rate is rows over the time from its first row to its last. `flat_file` is the same payloads written to a
plain file with fdatasync after each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from harness import versions
from headrace.core.columns import Column
from headrace.core.events import EventBlock, decode_block, encode_block
from headrace.core.schema import DType, Field, Schema
from headrace.eventlog.base import Append
from headrace.eventlog.lmdb import LmdbEventLog

SCHEMA = Schema(
    "payment",
    (
        Field("payment_id", DType.INT),
        Field("user", DType.STRING),
        Field("merchant", DType.STRING),
        Field("amount", DType.FLOAT),
        Field("delay", DType.FLOAT, nullable=True),
        Field("at", DType.TIMESTAMP),
    ),
    time_field="at",
    id_field="payment_id",
)
TOPIC = "payment"


class WallClock:
    """The machine's clock: this is a measurement, not a replay."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000


def blocks(rows: int, batch: int, seed: int) -> list[EventBlock]:
    """Random events in blocks of `batch` rows; one delay in ten is null."""
    random = np.random.default_rng(seed)
    made = []
    for start in range(0, rows, batch):
        n = min(batch, rows - start)
        users = np.array([f"user-{user:07d}" for user in random.zipf(1.2, n) % 10_000_000], np.object_)
        columns = {
            "payment_id": Column(DType.INT, np.arange(start, start + n)),
            "user": Column(DType.STRING, users),
            "merchant": Column(
                DType.STRING, np.array([f"shop-{shop:05d}" for shop in random.zipf(1.5, n) % 99_999], np.object_)
            ),
            "amount": Column(DType.FLOAT, random.exponential(40.0, n)),
            "delay": Column(DType.FLOAT, random.normal(5.0, 30.0, n), random.random(n) > 0.1),
            "at": Column(DType.TIMESTAMP, 1_700_000_000_000_000 + np.arange(start, start + n) * 137),
        }
        made.append(EventBlock(n, columns))
    return made


def append_all(log: LmdbEventLog, made: list[EventBlock]) -> float:
    """Encode and append every block; returns seconds."""
    began = time.perf_counter()
    for block in made:
        log.append([Append(TOPIC, 0, encode_block(block), block.n)])
    return time.perf_counter() - began


def tail(folder: str, rows: int, pipe: Connection) -> None:
    """Read and decode until `rows` rows were seen; sends rows per second and a checksum of the amounts."""
    log = LmdbEventLog(folder, WallClock())
    pipe.send("ready")
    offset, total, began = 0, 0.0, 0.0
    while offset < rows:
        batches = log.read(TOPIC, 0, offset)
        if not batches:
            time.sleep(0.000_2)
        for batch in batches:
            began = began or time.perf_counter()
            total += float(decode_block(batch.payload, SCHEMA).columns["amount"].values.sum())
            offset = batch.end
    pipe.send((rows / (time.perf_counter() - began), total))


def flat_file(path: Path, payloads: list[bytes]) -> float:
    """Write every payload with fdatasync; returns seconds."""
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for payload in payloads:
            file.write(payload)
            os.fdatasync(file.fileno())
    return time.perf_counter() - began


def measure(rows: int, batch: int, seed: int, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    made = blocks(rows, batch, seed)
    payloads = [encode_block(block) for block in made]
    flat = rows / flat_file(folder / "flat", payloads)

    alone = LmdbEventLog(folder / "alone", WallClock())
    alone.create(TOPIC)
    appended = rows / append_all(alone, made)
    alone.close()

    shared = LmdbEventLog(folder / "shared", WallClock())
    shared.create(TOPIC)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    reader = spawn.Process(target=tail, args=(str(folder / "shared"), rows, there))
    reader.start()
    here.recv()
    beside = rows / append_all(shared, made)
    tailed, total = here.recv()
    reader.join()
    shared.close()
    expected = sum(float(block.columns["amount"].values.sum()) for block in made)
    if abs(total - expected) > 1e-6 * expected:
        raise SystemExit(f"the tail read amounts of {total}, {expected} were appended")
    return {
        "bench": "log",
        "params": {
            "rows": rows,
            "batch": batch,
            "seed": seed,
            "bytes_per_row": round(sum(map(len, payloads)) / rows, 1),
        },
        "figures": {
            "append_synced_rows_per_s": round(appended),
            "append_synced_rows_per_s_while_tailed": round(beside),
            "tail_rows_per_s": round(tailed),
        },
        "peers": {"flat_file": {"append_synced_rows_per_s": round(flat)}},
        "versions": versions("lmdb", "numpy"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dir", default=None, help="folder on the disk to measure (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="headrace-bench-") as folder:
        print(json.dumps(measure(arguments.rows, arguments.batch, arguments.seed, Path(folder))))


if __name__ == "__main__":
    main()
