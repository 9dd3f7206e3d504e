"""What a query returned, as typed columns of its table; and rows that are put, likewise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace.core.columns import Column, column_of
from headrace.core.errors import SchemaError
from headrace.core.rows import RowEncoder
from headrace.core.schema import Field
from headrace.features.plan import TablePlan

if TYPE_CHECKING:
    import pyarrow as pa


def typed_columns(table: TablePlan, rows: pa.Table, *, first: int = 0) -> dict[str, Column]:
    """The columns of the table's schema out of what its query returned; further ones are left aside.

    `first` is the number of the first row among all that the query returned.

    Raises SchemaError, naming the column and the cure, if one is missing, has a type that cannot hold the field, or
    has a row that does not fit (null where none may be, infinite, a time out of range).
    """
    from headrace.core.fitting import fit_column

    columns = {}
    for spec in table.schema:
        if spec.name not in rows.column_names:
            columns[spec.name] = _default(table, spec, rows)
            continue
        fitted = fit_column(rows.column(spec.name), _as_stored(table, spec), f"the query of table {table.name}")
        if fitted.misfits:
            row, reason = min(fitted.misfits.items())
            raise SchemaError(
                f"table {table.name}: {len(fitted.misfits)} of {rows.num_rows} rows do not fit in column "
                f'"{spec.name}", first row {first + row}: {reason}; leave such rows out in the query, or let it be '
                "null",
                field=spec.name,
            )
        columns[spec.name] = fitted.column
    return columns


def put_columns(table: TablePlan, rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns of rows that are put; raises SchemaError, naming row and field, if one does not fit."""
    block = RowEncoder(table.schema).rows(rows)
    if block.malformed:
        bad = block.malformed[0]
        raise SchemaError(
            f"table {table.name}, row {bad.row}, field {bad.field or '-'}: {bad.reason}; nothing was written",
            field=bad.field or None,
        )
    return block.columns


def _as_stored(table: TablePlan, spec: Field) -> Field:
    """The field as rows must have it: the event time is never null; a null key is counted by the runner."""
    keys = {part.name for part in table.key}
    nullable = spec.nullable if spec.name not in keys else True
    return Field(spec.name, spec.dtype, nullable and spec.name != table.schema.time_field, size=spec.size)


def _default(table: TablePlan, spec: Field, rows: pa.Table) -> Column:
    if spec.has_default:
        return column_of(spec.dtype, [spec.default] * rows.num_rows)
    near = difflib.get_close_matches(spec.name, rows.column_names, 1)
    cure = f'"{near[0]}" as {spec.name}' if near else f"... as {spec.name}"
    raise SchemaError(
        f'the query of table {table.name} returns no column "{spec.name}" ({spec.dtype.value}); it returns '
        f"{', '.join(rows.column_names)}: select {cure}",
        field=spec.name,
    )
