"""OfflineStore in the memory of one process: the model that the others are held against."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from headrace.core.errors import NotFound, StoreError
from headrace.stores.offline.base import OfflineStore
from headrace.stores.offline.checks import check_after, check_columns, check_rows, check_table_name

_BATCH = 1_000


@dataclass(slots=True)
class _Table:
    time_column: str
    versions: list[pa.Table] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)


class MemoryOfflineStore(OfflineStore):
    """All versions of all tables as Arrow tables; gone with the process."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] | None = {}
        self._lock = threading.RLock()

    def _held(self) -> dict[str, _Table]:
        if self._tables is None:
            raise StoreError("this offline store is closed: make a new one")
        return self._tables

    def _table(self, name: str) -> _Table:
        tables = self._held()
        if name not in tables:
            raise NotFound(f'no table "{name}"; there are: {", ".join(sorted(tables))}')
        return tables[name]

    def append(
        self, table: str, rows: pa.Table, *, time_column: str, writer: str, number: int, after: int | None = None
    ) -> int:
        check_table_name(table)
        with self._lock:
            held = self._held().get(table) or _Table(time_column)
            if held.numbers.get(writer, -1) >= number:
                return len(held.versions) - 1
            check_after(table, held.numbers.get(writer, -1), after)
            check_rows(table, rows, time_column, held.versions[-1].schema if held.versions else None)
            if held.time_column != time_column:
                raise StoreError(f'the time column of table "{table}" is "{held.time_column}", not "{time_column}"')
            parts = [*held.versions[-1:], rows]
            held.versions.append(pa.concat_tables(parts, promote_options="default"))
            held.numbers[writer] = number
            self._held()[table] = held
            return len(held.versions) - 1

    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        version: int | None = None,
        between: tuple[str, int, int] | None = None,
    ) -> pa.Table:
        with self._lock:
            held = self._table(table)
            at = len(held.versions) - 1 if version is None else version
            if not 0 <= at < len(held.versions):
                raise NotFound(f'table "{table}" has versions 0 to {len(held.versions) - 1}, not {version}')
            rows = held.versions[at]
        names = check_columns(table, columns, rows.schema)
        time = pc.field(held.time_column)
        if since_us is not None:
            rows = rows.filter(time >= since_us)
        if until_us is not None:
            rows = rows.filter(time < until_us)
        if between is not None:
            column, low, high = between
            rows = rows.filter((pc.field(column) >= low) & (pc.field(column) < high))
        return rows.select(names)

    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        version: int | None = None,
    ) -> Iterator[pa.Table]:
        rows = self.scan(table, columns, since_us=since_us, until_us=until_us, version=version)
        return (pa.Table.from_batches([batch]) for batch in rows.to_batches(max_chunksize=_BATCH))

    def count(self, table: str, *, since_us: int | None = None, until_us: int | None = None) -> int:
        with self._lock:
            held = self._held().get(table)
            return 0 if held is None else int(held.versions[-1].num_rows)

    def columns(self, table: str) -> dict[str, pa.DataType]:
        with self._lock:
            held = self._held().get(table)
            return {} if held is None else {field.name: field.type for field in held.versions[-1].schema}

    def tables(self) -> list[str]:
        with self._lock:
            return sorted(self._held())

    def version(self, table: str) -> int | None:
        with self._lock:
            held = self._held().get(table)
            return None if held is None else len(held.versions) - 1

    def number(self, table: str, writer: str) -> int:
        with self._lock:
            held = self._held().get(table)
            return -1 if held is None else held.numbers.get(writer, -1)

    def compact(self, table: str) -> None:
        with self._lock:
            held = self._table(table)
            held.versions[-1] = held.versions[-1].combine_chunks()

    def rewrite(self, table: str, where: ds.Expression, change: Callable[[pa.Table], pa.Table]) -> int:
        with self._lock:
            held = self._table(table)
            rows = held.versions[-1]
            mine = rows.filter(where)
            if len(mine):
                rest = rows.filter(~pc.coalesce(where, pc.scalar(False)))
                held.versions.append(pa.concat_tables([rest, change(mine)]))
            return int(mine.num_rows)

    def forget(self, table: str) -> None:
        with self._lock:
            held = self._table(table)
            empty = held.versions[-1].slice(0, 0)
            held.versions[:-1] = [empty] * (len(held.versions) - 1)

    def close(self) -> None:
        self._tables = None
