"""Rows of the past: training sets, views over their requests or a caller's rows, and groups that were never applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.app.generations import at_served_generations
from headrace.app.rows import as_mapping
from headrace.core.arrow import from_arrow
from headrace.core.columns import Column
from headrace.core.errors import PlanError, SchemaError
from headrace.core.positions import snapshot_name
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION
from headrace.engines.stream.commits import TABLES
from headrace.features.column import ColumnOf, Family, column_name
from headrace.features.compile import compile_project
from headrace.features.definition import definition_of, unbound
from headrace.features.generation import in_generation
from headrace.features.plan import Binding, ModelPlan, ProjectPlan, TablePlan, ViewPlan
from headrace.features.view import columns_of
from headrace.features.view_columns import ViewColumns, hidden_except
from headrace.ingestion.frames import as_table, encode_arrow
from headrace.retrieval.history import HistoryReader, ServedAt, everything_below
from headrace.retrieval.labels import labels_of
from headrace.retrieval.past import ORDER, Past, events_table
from headrace.retrieval.predictions import read_predictions
from headrace.retrieval.rows import FeatureBlock, Rows
from headrace.training.dataset import request_columns, requests, training_set

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.eventlog.base import EventLog

LABEL = "label"


class HistoryRows(Rows):
    """Rows of the past, with what they were read from.

    Attributes:
        as_of: the first offset not known, per partition of each raw stream; `tables` that of table rows.
        waiting: requests left out because their truth may still come.
        unlabelled: requests left out because no truth came.
    """

    def __init__(
        self,
        columns: dict[str, Column],
        *,
        as_of: Mapping[str, list[int]] | None = None,
        tables: int = 0,
        waiting: int = 0,
        unlabelled: int = 0,
    ) -> None:
        super().__init__(columns)
        self.as_of = dict(as_of or {})
        self.tables = tables
        self.waiting = waiting
        self.unlabelled = unlabelled

    @property
    def snapshot(self) -> str:
        """A short name of the positions that they were read at; equal names are equal positions."""
        return snapshot_name(self.as_of, self.tables)


class PastAsOf(Past):
    """What was known at a moment: per partition all that arrived before it, derived streams as they had been logged."""

    logged = True

    def __init__(self, plan: ProjectPlan, parts: Parts, at_us: int) -> None:
        super().__init__(plan, parts.raw, parts.features, parts.offline, memory_bytes=parts.memory_bytes)
        topics = parts.raw.topics()
        limits = {
            name: [_first_archived(parts, name, p, at_us) for p in range(topics[name])]
            for name in plan.streams
            if name in topics
        }
        # A derived record stands where its source does and arrived when that did.
        self._limits = {topic: limits[root] for topic in plan.topics() if (root := plan.root(topic)) in limits}
        known = TABLES in parts.features.topics()
        self.tables = first_arrival(parts.features, TABLES, 0, at_us) if known else 0

    def known_table_rows(self) -> int:
        """The first table row that had not been written."""
        return self.tables

    def computed(self) -> dict[str, list[int]]:
        """Positions below which everything had arrived; never past what is computed now."""
        # A generation of a derived stream that is not of this plan was not served then, though its source is as old.
        known = self.plan.topics()
        return {
            name: [min(a, b) for a, b in zip(self._limits.get(name, ends), ends, strict=True)]
            for name, ends in super().computed().items()
            if name in known
        }

    def _row_pieces(
        self,
        table: TablePlan,
        names: Sequence[str] | None,
        since_us: int | None,
        until_us: int | None,
        *,
        whole: bool,
    ) -> Iterator[pa.Table]:
        """Rows of a table that had been written."""
        with_order = names if names is None else list(dict.fromkeys([*names, ORDER]))
        for rows in super()._row_pieces(table, with_order, since_us, until_us, whole=whole):
            yield rows.filter(pc.less(rows[ORDER], self.tables))


class PastAt(Past):
    """What is known below given positions: offsets per raw stream and partition, and of table rows."""

    def __init__(self, parts: Parts, positions: Mapping[str, list[int]], tables: int) -> None:
        super().__init__(parts.plan, parts.raw, parts.features, parts.offline)
        named = in_generation(parts.plan, positions)
        self._positions = {name: list(offsets) for name, offsets in named.items()}
        self.tables = tables

    def known_table_rows(self) -> int:
        """The given position of table rows."""
        return self.tables

    def computed(self) -> dict[str, list[int]]:
        """The given positions."""
        return dict(self._positions)

    def rows(self, table: TablePlan, since_us: int | None = None, until_us: int | None = None) -> pa.Table | None:
        """Rows of a table below the given position."""
        rows = super().rows(table, since_us, until_us)
        return None if rows is None else rows.filter(pc.less(rows[ORDER], self.tables))


def plan_as_of(parts: Parts, at_us: int | None) -> ProjectPlan:
    """The plan at the generations of derived streams that were served at a time; None is now."""
    return parts.plan if at_us is None else at_served_generations(parts.plan, parts.catalog, at_us)


def first_arrival(log: EventLog, topic: str, partition: int, at_us: int) -> int:
    """The first offset of a partition whose record arrived at `at_us` or later; its end if there is none."""
    low, high = log.begin(topic, partition), log.end(topic, partition)
    while low < high:
        batch = log.read(topic, partition, (low + high) // 2, 1)[0]
        if batch.arrival_us >= at_us:
            high = max(batch.base, low)
        else:
            low = batch.end
    return low


def _first_archived(parts: Parts, stream: str, partition: int, at_us: int) -> int:
    """The first offset of a raw stream that arrived at `at_us` or later, though the log has dropped it."""
    found, begin = first_arrival(parts.raw, stream, partition, at_us), parts.raw.begin(stream, partition)
    if found > begin or begin == 0 or parts.offline.version(events_table(stream)) is None:
        return found
    # What the log dropped is archived, but for malformed events, which make no difference to anybody.
    columns = [PARTITION, OFFSET, ARRIVAL]
    for rows in parts.offline.batches(events_table(stream), columns):
        here = rows.filter((pc.field(PARTITION) == partition) & (pc.field(ARRIVAL) >= at_us))
        found = min(found, pc.min(here[OFFSET]).as_py() if len(here) else found)
    return found


def model_history(
    parts: Parts, model: ModelPlan, since_us: int | None, until_us: int, as_of_us: int | None
) -> HistoryRows:
    """The training set of a model: request fields, features, label."""
    plan = plan_as_of(parts, as_of_us)
    past = parts.past if as_of_us is None else PastAsOf(plan, parts, as_of_us)
    now = parts.clock.now_us() if as_of_us is None else as_of_us
    return model_rows(plan, plan.models[model.name], past, since_us, until_us, now)


def model_rows(
    plan: ProjectPlan, model: ModelPlan, past: Past, since_us: int | None, until_us: int, now_us: int
) -> HistoryRows:
    """The training set of a model, of what `past` knows, at `now_us`."""
    tables = past.known_table_rows()
    data = training_set(plan, model, past, until_us=until_us, since_us=since_us, now_us=now_us)
    columns = _columns(data.request, data.block)
    columns[LABEL] = _label(model, data.labels, np.ones(len(data), np.bool_))
    return HistoryRows(
        columns, as_of=data.as_of, tables=tables, waiting=data.waiting, unlabelled=data.unlabelled
    )  # fmt: skip


def served_history(parts: Parts, model: ModelPlan, since_us: int | None, until_us: int | None) -> HistoryRows:
    """What a model was asked, saw and answered, from its prediction log, with the truth as far as it is known."""
    view = parts.plan.views[model.view]
    batch, _ = read_predictions(parts.internal, model.name, view, 0, 10_000_000)
    asked = np.ones(len(batch), np.bool_) if until_us is None else batch.t_us < until_us
    if since_us is not None:
        asked &= batch.t_us >= since_us
    batch = batch.take(np.flatnonzero(asked))
    columns = _columns(batch.request, batch.features)
    columns["prediction_id"] = Column(DType.STRING, np.array(batch.ids, np.object_))
    columns["score"] = Column(DType.FLOAT, batch.scores)
    columns["version"] = Column(DType.INT, batch.versions)
    if view.request.id_field is not None:
        ids = columns[view.request.id_field].to_pylist()
        found = labels_of(parts.past, parts.plan, model.label, ids)
        columns[LABEL] = _label(model, found.values, found.known)
    return HistoryRows(columns)


def view_history(
    parts: Parts, view: ViewPlan, spine: Any, since_us: int | None, until_us: int | None, as_of_us: int | None
) -> HistoryRows:
    """A view at the requests of its stream, or at a caller's rows; `as_of` limits it to what was known then."""
    plan = plan_as_of(parts, as_of_us)
    view = plan.views[view.name]
    past = parts.past if as_of_us is None else PastAsOf(plan, parts, as_of_us)
    as_of, tables = past.computed(), past.known_table_rows()
    extra: dict[str, Column] = {}
    if spine is None:
        rows = requests(plan, view, past, since_us, until_us, None if as_of_us is None else as_of)
        request = request_columns(view, rows)
    else:
        request, extra = spine_columns(view.request, spine)
    n = len(next(iter(request.values())))
    served = None if as_of_us is None else _limited(past, as_of, n)
    block = HistoryReader(view, plan, past).read(request, served)
    return HistoryRows(_columns(request | extra, block), as_of=as_of, tables=tables)


