"""What a source's query may touch: the sources that it names, and nothing else; files are read by the engine alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.core.errors import NotFound, PlanError, StoreError
from headrace.core.time import SimulatedClock
from headrace.engines.batch.duckdb import DuckDBBatchEngine
from tests.unit.engines.test_batch import PLANE

CLOCK = SimulatedClock(10**15)
PLANES = pa.table({"tail": ["N1", "N2"], "built": [1999, None]})


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no source declares."""
    file = tmp_path / "private" / "secret.csv"
    file.parent.mkdir()
    file.write_text("tail,built\nsecret,1\n")
    return file


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckDBBatchEngine]:
    with duckdb.connect(str(tmp_path / "house.duckdb")) as duck:
        duck.execute("create table planes as select * from (values ('N1', 1999), ('N2', null)) v(tail, built)")
    (tmp_path / "data").mkdir()
    made = DuckDBBatchEngine(
        {"planes": PLANES, "house": f"duckdb:///{tmp_path}/house.duckdb"}, CLOCK, folder=tmp_path / "data"
    )
    yield made
    made.close()


@pytest.mark.parametrize("on", [None, "house"])
@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('{file}')",
        "select * from '{file}'",
        "select * from read_text('{file}')",
        "select * from glob('{folder}/*')",
        "select * from sniff_csv('{file}')",
        "copy planes to '{folder}/out.csv'",
        "copy (select * from planes) to '{folder}/out.parquet'",
        "attach '{folder}/other.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "export database '{folder}/out'",
        "create table mine as select * from planes",
        "insert into planes values ('N3', 1)",
        "delete from planes",
        "select * from planes; select * from planes",
        "select * from planes; copy planes to '{folder}/out.csv'",
        "select 1) as result; drop table planes; select * from (select 1",
        "select * from PLANES_OF_THIS_TEST",
    ],
)
def test_a_query_reaches_no_file_and_changes_nothing(
    engine: DuckDBBatchEngine, secret: Path, query: str, on: str | None
) -> None:
    PLANES_OF_THIS_TEST = PLANES  # noqa: F841, N806 - DuckDB would find it by its name
    before = sorted(secret.parent.iterdir())
    with pytest.raises((PlanError, NotFound)) as raised:
        engine.run(replace(PLANE, on=on, query=query.format(file=secret, folder=secret.parent)))
    assert "secret,1" not in str(raised.value)
    assert sorted(secret.parent.iterdir()) == before
    for place in (None, "house"):
        assert engine.run(replace(PLANE, on=place)).num_rows == 2


def test_what_the_engine_keeps_for_other_tables_has_no_name_in_a_query(engine: DuckDBBatchEngine) -> None:
    engine.run(PLANE)
    for name in ("_source_0_planes", "main._source_0_planes", "_source_0_planes_files"):
        with pytest.raises(NotFound, match="there is no source"):
            engine.run(replace(PLANE, query=f"select * from {name}"))


def test_a_name_leads_out_of_no_folder(engine: DuckDBBatchEngine, secret: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / ".hidden.csv").write_text("tail,built\nN1,1\n")
    for name in ("../private/secret", str(secret.with_suffix("")), ".hidden", "..", "private/../../private/secret"):
        with pytest.raises(NotFound, match="there is no source"):
            engine.run(replace(PLANE, query=f'select * from "{name}"'))
    (tmp_path / "data" / "seen.csv").write_text("tail,built\nN1,1\n")
    assert engine.run(replace(PLANE, query="select * from seen")).num_rows == 1


def test_a_query_on_sqlite_writes_nothing(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "house.db") as lite:
        lite.execute("create table planes (tail text, built integer)")
        lite.execute("insert into planes values ('N1', 1999)")
    lite.close()
    engine = DuckDBBatchEngine({"lite": f"sqlite:///{tmp_path}/house.db"}, CLOCK)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("create table planes as select 'secret' as tail, 1 as built")
    other.close()
    for query in (
        "delete from planes returning tail, built",
        "drop table planes",
        "pragma query_only = off",
        f"attach '{tmp_path}/other.db' as other",
        "select * from other.planes",
        "select tail, load_extension('x') as built from planes",
        "select tail, built from planes; delete from planes",
    ):
        with pytest.raises(PlanError, match="plane"):
            engine.run(replace(PLANE, on="lite", query=query))
    assert engine.run(replace(PLANE, on="lite")).num_rows == 1
    counted = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3) select i as built from n"
    assert engine.run(replace(PLANE, on="lite", query=counted))["built"].to_pylist() == [1, 2, 3]
    engine.close()


