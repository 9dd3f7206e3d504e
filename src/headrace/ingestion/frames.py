"""Tables become blocks of events, a column at a time: Arrow, and through it pandas and Polars."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.core.columns import Column, column_of, nulls
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, Malformed
from headrace.core.fitting import Fitted, fit_column
from headrace.core.schema import Field, Schema
from headrace.core.values import payload_of

_INDEX_PREFIX = "__index_level_"  # the name under which pandas' unnamed index travels through Arrow


def encode_arrow(schema: Schema, table: Any) -> EventBlock:
    """A block of the rows of `table`: Arrow, or a frame that speaks Arrow (pandas, Polars).

    Missing columns are null or the field's default. A row with a value that does not fit (null or infinite where it may
    not be, a time out of range, a list of the wrong length) becomes a malformed row. Raises SchemaError, naming the
    column, if a required one is missing, one is unknown, or one has a type that cannot hold the field.
    """
    arrow = as_table(table, schema.name)
    arrow = arrow.rename_columns(current_names(schema, arrow.column_names))
    check_names(schema, arrow.column_names)
    return block_of(arrow, {spec.name: _fit(arrow, spec, schema) for spec in schema})


def block_of(arrow: pa.Table, fitted: dict[str, Fitted]) -> EventBlock:
    """The block of fitted columns; rows with a misfit become malformed, with the row of `arrow` as what came."""
    reasons: dict[int, tuple[str, str]] = {}
    for name, part in fitted.items():
        for row, reason in part.misfits.items():
            reasons.setdefault(row, (name, reason))
    columns = {name: part.column for name, part in fitted.items()}
    if reasons:
        bad = np.array(sorted(reasons), np.int64)
        columns = {name: without(column, bad) for name, column in columns.items()}
    malformed = [Malformed(row, *reasons[row], payload_of(_row_of(arrow, row))) for row in sorted(reasons)]
    return EventBlock(arrow.num_rows, columns, malformed)


def _row_of(arrow: pa.Table, row: int) -> dict[str, Any]:
    """One row as Python values; a time that Python cannot hold as its number."""
    cells: dict[str, Any] = {}
    for name in arrow.column_names:
        cell = arrow.column(name)[row]
        try:
            cells[name] = cell.as_py()
        except (OverflowError, ValueError):
            cells[name] = f"{cell.value} ({cell.type})"
    return cells


def as_table(data: Any, stream: str) -> pa.Table:
    """The data as an Arrow table; raises SchemaError if it is no table or its columns hold mixed types."""
    if isinstance(data, pa.Table):
        return data
    try:
        if isinstance(data, pa.RecordBatch):
            return pa.Table.from_batches([data])
        if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__dataframe__"):
            return pa.table(data)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise SchemaError(f"the frame for {stream} does not fit Arrow: {error}; give each column one type") from None
    raise SchemaError(
        f"{type(data).__name__} is no table for {stream}; give Arrow, a pandas or Polars frame, or a list of rows"
    )


def without(column: Column, rows: Any) -> Column:
    """The column with `rows` (indices) made null."""
    filler = nulls(column.dtype, 1).values[0]
    values, valid = column.values.copy(), column.mask().copy()
    values[rows], valid[rows] = filler, False
    return Column(column.dtype, values, valid)


def _fit(arrow: pa.Table, spec: Field, schema: Schema) -> Fitted:
    if spec.name not in arrow.column_names:
        if spec.has_default:
            return Fitted(column_of(spec.dtype, [spec.default] * arrow.num_rows))
        return Fitted(nulls(spec.dtype, arrow.num_rows))
    return fit_column(arrow.column(spec.name), required(spec, schema), f"the table for {schema.name}")


def required(spec: Field, schema: Schema) -> Field:
    """The field as it must arrive: an id or an event time is never null."""
    nullable = spec.nullable and spec.name not in (schema.id_field, schema.time_field)
    return Field(spec.name, spec.dtype, nullable, spec.has_default, spec.default, spec.entity, spec.size)


def current_names(schema: Schema, names: list[str]) -> list[str]:
    """The same names, former ones of a field replaced by its name; raises SchemaError if a column comes under both."""
    found = [schema.current_name(name) or name for name in names]
    for name, given in zip(found, names, strict=True):
        if name != given and found.count(name) > 1:
            raise SchemaError(
                f'the table for {schema.name} has "{name}" and also "{given}", its former name; drop one', field=name
            )
    return found


def check_names(schema: Schema, names: list[str]) -> None:
    """Raise SchemaError if a required column is missing from `names`, one is unknown or one is there twice."""
    doubled = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if doubled:
        raise SchemaError(f'the table for {schema.name} has two columns "{doubled[0]}"', field=doubled[0])
    unknown = [name for name in names if name not in schema and not name.startswith(_INDEX_PREFIX)]
    for spec in schema:
        if spec.name not in names and not (spec.has_default or required(spec, schema).nullable):
            near = difflib.get_close_matches(spec.name, unknown, 1)
            hint = f'; is "{near[0]}" meant? rename it' if near else f"; it has {', '.join(names) or 'no columns'}"
            raise SchemaError(f'the table for {schema.name} lacks the column "{spec.name}"{hint}', field=spec.name)
    if unknown:
        raise SchemaError(
            f'{schema.name} has no field "{unknown[0]}"; drop the column from the table or declare the field',
            field=unknown[0],
        )


__all__ = ["as_table", "block_of", "check_names", "current_names", "encode_arrow", "required", "without"]
