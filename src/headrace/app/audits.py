"""One prediction, recomputed as it was served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headrace.core.errors import NotFound
from headrace.core.time import to_iso

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.monitoring.skew import Audit


@dataclass(frozen=True, slots=True)
class PredictionAudit:
    """What was answered, and whether every value that it was computed from is the same when computed again."""

    id: str
    model: str
    version: int
    value: float
    t_us: int
    audit: Audit

    @property
    def equal(self) -> bool:
        """True if no value differs."""
        return not self.audit.differing

    def __str__(self) -> str:
        same = self.audit.checked - self.audit.differing
        lines = [
            f"{self.id}: model {self.model} version {self.version} answered {self.value:.6g} at {to_iso(self.t_us)}",
            f"{same} of {self.audit.checked} values equal as served",
        ]
        if self.audit.erased:
            lines.append(f"{self.audit.erased} more were made of whom an erasure has taken out since")
        lines += [f"  {d.column}: served {d.served!r}, recomputed {d.recomputed!r}" for d in self.audit.examples]
        return "\n".join(lines)


def audit_prediction(parts: Parts, id: str) -> PredictionAudit:
    """Recompute the features of a logged prediction at its own positions; NotFound if it is in no log."""
    from headrace.monitoring.skew import ERASURES, compare, erasures_of, touched
    from headrace.retrieval.history import HistoryReader, served_at
    from headrace.retrieval.predictions import TOPIC, find_prediction

    known = TOPIC in parts.internal.topics()
    tail = parts.internal.end(TOPIC, 0) if known else 0
    # Predictions of a kept view are found by a second look: the log names a view by name and version.
    kept = [{view.name: view} for view in parts.plan.kept_views.values()]
    found_in = ({**parts.plan.views}, *kept)
    block = next((b for v in found_in if (b := find_prediction(parts.internal, id, v, tail=max(tail, 1)))), None)
    if block is None:
        raise NotFound(
            f'there is no prediction "{id}" among the {tail:,} in the log, or its view has changed since; '
            "ids look like p-…-…, as score returns them"
        )
    # A prediction made before anything was ingested names no position: it saw nothing of any stream.
    served = served_at(block.features.position, len(block))
    view = next(v[block.view] for v in found_in if block.view in v and v[block.view].version == block.view_version)
    again = HistoryReader(view, parts.plan, parts.past).read(block.request, served)
    scored = np.full(len(block), block.scored_us, np.int64)
    gone = touched(view, block.features, scored, erasures_of(parts.catalog.setting(ERASURES, {})))
    found = compare([id], block.features, again, gone)
    return PredictionAudit(id, block.model, block.champion, float(block.values[0]), int(block.t_us[0]), found)
