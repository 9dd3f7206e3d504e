"""How the fields of today lie in tables that were begun under former definitions.

The archive keeps the columns that it has: a renamed field goes on in the column of its former name, so the time column
stays, too. A column of ints cannot take floats, so a field that was widened goes on in a column beside it. An added
field is null in older rows, and reads as its default there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.arrow import STORED_TYPES
from headrace.core.schema import DType, Field, Schema

WIDENED: Final = ".float"
"""Ends the name of the column in which ints that have become floats go on; no field has a dot in its name."""


def column_of_field(held: Mapping[str, pa.DataType], field: Field) -> str:
    """The column that new values of a field go to, in a table that has the columns `held` (none: a new table)."""
    name = next((name for name in field.names if name in held or name + WIDENED in held), field.name)
    return name + WIDENED if field.dtype is DType.FLOAT and held.get(name) == pa.int64() else name


def as_stored(rows: pa.Table, held: Mapping[str, pa.DataType], schema: Schema) -> pa.Table:
    """Rows of today under the columns of the table that they are appended to."""
    names = [column_of_field(held, schema[name]) if name in schema else name for name in rows.column_names]
    return rows if names == rows.column_names else rows.rename_columns(names)


def beside_ints(rows: pa.Table, held: Mapping[str, pa.DataType]) -> pa.Table:
    """The rows, floats that would go to a column of ints under the name of the column beside it."""
    names = [
        field.name + WIDENED if field.type == pa.float64() and held.get(field.name) == pa.int64() else field.name
        for field in rows.schema
    ]
    return rows if names == rows.column_names else rows.rename_columns(names)


def stored_columns(held: Mapping[str, pa.DataType], schema: Schema, names: Sequence[str]) -> list[str]:
    """The columns of a table that hold the fields and further columns `names`."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys(_holders(held, schema[name]) if name in schema else [name])
    return list(found)


def as_declared(rows: pa.Table, schema: Schema, names: Sequence[str]) -> pa.Table:
    """`names` (fields and further columns) of rows that were read from `stored_columns`."""
    held = {field.name: field.type for field in rows.schema}
    return pa.table(
        {
            name: _read(rows, _holders(held, schema[name]), schema[name]) if name in schema else rows[name]
            for name in names
        }
    )


def _holders(held: Mapping[str, pa.DataType], field: Field) -> list[str]:
    ends = (WIDENED, "") if field.dtype is DType.FLOAT else ("",)
    return [name + end for name in field.names for end in ends if name + end in held]


def _read(rows: pa.Table, holders: Sequence[str], field: Field) -> pa.ChunkedArray:
    wanted = STORED_TYPES[field.dtype]
    # Ints beyond 2^53 are rounded, as they are when such an int is published as a float.
    parts = [
        rows[name].cast(wanted, safe=False) if field.dtype is DType.FLOAT and rows[name].type != wanted else rows[name]
        for name in holders
    ]
    column = parts[0] if len(parts) == 1 else pc.coalesce(*parts) if parts else _nulls(wanted, rows.num_rows)
    # Where no null may stand, a null is a row from before the field was there.
    if field.has_default and field.default is not None and not field.nullable and column.null_count:
        column = pc.fill_null(column, pa.scalar(field.default, wanted))
    return column


def _nulls(wanted: pa.DataType, n: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(n, wanted)])
