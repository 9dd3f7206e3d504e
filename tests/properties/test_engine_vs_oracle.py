"""Online, history and as served give the oracle's values to the last bit, however the log was cut and read."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, note
from hypothesis import strategies as st

from headrace.aggregations import layout
from headrace.core.schema import DType, Field, Schema, list_of, map_of
from headrace.core.time import US_PER_DAY, US_PER_MINUTE, US_PER_SECOND
from headrace.features.plan import AggregateSpec, GroupPlan, KeyPart, StreamPlan
from headrace.retrieval.history import ServedAt
from headrace.testing import strategies
from headrace.testing.oracle import RawEvent, clock, group_row, judge
from tests.properties.world import SOME, World, batches, bits, differing, group_view, project_of, served_at, shown

HORIZONS_US = st.sampled_from((0, 0, US_PER_SECOND, 10 * US_PER_MINUTE, US_PER_DAY))
SEEDS = st.integers(0, 2**32 - 1)


def partitions_of(records: Sequence[RawEvent]) -> int:
    return max((record.partition for record in records), default=0) + 1


def start_of(records: Sequence[RawEvent]) -> int:
    return min((record.arrival_us for record in records), default=0)


def run(
    folder: str,
    stream: StreamPlan,
    group: GroupPlan,
    records: Sequence[RawEvent],
    horizon_us: int,
    rng: random.Random,
    restarts: bool = False,
    tiles: bool | None = None,
) -> World:
    """All records through the workers, which step (and are restarted) at random moments in between.

    With `tiles` (else every other time) tiles are made of single events, and their keys are free: there are too few
    events here to make any otherwise.
    """
    few = rng.random() < 0.5 if tiles is None else tiles
    fewest = mock.patch.object(layout, "_fewest", return_value=1)
    costs = mock.patch.object(layout, "_state_costs", lambda tiled, _: np.zeros(len(tiled), np.int64))
    with fewest if few else nullcontext(), costs if few else nullcontext():
        world = World(project_of(stream, group), partitions_of(records), start_of(records), horizon_us, Path(folder))
        feed(world, stream, records, rng, restarts)
    return world


def feed(
    world: World, stream: StreamPlan, records: Sequence[RawEvent], rng: random.Random, restarts: bool = False
) -> None:
    for batch in batches(records, rng):
        world.publish(stream, batch)
        step_at_random(world, rng, restarts)
    world.drain()


def step_at_random(world: World, rng: random.Random, restarts: bool) -> None:
    if rng.random() < 0.4:
        world.compute.step(rng.choice((1, 2, 7, 50_000)))
    if rng.random() < 0.4:
        world.ingest.step(rng.choice((1, 2, 1_000)))
    if rng.random() < 0.2:
        world.archive.step(rng.choice((1, 3, 1_000)))
    if restarts and rng.random() < 0.15:
        world.restart(checkpoint=rng.random() < 0.5)


@st.composite
def cases(draw: st.DrawFn, max_partitions: int = 3) -> tuple[StreamPlan, list[RawEvent], GroupPlan]:
    stream = draw(strategies.streams())
    records = draw(strategies.histories(stream, max_events=40, max_partitions=max_partitions))
    return stream, records, draw(strategies.group_plans(stream))


@st.composite
def questions(
    draw: st.DrawFn, stream: StreamPlan, records: list[RawEvent], group: GroupPlan
) -> tuple[list[tuple[Any, ...]], list[int]]:
    """Keys and times to read at."""
    keys = [*strategies.entities_of(stream, group, records)[:3], tuple(None for _ in group.key)]
    times = draw(st.lists(strategies.read_times(records, group), min_size=1, max_size=4))
    pairs = [(key, t) for key in keys for t in times]
    return [key for key, _ in pairs], [t for _, t in pairs]


@st.composite
def dense_cases(draw: st.DrawFn) -> tuple[StreamPlan, list[RawEvent], GroupPlan]:
    """One entity, a few microseconds, ids in no order: every tie and every edge is hit."""
    identity = Field("order_id", DType.INT)
    stream = StreamPlan("order", Schema("order", (identity, *strategies.SCHEMA.fields), "at", "order_id"))
    rows = draw(st.lists(st.tuples(_DENSE_US, st.integers(0, 3), st.sampled_from((None, 1.0, 0.5, -2.0))), max_size=16))
    ids = draw(st.permutations(range(len(rows))))
    nothing = dict.fromkeys(("quantity", "flag", "due", "spot"))
    fixed = {"user": "ann", "shop": 7, "price": 1.0, "channel": "app", **nothing}
    drawn = sorted(((at + lag, at, amount) for at, lag, amount in rows), key=lambda row: row[0])
    records = [
        RawEvent(0, i, arrival, {**fixed, "order_id": ids[i], "total": i, "at": at, "amount": amount})
        for i, (arrival, at, amount) in enumerate(drawn)
    ]
    group = draw(strategies.group_plans(stream, max_aggregates=1))
    resolution = draw(st.sampled_from((1, 1, 2)))
    specs = tuple(
        AggregateSpec(f"f{n}", kind, source, None, window, hop, delay, dtype, tuple(params))
        for n, (kind, source, dtype, *params) in enumerate(
            (
                ("count", None, DType.INT),
                ("sum", 0, DType.FLOAT),
                ("first", 3, DType.INT),
                ("last", 3, DType.INT),
                ("min", 0, DType.FLOAT),
                ("std", 3, DType.FLOAT),
                ("time_since_first", None, DType.DURATION),
                *draw(st.sampled_from(((), _KEPT))),
            )
        )
        for window, hop, delay in [draw(_EDGES)]
    )
    hops = tuple(replace(spec, hop_us=max(spec.hop_us, resolution)) for spec in specs)
    names = tuple(spec.name for spec in specs)
    key = (KeyPart("user", DType.STRING, "user"),)
    plan = replace(group, where=None, key=key, aggregates=hops, derived=(), order=names, resolution_us=resolution)
    return stream, records, plan


# What the lifetime needs single old rows for, or how often values occur.
_KEPT = (
    ("first_n", 3, DType.LIST_INT, ("n", 2)),
    ("last_n", 3, DType.LIST_INT, ("n", 2)),
    ("n_unique", 0, DType.INT, ("cap", 2)),
    ("n_unique", 0, DType.INT),
)
# Far enough apart for the first ones to be folded, or dropped, before the last ones come.
_DENSE_US = st.one_of(st.integers(0, 6), st.builds(int.__add__, st.sampled_from((14, 28, 60)), st.integers(0, 6)))
_EDGES = st.tuples(st.sampled_from((None, None, 2, 4, 8)), st.sampled_from((1, 2)), st.sampled_from((0, 0, 1, 3)))


@st.composite
def lifetime_cases(draw: st.DrawFn) -> tuple[StreamPlan, list[RawEvent], GroupPlan]:
    """Features of the lifetime whose states grow, over events most of which are folded before the last ones come."""
    stream = StreamPlan("order", strategies.SCHEMA)
    row = st.fixed_dictionaries(
        {
            "amount": st.sampled_from((None, 0.0, 1.0, 0.1, -2.5, 1e300, -1e-300)) | strategies.floats(),
            "quantity": st.sampled_from((None, 0, 1, -3, 2**62, -(2**63), 300)),
            "flag": st.sampled_from((True, False, None)),
            "due": st.sampled_from((None, 0, -5, 10**15)),
            "channel": st.sampled_from(("app", "b", "é", "B", "test")),
        }
    )
    times_us, lag_us = st.integers(0, 60), st.sampled_from((0, 0, 0, 1, 30))
    drawn = draw(st.lists(st.tuples(times_us, lag_us, row), max_size=24))
    drawn.sort(key=lambda item: item[0] + item[1])
    fixed = {"user": "ann", "shop": 7, "price": 1.0, "total": 1}
    records = [RawEvent(0, i, at + lag, {**fixed, **row, "at": at}) for i, (at, lag, row) in enumerate(drawn)]
    group = draw(strategies.group_plans(stream, max_aggregates=1))
    chosen = draw(st.lists(st.sampled_from(_GROWING), min_size=1, max_size=8))
    conditions = st.sampled_from((None, None, len(group.inputs) - len(strategies._CONDITIONS)))
    # Of a group with a resolution tiles have such states, too, and so have windows that read these.
    resolution_us = draw(st.sampled_from((1, 1, 2, 4)))
    lengths = st.sampled_from((None, None, None, 16) if resolution_us > 1 else (None,))
    specs = tuple(
        AggregateSpec(
            f"f{n}", kind, source, draw(conditions), draw(lengths), 4, draw(_DELAYS), dtype, tuple(params), by=by
        )
        for n, (kind, source, by, dtype, *params) in enumerate(chosen)
    )
    if draw(st.booleans()):
        specs += (AggregateSpec("recent", "count", None, None, 8, 4, 0, DType.INT),)
    if draw(st.booleans()):
        specs += (AggregateSpec("newest", "last", 10, None, None, 1, 0, DType.STRING),)
    key, names = (KeyPart("user", DType.STRING, "user"),), tuple(spec.name for spec in specs)
    plan = replace(group, where=None, key=key, aggregates=specs, derived=(), order=names, resolution_us=resolution_us)
    return stream, records, plan


_DELAYS = st.sampled_from((0, 0, 3))
_GROWING: tuple[tuple[Any, ...], ...] = (
    *(("quantile", source, None, DType.FLOAT, ("q", q)) for source in (0, 2) for q in (0.0, 0.5, 0.9)),
    *(("skewness", source, None, DType.FLOAT) for source in (0, 2)),
    *(("approx_n_unique", source, None, DType.INT) for source in (0, 2, 4, 8)),
    *(("n_unique", source, None, DType.INT, ("cap", cap)) for source in (0, 2, 10) for cap in (2, 4, 1_000)),
    *(
        ("most_frequent", source, None, dtype)
        for source, dtype in ((0, DType.FLOAT), (4, DType.BOOL), (10, DType.STRING))
    ),
    *(
        ("histogram", source, None, map_of(dtype, DType.INT))
        for source, dtype in ((0, DType.FLOAT), (10, DType.STRING))
    ),
    ("histogram", 2, None, map_of(DType.INT, DType.INT), ("cap", 3)),
    ("top_k", 2, None, list_of(DType.INT), ("k", 2)),
    ("top_k", 10, None, list_of(DType.STRING), ("k", 2)),
    *((kind, 10, None, DType.STRING) for kind in ("min", "max")),
    *(
        (kind, source, by, map_of(key, gives))
        for by, key in ((2, DType.INT), (4, DType.BOOL), (5, DType.TIMESTAMP), (10, DType.STRING))
        for kind, source, gives in (
            ("count", None, DType.INT),
            ("count", 0, DType.INT),
            ("sum", 0, DType.FLOAT),
            ("sum", 2, DType.INT),
            ("mean", 0, DType.FLOAT),
            ("min", 0, DType.FLOAT),
            ("max", 10, DType.STRING),
        )
    ),
)
"""Kind, column, buckets, type and parameters of features of the lifetime; the numbers are those of the inputs."""


@SOME
@given(lifetime_cases(), st.integers(0, 4), SEEDS)
def test_what_the_lifetime_keeps_gives_the_values_of_all_events(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], horizon_us: int, seed: int
) -> None:
    stream, records, group = case
    newest = clock(stream, records)
    first = -2 if newest is None else newest - horizon_us
    times = [*range(first, first + 8), first + 40]
    keys = [("ann",)] * len(times)
    events = judge(stream, records)
    found = []
    for rng in (random.Random(seed), random.Random(seed + 1)):
        with tempfile.TemporaryDirectory() as folder:
            world = run(folder, stream, group, records, horizon_us, rng, restarts=True, tiles=seed % 2 == 0)
            online, corrected = (
                world.read(group_view(group), keys, times),
                world.history(group_view(group), keys, times),
            )
            found.append(list(world.online.scan()))
        for row, t in enumerate(times):
            wanted = group_row(group, ("ann",), t, events)
            assert differing(shown(online, row), wanted) == {}
            assert differing(shown(corrected, row), wanted) == {}
    assert found[0] == found[1], "a record depends on how its events were batched"


@SOME
@given(dense_cases(), st.integers(0, 4), SEEDS)
def test_every_tie_and_edge_is_read_as_the_oracle_says(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], horizon_us: int, seed: int
) -> None:
    stream, records, group = case
    newest = clock(stream, records)
    first = -2 if newest is None else newest - horizon_us
    times = [*range(first, first + 12), *range(first + 12, first + 40, 5)]
    keys = [("ann",)] * len(times)
    events = judge(stream, records)
    with tempfile.TemporaryDirectory() as folder:
        world = run(folder, stream, group, records, horizon_us, random.Random(seed), restarts=True)
        online, corrected = world.read(group_view(group), keys, times), world.history(group_view(group), keys, times)
    for row, t in enumerate(times):
        wanted = group_row(group, ("ann",), t, events)
        assert differing(shown(online, row), wanted) == {}
        assert differing(shown(corrected, row), wanted) == {}


@SOME
@given(cases(), HORIZONS_US, SEEDS, st.booleans(), st.data())
def test_online_reads_equal_the_oracle(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], horizon_us: int, seed: int, restarts: bool, data: st.DataObject
) -> None:
    stream, records, group = case
    keys, times = data.draw(questions(stream, records, group))
    newest = clock(stream, records)
    if newest is not None:
        times = [max(t, newest - horizon_us) for t in times]
    events = judge(stream, records)
    with tempfile.TemporaryDirectory() as folder:
        world = run(folder, stream, group, records, horizon_us, random.Random(seed), restarts)
        block = world.read(group_view(group), keys, times)
    for row, (key, t) in enumerate(zip(keys, times, strict=True)):
        wanted = group_row(group, key, t, events)
        note(f"{key} at {t}")
        assert differing(shown(block, row), wanted) == {}


@SOME
@given(cases(), SEEDS, st.data())
def test_corrected_history_equals_the_oracle(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], seed: int, data: st.DataObject
) -> None:
    stream, records, group = case
    keys, times = data.draw(questions(stream, records, group))
    events = judge(stream, records)
    with tempfile.TemporaryDirectory() as folder:
        world = run(folder, stream, group, records, 0, random.Random(seed))
        block = world.history(group_view(group), keys, times)
    for row, (key, t) in enumerate(zip(keys, times, strict=True)):
        note(f"{key} at {t}")
        assert differing(shown(block, row), group_row(group, key, t, events)) == {}


@SOME
@given(cases(), SEEDS, st.data())
def test_history_as_served_equals_the_oracle_at_each_position(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], seed: int, data: st.DataObject
) -> None:
    stream, records, group = case
    keys, times = data.draw(questions(stream, records, group))
    places = [data.draw(strategies.positions(records)) for _ in keys]
    events = judge(stream, records)
    served = ServedAt({stream.name: np.array(places, np.int64)}, np.zeros(len(keys), np.int64))
    with tempfile.TemporaryDirectory() as folder:
        world = run(folder, stream, group, records, 0, random.Random(seed))
        block = world.history(group_view(group), keys, times, served)
    for row, (key, t) in enumerate(zip(keys, times, strict=True)):
        note(f"{key} at {t} as served at {places[row]}")
        assert differing(shown(block, row), group_row(group, key, t, events, places[row])) == {}


@SOME
@given(cases(), HORIZONS_US, SEEDS, st.data())
def test_what_was_served_midway_is_recomputed_as_served(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], horizon_us: int, seed: int, data: st.DataObject
) -> None:
    """Online answers given while the log grew equal history as served at the answers' own positions."""
    stream, records, group = case
    keys, times = data.draw(questions(stream, records, group))
    rng = random.Random(seed)
    view, partitions = group_view(group), partitions_of(records)
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        world = World(project_of(stream, group), partitions, start_of(records), horizon_us, Path(folder))
        for batch in batches(records, rng):
            world.publish(stream, batch)
            step_at_random(world, rng, restarts=True)
            if rng.random() < 0.2:
                newest = world.ingest.position.clock_us.get(stream.name, -(2**63))
                asked = [max(t, newest - horizon_us) for t in times]
                answers.append((asked, world.read(view, keys, asked)))
        world.drain()
        for asked, block in answers:
            served = served_at(block.position, [stream.name], partitions, len(keys))
            again = world.history(view, keys, asked, served)
            assert np.array_equal(again.valid, block.valid)
            assert np.array_equal(again.words, block.words)
            place = block.position.streams.get(stream.name, [0] * partitions)
            events = judge(stream, records)
            for row, (key, t) in enumerate(zip(keys, asked, strict=True)):
                assert differing(shown(block, row), group_row(group, key, t, events, place)) == {}