def view_rows(plan: ProjectPlan, view: ViewPlan, past: Past, since_us: int | None, until_us: int | None) -> HistoryRows:
    """A view at the requests of its stream, of what `past` knows."""
    as_of, tables = past.computed(), past.known_table_rows()
    request = request_columns(view, requests(plan, view, past, since_us, until_us, as_of))
    n = len(next(iter(request.values())))
    block = HistoryReader(view, plan, past).read(request, everything_below(as_of, n))
    return HistoryRows(_columns(request, block), as_of=as_of, tables=tables)


def listed_history(
    parts: Parts, items: Sequence[Any], spine: Any, as_of_us: int | None, find: Callable[[str], Any]
) -> HistoryRows:
    """Groups, tables and single features at a caller's rows, also such as were never applied.

    A key is taken from the columns that `.of(...)` names, else from columns named as the key's fields; the time from
    the column that is named as the event time, else from the only column of times.
    """
    columns = listed_columns(items, find)
    plan = compile_project([unbound(column.owner) for column in columns])
    plan = at_served_generations(plan, parts.catalog, as_of_us)
    table = spine_table(spine)
    view = spine_view(plan, columns, table)
    past = Past(plan, parts.raw, parts.features, parts.offline, memory_bytes=parts.memory_bytes)
    if as_of_us is not None:
        past = PastAsOf(plan, parts, as_of_us)
    request, extra = spine_columns(view.request, table)
    n = table.num_rows
    known = {name: ends for name, ends in past.computed().items() if name in plan.topics()}
    tables = past.known_table_rows()
    missing = [name for name in plan.streams if name not in known]
    if missing:
        raise PlanError(f"stream {missing[0]} is in no log of this project yet; apply it and publish events first")
    served = None if as_of_us is None else _limited(past, known, n)
    if served is not None and not all(topic in known for topic in plan.derived):
        # Some derived stream was never logged: all are derived again, of what was known.
        known = {topic: known.get(topic, known[plan.root(topic)]) for topic in plan.topics()}
        served = replace(everything_below(known, n), tables=served.tables)
    block = HistoryReader(view, plan, past).read(request, served)
    return HistoryRows(_columns(request | extra, block), as_of=known, tables=tables)


