"""OfflineStore in Delta tables (delta-rs): a folder or an object store, one table per name.

A table is partitioned by `day`, the UTC date of its time column, whose name lies in the table's configuration. What a
writer appended last is kept as a Delta application transaction, so that an append and its number commit together.
"""

from __future__ import annotations

import json
import operator
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, SubTreeFileSystem

from headrace.core.errors import NotFound, StoreError
from headrace.core.time import MAX_US, MIN_US
from headrace.stores.objects import failure, object_files
from headrace.stores.offline.base import GONE, DamagedFile, OfflineStore
from headrace.stores.offline.checks import (
    DAY,
    EPOCH_DAY,
    check_after,
    check_columns,
    check_rows,
    check_table_name,
    day_of,
    days_of,
)

_TIME_COLUMN: Final = "headrace.time_column"
_ATTEMPTS: Final = 20
_BATCH: Final = 250_000
_LOG: Final = "_delta_log"


class DeltaOfflineStore(OfflineStore):
    """Tables under one folder or URI; thread-safe, and any number of processes may have it open.

    Args:
        path: a folder (made by the first append), or a URI that delta-rs knows, such as "s3://bucket/features".
        storage_options: what delta-rs needs to reach the URI (credentials, endpoint, region); for S3 see
            `headrace.stores.objects.s3_options`.

    Old versions stay readable until `forget`: nothing else removes log entries or data files. Raises Unreachable where
    the server of a URI does not answer; a call that raised may be repeated, also if it was done after all.
    """

    def __init__(self, path: str | os.PathLike[str], storage_options: Mapping[str, str] | None = None) -> None:
        text = os.fspath(path)
        self._local = None if "://" in text else Path(os.path.abspath(text))
        self._root = text.rstrip("/") if self._local is None else str(self._local)
        self._options = None if storage_options is None else dict(storage_options)
        self._open: dict[str, _Table] | None = {}
        self._lock = threading.Lock()

    def append(
        self, table: str, rows: pa.Table, *, time_column: str, writer: str, number: int, after: int | None = None
    ) -> int:
        held = self._table(table)
        with held.lock:
            lost: Exception | None = None
            for _ in range(_ATTEMPTS):
                delta = held.refreshed()
                with self._reading(table):
                    if delta is not None and _number(delta, writer) >= number:
                        return delta.version()
                check_after(table, -1 if delta is None else _number(delta, writer), after)
                try:
                    return self._append(held, delta, rows, time_column, Transaction(writer, number))
                except (CommitFailedError, _Raced) as error:
                    lost = error  # another process has committed; it may even have been this very append
                except (DeltaError, OSError) as error:
                    raise failure(f'nothing was appended to table "{table}" in {self._root}', error) from error
            raise StoreError(f'table "{table}" in {self._root}: {_ATTEMPTS} commits failed; the last: {lost}') from lost

    def _append(
        self, held: _Table, delta: DeltaTable | None, rows: pa.Table, time_column: str, mark: Transaction
    ) -> int:
        existing = None if delta is None else _arrow_schema(delta)
        check_rows(held.name, rows, time_column, existing)
        dated = rows.append_column(DAY, days_of(rows[time_column]))
        if delta is None:
            delta = held.create(dated.schema, time_column)
        elif _time_column(delta) != time_column:
            raise StoreError(f'the time column of table "{held.name}" is "{_time_column(delta)}", not "{time_column}"')
        grows = existing is None or set(dated.column_names) != set(existing.names)
        write_deltalake(
            delta,
            dated,
            mode="append",
            schema_mode="merge" if grows else None,
            commit_properties=CommitProperties(app_transactions=[mark]),
        )
        return delta.version()

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
        dataset, names, condition = self._dataset(table, columns, since_us, until_us, version, between)
        with self._reading(table):
            return dataset.to_table(columns=names, filter=condition)

    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        version: int | None = None,
    ) -> Iterator[pa.Table]:
        dataset, names, condition = self._dataset(table, columns, since_us, until_us, version)
        return self._joined(table, dataset, names, condition)

    def _joined(
        self, table: str, dataset: ds.Dataset, names: list[str], condition: ds.Expression | None
    ) -> Iterator[pa.Table]:
        with self._reading(table):
            yield from _joined(dataset, names, condition)

    @contextmanager
    def _reading(self, table: str) -> Iterator[None]:
        try:
            yield
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise failure(f'table "{table}" in {self._root} cannot be read', error) from error

    def count(self, table: str, *, since_us: int | None = None, until_us: int | None = None) -> int:
        held = self._table(table)
        with held.lock:
            delta = held.refreshed()
            files = None if delta is None else pa.table(delta.get_add_actions(flatten=True))
        if files is None:
            return 0
        first = "" if since_us is None else day_of(min(max(since_us, MIN_US), MAX_US))
        last = "9999-99" if until_us is None else day_of(min(max(until_us, MIN_US), MAX_US))
        days, sizes = files[f"partition.{DAY}"].to_pylist(), files["num_records"].to_pylist()
        return sum(size or 0 for day, size in zip(days, sizes, strict=True) if first <= day <= last or day == EPOCH_DAY)

    def _dataset(
        self,
        table: str,
        columns: Sequence[str] | None,
        since_us: int | None,
        until_us: int | None,
        version: int | None,
        between: tuple[str, int, int] | None = None,
    ) -> tuple[ds.Dataset, list[str], ds.Expression | None]:
        """What to scan, which columns, and which rows."""
        held = self._table(table)
        with held.lock:
            delta = held.refreshed() if version is None else held.at(version)
            if delta is None:
                raise NotFound(f'no table "{table}" in {self._root}; {_listed(self.tables())}')
            names = check_columns(table, columns, _arrow_schema(delta))
            dataset = delta.to_pyarrow_dataset(file_pruning_predicate=_days(since_us, until_us), filesystem=held.files)
            time = ds.field(_time_column(delta))
        bounds: list[ds.Expression] = []
        if since_us is not None:
            bounds.append(time >= since_us)
        if until_us is not None:
            bounds.append(time < until_us)
        if between is not None:
            column, low, high = between
            bounds += [ds.field(column) >= low, ds.field(column) < high]
        return dataset, names, reduce(operator.and_, bounds) if bounds else None

    def columns(self, table: str) -> dict[str, pa.DataType]:
        held = self._table(table)
        with held.lock:
            delta = held.refreshed()
            return {} if delta is None else {f.name: f.type for f in _arrow_schema(delta) if f.name != DAY}

    def tables(self) -> list[str]:
        self._held()
        if self._local is None:
            files = object_files(self._root, self._options)
        elif not self._local.is_dir():
            return []
        else:
            files = SubTreeFileSystem(str(self._local), LocalFileSystem())
        found, waiting = [], [""]
        try:
            while waiting:  # folder by folder: a listing of every data file would be long
                folder = waiting.pop()
                entries = files.get_file_info(FileSelector(folder, allow_not_found=True))
                below = [entry.path.rstrip("/") for entry in entries if entry.type == FileType.Directory]
                if f"{folder}/{_LOG}" in below:
                    found.append(folder)
                else:
                    waiting += below
        except OSError as error:
            raise failure(f"the tables in {self._root} cannot be listed", error) from error
        return sorted(found)

    def version(self, table: str) -> int | None:
        held = self._table(table)
        with held.lock:
            delta = held.refreshed()
            return None if delta is None else delta.version()

    def number(self, table: str, writer: str) -> int:
        held = self._table(table)
        with held.lock:
            delta = held.refreshed()
            with self._reading(table):
                return -1 if delta is None else _number(delta, writer)

    def _existing(self, held: _Table, table: str) -> DeltaTable:
        """The newest version; raises NotFound if there is no such table. Its lock is held."""
        delta = held.refreshed()
        if delta is None:
            raise NotFound(f'no table "{table}" in {self._root}; {_listed(self.tables())}')
        return delta

    def compact(self, table: str) -> None:
        held = self._table(table)
        with held.lock:
            delta = self._existing(held, table)
            try:
                delta.optimize.compact()
            except (DeltaError, OSError) as error:
                raise failure(f'table "{table}" in {self._root} was not compacted', error) from error

    def rewrite(self, table: str, where: ds.Expression, change: Callable[[pa.Table], pa.Table]) -> int:
        held = self._table(table)
        with held.lock:
            delta = self._existing(held, table)
            dataset = delta.to_pyarrow_dataset(filesystem=held.files)
            total = 0
            with self._reading(table):
                days = dataset.to_table(columns=[DAY], filter=where)[DAY].unique().to_pylist()
            for day in sorted(days):
                with self._reading(table):
                    rows = dataset.to_table(filter=ds.field(DAY) == day)
                mine = rows.filter(where)
                # A row of which the condition is null is not meant.
                rest = rows.filter(~pc.coalesce(where, pc.scalar(False)))
                new = pa.concat_tables([rest, change(mine).select(rest.column_names).cast(rest.schema)])
                total += mine.num_rows
                try:
                    # The condition stands in the table's log: it must not name more than the day.
                    write_deltalake(delta, new, mode="overwrite", predicate=f"{DAY} = '{day}'")
                except (DeltaError, OSError) as error:
                    raise failure(f'rows of table "{table}" in {self._root} were not rewritten', error) from error
            return total

    def forget(self, table: str) -> None:
        held = self._table(table)
        with held.lock:
            delta = self._existing(held, table)
            try:
                delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
                # Entries of the log hold the least and greatest value of each column of a file.
                delta.create_checkpoint()
                files, newest = held.filesystem(), delta.version()
                entries = files.get_file_info(FileSelector(f"{held.inside}{_LOG}", allow_not_found=True))
                for entry in entries:
                    number = entry.base_name.split(".")[0]
                    if number.isdecimal() and int(number) < newest:
                        files.delete_file(entry.path)
            except (DeltaError, OSError) as error:
                raise failure(f'older versions of table "{table}" in {self._root} are still there', error) from error
            held.reopen()

    def remains(self) -> list[str]:
        if self._local is not None:
            return []
        return [f"{self._root}: former versions of objects, where the bucket keeps versions, until they expire"]

    def damaged(self, table: str) -> list[DamagedFile]:
        held = self._table(table)
        with held.lock:
            delta = held.refreshed()
            added = [] if delta is None else pa.table(delta.get_add_actions(flatten=True)).to_pylist()
        files = object_files(f"{self._root}/{table}", self._options) if held.files is None else held.files
        try:
            there = {
                entry.path.lstrip("/"): entry.size
                for entry in files.get_file_info(FileSelector("", recursive=True, allow_not_found=True))
                if entry.type == FileType.File
            }
        except OSError as error:
            raise failure(f'the files of table "{table}" in {self._root} cannot be listed', error) from error
        found = []
        for file in added:
            path, size = unquote(file["path"]), int(file["size_bytes"])
            if there.get(path) != size:
                fault = GONE if path not in there else f"has {there[path]:,} bytes where {size:,} were written"
                bounds = {
                    key.removeprefix("min."): (low, file[f"max.{key.removeprefix('min.')}"])
                    for key, low in file.items()
                    if key.startswith("min.") and isinstance(low, int)
                }
                found.append(DamagedFile(f"{self._root}/{table}/{path}", fault, int(file["num_records"] or 0), bounds))
        return found

    def drop_damaged(self, table: str) -> int:
        held = self._table(table)
        damaged = self.damaged(table)
        short = [file for file in damaged if file.fault != GONE]
        if held.files is None and short:
            return 0  # objects are never deleted here
        for file in short:
            Path(file.path).unlink()
        with held.lock:
            delta = held.refreshed()
            try:
                if delta is not None:
                    delta.repair()
            except (DeltaError, OSError) as error:
                raise failure(f'damaged files of table "{table}" in {self._root} were not left out', error) from error
        return len(damaged)

    def close(self) -> None:
        self._open = None

    def _held(self) -> dict[str, _Table]:
        if self._open is None:
            raise StoreError("this offline store is closed: open it again")
        return self._open

    def _table(self, name: str) -> _Table:
        check_table_name(name)
        with self._lock:
            held = self._held()
            if name not in held:
                held[name] = _Table(name, f"{self._root}/{name}", self._options, self._local is not None)
            return held[name]


