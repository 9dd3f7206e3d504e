"""How fast windows are computed at any point in time: from a Parquet file of events to the values at given rows.

The last line is one JSON object. Events are shuffled and belong to entities with string keys whose frequencies follow
Zipf's law; rows are entities by the same law at random times. Per row: count, sum and max of a float column over
10 min, 1 h, 1 day and 7 days. `seconds` is the median of calls in a warm process, with the file in the page cache, and
includes reading it; `cpu_seconds` is the processor time of such a call, which tells whether the machine had
other work; `cold_seconds` is the first call of a fresh process (kernels come from their cache on disk, imports
are not counted); `peak_rss_mb` is the highest memory of that process over all its calls. Some of the answers are
compared with the oracle, bit for bit; one that differs ends the run. Peers compute the same windows from the same file,
each in a process of its own; counts and maxima must be equal and sums within 1e-9, since theirs are not exact.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import headrace as hr
from harness import in_process_of_its_own, peak_mb, versions
from headrace.core.columns import Column
from headrace.core.schema import DType
from headrace.core.time import US_PER_DAY, parse_time
from headrace.features.compile import compile_project
from headrace.retrieval.history import HistoryReader
from headrace.retrieval.past import GivenEvents
from headrace.retrieval.rows import FeatureBlock
from headrace.testing.oracle import RawEvent, judge
from headrace.testing.oracle.view import view_row

START_US = parse_time("2025-01-01")
SPAN_US = 30 * US_PER_DAY
WINDOWS_US = {"10m": 600_000_000, "1h": 3_600_000_000, "1d": US_PER_DAY, "7d": 7 * US_PER_DAY}
# Default hops: exact up to an hour, 5 minutes up to a day, an hour up to 30 days.
HOPS_US = {"10m": 1, "1h": 1, "1d": 300_000_000, "7d": 3_600_000_000}
FLOATS_AGREE = 1e-9
User = hr.Entity("user")


class Payment(hr.Event):
    """What is counted."""

    user: hr.Field[str] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()
    amount: hr.Field[float] = hr.field("in euros")


class Asked(hr.Event):
    """What is asked."""

    user: hr.Field[str] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


class ByUser(hr.FeatureGroup, key=Payment.user):
    n = hr.count(window=list(WINDOWS_US))
    total = hr.sum(Payment.amount, window=list(WINDOWS_US))
    most = hr.max(Payment.amount, window=list(WINDOWS_US))


VIEW = hr.FeatureView("asked", request=Asked, features=[ByUser])


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rows: int
    events: int
    entities: int
    checked: int
    repeats: int
    peers: bool
    seed: int


@dataclass(frozen=True)
class Answers:
    """Per row and window: counts int64, sums and maxima float64 (NaN: null), each [rows, 4]."""

    counts: np.ndarray[Any, Any]
    sums: np.ndarray[Any, Any]
    maxima: np.ndarray[Any, Any]


def make(folder: Path, options: Options) -> None:
    """Write the events and the rows."""
    random = np.random.default_rng(options.seed)
    weights = 1 / np.arange(1, options.entities + 1)
    shares = np.cumsum(weights) / weights.sum()
    names = pa.array([f"user-{user:07d}" for user in random.permutation(options.entities)])
    for name, n in (("events", options.events), ("rows", options.rows)):
        columns = {
            "user": names.take(pa.array(np.searchsorted(shares, random.random(n)))),
            "at": pa.array(START_US + random.integers(0, SPAN_US, n), pa.timestamp("us", "UTC")),
        }
        if name == "events":
            columns["amount"] = pa.array(random.exponential(60.0, n))
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def request_of(folder: Path) -> dict[str, Column]:
    """The rows, as a caller has them."""
    rows = pq.read_table(folder / "rows.parquet")
    return {
        "user": Column(DType.STRING, np.asarray(rows["user"].to_numpy(), np.object_)),
        "at": Column(DType.TIMESTAMP, np.array(rows["at"].cast(pa.int64()).to_numpy())),
    }


def headrace_windows(folder: Path, request: dict[str, Column]) -> FeatureBlock:
    """From the file to the values: what is timed."""
    plan = compile_project([ByUser, Payment, Asked, VIEW])
    events = pq.read_table(folder / "events.parquet", read_dictionary=["user"])
    return HistoryReader(plan.views["asked"], plan, GivenEvents(plan, {"payment": events})).read(request)


def check(folder: Path, request: dict[str, Column], block: FeatureBlock, options: Options) -> dict[str, int]:
    """Compare some of the answers with the oracle, bit for bit.

    Rows are of random entities, one each, and one is of a very frequent entity: the oracle is too slow for more.
    """
    plan = compile_project([ByUser, Payment, Asked, VIEW])
    view = plan.views["asked"]
    names, times = request["user"].values, request["at"].values
    random = np.random.default_rng(options.seed)
    shuffled = random.permutation(len(times))
    _, first, frequency = np.unique(names[shuffled].astype(str), return_index=True, return_counts=True)
    frequent = first[np.argsort(-frequency)[min(9, len(first) - 1)]]
    others = random.permutation(first[first != frequent])[: options.checked - 1]
    sampled = shuffled[np.append(others, frequent)]
    events = pq.read_table(folder / "events.parquet")
    users = events["user"].combine_chunks().dictionary_encode()
    at, amounts = events["at"].cast(pa.int64()).to_numpy(), events["amount"].to_numpy()
    codes = {name: code for code, name in enumerate(users.dictionary.to_pylist())}
    order = np.argsort(users.indices.to_numpy(), kind="stable")
    sorted_codes = users.indices.to_numpy()[order]
    reach = max(WINDOWS_US.values()) + max(HOPS_US.values())
    compared = most = 0
    for row in sampled.tolist():
        asked = {"user": names[row], "at": int(times[row])}
        code = codes.get(asked["user"], -1)
        mine = order[np.searchsorted(sorted_codes, code) : np.searchsorted(sorted_codes, code, "right")]
        # The oracle is slow, so it gets what can matter: no window reaches further back, and t itself is outside.
        near = mine[(at[mine] >= asked["at"] - reach) & (at[mine] <= asked["at"])].tolist()
        most = max(most, len(near))
        raw = [
            RawEvent(0, i, int(at[i]), {"user": asked["user"], "at": int(at[i]), "amount": float(amounts[i])})
            for i in near
        ]
        judged = judge(plan.streams["payment"], raw)
        expected = view_row(plan, view, asked, asked["at"], {"payment": judged}, {})
        found = {name: column.to_pylist()[0] for name, column in one_row(block, row).items()}
        if repr(found) != repr(expected):
            raise SystemExit(f"row {asked}: read {found}, the oracle says {expected}")
        compared += len(expected)
    return {"rows": len(sampled), "values": compared, "most_events_of_a_row": most, "differing": 0}


def one_row(block: FeatureBlock, row: int) -> dict[str, Column]:
    """The values of one row."""
    part = FeatureBlock(block.names, block.dtypes, block.words[row : row + 1], block.valid[row : row + 1])
    return {name: part.column(name) for name in block.names}


def answers_of(block: FeatureBlock) -> Answers:
    """The block's columns, in the order of the windows."""

    prefix = block.names[0][: block.names[0].index("n_")]

    def floats(kind: str) -> np.ndarray[Any, Any]:
        at = [block.names.index(f"{prefix}{kind}_{window}") for window in WINDOWS_US]
        return np.where(block.valid[:, at], block.words[:, at].view(np.float64), np.nan)

    counts = [block.names.index(f"{prefix}n_{window}") for window in WINDOWS_US]
    return Answers(block.words[:, counts], floats("total"), floats("most"))


