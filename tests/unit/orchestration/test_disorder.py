"""Seeded disorder: the same seed the same bytes, the declared shares, and every fact still arrives once."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from headrace.core.columns import Column
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, decode_block, encode_block
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import US_PER_HOUR, US_PER_MINUTE
from headrace.orchestration.disorder import ArrivingEvents, CleanEvents, Disorder, disturb

SCHEMA = Schema(
    "ping",
    (
        Field("ping_id", DType.STRING),
        Field("host", DType.STRING, entity="host"),
        Field("ms", DType.FLOAT),
        Field("note", DType.STRING, nullable=True),
        Field("at", DType.TIMESTAMP),
    ),
    "at",
    "ping_id",
)
N = 40_000


@pytest.fixture(scope="module")
def clean() -> CleanEvents:
    known = np.arange(N, dtype=np.int64) * US_PER_MINUTE
    table = pa.table(
        {
            "ping_id": [f"p{i}" for i in range(N)],
            "host": [f"h{i % 9}" for i in range(N)],
            "ms": np.arange(N) / 2,
            "note": [None if i % 3 else "n" for i in range(N)],
            "at": pa.array(known, pa.timestamp("us", "UTC")),
            "known_us": known,
        }
    )
    return CleanEvents.from_arrow(SCHEMA, table)


@pytest.fixture(scope="module")
def messy(clean: CleanEvents) -> ArrivingEvents:
    return disturb({"ping": clean}, seed=3)["ping"]


def whole(events: ArrivingEvents) -> EventBlock:
    return events.block(0, len(events))


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(clean: CleanEvents, messy: ArrivingEvents) -> None:
    again = disturb({"other": clean, "ping": clean}, seed=3)
    assert encode_block(whole(again["ping"])) == encode_block(whole(messy))
    assert encode_block(whole(again["other"])) != encode_block(whole(messy))
    assert encode_block(whole(disturb({"ping": clean}, seed=4)["ping"])) != encode_block(whole(messy))


def test_shares_are_as_declared(messy: ArrivingEvents) -> None:
    assert messy.counts["late"] == pytest.approx(0.02 * N, rel=0.2)
    assert messy.counts["duplicated"] == pytest.approx(0.01 * N, rel=0.2)
    assert messy.counts["swapped"] == pytest.approx(0.01 * N, rel=0.2)
    assert messy.counts["malformed"] == pytest.approx(0.001 * N, rel=0.6)
    assert len(messy.malformed) + messy.counts["far future"] == messy.counts["malformed"]
    assert len(messy) == N + messy.counts["duplicated"] + messy.counts["malformed"]


def test_every_event_arrives_unspoilt_and_only_duplicates_twice(clean: CleanEvents, messy: ArrivingEvents) -> None:
    far = messy.event_time_us > messy.known_us + US_PER_HOUR
    bad = {m.row for m in messy.malformed}
    sound = [i for i in range(len(messy)) if i not in bad and not far[i]]
    ids = Counter(np.array(whole(messy).columns["ping_id"].to_pylist(), object)[sound].tolist())
    assert set(ids) == {f"p{i}" for i in range(N)}
    assert Counter(ids.values())[2] == messy.counts["duplicated"]
    assert max(ids.values()) == 2
    assert int(far.sum()) == messy.counts["far future"] > 0


def test_arrivals_never_go_back_and_nothing_arrives_before_it_is_known(
    clean: CleanEvents, messy: ArrivingEvents
) -> None:
    assert (np.diff(messy.known_us) >= 0).all()
    delay = messy.known_us - clean.known_us[messy.source]
    assert (delay >= 0).all()
    assert (delay % US_PER_MINUTE == 0).all()
    assert delay.max() <= 10 * US_PER_HOUR + 10 * US_PER_MINUTE
    late = delay[delay > 5 * US_PER_MINUTE]
    assert np.median(late) < US_PER_HOUR < late.max()


def test_swapped_neighbours_arrive_in_reverse(clean: CleanEvents) -> None:
    only = disturb({"ping": clean}, seed=3, disorder=Disorder(0.0, 0.0, 0.5, 0.0))["ping"]
    back = np.flatnonzero(np.diff(only.source) < 0)
    assert len(back) == only.counts["swapped"] > 1000
    assert (only.known_us[back] == only.known_us[back + 1]).all()
    assert sorted(only.source.tolist()) == list(range(N))


def test_each_kind_of_spoiling_occurs_and_says_its_reason(messy: ArrivingEvents) -> None:
    reasons = " | ".join(f"{m.field}: {m.reason}" for m in messy.malformed)
    for words in ("is missing", "expected", "is not a time", "no such field"):
        assert words in reasons
    assert all("ping_id" in json.loads(m.payload) or m.field == "ping_id" for m in messy.malformed)
    assert [m.row for m in messy.malformed] == sorted({m.row for m in messy.malformed})


def test_without_disorder_the_events_are_as_they_were(clean: CleanEvents) -> None:
    calm = disturb({"ping": clean}, seed=3, disorder=Disorder(0.0, 0.0, 0.0, 0.0))["ping"]
    assert encode_block(whole(calm)) == encode_block(clean.block)
    assert (calm.known_us == clean.known_us).all()


def test_blocks_of_any_cut_say_the_same_as_the_whole(messy: ArrivingEvents) -> None:
    ticks = np.arange(0, messy.known_us[-1] + 1, 997 * US_PER_MINUTE)
    cuts = [0, *messy.bounds(ticks).tolist(), len(messy)]
    rows: list[tuple[object, ...]] = []
    malformed = []
    for start, stop in itertools.pairwise(cuts):
        block = decode_block(encode_block(messy.block(start, stop)), SCHEMA)
        rows += zip(*[c.to_pylist() for c in block.columns.values()], strict=True)
        malformed += [(m.row + start, m.field, m.payload) for m in block.malformed]
    assert rows == list(zip(*[c.to_pylist() for c in whole(messy).columns.values()], strict=True))
    assert malformed == [(m.row, m.field, m.payload) for m in messy.malformed]
    assert all(rows[row] == (None,) * 5 for row, _, _ in malformed)
    assert messy.known_us[cuts[2] - 1] <= ticks[1] < messy.known_us[cuts[2]]


def test_events_that_are_not_clean_are_refused() -> None:
    table = pa.table({"ping_id": ["a"], "host": ["h"], "ms": [float("inf")], "at": [5], "known_us": [5]})
    with pytest.raises(SchemaError, match="row 0 of ping"):
        CleanEvents.from_arrow(SCHEMA, table)


def test_unsorted_events_are_sorted_by_when_they_become_known() -> None:
    table = pa.table({"ping_id": ["a", "b"], "host": ["h", "h"], "ms": [1.0, 2.0], "at": [5, 4], "known_us": [9, 8]})
    clean = CleanEvents.from_arrow(SCHEMA, table)
    assert clean.block.columns["ping_id"].to_pylist() == ["b", "a"]
    assert clean.known_us.tolist() == [8, 9]
    assert isinstance(clean.block.columns["ms"], Column)
