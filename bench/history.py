"""How fast a training set is joined: the rows of a caller with eight tables of features, each as of the row's own time.

The last line is one JSON object. The caller has entities (string keys, by Zipf's law) at random times of 30 days, with
two columns of their own beside them; each of the eight tables has as many rows of such entities, 55 features in all,
some null, and a time to live of 7 days. The tables lie in the offline store as ingestion archives them. `seconds` is
the median of `project.history([...], rows).to_arrow()` in a warm process, with the files in the page cache;
`cpu_seconds` is the processor time of such a call over all cores, which tells whether the machine had other work;
`cold_seconds` is the first call of a fresh process (kernels come from their cache on disk, imports are not counted);
`peak_rss_mb` is the highest memory of that process over all its calls. In the same run some of the answers are compared
with the oracle bit for bit, and all of the caller's columns with what came back; one that differs ends the run. Peers
join the same rows from Parquet files, each in a process of its own, and must give equal values. Feast runs in an
environment of its own, which `bench/peers/setup.sh` makes; without it Feast is left out. It is stopped when it takes
too long or fills the disk, as it does where some entities are very frequent; `--law uniform` gives it a fair chance.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq

import headrace as hr
from harness import in_process_of_its_own, peak_mb, versions
from headrace.core.time import US_PER_DAY, parse_time
from headrace.features.compile import compile_project
from headrace.features.plan import ProjectPlan
from headrace.retrieval.past import AVAILABLE, DELETED, EVENT_TIME, ORDER, WRITER, rows_table
from headrace.testing.oracle import TableRow, latest

START_US = parse_time("2025-01-01")
SPAN_US = 30 * US_PER_DAY
TTL_DAYS = 7
GROUPS = 8
FEATURES = 55
NULL_SHARE = 0.02
# What a peer may take before it is stopped.
MOST_SPILLED_MB = 20_000
MOST_MEMORY_MB = 10_000
FEAST = Path(__file__).parent / "peers" / ".venvs" / "feast" / "bin" / "python"
User = hr.Entity("user")
KINDS: tuple[type, ...] = (float, int, bool)


def group(index: int) -> type[hr.Table]:
    """A table with its share of the features: floats, ints and bools in turn."""

    def fill(body: dict[str, Any]) -> None:
        names = {f"f{i}": KINDS[i % 3] for i in range(index * FEATURES // GROUPS, (index + 1) * FEATURES // GROUPS)}
        hints: dict[str, Any] = {name: hr.Field[kind | None] for name, kind in names.items()}  # type: ignore[valid-type]
        body["__module__"] = __name__
        body["__annotations__"] = {"user": hr.Field[str], "at": hr.Field[datetime]} | hints
        body |= {"user": hr.key(User), "at": hr.event_time()}

    return types.new_class(f"Group{index}", (hr.Table,), {"ttl": f"{TTL_DAYS}d"}, fill)


TABLES = [group(index) for index in range(GROUPS)]


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rows: int
    entities: int
    checked: int
    repeats: int
    peers: bool
    law: str
    limit: float
    seed: int


def plan_of_tables() -> ProjectPlan:
    """The tables, resolved."""
    return compile_project(TABLES)


def make(folder: Path, options: Options) -> None:
    """Write the caller's rows, and the tables: as Parquet for the peers, and as a project's archive."""
    random = np.random.default_rng(options.seed)
    weights = 1 / np.arange(1, options.entities + 1) if options.law == "zipf" else np.ones(options.entities)
    shares = np.cumsum(weights) / weights.sum()
    names = pa.array([f"user-{user:07d}" for user in random.permutation(options.entities)])
    n = options.rows

    def keys_and_times() -> dict[str, pa.Array]:
        users = names.take(pa.array(np.searchsorted(shares, random.random(n))))
        return {"user": users, "at": pa.array(START_US + random.integers(0, SPAN_US, n), pa.timestamp("us", "UTC"))}

    own = {"row": pa.array(np.arange(n)), "note": names.take(pa.array(random.integers(0, options.entities, n)))}
    pq.write_table(pa.table(keys_and_times() | own), folder / "rows.parquet")
    project = hr.connect(folder / "project", definitions=TABLES)
    for table in plan_of_tables().tables.values():
        columns = keys_and_times()
        for field in table.features:
            values: Any = random.exponential(60.0, n)
            if field.dtype.value == "int":
                values = random.integers(-1_000_000, 1_000_000, n)
            elif field.dtype.value == "bool":
                values = random.random(n) < 0.3
            columns[field.name] = pa.array(values, mask=random.random(n) < NULL_SHARE)
        pq.write_table(pa.table(columns), folder / f"{table.name}.parquet")
        times = columns.pop("at").cast(pa.int64())
        archived = columns | {EVENT_TIME: times, AVAILABLE: times, ORDER: np.arange(n), DELETED: np.zeros(n, np.bool_)}
        project.parts.offline.append(
            rows_table(table), pa.table(archived), time_column=EVENT_TIME, writer=WRITER, number=0
        )
    project.close()


def check(folder: Path, found: pa.Table, options: Options) -> dict[str, int]:
    """Compare what is the caller's with what they gave, and some of the answers with the oracle, bit for bit.

    Raises SystemExit at the first that differs. Sampled are random rows, and as the oracle looks at every row of a key
    it gets those of the asked key alone.
    """
    given = pq.read_table(folder / "rows.parquet")
    for name in given.column_names:
        if not found[name].combine_chunks().equals(given[name].combine_chunks()):
            raise SystemExit(f'the caller\'s column "{name}" came back changed')
    random = np.random.default_rng(options.seed)
    sampled = np.sort(random.permutation(given.num_rows)[: options.checked])
    users, times = given["user"].take(sampled).to_pylist(), given["at"].cast(pa.int64()).take(sampled).to_pylist()
    compared = filled = 0
    for table in plan_of_tables().tables.values():
        names = [field.name for field in table.features]
        answers = found.take(sampled).select([f"{table.name}__{name}" for name in names]).rename_columns(names)
        rows = pq.read_table(folder / f"{table.name}.parquet").append_column("row", pa.array(np.arange(options.rows)))
        rows = rows.filter(pc.is_in(rows["user"], value_set=pa.array(sorted(set(users)))))
        stamps = rows["at"].cast(pa.int64()).to_pylist()
        by_key: dict[str, list[TableRow]] = {}
        for at, row in zip(stamps, rows.drop_columns(["at"]).to_pylist(), strict=True):
            user = row.pop("user")
            by_key.setdefault(user, []).append(TableRow(row.pop("row"), at, (user,), at, row, backfilled=True))
        for user, t, answer in zip(users, times, answers.to_pylist(), strict=True):
            expected = latest(table, (user,), t, by_key.get(user, ())) or dict.fromkeys(names)
            if repr(answer) != repr({name: expected[name] for name in names}):
                raise SystemExit(f"{table.name} of {user} at {t}: read {answer}, the oracle says {expected}")
            compared += len(names)
            filled += sum(value is not None for value in answer.values())
    return {"checked_rows": len(sampled), "checked_values": compared, "not_null": filled, "differing": 0}


def run_headrace(folder: Path, options: Options, pipe: Connection) -> None:
    """Measure in a fresh process; sends figures, then what was checked."""
    rows = pq.read_table(folder / "rows.parquet")
    project = hr.connect(folder / "project", definitions=TABLES)
    spent, busy = [], []
    found = pa.table({})
    for _ in range(options.repeats + 1):
        del found
        began, worked = time.perf_counter(), time.process_time()
        found = project.history(TABLES, rows).to_arrow()
        spent.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
    figures: dict[str, object] = {
        "seconds": round(statistics.median(spent[1:]), 2),
        "cpu_seconds": round(statistics.median(busy[1:]), 2),
        "cold_seconds": round(spent[0], 2),
        "peak_rss_mb": peak_mb(),
    }
    figures |= check(folder, found, options)
    names = [name for name in found.column_names if "__" in name]
    plain = found.select(names).rename_columns([name.split("__")[1] for name in names])
    feather.write_feather(plain, folder / "answers.arrow", compression="uncompressed")
    pipe.send(figures)


def duckdb_join(folder: Path) -> pa.Table:
    """DuckDB: an ASOF join per table; a row that is older than the time to live gives nulls."""
    import duckdb

    joins, columns = [], []
    for table in plan_of_tables().tables.values():
        alias = table.name
        joins.append(
            f"ASOF LEFT JOIN '{folder}/{alias}.parquet' {alias} ON r.user = {alias}.user AND r.at > {alias}.at"
        )
        alive = f"{alias}.at >= r.at - INTERVAL {TTL_DAYS} DAY"
        columns += [f"CASE WHEN {alive} THEN {alias}.{field.name} END {field.name}" for field in table.features]
    query = f"SELECT r.*, {', '.join(columns)} FROM '{folder}/rows.parquet' r {' '.join(joins)} ORDER BY r.row"
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection.sql(query).to_arrow_table()


def polars_join(folder: Path) -> pa.Table:
    """Polars: an as-of join per table, each sorted by time first, as it must be."""
    import polars as pl

    joined = pl.scan_parquet(folder / "rows.parquet").sort("at")
    for table in plan_of_tables().tables.values():
        rows = pl.scan_parquet(folder / f"{table.name}.parquet").sort("at")
        joined = joined.join_asof(
            rows,
            on="at",
            by="user",
            strategy="backward",
            tolerance=f"{TTL_DAYS}d",
            allow_exact_matches=False,
            check_sortedness=False,
        )
    return joined.sort("row").collect().to_arrow()


PEERS: dict[str, Callable[[Path], pa.Table]] = {"duckdb": duckdb_join, "polars": polars_join}


def equal_answers(found: pa.Table, folder: Path) -> bool:
    """True if every feature of every row is what Headrace found."""
    ours = feather.read_table(folder / "answers.arrow", memory_map=True)
    return all(
        found[name].combine_chunks().cast(ours[name].type).equals(ours[name].combine_chunks())
        for name in ours.column_names
    )


def run_peer(name: str, folder: Path, pipe: Connection) -> None:
    """Measure a peer in a fresh process; sends its figures."""
    join = PEERS[name]
    began, worked = time.perf_counter(), time.process_time()
    found = join(folder)
    figures: dict[str, object] = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - worked, 2),
        "peak_rss_mb": peak_mb(),
    }
    pipe.send(figures | {"version": version(name), "equal": equal_answers(found, folder)})


def resident_mb(process: int) -> int:
    """Resident memory of a process; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, IndexError):
        return 0


