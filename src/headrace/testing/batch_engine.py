"""Conformance kit of the BatchEngine port: derive a test class per engine and say how to open it over tables."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from headrace.core.errors import NotFound, PlanError
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import US_PER_HOUR, Clock, SimulatedClock
from headrace.engines.batch.base import BatchEngine
from headrace.features.plan import KeyPart, TablePlan
from headrace.testing.capabilities import capability

_T0 = 1_370_044_800_000_000
_HOURS = 24
_STATIONS = ("EWR", "JFK", "LGA")
_WEATHER = TablePlan(
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
    query="select station as airport, wind, hour as at from weather",
    on=None,
    schedule="@hourly",
    ttl_us=None,
    delay_us=0,
    checks=(),
)
_PLANE = replace(
    _WEATHER,
    name="plane",
    schema=Schema("plane", (Field("tail", DType.STRING), Field("built", DType.INT, nullable=True)), None),
    key=(KeyPart("tail", DType.STRING, "aircraft"),),
    query="select tail, built from planes",
)


def _weather() -> list[dict[str, Any]]:
    """A row per station and hour, each known when its hour begins; the wind of hour 3 is null."""
    begin = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=_T0)
    return [
        {
            "station": station,
            "wind": None if hour == 3 else hour + 0.1,
            "hour": begin + timedelta(hours=hour),
            "known_at": begin + timedelta(hours=hour),
        }
        for hour in reversed(range(_HOURS))
        for station in _STATIONS
    ]


def _seen(rows: pa.Table) -> list[tuple[str, float | None, int]]:
    """Rows of the weather as (airport, wind, hour), sorted."""
    found = [
        (row["airport"], row["wind"], round((row["at"].timestamp() - _T0 / 1e6) / 3_600)) for row in rows.to_pylist()
    ]
    return sorted(found, key=lambda row: (row[2], row[0]))


def _expected(first: int, last: int) -> list[tuple[str, float | None, int]]:
    """What the table holds for hours `first` to `last`, computed without any engine."""
    return [(s, None if h == 3 else h + 0.1, h) for h in range(first, last + 1) for s in _STATIONS]


class BatchEngineTests(ABC):
    """What every batch engine does. Override `open`."""

    port = "BatchEngine"

    @abstractmethod
    def open(self, sources: Mapping[str, pa.Table], clock: Clock) -> BatchEngine:
        """Open an engine over these tables by name."""

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        """The engine's clock, in hour 5 of the table."""
        return SimulatedClock(_T0 + 5 * US_PER_HOUR)

    @pytest.fixture
    def engine(self, clock: SimulatedClock) -> Iterator[BatchEngine]:
        """The open engine, over weather and planes."""
        weather = pa.Table.from_pylist(
            _weather(),
            pa.schema(
                [
                    ("station", pa.string()),
                    ("wind", pa.float64()),
                    ("hour", pa.timestamp("us", "UTC")),
                    ("known_at", pa.timestamp("us", "UTC")),
                ]
            ),
        )
        planes = pa.table({"tail": ["N1", "ß 漢", ""], "built": pa.array([1999, None, -(2**63)], pa.int64())})
        opened = self.open({"weather": weather, "planes": planes}, clock)
        yield opened
        opened.close()

    @capability("a run sees what was known by its time")
    def test_a_run_sees_only_what_was_known_by_its_time(self, engine: BatchEngine, clock: SimulatedClock) -> None:
        assert _seen(engine.run(_WEATHER)) == _expected(0, 5)
        assert engine.run(_WEATHER, now_us=_T0 - 1).num_rows == 0
        assert _seen(engine.run(_WEATHER, now_us=_T0)) == _expected(0, 0)
        clock.advance_to(_T0 + 99 * US_PER_HOUR)
        assert _seen(engine.run(_WEATHER)) == _expected(0, _HOURS - 1)

    @capability("runs of a span of event time")
    def test_since_is_open_and_now_is_closed(self, engine: BatchEngine) -> None:
        def span(first: int, last: int) -> list[tuple[str, float | None, int]]:
            since, now = (_T0 + hour * US_PER_HOUR for hour in (first, last))
            return _seen(engine.run(_WEATHER, since_us=since, now_us=now))

        assert span(2, 4) == _expected(3, 4)
        assert span(4, 4) == []
        assert span(-7, 0) == _expected(0, 0)

    @capability("runs of a span of event time")
    def test_a_table_without_event_time_has_no_span(self, engine: BatchEngine) -> None:
        rows = engine.run(_PLANE, since_us=_T0)
        assert sorted(map(str, rows.to_pylist())) == sorted(map(str, engine.run(_PLANE).to_pylist()))
        assert rows.num_rows == 3

    @capability("values to the bit, nulls included")
    def test_values_come_as_the_source_holds_them(self, engine: BatchEngine) -> None:
        rows = engine.run(_PLANE).to_pylist()
        assert sorted(rows, key=lambda row: row["tail"]) == [
            {"tail": "", "built": -(2**63)},
            {"tail": "N1", "built": 1999},
            {"tail": "ß 漢", "built": None},
        ]

    @capability("joins and groups in SQL")
    def test_sources_are_joined_and_grouped(self, engine: BatchEngine) -> None:
        query = (
            "select p.tail as tail, count(w.wind) as built from planes p cross join weather w "
            "where w.station = 'JFK' group by p.tail"
        )
        rows = engine.run(replace(_PLANE, query=query), now_us=_T0 + 3 * US_PER_HOUR).to_pylist()
        assert {row["tail"]: row["built"] for row in rows} == {"": 3, "N1": 3, "ß 漢": 3}

    @capability("results in batches")
    def test_batches_together_are_what_a_run_returns(self, clock: SimulatedClock) -> None:
        numbers = pa.table({"tail": [f"N{n}" for n in range(10_000)], "built": list(range(10_000))})
        engine = self.open({"planes": numbers}, clock)
        pieces = [piece.to_pylist() for piece in engine.batches(_PLANE, 3_000)]
        together = sorted((row["built"], row["tail"]) for piece in pieces for row in piece)
        assert together == [(n, f"N{n}") for n in range(10_000)]
        (none,) = engine.batches(replace(_PLANE, query="select * from planes where tail = 'none'"), 3_000)
        assert (none.num_rows, none.column_names) == (0, ["tail", "built"])
        engine.close()

    @capability("what cannot run is told with the table's name")
    def test_unknown_sources_and_bad_queries_are_refused(self, engine: BatchEngine) -> None:
        with pytest.raises(NotFound, match="plane"):
            engine.run(replace(_PLANE, query="select * from plane"))
        with pytest.raises(NotFound, match="warehouse"):
            engine.run(replace(_PLANE, on="warehouse"))
        for query in ("selec 1", "select nothing from planes", "drop table planes", "select 1; select 2"):
            with pytest.raises(PlanError, match="plane"):
                engine.run(replace(_PLANE, query=query))
        with pytest.raises(PlanError, match="plane"):
            engine.run(replace(_PLANE, query=None))
        assert engine.run(_PLANE).num_rows == 3

    @capability("threads")
    def test_threads_run_at_once(self, engine: BatchEngine) -> None:
        failures: list[object] = []

        def work(first: int) -> None:
            try:
                for hour in range(first, first + 4):
                    found = _seen(engine.run(_WEATHER, now_us=_T0 + hour * US_PER_HOUR))
                    if found != _expected(0, hour) or engine.run(_PLANE).num_rows != 3:
                        failures.append((hour, found))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(first,), daemon=True) for first in (0, 5, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
