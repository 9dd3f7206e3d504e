"""Whether the offline store still holds what was archived; what it has lost is brought back from the logs.

Every look asks for files that are gone or have another length, and whether rows have become fewer: both are known
without reading a row. Only where one of the two is so, or where it is asked for, are the offsets in the archive counted
against those that the commits say. What is missing is appended again from the log, as long as that holds it; else the
report says which file is to be put back, and until then nothing is computed from that archive. If there is no copy,
somebody has to say that the loss is accepted: from then on the archive is complete without these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from headrace.core.columns import BoolArray, IntArray
from headrace.core.errors import NotFound, StoreError
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


Ranges = Sequence[Sequence[int]]
"""Rows of an archive: partition, first offset, last offset (exclusive)."""


class ArchiveAudit:
    """Looks after the archive of a project's events and rows; one per process.

    `erased` gives the offsets of rows that were erased and that a log which cannot be edited holds still, `accepted` by
    table of the offline store what is lost for good and asked for no more.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        raw: EventLog,
        features: EventLog,
        offline: OfflineStore,
        *,
        erased: Callable[[], Sequence[int]] = tuple,
        accepted: Callable[[], Mapping[str, Ranges]] = dict,
    ) -> None:
        self._plan, self._raw, self._features, self._offline = plan, raw, features, offline
        self._erased, self._accepted = erased, accepted
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

    def lost_for_good(self, name: str) -> tuple[str, list[list[int]]]:
        """The table of the offline store of a stream or table, and its rows that nobody has any more.

        Damaged files are left out of it, and what the log still holds of them is brought back. Raises NotFound if there
        is no such stream or table, StoreError if nothing is lost, or if files must be deleted first.
        """
        table, source = self._source(name)
        number, files = self._offline.number(table, WRITER), self._offline.damaged(table)
        if files and not self._offline.drop_damaged(table):
            raise StoreError(f"{_told(files)}: delete these files, and accept the loss then")
        if number >= 0:
            source.restore(source.missing(number), number)
        missing = self._source(name)[1].missing(number) if number >= 0 else []
        ranges = [[partition, *span] for partition, flags in enumerate(missing) for span in _spans(flags)]
        if not ranges:
            raise StoreError(f"nothing of {name} is lost: its archive holds all that it should")
        return table, ranges

    def _source(self, name: str) -> tuple[str, _Events | _Rows]:
        streams, tables = self._plan.topics(), self._plan.tables
        if name in streams:
            return events_table(name), _Events(self, name, streams[name], lambda: None)
        if name in tables:
            return rows_table(tables[name]), _Rows(self, tables[name], lambda: None)
        raise NotFound(f'there is no stream or table "{name}"; there are {", ".join(sorted({*streams, *tables}))}')

    def without_accepted(self, table: str, wanted: Sequence[BoolArray]) -> None:
        """Take what is lost for good out of what should be there."""
        for partition, low, high in self._accepted().get(table, ()):
            if partition < len(wanted):
                wanted[partition][low:high] = False

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
                found.lost[name] = _cure(files, source.name)
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
                    f": the log has dropped them; put an older copy of the table back{_or_accept(source.name)}"
                    if repair
                    else ""
                )
                return  # the next look counts again
        elif files:
            found.missing.pop(name)
        self._rows[name] = self._offline.count(name)


class _Events:
    """The archive of a stream."""

    def __init__(self, audit: ArchiveAudit, name: str, stream: StreamPlan, on_way: Callable[[], object]) -> None:
        self._raw, self._features, self._offline = audit._raw, audit._features, audit._offline
        self._audit, self.name, self._stream, self._on_way = audit, name, stream, on_way
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
                span = head.streams.get(self.name)
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
        self._audit.without_accepted(events_table(self.name), wanted)
        self.expected = sum(int(flags.sum()) for flags in wanted)
        for rows in self._offline.batches(events_table(self.name), [PARTITION, OFFSET]):
            _mark(wanted, rows, value=False)
            self._on_way()
        return wanted

    def restore(self, missing: Sequence[BoolArray], number: int) -> int:
        """Append what is missing and still in the log; returns how many events."""
        table, schema, done = events_table(self.name), self._stream.schema, 0
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
                span = head.streams.get(self.name)
                if span is None:
                    continue
                low = [min(max(a, b), end) for a, b, end in zip(span.begin, self._begin, span.end, strict=True)]
                if any(flags[a:b].any() for flags, a, b in zip(chosen, low, span.end, strict=True)):
                    listed = [one for one in span.exceptions if one[1] >= low[one[0]]]
                    here = msgspec.structs.replace(span, begin=low, exceptions=listed)
                    only = msgspec.structs.replace(head, streams={self.name: here})
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
        self._audit, self._erased, self.name = audit, audit._erased, table.name
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
        self._audit.without_accepted(rows_table(self._table), [wanted])
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


def _cure(files: Sequence[DamagedFile], name: str) -> str:
    return (
        f"{_told(files)}; the log has dropped {sum(file.rows for file in files):,} rows of it: put the files back from "
        f"a copy, or from an older version of the bucket's objects{_or_accept(name)}"
    )


def _or_accept(name: str) -> str:
    return f'; if nobody has them any more: headrace reconcile --accept-loss {name} --why "..."'


def _spans(flags: BoolArray) -> list[list[int]]:
    """From where to where (exclusive) the flags are set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    spans: list[list[int]] = edges.reshape(-1, 2).tolist()
    return spans


def tables_of(plan: ProjectPlan, lost: Mapping[str, str]) -> set[str]:
    """The streams and the tables whose archive is among the lost, and the streams that are derived from one."""
    found = {name for name in plan.topics() if events_table(name) in lost}
    found |= {table.version for table in plan.tables.values() if rows_table(table) in lost}
    for name, derived in plan.derived.items():
        if derived.source in found:
            found.add(name)
    return found
