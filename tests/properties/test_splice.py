"""Records made by the compiled splice are those that the general merge makes, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.aggregations.layout import GroupLayout, layout_of
from headrace.aggregations.records import EntityDelta, merge
from headrace.aggregations.splice import merge_groups
from headrace.core.schema import DType
from headrace.engines.stream.coalesce import join_deltas
from headrace.engines.stream.commits import GroupDelta
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec, KeyPart
from headrace.ingestion.materialize import _GroupChange, _rounds

HORIZON_US = 20


def group(*aggregates: AggregateSpec, resolution_us: int = 1) -> GroupLayout:
    plan = GroupPlan(
        name="g",
        version="00000000000000aa",
        stream="s",
        where=None,
        key=(KeyPart("user", DType.STRING, "user"),),
        inputs=(
            InputSpec(ColumnRef("x", DType.FLOAT), DType.FLOAT),
            InputSpec(ColumnRef("n", DType.INT), DType.INT),
        ),
        aggregates=aggregates,
        derived=(),
        order=tuple(a.name for a in aggregates),
        resolution_us=resolution_us,
    )
    return layout_of(plan)


def feature(kind: str, column: int, window_us: int | None) -> AggregateSpec:
    return AggregateSpec(f"{kind}_{column}_{window_us}", kind, column, None, window_us, 1, 0, DType.FLOAT)


WINDOWED = group(feature("sum", 0, 30), feature("max", 1, 60))
ORDERED = group(feature("last", 0, 30), feature("sum", 1, 10))
LIFETIME = group(feature("sum", 0, None), feature("min", 1, None), feature("mean", 1, 20))
LAST_OF_ALL = group(feature("last", 0, None), feature("first", 0, 20))
TILED = replace(
    group(
        AggregateSpec("sum", "sum", 0, None, 40, 4, 0, DType.FLOAT),
        AggregateSpec("var", "var", 1, None, 400, 100, 0, DType.FLOAT),
        AggregateSpec("max", "max", 0, None, 400, 100, 0, DType.FLOAT),
        resolution_us=4,
    ),
    fewest=2,
)
TILED_FOREVER = replace(
    group(
        AggregateSpec("mean", "mean", 0, None, None, 10, 0, DType.FLOAT),
        AggregateSpec("min", "min", 1, None, 200, 10, 0, DType.FLOAT),
        resolution_us=10,
    ),
    fewest=1,
)
GROWING = group(
    AggregateSpec("quantile", "quantile", 0, None, None, 1, 0, DType.FLOAT, (("q", 0.5),)),
    feature("skewness", 1, None),
    feature("n_unique", 1, None),
    feature("sum", 0, 30),
    AggregateSpec("by", "sum", 0, None, None, 1, 0, DType.FLOAT, by=1),
)
GROWING_AND_KEPT = group(feature("histogram", 1, None), feature("approx_n_unique", 0, None), feature("last", 0, None))
LAYOUTS = {
    "windowed": WINDOWED,
    "ordered": ORDERED,
    "lifetime": LIFETIME,
    "last of all": LAST_OF_ALL,
    "growing": GROWING,
    "growing and kept": GROWING_AND_KEPT,
    "tiled": TILED,
    "tiled forever": TILED_FOREVER,
}


@dataclass
class Delta:
    """What a commit brings to one group."""

    counts: list[int]
    clocks: bytes
    positions: bytes
    times: bytes
    columns: list[bytes]
    offsets: bytes
    partitions: bytes
    ids: list[Any] | None


def bits(values: list[int]) -> bytes:
    return np.array(values, "<i8").tobytes()


class Source:
    """Makes commits of random events whose times wander forward, in two partitions."""

    def __init__(self, seed: int, disorder: int, with_ids: bool) -> None:
        self.random = Random(seed)
        self.now = 1_000
        self.ends = [0, 0]
        self.disorder, self.with_ids = disorder, with_ids

    def delta(self, layout: GroupLayout, entities: int) -> Delta:
        """Events of `entities` entities; now and then a leap, so that everything old falls behind the cut."""
        random = self.random
        counts, clocks, positions, rows = [], [], [], []
        for _ in range(entities):
            self.now += random.choice((0, 1, 3, 10, 10, 200))
            events, reached = [], [0, 0]
            for _ in range(random.randint(1, 4)):
                part = random.randrange(2)
                at = self.now - random.randint(0, self.disorder)
                events.append((at, f"id{random.randrange(50):02}" if self.with_ids else "", part, self.ends[part]))
                self.ends[part] += 1
                reached[part] = self.ends[part]
            events.sort()
            counts.append(len(events))
            clocks.append(self.now)
            positions.append(reached)
            rows += events
        words = [[random.randint(-5, 5) for _ in rows] for _ in range(layout.width)]
        columns = [np.array(word, "<f8").tobytes() if i != 1 else bits(word) for i, word in enumerate(words)]
        return Delta(
            counts,
            bits(clocks),
            bits([offset for reached in positions for offset in reached]),
            bits([row[0] for row in rows]),
            columns,
            bits([row[3] for row in rows]),
            bits([row[2] for row in rows]),
            [row[1] for row in rows] if self.with_ids and layout.ordered else None,
        )


def one_by_one(layout: GroupLayout, delta: Delta, keys: list[bytes], records: dict[bytes, bytes | None]) -> None:
    start = 0
    for i, (key, count) in enumerate(zip(keys, delta.counts, strict=True)):
        a, b = 8 * start, 8 * (start + count)
        piece = EntityDelta(
            count,
            delta.times[a:b],
            [column[a:b] for column in delta.columns],
            delta.offsets[a:b],
            delta.partitions[a:b],
            None if delta.ids is None else delta.ids[start : start + count],
            int(np.frombuffer(delta.clocks, "<i8")[i]),
            tuple(np.frombuffer(delta.positions, "<i8").reshape(len(keys), -1)[i].tolist()),
        )
        records[key] = merge(layout, records[key], piece, HORIZON_US)
        start += count


@given(
    st.integers(0, 10**9),
    st.sampled_from([0, 0, 5, 60]),
    st.booleans(),
    st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=1, max_size=4, unique=True),
)
def test_splicing_a_commit_gives_the_records_of_merging_entity_by_entity(
    seed: int, disorder: int, with_ids: bool, names: list[str]
) -> None:
    source = Source(seed, disorder, with_ids)
    users = [b"ann", b"bob", b"cid"]
    spliced: dict[bytes, bytes | None] = {name.encode() + user: None for name in names for user in users}
    merged = dict(spliced)
    for _ in range(12):
        groups = []
        for name in names:
            chosen = source.random.sample(users, source.random.randint(1, 3))
            keys = [name.encode() + user for user in chosen]
            groups.append((LAYOUTS[name], source.delta(LAYOUTS[name], len(keys)), keys))
        merge_groups(groups, spliced, HORIZON_US)
        for layout, delta, keys in groups:
            one_by_one(layout, delta, keys, merged)
        assert spliced == merged
        merge_groups(groups, spliced, HORIZON_US)
        assert spliced == merged, "events that a record reflects already must change nothing"


@given(st.integers(0, 10**9), st.sampled_from([0, 5, 60]), st.sampled_from(sorted(LAYOUTS)), st.integers(1, 5))
def test_commits_joined_give_the_records_of_merging_one_after_the_other(
    seed: int, disorder: int, name: str, commits: int
) -> None:
    layout, source = LAYOUTS[name], Source(seed, disorder, False)
    users = [b"ann", b"bob", b"cid"]
    joined: dict[bytes, bytes | None] = dict.fromkeys(users)
    merged = dict(joined)
    for _ in range(4):
        deltas = []
        for _ in range(commits):
            keys = source.random.sample(users, source.random.randint(1, 3))
            delta = source.delta(layout, len(keys))
            one_by_one(layout, delta, keys, merged)
            ties = (delta.offsets, delta.partitions) if layout.ordered else (b"", b"")
            deltas.append(
                GroupDelta(keys, delta.counts, delta.clocks, delta.positions, delta.times, delta.columns, *ties)
            )
        whole = join_deltas(deltas)
        assert sorted(whole.keys) == sorted({key for delta in deltas for key in delta.keys})
        merge_groups([(layout, whole, whole.keys)], joined, HORIZON_US)
        assert joined == merged


def test_tiles_are_made_without_the_general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def general(*_: object) -> bytes:
        raise AssertionError("the general way")

    source, records = Source(3, 5, False), {b"k": None}
    merged: dict[bytes, bytes | None] = dict(records)
    spliced: dict[bytes, bytes | None] = dict(records)
    for _ in range(20):
        delta = source.delta(TILED, 1)
        one_by_one(TILED, delta, [b"k"], merged)
        with monkeypatch.context() as patched:
            patched.setattr("headrace.aggregations.splice.merge", general)
            merge_groups([(TILED, delta, [b"k"])], spliced, HORIZON_US)
        assert spliced == merged
    record = spliced[b"k"]
    assert record is not None
    assert np.frombuffer(record, np.int64)[4] > 2, "there must be tiles"


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_record_that_reflects_the_first_of_two_commits_takes_in_the_second_alone(name: str) -> None:
    layout, source = LAYOUTS[name], Source(1, 5, False)
    change = _GroupChange("00000000000000aa", layout, [0, 0], [])
    key = b"ann" + bytes.fromhex(change.version)
    expected: dict[bytes, bytes | None] = {key: None}
    states = []
    for _ in range(2):
        delta = source.delta(layout, 1)
        one_by_one(layout, delta, [key], expected)
        states.append(expected[key])
        ties = (delta.offsets, delta.partitions) if layout.ordered else (b"", b"")
        change.deltas.append(
            GroupDelta([b"ann"], delta.counts, delta.clocks, delta.positions, delta.times, delta.columns, *ties)
        )
    assert len(change.joined) == 1
    for before in (None, *states):
        records: dict[bytes, bytes | None] = {key: before}
        for groups in _rounds([change], records):
            merge_groups(groups, records, HORIZON_US)
        assert records == expected


@pytest.mark.parametrize("name", sorted(name for name, layout in LAYOUTS.items() if not len(layout.levels)))
def test_events_in_order_never_take_the_general_way_before_the_cut_moves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def general(*_: object) -> bytes:
        raise AssertionError("the general way")

    monkeypatch.setattr("headrace.aggregations.splice.merge", general)
    records: dict[bytes, bytes | None] = {b"k": None}
    for number in range(5):
        at = 10**6 + number
        columns = [bits([number])] * LAYOUTS[name].width
        delta = Delta([1], bits([at]), bits([number + 1]), bits([at]), columns, bits([number]), bits([0]), None)
        merge_groups([(LAYOUTS[name], delta, [b"k"])], records, HORIZON_US)
    record = records[b"k"]
    assert record is not None
    assert np.frombuffer(record, np.int64)[[1, 7]].tolist() == [5, 5]
