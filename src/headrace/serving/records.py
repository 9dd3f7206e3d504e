"""Records by key: the features of one group or table read for an entity, and rows that callers put into a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.core.columns import Column, column_of
from headrace.core.errors import SchemaError
from headrace.core.rows import RowEncoder
from headrace.core.schema import DType, Field, Schema
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import NULL_US, Clock, parse_time
from headrace.engines.stream.commits import TABLES
from headrace.eventlog.base import Append, EventLog
from headrace.features.plan import GroupPlan, KeyPart, ProjectPlan, TablePlan, ViewPlan
from headrace.features.view_columns import source_columns
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.rows import FeatureBlock
from headrace.serving.replies import Refused, unknown
from headrace.serving.requests import misfit
from headrace.stores.online.base import OnlineStore

_TIME = "_at"
_WHOLE = (DType.INT, DType.TIMESTAMP, DType.DURATION)


class Records:
    """Reads and writes single records of a project's groups and tables; for one thread."""

    def __init__(self, project: ProjectPlan, store: OnlineStore, clock: Clock, *, horizon_us: int) -> None:
        self._project = project
        self._store = store
        self._clock = clock
        self._horizon_us = horizon_us
        self._readers: dict[str, OnlineReader] = {}
        self._rows: dict[str, RowEncoder] = {}

    @property
    def names(self) -> list[str]:
        """Names of groups and tables."""
        return [*self._project.groups, *self._project.tables]

    def get(self, name: str, key: str, at: str | None = None) -> FeatureBlock:
        """The features of one entity at time `at` (ISO 8601; None: now). Raises Refused (404, 422)."""
        parts = self.key_of(name, key)
        reader = self._readers.get(name)
        if reader is None:
            view = _view_of(self._source(name), self._project)
            reader = self._readers[name] = OnlineReader(view, self._project, self._store, horizon_us=self._horizon_us)
        return reader.read({**self.columns_of(name, parts), _TIME: column_of(DType.TIMESTAMP, [self._time(at)])})

    def put(self, log: EventLog, name: str, key: str, body: bytes) -> int:
        """Append a row of a table that is fed by puts; returns its offset in the feature log."""
        table = self._fed_by_puts(name)
        parts = self.key_of(name, key)
        now = self._clock.now_us()
        try:
            block = self._encoder(table).json(body)
        except SchemaError as error:
            raise Refused(400, str(error), hint="send one JSON object with the row's features") from None
        if block.malformed:
            raise misfit(block.malformed, single=True)
        if block.n != 1:
            raise Refused(422, f"{block.n} rows for one key", hint="send one object per record")
        time = table.schema.time_field
        event = NULL_US
        if time is not None:
            column = block.columns.pop(time)
            event = int(column.values[0]) if column.valid is None else now
        return _append(log, table, parts, event, now, block.columns)

    def _fed_by_puts(self, name: str) -> TablePlan:
        self._source(name)
        table = self._project.tables.get(name)
        if table is None:
            raise Refused(
                422, f'"{name}" is computed from events', hint="publish events instead; only tables take rows"
            )
        if table.query is not None:
            raise Refused(422, f'table "{name}" is fed by its query', hint="change its source, or drop `source=`")
        return table

    def key_of(self, name: str, key: str) -> list[Any]:
        """The parts of a key as they stand in a path, separated by "/"; raises Refused if they do not fit."""
        parts = self._source(name).key
        texts = [key] if len(parts) == 1 else key.split("/")
        if len(texts) != len(parts) or (parts and not key):
            form = "/".join(f"{{{part.name}}}" for part in parts)
            raise Refused(422, f'the key of "{name}" has {len(parts)} parts', hint=f"ask for /v1/records/{name}/{form}")
        return [_part(text, part) for text, part in zip(texts, parts, strict=True)]

    def columns_of(self, name: str, parts: Sequence[Any]) -> dict[str, Column]:
        """One-row columns of a key's parts."""
        keys = self._source(name).key
        return {part.name: column_of(part.dtype, [value]) for part, value in zip(keys, parts, strict=True)}

    def _source(self, name: str) -> GroupPlan | TablePlan:
        found = self._project.groups.get(name) or self._project.tables.get(name)
        if found is None:
            raise unknown("feature group or table", name, self.names)
        return found

    def _time(self, at: str | None) -> int:
        if at is None:
            return self._clock.now_us()
        try:
            return parse_time(at)
        except ValueError as error:
            raise Refused(422, str(error), field="at") from None

    def _encoder(self, table: TablePlan) -> RowEncoder:
        if table.name not in self._rows:
            time = table.schema.time_field
            fields = list(table.features)
            if time is not None:
                fields.append(Field(time, DType.TIMESTAMP, nullable=True))
            self._rows[table.name] = RowEncoder(Schema(table.name, tuple(fields), None))
        return self._rows[table.name]


def _append(
    log: EventLog, table: TablePlan, parts: list[Any], event_us: int, now_us: int, columns: Mapping[str, Column]
) -> int:
    rows = TableRows(
        table.name,
        table.version,
        1,
        [tuple(parts)],
        np.array([event_us]),
        np.array([now_us]),
        dict(columns),
        np.zeros(1, np.bool_),
    )
    log.create(TABLES)
    return log.append([Append(TABLES, 0, encode_table_rows(rows))])[0]


def _view_of(source: GroupPlan | TablePlan, project: ProjectPlan) -> ViewPlan:
    """A view of one source alone, under its own feature names."""
    keys = tuple(part.name for part in source.key)
    is_table = isinstance(source, TablePlan)
    if isinstance(source, TablePlan):
        types = [(field.name, field.dtype) for field in source.features]
    else:
        types = [(name, source.dtypes[name]) for name in source.order]
    fields = tuple(Field(part.name, part.dtype, entity=part.entity) for part in source.key)
    bindings, columns = source_columns(source.name, is_table, types, keys, project.groups, project.tables)
    schema = Schema(source.name, (*fields, Field(_TIME, DType.TIMESTAMP)), _TIME)
    return ViewPlan(source.name, source.version, "", schema, bindings, columns)


def _part(text: str, part: KeyPart) -> Any:
    try:
        if part.dtype is DType.STRING:
            return text
        if part.dtype is DType.BOOL:
            return msgspec.convert(text.lower(), bool, strict=False)
        if part.dtype is DType.TIMESTAMP and not text.lstrip("-").isdigit():
            return parse_time(text)
        number = int(text)
        np.int64(number)
        return number
    except (ValueError, OverflowError):
        kind = "int" if part.dtype in _WHOLE else part.dtype.value
        raise Refused(422, f'field "{part.name}": expected {kind}, got "{text}"', field=part.name) from None