def run_feast(folder: Path, options: Options) -> dict[str, object]:
    """Measure Feast with its DuckDB offline store, in its own environment.

    It pairs each row with all earlier ones of its entity before it keeps the newest, so that very frequent entities are
    more than it can bear: then it is stopped.
    """
    if not FEAST.exists():
        return {"skipped": "not installed; bench/peers/setup.sh feast makes its environment"}
    groups = {
        table.name: [(f.name, f.dtype.value) for f in table.features] for table in plan_of_tables().tables.values()
    }
    (folder / "groups.json").write_text(json.dumps({"ttl_days": TTL_DAYS, "groups": groups}))
    script = FEAST.parents[3] / "feast_history.py"
    # Its DuckDB spills into the folder that it runs in; what keeps growing there will not end.
    command = [str(FEAST), str(script), str(folder)]
    began, spilled = time.perf_counter(), 0
    with (folder / "feast.out").open("w+") as out, (folder / "feast.err").open("w+") as error:
        process = subprocess.Popen(command, stdout=out, stderr=error, cwd=folder)
        while process.poll() is None:
            time.sleep(0.2)
            spilled = max(spilled, sum(file.stat().st_size for file in (folder / ".tmp").glob("*")) >> 20)
            spent, memory = time.perf_counter() - began, resident_mb(process.pid)
            if spent > options.limit or spilled > MOST_SPILLED_MB or memory > MOST_MEMORY_MB:
                process.kill()
                process.wait()
                shutil.rmtree(folder / ".tmp", ignore_errors=True)
                return {"stopped_after_seconds": round(spent), "rss_mb": memory, "temporary_files_mb": spilled}
        out.seek(0)
        error.seek(0)
        if process.returncode:
            raise SystemExit(f"feast failed: {error.read()[-2000:]}")
        answer = out.read()
    figures: dict[str, object] = json.loads(answer.splitlines()[-1])
    found = feather.read_table(folder / "feast.arrow", memory_map=True)
    return figures | {"equal": equal_answers(found, folder)}


