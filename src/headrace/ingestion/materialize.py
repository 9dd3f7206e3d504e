"""Ingestion into the online store: the only writer of it.

Commits of window deltas and rows of tables are read from the feature log, merged into the records of the entities that
they touch, and written in one transaction with the position that they bring the store to. After a kill the position
tells where to go on, so nothing is applied twice or left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from headrace.aggregations.layout import GroupLayout, layout_of
from headrace.aggregations.splice import merge_groups
from headrace.aggregations.table_records import DELETED, TableRow, merge_rows, words_of
from headrace.core.columns import Column
from headrace.core.keys import entity_encoder, record_key, record_keys
from headrace.core.positions import Position, decode_position, encode_position
from headrace.core.tablerows import TableRows, decode_table_rows
from headrace.core.time import MAX_US
from headrace.engines.stream.commits import TABLES, WINDOWS, Commit, GroupDelta, decode_commit
from headrace.eventlog.base import EventLog, LogBatch
from headrace.features.plan import ProjectPlan, TablePlan
from headrace.stores.online.base import OnlineStore

HORIZON_US = 600_000_000
"""As-of horizon: how far behind the newest event an online read is still answered exactly (design 4.3)."""
_READ_AHEAD = 1_000
_MOST_ROWS = 100_000
"""Table rows that a step applies at most, give or take a batch."""


class OnlineIngest:
    """Applies the feature log to the online store; one per store.

    Attributes:
        position: what the store reflects.
        records_written: records written so far by this object.
    """

    def __init__(
        self, plan: ProjectPlan, features: EventLog, store: OnlineStore, *, horizon_us: int = HORIZON_US
    ) -> None:
        self._plan = plan
        self._features = features
        self._store = store
        self._horizon_us = horizon_us
        features.create(WINDOWS)
        features.create(TABLES)
        self._layouts: dict[str, GroupLayout] = {group.version: layout_of(group) for group in plan.computed_groups}
        self.position: Position = decode_position(store.position())
        self._ahead: deque[LogBatch] = deque()
        self._read_to = self.position.windows
        self._rows_ahead: deque[LogBatch] = deque()
        self._rows_read_to = self.position.tables
        self._rows_end = 0
        self.records_written = 0

    def step(self, max_commits: int = _READ_AHEAD, *, until_us: int = MAX_US) -> int:
        """Apply what the feature log holds beyond the store's position; returns how many batches that were.

        `until_us` leaves commits and table rows that were appended later for a later step.
        """
        commits: list[LogBatch] = []
        while len(commits) < max_commits and (arrival := self.next_arrival_us) is not None and arrival <= until_us:
            commits.append(self._ahead.popleft())
        tables = self._rows_until(until_us)
        if commits or tables:
            try:
                self._apply(commits, tables)
            except BaseException:
                # Whoever catches this and steps again must find the same commits and rows.
                self._ahead.clear()
                self._rows_ahead.clear()
                self._read_to, self._rows_read_to = self.position.windows, self.position.tables
                raise
        return len(commits) + len(tables)

    @property
    def next_arrival_us(self) -> int | None:
        """When the next commit to apply was appended; None while there is none."""
        if not self._ahead:
            self._ahead.extend(self._features.read(WINDOWS, 0, self._read_to, _READ_AHEAD))
            if self._ahead:
                self._read_to = self._ahead[-1].end
            # After the commits: rows that are appended from here on arrive no earlier than those do, so there is no
            # need to look again before they are used up.
            self._rows_end = self._features.end(TABLES, 0)
        return self._ahead[0].arrival_us if self._ahead else None

    def _rows_until(self, until_us: int) -> list[LogBatch]:
        """Batches of table rows that were appended up to `until_us`, as many as one step applies."""
        taken: list[LogBatch] = []
        rows = 0
        while rows < _MOST_ROWS:
            if not self._rows_ahead and self._rows_read_to < self._rows_end:
                self._rows_ahead.extend(self._features.read(TABLES, 0, self._rows_read_to, _MOST_ROWS))
                self._rows_read_to = self._rows_ahead[-1].end
            if not self._rows_ahead or self._rows_ahead[0].arrival_us > until_us:
                break
            taken.append(self._rows_ahead.popleft())
            rows += taken[-1].count
        return taken

    @property
    def events(self) -> int:
        """Raw events that the store reflects, dead letters and duplicates included."""
        streams = self.position.streams
        return sum(sum(streams[name]) for name in self._plan.streams if name in streams)

    def lag(self) -> int:
        """Commits in the feature log that the online store does not reflect yet."""
        return self._features.end(WINDOWS, 0) - self.position.windows

    def _apply(self, batches: list[LogBatch], tables: list[LogBatch]) -> None:
        commits = [decode_commit(batch.payload) for batch in batches]
        rows = [(decode_table_rows(batch.payload), batch) for batch in tables]
        changes = [self._changes(commit) for commit in commits]
        by_key = [keyed for pair in rows if (keyed := self._rows(*pair))]
        touched = {key for change in changes for _, _, keys in change for key in keys}
        touched.update(key for _, _, keyed in by_key for key in keyed)
        order = sorted(touched)
        moved = self._moved(commits, batches, tables)

        def change(records: list[bytes | None]) -> tuple[list[tuple[bytes, bytes | None]], bytes]:
            pending = dict(zip(order, records, strict=True))
            for groups in changes:
                merge_groups(groups, pending, self._horizon_us)
            for table, arrival_us, rows_of in by_key:
                for key, new in rows_of.items():
                    pending[key] = merge_rows(pending[key], new, len(table.features), self._horizon_us, arrival_us)
            return list(pending.items()), encode_position(moved)

        self._store.update(order, change)
        self.position = moved
        self.records_written += len(order)

    def _changes(self, commit: Commit) -> list[tuple[GroupLayout, GroupDelta, list[bytes]]]:
        """What a commit brings to the groups of this plan, with the keys of the records that it touches."""
        return [
            (layout, delta, record_keys(delta.keys, version))
            for version, delta in commit.groups.items()
            if (layout := self._layouts.get(version)) is not None
        ]

    def _rows(self, rows: TableRows, batch: LogBatch) -> tuple[TablePlan, int, Mapping[bytes, list[TableRow]]] | None:
        table = self._plan.tables.get(rows.table)
        if table is None or table.version != rows.version:
            return None
        return table, batch.arrival_us, table_rows_by_key(table, rows, batch.base)

    def _moved(self, commits: list[Commit], batches: list[LogBatch], tables: list[LogBatch]) -> Position:
        before = self.position
        streams, clocks = dict(before.streams), dict(before.clock_us)
        for commit in commits:
            streams.update(commit.positions)
            for name, span in commit.streams.items():
                clocks[name] = max([clocks.get(name, DELETED), *span.clocks_us])
        return Position(
            streams=streams,
            tables=tables[-1].end if tables else before.tables,
            windows=batches[-1].end if batches else before.windows,
            clock_us=clocks,
        )


def table_rows_by_key(table: TablePlan, rows: TableRows, base: int) -> Mapping[bytes, list[TableRow]]:
    """The rows of a batch by record key; `base` is the offset (write order) of the first."""
    encode = entity_encoder([part.dtype for part in table.key])
    columns: list[Column] = [rows.columns[field.name] for field in table.features]
    words, bits, objects = words_of(columns, rows.n)
    bits = np.where(rows.deleted, DELETED, bits)
    times, available, flags = rows.event_time_us.tolist(), rows.available_us.tolist(), bits.tolist()
    cells = words.T.tolist()
    out: dict[bytes, list[TableRow]] = {}
    for index, key in enumerate(rows.keys):
        row = TableRow(times[index], available[index], base + index, flags[index], cells[index], objects[index])
        out.setdefault(record_key(encode(tuple(key)), table.version), []).append(row)
    return out