def spine_columns(schema: Schema, spine: Any) -> tuple[dict[str, Column], dict[str, Column]]:
    """The fields of `schema` in a caller's rows, and the columns beside them.

    Of a list each row may lack other fields than the next, as in `publish` and `online`; they get their defaults.
    Raises SchemaError naming row and field if a value does not fit.
    """
    if isinstance(spine, list | tuple):
        rows = list(map(as_mapping, spine))
        names = {name: schema.current_name(name) is not None for row in rows for name in row}
        block = encode_rows(schema, [{name: row[name] for name in row if names[name]} for row in rows])
        table = spine_table([{name: row.get(name) for name in names if not names[name]} for row in rows])
    else:
        table = spine_table(spine)
        known = [name for name in table.column_names if schema.current_name(name) is not None]
        block = encode_arrow(schema, table.select(known))
        table = table.drop_columns(known)
    if block.malformed:
        bad = block.malformed[0]
        raise SchemaError(f"row {bad.row} of the given rows: {bad.field}: {bad.reason}", field=bad.field)
    return block.columns, {name: _any_column(table, name) for name in table.column_names}


def listed_columns(items: Sequence[Any], find: Callable[[str], Any]) -> list[ColumnOf[Any]]:
    """The columns of listed groups, tables and features; `find` gives the class of a name."""
    found: list[ColumnOf[Any]] = []
    for item in items:
        item = find(item) if isinstance(item, str) else item
        if isinstance(item, ColumnOf):
            found.append(item)
        elif isinstance(item, Family):
            found += [member for member in item.members.values() if isinstance(member, ColumnOf)]
        elif isinstance(item, type) and hasattr(item, "__definition__"):
            found += columns_of(item)
        else:
            raise SchemaError(f"history takes groups, tables and their features, not {item!r}")
    for column in found:
        if definition_of(column.owner).kind not in ("group", "table"):
            raise SchemaError(f"{column!r} belongs to no group or table; list it in a view and read that")
    return found


