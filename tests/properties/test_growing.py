"""States of the lifetime that grow with their data are canonical, and give the oracle's values, at any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.aggregations.codes import COUNTS, SUMMED
from headrace.aggregations.group_objects import read_grown, read_piece, record_rows
from headrace.aggregations.growing import G_CAP, G_FORM
from headrace.aggregations.layout import GroupLayout, Scratch, layout_of, physical_columns
from headrace.aggregations.limits import DISTINCT_CAP
from headrace.aggregations.nested import decoded
from headrace.aggregations.records import EntityDelta, merge
from headrace.core.columns import IntArray, column_of
from headrace.core.errors import StoreError
from headrace.core.schema import DType, list_of, map_of
from headrace.features.nodes import ColumnRef
from headrace.features.plan import AggregateSpec, GroupPlan, InputSpec
from headrace.testing.oracle.aggregations import Row, aggregate
from tests.properties.world import bits

HORIZON_US = 10
INPUTS = (("x", DType.FLOAT), ("n", DType.INT), ("bucket", DType.INT), ("where", DType.BOOL))


def spec(kind: str, source: int | None, dtype: DType, by: int | None = None, **params: Any) -> AggregateSpec:
    name = f"{kind}_{source}_{by}_{'_'.join(map(str, params.values()))}"
    return AggregateSpec(name, kind, source, 3, None, 1, 0, dtype, tuple(params.items()), by=by)


SPECS = (
    spec("quantile", 0, DType.FLOAT, q=0.5),
    spec("quantile", 1, DType.FLOAT, q=0.01),
    spec("skewness", 0, DType.FLOAT),
    spec("skewness", 1, DType.FLOAT),
    spec("approx_n_unique", 0, DType.INT),
    spec("n_unique", 1, DType.INT, cap=1_200),
    spec("most_frequent", 0, DType.FLOAT),
    spec("histogram", 1, map_of(DType.INT, DType.INT)),
    spec("top_k", 0, list_of(DType.FLOAT), k=3),
    spec("count", None, map_of(DType.INT, DType.INT), by=2),
    spec("sum", 0, map_of(DType.INT, DType.FLOAT), by=2),
    spec("mean", 1, map_of(DType.INT, DType.FLOAT), by=2),
    spec("sum", 1, map_of(DType.INT, DType.INT), by=2),
)
PLAN = GroupPlan(
    "g",
    "0" * 16,
    "s",
    None,
    (),
    tuple(InputSpec(ColumnRef(name, dtype), dtype) for name, dtype in INPUTS),
    SPECS,
    (),
    tuple(s.name for s in SPECS),
)
LAYOUT = layout_of(PLAN)


EXTREMES = (spec("min", 0, map_of(DType.INT, DType.FLOAT), by=2), spec("max", 0, map_of(DType.INT, DType.FLOAT), by=2))
KEPT = layout_of(replace(PLAN, aggregates=EXTREMES, order=tuple(s.name for s in EXTREMES)))


def merged(
    rows: Sequence[tuple[Any, ...]],
    times: Sequence[int],
    clock_us: int,
    sizes: Sequence[int],
    layout: GroupLayout = LAYOUT,
) -> bytes:
    """The record of these events, which come in pieces of these sizes; the last piece moves the clock."""
    record, at = None, 0
    for size in sizes:
        piece = sorted(range(at, at + size), key=times.__getitem__)
        at += size
        columns = [column_of(dtype, [rows[i][c] for i in piece]) for c, (_, dtype) in enumerate(INPUTS)]
        words = physical_columns(layout, [(column.dtype, column.values, column.valid) for column in columns])
        clock = clock_us if at == len(rows) else max(times[:at])
        delta = EntityDelta(
            size,
            np.array([times[i] for i in piece], np.int64).tobytes(),
            [np.ascontiguousarray(word).tobytes() for word in words],
            b"",
            b"",
            None,
            clock,
            (at,),
        )
        record = merge(layout, record, delta, HORIZON_US)
    assert record is not None
    return record


def keys_of(record: bytes) -> IntArray:
    """How many keys each growing state of a record has."""
    words = np.frombuffer(record, np.int64)
    at, found = 7 + int(words[6]) + LAYOUT.base_words, []
    for _ in LAYOUT.growing:
        found.append(words[at + 1])
        at += 1 + int(words[at])
    return np.array(found)


def read(record: bytes, t_us: int) -> tuple[dict[str, Any], int]:
    """What is read from a record at t, and how many values were over their cap or did not fit their type."""
    words: IntArray = np.frombuffer(record, np.int64).copy()
    out, valid, s = np.zeros((1, len(LAYOUT.names)), np.int64), np.zeros((1, len(LAYOUT.names)), np.bool_), Scratch(1)
    found: dict[str, Any] = {}
    for table in (LAYOUT.grown_slots, LAYOUT.grown_items):
        heap, begins = read_grown(LAYOUT, table, words, np.zeros(1, np.int64), np.array([t_us]), (out, valid, 0), s)
    for at, (_, _, _, _, _, _, target) in enumerate(LAYOUT.grown_items.tolist()):
        name, dtype = LAYOUT.nested_names[target], LAYOUT.nested_dtypes[target]
        found[name] = decoded(heap, [int(begins[0, at])], dtype, lambda row: ())[0]
    for name, dtype, word, ok in zip(LAYOUT.names, LAYOUT.dtypes, out[0], valid[0], strict=True):
        found[name] = (word.view(np.float64).item() if dtype is DType.FLOAT else word.item()) if ok else None
    return found, int(s.tally[0])


def wanted(rows: Sequence[tuple[Any, ...]], times: Sequence[int], t_us: int) -> dict[str, Any]:
    ordered = sorted((Row(at, row) for at, row in zip(times, rows, strict=True) if at < t_us), key=lambda r: r.time_us)
    return {s.name: aggregate(s, ordered, t_us, None, t_us) for s in SPECS}


VALUES = st.sampled_from((0.0, 1.0, 0.5, -1.25, 1e-300, -1e300, 3.5e9, 0.1, -0.1)) | st.none()
WHOLE = st.sampled_from((0, 1, -1, 7, 2**63 - 1, -(2**63))) | st.none()
ROWS = st.lists(
    st.tuples(
        VALUES, WHOLE, st.sampled_from((3, -2, 2**40, None)), st.sampled_from((True, True, False, None)),
    ),
    min_size=1,
    max_size=30,
)  # fmt: skip


@given(ROWS, st.integers(0, 2**32), st.sampled_from((0, 8, 60)))
def test_any_order_and_any_split_give_the_same_words_and_the_oracles_values(
    rows: list[tuple[Any, ...]], seed: int, behind_us: int
) -> None:
    random = Random(seed)
    clock_us = 200 + behind_us
    dated = [(row, random.randint(0, 200)) for row in rows]
    records = []
    for _ in range(3):
        # Without a declared id the place in the log decides ties, so equal times stay in their order.
        ranks = {at: random.random() for _, at in dated}
        shuffled = sorted(dated, key=lambda item: ranks[item[1]])
        sizes = [len(rows)]
        while random.random() < 0.8 and sizes[-1] > 1:
            first = random.randint(1, sizes[-1] - 1)
            sizes[-1:] = [first, sizes[-1] - first]
        records.append(merged([row for row, _ in shuffled], [at for _, at in shuffled], clock_us, sizes))
    assert records[0] == records[1] == records[2]
    for t_us in (clock_us - HORIZON_US, clock_us + 1):
        expected = wanted(rows, [at for _, at in dated], t_us)
        found, _ = read(records[0], t_us)
        assert {name: bits(found[name]) for name in found} == {name: bits(expected[name]) for name in expected}


@given(ROWS, st.integers(0, 2**32))
def test_old_rows_that_extremes_by_bucket_need_stay_and_no_others(rows: list[tuple[Any, ...]], seed: int) -> None:
    random = Random(seed)
    times = [random.randint(0, 100) for _ in rows]
    sizes = [len(rows) - len(rows) // 2, len(rows) // 2] if len(rows) > 1 else [1]
    record = merged(rows, times, 1_000, sizes, KEPT)
    words: IntArray = np.frombuffer(record, np.int64).copy()
    events = record_rows(KEPT, words, np.zeros(1, np.int64), np.array([len(words)]))
    _, heap, begins = read_piece(KEPT, np.zeros(1, np.int64), events, np.array([999]), Scratch(1))
    ordered = [Row(at, row) for at, row in sorted(zip(times, rows, strict=True), key=lambda item: item[0])]
    for index, s in enumerate(EXTREMES):
        found = decoded(heap, begins[:, index].tolist(), s.dtype, lambda row: ())[0]
        assert bits(found) == bits(aggregate(s, ordered, 999, None, 999))
    buckets = {row[2] for row in rows if row[2] is not None and row[3] is True}
    assert words[1] <= 3 * len(buckets)


@pytest.mark.parametrize("different", [300, 511, 700, 1_000, 1_001, 1_200, 1_201, 3_000])
def test_many_different_values_are_exact_up_to_the_cap_and_null_beyond(different: int) -> None:
    random = Random(different)
    rows: list[tuple[Any, ...]] = [(float(i) / 3, i, -i, True) for i in range(different)]
    rows += [(rows[i][0], i, -i, True) for i in random.choices(range(different), k=400)]
    random.shuffle(rows)
    times = [random.randint(0, 10_000) for _ in rows]
    once = merged(rows, times, 20_000, [len(rows)])
    pieces = [len(rows) // 7] * 7
    pieces[-1] += len(rows) - sum(pieces)
    assert merged(rows, times, 20_000, pieces) == once
    for t_us in (19_990, 30_000):
        found, tally = read(once, t_us)
        expected = wanted(rows, times, t_us)
        assert {name: bits(found[name]) for name in found} == {name: bits(expected[name]) for name in expected}
        nulls = [name for name in expected if expected[name] is None]
        assert tally == len(nulls)
        assert (len(nulls) > 0) == (different > DISTINCT_CAP)
    # Beyond the greatest cap of its features nothing but that is kept of a state.
    bounded = np.isin(LAYOUT.growing[:, G_FORM], (COUNTS, SUMMED))
    caps = LAYOUT.growing[bounded, G_CAP].tolist()
    assert sorted(set(caps)) == [1_000, 1_200]
    assert keys_of(once)[bounded].tolist() == [-1 if different > cap else different for cap in caps]


def test_a_record_of_another_format_is_refused_by_name() -> None:
    record = merged([(1.0, 1, 1, True)], [5], 200, [1])
    former = np.frombuffer(record, np.int64).copy()
    former[0] = 2
    delta = EntityDelta(0, b"", [b""] * LAYOUT.width, b"", b"", None, 300, (9,))
    with pytest.raises(StoreError, match=r"window record of format 2, this version reads and writes format 4"):
        merge(LAYOUT, former.tobytes(), delta, HORIZON_US)
