"""Reading one group or table by key: GetRecord."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.app.rows import python_value, python_values
from headrace.core.columns import Column, column_of
from headrace.core.errors import HorizonError, SchemaError
from headrace.core.keys import entity_encoder, record_key
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import MAX_US, NULL_US
from headrace.core.values import Misfit, read_value
from headrace.features.plan import GroupPlan, KeyPart, ProjectPlan, TablePlan, ViewPlan
from headrace.features.view_columns import source_columns

if TYPE_CHECKING:
    from headrace.aggregations.table_records import TableRow
    from headrace.app.wiring import Parts

TIME = "_at"


def key_values(name: str, parts: tuple[KeyPart, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a key as columns hold them; raises SchemaError naming the part that is missing or does not fit."""
    unknown = sorted(set(given) - {part.name for part in parts})
    names = ", ".join(part.name for part in parts) or "nothing"
    if unknown:
        raise SchemaError(f'the key of {name} is {names}; "{unknown[0]}" is no part of it', field=unknown[0])
    values = {}
    for part in parts:
        if part.name not in given:
            raise SchemaError(f"the key of {name} is {names}; {part.name} is missing", field=part.name)
        try:
            values[part.name] = read_value(given[part.name], Field(part.name, part.dtype))
        except Misfit as error:
            raise SchemaError(f"the key of {name}: {part.name}: {error}", field=part.name) from None
    return values


def group_view(group: GroupPlan, plan: ProjectPlan) -> ViewPlan:
    """A view of all features of one group, asked by its key and a time; columns have the features' own names."""
    dtypes = group.dtypes
    fields = (*[Field(p.name, p.dtype, True, entity=p.entity) for p in group.key], Field(TIME, DType.TIMESTAMP))
    keys = tuple(part.name for part in group.key)
    listed = [(name, dtypes[name]) for name in group.order]
    bindings, columns = source_columns(group.name, False, listed, keys, plan.groups, plan.tables)
    return ViewPlan(f"get {group.name}", group.version, "", Schema("key", fields, TIME), bindings, columns)


def read_group(parts: Parts, group: GroupPlan, key: Mapping[str, Any], at_us: int) -> dict[str, Any]:
    """Features of one entity at a time, as users write them; times before the as-of horizon are read from history."""
    from headrace.retrieval.history import HistoryReader
    from headrace.retrieval.online import OnlineReader

    values = key_values(group.name, group.key, key)
    view = group_view(group, parts.plan)
    request: dict[str, Column] = {p.name: column_of(p.dtype, [values[p.name]]) for p in group.key}
    request[TIME] = column_of(DType.TIMESTAMP, [at_us])
    try:
        block = OnlineReader(view, parts.plan, parts.online, horizon_us=parts.horizon_us).read(request)
    except HorizonError:
        block = HistoryReader(view, parts.plan, parts.past).read(request)
    return block.to_rows(python_value)[0]


def read_table(
    parts: Parts, table: TablePlan, key: Mapping[str, Any], at_us: int | None, now_us: int
) -> dict[str, Any] | None:
    """All fields of the row that counts at `at_us`, or the newest one; None if there is none."""
    values = key_values(table.name, table.key, key)
    rows, complete_from = _online_rows(parts, table, tuple(values.values()))
    if at_us is not None and at_us < complete_from:
        return _from_history(parts, table, values, at_us)
    limit = MAX_US if at_us is None else at_us
    counting = [row for row in rows if at_us is None or (row.event_time_us < limit and row.available_us < limit)]
    if not counting:
        return None
    row = max(counting, key=lambda row: (row.event_time_us, row.order))
    if row.bits < 0 or _expired(table, row.event_time_us, now_us if at_us is None else at_us):
        return None
    return _fields(table, values, row)


def _online_rows(parts: Parts, table: TablePlan, key: tuple[Any, ...]) -> tuple[list[TableRow], int]:
    """Rows held online, and from which time on they are all that reads need."""
    from headrace.aggregations.table_records import decode_rows

    encode = entity_encoder([part.dtype for part in table.key])
    (record,), _ = parts.online.read([record_key(encode(key), table.version)])
    if record is None:
        return [], NULL_US
    clock = int(np.frombuffer(record, np.int64, count=3)[2])
    return decode_rows(record, len(table.features)), clock - parts.horizon_us


def _expired(table: TablePlan, event_time_us: int, now_us: int) -> bool:
    # Rows without event time are always true, so they never expire.
    return table.ttl_us is not None and event_time_us != NULL_US and event_time_us < now_us - table.ttl_us


def _fields(table: TablePlan, key: Mapping[str, Any], row: TableRow) -> dict[str, Any]:
    found = {part.name: python_value(key[part.name], part.dtype) for part in table.key}
    objects = iter(row.objects)
    for index, field in enumerate(table.features):
        value: Any = row.words[index]
        if field.dtype in (DType.STRING, DType.LIST):
            value = next(objects)
        elif field.dtype is DType.FLOAT:
            value = float(np.int64(value).view(np.float64))
        elif field.dtype is DType.BOOL:
            value = bool(value)
        found[field.name] = python_value(value, field.dtype) if row.bits >> index & 1 else None
    if table.schema.time_field is not None:
        found[table.schema.time_field] = python_value(row.event_time_us, DType.TIMESTAMP)
    return found


def _from_history(parts: Parts, table: TablePlan, key: Mapping[str, Any], at_us: int) -> dict[str, Any] | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    from headrace.core.arrow import from_arrow
    from headrace.retrieval.past import AVAILABLE, DELETED, EVENT_TIME, ORDER

    rows = parts.past.rows(table)
    if rows is None:
        return None
    keep = pc.and_(pc.less(rows[EVENT_TIME], at_us), pc.less(rows[AVAILABLE], at_us))
    for part in table.key:
        keep = pc.and_(keep, pc.equal(rows[part.name], pa.scalar(key[part.name], rows[part.name].type)))
    rows = rows.filter(keep)
    if not rows.num_rows:
        return None
    times, orders = rows[EVENT_TIME].to_pylist(), rows[ORDER].to_pylist()
    best = max(range(rows.num_rows), key=lambda index: (times[index], orders[index]))
    if rows[DELETED][best].as_py() or _expired(table, times[best], at_us):
        return None
    found = {part.name: python_value(key[part.name], part.dtype) for part in table.key}
    row = rows.slice(best, 1)
    found |= python_values({f.name: from_arrow(row[f.name], f.dtype, f.name) for f in table.features})
    if table.schema.time_field is not None:
        found[table.schema.time_field] = python_value(times[best], DType.TIMESTAMP)
    return found
