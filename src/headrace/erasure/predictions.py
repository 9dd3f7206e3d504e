"""Predictions of an entity, and the truths that belong to them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from headrace.erasure.events import Edited
from headrace.erasure.subject import Subject
from headrace.features.plan import ProjectPlan
from headrace.monitoring.truth import LabelRow, TruthRecord
from headrace.retrieval.prediction_blocks import StoredBlock, decode_stored, encode_stored

_pack = msgspec.msgpack.Encoder().encode
_labels = msgspec.msgpack.Decoder(list[LabelRow]).decode
_truths = msgspec.msgpack.Decoder(TruthRecord).decode


@dataclass(slots=True)
class Asked:
    """Which predictions were made for an entity: their ids, and by model the ids of their requests."""

    predictions: set[str] = field(default_factory=set)
    requests: set[tuple[str, str]] = field(default_factory=set)

    def note(self, payload: bytes, subject: Subject, plan: ProjectPlan) -> int:
        """Look at a block of the prediction log; returns how many of it are the entity's. Those that were erased
        already are noted, too: their truths may still be there."""
        stored = decode_stored(payload)
        self.predictions.update(stored.erased)
        rows = _rows_of(stored, subject, plan) if subject.may_be_in(payload) else []
        self.predictions.update(stored.ids[row] for row in rows)
        self.requests.update((stored.model, id) for row in rows if (id := stored.request_ids[row]) is not None)
        return len(rows)


def erased_predictions(payload: bytes, subject: Subject, plan: ProjectPlan) -> Edited | None:
    """A block without the rows of the entity, whose prediction ids it goes on to name; None if it has none."""
    if not subject.may_be_in(payload):
        return None
    stored = decode_stored(payload)
    gone = set(_rows_of(stored, subject, plan))
    if not gone:
        return None
    n = len(stored.ids)
    left = [row for row in range(n) if row not in gone]

    def some(items: list[Any]) -> list[Any]:
        return [items[row] for row in left]

    def words(data: bytes, width: int) -> bytes:
        """The rows that are left of an array of `width` bytes a row."""
        return np.frombuffer(data, np.uint8).reshape(n, width)[left].tobytes()

    # Rows have as many words as the view has columns; of none there are none.
    each = len(stored.words) // n
    stored.erased = [*stored.erased, *(stored.ids[row] for row in sorted(gone))]
    stored.t_us, stored.words = words(stored.t_us, 8), words(stored.words, each)
    stored.valid = words(stored.valid, each // 8)
    stored.scores = {version: words(scores, 8) for version, scores in stored.scores.items()}
    stored.request = {name: some(items) for name, items in stored.request.items()}
    stored.objects = {name: some(items) for name, items in stored.objects.items()}
    stored.ids, stored.request_ids = some(stored.ids), some(stored.request_ids)
    return Edited(encode_stored(stored), len(gone))


def erased_labels(payload: bytes, subject: Subject, asked: Asked) -> Edited | None:
    """Reported truths without those of the entity's requests; None if none is."""
    rows = _labels(payload)
    left = [
        row
        for row in rows
        if (row.model, row.request_id) not in asked.requests and not subject.named_in(row.request_id)
    ]
    return None if len(left) == len(rows) else Edited(_pack(left), len(rows) - len(left))


def erased_truths(payload: bytes, gone: Collection[str]) -> Edited | None:
    """Joined truths without those of erased predictions; None if none is."""
    record = _truths(payload)
    left = [row for row, id in enumerate(record.prediction_ids) if id not in gone]
    lost = len(record.prediction_ids) - len(left)
    if not lost:
        return None
    record.prediction_ids = [record.prediction_ids[row] for row in left]
    record.labels = [record.labels[row] for row in left]
    record.known_us = [record.known_us[row] for row in left]
    record.places = [record.places[row] for row in left] if record.places else []
    return Edited(_pack(record), lost)


def roles_of(plan: ProjectPlan, view: str, version: str, entity: str) -> frozenset[str] | None:
    """Request fields of a view that are keys of an entity; None if that version of the view is not known any more."""
    for found in (plan.views.get(view), *plan.kept_views.values()):
        if found is not None and found.name == view and found.version == version:
            return frozenset(name for f in found.request if f.entity == entity for name in f.names)
    return None


def _rows_of(stored: StoredBlock, subject: Subject, plan: ProjectPlan) -> list[int]:
    """Rows whose request has the key in a field of the entity; of a view of former times, in any field. What a model
    saw may name it, too: such rows go as well."""
    roles = roles_of(plan, stored.view, stored.view_version, subject.entity)
    found: set[int] = set()
    for name, values in stored.request.items():
        if roles is None or name in roles:
            found.update(row for row, value in enumerate(values) if value == subject.value)
    if isinstance(subject.value, str):
        for values in (*stored.request.values(), *stored.objects.values()):
            found.update(row for row, value in enumerate(values) if names_entity(subject, value))
    return sorted(found)


def names_entity(subject: Subject, value: Any) -> bool:
    """True if a text, or one in a list or map, holds the key as a word."""
    if isinstance(value, dict):
        return any(names_entity(subject, item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return any(names_entity(subject, item) for item in value)
    return subject.named_in(value)
