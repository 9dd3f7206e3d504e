"""Runs of batch tables: query, checks, then what is new goes to the topic of table rows.

A row is new unless the last row written under its key and event time has the same values: writing it again would change
no value that anyone reads, now or in the past. What is not new is left out here, before the log, so that the online and
the offline store cannot differ in it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.core.columns import column_of, nulls
from headrace.core.errors import CheckFailed, SchemaError
from headrace.core.schema import Field
from headrace.core.tablerows import TableRows, decode_table_rows, encode_table_rows, is_of_table
from headrace.core.time import NULL_US, Clock
from headrace.core.values import Misfit, read_value
from headrace.engines.batch.base import BatchEngine
from headrace.engines.batch.checks import CheckFailure, evaluate_checks
from headrace.engines.batch.results import put_columns, typed_columns
from headrace.eventlog.base import Append, EventLog
from headrace.features.plan import TablePlan

if TYPE_CHECKING:
    import pyarrow as pa

    from headrace.engines.batch.fingerprints import Fingerprints
    from headrace.engines.batch.found import OwnedRows

PIECE = 10_000
"""Rows that are appended at once: whoever reads the topic can stop, or be held back, between any two pieces."""
_STREAMED = 1_000_000
"""Rows of a query that are in memory at a time, unless checks of the whole are declared."""
_SMALL = 50_000
_SAVED_FROM = 10_000
"""Fingerprints of smaller tables are made from the log at each start."""
_OF_ROWS = ("unique", "in_range")
"""Checks that hold for each part of a table if they hold for all of it."""
_Key = tuple[Any, ...]
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a run of a table did.

    `rows` came from the query; of them `unchanged` were as written before, `null_keys` had a null in their key and
    belong to nobody, `appended` were written. `checks` is the number of checks that held. `offset` is the offset of the
    first row written, None if there is none. `left` rows were new and not written: the run was asked to stop, and the
    next one will find them.
    """

    table: str
    rows: int
    unchanged: int
    null_keys: int
    appended: int
    checks: int
    offset: int | None
    left: int = 0


@dataclass(slots=True)
class RunTotals:
    """Of all runs of a runner: rows read, found unchanged, written, and dead (a null in their key)."""

    read: int = 0
    unchanged: int = 0
    written: int = 0
    dead: int = 0