def duckdb_windows(folder: Path) -> Answers:
    """DuckDB: rows and events in one relation, frames by range; events at t itself are kept out by one microsecond."""
    import duckdb

    frames, columns = [], []
    for name, length in WINDOWS_US.items():
        hop = HOPS_US[name]
        # A frame's edge may depend on the row: from lo = floor(t - length, hop) up to t - 1.
        frame = (
            f"(PARTITION BY user ORDER BY t RANGE BETWEEN {length} + (t - {length}) % {hop} PRECEDING AND 1 PRECEDING)"
        )
        frames.append(f"w{name} AS {frame}")
        columns.append(f"count(amount) OVER w{name} n{name}, sum(amount) OVER w{name} s{name}")
        columns.append(f"max(amount) OVER w{name} m{name}")
    values = ", ".join(f"{kind}{name}" for kind in "nsm" for name in WINDOWS_US)
    query = f"""
        WITH all_of_them AS (
            SELECT user, epoch_us("at") t, amount, NULL::BIGINT id FROM '{folder}/events.parquet'
            UNION ALL
            SELECT user, epoch_us("at") t, NULL, file_row_number FROM
                read_parquet('{folder}/rows.parquet', file_row_number = true)
        )
        SELECT {values}, id FROM (SELECT id, {", ".join(columns)} FROM all_of_them WINDOW {", ".join(frames)})
        WHERE id IS NOT NULL
    """
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.execute(query).fetchnumpy()
    order = np.argsort(np.asarray(found["id"]))

    def of(kind: str) -> np.ndarray[Any, Any]:
        columns = [np.ma.filled(np.ma.asarray(found[f"{kind}{name}"], np.float64), np.nan) for name in WINDOWS_US]
        return np.stack(columns, axis=1)[order]

    return Answers(of("n").astype(np.int64), of("s"), of("m"))