# --- files ---


def _hive(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for region in ("eu", "us east/1", None):
        for day in (1, 2):
            for number in (7, -8):
                part = (
                    "__HIVE_DEFAULT_PARTITION__" if region is None else region.replace(" ", "%20").replace("/", "%2F")
                )
                place = folder / f"region={part}" / f"day=2026-01-0{day}" / f"n={number}"
                place.mkdir(parents=True)
                tails = [f"{part}-{day}-{number}-{i}" for i in range(3)]
                pq.write_table(pa.table({"tail": tails}), place / "part-0.parquet")
                rows += [{"tail": t, "region": region, "day": date(2026, 1, day), "n": number} for t in tails]
    return rows


@pytest.mark.parametrize("keep", [64 << 20, 1])
def test_folders_partitioned_like_hive_give_their_keys_as_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    monkeypatch.setattr("headrace.engines.batch.files.KEEP_BYTES", keep)
    expected = _hive(tmp_path / "planes")
    engine = DuckDBBatchEngine({"planes": tmp_path / "planes"}, CLOCK)
    rows = engine.run(replace(PLANE, query="select * from planes"))
    assert sorted(rows.to_pylist(), key=lambda row: row["tail"]) == sorted(expected, key=lambda row: row["tail"])
    some = engine.run(
        replace(PLANE, query="select tail from planes where region = 'eu' and day > '2026-01-01' and n < 0")
    )
    assert sorted(some["tail"].to_pylist()) == [f"eu-2--8-{i}" for i in range(3)]
    engine.close()


def test_partitions_that_are_not_declared_alike_are_refused(tmp_path: Path) -> None:
    for folder in ("region=eu", "country=fr"):
        (tmp_path / "planes" / folder).mkdir(parents=True)
        pq.write_table(PLANES, tmp_path / "planes" / folder / "x.parquet")
    with pytest.raises(StoreError, match="not partitioned alike"):
        DuckDBBatchEngine({"planes": tmp_path / "planes"}, CLOCK).run(PLANE)


@pytest.mark.parametrize("keep", [64 << 20, 1])
@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_a_file_reads_the_same_whether_it_is_kept_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, keep: int
) -> None:
    monkeypatch.setattr("headrace.engines.batch.files.KEEP_BYTES", keep)
    at = [datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc), None]
    rows = pa.table({"tail": ["N1", "N2"], "built": [2**62, None], "x": [0.1, -1e300], "seen": at})
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", rows)
        connection.execute(f"copy rows to '{tmp_path}/planes.{kind}' (format {kind})")
    engine = DuckDBBatchEngine({}, CLOCK, folder=tmp_path)
    found = engine.run(replace(PLANE, query="select tail, built, x, cast(seen as timestamptz) as seen from planes"))
    assert found.to_pylist() == rows.to_pylist()
    engine.close()


def test_files_with_other_columns_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "planes").mkdir()
    pq.write_table(pa.table({"built": pa.array([1], pa.int32()), "tail": ["N1"]}), tmp_path / "planes" / "a.parquet")
    pq.write_table(pa.table({"tail": ["N2"], "built": [2**40], "x": [0.5]}), tmp_path / "planes" / "b.parquet")
    engine = DuckDBBatchEngine({"planes": tmp_path / "planes"}, CLOCK)
    rows = engine.run(replace(PLANE, query="select tail, built, x from planes order by tail")).to_pylist()
    assert rows == [{"tail": "N1", "built": 1, "x": None}, {"tail": "N2", "built": 2**40, "x": 0.5}]
    engine.close()


def test_a_delta_table_is_no_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "planes" / "_delta_log").mkdir(parents=True)
    pq.write_table(PLANES, tmp_path / "planes" / "a.parquet")
    with pytest.raises(StoreError, match="Delta table"):
        DuckDBBatchEngine({"planes": tmp_path / "planes"}, CLOCK).run(PLANE)
