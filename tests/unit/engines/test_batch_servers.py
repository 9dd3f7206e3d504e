"""Sources on a real PostgreSQL and a real S3: exact types, nothing written, and clear words when they are away."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.core.errors import NotFound, PlanError, StoreError, Unreachable
from headrace.core.time import SimulatedClock, to_us
from headrace.engines.batch.duckdb import DuckDBBatchEngine
from headrace.features.plan import TablePlan
from headrace.stores.objects import s3_options
from tests.link import Link
from tests.postgres import database, engine
from tests.s3 import BUCKET, Bucket, bucket
from tests.unit.engines.test_batch import PLANE, WEATHER

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
CLOCK = SimulatedClock(to_us(NOON))


@pytest.fixture(scope="module")
def warehouse() -> Iterator[str]:
    """A database with two tables."""
    with database() as url:
        with engine(url).begin() as connection:
            for statement in (
                "CREATE TYPE mood AS ENUM ('fine', 'wet')",
                "CREATE TABLE planes (tail text, built integer)",
                "INSERT INTO planes VALUES ('N1', 1999), ('N2', NULL)",
                """CREATE TABLE hours AS SELECT 'EWR' AS station, n::double precision AS wind,
                   '2026-05-01 00:00+00'::timestamptz + n * interval '1 hour' AS hour FROM generate_series(0, 9) n""",
            ):
                connection.exec_driver_sql(statement)
        yield url


@pytest.fixture
def batch(warehouse: str) -> Iterator[DuckDBBatchEngine]:
    made = DuckDBBatchEngine({"warehouse": warehouse}, CLOCK)
    yield made
    made.close()


def on_warehouse(query: str, table: TablePlan = PLANE) -> TablePlan:
    return replace(table, on="warehouse", query=query)


EXACT: list[tuple[str, pa.DataType, list[Any]]] = [
    ("bool", pa.bool_(), [True, False, None]),
    ("int2", pa.int16(), [-(2**15), 2**15 - 1, None]),
    ("int4", pa.int32(), [-(2**31), 2**31 - 1, None]),
    ("int8", pa.int64(), [-(2**63), 2**63 - 1, None]),
    ("float4", pa.float32(), [0.5, -1.5, None]),
    ("float8", pa.float64(), [0.1, -1.7976931348623157e308, 5e-324, None]),
    ("numeric(38,10)", pa.decimal128(38, 10), [Decimal("0.1"), Decimal("-1234567890123456789.0123456789"), None]),
    ("numeric", pa.decimal128(26, 18), [Decimal("0.100000000000000001"), Decimal("-12345678"), None]),
    ("text", pa.string(), ["", "ß\n'\"\\", None]),
    ("varchar(9)", pa.string(), ["x", None]),
    ("bytea", pa.binary(), [b"\0\xff", b"", None]),
    ("uuid", pa.string(), ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", None]),
    ("jsonb", pa.string(), ['{"a": [1, null]}', None]),
    ("mood", pa.string(), ["fine", "wet", None]),
    ("date", pa.date32(), [date(1, 1, 1), date(9999, 12, 31), None]),
    ("timestamp", pa.timestamp("us"), [datetime.fromisoformat("1969-12-31 23:59:59.999999"), None]),
    (
        "timestamptz",
        pa.timestamp("us", "UTC"),
        [
            datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            datetime(1, 1, 1, tzinfo=timezone.utc),
            None,
        ],
    ),
    ("int8[]", pa.list_(pa.int64()), [[1, None, -(2**63)], [], None]),
    ("text[]", pa.list_(pa.string()), [["a,b", None, ""], [], None]),
    ("float8[]", pa.list_(pa.float64()), [[0.1, None], None]),
    ("timestamptz[]", pa.list_(pa.timestamp("us", "UTC")), [[NOON, None], None]),
]


@pytest.mark.postgres
@pytest.mark.parametrize(("kind", "arrow", "values"), EXACT, ids=[kind for kind, _, _ in EXACT])
def test_types_and_values_come_exactly(
    warehouse: str, batch: DuckDBBatchEngine, kind: str, arrow: pa.DataType, values: list[Any]
) -> None:
    name = f"t_{secrets.token_hex(4)}"
    with engine(warehouse).begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {name} (n int, v {kind})")
        for number, value in enumerate(values):
            connection.exec_driver_sql(f"INSERT INTO {name} VALUES (%s, %s)", (number, value))
    found = batch.run(on_warehouse(f"SELECT v FROM {name} ORDER BY n"))
    assert found.schema.field("v").type == arrow
    assert found["v"].to_pylist() == values
    if kind != "numeric":
        assert batch.run(on_warehouse(f"SELECT v FROM {name} WHERE false")).schema.field("v").type == arrow
    nothing = batch.run(on_warehouse(f"SELECT v FROM {name} WHERE v IS NULL"))
    assert nothing["v"].to_pylist() == [None]


@pytest.mark.postgres
def test_many_rows_come_in_pieces_and_order(batch: DuckDBBatchEngine) -> None:
    found = batch.run(on_warehouse("SELECT n, (n % 7)::numeric / 8 AS x FROM generate_series(1, 120001) n"))
    assert found["n"].to_pylist() == list(range(1, 120_002))
    assert found["x"].to_pylist() == [Decimal(n % 7) / 8 for n in range(1, 120_002)]


@pytest.mark.postgres
def test_a_span_of_event_times_is_open_at_its_begin_and_closed_at_its_end(batch: DuckDBBatchEngine) -> None:
    start = to_us(datetime(2026, 5, 1, tzinfo=timezone.utc))
    hour = 3_600_000_000
    for expression in ("hour", "hour::timestamp", "(extract(epoch from hour) * 1000000)::bigint", "hour::text"):
        table = on_warehouse(f"SELECT station AS airport, wind, {expression} AS at FROM hours", WEATHER)
        found = batch.run(table, since_us=start + 2 * hour, now_us=start + 5 * hour)
        assert sorted(found["wind"].to_pylist()) == [3.0, 4.0, 5.0]
        assert batch.run(table).num_rows == 10


@pytest.mark.postgres
@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM planes RETURNING tail, built",
        "WITH gone AS (DELETE FROM planes RETURNING *) SELECT * FROM gone",
        "DROP TABLE planes",
        "SELECT * FROM planes; DROP TABLE planes",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "COPY planes TO STDOUT",
        "CREATE TABLE mine AS SELECT * FROM planes",
        "SELECT * INTO mine FROM planes",
        "SELECT * FROM planes FOR UPDATE",
        "COMMIT",
    ],
)
def test_a_query_writes_nothing(warehouse: str, batch: DuckDBBatchEngine, query: str) -> None:
    with pytest.raises(PlanError, match="table plane failed"):
        batch.run(on_warehouse(query))
    with engine(warehouse).connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM planes").scalar() == 2
        assert connection.exec_driver_sql("SELECT to_regclass('mine')").scalar() is None


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT nothing FROM planes", "nothing"),
        ("SELECT point(1, 2) AS p", '"p" of type point.*cast it'),
        ("SELECT interval '1 month' AS i", '"i" of type interval'),
        ("SELECT 'NaN'::numeric AS x", "cast it"),
        ("SELECT 'infinity'::timestamptz AS at", "timestamp"),
        ("SELECT '{{1,2},{3,4}}'::int8[] AS v", "cast it"),
        ("SELECT tail, tail FROM planes", "twice"),
    ],
)
def test_what_has_no_place_is_refused_with_its_column(batch: DuckDBBatchEngine, query: str, told: str) -> None:
    with pytest.raises(PlanError, match=f"table plane.*{told}"):
        batch.run(on_warehouse(query))


@pytest.mark.postgres
def test_a_warehouse_that_is_away_or_refuses_is_told_without_its_password(warehouse: str) -> None:
    port = urlsplit(warehouse).port
    assert port is not None
    table = on_warehouse("SELECT * FROM planes")

    def run(url: str) -> None:
        DuckDBBatchEngine({"warehouse": url}, CLOCK).run(table)

    with Link(port) as link:
        url = warehouse.replace(f":{port}/", f":{link.port}/")
        run(url)
        link.cut()
        with pytest.raises(Unreachable, match="table plane cannot be reached") as raised:
            run(url)
        assert "headrace-secret" not in str(raised.value)
        link.mend()
        run(url)
    for wrong, told in (
        (warehouse.replace("headrace-secret", "not-the-secret"), "password authentication failed"),
        (warehouse + "_gone", "does not exist"),
        ("postgresql://u:not-the-secret@h:port/x", "cannot be reached"),
    ):
        with pytest.raises(StoreError, match=told) as refused:
            run(wrong)
        assert "secret" not in str(refused.value)


# --- object storage ---


@pytest.fixture(scope="module")
def objects() -> Bucket:
    return bucket()


def _put(objects: Bucket, key: str, rows: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    objects.client.put_object(Bucket=BUCKET, Key=key, Body=sink.getvalue())


@pytest.mark.s3
@pytest.mark.parametrize("keep", [64 << 20, 1])
def test_parquet_on_s3_is_a_source_that_is_read_again_when_it_changes(
    objects: Bucket, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    monkeypatch.setattr("headrace.engines.batch.files.KEEP_BYTES", keep)
    prefix = f"sources-{secrets.token_hex(4)}"
    for day in (1, 2):
        rows = pa.table({"tail": [f"N{day}"], "built": [day]})
        _put(objects, f"{prefix}/planes/region=e%20u/day=2026-01-0{day}/x.parquet", rows)
    sources = {"planes": f"{objects.uri}/{prefix}/planes", "one": f"{objects.uri}/{prefix}/planes/day=3/y.parquet"}
    batch = DuckDBBatchEngine(sources, CLOCK, objects=s3_options(objects.options))
    query = replace(PLANE, query="select * from planes order by tail")
    expected = [{"tail": f"N{n}", "built": n, "region": "e u", "day": date(2026, 1, n)} for n in (1, 2)]
    assert batch.run(query).to_pylist() == expected
    _put(objects, f"{prefix}/planes/region=e%20u/day=2026-01-02/z.parquet", pa.table({"tail": ["N3"], "built": [None]}))
    assert batch.run(query)["tail"].to_pylist() == ["N1", "N2", "N3"]
    only = replace(PLANE, query="select tail from planes where day = '2026-01-01'")
    assert batch.run(only)["tail"].to_pylist() == ["N1"]
    with pytest.raises(NotFound, match="no Parquet files"):
        batch.run(replace(PLANE, query="select * from one"))
    batch.close()


@pytest.mark.s3
def test_object_storage_that_is_away_or_refuses_is_named(objects: Bucket) -> None:
    prefix = f"sources-{secrets.token_hex(4)}"
    _put(objects, f"{prefix}/planes.parquet", pa.table({"tail": ["N1"], "built": [1]}))
    sources = {"planes": f"{objects.uri}/{prefix}/planes.parquet"}
    with Link(objects.port) as link:
        link.cut()
        options = objects.options | {"endpoint_url": f"http://127.0.0.1:{link.port}", "max_retries": "0"}
        with pytest.raises(Unreachable, match=f"{link.port} does not answer"):
            DuckDBBatchEngine(sources, CLOCK, objects=s3_options(options)).run(PLANE)
    wrong = s3_options(objects.options | {"secret_access_key": "not-the-secret"})
    with pytest.raises(StoreError, match="403") as raised:
        DuckDBBatchEngine(sources, CLOCK, objects=wrong).run(PLANE)
    assert "not-the-secret" not in str(raised.value)