def polars_windows(folder: Path) -> Answers:
    """Polars: rows beside the events, rolling by each window over the entity.

    `rolling` has no hops, so the long windows begin where they would without one; they are timed but not compared.
    """
    import polars as pl

    events = pl.scan_parquet(folder / "events.parquet").with_columns(id=pl.lit(None, pl.Int64))
    rows = (
        pl.scan_parquet(folder / "rows.parquet")
        .with_row_index("id")
        .with_columns(pl.col("id").cast(pl.Int64), amount=pl.lit(None, pl.Float64))
    )
    both = pl.concat([events, rows.select("user", "at", "amount", "id")]).sort("user", "at").collect()
    found: dict[str, list[np.ndarray[Any, Any]]] = {"n": [], "s": [], "m": []}
    for length in WINDOWS_US.values():
        rolled = both.rolling("at", period=f"{length}us", closed="left", group_by="user").agg(
            pl.col("amount").count().alias("n"), pl.col("amount").sum().alias("s"), pl.col("amount").max().alias("m")
        )
        asked = rolled.with_columns(both["id"]).filter(pl.col("id").is_not_null()).sort("id")
        counts = asked["n"].cast(pl.Int64).to_numpy()
        found["n"].append(counts)
        found["s"].append(np.where(counts > 0, asked["s"].to_numpy(), np.nan))
        found["m"].append(asked["m"].cast(pl.Float64).fill_null(float("nan")).to_numpy())
    return Answers(*(np.stack(found[kind], axis=1) for kind in "nsm"))


PEERS: dict[str, tuple[Callable[[Path], Answers], tuple[str, ...]]] = {
    "duckdb": (duckdb_windows, tuple(WINDOWS_US)),
    "polars": (polars_windows, tuple(name for name, hop in HOPS_US.items() if hop == 1)),
}


def run_headrace(folder: Path, options: Options, pipe: Connection) -> None:
    """Measure in a fresh process; sends figures, then what was checked."""
    request = request_of(folder)
    spent, busy = [], []
    for _ in range(options.repeats + 1):
        began, worked = time.perf_counter(), time.process_time()
        block = headrace_windows(folder, request)
        spent.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
    figures = {
        "seconds": round(statistics.median(spent[1:]), 2),
        "cpu_seconds": round(statistics.median(busy[1:]), 2),
        "cold_seconds": round(spent[0], 2),
        "peak_rss_mb": peak_mb(),
    }
    answers = answers_of(block)
    np.savez(folder / "answers.npz", counts=answers.counts, sums=answers.sums, maxima=answers.maxima)
    pipe.send((figures, check(folder, request, block, options)))


def run_peer(name: str, folder: Path, pipe: Connection) -> None:
    """Measure a peer in a fresh process; sends its figures."""
    windows, comparable = PEERS[name]
    began, worked = time.perf_counter(), time.process_time()
    found = windows(folder)
    figures: dict[str, Any] = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - worked, 2),
        "peak_rss_mb": peak_mb(),
    }
    ours = np.load(folder / "answers.npz")
    at = [list(WINDOWS_US).index(window) for window in comparable]
    same = np.array_equal(found.counts[:, at], ours["counts"][:, at])
    same &= np.array_equal(found.maxima[:, at], ours["maxima"][:, at], equal_nan=True)
    same &= np.allclose(found.sums[:, at], ours["sums"][:, at], rtol=FLOATS_AGREE, atol=1e-6, equal_nan=True)
    pipe.send(figures | {"windows_compared": list(comparable), "equal": bool(same)})


def peers_of(folder: Path, options: Options) -> dict[str, object]:
    """Figures of the peers that are installed; why not, for the others."""
    found: dict[str, object] = {}
    for name in PEERS if options.peers else ():
        try:
            version(name)
        except PackageNotFoundError:
            found[name] = {"skipped": "not installed"}
            continue
        figures = in_process_of_its_own(run_peer, name, folder)
        if not figures["equal"]:
            raise SystemExit(f"{name} computed other windows: {figures}")
        found[name] = figures
    return found


def measure(options: Options, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    make(folder, options)
    figures, checked = in_process_of_its_own(run_headrace, folder, options)
    peers = peers_of(folder, options)
    return {
        "bench": "windows",
        "params": {
            "rows": options.rows,
            "events": options.events,
            "entities": options.entities,
            "windows": list(WINDOWS_US),
            "repeats": options.repeats,
            "seed": options.seed,
        },
        "figures": figures,
        "checked": checked,
        "peers": peers,
        "versions": versions("numpy", "numba", "pyarrow", "duckdb"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--checked", type=int, default=1_000, help="answers that are compared with the oracle")
    parser.add_argument("--repeats", type=int, default=3, help="calls in a warm process")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure Headrace alone")
    parser.add_argument("--seed", type=int, default=7)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
