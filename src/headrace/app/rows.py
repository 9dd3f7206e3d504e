"""Rows as a caller sees them: Python values by column, times as datetimes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, overload

import numpy as np

from headrace.core.columns import Column, plain_list
from headrace.core.errors import NotFound, SchemaError
from headrace.core.positions import Position
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Schema
from headrace.core.time import from_us
from headrace.features.definition import definition_of
from headrace.features.expr import Expr

T = TypeVar("T")


class Row:
    """One row of features: `row[Now.speed]` or `row["now__speed"]`; None for null.

    Attributes:
        position: which part of the logs the values reflect.
        age: how far the newest event that they reflect lies before the request; None if there is none.
    """

    def __init__(self, values: Mapping[str, Any], position: Position, age: timedelta | None) -> None:
        self._values = dict(values)
        self.position = position
        self.age = age

    @overload
    def __getitem__(self, column: Expr[T]) -> T: ...
    @overload
    def __getitem__(self, column: str) -> Any: ...
    def __getitem__(self, column: Any) -> Any:
        name = str(column)
        if name not in self._values:
            raise NotFound(f'this row has no column "{name}"; it has {", ".join(self._values)}')
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> Iterable[str]:
        """Names of the columns, so that `dict(row)` works."""
        return self._values.keys()

    def to_dict(self) -> dict[str, Any]:
        """Values by column name."""
        return dict(self._values)

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


def python_value(value: Any, dtype: DType) -> Any:
    """A column's value as users write it: times as aware datetimes, durations as timedeltas; lists, maps alike."""
    if value is None:
        return None
    if dtype is DType.BOOL:
        return bool(value)
    if dtype is DType.TIMESTAMP:
        return from_us(value)
    if dtype is DType.DURATION:
        return timedelta(microseconds=value)
    if dtype.is_nested:
        if len(dtype.parts) == 1:
            return [python_value(item, dtype.parts[0]) for item in value]
        key, item = dtype.parts
        return {python_value(one, key): python_value(other, item) for one, other in value.items()}
    return plain_list(value) if isinstance(value, np.ndarray) else value


def python_values(columns: Mapping[str, Column], row: int = 0) -> dict[str, Any]:
    """One row of some columns as users write them."""
    return {
        name: python_value(column.values.item(row), column.dtype) if column.valid is None or column.valid[row] else None
        for name, column in columns.items()
    }


def as_mapping(item: Any) -> Mapping[str, Any]:
    """The fields of an event or table row by name; a mapping is taken as it is. SchemaError for anything else."""
    if isinstance(item, Mapping):
        return item
    if is_record(item):
        return {name: item.__dict__[name] for name in definition_of(type(item)).fields}
    raise SchemaError(f"expected an event, a table row or a mapping of its fields, got {type(item).__name__}")


def is_record(item: Any) -> bool:
    """True for an instance of an event or table class."""
    return not isinstance(item, type) and hasattr(type(item), "__definition__")


def request_columns(schema: Schema, requests: Sequence[Any], now_us: int) -> dict[str, Column]:
    """Columns of requests; an event time that is left out is `now_us`.

    Raises SchemaError naming the first field that does not fit, and the request if there are several.
    """
    rows = []
    time = schema.time_field
    for item in requests:
        row = dict(as_mapping(item))
        if time is not None and all(row.get(name) is None for name in schema[time].names):
            row[time] = now_us
        rows.append(row)
    block = encode_rows(schema, rows)
    if block.malformed:
        bad = block.malformed[0]
        where = f"request {bad.row} " if len(rows) > 1 else "the request "
        what = f'field "{bad.field}": ' if bad.field else ""
        raise SchemaError(f"{where}does not fit {schema.name}: {what}{bad.reason}", field=bad.field or None)
    return block.columns
