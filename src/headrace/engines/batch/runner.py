"""Runs of batch tables: query, checks, then what is new goes to the topic of table rows as one batch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from headrace.core.columns import Column, IntArray, nulls
from headrace.core.errors import CheckFailed, SchemaError
from headrace.core.schema import Field
from headrace.core.tablerows import TableRows, decode_table_rows, encode_table_rows
from headrace.core.time import MAX_US, NULL_US, Clock
from headrace.core.values import Misfit, read_value
from headrace.engines.batch.base import BatchEngine
from headrace.engines.batch.checks import CheckFailure, evaluate_checks
from headrace.engines.batch.results import put_columns, typed_columns
from headrace.eventlog.base import Append, EventLog
from headrace.features.plan import TablePlan

if TYPE_CHECKING:
    import pyarrow as pa

_pack = msgspec.msgpack.Encoder().encode
_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a run of a table did.

    `rows` came from the query; of them `unchanged` were as written before, `null_keys` had a null in their key and
    belong to nobody, `appended` were written. `checks` is the number of checks that held. `offset` is the offset of the
    first row written, None if there is none.
    """

    table: str
    rows: int
    unchanged: int
    null_keys: int
    appended: int
    checks: int
    offset: int | None


class BatchRunner:
    """Brings rows of tables to the feature log. The only writer of batch rows; puts go through it too.

    What was last written is remembered per key, event time and row as a digest (rebuilt from the log at the start), so
    that a run writes only what is new. For a key remembered are the rows of the last run that returned it, and its
    newest one. Thread-safe.

    Args:
        engine: runs the queries.
        log: the feature log.
        clock: gives the write time of rows that come live.
        topic: topic of table rows, one partition; created if absent.
    """

    def __init__(self, engine: BatchEngine, log: EventLog, clock: Clock, topic: str = "tables") -> None:
        self._engine, self._log, self._clock, self._topic = engine, log, clock, topic
        if topic not in log.topics():
            log.create(topic, 1)
        self._written: dict[tuple[str, str], dict[_Key, dict[int, bytes]]] = {}
        self._whole: dict[tuple[str, str], bytes] = {}
        self._next = log.begin(topic, 0)
        self._lock = threading.RLock()

    def run(self, table: TablePlan, *, since_us: int | None = None, backfill: bool = False) -> BatchReport:
        """Run the table's query now and append the rows that are new.

        `since_us` limits a run to rows with a later event time. Rows of a backfill are available from their event time
        plus the table's delay, others from now. Raises CheckFailed if a declared check does not hold and SchemaError if
        the rows do not fit the table; then nothing is written and the old values stay.
        """
        rows = self._engine.run(table, now_us=self._clock.now_us(), since_us=since_us)
        failures = evaluate_checks(table, rows)
        if failures:
            raise CheckFailed(_told(table, failures))
        with self._lock:
            self._catch_up()
            name, whole = (table.name, table.version), _whole_digest(rows) if since_us is None else b""
            if whole and self._whole.get(name) == whole:
                # The whole table reads as in the last run, and nobody has written to it since: nothing is new.
                return BatchReport(table.name, rows.num_rows, rows.num_rows, 0, 0, len(table.checks), None)
            report = self._write(table, typed_columns(table, rows), rows.num_rows, backfill=backfill)
            self._whole[name] = whole
            return report

    def put_rows(self, table: TablePlan, rows: Sequence[Mapping[str, Any]] | pa.Table) -> BatchReport:
        """Write rows given by a caller, as they come: each replaces the one before it even if nothing changed.

        Raises SchemaError, naming row and field, if one does not fit or has a null key; then nothing is written.
        """
        if isinstance(rows, Sequence):
            columns, n = put_columns(table, rows), len(rows)
        else:
            columns, n = typed_columns(table, rows), rows.num_rows
        with self._lock:
            return self._write(table, columns, n, put=True)

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
        with self._lock:
            self._catch_up()
            return BatchReport(table.name, n, 0, 0, n, 0, self._append(rows))

    def _write(
        self, table: TablePlan, columns: dict[str, Column], n: int, *, backfill: bool = False, put: bool = False
    ) -> BatchReport:
        self._catch_up()
        keys = (
            list(zip(*[columns[part.name].to_pylist() for part in table.key], strict=True)) if table.key else [()] * n
        )
        times = self._event_times(table, columns, n)
        encoded = _encoded([columns[field.name] for field in table.features], n)
        owned = [row for row in range(n) if None not in keys[row]]
        if put and len(owned) < n:
            raise SchemaError(f"table {table.name}: a row that is put has a null in its key; nothing was written")
        order = sorted(owned, key=lambda row: (keys[row], times[row], encoded[row]))
        written = self._written.setdefault((table.name, table.version), {})
        fresh = order if put else _changed(order, keys, times, encoded, written)
        offset = self._append(self._rows(table, columns, fresh, keys, times, backfill)) if fresh else None
        if not put:
            _forget(written, [(keys[row], times[row]) for row in order])
        checks = 0 if put else len(table.checks)
        return BatchReport(table.name, n, len(order) - len(fresh), n - len(owned), len(fresh), checks, offset)

    def _event_times(self, table: TablePlan, columns: Mapping[str, Column], n: int) -> list[int]:
        if table.schema.time_field is None:
            return [NULL_US] * n
        times: list[int] = columns[table.schema.time_field].values.tolist()
        return times

    def _rows(
        self,
        table: TablePlan,
        columns: Mapping[str, Column],
        chosen: list[int],
        keys: list[_Key],
        times: list[int],
        backfill: bool,
    ) -> TableRows:
        at, n = np.array(chosen, np.int64), len(chosen)
        event_time = np.array([times[row] for row in chosen], np.int64)
        return TableRows(
            table.name,
            table.version,
            n,
            [keys[row] for row in chosen],
            event_time,
            _available(event_time, table.delay_us) if backfill else np.full(n, self._clock.now_us(), np.int64),
            {field.name: columns[field.name].take(at) for field in table.features},
            np.zeros(n, np.bool_),
        )

    def _append(self, rows: TableRows) -> int | None:
        if not rows.n:
            return None
        (base,) = self._log.append([Append(self._topic, 0, encode_table_rows(rows), rows.n)])
        if base == self._next:
            self._remember(rows)
            self._next = base + rows.n
        return base

    def _catch_up(self) -> None:
        """Remember what was appended since the last look, by whomever."""
        while batches := self._log.read(self._topic, 0, self._next):
            for batch in batches:
                self._remember(decode_table_rows(batch.payload))
                self._next = batch.end

    def _remember(self, rows: TableRows) -> None:
        written = self._written.setdefault((rows.table, rows.version), {})
        self._whole.pop((rows.table, rows.version), None)
        for key, time, row in zip(rows.keys, rows.event_time_us.tolist(), _digests(rows), strict=True):
            written.setdefault(key, {})[time] = row