def spine_view(plan: ProjectPlan, columns: Sequence[ColumnOf[Any]], table: pa.Table) -> ViewPlan:
    """The view of these columns for which the rows of `table` are the requests.

    Raises SchemaError if they lack a column of a key, or have no one column of times.
    """
    fields: dict[str, Field] = {}
    reads = ViewColumns(plan.groups, plan.tables, {})
    times: list[str] = []
    for column in columns:
        definition = definition_of(column.owner)
        bound: tuple[ColumnOf[Any], ...] = getattr(column.owner, "__bound__", ())
        is_table = definition.kind == "table"
        key = (plan.tables if is_table else plan.groups)[definition.name].key
        names = tuple(part.name for part in bound) or tuple(part.name for part in key)
        for name, part in zip(names, key, strict=True):
            fields[name] = Field(name, part.dtype, True, entity=part.entity)
        prefix = "".join(f"{part.name}__" for part in bound)
        if column.dtype is None:
            raise SchemaError(f"{column!r} cannot be computed")
        stem = column_name(column).removesuffix(column.name)
        reads.feature(stem, Binding(definition.name, is_table, prefix, names), column.name, column.dtype)
        schema = (
            plan.tables[definition.name].schema if is_table else plan.stream(plan.groups[definition.name].stream).schema
        )
        times.append(schema.time_field or "")
    time = _time_column(table, times)
    fields[time] = Field(time, DType.TIMESTAMP)
    missing = [name for name in fields if name not in table.column_names]
    if missing:
        raise SchemaError(
            f'the given rows lack the column "{missing[0]}"; they have {", ".join(table.column_names)}',
            field=missing[0],
        )
    request = Schema("the given rows", tuple(fields.values()), time)
    listed = hidden_except(reads.columns, {column_name(column) for column in columns})
    return ViewPlan("given rows", "", "", request, tuple(reads.bindings), listed)


def _time_column(table: pa.Table, names: Sequence[str]) -> str:
    for name in dict.fromkeys(names):
        if name in table.column_names:
            return name
    stamps: list[str] = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if len(stamps) != 1:
        raise SchemaError(
            f"the given rows need one column of times, such as {names[0] or 'at'}; they have {len(stamps)} "
            f"({', '.join(stamps) or 'none'})"
        )
    return stamps[0]


def spine_table(spine: Any) -> pa.Table:
    """A caller's rows as an Arrow table: events, mappings, `Rows`, or anything that Arrow can take in."""
    if isinstance(spine, list | tuple):
        rows = [dict(as_mapping(item)) for item in spine]
        names = dict.fromkeys(name for row in rows for name in row)  # Arrow would take those of the first row
        return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    if isinstance(spine, Rows):
        return spine.to_arrow()
    return as_table(spine, "history")


def _any_column(table: pa.Table, name: str) -> Column:
    kind = table.schema.field(name).type
    for test, dtype in _ARROW_KINDS:
        if test(kind):
            return from_arrow(table[name], dtype, name)
    raise SchemaError(
        f'column "{name}" of the given rows is {kind}, which cannot be carried along; drop it', field=name
    )


_ARROW_KINDS: tuple[tuple[Callable[[Any], bool], DType], ...] = (
    (pa.types.is_boolean, DType.BOOL),
    (pa.types.is_integer, DType.INT),
    (pa.types.is_floating, DType.FLOAT),
    (pa.types.is_timestamp, DType.TIMESTAMP),
    (pa.types.is_string, DType.STRING),
    (pa.types.is_large_string, DType.STRING),
)


def _columns(request: Mapping[str, Column], block: FeatureBlock) -> dict[str, Column]:
    return dict(request) | {name: block.column(name) for name in block.names}


def _label(model: ModelPlan, values: Any, known: Any) -> Column:
    valid = None if known.all() else known
    if model.label.dtype is DType.BOOL:
        return Column(DType.BOOL, np.where(known, values, 0.0) != 0, valid)
    return Column(DType.FLOAT, values, valid)


def _limited(past: Past, as_of: dict[str, list[int]], n: int) -> ServedAt:
    if not isinstance(past, PastAsOf):
        return everything_below(as_of, n)
    # As served: derived streams as they had been logged by then.
    served = everything_below(as_of, n, logged=True)
    return replace(served, tables=np.full(n, past.tables, np.int64))
