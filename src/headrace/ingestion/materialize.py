"""Ingestion into the online store: the only writer of it.

Commits of window deltas and rows of tables are read from the feature log, merged into the records of the entities that
they touch, and written in one transaction with the position that they bring the store to. After a kill the position
tells where to go on, so nothing is applied twice or left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import cached_property
from itertools import chain, pairwise, zip_longest

import numpy as np

from headrace.aggregations.layout import GroupLayout, layout_of
from headrace.aggregations.splice import merge_groups
from headrace.aggregations.table_records import DELETED, words_of
from headrace.aggregations.table_splice import NewRows, merge_table
from headrace.core.errors import StoreMoved
from headrace.core.keys import encode_numbers, key_encoder, record_keys
from headrace.core.positions import Position, decode_position, encode_position
from headrace.core.schema import DType
from headrace.core.tablerows import TableRows, decode_table_rows
from headrace.core.time import MAX_US
from headrace.engines.stream.coalesce import join_deltas, may_join, reach_beyond
from headrace.engines.stream.commits import TABLES, WINDOWS, Commit, GroupDelta, decode_commit
from headrace.eventlog.base import EventLog, LogBatch
from headrace.eventlog.checks import decoding
from headrace.features.plan import ProjectPlan, TablePlan
from headrace.ingestion.ceiling import WriteCeiling
from headrace.stores.online.base import OnlineStore

HORIZON_US = 600_000_000
"""As-of horizon: how far behind the newest event an online read is still answered exactly (design 4.3)."""
_READ_AHEAD = 100
GROUPS, ROWS = "groups", "tables"
"""Who shares a ceiling of writes: windows of streams, and rows of tables."""
_MOST_COMMITS = 1_000
_COMMIT_BYTES = 160
"""A step applies commits of this size for each record that a write may hold, give or take one: no reader waits for the
last of a long backlog."""


class OnlineIngest:
    """Applies the feature log to the online store; one per store.

    Attributes:
        position: what the store reflects.
        records_written: records written so far by this object.
        held_back: the last step left something for the ceiling's sake.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        features: EventLog,
        store: OnlineStore,
        *,
        horizon_us: int = HORIZON_US,
        ceiling: WriteCeiling | None = None,
    ) -> None:
        self._plan = plan
        self._features = features
        self._store = store
        self._horizon_us = horizon_us
        features.create(WINDOWS)
        features.create(TABLES)
        self._groups = {group.version: group for group in plan.streamed_groups}
        self._layouts: dict[str, GroupLayout] = {group.version: layout_of(group) for group in plan.streamed_groups}
        self._stands_at = store.position()
        self.position: Position = decode_position(self._stands_at)
        self._ahead: deque[LogBatch] = deque()
        self._read_to = self.position.windows
        self._rows_ahead: deque[LogBatch] = deque()
        self._rows_read_to = self.position.tables
        self._rows_end = 0
        self.records_written = 0
        self._ceiling = ceiling
        self.held_back = False

    def step(self, max_commits: int = _MOST_COMMITS, *, until_us: int = MAX_US) -> int:
        """Apply what the feature log holds beyond the store's position; returns how many batches that were.

        `until_us` leaves commits and table rows that were appended later for a later step. Raises StoreMoved if the
        store no longer stands where this object left it: begin anew, with a new one.
        """
        try:
            commits, tables = self._commits_until(until_us, max_commits), self._rows_until(until_us, self._room(ROWS))
            if commits or tables:
                self._apply(commits, tables)
        except BaseException:
            # Whoever catches this and steps again must find the same commits and rows, those taken already among them.
            self._ahead.clear()
            self._rows_ahead.clear()
            self._read_to, self._rows_read_to = self.position.windows, self.position.tables
            raise
        if self._ceiling is not None:
            self.held_back = self._waits(until_us)
            self._ceiling.waiting(self.held_back)
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

    def _room(self, writer: str) -> int:
        """Records that a step may write of a kind."""
        most = self._store.at_once
        return most if self._ceiling is None else min(most, self._ceiling.room(writer))

    def _waits(self, until_us: int) -> bool:
        """True if something is left for the ceiling's sake."""
        commit, rows = self.next_arrival_us, self._rows_ahead
        assert self._ceiling is not None
        return (commit is not None and commit <= until_us and not self._ceiling.room(GROUPS)) or (
            (self._rows_read_to < self._rows_end or bool(rows and rows[0].arrival_us <= until_us))
            and not self._ceiling.room(ROWS)
        )

    def _commits_until(self, until_us: int, most: int) -> list[LogBatch]:
        """At most so many commits that were appended up to `until_us`, as large as a step may be, give or take one."""
        taken: list[LogBatch] = []
        room = _COMMIT_BYTES * self._room(GROUPS)
        while room > 0 and len(taken) < most:
            arrival = self.next_arrival_us
            if arrival is None or arrival > until_us:
                break
            taken.append(self._ahead.popleft())
            room -= len(taken[-1].payload)
        return taken

    def _rows_until(self, until_us: int, room: int) -> list[LogBatch]:
        """Batches of table rows that were appended up to `until_us`, `room` rows give or take a batch."""
        taken: list[LogBatch] = []
        rows = 0
        while rows < room:
            if not self._rows_ahead and self._rows_read_to < self._rows_end:
                self._rows_ahead.extend(self._features.read(TABLES, 0, self._rows_read_to, self._store.at_once))
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
        commits = []
        for batch in batches:
            with decoding(batch):
                commits.append(decode_commit(batch.payload))
        changes = self._changes(commits)
        by_table = self._rows(tables)
        windows = batches[-1].end if batches else self.position.windows
        first, end = (tables[0].base, tables[-1].end) if tables else (0, self.position.tables)
        cuts = range(first + self._store.at_once, end, self._store.at_once) if tables else range(0)
        if not cuts:
            self._write(changes, by_table, self._moved(commits, windows, end))
            return
        # A run of a query may be one batch of any size. What a kill leaves of it is brought again and changes nothing.
        for low, high in pairwise((first, *cuts, end)):
            piece = [part for new in by_table if len((part := new.between(low, high)).keys)]
            self._write(changes, piece, self._moved(commits, windows, high))
            changes, commits = [], []

    def _write(self, changes: list[_GroupChange], by_table: list[NewRows], moved: Position) -> None:
        """Merge into the records that are touched, and write them with the position."""
        touched = chain(*[change.keys for change in changes], *[new.keys for new in by_table])
        keys = list(dict.fromkeys(touched))
        if self._ceiling is not None:
            rows = sum(len(new.keys) for new in by_table)
            self._ceiling.spend(ROWS, min(rows, len(keys)))
            self._ceiling.spend(GROUPS, max(len(keys) - rows, 0))

        def change(records: list[bytes | None], position: bytes) -> tuple[dict[bytes, bytes | None], bytes]:
            if position != self._stands_at:
                raise StoreMoved(
                    "the online store stands elsewhere than ingestion left it: another process writes it, or its "
                    "server has lost the last writes; going on from where it stands"
                )
            pending = dict(zip(keys, records, strict=True))
            for groups in _rounds(changes, pending):
                merge_groups(groups, pending, self._horizon_us)
            for new in by_table:
                merge_table(new, pending, self._horizon_us)
            return pending, after

        after = encode_position(moved)
        self._store.update(keys, change)
        self.position, self._stands_at = moved, after
        self.records_written += len(keys)

    def _changes(self, commits: list[Commit]) -> list[_GroupChange]:
        """What the commits bring to each group of this plan."""
        found: dict[str, _GroupChange] = {}
        for commit in commits:
            for version, delta in commit.groups.items():
                group = self._groups.get(version)
                if group is None:
                    continue
                change = found.get(version)
                if change is None:
                    begin = commit.streams[group.stream].begin
                    change = found[version] = _GroupChange(version, self._layouts[version], begin, [])
                change.deltas.append(delta)
        return list(found.values())

    def _rows(self, batches: list[LogBatch]) -> list[NewRows]:
        """What the batches bring to each table of this plan."""
        found: dict[str, list[NewRows]] = {}
        for batch in batches:
            with decoding(batch):
                rows = decode_table_rows(batch.payload)
            table = self._plan.tables.get(rows.table)
            if table is not None and table.version == rows.version and rows.n:
                found.setdefault(table.version, []).append(new_rows(table, rows, batch))
        return [NewRows.joined(parts) for parts in found.values()]

    def _moved(self, commits: list[Commit], windows: int, tables: int) -> Position:
        before = self.position
        streams, clocks = dict(before.streams), dict(before.clock_us)
        for commit in commits:
            streams.update(commit.positions)
            for name, span in commit.streams.items():
                clocks[name] = max([clocks.get(name, DELETED), *span.clocks_us])
        return Position(
            streams=streams,
            tables=tables,
            windows=windows,
            clock_us=clocks,
        )


