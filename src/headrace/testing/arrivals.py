"""What a test gives: events and table rows, each with the moment at which it arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.core.columns import Column
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, encode_block
from headrace.core.rows import encode_rows
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import MIN_US, NULL_US, parse_duration
from headrace.engines.stream.commits import TABLES
from headrace.eventlog.base import Append
from headrace.features.definition import definition_of, unbound
from headrace.features.event import Event, EventDefinition, schema_of
from headrace.features.plan import ProjectPlan
from headrace.features.record import to_dict
from headrace.features.table import Table


@dataclass(frozen=True, slots=True)
class Late:
    """An event or table row that arrives `by_us` after its event time."""

    instance: Event | Table
    by_us: int


def late(instance: Event | Table, by: str) -> Late:
    """`instance`, arriving this much after its event time: `late(Login(...), by="5m")`.

    Raises SchemaError if `by` is no duration or the instance is a table row without event time.
    """
    try:
        by_us = parse_duration(by)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"late(..., by={by!r}): {error}") from None
    return Late(instance, by_us)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One given event or table row. `block` holds it as the only row of its schema; `values` as plain Python.

    `time_us` is None for a row of a table without event time: it was always there and arrives before everything.
    """

    cls: type
    source: str
    is_row: bool
    time_us: int | None
    arrival_us: int
    block: EventBlock
    values: Mapping[str, Any]

    def append_to(self, plan: ProjectPlan) -> Append:
        """The record batch of the log that holds it."""
        if not self.is_row:
            return Append(self.source, 0, encode_block(self.block))
        table = plan.tables[self.source]
        always = self.time_us is None
        rows = TableRows(
            table.name,
            table.version,
            1,
            [self.key(plan)],
            np.array([NULL_US if always else self.time_us], np.int64),
            np.array([NULL_US if always else self.arrival_us], np.int64),
            {field.name: self.block.columns[field.name] for field in table.features},
            np.zeros(1, np.bool_),
        )
        return Append(TABLES, 0, encode_table_rows(rows))

    def key(self, plan: ProjectPlan) -> tuple[Any, ...]:
        """The key of a table row."""
        return tuple(self.values[part.name] for part in plan.tables[self.source].key)


def arrivals_of(items: Sequence[Event | Table | Late]) -> list[Arrival]:
    """The items in the order in which they arrive; those of one moment as given.

    Raises SchemaError naming the item and field if one does not fit, since a real log would set it aside.
    """
    found = [_arrival(item, f"given item {number}") for number, item in enumerate(items, 1)]
    return sorted(found, key=lambda arrival: arrival.arrival_us)


def plain_values(columns: Mapping[str, Column], row: int = 0) -> dict[str, Any]:
    """One row of columns in plain Python: times as int µs, lists as lists with None for null."""
    at = np.array([row])
    return {name: column.take(at).to_pylist()[0] for name, column in columns.items()}


def _arrival(item: Event | Table | Late, where: str) -> Arrival:
    instance, by_us = (item.instance, item.by_us) if isinstance(item, Late) else (item, 0)
    if not isinstance(instance, Event | Table):
        raise SchemaError(f"{where}: expected an event, a table row or late(...), got {type(instance).__name__}")
    cls = unbound(type(instance))
    definition = definition_of(cls)
    where = f"{where}, {cls.__name__}"
    if isinstance(definition, EventDefinition) and definition.parent is not None:
        raise SchemaError(f"{where}: a derived stream is computed; give the {definition.root_name} that it comes from")
    schema = schema_of(cls)
    block = encode_rows(schema, [to_dict(instance)])
    if block.malformed:
        bad = block.malformed[0]
        raise SchemaError(f'{where}: field "{bad.field}": {bad.reason}', field=bad.field or None)
    values = plain_values(block.columns)
    is_row = isinstance(instance, Table)
    if is_row:
        for part in definition.key:
            if values[part.name] is None:
                raise SchemaError(f'{where}: the key "{part.name}" of a table row may not be null', field=part.name)
    time_us = None if schema.time_field is None else int(values[schema.time_field])
    if time_us is None and isinstance(item, Late):
        raise SchemaError(f"{where}: a row without event time was always there and cannot be late")
    arrival_us = MIN_US if time_us is None else time_us + by_us
    return Arrival(cls, schema.name, is_row, time_us, arrival_us, block, values)
