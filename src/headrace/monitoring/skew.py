"""The skew audit: recompute what was served, as served, and compare every bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.retrieval.history import HistoryReader
from headrace.retrieval.predictions import PredictionBatch
from headrace.retrieval.rows import FeatureBlock


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that was not recomputed to the same bits."""

    prediction: str
    column: str
    served: Any
    recomputed: Any


@dataclass(slots=True)
class Audit:
    """How many values were compared, how many differ, and the first few that do."""

    rows: int = 0
    checked: int = 0
    differing: int = 0
    examples: list[Difference] = field(default_factory=list)

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            self.rows + other.rows,
            self.checked + other.checked,
            self.differing + other.differing,
            (self.examples + other.examples)[:20],
        )

    @property
    def in_words(self) -> str:
        """`0 of N differ`."""
        return f"{self.differing:,} of {self.checked:,} differ"


def audit(batch: PredictionBatch, reader: HistoryReader) -> Audit:
    """Recompute every feature value of the predictions at the positions that they were served at, and compare."""
    if not len(batch):
        return Audit()
    again = reader.read(batch.request, batch.served_at)
    return compare(batch.ids, batch.features, again)


def compare(ids: list[str], served: FeatureBlock, again: FeatureBlock) -> Audit:
    """Compare two blocks of the same columns bit by bit; nulls equal nulls only."""
    differs = (served.valid != again.valid) | (served.valid & (served.words != again.words))
    for index, name in enumerate(served.names):
        if served.dtypes[index].is_object:
            a, b = served.objects[name].to_pylist(), again.objects[name].to_pylist()
            differs[:, index] = [x != y for x, y in zip(a, b, strict=True)]
    result = Audit(len(ids), differs.size, int(differs.sum()))
    for row, index in np.argwhere(differs)[:20].tolist():
        name = served.names[index]
        pick = np.array([row])
        result.examples.append(
            Difference(
                ids[row],
                name,
                served.column(name).take(pick).to_pylist()[0],
                again.column(name).take(pick).to_pylist()[0],
            )
        )
    return result
