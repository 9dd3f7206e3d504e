"""Truth joined to predictions as it arrives.

Predictions wait here in memory for their truth, chunk by chunk in the order of the log; each look reads what is new in
the prediction log, in the label's stream and in topic `labels`, and appends what was joined to topic `truth`. The last
record of that topic says how far each of them was read, so after a restart nothing is joined twice or forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat, zip_longest
from typing import Any, TypeAlias

import msgspec
import numpy as np

from headrace.core.columns import BoolArray, FloatArray, IntArray
from headrace.core.time import MIN_US, US_PER_DAY
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION, VERDICT, judged_events
from headrace.engines.stream.commits import WINDOWS, CommitHead
from headrace.engines.stream.verdicts import COUNTED
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import Append, EventLog
from headrace.features.plan import ModelPlan, ProjectPlan
from headrace.retrieval.labels import evaluate_labels
from headrace.retrieval.predictions import PredictionBatch, read_predictions_of

TOPIC = "truth"
LABELS = "labels"


Place: TypeAlias = tuple[int, int, str | int | None, int, int]
"""Where a truth stands among those of its request, of which the last one holds: time, 0 of an event and 1 of what was
reported, id, partition, offset. So an older truth that comes later changes nothing, here as in a training set."""


class TruthRecord(msgspec.Struct, array_like=True):
    """Joined rows of one look, one entry per row, and the offsets up to which the three inputs were read.

    `places` is empty in records of former versions.
    """

    model: str
    prediction_ids: list[str]
    labels: list[float]
    known_us: list[int]
    predictions_end: int
    windows_end: int
    labels_end: int
    places: list[Place] = []


class LabelRow(msgspec.Struct):
    """A truth that was reported for a request by id rather than by an event."""

    model: str
    request_id: str
    value: float
    at_us: int


@dataclass(slots=True)
class _Chunk:
    batch: PredictionBatch
    view_version: str
    rows: dict[str, int]
    labels: FloatArray
    known_us: IntArray
    places: dict[int, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Truth:
    """A truth of a request: its value, when it was known, and its place among others."""

    request_id: Any
    value: float
    known_us: int
    place: Place


def joiner(model: str) -> str:
    """The consumer group under which the feature log notes how far the truth of a model is joined."""
    return f"truth {model}"


class TruthTracker:
    """Joins one model's predictions with its truth; remembers the last `keep_us` of requests.

    `until` bounds the commits that are known, as in `retrieval.past.Past`.
    """

    def __init__(
        self,
        project: ProjectPlan,
        model: ModelPlan,
        raw: EventLog,
        features: EventLog,
        internal: EventLog,
        *,
        keep_us: int = 40 * US_PER_DAY,
        until: Callable[[], int] | None = None,
    ) -> None:
        self._project, self._model = project, model
        self._views = project.views_of(model.name)
        self._raw, self._features, self._internal = raw, features, internal
        self._keep_us = keep_us
        self._until = until
        self._chunks: list[_Chunk] = []
        features.create(WINDOWS)
        internal.create(TOPIC)
        internal.create(LABELS)
        self._at = (0, 0, 0)
        self._noted = -1
        self.predictions = 0
        self.joined = 0
        self._recovered = False

    def update(self) -> int:
        """Join what is new; returns how many truths were joined (corrections count again)."""
        self._recover()
        predictions_end = self._read(self._at[0])
        truths = self._events()
        reported, labels_end = self._reported()
        ids, labels, known, places = self._join(truths + reported)
        ends = (predictions_end, self._windows_end, labels_end)
        if ids or ends != self._at:
            record = TruthRecord(self._model.name, ids, labels, known, *ends, places)
            self._internal.append([Append(TOPIC, 0, msgspec.msgpack.encode(record))])
            self._at = ends
        if self._noted != self._windows_end:
            # Whoever trims the raw log asks for it. After the record: what is noted is kept.
            self._features.commit(joiner(self._model.name), WINDOWS, 0, self._windows_end)
            self._noted = self._windows_end
        self.joined += len(ids)
        return len(ids)

    @property
    def first_us(self) -> int | None:
        """Time of the earliest request from which on all that are remembered were scored on the declared view.

        None if there is none.
        """
        self._recover()
        declared = self._views[0].version
        kept = max((int(c.batch.t_us.max()) for c in self._chunks if c.view_version != declared), default=MIN_US)
        times = [c.batch.t_us[c.batch.t_us > kept] for c in self._chunks if c.view_version == declared]
        return min((int(t.min()) for t in times if len(t)), default=None)

    def window(
        self, since_us: int, until_us: int, view_version: str | None = None
    ) -> list[tuple[PredictionBatch, FloatArray, BoolArray, IntArray]]:
        """Predictions of requests in `[since_us, until_us)`: batch, labels (NaN: unknown), known, when known.

        Those that were scored on the declared view, or on `view_version` of it.
        """
        self._recover()
        found = []
        for chunk in self._chunks:
            if chunk.view_version != (view_version or self._views[0].version):
                continue
            at = (chunk.batch.t_us >= since_us) & (chunk.batch.t_us < until_us)
            if at.all():
                found.append((chunk.batch, chunk.labels, ~np.isnan(chunk.labels), chunk.known_us))
            elif at.any():
                labels = chunk.labels[at]
                found.append((chunk.batch.take(at), labels, ~np.isnan(labels), chunk.known_us[at]))
        return found

    def _read(self, start: int, max_records: int = 1_000_000) -> int:
        """Remember the predictions from an offset on; returns the offset to go on from."""
        batches, end = read_predictions_of(self._internal, self._model.name, self._views, start, max_records)
        for view, batch in zip(self._views, batches, strict=True):
            if len(batch):
                self._add(batch, view.version)
        return end

    def _add(self, batch: PredictionBatch, view_version: str) -> None:
        self.predictions += len(batch)
        rows = {key: row for row, key in enumerate(batch.request_ids) if key is not None}
        n = len(batch)
        self._chunks.append(_Chunk(batch, view_version, rows, np.full(n, np.nan), np.zeros(n, np.int64)))
        edge = int(batch.t_us.max()) - self._keep_us
        self._chunks = [chunk for chunk in self._chunks if int(chunk.batch.t_us.max()) >= edge]

    def _events(self) -> list[_Truth]:
        """What new events of the label's stream say."""
        label = self._model.label
        end = self._features.end(WINDOWS, 0) if self._until is None else self._until()
        found = read_heads(self._features, self._at[1], end - self._at[1]) if end > self._at[1] else []
        self._windows_end = found[-1][0].end if found else self._at[1]
        stream, derived = self._project.stream(label.stream), label.stream in self._project.derived
        commits = [commit for _, commit in found]
        if self._at[1] == 0:
            commits = self._held(commits)
        rows = judged_events(stream, self._raw, commits, derived=derived)
        if rows is None:
            return []
        values, valid = evaluate_labels(label, self._project, rows)
        counted = valid & (np.asarray(rows[VERDICT]) == COUNTED)
        at = np.flatnonzero(counted)
        taken = rows.take(at)
        identity = stream.schema.id_field
        places = zip(
            taken[stream.schema.time_field or ""].to_pylist(),
            repeat(0),
            repeat(None) if identity is None else taken[identity].to_pylist(),
            taken[PARTITION].to_pylist(),
            taken[OFFSET].to_pylist(),
        )
        columns = (taken[label.join_field].to_pylist(), values[at].tolist(), taken[ARRIVAL].to_pylist(), places)
        return list(map(_Truth, *columns))

    def _held(self, commits: list[CommitHead]) -> list[CommitHead]:
        """Those whose labels the log still has: a new model has no predictions that older ones could belong to."""
        name = self._model.label.stream
        begin = [self._raw.begin(name, p) for p in range(self._raw.topics().get(name, 0))]
        gone = [
            index
            for index, commit in enumerate(commits)
            if (span := commit.streams.get(name))
            and any(b < e and b < held for b, e, held in zip(span.begin, span.end, begin, strict=True))
        ]
        return commits[gone[-1] + 1 :] if gone else commits

    def _reported(self) -> tuple[list[_Truth], int]:
        """What was reported since the last look, and the offset to go on from."""
        batches = self._internal.read(LABELS, 0, self._at[2], 1_000_000)
        found = [
            _Truth(row.request_id, row.value, row.at_us, (row.at_us, 1, None, 0, batch.base + number))
            for batch in batches
            for number, row in enumerate(msgspec.msgpack.decode(batch.payload, type=list[LabelRow]))
            if row.model == self._model.name
        ]
        return found, batches[-1].end if batches else self._at[2]

    def _join(self, truths: list[_Truth]) -> tuple[list[str], list[float], list[int], list[Place]]:
        """Give truths to the predictions that wait for them; returns what is new: ids, labels, when known, places."""
        joined: tuple[list[str], list[float], list[int], list[Place]] = ([], [], [], [])
        for truth in truths:
            for chunk in reversed(self._chunks):
                row = chunk.rows.get(str(truth.request_id))
                if row is None:
                    continue
                before = chunk.places.get(row)
                if before is None or truth.place > before:
                    chunk.labels[row], chunk.known_us[row] = truth.value, truth.known_us
                    chunk.places[row] = truth.place
                    joined[0].append(chunk.batch.ids[row])
                    joined[1].append(truth.value)
                    joined[2].append(truth.known_us)
                    joined[3].append(truth.place)
                break
        return joined

    def _recover(self) -> None:
        """Read, once, the log of what was joined and the predictions that it speaks of.

        Not before something is asked for: it takes seconds where there are many, and a process has to start and stop.
        """
        if self._recovered:
            return
        self._chunks = []
        self.predictions = 0
        offset = self._internal.begin(TOPIC, 0)
        truths: dict[str, tuple[float, int, Place | None]] = {}
        while batches := self._internal.read(TOPIC, 0, offset, 10_000):
            for batch in batches:
                record = msgspec.msgpack.decode(batch.payload, type=TruthRecord)
                if record.model != self._model.name:
                    continue
                self._at = (record.predictions_end, record.windows_end, record.labels_end)
                rows = zip(record.prediction_ids, record.labels, record.known_us, strict=True)
                for (key, label, at_us), place in zip_longest(rows, record.places):
                    truths[key] = (label, at_us, place)
            offset = batches[-1].end
        self._windows_end = self._at[1]
        at = 0
        while at < self._at[0]:
            end = self._read(at, min(100_000, self._at[0] - at))
            if end == at:
                break
            at = end
        for chunk in self._chunks:
            for row, key in enumerate(chunk.batch.ids):
                if key in truths:
                    chunk.labels[row], chunk.known_us[row], place = truths[key]
                    if place is not None:
                        chunk.places[row] = place
        self.joined = len(truths)
        self._recovered = True  # only now: a read that failed is done again by the next call
