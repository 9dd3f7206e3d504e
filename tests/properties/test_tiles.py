"""Records with tiles answer like the oracle, for every read that the as-of horizon allows, and stay small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.aggregations.group_objects import read_grown, read_records
from headrace.aggregations.kernel import read_group
from headrace.aggregations.layout import GroupLayout, Scratch, layout_of, physical_columns
from headrace.aggregations.nested import decoded
from headrace.aggregations.records import growing_words
from headrace.aggregations.splice import merge_groups
from headrace.aggregations.tiles import ALWAYS
from headrace.aggregations.window_rows import read_rows
from headrace.core.columns import column_of
from headrace.core.schema import DType, list_of, map_of
from headrace.core.time import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec, KeyPart
from headrace.testing.oracle.events import Event
from headrace.testing.oracle.windows import window_value

HORIZON_US = 20
DTYPES = {"x": DType.FLOAT, "n": DType.INT, "s": DType.TIMESTAMP, "b": DType.BOOL, "c": DType.INT}
KINDS: dict[str, tuple[str, ...]] = {
    "": ("count", "time_since_last", "time_since_first", "rate"),
    "x": ("count", "sum", "mean", "min", "max", "first", "last", "var", "std", "rate", "n_unique", "approx_n_unique"),
    "n": ("count", "sum", "mean", "min", "max", "first", "last", "var", "std", "rate", "n_unique", "approx_n_unique"),
    "s": ("min", "max", "first", "last", "count"),
    "b": ("share", "any", "all", "n_unique", "most_frequent"),
    "c": ("quantile", "skewness", "most_frequent", "histogram", "top_k"),
}
GROWING = ("quantile", "skewness", "most_frequent", "histogram", "top_k")
KINDS["x"] += GROWING
KINDS["n"] += GROWING
PARAMS: dict[str, dict[str, tuple[Any, ...]]] = {
    "rate": {"unit_us": (1, 7, US_PER_HOUR)},
    "n_unique": {"cap": (1, 3, 1_000)},
    "quantile": {"q": (0.0, 0.3, 0.5, 1.0)},
    "most_frequent": {"cap": (3, 1_000)},
    "histogram": {"cap": (3, 1_000)},
    "top_k": {"k": (1, 2), "cap": (3, 1_000)},
}
RESULTS = {
    **dict.fromkeys(("count", "n_unique", "approx_n_unique"), DType.INT),
    **dict.fromkeys(("mean", "var", "std", "share", "rate", "quantile", "skewness"), DType.FLOAT),
}
WINDOWS = ((4, 4), (8, 4), (24, 4), (40, 8), (48, 16), (160, 32), (480, 96), (96, 12))


def values(random: Random, dtype: DType, *, few: bool = False) -> Any:
    """A value of a field, of sizes that tiles can sum and now and then of one that they cannot."""
    if random.random() < 0.15:
        return None
    if dtype is DType.BOOL:
        return random.random() < 0.5
    if dtype is DType.FLOAT:
        return random.choice(
            (
                random.randint(-5, 5) / 1.0,
                random.gauss(0, 100),
                random.choice((1e-300, -1e300, 2.0**44, -(2.0**-31), 1e9)),
            )
        )
    if dtype is DType.INT and few:
        return random.randint(-1, 3)
    if dtype is DType.INT:
        return random.choice((random.randint(-5, 5), random.randint(-(2**62), 2**62), 2**63 - 1, -(2**63)))
    return random.randint(-(2**40), 2**40)


def result_of(kind: str, dtype: DType | None, by: int | None = None) -> DType:
    if kind in ("histogram", "top_k"):
        assert dtype is not None
        return map_of(dtype, DType.INT) if kind == "histogram" else list_of(dtype)
    plain = RESULTS.get(kind, dtype or DType.DURATION)
    return plain if by is None else map_of(DTYPES["c"], plain)


@st.composite
def groups(draw: st.DrawFn) -> GroupPlan:
    """A group of a few features over windows of which some are much longer than others."""
    inputs = [InputSpec(ColumnRef(name, dtype), dtype) for name, dtype in DTYPES.items()]
    names = list(DTYPES)
    resolution = draw(st.sampled_from((1, 1, 2, 4)))
    specs = []
    for number in range(draw(st.integers(1, 6))):
        column = draw(st.sampled_from(sorted(KINDS)))
        kind = draw(st.sampled_from(KINDS[column]))
        window, hop = draw(st.sampled_from(WINDOWS))
        one_by_one = kind in ("n_unique", "approx_n_unique")
        lifetime = draw(st.integers(0, 5)) == 0 and kind != "rate" and not one_by_one
        by = names.index("c") if kind in ("count", "sum", "mean") and column in "xn" and draw(st.booleans()) else None
        params = {name: draw(st.sampled_from(choices)) for name, choices in PARAMS.get(kind, {}).items()}
        where = draw(st.sampled_from((None, None, names.index("b"))))
        specs.append(
            AggregateSpec(
                f"f{number}",
                kind,
                names.index(column) if column else None,
                where if column != "b" else None,
                None if lifetime else window,
                resolution if lifetime else draw(st.sampled_from((hop, hop, resolution))),
                draw(st.sampled_from((0, 0, 8))),
                result_of(kind, DTYPES.get(column), by),
                tuple(params.items()),
                by=by,
            )
        )
    return GroupPlan(
        name="g",
        version="00000000000000aa",
        stream="s",
        where=None,
        key=(KeyPart("user", DType.STRING, "user"),),
        inputs=tuple(inputs),
        aggregates=tuple(specs),
        derived=(),
        order=tuple(spec.name for spec in specs),
        resolution_us=resolution,
    )


def one_word(item: int) -> bytes:
    return np.array([item], "<i8").tobytes()


@dataclass
class Delta:
    """What a commit brings to one entity."""

    counts: list[int]
    clocks: bytes
    positions: bytes
    times: bytes
    columns: list[bytes]
    offsets: bytes
    partitions: bytes
    ids: list[Any] | None


@dataclass
class Entity:
    """One entity: its record, and all of its events as the oracle wants them."""

    plan: GroupPlan
    layout: GroupLayout
    random: Random
    with_ids: bool
    clock: int = 1_000
    record: dict[bytes, bytes | None] = field(default_factory=lambda: {b"k": None})
    events: list[Event] = field(default_factory=list)

    def publish(self, count: int, disorder: int, step: int) -> None:
        """Some events more, at times around a clock that moves on, merged as one commit."""
        random, new = self.random, []
        for _ in range(count):
            at = self.clock + random.randint(-disorder, step)
            self.clock = max(self.clock, at)
            row = {name: values(random, dtype, few=name == "c") for name, dtype in DTYPES.items()} | {"user": "k"}
            offset = len(self.events) + len(new)
            key = f"id{random.randrange(30):02}" if self.with_ids else ""
            new.append(Event(0, offset, at, (at, key, 0, offset), row))
        self.events += new
        new.sort(key=lambda event: event.order)
        columns = []
        for name, dtype in DTYPES.items():
            column = column_of(dtype, [event.row[name] for event in new])
            columns.append((dtype, column.values, column.valid))

        def bits(items: Sequence[int]) -> bytes:
            return np.array(items, "<i8").tobytes()

        delta = Delta(
            [count],
            bits([self.clock]),
            bits([len(self.events)]),
            bits([event.event_time_us for event in new]),
            [words.tobytes() for words in physical_columns(self.layout, columns)],
            bits([event.offset for event in new]),
            bits([0] * count),
            [event.order[1] for event in new] if self.with_ids else None,
        )
        merge_groups([(self.layout, delta, [b"k"])], self.record, HORIZON_US)

    @property
    def tiles(self) -> int:
        return int(self.words[4])

    @property
    def words(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        record = self.record[b"k"]
        assert record is not None
        return np.frombuffer(record[: len(record) // 8 * 8], np.int64)

    def read(self, t: int) -> dict[str, Any]:
        """All features at t, from the record."""
        words, layout = self.words, self.layout
        n, m = int(words[1]), int(words[4])
        base = 7 + int(words[6])
        tiles = base + layout.base_words + growing_words(layout, words.tobytes())
        times = tiles + m * (1 + layout.tile_words)
        flags = times + (1 + layout.width) * n if layout.flagged else -1
        slots = len(layout.names)
        out, valid, s = np.zeros(slots, np.int64), np.zeros(slots, np.bool_), Scratch(len(layout.windows))
        read_group(
            words, words.view(np.float64), times, times + n, n, n, flags, tiles, m, base if layout.base_words else -1,
            layout.lanes, layout.windows, layout.online_features, layout.pointers, t, -1, -1, -1, np.zeros(1, np.int64),
            out, out.view(np.float64), valid, 0, s.lane, s.work, s.other, s.bounds, s.tally,
        )  # fmt: skip
        read_rows(
            words, words.view(np.float64), times, times + n, n, n, flags, tiles, m, layout.lanes, layout.windows,
            layout.online_features, t, -1, -1, np.zeros(1, np.int64), out, out.view(np.float64), valid, 0, s.lane,
            s.work, s.tally,
        )  # fmt: skip
        at, when = np.zeros(1, np.int64), np.array([t])
        if len(layout.grown_slots):
            read_grown(layout, layout.grown_slots, words.copy(), at, when, (out[None], valid[None], 0), s)
        ((_, heap, begins),) = read_records(layout, words, at, np.array([len(words)]), when, s)
        found: dict[str, Any] = {
            name: decoded(heap, begins[:, index].tolist(), dtype, lambda row: ())[0]
            for index, (name, dtype) in enumerate(zip(layout.nested_names, layout.nested_dtypes, strict=True))
        }
        for name, dtype, word, ok in zip(layout.names, layout.dtypes, out, valid, strict=True):
            plain = word.view(np.float64) if dtype is DType.FLOAT else word
            found[name] = None if not ok else bool(plain) if dtype is DType.BOOL else plain.item()
        return found

    def check(self, t: int) -> None:
        """Every feature is what the oracle makes of all events."""
        wanted = {spec.name: window_value(self.plan, spec, ("k",), t, self.events) for spec in self.plan.aggregates}
        assert self.read(t) == wanted, f"at {t}, the clock is {self.clock}"


@given(groups(), st.integers(0, 10**9), st.sampled_from((0, 3, 40, 400)), st.booleans(), st.sampled_from((1, 2, 30)))
def test_tiles_change_no_value(plan: GroupPlan, seed: int, disorder: int, with_ids: bool, step: int) -> None:
    layout = layout_of(plan)
    layout = replace(layout, fewest=1 + seed % 3, state_costs=layout.state_costs * (seed // 3 % 2))
    random = Random(seed)
    entity = Entity(plan, layout, random, with_ids and layout.ordered)
    for _ in range(8):
        entity.publish(random.randint(1, 12), disorder, step)
        for t in (
            entity.clock + 1,
            entity.clock - random.randint(0, HORIZON_US),
            entity.clock + random.randint(0, 500),
        ):
            entity.check(t)
        entity.clock += random.choice((0, 0, 10, 100, 1_000))


@pytest.mark.parametrize(
    "spec",
    [
        AggregateSpec("n", "count", None, None, 480, 96, 0, DType.INT),
        AggregateSpec("n", "rate", None, None, 480, 96, 0, DType.FLOAT, (("unit_us", 7),)),
        AggregateSpec("n", "rate", 1, None, 480, 96, 0, DType.FLOAT, (("unit_us", 7),)),
        AggregateSpec("n", "n_unique", 3, None, 480, 96, 0, DType.INT, (("cap", 5),)),
        AggregateSpec("n", "quantile", 4, None, 480, 96, 0, DType.FLOAT, (("q", 0.5),)),
        AggregateSpec("n", "skewness", 1, None, 480, 96, 0, DType.FLOAT),
        AggregateSpec("n", "most_frequent", 3, None, 480, 96, 0, DType.BOOL),
        AggregateSpec("n", "histogram", 4, 3, 480, 96, 0, map_of(DType.INT, DType.INT)),
        AggregateSpec("n", "mean", 1, None, 480, 96, 0, map_of(DType.INT, DType.FLOAT), by=4),
        AggregateSpec("n", "count", None, None, 480, 96, 0, map_of(DType.INT, DType.INT), by=4),
    ],
    ids=lambda spec: f"{spec.kind} of {spec.input} by {spec.by} over {spec.window_us}",
)
def test_the_strategy_makes_tiles(spec: AggregateSpec) -> None:
    plan = groups_of(spec, resolution_us=4)
    entity = Entity(plan, layout_of(plan), Random(1), False)
    for _ in range(20):
        entity.publish(40, 5, 5)
        entity.check(entity.clock + 1)
    assert entity.tiles > 5
    assert entity.words[1] < 100 < len(entity.events)


def groups_of(*specs: AggregateSpec, resolution_us: int) -> GroupPlan:
    inputs = tuple(InputSpec(ColumnRef(name, dtype), dtype) for name, dtype in DTYPES.items())
    key = (KeyPart("user", DType.STRING, "user"),)
    return GroupPlan(
        "g", "0" * 16, "s", None, key, inputs, specs, (), tuple(spec.name for spec in specs), resolution_us
    )  # fmt: skip


def test_the_first_and_the_last_value_of_a_tile_stay_though_nulls_lie_around_them() -> None:
    specs = [AggregateSpec(kind, kind, 0, None, 480, 96, 0, DType.FLOAT) for kind in ("first", "last", "sum")]
    plan = groups_of(*specs, resolution_us=4)
    entity = Entity(plan, layout_of(plan), Random(1), False)
    amounts = [None, 1.0, *[2.0] * 20, 3.0, None]
    for index, amount in enumerate(amounts):
        row = dict.fromkeys(DTYPES) | {"x": amount, "user": "k"}
        entity.events.append(Event(0, index, 1_000, (1_000, "", 0, index), row))
    n = len(amounts)
    nothing = np.full(n, np.nan).tobytes()
    columns = [np.array([np.nan if a is None else a for a in amounts]).tobytes()]
    columns += [nothing] * (entity.layout.width - 1)
    order = np.arange(n).tobytes()
    times = np.full(n, 1_000).tobytes()
    delta = Delta([n], one_word(1_000), one_word(n), times, columns, order, bytes(8 * n), None)
    merge_groups([(entity.layout, delta, [b"k"])], entity.record, HORIZON_US)
    assert (entity.tiles, entity.words[1]) == (1, 4)
    assert entity.read(1_010) == {"first": 1.0, "last": 3.0, "sum": 44.0}
    entity.check(1_010)


def test_a_value_that_no_tile_can_sum_stays_an_event() -> None:
    spec = AggregateSpec("s", "sum", 0, None, 480, 96, 0, DType.FLOAT)
    plan = groups_of(spec, resolution_us=4)
    entity = Entity(plan, replace(layout_of(plan), fewest=1), Random(1), False)
    rows = [1e300, 1.0, 1e-300, -1e300, 2.0]
    for at, value in enumerate(rows):
        event = Event(0, at, 1_000, (1_000, "", 0, at), dict.fromkeys(DTYPES) | {"x": value, "user": "k"})
        entity.events.append(event)
        word = np.array([value]).view(np.int64)
        columns = [word.tobytes()] + [np.array([np.nan]).tobytes()] * (entity.layout.width - 1)
        delta = Delta([1], one_word(1_000), one_word(at + 1), np.array([1_000]).tobytes(), columns, b"", b"", None)
        merge_groups([(entity.layout, delta, [b"k"])], entity.record, HORIZON_US)
        entity.check(1_010)
    assert (entity.words[1], entity.tiles) == (3, 1)


def test_a_hot_entity_stays_within_64_kib() -> None:
    """Four windows of a merchant with two sales a second; its record must not grow with its events."""
    windows = (
        (10 * US_PER_MINUTE, 10 * US_PER_SECOND),
        (US_PER_HOUR, US_PER_MINUTE),
        (US_PER_DAY, 5 * US_PER_MINUTE),
        (7 * US_PER_DAY, US_PER_HOUR),
    )
    specs = [
        AggregateSpec(
            f"{kind}_{w}", kind, None if kind == "count" else 0, None, w, hop, 0, RESULTS.get(kind, DType.FLOAT)
        )
        for kind in ("count", "sum", "mean", "max")
        for w, hop in windows
    ]
    plan = GroupPlan(
        "g", "0" * 16, "s", None, (KeyPart("user", DType.STRING, "user"),),
        (InputSpec(ColumnRef("x", DType.FLOAT), DType.FLOAT),), tuple(specs), (), tuple(s.name for s in specs),
        US_PER_SECOND,
    )  # fmt: skip
    layout, random = layout_of(plan), np.random.default_rng(7)
    record: dict[bytes, bytes | None] = {b"k": None}
    n, each = 2 * 8 * 86_400, 8_640
    times = np.sort(random.integers(0, 8 * US_PER_DAY, n))
    amounts = np.round(random.exponential(50.0, n), 2)
    for start in range(0, n, each):
        part = slice(start, start + each)
        delta = Delta(
            [each], one_word(int(times[part][-1])), one_word(start + each), times[part].tobytes(),
            [amounts[part].tobytes()], b"", b"", None,
        )  # fmt: skip
        merge_groups([(layout, delta, [b"k"])], record, 10 * US_PER_MINUTE)
    found = record[b"k"]
    assert found is not None
    assert len(found) <= 64 << 10
    assert len(found) > 20 << 10, "the windows can no longer be there"


@pytest.mark.parametrize("resolution_us", [1, 4])
def test_levels_are_multiples_of_each_other_and_follow_the_windows(resolution_us: int) -> None:
    specs = [
        AggregateSpec(f"n{w}", "count", None, None, w, hop, 0, DType.INT) for w, hop in ((8, 4), (48, 16), (96, 24))
    ]
    layout = layout_of(groups_of(*specs, resolution_us=resolution_us))
    granules = layout.levels[:, 0].tolist()
    assert granules == [4, 8, 24]
    assert layout.levels[:, 1].tolist() == [ALWAYS if resolution_us == 4 else 1, 12 + resolution_us, 64 + resolution_us]
