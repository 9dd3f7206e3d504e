"""Reading the prediction log: many blocks as one batch, ready for the audit, for accuracy and for the offline store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.core.columns import BoolArray, Column, FloatArray, IntArray, column_of
from headrace.core.errors import Erased, SchemaError
from headrace.core.positions import EMPTY_POSITION
from headrace.eventlog.base import EventLog
from headrace.features.plan import ViewPlan
from headrace.retrieval.prediction_blocks import (
    TOPIC,
    ScoredBlock,
    StoredBlock,
    decode_stored,
    encode_predictions,
    fits,
    one_of,
    recorded,
)
from headrace.retrieval.rows import FeatureBlock

if TYPE_CHECKING:
    import pyarrow

    from headrace.retrieval.history import ServedAt

__all__ = [
    "TOPIC",
    "PredictionBatch",
    "ScoredBlock",
    "decode_predictions",
    "encode_predictions",
    "find_prediction",
    "gather_predictions",
    "read_predictions",
    "read_predictions_of",
]

ID, REQUEST_ID, TIME, SCORED = "_prediction_id", "_request_id", "_t_us", "_scored_us"
VERSION, SCORE, TABLES = "_version", "_score", "_position_tables"
FEATURE_PREFIX, REQUEST_PREFIX, SCORE_PREFIX = "f.", "r.", "_score_"
POSITION_PREFIX, GROUP_PREFIX = "_position.", "_position_group."
"""Columns of the offline table: what the service adds, then the features, the request, other versions, positions of
streams, and of scheduled groups by version."""


def decode_predictions(payload: bytes, view: ViewPlan) -> ScoredBlock:
    """Read what `encode_predictions` wrote.

    Raises SchemaError if the bytes are no such block, or were made with another version of the view.
    """
    stored = decode_stored(payload)
    if not fits(stored, view):
        raise SchemaError(
            f"these predictions are of view {stored.view} version {stored.view_version}, asked was {view.name} version "
            f"{view.version}; read them with the definitions of their time"
        )
    gathered = _Gathered(stored.model, view)
    gathered.add(stored)
    batch = gathered.batch()
    block = batch.features
    block.position = stored.position
    scores = {version: np.frombuffer(data, "<f8") for version, data in stored.scores.items()}
    return ScoredBlock(
        stored.model,
        stored.ids,
        stored.request_ids,
        batch.t_us,
        stored.scored_us,
        batch.request,
        block,
        scores,
        stored.champion,
        stored.view,
        stored.view_version,
    )


@dataclass(slots=True)
class PredictionBatch:
    """Predictions of one model over many blocks, row by row in the order of the log.

    Attributes:
        ids, request_ids: one per prediction, as in `ScoredBlock`.
        t_us, scored_us: int64 [n].
        request: every request field of the view, n values each.
        features: what the model saw; its `position` is empty, since each row has its own.
        scores: float64 [n], the answers.
        versions: int64 [n], the version that gave each answer.
        by_version: float64 [n] of every version that scored any of the rows; NaN where it did not.
        streams: int64 [n, partitions] per raw stream, the first offset not reflected.
        tables: int64 [n], the first offset of table rows not reflected.
        groups: the same as `streams` per version of a scheduled group; -1 throughout a row in which the group
            stood where its stream did.
        skipped: predictions that were left out because they are of another version of the view.
    """

    model: str
    ids: list[str]
    request_ids: list[str | None]
    t_us: IntArray
    scored_us: IntArray
    request: dict[str, Column]
    features: FeatureBlock
    scores: FloatArray
    versions: IntArray
    by_version: dict[int, FloatArray]
    streams: dict[str, IntArray]
    tables: IntArray
    groups: dict[str, IntArray] = field(default_factory=dict)
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def served_at(self) -> ServedAt:
        """The positions, as `HistoryReader.read` takes them to recompute the features as served."""
        from headrace.retrieval.history import ServedAt

        return ServedAt(self.streams, self.tables, groups=self.groups)

    def take(self, indices: Any) -> PredictionBatch:
        """Predictions at `indices` (or where a mask is true), in that order."""
        at = np.arange(len(self))[indices].tolist()
        return PredictionBatch(
            self.model,
            [self.ids[i] for i in at],
            [self.request_ids[i] for i in at],
            self.t_us[indices],
            self.scored_us[indices],
            {name: column.take(indices) for name, column in self.request.items()},
            self.features.take(indices),
            self.scores[indices],
            self.versions[indices],
            {version: scores[indices] for version, scores in self.by_version.items()},
            {name: offsets[indices] for name, offsets in self.streams.items()},
            self.tables[indices],
            {version: offsets[indices] for version, offsets in self.groups.items()},
            self.skipped,
        )

    def to_arrow(self) -> pyarrow.Table:
        """Rows of the offline table `predictions/<model>`; its time column is `_t_us`.

        Features are prefixed `f.`, request fields `r.`, positions `_position.` (a list of offsets per stream), those of
        scheduled groups `_position_group.` (by version; null where the group stood where its stream did). Times among
        them are Arrow timestamps; `_t_us` and `_scored_us` are int64 µs.
        """
        import pyarrow as pa

        from headrace.core.arrow import to_arrow

        columns: dict[str, Any] = {
            ID: pa.array(self.ids, pa.string()),
            REQUEST_ID: pa.array(self.request_ids, pa.string()),
            TIME: pa.array(self.t_us, pa.int64()),
            SCORED: pa.array(self.scored_us, pa.int64()),
            VERSION: pa.array(self.versions, pa.int64()),
            SCORE: pa.array(self.scores, pa.float64()),
        }
        for version, scores in self.by_version.items():
            columns[f"{SCORE_PREFIX}{version}"] = pa.array(scores, pa.float64(), from_pandas=True)
        for name, offsets in self.streams.items():
            columns[f"{POSITION_PREFIX}{name}"] = _lists(offsets, None)
        for group, offsets in self.groups.items():
            columns[f"{GROUP_PREFIX}{group}"] = _lists(offsets, pa.array(offsets[:, 0] < 0))
        columns[TABLES] = pa.array(self.tables, pa.int64())
        for name in self.features.names:
            columns[f"{FEATURE_PREFIX}{name}"] = to_arrow(self.features.column(name))
        for name, column in self.request.items():
            columns[f"{REQUEST_PREFIX}{name}"] = to_arrow(column)
        return pa.table(columns)


def read_predictions(
    log: EventLog, model: str, view: ViewPlan, start: int = 0, max_records: int = 1_000_000
) -> tuple[PredictionBatch, int]:
    """Read a model's predictions from offset `start` of the log on; also returns the offset to go on from.

    Reads at most about `max_records` predictions of all models together; trimmed ones are passed over. When the offset
    comes back unchanged, there is nothing new.
    """
    (found,), end = read_predictions_of(log, model, [view], start, max_records)
    return found, end


def read_predictions_of(
    log: EventLog, model: str, views: Sequence[ViewPlan], start: int = 0, max_records: int = 1_000_000
) -> tuple[list[PredictionBatch], int]:
    """Like `read_predictions`, for several versions of a view at once: one batch for each."""
    if TOPIC not in log.topics():
        return [gather_predictions((), model, view) for view in views], start
    start = max(start, log.begin(TOPIC, 0))
    batches = log.read(TOPIC, 0, start, max_records)
    payloads = [batch.payload for batch in batches]
    return [gather_predictions(payloads, model, view) for view in views], batches[-1].end if batches else start


def gather_predictions(payloads: Iterable[bytes], model: str, view: ViewPlan) -> PredictionBatch:
    """All predictions of `model` in stored blocks, those of other versions of the view left out and counted."""
    gathered, skipped = _Gathered(model, view), 0
    for payload in payloads:
        stored = decode_stored(payload)
        if stored.model != model:
            continue
        if fits(stored, view):
            gathered.add(stored)
        else:
            skipped += len(stored.ids)
    batch = gathered.batch()
    batch.skipped = skipped
    return batch


def find_prediction(log: EventLog, id: str, views: Mapping[str, ViewPlan], tail: int = 20_000) -> ScoredBlock | None:
    """The one prediction of that id among the last `tail` of the log; None if it is not there.

    `views` are those of now, by name; a prediction of another version of its view is not found. Raises Erased for one
    whose entity was erased.
    """
    if TOPIC not in log.topics():
        return None
    end = log.end(TOPIC, 0)
    batches = log.read(TOPIC, 0, max(log.begin(TOPIC, 0), end - tail), tail)
    needle = id.encode()
    for batch in reversed(batches):
        if needle not in batch.payload:
            continue
        stored = decode_stored(batch.payload)
        if id in stored.erased:
            raise Erased(f'prediction "{id}" was erased with the entity that it was made for')
        view = views.get(stored.view)
        if id in stored.ids and view is not None and fits(stored, view):
            return one_of(decode_predictions(batch.payload, view), stored.ids.index(id))
    return None


class _Gathered:
    """Blocks of one view on their way into a batch.

    Each is taken apart at once: a hundred thousand decoded blocks held together would keep the garbage collector busy
    for longer than the decoding takes.
    """

    def __init__(self, model: str, view: ViewPlan) -> None:
        self._model = model
        self._names = tuple(column.name for column in view.visible)
        self._dtypes = tuple(column.dtype for column in view.visible)
        self._fields = view.request.fields
        self._sizes: list[int] = []
        self._ids: list[str] = []
        self._request_ids: list[str | None] = []
        self._t_us: list[bytes] = []
        self._scored_us: list[int] = []
        self._words: list[bytes] = []
        self._valid: list[bytes] = []
        self._answers: list[bytes] = []
        self._champions: list[int] = []
        self._tables: list[int] = []
        self._streams: dict[str, _Offsets] = {}
        self._groups: dict[str, _Offsets] = {}
        self._scores: dict[int, list[tuple[int, bytes]]] = {}
        self._request: dict[str, list[Any]] = {spec.name: [] for spec in self._fields}
        self._objects: dict[str, list[Any]] = {
            name: [] for name, dtype in zip(self._names, self._dtypes, strict=True) if dtype.is_object
        }

    def add(self, block: StoredBlock) -> None:
        start = len(self._ids)
        self._sizes.append(len(block.ids))
        self._ids += block.ids
        self._request_ids += block.request_ids
        self._t_us.append(block.t_us)
        self._scored_us.append(block.scored_us)
        self._words.append(block.words)
        self._valid.append(block.valid)
        self._answers.append(block.scores[block.champion])
        self._champions.append(block.champion)
        for version, data in block.scores.items():
            self._scores.setdefault(version, []).append((start, data))
        for spec in self._fields:
            self._request[spec.name] += recorded(block.request, spec, len(block.ids))
        # By place, as the words are: what they are called may have changed since, and their version has not.
        for items, stored in zip(self._objects.values(), block.objects.values(), strict=True):
            items += stored
        number = len(self._tables)
        self._tables.append(block.position.tables)
        for name, offsets in block.position.streams.items():
            if name not in self._streams:
                self._streams[name] = _Offsets()
            self._streams[name].add(number, offsets)
        for group, offsets in block.position.groups.items():
            self._groups.setdefault(group, _Offsets()).add(number, offsets)

    def batch(self) -> PredictionBatch:
        sizes = np.array(self._sizes, np.int64)
        shape = (len(self._ids), len(self._names))
        words = np.frombuffer(b"".join(self._words), "<i8").reshape(shape)
        valid: BoolArray = np.frombuffer(b"".join(self._valid), np.bool_).reshape(shape)
        types = dict(zip(self._names, self._dtypes, strict=True))
        objects = {name: column_of(types[name], items) for name, items in self._objects.items()}
        blocks = len(self._sizes)
        return PredictionBatch(
            self._model,
            self._ids,
            self._request_ids,
            np.frombuffer(b"".join(self._t_us), "<i8"),
            np.repeat(np.array(self._scored_us, np.int64), sizes),
            {spec.name: column_of(spec.dtype, self._request[spec.name]) for spec in self._fields},
            FeatureBlock(self._names, self._dtypes, words, valid, objects, EMPTY_POSITION),
            np.frombuffer(b"".join(self._answers), "<f8"),
            np.repeat(np.array(self._champions, np.int64), sizes),
            {version: self._scores_of(version) for version in sorted(self._scores)},
            {name: np.repeat(offsets.rows(blocks), sizes, axis=0) for name, offsets in self._streams.items()},
            np.repeat(np.array(self._tables, np.int64), sizes),
            {name: np.repeat(offsets.rows(blocks, -1), sizes, axis=0) for name, offsets in self._groups.items()},
        )

    def _scores_of(self, version: int) -> FloatArray:
        out = np.full(len(self._ids), np.nan)
        for start, data in self._scores[version]:
            out[start : start + len(data) // 8] = np.frombuffer(data, "<f8")
        return out


def _lists(offsets: IntArray, null: pyarrow.Array | None) -> pyarrow.Array:
    """One list per row; null where `null` is true."""
    import pyarrow as pa

    starts = pa.array(np.arange(0, offsets.size + 1, offsets.shape[1]), pa.int32())
    return pa.ListArray.from_arrays(starts, pa.array(offsets.reshape(-1)), mask=null)


class _Offsets:
    """Positions of one stream or group, block by block, in one flat list; partitions may be added on the way."""

    def __init__(self) -> None:
        self._blocks: list[int] = []
        self._widths: list[int] = []
        self._flat: list[int] = []

    def add(self, block: int, offsets: list[int]) -> None:
        self._blocks.append(block)
        self._widths.append(len(offsets))
        self._flat += offsets

    def rows(self, blocks: int, unnamed: int = 0) -> IntArray:
        """int64 [blocks, partitions]; `unnamed` throughout a block that does not name it, 0 where a block that does
        lacks a partition."""
        widths = np.array(self._widths, np.int64)
        out = np.full((blocks, int(widths.max())), unnamed, np.int64)
        out[self._blocks] = 0
        starts = np.cumsum(widths) - widths
        columns = np.arange(len(self._flat)) - np.repeat(starts, widths)
        out[np.repeat(np.array(self._blocks, np.int64), widths), columns] = self._flat
        return out
