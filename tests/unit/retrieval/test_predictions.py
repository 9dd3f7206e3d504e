"""The prediction log's blocks: every bit comes back, many blocks become one batch, other views are left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import SchemaError
from headrace.core.time import SimulatedClock
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.retrieval.predictions import (
    TOPIC,
    ScoredBlock,
    decode_predictions,
    encode_predictions,
    find_prediction,
    gather_predictions,
    read_predictions,
)
from tests.unit.serving.views import VIEW, features, position, request

ROWS = [
    [3, -0.0, True, "gold", [1.0, 2.5], 2_000],
    [None, 0.1 + 0.2, False, None, None, None],
    [-(2**62), None, None, "é", [0.0, -1.0], -5],
]


def block(first: int = 0, rows: list[list[object]] = ROWS, *, model: str = "fraud", champion: int = 2) -> ScoredBlock:
    n = len(rows)
    names = [f"p{first + i}" for i in range(n)]
    return ScoredBlock(
        model,
        [f"p-0-{first + i}" for i in range(n)],
        list(names),
        np.arange(first, first + n, dtype=np.int64),
        1_000 + first,
        request(names, list(range(first, first + n))),
        features(rows, position(first)),
        {champion: np.linspace(0.1, 0.9, n), 1: np.full(n, 1 / 3)},
        champion,
        VIEW.name,
        VIEW.version,
    )


def test_a_block_comes_back_to_the_bit() -> None:
    given_, got = block(), decode_predictions(encode_predictions(block()), VIEW)
    assert (got.model, got.ids, got.request_ids) == (given_.model, given_.ids, given_.request_ids)
    assert (got.scored_us, got.champion, got.view_version) == (1_000, 2, "view-1")
    assert got.features.words.tobytes() == given_.features.words.tobytes()
    assert got.features.valid.tobytes() == given_.features.valid.tobytes()
    assert (got.features.names, got.features.dtypes) == (given_.features.names, given_.features.dtypes)
    assert got.features.column("tier").to_pylist() == ["gold", None, "é"]
    assert got.features.column("vector").to_pylist()[0] == [1.0, 2.5]
    assert got.features.position == position(0)
    assert {v: s.tobytes() for v, s in got.scores.items()} == {v: s.tobytes() for v, s in given_.scores.items()}
    assert got.values.tobytes() == given_.scores[2].tobytes()
    assert got.t_us.tolist() == [0, 1, 2]
    assert got.request["amount"].to_pylist() == [0.0, 1.5, None]
    assert got.request["taste"].to_pylist() == [None, [0.5, 1.0], None]


def test_a_block_comes_back_under_the_names_of_today() -> None:
    # A renamed class: the same version of the view, and even the names of two columns exchanged.
    today = {"tier": "vector", "vector": "tier"}
    columns = tuple(dataclasses.replace(c, name=today.get(c.name, "new_" + c.name)) for c in VIEW.columns)
    got = decode_predictions(encode_predictions(block()), dataclasses.replace(VIEW, columns=columns))
    assert got.features.column("vector").to_pylist() == ["gold", None, "é"]
    assert got.features.column("tier").to_pylist() == [[1.0, 2.5], None, [0.0, -1.0]]
    assert got.features.words.tobytes() == block().features.words.tobytes()


def test_a_block_of_another_view_version_or_of_no_format_is_refused_by_name() -> None:
    other = dataclasses.replace(VIEW, version="view-2")
    with pytest.raises(SchemaError, match="view payment version view-1, asked was payment version view-2"):
        decode_predictions(encode_predictions(block()), other)
    with pytest.raises(SchemaError, match="not a block of predictions"):
        decode_predictions(b"\x93\x01\x02", VIEW)


@given(sizes=st.lists(st.integers(1, 5), max_size=6))
def test_a_batch_is_its_blocks_one_after_the_other(sizes: list[int]) -> None:
    blocks, first = [], 0
    for index, size in enumerate(sizes):
        blocks.append(block(first, (ROWS * 2)[:size], champion=2 + index % 2))
        first += size
    batch = gather_predictions([encode_predictions(b) for b in blocks], "fraud", VIEW)
    assert len(batch) == sum(sizes)
    assert batch.ids == [name for b in blocks for name in b.ids]
    assert batch.request_ids == [name for b in blocks for name in b.request_ids]
    assert batch.t_us.tolist() == list(range(first))
    assert batch.features.words.tobytes() == b"".join(b.features.words.tobytes() for b in blocks)
    assert batch.features.valid.tobytes() == b"".join(b.features.valid.tobytes() for b in blocks)
    assert batch.scores.tolist() == [value for b in blocks for value in b.values]
    assert batch.versions.tolist() == [b.champion for b in blocks for _ in b.ids]
    assert batch.scored_us.tolist() == [b.scored_us for b in blocks for _ in b.ids]
    assert batch.tables.tolist() == [7] * first
    if sizes:
        assert batch.streams["Payment"].tolist() == [
            b.features.position.streams["Payment"] for b in blocks for _ in b.ids
        ]
        assert batch.by_version[1].tolist() == [1 / 3] * first
        assert np.isnan(batch.by_version[2]).tolist() == [b.champion != 2 for b in blocks for _ in b.ids]


def test_a_partition_that_came_later_starts_at_nought() -> None:
    early, late = block(0), block(3)
    early.features.position = dataclasses_position(early, {"Payment": [4]})
    batch = gather_predictions([encode_predictions(early), encode_predictions(late)], "fraud", VIEW)
    assert batch.streams["Payment"].tolist() == [[4, 0]] * 3 + [[3, 4]] * 3
    assert batch.streams["Login"].tolist() == [[0]] * 3 + [[3]] * 3


def dataclasses_position(of: ScoredBlock, streams: dict[str, list[int]]) -> object:
    from msgspec.structs import replace

    return replace(of.features.position, streams=streams)


def test_other_models_are_passed_over_and_other_views_are_counted() -> None:
    foreign = block(6)
    foreign.view_version = "view-0"
    payloads = [encode_predictions(b) for b in (block(0), block(3, model="churn"), foreign)]
    batch = gather_predictions(payloads, "fraud", VIEW)
    assert (batch.ids, batch.skipped) == (["p-0-0", "p-0-1", "p-0-2"], 3)


def test_rows_can_be_taken_from_a_batch() -> None:
    batch = gather_predictions([encode_predictions(block(0)), encode_predictions(block(3))], "fraud", VIEW)
    taken = batch.take(np.array([4, 0]))
    assert taken.ids == ["p-0-4", "p-0-0"]
    assert taken.features.words.tolist() == batch.features.words[[4, 0]].tolist()
    assert taken.streams["Payment"].tolist() == [[3, 4], [0, 1]]
    assert taken.request["payment_id"].to_pylist() == taken.request_ids == ["p4", "p0"]


def test_the_offline_table_has_typed_columns_and_nulls() -> None:
    rows = gather_predictions([encode_predictions(block(0)), encode_predictions(block(3))], "fraud", VIEW).to_arrow()
    assert rows.num_rows == 6
    assert rows["_prediction_id"].to_pylist()[:2] == ["p-0-0", "p-0-1"]
    assert str(rows.schema.field("_t_us").type) == "int64"
    assert rows["_position.Payment"].to_pylist()[3] == [3, 4]
    assert rows["f.n"].to_pylist()[:3] == [3, None, -(2**62)]
    assert str(rows.schema.field("f.seen").type) == "timestamp[us, tz=UTC]"
    assert rows["f.vector"].to_pylist()[:2] == [[1.0, 2.5], None]
    assert rows["r.user"].to_pylist() == ["u"] * 6
    assert rows["_score_1"].to_pylist() == [1 / 3] * 6
    empty = gather_predictions([], "fraud", VIEW).to_arrow()
    assert (empty.num_rows, str(empty.schema.field("f.tier").type)) == (0, "string")


def test_reading_goes_on_where_it_stopped() -> None:
    log = MemoryEventLog(SimulatedClock())
    assert read_predictions(log, "fraud", VIEW)[1] == 0
    log.create(TOPIC)
    log.append([Append(TOPIC, 0, encode_predictions(block(0)), 3)])
    batch, at = read_predictions(log, "fraud", VIEW)
    assert (len(batch), at) == (3, 3)
    assert read_predictions(log, "fraud", VIEW, at)[1] == at
    log.append([Append(TOPIC, 0, encode_predictions(block(3)), 3)])
    later, at = read_predictions(log, "fraud", VIEW, at)
    assert (later.ids, at) == (["p-0-3", "p-0-4", "p-0-5"], 6)


def test_one_prediction_is_found_by_its_id() -> None:
    log = MemoryEventLog(SimulatedClock())
    assert find_prediction(log, "p-0-4", {"payment": VIEW}) is None
    log.create(TOPIC)
    log.append([Append(TOPIC, 0, encode_predictions(block(first)), 3) for first in (0, 3)])
    found = find_prediction(log, "p-0-4", {"payment": VIEW})
    assert found is not None
    assert (found.ids, found.request_ids, found.t_us.tolist()) == (["p-0-4"], ["p4"], [4])
    assert found.features.column("mean").to_pylist() == [0.1 + 0.2]
    assert find_prediction(log, "p-0-", {"payment": VIEW}) is None
    assert find_prediction(log, "p-0-4", {}) is None