class _GroupChange:
    """What consecutive commits bring to a group; `begin` is where the first of them began to read its stream."""

    def __init__(self, version: str, layout: GroupLayout, begin: list[int], deltas: list[GroupDelta]) -> None:
        self.version, self.layout, self.begin, self.deltas = version, layout, begin, deltas

    @cached_property
    def joined(self) -> list[GroupDelta]:
        """The deltas, as one if they can be joined."""
        return [join_deltas(self.deltas)] if len(self.deltas) > 1 and may_join(self.deltas) else self.deltas

    @cached_property
    def keys(self) -> list[bytes]:
        """Keys of the records that are touched; one may occur more than once."""
        return [key for delta in self.joined for key in record_keys(delta.keys, self.version)]

    def rounds(self, records: Mapping[bytes, bytes | None]) -> list[tuple[GroupLayout, GroupDelta, list[bytes]]]:
        """What to merge one after the other into `records`."""
        deltas = self.joined
        if len(deltas) < len(self.deltas) and reach_beyond([records[key] for key in self.keys], self.begin):
            deltas = self.deltas
        elif len(deltas) == 1:
            return [(self.layout, deltas[0], self.keys)]
        return [(self.layout, delta, record_keys(delta.keys, self.version)) for delta in deltas]


def _rounds(
    changes: list[_GroupChange], records: Mapping[bytes, bytes | None]
) -> list[list[tuple[GroupLayout, GroupDelta, list[bytes]]]]:
    """What to merge at once, so that no key occurs twice in a round and a group's deltas stay in order."""
    by_group = [change.rounds(records) for change in changes]
    return [[item for item in items if item is not None] for items in zip_longest(*by_group)]


def new_rows(table: TablePlan, rows: TableRows, batch: LogBatch) -> NewRows:
    """The rows of a batch as records take them; the offset of each is its write order."""
    types = [part.dtype for part in table.key]
    if types in ([DType.INT], [DType.TIMESTAMP]):
        numbers = np.fromiter(chain.from_iterable(rows.keys), np.int64, rows.n)
        keys = encode_numbers(numbers, types[0], table.version)
    else:
        keys = list(map(key_encoder(types, table.version), rows.keys))
    words, bits, objects = words_of([rows.columns[field.name] for field in table.features], rows.n)
    return NewRows(
        keys,
        rows.event_time_us,
        rows.available_us,
        rows.orders(batch.base),
        np.where(rows.deleted, DELETED, bits),
        words,
        np.full(rows.n, batch.arrival_us),
        objects,
    )