class _Raced(Exception):
    """Another writer created the table first."""


class _Table:
    """One table as this process knows it; used under its lock."""

    def __init__(self, name: str, uri: str, options: dict[str, str] | None, local: bool) -> None:
        self.name = name
        self.lock = threading.RLock()
        self._uri = uri
        self._options = options
        self._is_local = local
        # Arrow reads local files itself, without the detour through delta-rs; others come through that.
        self.files = SubTreeFileSystem(uri, LocalFileSystem(use_mmap=True)) if local else None
        self._delta: DeltaTable | None = None

    @property
    def inside(self) -> str:
        """What stands before the path of a file of the table in `filesystem`."""
        return "" if self._is_local else f"{self.name}/"

    def filesystem(self) -> FileSystem:
        """Where the table's files lie."""
        if self.files is not None:
            return self.files
        return object_files(self._uri.removesuffix(f"/{self.name}"), self._options)

    def reopen(self) -> None:
        """Read the table anew at the next use."""
        self._delta = None

    def refreshed(self) -> DeltaTable | None:
        """The table at its newest version; None if it does not exist."""
        try:
            if self._delta is None:
                opened = DeltaTable(self._uri, storage_options=self._options)
                self._check_newest(opened.version())
                self._delta = opened
            else:
                self._delta.update_incremental()
        except TableNotFoundError:
            self._delta = None
        except (DeltaError, OSError) as error:
            raise failure(f'table "{self.name}" at {self._uri} cannot be read', error) from error
        return self._delta

    def _check_newest(self, version: int) -> None:
        """Raise StoreError if the newest commit was cut short, by a power failure say.

        Delta reads such a file as far as it goes, and the writer's number stands in its last line: the same rows would
        be appended again. An empty file is a commit that was not done, which is no harm.
        """
        file = Path(self._uri) / _LOG / f"{version:020}.json"
        if not self._is_local or not file.exists():
            return
        try:
            actions = [json.loads(line) for line in file.read_bytes().splitlines()]
        except ValueError:
            whole = False
        else:
            wrote = any(action.get("commitInfo", {}).get("operation") == "WRITE" for action in actions)
            whole = not wrote or any("txn" in action for action in actions)
        if not whole:
            raise StoreError(
                f'the newest commit of table "{self.name}" was cut short: remove {file}; what it brought is in the '
                "logs and is appended again"
            )

    def at(self, version: int) -> DeltaTable | None:
        """The table at an older version; None if it does not exist at all."""
        newest = self.refreshed()
        if newest is None or newest.version() == version:
            return newest
        if not 0 <= version <= newest.version():
            raise NotFound(f'table "{self.name}" has versions 0 to {newest.version()}, not {version}')
        try:
            return DeltaTable(self._uri, version=version, storage_options=self._options)
        except (DeltaError, OSError) as error:
            raise failure(f'version {version} of table "{self.name}" at {self._uri} cannot be read', error) from error

    def create(self, schema: pa.Schema, time_column: str) -> DeltaTable:
        """Create the table without rows; raises _Raced if it exists by now."""
        if self._is_local:
            Path(self._uri).mkdir(parents=True, exist_ok=True)
        nullable = pa.schema([field.with_nullable(True) for field in schema])
        try:
            self._delta = DeltaTable.create(
                self._uri,
                nullable,
                partition_by=[DAY],
                configuration={_TIME_COLUMN: time_column, "delta.enableExpiredLogCleanup": "false"},
                storage_options=self._options,
                raise_if_key_not_exists=False,
            )
        except (DeltaError, OSError) as error:
            if self.refreshed() is None:
                raise failure(f'table "{self.name}" cannot be created at {self._uri}', error) from error
            raise _Raced from error
        return self._delta