@SOME
@given(cases(max_partitions=1), HORIZONS_US, st.tuples(SEEDS, SEEDS), st.booleans())
def test_online_records_do_not_depend_on_how_the_log_was_cut(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], horizon_us: int, seeds: tuple[int, int], tiles: bool
) -> None:
    stream, records, group = case
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            world = run(folder, stream, group, records, horizon_us, random.Random(seed), restarts=True, tiles=tiles)
            found.append((list(world.online.scan()), world.ingest.position.streams, world.ingest.position.clock_us))
    assert found[0] == found[1]


@SOME
@given(cases(), SEEDS, st.data())
def test_nothing_past_the_position_changes_what_was_served(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], seed: int, data: st.DataObject
) -> None:
    """Rows at a position of a long log are those of a log that ends there."""
    stream, records, group = case
    keys, times = data.draw(questions(stream, records, group))
    end = data.draw(strategies.positions(records))
    before = [record for record in records if record.offset < end[record.partition]]
    served = ServedAt({stream.name: np.array([end] * len(keys), np.int64)}, np.zeros(len(keys), np.int64))
    short = answer(stream, group, before, seed, keys, times, len(end))
    assert answer(stream, group, records, seed + 1, keys, times, len(end), served) == short


@SOME
@given(cases(), SEEDS, st.data())
def test_events_at_or_after_t_change_no_row_at_t(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], seed: int, data: st.DataObject
) -> None:
    """No leak: what happens at t or later, and is known last, changes no corrected row at t."""
    stream, records, group = case
    t = data.draw(strategies.read_times(records, group))
    keys = strategies.entities_of(stream, group, records)[:3]
    earlier = [record for record in records if record.fields is None or record.fields["at"] < t]
    future = [record for record in records if record.fields is not None and record.fields["at"] >= t]
    partitions = partitions_of(records)
    times = [t] * len(keys)
    without = answer(stream, group, appended(earlier), seed, keys, times, partitions)
    assert answer(stream, group, appended([*earlier, *future]), seed, keys, times, partitions) == without


def appended(records: Sequence[RawEvent]) -> list[RawEvent]:
    """The records appended in this order: with new offsets, and arrivals that never go back."""
    ends: Counter[int] = Counter()
    arrival, found = -(2**62), []
    for record in records:
        arrival = max(arrival, record.arrival_us)
        found.append(replace(record, offset=ends[record.partition], arrival_us=arrival))
        ends[record.partition] += 1
    return found


def answer(
    stream: StreamPlan,
    group: GroupPlan,
    records: Sequence[RawEvent],
    seed: int,
    keys: Sequence[tuple[Any, ...]],
    times: Sequence[int],
    partitions: int,
    served: ServedAt | None = None,
) -> tuple[Any, Any]:
    """Validity and bits of history over a log of these records."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(project_of(stream, group), partitions, start_of(records), 0, Path(folder))
        feed(world, stream, records, random.Random(seed))
        block = world.history(group_view(group), keys, times, served)
    return block.valid.tolist(), [bits(shown(block, row)) for row in range(len(block))]
