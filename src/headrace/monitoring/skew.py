"""The skew audit: recompute what was served, as served, and compare every bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from headrace.core.columns import BoolArray, IntArray
from headrace.features.nodes import references
from headrace.features.plan import ViewPlan
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


ERASURES: Final = "erasures"
"""The catalog's setting that holds the jobs of erasure; see `app.erasing`."""


@dataclass(frozen=True, slots=True)
class ErasedBefore:
    """Values of these groups that were served before a time may have been made of whom an erasure took out since."""

    groups: frozenset[str]
    before_us: int


@dataclass(slots=True)
class Audit:
    """How many values were compared, how many differ, and the first few that do; `erased` values cannot be compared
    any more, since whom they were made of was erased."""

    rows: int = 0
    checked: int = 0
    differing: int = 0
    examples: list[Difference] = field(default_factory=list)
    erased: int = 0

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            self.rows + other.rows,
            self.checked + other.checked,
            self.differing + other.differing,
            (self.examples + other.examples)[:20],
            self.erased + other.erased,
        )

    @property
    def in_words(self) -> str:
        """`0 of N differ`."""
        return f"{self.differing:,} of {self.checked:,} differ"


def erasures_of(jobs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[ErasedBefore]:
    """What erasures changed of others' values, from the catalog's setting."""
    found = [job for some in jobs.values() for job in some if job.get("changed")]
    return [ErasedBefore(frozenset(job["changed"]), int(job["ended_us"])) for job in found]


def audit(
    batch: PredictionBatch, reader: HistoryReader, view: ViewPlan, erasures: Sequence[ErasedBefore] = ()
) -> Audit:
    """Recompute every feature value of the predictions at the positions that they were served at, and compare."""
    if not len(batch):
        return Audit()
    again = reader.read(batch.request, batch.served_at)
    return compare(batch.ids, batch.features, again, touched(view, batch.features, batch.scored_us, erasures))


def touched(
    view: ViewPlan, served: FeatureBlock, scored_us: IntArray, erasures: Sequence[ErasedBefore]
) -> BoolArray | None:
    """Which values, bool [rows, columns], an erasure since may have changed; None if none."""
    found: BoolArray | None = None
    for one in erasures:
        names: set[str] = set()
        for column in view.columns:  # each stands after what it reads
            read = column.binding is not None and view.bindings[column.binding].source in one.groups
            if read or (column.node is not None and references(column.node) & names):
                names.add(column.name)
        columns = np.array([name in names for name in served.names], np.bool_)
        here = (scored_us < one.before_us)[:, None] & columns[None, :]
        found = here if found is None else found | here
    return found


def compare(ids: list[str], served: FeatureBlock, again: FeatureBlock, erased: BoolArray | None = None) -> Audit:
    """Compare two blocks of the same columns bit by bit; nulls equal nulls only. Where `erased` is true a difference
    is none."""
    differs = (served.valid != again.valid) | (served.valid & (served.words != again.words))
    for index, name in enumerate(served.names):
        if served.dtypes[index].is_object:
            a, b = served.objects[name].to_pylist(), again.objects[name].to_pylist()
            differs[:, index] = [x != y for x, y in zip(a, b, strict=True)]
    gone = 0
    if erased is not None:
        gone = int((differs & erased).sum())
        differs &= ~erased
    result = Audit(len(ids), differs.size - gone, int(differs.sum()), erased=gone)
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
