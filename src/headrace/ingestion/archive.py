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
    """Brings the offline store up to the feature log; one per store.

    Should another process do so, too, a step raises StoreMoved, and the next one goes on from what is there.
    """

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
        self._numbers: dict[str, int] = {}
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

    def _append(self, table: str, rows: pa.Table, time_column: str, end: int) -> None:
        after = self._numbers[table]
        self._offline.append(table, rows, time_column=time_column, writer=WRITER, number=end, after=after)
        self._numbers[table] = end

    def _look(self) -> None:
        """Ask the store how far it is: an append that raised may have been done, if only its answer was lost."""
        tables = [events_table(name) for name in self._streams] + [rows_table(t) for t in self._plan.tables.values()]
        self._numbers = {table: self._offline.number(table, WRITER) for table in tables}
        self._done = {name: max(self._numbers[events_table(name)], 0) for name in self._streams}
        self._rows_done = {name: max(self._numbers[rows_table(t)], 0) for name, t in self._plan.tables.items()}
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
                self._append(table, as_stored(rows, held, schema), time, end)
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
            self._append(rows_table(table), pa.concat_tables(parts), EVENT_TIME, end)
        # Tables are at different offsets after a restart: none may go back.
        self._rows_done = {name: max(done, end) for name, done in self._rows_done.items()}
        return len(batches)
