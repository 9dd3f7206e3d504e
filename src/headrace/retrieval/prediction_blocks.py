"""One block of the prediction log: what was asked, what was seen, what was answered, and at which position.

A block is one scored batch of one model, a record batch of topic `predictions` with one offset per prediction. Column
names are those of the view's version, which the block names; a reader gives the view and skips blocks of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from headrace.core.columns import Column, FloatArray, IntArray
from headrace.core.errors import SchemaError
from headrace.core.positions import Position
from headrace.core.schema import DType, Field, Schema
from headrace.features.plan import ViewPlan
from headrace.retrieval.rows import FeatureBlock

TOPIC = "predictions"
"""The topic of the internal log that holds the predictions of all models, in one partition."""

_FORMAT = 1


@dataclass(slots=True)
class ScoredBlock:
    """A scored batch of `n` requests.

    Attributes:
        model: its name.
        ids: one prediction id per request, unique over all time.
        request_ids: the request's id field as text; None where the request declares none.
        t_us: int64 [n], the event times that were asked for.
        scored_us: when it was answered.
        request: every request field, n values each.
        features: what the model saw, with the position that it reflects.
        scores: float64 [n] by model version: of the one that answered, and of those that were scored beside it.
        champion: the version whose scores were the answer; a canary, for the requests that are its own.
    """

    model: str
    ids: list[str]
    request_ids: list[str | None]
    t_us: IntArray
    scored_us: int
    request: Mapping[str, Column]
    features: FeatureBlock
    scores: dict[int, FloatArray]
    champion: int
    view: str
    view_version: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def values(self) -> FloatArray:
        """The answer: the scores of the version that answered."""
        return self.scores[self.champion]


class StoredBlock(msgspec.Struct, array_like=True):
    """A block as it lies in the log; bytes are little-endian float64, int64 or uint8 in row order.

    `erased` are the ids of predictions that were in it, too.
    """

    format: int
    model: str
    view: str
    view_version: str
    ids: list[str]
    request_ids: list[str | None]
    t_us: bytes
    scored_us: int
    position: Position
    request: dict[str, list[Any]]
    words: bytes
    valid: bytes
    objects: dict[str, list[Any]]
    scores: dict[int, bytes]
    champion: int
    erased: list[str] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredBlock)


def encode_predictions(block: ScoredBlock) -> bytes:
    """The stored form of a block."""
    features = block.features
    return _encoder.encode(
        StoredBlock(
            _FORMAT,
            block.model,
            block.view,
            block.view_version,
            block.ids,
            block.request_ids,
            block.t_us.tobytes(),
            block.scored_us,
            features.position,
            {name: column.to_pylist() for name, column in block.request.items()},
            features.words.tobytes(),
            features.valid.tobytes(),
            {name: features.objects[name].to_pylist() for name in features.names if name in features.objects},
            {version: scores.tobytes() for version, scores in block.scores.items()},
            block.champion,
        )
    )


def encode_stored(stored: StoredBlock) -> bytes:
    """The bytes of what `decode_stored` read."""
    return _encoder.encode(stored)


def one_of(block: ScoredBlock, row: int) -> ScoredBlock:
    """The block of one of its rows."""
    at = [row]
    return ScoredBlock(
        block.model,
        [block.ids[row]],
        [block.request_ids[row]],
        block.t_us[at],
        block.scored_us,
        {name: column.take(np.array(at)) for name, column in block.request.items()},
        block.features.take(at),
        {version: scores[at] for version, scores in block.scores.items()},
        block.champion,
        block.view,
        block.view_version,
    )


def request_ids(schema: Schema, request: Mapping[str, Column]) -> list[str | None]:
    """The ids of requests as text; None where null, and where the request declares no id."""
    if schema.id_field is None:
        return [None] * len(next(iter(request.values())))
    column = request[schema.id_field]
    if column.dtype is DType.STRING and column.valid is None:
        return list(column.values.tolist())
    return [None if value is None else str(value) for value in column.to_pylist()]


def decode_stored(payload: bytes) -> StoredBlock:
    """Read what `encode_predictions` wrote, arrays still as bytes; raises SchemaError if it is nothing of the kind."""
    try:
        stored = _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise SchemaError(f"not a block of predictions: {error}") from None
    if stored.format != _FORMAT:
        raise SchemaError(f"a block of predictions has format {stored.format}; this version reads format {_FORMAT}")
    return stored


def fits(stored: StoredBlock, view: ViewPlan) -> bool:
    """True if the block was made with this very version of the view."""
    return stored.view == view.name and stored.view_version == view.version


def recorded(columns: Mapping[str, list[Any]], spec: Field, n: int) -> list[Any]:
    """The `n` values of a request field, under any of its names; of one that was not there yet, what stands in."""
    found = next((columns[name] for name in spec.names if name in columns), None)
    return [spec.default if spec.has_default else None] * n if found is None else found
