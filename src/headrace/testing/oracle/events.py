"""Which events count: verdicts, clocks and positions, per source partition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.core.schema import DType, Field, Schema
from headrace.core.time import MAX_US, MIN_US
from headrace.features.plan import StreamPlan
from headrace.testing.oracle.rounding import clean, least_first, to_int64

_PYTHON_TYPES: dict[DType, tuple[type, ...]] = {
    DType.INT: (int,),
    DType.FLOAT: (float, int),
    DType.BOOL: (bool,),
    DType.STRING: (str,),
    DType.TIMESTAMP: (int,),
    DType.DURATION: (int,),
    DType.LIST: (list, tuple),
}


@dataclass(frozen=True, slots=True)
class RawEvent:
    """A record of a stream's log. `fields` is None for what could not be read at all."""

    partition: int
    offset: int
    arrival_us: int
    fields: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Event:
    """A counted record. `row` holds every field of the schema; `order` is its place among all events."""

    partition: int
    offset: int
    event_time_us: int
    order: tuple[Any, ...]
    row: dict[str, Any]


def row_of(schema: Schema, fields: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Every field of the schema with defaults filled in and NaN as null; None if the record is malformed."""
    if fields is None:
        return None
    row: dict[str, Any] = {}
    for field in schema:
        given = [name for name in (field.name, *field.aliases) if name in fields]
        if len(given) > 1:
            return None
        value = fields[given[0]] if given else field.default if field.has_default else None
        if not _fits(value, field):
            return None
        row[field.name] = clean(value, field.dtype)
        # The time and the id are needed whatever the declaration says of nulls.
        needed = field.name in (schema.time_field, schema.id_field)
        if row[field.name] is None and (needed or not field.nullable):
            return None
    return row


def verdicts(stream: StreamPlan, records: Sequence[RawEvent]) -> list[str]:
    """The verdict of each record: "dead", "duplicate", "late" or "counted", in the order of `records`."""
    found: dict[tuple[int, int], str] = {}
    for partition in sorted({record.partition for record in records}):
        own = sorted((r for r in records if r.partition == partition), key=lambda r: r.offset)
        for record, (verdict, _) in zip(own, _judge_partition(stream, own), strict=True):
            found[record.partition, record.offset] = verdict
    return [found[record.partition, record.offset] for record in records]


def clock(stream: StreamPlan, records: Iterable[RawEvent], position: Sequence[int] | None = None) -> int | None:
    """N(p): the greatest min(event time, arrival) of the admitted records below `position`; None if there is none."""
    moves = []
    for record in records:
        row = _admitted(stream, record)
        if row is not None and (position is None or record.offset < position[record.partition]):
            moves.append(min(row[_time_field(stream)], record.arrival_us))
    return max(moves, default=None)


def judge(stream: StreamPlan, records: Sequence[RawEvent]) -> list[Event]:
    """The counted records, in the order of all events: (event time, id, partition, offset)."""
    events = []
    for record, verdict in zip(records, verdicts(stream, records), strict=True):
        if verdict == "counted":
            row = row_of(stream.schema, record.fields)
            assert row is not None
            time = row[_time_field(stream)]
            order = (time, least_first(_id(stream, record, row)), record.partition, record.offset)
            events.append(Event(record.partition, record.offset, time, order, row))
    return sorted(events, key=lambda event: event.order)


def position_at(records: Iterable[RawEvent], partitions: int, as_of_us: int) -> list[int]:
    """p(T): per partition the first offset that arrived at T or later; past the last one if none did."""
    position = []
    for partition in range(partitions):
        own = [record for record in records if record.partition == partition]
        end = max((record.offset + 1 for record in own), default=0)
        position.append(min((record.offset for record in own if record.arrival_us >= as_of_us), default=end))
    return position


def _judge_partition(stream: StreamPlan, own: Sequence[RawEvent]) -> list[tuple[str, int | None]]:
    """Verdict of each record of one partition (in offset order), and the partition's clock after it."""
    judged: list[tuple[str, int | None]] = []
    now: int | None = None
    counted_at: dict[Any, int] = {}  # the clock when an id was last counted
    for record in own:
        row = _admitted(stream, record)
        if row is None:
            judged.append(("dead", now))
            continue
        time, event_id = row[_time_field(stream)], _id(stream, record, row)
        moved = min(time, record.arrival_us)
        now = moved if now is None else max(now, moved)
        if event_id in counted_at and now - counted_at[event_id] <= stream.dedupe_us:
            judged.append(("duplicate", now))
        elif stream.lateness_us is not None and time < now - stream.lateness_us:
            judged.append(("late", now))
        else:
            judged.append(("counted", now))
            counted_at[event_id] = now
    return judged


def _admitted(stream: StreamPlan, record: RawEvent) -> dict[str, Any] | None:
    """The record's row; None if it is a dead letter: malformed, or too far in the future of its arrival."""
    row = row_of(stream.schema, record.fields)
    if row is None or row[_time_field(stream)] > record.arrival_us + stream.future_us:
        return None
    return row


def _id(stream: StreamPlan, record: RawEvent, row: Mapping[str, Any]) -> Any:
    if stream.schema.id_field is None:
        return (record.partition, record.offset)
    return row[stream.schema.id_field]


def _time_field(stream: StreamPlan) -> str:
    assert stream.schema.time_field is not None, f"stream {stream.name} has no event time"
    return stream.schema.time_field


def _fits(value: Any, field: Field) -> bool:
    """True if a value is of the field's type and range; null always is (whether it may be there is asked apart)."""
    if value is None:
        return True
    if type(value) not in _PYTHON_TYPES[field.dtype]:
        return False
    if field.dtype is DType.FLOAT:
        return not math.isinf(value) if type(value) is float else to_int64(value) is not None
    if field.dtype is DType.TIMESTAMP:
        return bool(MIN_US <= value <= MAX_US)
    if field.dtype.is_integer_backed:
        return to_int64(value) is not None
    if field.dtype is DType.LIST:
        number = Field(field.name, DType.FLOAT)
        return (field.size is None or len(value) == field.size) and all(_fits(item, number) for item in value)
    return True
