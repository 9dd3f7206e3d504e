"""Whether the offline store still holds what was archived; what it has lost is brought back from the logs.

Every look asks for files that are gone or have another length, and whether rows have become fewer: both are known
without reading a row. Only where one of the two is so, or where it is asked for, are the offsets in the archive counted
against those that the commits say. What is missing is appended again from the log, as long as that holds it; else the
report says which file is to be put back, and until then nothing is computed from that archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from headrace.core.columns import BoolArray, IntArray
from headrace.core.tablerows import decode_table_rows
from headrace.engines.stream.admitted import OFFSET, PARTITION, judged_events
from headrace.engines.stream.commits import TABLES, CommitHead
from headrace.engines.stream.verdicts import DEAD
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import EventLog
from headrace.features.plan import ProjectPlan, StreamPlan, TablePlan
from headrace.retrieval.past import EVENT_TIME, ORDER, WRITER, events_table, rows_table, table_history
from headrace.retrieval.stored import as_stored, column_of_field
from headrace.stores.offline.base import DamagedFile, OfflineStore

RESTORER = "restore"
"""The writer's name of what is appended again."""
_COMMITS = 1_000
_BATCHES = 1_000


@dataclass(slots=True)
class Restored:
    """What was found of the archive.

    Attributes:
        rows: rows that it should hold, as far as they were counted.
        missing, restored: of them, by table of the offline store, those that it had lost, and those brought back.
        lost: by table, what cannot be brought back, and the cure.
    """

    rows: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    restored: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


