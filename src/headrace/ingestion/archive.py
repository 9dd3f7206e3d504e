"""Ingestion into the offline store: raw events with their verdicts, and the rows of tables.

Each append carries the feature-log offset up to which it goes, so a restart repeats at most an append that the store
then refuses as done. Online and offline are fed from the same log: one record reaches both by itself.
"""

from __future__ import annotations

import pyarrow as pa

from headrace.core.tablerows import decode_table_rows
from headrace.engines.stream.admitted import judged_events
from headrace.engines.stream.commits import TABLES, WINDOWS
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import EventLog
from headrace.eventlog.checks import decoding
from headrace.features.plan import ProjectPlan
from headrace.retrieval.past import EVENT_TIME, WRITER, events_table, rows_table, table_history
from headrace.retrieval.stored import as_stored, column_of_field
from headrace.stores.offline.base import OfflineStore


class ArchiveWorker:
    """Brings the offline store up to the feature log; one per store."""

    def __init__(self, plan: ProjectPlan, raw: EventLog, features: EventLog, offline: OfflineStore) -> None:
        # It may be the first of the layers to start.
        features.create(WINDOWS)
        features.create(TABLES)
        self._plan = plan
        self._raw = raw
        self._features = features
        self._offline = offline
        self._streams = plan.topics()
        self._done: dict[str, int] = {}
        self._rows_done: dict[str, int] = {}
        self._unsure = False
        self._look()
        self.archived = 0

    def step(self, max_commits: int = 5_000, *, until: int | None = None) -> int:
        """Archive the next commits and table rows; returns how many commits and batches were covered.

        `until` leaves commits from that offset on for a later step. A step that raised may be repeated.
        """
        if self._unsure:
            self._look()
        self._unsure = True
        done = self._events(max_commits, until) + self._rows(max_commits)
        self._unsure = False
        return done

    def _look(self) -> None:
        """Ask the store how far it is: an append that raised may have been done, if only its answer was lost."""
        number = self._offline.number
        self._done = {name: max(number(events_table(name), WRITER), 0) for name in self._streams}
        self._rows_done = {name: max(number(rows_table(t), WRITER), 0) for name, t in self._plan.tables.items()}
        self._unsure = False

    def lag(self) -> int:
        """Commits that some stream's archive does not cover yet."""
        return self._features.end(WINDOWS, 0) - min(self._done.values(), default=0)

    def _events(self, max_commits: int, until: int | None) -> int:
        start = min(self._done.values(), default=0)
        if until is not None:
            max_commits = min(max_commits, until - start)
        if max_commits <= 0:
            return 0
        found = read_heads(self._features, start, max_commits)
        if not found:
            return 0
        end = found[-1][0].end
        for name, done in self._done.items():
            commits = [c for b, c in found if b.base >= done]
            rows = judged_events(self._streams[name], self._raw, commits, derived=name in self._plan.derived)
            if rows is not None and len(rows):
                schema, table = self._streams[name].schema, events_table(name)
                held = self._offline.columns(table)
                time = column_of_field(held, schema[schema.time_field or ""])
                self._offline.append(table, as_stored(rows, held, schema), time_column=time, writer=WRITER, number=end)
                self.archived += len(rows)
            self._done[name] = max(done, end)
        return len(found)

    def _rows(self, max_batches: int) -> int:
        start = min(self._rows_done.values(), default=0)
        batches = self._features.read(TABLES, 0, start, max_batches)
        if not batches:
            return 0
        pieces: dict[str, list[pa.Table]] = {}
        for batch in batches:
            with decoding(batch):
                rows = decode_table_rows(batch.payload)
            table = self._plan.tables.get(rows.table)
            if table is not None and table.version == rows.version and batch.base >= self._rows_done[table.name]:
                pieces.setdefault(table.name, []).append(table_history(table, rows, batch.base))
        end = batches[-1].end
        for name, parts in pieces.items():
            table = self._plan.tables[name]
            self._offline.append(
                rows_table(table), pa.concat_tables(parts), time_column=EVENT_TIME, writer=WRITER, number=end
            )
        # Tables are at different offsets after a restart: none may go back.
        self._rows_done = {name: max(done, end) for name, done in self._rows_done.items()}
        return len(batches)