class BatchRunner:
    """Brings rows of tables to the feature log. The only writer of batch rows; puts go through it too.

    What was last written is remembered per key and event time as fingerprints, so that a run writes only what is new.
    They are made from the log, and kept in `folder` so that the next process need not read all of it. Thread-safe; a
    put does not wait for a run.

    Args:
        engine: runs the queries.
        log: the feature log.
        clock: gives the write time of rows that come live.
        topic: topic of table rows, one partition; created if absent.
        folder: where fingerprints are kept; None: in memory alone.

    Attributes:
        totals: what the runs did since the start.
    """

    def __init__(
        self, engine: BatchEngine, log: EventLog, clock: Clock, topic: str = "tables", *, folder: Path | None = None
    ) -> None:
        self._engine, self._log, self._clock, self._topic, self._folder = engine, log, clock, topic, folder
        if topic not in log.topics():
            log.create(topic, 1)
        self._states: dict[tuple[str, str], Fingerprints] = {}
        self._whole: dict[tuple[str, str, str | None], tuple[bytes, int]] = {}
        self._lock = threading.RLock()
        self.totals = RunTotals()

    def run(
        self,
        table: TablePlan,
        *,
        since_us: int | None = None,
        backfill: bool = False,
        where: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
    ) -> BatchReport:
        """Run the table's query now and append the rows that are new.

        `since_us` limits a run to rows with a later event time, `where`, an SQL condition on the columns that the query
        returns, to a part of the table; of a part, checks of counts and shares say nothing and are left out. Rows of a
        backfill are available from their event time plus the table's delay, others from now. `stop` is asked before
        each piece is written. `progress` gets how many rows are read and how many written.

        Raises CheckFailed if a declared check does not hold and SchemaError if the rows do not fit the table; then
        nothing is written and the old values stay.
        """
        asked = table if where is None else _part_of(table, where)
        now_us = self._clock.now_us()
        # Closed whatever happens: an engine whose results are read half way answers nobody else.
        with self._lock, closing(self._results(asked, now_us, since_us)) as results:
            return self._run(asked, results, backfill, since_us, where, now_us, stop, progress)

    def _results(self, table: TablePlan, now_us: int, since_us: int | None) -> Generator[pa.Table, None, None]:
        """What the query returns; whole where checks are declared, for these speak of all of it."""
        if table.checks:
            yield self._engine.run(table, now_us=now_us, since_us=since_us)
        else:
            yield from self._engine.batches(table, _STREAMED, now_us=now_us, since_us=since_us)

    def _run(
        self,
        table: TablePlan,
        results: Iterator[pa.Table],
        backfill: bool,
        since_us: int | None,
        where: str | None,
        now_us: int,
        stop: Callable[[], bool],
        progress: Progress | None,
    ) -> BatchReport:
        from headrace.engines.batch.found import Found

        first, second = next(results), next(results, None)
        failures = evaluate_checks(table, first) if table.checks else []
        if failures:
            raise CheckFailed(_told(table, failures))
        state = self._caught_up(table)
        name = (table.name, table.version, where)
        small = since_us is None and second is None and first.num_rows <= _SMALL
        whole = _whole_digest(first) if small else b""
        last, dead = self._whole.get(name, (b"", 0))
        if whole and last == whole:
            # The whole reads as in the last run, and nobody has written to the table since: nothing is new.
            self.totals.read += first.num_rows
            self.totals.unchanged += first.num_rows - dead
            self.totals.dead += dead
            return BatchReport(table.name, first.num_rows, first.num_rows - dead, dead, 0, len(table.checks), None)
        found = Found(table, state)
        for rows in [first] if second is None else chain([first, second], results):
            found.look(rows)
            self.totals.read += rows.num_rows
            if progress is not None:
                progress(found.read, 0)
        if found.torn:
            again = self._engine.batches(table, _STREAMED, now_us=now_us, since_us=since_us)
            found.look_again(again)
        fresh = found.fresh()
        offset, written = self._append_all(table, state, fresh, found.seen, backfill, stop, found.read, progress)
        left = len(fresh.times) - written
        self._save(table, state)
        if whole and not left:
            self._whole[name] = (whole, found.dead)
        unchanged = found.read - found.dead - len(fresh.times)
        self.totals.unchanged += unchanged
        self.totals.dead += found.dead
        return BatchReport(table.name, found.read, unchanged, found.dead, written, len(table.checks), offset, left)

    def put_rows(self, table: TablePlan, rows: Sequence[Mapping[str, Any]] | pa.Table) -> BatchReport:
        """Write rows given by a caller, as they come: each replaces the one before it even if nothing changed.

        Raises SchemaError, naming row and field, if one does not fit or has a null key; then nothing is written.
        """
        from headrace.engines.batch.found import OwnedRows

        if isinstance(rows, Sequence):
            columns, n = put_columns(table, rows), len(rows)
        else:
            columns, n = typed_columns(table, rows), rows.num_rows
        given = OwnedRows.of(table, columns, n)
        if given.owned is not None:
            raise SchemaError(f"table {table.name}: a row that is put has a null in its key; nothing was written")
        ordered = given.in_order(table)
        offset = self._append(ordered.as_written(table, slice(0, n), self._clock.now_us(), False))
        return BatchReport(table.name, n, 0, 0, n, 0, offset)

    def delete_rows(
        self, table: TablePlan, keys: Sequence[Mapping[str, Any]], *, at_us: int | None = None
    ) -> BatchReport:
        """Write deletions for keys (each a mapping of the key's fields), as of `at_us` (default: now).

        Raises SchemaError if a mapping does not name exactly the key's fields, or one of them is null.
        """
        found = [_key_of(table, index, key) for index, key in enumerate(keys)]
        n = len(keys)
        at = NULL_US if table.schema.time_field is None else self._clock.now_us() if at_us is None else at_us
        features = {field.name: nulls(field.dtype, n) for field in table.features}
        rows = TableRows(
            table.name,
            table.version,
            n,
            found,
            np.full(n, at, np.int64),
            np.full(n, self._clock.now_us(), np.int64),
            features,
            np.ones(n, np.bool_),
        )
        return BatchReport(table.name, n, 0, 0, n, 0, self._append(rows))

    def _append(self, rows: TableRows) -> int | None:
        if not rows.n:
            return None
        (base,) = self._log.append([Append(self._topic, 0, encode_table_rows(rows), rows.n)])
        return base

    def _append_all(
        self,
        table: TablePlan,
        state: Fingerprints,
        rows: OwnedRows,
        seen: Any,
        backfill: bool,
        stop: Callable[[], bool],
        read: int,
        progress: Progress | None,
    ) -> tuple[int | None, int]:
        """Append rows piece by piece and remember them; returns the offset of the first and how many were written."""
        offset, written, alone = None, 0, True
        n = len(rows.times)
        while written < n and not stop():
            piece = slice(written, min(written + PIECE, n))
            base = self._append(rows.as_written(table, piece, self._clock.now_us(), backfill))
            offset = base if offset is None else offset
            alone = alone and base == state.offset
            written = piece.stop
            self.totals.written += piece.stop - piece.start
            if alone:
                state.offset = (base or 0) + piece.stop - piece.start
            if progress is not None:
                progress(read, written)
        if alone:
            state.write(rows.prints.take(np.arange(written)), seen if written == n else None)
        # Else somebody wrote in between: what was appended is read from the log by the next run.
        return offset, written

    def _caught_up(self, table: TablePlan) -> Fingerprints:
        """The fingerprints of the table with what was appended since the last look, by whomever."""
        from headrace.engines.batch.fingerprints import Fingerprints, joined_prints, prints_of

        name = (table.name, table.version)
        state = self._states.get(name) or self._loaded(table) or Fingerprints(self._log.begin(self._topic, 0))
        self._states[name] = state
        found = []
        at = state.offset
        while batches := self._log.read(self._topic, 0, at):
            for batch in batches:
                at = batch.end
                if not is_of_table(batch.payload, table.name, table.version):
                    continue
                rows = decode_table_rows(batch.payload)
                if not rows.n:
                    continue  # all of them were erased
                parts = list(zip(*rows.keys, strict=True))
                keys = [column_of(part.dtype, list(values)) for part, values in zip(table.key, parts, strict=False)]
                features = [rows.columns[field.name] for field in table.features]
                found.append(prints_of(keys, rows.event_time_us, features, rows.deleted))
        if found:
            for digest in [key for key in self._whole if key[:2] == name]:
                del self._whole[digest]
            state.write(joined_prints(found))
        state.offset = at
        return state

    def _loaded(self, table: TablePlan) -> Fingerprints | None:
        from headrace.engines.batch.fingerprints import Fingerprints

        state = None if self._folder is None else Fingerprints.load(_file(self._folder, table))
        return state if state is not None and state.arrival_us == self._arrival_below(state.offset) else None

    def _arrival_below(self, offset: int) -> int:
        """When the log took the batch that ends at `offset`; 0 if none does: the log lost its end, or is another."""
        if not self._log.begin(self._topic, 0) < offset <= self._log.end(self._topic, 0):
            return 0
        last = self._log.read(self._topic, 0, offset - 1, 1)
        return last[0].arrival_us if last and last[0].end == offset else 0

    def _save(self, table: TablePlan, state: Fingerprints) -> None:
        if self._folder is None or len(state) < _SAVED_FROM:
            return
        arrival_us = self._arrival_below(state.offset)
        if arrival_us and arrival_us != state.arrival_us:
            state.arrival_us = arrival_us
            file = _file(self._folder, table)
            state.save(file)
            for other in self._folder.glob(f"{table.name}-*"):
                if other != file:  # of a former version, or left by a process that died
                    other.unlink(missing_ok=True)