class ArchiveAudit:
    """Looks after the archive of a project's events and rows; one per process.

    `erased` gives the offsets of rows that were erased and that a log which cannot be edited holds still.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        raw: EventLog,
        features: EventLog,
        offline: OfflineStore,
        *,
        erased: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        self._plan, self._raw, self._features, self._offline = plan, raw, features, offline
        self._erased = erased
        self._rows: dict[str, int] = {}

    def look(
        self, *, repair: bool = True, count: bool = False, on_way: Callable[[], object] = lambda: None
    ) -> Restored:
        """Look at all tables; `count` also where there is no sign that anything is missing."""
        found = Restored()
        for name, stream in self._plan.topics().items():
            self._table(events_table(name), found, repair, count, _Events(self, name, stream, on_way))
            on_way()
        for table in self._plan.tables.values():
            self._table(rows_table(table), found, repair, count, _Rows(self, table, on_way))
            on_way()
        return found

    def _table(self, name: str, found: Restored, repair: bool, count: bool, source: _Events | _Rows) -> None:
        number = self._offline.number(name, WRITER)
        if number < 0:
            return
        rows, before = self._offline.count(name), self._rows.get(name)
        files = self._offline.damaged(name)
        # The first look of a process counts: the last one may have been killed between leaving out and bringing back.
        if not (files or count or before is None or rows < before):
            self._rows[name] = rows
            return
        if files:
            found.missing[name] = sum(file.rows for file in files)
            if not source.held_by_log(files):
                found.lost[name] = _cure(files)
                return
            if not repair:
                found.lost[name] = f"{len(files)} files are damaged: {_told(files)}"
                return
            if not self._offline.drop_damaged(name):
                found.lost[name] = f"{_told(files)}: delete these files, and the next look brings the rows back"
                return
        missing = source.missing(number)
        found.rows += source.expected
        n = sum(int(flags.sum()) for flags in missing)
        if n:
            found.missing[name] = n
            if repair:
                found.restored[name] = source.restore(missing, number)
            short = n - found.restored.get(name, 0)
            if short:
                found.lost[name] = f"{short:,} rows are missing from {name}" + (
                    ": the log has dropped them; put an older copy of the table back" if repair else ""
                )
                return  # the next look counts again
        elif files:
            found.missing.pop(name)
        self._rows[name] = self._offline.count(name)


class _Events:
    """The archive of a stream."""

    def __init__(self, audit: ArchiveAudit, name: str, stream: StreamPlan, on_way: Callable[[], object]) -> None:
        self._raw, self._features, self._offline = audit._raw, audit._features, audit._offline
        self._name, self._stream, self._on_way = name, stream, on_way
        self._derived = name in audit._plan.derived
        topics = self._raw.topics()
        self._begin = [self._raw.begin(name, p) for p in range(topics.get(name, 0))]
        self.expected = 0

    def held_by_log(self, files: Sequence[DamagedFile]) -> bool:
        """True if the log holds all events of these files."""
        for file in files:
            if not file.rows:
                continue
            offsets, partitions = file.bounds.get(OFFSET), file.bounds.get(PARTITION)
            if offsets is None or partitions is None:
                return False
            if any(offsets[0] < begin for begin in self._begin[partitions[0] : partitions[1] + 1]):
                return False
        return True

    def missing(self, number: int) -> list[BoolArray]:
        """Per partition, which offsets the archive should hold and does not.

        Dead letters may be missing. Of a derived stream what the log has dropped is taken for complete: its source does
        not say which events its condition left out.
        """
        wanted = [np.zeros(0, np.bool_) for _ in self._begin]
        for heads in self._commits(number):
            for head in heads:
                span = head.streams.get(self._name)
                if span is None:
                    continue
                for partition, (low, high) in enumerate(zip(span.begin, span.end, strict=True)):
                    wanted[partition] = _grown(wanted[partition], high)
                    wanted[partition][low:high] = True
                for partition, offset, code in span.exceptions:
                    if code == DEAD:
                        wanted[partition][offset] = False
        if self._derived:
            for partition, begin in enumerate(self._begin):
                wanted[partition][:begin] = False
            kept = [np.zeros(len(flags), np.bool_) for flags in wanted]
            for rows in self._judged(number, wanted):
                _mark(kept, rows)
            wanted = [flags & here for flags, here in zip(wanted, kept, strict=True)]
        self.expected = sum(int(flags.sum()) for flags in wanted)
        for rows in self._offline.batches(events_table(self._name), [PARTITION, OFFSET]):
            _mark(wanted, rows, value=False)
            self._on_way()
        return wanted

    def restore(self, missing: Sequence[BoolArray], number: int) -> int:
        """Append what is missing and still in the log; returns how many events."""
        table, schema, done = events_table(self._name), self._stream.schema, 0
        for rows in self._judged(number, missing):
            held = self._offline.columns(table)
            _append(
                self._offline,
                table,
                as_stored(rows, held, schema),
                column_of_field(held, schema[schema.time_field or ""]),
            )
            done += rows.num_rows
        return done

    def _judged(self, number: int, chosen: Sequence[BoolArray]) -> Iterator[pa.Table]:
        """The events at the chosen offsets, some at a time; those that the log has dropped are left out."""
        for heads in self._commits(number):
            for head in heads:
                span = head.streams.get(self._name)
                if span is None:
                    continue
                low = [min(max(a, b), end) for a, b, end in zip(span.begin, self._begin, span.end, strict=True)]
                if any(flags[a:b].any() for flags, a, b in zip(chosen, low, span.end, strict=True)):
                    listed = [one for one in span.exceptions if one[1] >= low[one[0]]]
                    here = msgspec.structs.replace(span, begin=low, exceptions=listed)
                    only = msgspec.structs.replace(head, streams={self._name: here})
                    rows = judged_events(self._stream, self._raw, [only], derived=self._derived)
                    if rows is not None:
                        yield rows.filter(pa.array(_marked(chosen, rows)))
                self._on_way()

    def _commits(self, number: int) -> Iterator[list[CommitHead]]:
        at = 0
        while at < number:
            found = read_heads(self._features, at, min(number - at, _COMMITS))
            if not found:
                return
            yield [head for _, head in found]
            at = found[-1][0].end
            self._on_way()


class _Rows:
    """The history of a table."""

    def __init__(self, audit: ArchiveAudit, table: TablePlan, on_way: Callable[[], object]) -> None:
        self._features, self._offline, self._table, self._on_way = audit._features, audit._offline, table, on_way
        self._erased = audit._erased
        self.expected = 0

    def held_by_log(self, files: Sequence[DamagedFile]) -> bool:
        """True if the log holds all rows of these files."""
        begin = self._features.begin(TABLES, 0)
        return all(not file.rows or file.bounds.get(ORDER, (-1, -1))[0] >= begin for file in files)

    def missing(self, number: int) -> list[BoolArray]:
        """Which offsets of the topic of rows the history should hold and does not."""
        wanted = np.zeros(number, np.bool_)
        for rows in self._batches(number):
            wanted[_places(rows)] = True
        gone = np.array(self._erased(), np.int64)
        wanted[gone[gone < number]] = False
        self.expected = int(wanted.sum())
        for rows in self._offline.batches(rows_table(self._table), [ORDER]):
            at = np.array(rows[ORDER], np.int64)
            wanted[at[at < number]] = False
            self._on_way()
        return [wanted]

    def restore(self, missing: Sequence[BoolArray], number: int) -> int:
        """Append what is missing; returns how many rows."""
        (wanted,), done = missing, 0
        for rows in self._batches(number):
            mine = wanted[_places(rows)]
            if mine.any():
                _append(self._offline, rows_table(self._table), rows.filter(pa.array(mine)), EVENT_TIME)
                done += int(mine.sum())
        return done

    def _batches(self, number: int) -> Iterator[pa.Table]:
        at, table = self._features.begin(TABLES, 0), self._table
        while at < number:
            batches = self._features.read(TABLES, 0, at, min(number - at, _BATCHES))
            if not batches:
                return
            for batch in batches:
                rows = decode_table_rows(batch.payload)
                if batch.base < number and (rows.table, rows.version) == (table.name, table.version) and rows.n:
                    yield table_history(table, rows, batch.base)
            at = batches[-1].end
            self._on_way()


def _places(rows: pa.Table) -> IntArray:
    """The offsets of rows of a table."""
    return np.array(rows[ORDER], np.int64)


def _append(offline: OfflineStore, table: str, rows: pa.Table, time_column: str) -> None:
    if rows.num_rows:
        number = offline.number(table, RESTORER) + 1
        offline.append(table, rows, time_column=time_column, writer=RESTORER, number=number)


def _grown(flags: BoolArray, size: int) -> BoolArray:
    if size <= len(flags):
        return flags
    out = np.zeros(max(size, 2 * len(flags)), np.bool_)
    out[: len(flags)] = flags
    return out


def _mark(flags: Sequence[BoolArray], rows: pa.Table, *, value: bool = True) -> None:
    partitions, offsets = np.array(rows[PARTITION], np.int64), np.array(rows[OFFSET], np.int64)
    for partition, here in enumerate(flags):
        at = offsets[partitions == partition]
        here[at[at < len(here)]] = value


def _marked(flags: Sequence[BoolArray], rows: pa.Table) -> BoolArray:
    """Which rows stand at an offset that is marked."""
    partitions, offsets = np.array(rows[PARTITION], np.int64), np.array(rows[OFFSET], np.int64)
    found = np.zeros(rows.num_rows, np.bool_)
    for partition, here in enumerate(flags):
        at = np.flatnonzero((partitions == partition) & (offsets < len(here)))
        found[at] = here[offsets[at]]
    return found


def _told(files: Sequence[DamagedFile]) -> str:
    return "; ".join(f"{file.path} {file.fault}" for file in files[:3]) + ("; …" if len(files) > 3 else "")


def _cure(files: Sequence[DamagedFile]) -> str:
    return (
        f"{_told(files)}; the log has dropped {sum(file.rows for file in files):,} rows of it: put the files back from "
        "a copy, or from an older version of the bucket's objects"
    )


def tables_of(plan: ProjectPlan, lost: Mapping[str, str]) -> set[str]:
    """The streams and the tables whose archive is among the lost, and the streams that are derived from one."""
    found = {name for name in plan.topics() if events_table(name) in lost}
    found |= {table.version for table in plan.tables.values() if rows_table(table) in lost}
    for name, derived in plan.derived.items():
        if derived.source in found:
            found.add(name)
    return found