def peers_of(folder: Path, options: Options) -> dict[str, object]:
    """Figures of the peers that are installed; why not, for the others."""
    found: dict[str, Any] = {}
    for name in PEERS if options.peers else ():
        try:
            version(name)
        except PackageNotFoundError:
            found[name] = {"skipped": "not installed"}
            continue
        found[name] = in_process_of_its_own(run_peer, name, folder)
    if options.peers:
        found["feast"] = run_feast(folder, options)
    for name, figures in found.items():
        if not figures.get("equal", True):
            raise SystemExit(f"{name} joined other values: {figures}")
    return found


def measure(options: Options, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    make(folder, options)
    figures = in_process_of_its_own(run_headrace, folder, options)
    return {
        "bench": "history",
        "params": {
            "rows": options.rows,
            "groups": GROUPS,
            "rows_per_group": options.rows,
            "features": FEATURES,
            "entities": options.entities,
            "law": options.law,
            "ttl_days": TTL_DAYS,
            "repeats": options.repeats,
            "seed": options.seed,
        },
        "figures": figures,
        "peers": peers_of(folder, options),
        "versions": versions("numpy", "numba", "pyarrow", "deltalake"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the caller, and of each table")
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--checked", type=int, default=1_000, help="answers that are compared with the oracle")
    parser.add_argument("--repeats", type=int, default=3, help="calls in a warm process")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure Headrace alone")
    parser.add_argument("--law", choices=("zipf", "uniform"), default="zipf", help="how frequent entities are")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which Feast is stopped")
    parser.add_argument("--seed", type=int, default=7)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
