"""Table rows, however they were written and read, give the oracle's row to the last bit."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, given, note
from hypothesis import strategies as st

from headrace.core.errors import HorizonError
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import US_PER_DAY, US_PER_MINUTE
from headrace.features.plan import StreamPlan, TablePlan
from headrace.retrieval.history import ServedAt
from headrace.retrieval.online import OnlineReader
from headrace.testing import strategies
from headrace.testing.oracle import TableRow, latest
from tests.properties.world import SOME, World, differing, project_of, request_of, shown, table_view

STREAM = StreamPlan("order", strategies.SCHEMA)
HORIZONS_US = st.sampled_from((0, 0, 1, 10 * US_PER_MINUTE, US_PER_DAY))
SEEDS = st.integers(0, 2**32 - 1)
TEXT = Field("city", DType.STRING, nullable=True)
LIST = Field("taste", DType.LIST, nullable=True, size=2)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TablePlan, list[TableRow]]:
    """A table with or without event time, with texts and lists beside the numbers, and what was written to it."""
    table, rows = draw(strategies.table_plans()), draw(strategies.table_histories(max_rows=20))
    fields = (*table.schema.fields, TEXT, LIST)
    cities, tastes = st.sampled_from((None, "", "Köln")), st.sampled_from((None, [0.5, -1.0], [1e308, 0.0]))
    rows = [
        replace(row, fields=None if row.fields is None else {**row.fields, "city": draw(cities), "taste": draw(tastes)})
        for row in rows
    ]
    if draw(st.integers(0, 3)):
        return replace(table, schema=replace(table.schema, fields=fields)), rows
    timeless = Schema("profile", tuple(field for field in fields if field.name != "at"), None)
    return replace(table, schema=timeless), [replace(row, event_time_us=None) for row in rows]


def run(folder: str, table: TablePlan, rows: Sequence[TableRow], horizon_us: int, rng: random.Random) -> World:
    """All rows through ingestion and archive, which step at random moments."""
    start = min((row.written_us for row in rows), default=0)
    world = World(project_of(STREAM, table=table), 1, start, horizon_us, Path(folder))
    batch: list[TableRow] = []
    for row in rows:
        if batch and (rng.random() < 0.5 or row.written_us != batch[0].written_us):
            world.put(table, batch)
            batch = []
            if rng.random() < 0.5:
                world.ingest.step()
            if rng.random() < 0.3:
                world.archive.step(rng.choice((1, 2, 1_000)))
            if rng.random() < 0.2:
                world.restart()
        batch.append(row)
    if batch:
        world.put(table, batch)
    world.drain()
    return world


def moments(table: TablePlan, rows: Sequence[TableRow]) -> st.SearchStrategy[int]:
    """Times at and beside writes, event times, availability and expiry."""
    edges = [0]
    for row in rows:
        edges.append(row.written_us)
        if row.event_time_us is not None:
            edges += [row.event_time_us, row.event_time_us + table.delay_us, row.event_time_us + (table.ttl_us or 0)]
    return st.builds(lambda edge, beside: edge + beside, st.sampled_from(edges), st.sampled_from((0, 1, 1, -1)))


def wanted_of(table: TablePlan, found: Any) -> dict[str, Any]:
    row = {spec.name: None if found is None else found[spec.name] for spec in table.features}
    return {name: 0.0 if value == 0 and isinstance(value, float) else plain(value) for name, value in row.items()}


def plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | np.ndarray) else value


def check(world_row: dict[str, Any], wanted: dict[str, Any]) -> None:
    got = {name: plain(value) for name, value in world_row.items()}
    assert differing(got, wanted) == {}


@st.composite
def questions(draw: st.DrawFn, table: TablePlan, rows: Sequence[TableRow]) -> tuple[list[tuple[Any, ...]], list[int]]:
    times = draw(st.lists(moments(table, rows), min_size=1, max_size=6))
    pairs = [((user,), t) for user in ("ann", "bob", "nobody", None) for t in times]
    return [key for key, _ in pairs], [t for _, t in pairs]


@SOME
@given(cases(), HORIZONS_US, SEEDS, st.data())
def test_online_reads_equal_the_oracle_or_are_refused(
    case: tuple[TablePlan, list[TableRow]], horizon_us: int, seed: int, data: st.DataObject
) -> None:
    """Within the horizon of the newest write a read is exact; further back it is exact or refused."""
    table, rows = case
    keys, times = data.draw(questions(table, rows))
    newest = max((row.written_us for row in rows), default=-(2**62))
    with tempfile.TemporaryDirectory() as folder:
        world = run(folder, table, rows, horizon_us, random.Random(seed))
        view = table_view(table)
        reader = OnlineReader(view, world.project, world.online, horizon_us=horizon_us)
        for key, t in zip(keys, times, strict=True):
            note(f"{key} at {t}")
            try:
                block = reader.read(request_of(view, [key], [t]))
            except HorizonError:
                assert t < newest - horizon_us
                continue
            check(shown(block, 0), wanted_of(table, latest(table, key, t, rows)))


@SOME
@given(cases(), SEEDS, st.data())
def test_history_equals_the_oracle_corrected_and_as_served(
    case: tuple[TablePlan, list[TableRow]], seed: int, data: st.DataObject
) -> None:
    table, rows = case
    keys, times = data.draw(questions(table, rows))
    places = data.draw(st.lists(st.integers(0, len(rows)), min_size=len(keys), max_size=len(keys)))
    served = ServedAt({}, np.array(places, np.int64))
    with tempfile.TemporaryDirectory() as folder:
        world = run(folder, table, rows, 0, random.Random(seed))
        corrected = world.history(table_view(table), keys, times)
        as_served = world.history(table_view(table), keys, times, served)
    for row, (key, t) in enumerate(zip(keys, times, strict=True)):
        note(f"{key} at {t}, as served at {places[row]}")
        check(shown(corrected, row), wanted_of(table, latest(table, key, t, rows)))
        check(shown(as_served, row), wanted_of(table, latest(table, key, t, rows, places[row])))


@SOME
@given(cases(), HORIZONS_US, st.tuples(SEEDS, SEEDS))
def test_online_records_do_not_depend_on_how_the_rows_were_batched(
    case: tuple[TablePlan, list[TableRow]], horizon_us: int, seeds: tuple[int, int]
) -> None:
    table, rows = case
    assume(rows)
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            found.append(list(run(folder, table, rows, horizon_us, random.Random(seed)).online.scan()))
    assert found[0] == found[1]
