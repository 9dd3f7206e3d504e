"""What every offline store refuses, and how it files rows by day."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.errors import NotFound, StoreError, StoreMoved
from headrace.core.time import MAX_US, MIN_US, US_PER_DAY

DAY: Final = "day"
"""Name of the partition column; tables cannot have a column of that name of their own."""
EPOCH_DAY: Final = "1970-01-01"
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")


def check_table_name(table: str) -> None:
    """Raise StoreError unless `table` is a name such as "arrivals" or "events/flight"."""
    if not all(_PART.fullmatch(part) for part in table.split("/")):
        raise StoreError(
            f'"{table}" is no usable table name: write parts of letters, digits, "_", "-", "." or "=" '
            f'that begin with a letter or digit, joined by "/"'
        )


def check_rows(table: str, rows: pa.Table, time_column: str, existing: pa.Schema | None) -> None:
    """Raise StoreError unless `rows` can be appended to a table of schema `existing` (None: a new table)."""
    if time_column not in rows.column_names:
        raise StoreError(f'rows for table "{table}" have no column "{time_column}", which should hold their time')
    if rows.schema.field(time_column).type != pa.int64():
        found = rows.schema.field(time_column).type
        raise StoreError(f'time column "{time_column}" of table "{table}" is {found}: give int64 microseconds')
    if DAY in rows.column_names:
        raise StoreError(f'table "{table}" cannot have a column "{DAY}", the store keeps its own: rename it')
    if len(set(rows.column_names)) != rows.num_columns:
        raise StoreError(f'rows for table "{table}" name a column twice: {rows.column_names}')
    for field in existing or ():
        if field.name in rows.column_names and rows.schema.field(field.name).type != field.type:
            found = rows.schema.field(field.name).type
            raise StoreError(
                f'column "{field.name}" of table "{table}" is {field.type}, the rows have {found}: '
                f"cast it, or append under another column or table name"
            )


def check_columns(table: str, columns: Sequence[str] | None, schema: pa.Schema) -> list[str]:
    """The columns to read (all for None); raises NotFound for one that the table does not have."""
    names = [name for name in schema.names if name != DAY]
    for name in columns or ():
        if name not in names:
            raise NotFound(f'table "{table}" has no column "{name}"; it has {", ".join(names)}')
    return names if columns is None else list(columns)


def days_of(times: pa.ChunkedArray) -> pa.Array:
    """The day (UTC, "YYYY-MM-DD") of each time; null times and those outside years 1-9999 get 1970-01-01."""
    us = pc.fill_null(times, 0).to_numpy()
    us = np.where((us < MIN_US) | (us > MAX_US), 0, us)
    days, where = np.unique(us // US_PER_DAY, return_inverse=True)
    names = days.astype("datetime64[D]").astype(str)
    return pa.array(names.astype(object), pa.string()).take(pa.array(where))


def day_of(us: int) -> str:
    """The day of one time within years 1-9999."""
    return str(np.datetime64(us // US_PER_DAY, "D"))


def check_after(table: str, found: int, wanted: int | None) -> None:
    """Raise StoreMoved unless the writer's last append has the number that the next one is to come after."""
    if wanted is not None and wanted != found:
        raise StoreMoved(
            f'table "{table}" was appended to up to number {found}, its writer has left it at {wanted}: another '
            "process writes it, too; going on from what is there"
        )