def _number(delta: DeltaTable, writer: str) -> int:
    number = delta.transaction_version(writer)
    return -1 if number is None else number


def _time_column(delta: DeltaTable) -> str:
    configuration: dict[str, Any] = delta.metadata().configuration
    if _TIME_COLUMN not in configuration:
        raise StoreError(f"{delta.table_uri} was not made by this store: it does not say which column holds the time")
    return str(configuration[_TIME_COLUMN])


def _arrow_schema(delta: DeltaTable) -> pa.Schema:
    return pa.schema(delta.schema().to_arrow())


def _joined(dataset: ds.Dataset, columns: list[str], condition: ds.Expression | None) -> Iterator[pa.Table]:
    """The dataset's rows in tables of about `_BATCH` rows, a row group of a file being read at a time.

    Arrow's own batches are read ahead without an end when their consumer is slow.
    """
    held: list[pa.Table] = []
    rows = 0
    for file in dataset.get_fragments(filter=condition):
        for group in file.split_by_row_group(condition, schema=dataset.schema):
            found = group.to_table(schema=dataset.schema, columns=columns, filter=condition)
            if found.num_rows:
                held.append(found)
                rows += found.num_rows
            if rows >= _BATCH:
                yield pa.concat_tables(held)
                held, rows = [], 0
    if held:
        yield pa.concat_tables(held)


def _days(since_us: int | None, until_us: int | None) -> str | None:
    """Which days can hold rows of the interval, as a condition on the partition column."""
    bounds = []
    if since_us is not None and since_us > MIN_US:
        bounds.append(f"{DAY} >= '{day_of(min(since_us, MAX_US))}'")
    if until_us is not None and until_us <= MAX_US:
        bounds.append(f"{DAY} <= '{day_of(max(until_us - 1, MIN_US))}'")
    if not bounds:
        return None
    inside = " AND ".join(bounds)
    # Times outside years 1-9999 lie under the day of the epoch.
    beyond = since_us is None or since_us < MIN_US or until_us is None or until_us > MAX_US
    return f"({inside}) OR {DAY} = '{EPOCH_DAY}'" if beyond else inside


def _listed(names: list[str]) -> str:
    return f"there are: {', '.join(names)}" if names else "it has no tables yet: append to one first"