def _part_of(table: TablePlan, where: str) -> TablePlan:
    """The table as if its query returned only rows that fulfil a condition."""
    query = (table.query or "").strip().rstrip(";")
    checks = tuple(check for check in table.checks if check.kind in _OF_ROWS)
    return replace(table, query=f"SELECT * FROM (\n{query}\n) AS part WHERE ({where})", checks=checks)


def _file(folder: Path, table: TablePlan) -> Path:
    return folder / f"{table.name}-{table.version}"


def _key_of(table: TablePlan, index: int, given: Mapping[str, Any]) -> _Key:
    names = [part.name for part in table.key]
    if set(given) != set(names):
        raise SchemaError(f"table {table.name}, row {index}: a deletion names {', '.join(names)} and nothing else")
    try:
        return tuple(read_value(given[part.name], Field(part.name, part.dtype)) for part in table.key)
    except Misfit as misfit:
        raise SchemaError(f"table {table.name}, row {index}: {misfit}; nothing was written") from None


def _whole_digest(rows: pa.Table) -> bytes:
    """Digest of a whole result, row order included."""
    import pyarrow as pa

    digest = hashlib.blake2b(digest_size=16)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    digest.update(sink.getvalue())
    return digest.digest()


def _told(table: TablePlan, failures: list[CheckFailure]) -> str:
    parts = [
        failure.message + (f", such as {failure.examples[0]}" if failure.examples else "") for failure in failures
    ]  # fmt: skip
    return f"table {table.name}: {'; '.join(parts)}. Nothing was written, the values before it stay"


__all__ = ["BatchReport", "BatchRunner", "RunTotals"]