def _changed(
    order: list[int],
    keys: list[_Key],
    times: list[int],
    encoded: list[bytes],
    written: Mapping[_Key, Mapping[int, bytes]],
) -> list[int]:
    """Rows that differ from what stands under their key and event time; of several in one run the last one stands."""
    last = {(keys[row], times[row]): row for row in order}
    same = {
        place for place, row in last.items() if written.get(place[0], {}).get(place[1]) == _digest(encoded[row])
    }  # fmt: skip
    return [row for row in order if (keys[row], times[row]) not in same]


def _key_of(table: TablePlan, index: int, given: Mapping[str, Any]) -> _Key:
    names = [part.name for part in table.key]
    if set(given) != set(names):
        raise SchemaError(f"table {table.name}, row {index}: a deletion names {', '.join(names)} and nothing else")
    try:
        return tuple(read_value(given[part.name], Field(part.name, part.dtype)) for part in table.key)
    except Misfit as misfit:
        raise SchemaError(f"table {table.name}, row {index}: {misfit}; nothing was written") from None


def _forget(written: dict[_Key, dict[int, bytes]], seen: list[tuple[_Key, int]]) -> None:
    """Keep, for each key of a run, the rows that the run returned and the newest one."""
    returned: dict[_Key, set[int]] = {}
    for key, time in seen:
        returned.setdefault(key, set()).add(time)
    for key, times in returned.items():
        held = written.get(key)
        if held is not None and len(held) > len(times):
            newest = max(held)
            written[key] = {time: row for time, row in held.items() if time in times or time == newest}


def _available(event_time: IntArray, delay_us: int) -> IntArray:
    """Event time plus delay; a row that is always true is available from ever."""
    return np.where(event_time == NULL_US, NULL_US, np.minimum(event_time, MAX_US) + delay_us).astype(np.int64)


def _encoded(columns: Sequence[Column], n: int) -> list[bytes]:
    """The features of each row as bytes: what is compared, and the last criterion of the write order."""
    lists = [column.to_pylist() for column in columns]
    return [_pack(row) for row in zip(*lists, strict=True)] if columns else [b""] * n


def _digests(rows: TableRows) -> list[bytes]:
    """Digests of the rows of a batch; a deletion has one that no row has."""
    encoded = _encoded(list(rows.columns.values()), rows.n)
    return [b"" if gone else _digest(row) for row, gone in zip(encoded, rows.deleted.tolist(), strict=True)]


def _whole_digest(rows: pa.Table) -> bytes:
    """Digest of a whole result, row order included."""
    import pyarrow as pa

    digest = hashlib.blake2b(digest_size=16)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    digest.update(sink.getvalue())
    return digest.digest()


def _digest(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=12).digest()


def _told(table: TablePlan, failures: list[CheckFailure]) -> str:
    parts = [
        failure.message + (f", such as {failure.examples[0]}" if failure.examples else "") for failure in failures
    ]  # fmt: skip
    return f"table {table.name}: {'; '.join(parts)}. Nothing was written, the values before it stay"


__all__ = ["BatchReport", "BatchRunner"]
