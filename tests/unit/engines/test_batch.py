"""Batch compute: what a run sees, what a check refuses, and what of it reaches the feature log."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from headrace.core.errors import CheckFailed, ConfigError, NotFound, PlanError, SchemaError, StoreError
from headrace.core.schema import DType, Field, Schema
from headrace.core.tablerows import TableRows, decode_table_rows
from headrace.core.time import NULL_US, US_PER_HOUR, SimulatedClock
from headrace.engines.batch.checks import evaluate_checks
from headrace.engines.batch.duckdb import DuckDBBatchEngine
from headrace.engines.batch.runner import BatchRunner
from headrace.engines.batch.sources import Source
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import CheckSpec, KeyPart, TablePlan

T0 = 1_370_044_800_000_000  # 2013-06-01T00:00:00Z
STATIONS = ("EWR", "JFK", "LGA")
HOURS = 24
QUERY = "select station as airport, wind, cast(hour as timestamptz) as at from weather"
WEATHER = TablePlan(
    name="weather",
    version="00ff" * 4,
    schema=Schema(
        "weather",
        (
            Field("airport", DType.STRING, entity="airport"),
            Field("wind", DType.FLOAT, nullable=True),
            Field("at", DType.TIMESTAMP),
        ),
        "at",
    ),
    key=(KeyPart("airport", DType.STRING, "airport"),),
    query=QUERY,
    on=None,
    schedule="@hourly",
    ttl_us=None,
    delay_us=60_000_000,
    checks=(),
)
PLANE = replace(
    WEATHER,
    name="plane",
    schema=Schema("plane", (Field("tail", DType.STRING), Field("built", DType.INT, nullable=True)), None),
    key=(KeyPart("tail", DType.STRING, "aircraft"),),
    query="select tail, built from planes",
)


def hourly(hours: int = HOURS) -> pa.Table:
    rows = [(s, h) for h in reversed(range(hours)) for s in STATIONS]
    times = pa.array([T0 + h * US_PER_HOUR for _, h in rows], pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "station": [s for s, _ in rows],
            "wind": [None if h == 3 else float(h) for _, h in rows],
            "hour": times,
            "known_at": times,
        }
    )


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(T0 + 5 * US_PER_HOUR)


@pytest.fixture
def engine(clock: SimulatedClock) -> Iterator[DuckDBBatchEngine]:
    planes = pa.table({"tail": ["N1", "N2"], "built": [1999, None], "maker": ["A", "B"]})
    made = DuckDBBatchEngine({"weather": hourly(), "planes": planes}, clock)
    yield made
    made.close()


def make_runner(engine: DuckDBBatchEngine, clock: SimulatedClock) -> tuple[MemoryEventLog, BatchRunner]:
    log = MemoryEventLog(clock)
    return log, BatchRunner(engine, log, clock)


def written(log: MemoryEventLog) -> list[TableRows]:
    return [decode_table_rows(batch.payload) for batch in log.read("tables", 0, 0, 10**9)]


# --- the engine ---


def test_a_run_sees_only_what_was_known_by_its_time(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    assert engine.run(WEATHER).num_rows == 6 * 3
    assert engine.run(WEATHER, now_us=T0 - 1).num_rows == 0
    assert engine.run(WEATHER, now_us=T0).num_rows == 3
    clock.advance_to(T0 + 99 * US_PER_HOUR)
    assert engine.run(WEATHER).num_rows == HOURS * 3


def test_since_is_open_and_now_is_closed(engine: DuckDBBatchEngine) -> None:
    rows = engine.run(WEATHER, since_us=T0 + 2 * US_PER_HOUR, now_us=T0 + 4 * US_PER_HOUR)
    assert sorted(rows["wind"].to_pylist(), key=str) == [4.0, 4.0, 4.0, None, None, None]
    assert sorted({t.hour for t in rows["at"].to_pylist()}) == [3, 4]


@pytest.mark.parametrize("kind", ["timestamp", "bigint", "varchar"])
def test_since_works_for_every_form_of_time(clock: SimulatedClock, kind: str) -> None:
    cast = {"timestamp": "cast(hour as timestamp)", "bigint": "epoch_us(hour)", "varchar": "cast(hour as varchar)"}
    engine = DuckDBBatchEngine({"weather": hourly()}, clock)
    table = replace(WEATHER, query=f"select station as airport, wind, {cast[kind]} as at from weather;")
    assert engine.run(table, since_us=T0 + 3 * US_PER_HOUR).num_rows == 6
    engine.close()


def test_the_time_of_knowing_may_be_an_expression(clock: SimulatedClock) -> None:
    table = hourly().drop_columns(["known_at"])
    for known_at in ("hour + interval 2 hour", "epoch_us(hour) + 7200000000"):
        engine = DuckDBBatchEngine({"weather": Source(table, known_at)}, clock)
        assert engine.run(WEATHER).num_rows == 4 * 3
        engine.close()


def test_a_source_without_times_is_always_known_and_may_be_joined(engine: DuckDBBatchEngine) -> None:
    assert engine.run(PLANE).to_pylist() == [{"tail": "N1", "built": 1999}, {"tail": "N2", "built": None}]
    query = "with w as (select * from weather) select p.tail, count(*) as built from planes p, w group by 1 -- note"
    assert {row["built"] for row in engine.run(replace(PLANE, query=query), now_us=T0).to_pylist()} == {3}


def test_lists_and_their_nulls_survive_a_run_for_a_span(engine: DuckDBBatchEngine) -> None:
    query = "select station as airport, [wind, null] as taste, hour as at from weather"
    rows = engine.run(replace(WEATHER, query=query), since_us=T0 + 4 * US_PER_HOUR)
    assert rows["taste"].to_pylist() == [[5.0, None]] * 3


@pytest.mark.parametrize("name", ["weather.parquet", "weather.csv", "weather.ndjson", "weather/part-0.parquet"])
def test_files_are_found_by_the_tables_name_and_read_again_when_they_change(
    tmp_path: Path, clock: SimulatedClock, name: str
) -> None:
    def write(hours: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with duckdb.connect() as connection:
            rows = hourly(hours).drop_columns(["known_at"])
            connection.register("rows", rows)
            kind = {".csv": "csv, header", ".ndjson": "json", ".parquet": "parquet"}[path.suffix]
            connection.execute(f"copy rows to '{path}' (format {kind})")
        os.utime(path, ns=(hours, hours))

    write(2)
    engine = DuckDBBatchEngine({}, clock, folder=tmp_path)
    assert engine.run(WEATHER).num_rows == 6
    write(4)
    assert engine.run(WEATHER).num_rows == 12
    assert engine.run(WEATHER, since_us=T0 + 2 * US_PER_HOUR).num_rows == 3
    engine.close()


def test_a_large_file_is_read_in_place(tmp_path: Path, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.engines.batch.files.KEEP_BYTES", 1)
    pq.write_table(hourly().drop_columns(["known_at"]), tmp_path / "w.parquet")
    engine = DuckDBBatchEngine({"weather": str(tmp_path / "w.parquet")}, clock)
    assert engine.run(WEATHER, since_us=T0 + 3 * US_PER_HOUR).num_rows == 6
    assert engine.run(WEATHER).num_rows == 3 * HOURS
    engine.close()


def test_a_query_may_run_on_a_database(tmp_path: Path, clock: SimulatedClock) -> None:
    with sqlite3.connect(tmp_path / "house.db") as lite:
        lite.execute("create table planes (tail text, built integer)")
        lite.executemany("insert into planes values (?, ?)", [("N1", 1999), ("N2", None)])
    lite.close()
    with duckdb.connect(str(tmp_path / "house.duckdb")) as duck:
        duck.execute("create table planes as select * from (values ('N1', 1999), ('N2', null)) v(tail, built)")
    sources = {"lite": f"sqlite:///{tmp_path}/house.db", "duck": f"duckdb:///{tmp_path}/house.duckdb"}
    engine = DuckDBBatchEngine(sources, clock)
    for name in sources:
        rows = engine.run(replace(PLANE, on=name)).sort_by("tail").to_pylist()
        assert rows == [{"tail": "N1", "built": 1999}, {"tail": "N2", "built": None}]
        with pytest.raises(PlanError, match="plane"):
            engine.run(replace(PLANE, on=name, query="select nothing from planes"))
        with pytest.raises(PlanError, match="is a database"):
            engine.run(replace(PLANE, query=f"select * from {name}"))
    engine.close()
    busy = DuckDBBatchEngine({"duck": sources["duck"]}, clock)
    with duckdb.connect(str(tmp_path / "house.duckdb")), pytest.raises(StoreError, match="plane cannot be opened"):
        busy.run(replace(PLANE, on="duck"))
    assert len(busy.run(replace(PLANE, on="duck"))) == 2
    with pytest.raises(ConfigError, match="write duckdb:///FILE"):
        DuckDBBatchEngine({"duck": "duckdb://house.duckdb"}, clock).run(replace(PLANE, on="duck"))
    busy.close()
    gone = DuckDBBatchEngine({"lite": f"sqlite:///{tmp_path}/no/x.db", "duck": f"duckdb:///{tmp_path}/no"}, clock)
    for name in sources:
        with pytest.raises(StoreError, match="plane"):
            gone.run(replace(PLANE, on=name))
    gone.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("snowflake://reader:s3cret@acme/dwh/public?warehouse=small", "pip install snowflake-sqlalchemy"),
        ("bigquery://acme-lake/features", "pip install sqlalchemy-bigquery"),
        ("trino://reader:s3cret@trino.internal:443/lake", 'pip install "trino'),
        ("oracle+cx_oracle://reader:s3cret@ora/x", "pip install cx_Oracle"),
        ("nothing://reader:s3cret@host/x", "nothing here knows nothing://"),
    ],
)
def test_a_warehouse_whose_driver_is_missing_is_told_with_the_package(
    clock: SimulatedClock, url: str, told: str
) -> None:
    engine = DuckDBBatchEngine({"dwh": url}, clock)
    with pytest.raises(ConfigError, match=told) as raised:
        engine.run(replace(PLANE, on="dwh"))
    assert "plane" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    engine.close()


def test_a_warehouse_is_read_by_whatever_sqlalchemy_knows(
    tmp_path: Path, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def connect(url: str) -> sa.Engine:  # what snowflake-sqlalchemy would do with the URL
        made.append(url)
        return plain_engine(f"sqlite:///{tmp_path / 'house.db'}", poolclass=sa.NullPool)

    plain_engine = sa.create_engine
    with closing(sqlite3.connect(tmp_path / "house.db")) as lite:
        lite.execute("create table planes (tail text, built integer)")
        lite.execute("insert into planes values ('N1', 1999)")
        lite.commit()
    monkeypatch.setattr(sa, "create_engine", connect)
    engine = DuckDBBatchEngine({"dwh": "snowflake://reader:s3cret@acme/dwh"}, clock)
    assert engine.run(replace(PLANE, on="dwh")).to_pylist() == [{"tail": "N1", "built": 1999}]
    assert made == ["snowflake://reader:s3cret@acme/dwh"]
    engine.close()


def test_an_unknown_source_is_named_with_near_ones(engine: DuckDBBatchEngine) -> None:
    with pytest.raises(NotFound, match="did you mean planes"):
        engine.run(replace(PLANE, query="select * from plane"))
    with pytest.raises(NotFound, match="warehouse"):
        engine.run(replace(PLANE, on="warehouse"))


@pytest.mark.parametrize(
    "query", ["selec 1", "select nothing from planes", "drop table planes", "select 1/0::int from"]
)
def test_a_query_that_cannot_run_says_which_table_it_is_of(engine: DuckDBBatchEngine, query: str) -> None:
    with pytest.raises(PlanError, match="plane"):
        engine.run(replace(PLANE, query=query))


def test_a_damaged_file_is_named(tmp_path: Path, clock: SimulatedClock) -> None:
    (tmp_path / "planes.parquet").write_bytes(b"PAR1 but not really")
    engine = DuckDBBatchEngine({}, clock, folder=tmp_path)
    with pytest.raises(StoreError, match=r"planes\.parquet"):
        engine.run(PLANE)
    engine.close()


def test_batches_are_what_a_run_returns(clock: SimulatedClock) -> None:
    numbers = pa.table({"tail": [f"N{i}" for i in range(10_000)], "built": list(range(10_000))})
    engine = DuckDBBatchEngine({"planes": numbers}, clock)
    pieces = list(engine.batches(PLANE, 3_000))
    assert len(pieces) > 1
    assert pa.concat_tables(pieces).sort_by("built").to_pylist() == engine.run(PLANE).sort_by("built").to_pylist()
    (none,) = engine.batches(replace(PLANE, query="select * from planes where false"), 3_000)
    assert (none.num_rows, none.column_names) == (0, ["tail", "built"])
    with pytest.raises(PlanError, match="plane"):
        list(engine.batches(replace(PLANE, query="select tail, built::int / 0 as built, nothing from planes"), 3_000))
    engine.close()


# --- checks ---

ROWS = pa.table({"airport": ["a", "b", "b"], "wind": [1.0, float("nan"), None], "at": [1, 2, 2]})


def check(kind: str, **params: Any) -> CheckSpec:
    return CheckSpec(kind, tuple(params.items()))


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [
        (check("rows", min=4, max=None), {"rows": 3}),
        (check("rows", min=None, max=2), {"rows": 3}),
        (check("null_share", column="wind", max=0.5), {"nulls": 2, "rows": 3, "share": 2 / 3}),
        (check("unique", columns=("airport",)), {"repeated": 1, "rows": 3}),
        (check("unique", columns=()), {"repeated": 1, "rows": 3}),
        (check("in_range", column="wind", min=2, max=None), {"outside": 1, "rows": 3, "min": 1.0, "max": 1.0}),
        (check("in_range", column="at", min=1, max=1), {"outside": 2, "rows": 3, "min": 1, "max": 2}),
    ],
)
def test_a_check_that_fails_gives_its_numbers(spec: CheckSpec, numbers: dict[str, Any]) -> None:
    (failure,) = evaluate_checks(replace(WEATHER, checks=(spec,)), ROWS)
    assert failure.numbers == numbers
    assert len(failure.examples) == (0 if spec.kind == "rows" else min(2, numbers.get("outside", 2)))


def test_checks_that_hold_say_nothing() -> None:
    checks = (
        check("rows", min=3, max=3),
        check("null_share", column="wind", max=0.7),
        check("null_share", column="at", max=0.0),
        check("unique", columns=("airport", "at", "wind")),
        check("in_range", column="wind", min=1, max=1),
    )
    rows = ROWS.set_column(2, "at", pa.array([1, 2, 3]))
    assert evaluate_checks(replace(WEATHER, checks=checks), rows) == []
    in_time = check("in_range", column="at", min=datetime.fromtimestamp(0, UTC), max=None)
    times = pa.table({"at": pa.array([-1, 5], pa.timestamp("us", "UTC"))})
    (failure,) = evaluate_checks(replace(WEATHER, checks=(in_time,)), times)
    assert failure.numbers["outside"] == 1


def test_a_check_of_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(SchemaError, match=r'"gusts".*airport, wind, at'):
        evaluate_checks(replace(WEATHER, checks=(check("null_share", column="gusts", max=0.1),)), ROWS)


def test_no_rows_pass_all_but_the_row_count() -> None:
    checks = (check("null_share", column="wind", max=0.0), check("unique", columns=()), check("rows", min=1, max=None))
    checks += (check("in_range", column="wind", min=0, max=1),)
    assert [f.check.kind for f in evaluate_checks(replace(WEATHER, checks=checks), ROWS.slice(0, 0))] == ["rows"]


# --- the runner ---


def test_a_run_writes_new_rows_once_and_in_order(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    report = runner.run(WEATHER)
    assert (report.rows, report.unchanged, report.appended, report.offset) == (18, 0, 18, 0)
    again = runner.run(WEATHER)
    assert (again.rows, again.unchanged, again.appended, again.offset) == (18, 18, 0, None)
    clock.advance_to(T0 + 6 * US_PER_HOUR)
    assert runner.run(WEATHER).appended == 3
    assert runner.run(WEATHER, since_us=T0 + 5 * US_PER_HOUR).unchanged == 3
    first, second = written(log)
    assert first.keys == sorted(first.keys)
    assert first.event_time_us.tolist() == [T0 + h * US_PER_HOUR for _ in STATIONS for h in range(6)]
    assert set(first.available_us.tolist()) == {T0 + 5 * US_PER_HOUR}
    assert set(second.available_us.tolist()) == {T0 + 6 * US_PER_HOUR}
    assert first.columns["wind"].to_pylist()[:6] == [0.0, 1.0, 2.0, None, 4.0, 5.0]
    assert list(first.columns) == ["wind"]
    assert not first.deleted.any()
    assert log.end("tables", 0) == 21


def test_a_correction_of_an_old_row_is_written(clock: SimulatedClock) -> None:
    rows = hourly()
    log = MemoryEventLog(clock)
    before = DuckDBBatchEngine({"weather": rows}, clock)
    BatchRunner(before, log, clock).run(WEATHER)
    stations, winds = rows["station"].to_pylist(), rows["wind"].to_pylist()
    winds[[*zip(stations, winds, strict=True)].index(("JFK", 2.0))] = 9.5
    wind = pa.array(winds)
    after = DuckDBBatchEngine({"weather": rows.set_column(1, "wind", wind)}, clock)
    report = BatchRunner(after, log, clock).run(WEATHER)  # a new runner: its memory comes from the log
    assert (report.unchanged, report.appended) == (17, 1)
    corrected = written(log)[-1]
    assert (corrected.keys, corrected.columns["wind"].to_pylist()) == ([("JFK",)], [9.5])
    for engine in (before, after):
        engine.close()


def test_a_backfilled_row_is_available_from_its_time_plus_delay(
    engine: DuckDBBatchEngine, clock: SimulatedClock
) -> None:
    log, runner = make_runner(engine, clock)
    runner.run(WEATHER, backfill=True)
    runner.run(PLANE, backfill=True)
    weather, plane = written(log)
    assert (weather.available_us == weather.event_time_us + 60_000_000).all()
    assert plane.event_time_us.tolist() == plane.available_us.tolist() == [NULL_US, NULL_US]


def test_a_failed_check_writes_nothing_and_old_values_stay(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    runner.run(WEATHER)
    clock.advance_to(T0 + 9 * US_PER_HOUR)
    strict = replace(WEATHER, checks=(check("rows", min=1, max=None), check("in_range", column="wind", min=0, max=7)))
    with pytest.raises(CheckFailed, match=r'weather: "wind" lies outside .* 6 of 30 rows .*such as') as caught:
        runner.run(strict)
    assert "the values before it stay" in str(caught.value)
    assert log.end("tables", 0) == 18
    assert runner.run(replace(strict, checks=strict.checks[:1])).checks == 1


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("select tail as tial, built from planes", "tail", 'select "tial" as tail'),
        ("select tail from planes", "built", "returns tail"),
        ("select tail, maker as built from planes", "built", "an integer type"),
        ("select tail, 1.5::double as built from planes", "built", "first row 0"),
        ("select tail, built = 1999 as built from planes", "built", "an integer type"),
    ],
)
def test_what_a_query_gives_must_fit_its_table(
    engine: DuckDBBatchEngine, clock: SimulatedClock, query: str, field: str, words: str
) -> None:
    log, runner = make_runner(engine, clock)
    with pytest.raises(SchemaError) as caught:
        runner.run(replace(PLANE, query=query))
    assert caught.value.field == field
    assert words in str(caught.value)
    assert "plane" in str(caught.value)
    assert log.end("tables", 0) == 0


def test_a_part_is_asked_only_checks_that_hold_of_every_part(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    counted = replace(WEATHER, checks=(check("rows", min=18, max=None), check("null_share", column="wind", max=0.2)))
    report = runner.run(counted, where="airport = 'JFK' and \"at\" >= timestamptz '2013-06-01 03:00:00+00'")
    assert (report.rows, report.appended, report.checks) == (3, 3, 0)
    ranged = replace(WEATHER, checks=(check("in_range", column="wind", min=0, max=3), check("unique", columns=())))
    with pytest.raises(CheckFailed, match="lies outside"):
        runner.run(ranged, where="airport = 'EWR'")
    assert runner.run(counted).appended == 15
    assert log.end("tables", 0) == 18


def test_an_engine_answers_on_after_a_result_that_did_not_fit(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    _, runner = make_runner(engine, clock)
    with pytest.raises(SchemaError) as caught:
        runner.run(replace(PLANE, query="select maker as tail, 1.5 as built from planes"))
    with ThreadPoolExecutor(1) as other:
        assert other.submit(engine.run, PLANE).result(timeout=30).num_rows == 2
    assert caught.value.field == "built"


def test_a_null_key_belongs_to_nobody_and_is_counted(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    report = runner.run(replace(PLANE, query="select nullif(tail, 'N2') as tail, built from planes"))
    assert (report.rows, report.null_keys, report.appended) == (2, 1, 1)
    assert written(log)[0].keys == [("N1",)]


def test_several_rows_of_one_key_and_time_are_ordered_by_their_bytes(
    engine: DuckDBBatchEngine, clock: SimulatedClock
) -> None:
    log, runner = make_runner(engine, clock)
    table = replace(PLANE, query="select 'N1' as tail, built from (values (7), (3), (5)) v(built)")
    runner.run(table)
    assert written(log)[0].columns["built"].to_pylist() == [3, 5, 7]
    assert runner.run(table).appended == 0


def test_puts_and_deletions_are_rows_too(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    runner.run(PLANE)
    assert runner.put_rows(PLANE, [{"tail": "N1", "built": 2000}, {"tail": "N9"}]).appended == 2
    assert runner.run(PLANE).appended == 1  # N1 as the query has it, once more
    report = runner.delete_rows(PLANE, [{"tail": "N2"}])
    assert (report.appended, report.offset) == (1, 5)
    assert runner.run(PLANE).appended == 1
    deletion = written(log)[3]
    assert (deletion.keys, deletion.deleted.tolist()) == ([("N2",)], [True])
    assert deletion.event_time_us.tolist() == [NULL_US]
    runner.delete_rows(WEATHER, [{"airport": "JFK"}])
    assert written(log)[-1].event_time_us.tolist() == [clock.now_us()]


def test_a_put_that_does_not_fit_writes_nothing(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    for rows, words in (
        ([{"tail": "N1"}, {"tail": "N2", "built": "old"}], "row 1, field built"),
        ([{"built": 3}], "row 0, field tail"),
        (pa.table({"tail": ["N1", None], "built": [1, 2]}), "null in its key"),
    ):
        with pytest.raises(SchemaError, match=words):
            runner.put_rows(PLANE, rows)
    for key in ({}, {"tail": None}, {"tail": 5}, {"tail": "N1", "more": 1}):
        with pytest.raises(SchemaError, match="plane, row 0"):
            runner.delete_rows(PLANE, [key])
    assert log.end("tables", 0) == 0


def test_two_runners_on_one_log_write_a_row_once(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    other = BatchRunner(engine, log, clock)
    assert runner.run(WEATHER).appended == 18
    assert other.run(WEATHER).appended == 0
    assert runner.put_rows(PLANE, pa.table({"tail": ["N1", "N2"], "built": pa.array([1999, None])})).appended == 2
    assert other.run(PLANE).appended == 0


def test_another_version_of_a_table_gets_all_rows_anew(engine: DuckDBBatchEngine, clock: SimulatedClock) -> None:
    log, runner = make_runner(engine, clock)
    runner.run(PLANE)
    assert runner.run(replace(PLANE, version="11" * 8)).appended == 2
    assert [rows.version for rows in written(log)] == [PLANE.version, "11" * 8]
    assert np.array_equal(written(log)[0].available_us, [clock.now_us()] * 2)
