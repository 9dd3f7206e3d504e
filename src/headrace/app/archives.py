"""What brings the offline store up to the logs: the thread that does it, and the table of predictions of each model."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pyarrow as pa

from headrace.core.errors import StoreMoved, Unreachable
from headrace.engines.stream.commits import WINDOWS
from headrace.retrieval.past import WRITER
from headrace.retrieval.predictions import TIME, read_predictions_of
from headrace.retrieval.stored import beside_ints

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.ingestion.archive import ArchiveWorker

_AT_ONCE = 20_000
_EVERY_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


def predictions_table(model: str) -> str:
    """Name of a model's predictions in the offline store."""
    return f"predictions/{model}"


class PredictionArchive:
    """Brings `predictions/<model>` up to the prediction log; one per store.

    Each append carries the log offset up to which it goes, so that one done twice counts once.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._at: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._unsure = False
        self._look()
        self.archived = 0

    def _look(self) -> None:
        number = self._parts.offline.number
        self._numbers = {name: number(predictions_table(name), WRITER) for name in self._parts.plan.models}
        self._at = {name: max(found, 0) for name, found in self._numbers.items()}
        self._unsure = False

    def step(self) -> int:
        """Archive the next predictions of each model; returns how many there were."""
        done = 0
        if self._unsure:
            self._look()
        self._unsure = True  # an append that raises may have been done
        for name, start in self._at.items():
            views = self._parts.plan.views_of(name)
            batches, end = read_predictions_of(self._parts.internal, name, views, start, _AT_ONCE)
            pieces = [batch.to_arrow() for batch in batches if len(batch)]
            done += sum(map(len, batches))
            if pieces:
                table, offline = predictions_table(name), self._parts.offline
                held = offline.columns(table)
                rows = pa.concat_tables([beside_ints(piece, held) for piece in pieces], promote_options="permissive")
                after, self._numbers[name] = self._numbers[name], end
                offline.append(table, rows, time_column=TIME, writer=WRITER, number=end, after=after)
            self._at[name] = end
        self._unsure = False
        self.archived += done
        return done


class Archiving:
    """The archive of events, rows and predictions on a thread of its own: its commits take longer than a read may wait.

    While the offline store does not answer, nothing but the archive waits; it tries again after a pause that grows to
    30 s, and goes on from where it was.
    """

    def __init__(self, parts: Parts) -> None:
        # Opened here, before there are two threads. The store itself may be away now.
        self._parts, _ = parts, (parts.raw, parts.internal)
        self._features = parts.features
        self._events: ArchiveWorker | None = None
        self._predictions: PredictionArchive | None = None
        self._due = threading.Event()
        self._stopped = threading.Event()
        self.problem = ""
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is much to do: do not wait for the next turn."""
        self._due.set()

    def counters(self) -> dict[str, float]:
        """Totals since the start, and how many commits wait."""
        events, predictions = self._events, self._predictions
        waiting = self._features.end(WINDOWS, 0) if WINDOWS in self._features.topics() else 0
        return {
            "archived": 0 if events is None else events.archived,
            "predictions_archived": 0 if predictions is None else predictions.archived,
            "archive_lag": waiting if events is None else events.lag(),
        }

    def stop(self) -> None:
        """End the thread after its step; raises what it failed with."""
        self._stopped.set()
        self._due.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def drain(self) -> None:
        """Archive all that waits, after `stop`."""
        while self._step():
            pass

    def _step(self) -> int:
        if self._events is None:
            self._events = self._parts.archive()
        if self._predictions is None:
            self._predictions = PredictionArchive(self._parts)
        return self._events.step() + self._predictions.step()

    def _run(self) -> None:
        pause = 0.0
        try:
            while not self._stopped.wait(pause):
                if not pause:
                    self._due.wait(_EVERY_S)
                    self._due.clear()
                try:
                    while not self._stopped.is_set() and self._step():
                        self.problem, pause = "", 0.0
                except (Unreachable, StoreMoved) as error:
                    self.problem = str(error)
                    pause = min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                else:
                    self.problem, pause = "", 0.0
        except BaseException as error:
            self.failure = error
