"""The prediction log in the offline store: one table per model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from headrace.retrieval.past import WRITER
from headrace.retrieval.predictions import TIME, read_predictions_of
from headrace.retrieval.stored import beside_ints

if TYPE_CHECKING:
    from headrace.app.wiring import Parts

_AT_ONCE = 20_000


def predictions_table(model: str) -> str:
    """Name of a model's predictions in the offline store."""
    return f"predictions/{model}"


class PredictionArchive:
    """Brings `predictions/<model>` up to the prediction log; one per store.

    Each append carries the log offset up to which it goes, so that one done twice counts once.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._at = {name: max(parts.offline.number(predictions_table(name), WRITER), 0) for name in parts.plan.models}
        self.archived = 0

    def step(self) -> int:
        """Archive the next predictions of each model; returns how many there were."""
        done = 0
        for name, start in self._at.items():
            views = self._parts.plan.views_of(name)
            batches, end = read_predictions_of(self._parts.internal, name, views, start, _AT_ONCE)
            pieces = [batch.to_arrow() for batch in batches if len(batch)]
            done += sum(map(len, batches))
            if pieces:
                table, offline = predictions_table(name), self._parts.offline
                held = offline.columns(table)
                rows = pa.concat_tables([beside_ints(piece, held) for piece in pieces], promote_options="permissive")
                offline.append(table, rows, time_column=TIME, writer=WRITER, number=end)
            self._at[name] = end
        self.archived += done
        return done
