"""Whether ints that are to become floats all have a float of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.core.columns import Column

_AT_ONCE = 200_000


def largest_number(parts: Parts, stream: str, field: str) -> float:
    """The greatest absolute value of a field, read as a float, in all events of the log and the archive; 0 of none."""
    from headrace.core.arrow import from_arrow
    from headrace.core.events import decode_block
    from headrace.retrieval.past import events_table
    from headrace.retrieval.stored import as_declared, stored_columns

    schema = parts.plan.streams[stream].schema
    largest = 0.0
    for partition in range(parts.raw.topics().get(stream, 0)):
        at = parts.raw.begin(stream, partition)
        while batches := parts.raw.read(stream, partition, at, _AT_ONCE):
            blocks = [decode_block(batch.payload, schema, {field}, count=batch.count) for batch in batches]
            largest = max(largest, *(_largest(block.columns[field]) for block in blocks))
            at = batches[-1].end
    table = events_table(stream)
    names = stored_columns(parts.offline.columns(table), schema, [field])
    if names:
        rows = as_declared(parts.offline.scan(table, names), schema, [field])
        largest = max(largest, _largest(from_arrow(rows[field], schema[field].dtype, field)))
    return largest


def _largest(column: Column) -> float:
    values = column.values if column.valid is None else column.values[column.valid]
    return float(np.abs(values).max()) if len(values) else 0.0
