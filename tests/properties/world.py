"""One stream, one group and one table run through the real workers over parts in memory, for the properties to ask."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings

from headrace.core.columns import Column, column_of
from headrace.core.events import encode_block
from headrace.core.positions import Position
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.tablerows import TableRows as Batch
from headrace.core.tablerows import encode_table_rows
from headrace.core.time import NULL_US, SimulatedClock
from headrace.engines.stream.commits import TABLES
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import Binding, GroupPlan, ProjectPlan, StreamPlan, TablePlan, ViewColumn, ViewPlan
from headrace.ingestion.archive import ArchiveWorker
from headrace.ingestion.materialize import OnlineIngest
from headrace.retrieval.history import HistoryReader, ServedAt
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.past import Past
from headrace.retrieval.rows import FeatureBlock
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.testing.arrivals import plain_values
from headrace.testing.oracle import RawEvent, TableRow

ASKED_AT = "asked_at"
SOME = settings(max_examples=max(settings().max_examples // 2, 1))
"""These examples are large: half of what the profile asks for."""


def group_view(group: GroupPlan) -> ViewPlan:
    """A view of all features of one group; a request gives the group's key and the time."""
    dtypes = {spec.name: spec.dtype for spec in (*group.aggregates, *group.derived)}
    keys = tuple(Field(part.name, part.dtype, nullable=True, entity=part.entity) for part in group.key)
    return _view(
        keys,
        Binding(group.name, False, "", tuple(part.name for part in group.key)),
        [ViewColumn(f"{group.name}__{n}", dtypes[n], "feature", binding=0, feature=n) for n in group.order],
    )


def table_view(table: TablePlan) -> ViewPlan:
    """A view of all features of one table."""
    keys = tuple(Field(part.name, part.dtype, nullable=True, entity=part.entity) for part in table.key)
    return _view(
        keys,
        Binding(table.name, True, "", tuple(part.name for part in table.key)),
        [ViewColumn(f"{table.name}__{f.name}", f.dtype, "feature", binding=0, feature=f.name) for f in table.features],
    )


def _view(keys: tuple[Field, ...], binding: Binding, columns: list[ViewColumn]) -> ViewPlan:
    request = Schema("request", (*keys, Field(ASKED_AT, DType.TIMESTAMP)), ASKED_AT)
    return ViewPlan("asked", "00112233aabbccdd", "request", request, (binding,), tuple(columns))


def project_of(stream: StreamPlan, group: GroupPlan | None = None, table: TablePlan | None = None) -> ProjectPlan:
    """A project of one stream with a group over it, or a table beside it."""
    return ProjectPlan(
        {stream.name: stream},
        {} if group is None else {group.name: group},
        {} if table is None else {table.name: table},
        {},
        {},
    )


@dataclass
class World:
    """Logs, stores and workers of one project; `horizon_us` is the as-of horizon of its online store."""

    project: ProjectPlan
    partitions: int
    start_us: int
    horizon_us: int
    folder: Path
    clock: SimulatedClock = field(init=False)
    online: MemoryOnlineStore = field(init=False, default_factory=MemoryOnlineStore)
    offline: MemoryOfflineStore = field(init=False, default_factory=MemoryOfflineStore)

    def __post_init__(self) -> None:
        self.clock = SimulatedClock(self.start_us)
        self.raw, self.features = MemoryEventLog(self.clock), MemoryEventLog(self.clock)
        for name in self.project.streams:
            self.raw.create(name, self.partitions)
        self.restart()

    def restart(self, checkpoint: bool = False) -> None:
        """New workers over the same logs and stores, with or without a checkpoint taken before."""
        if checkpoint:
            self.compute.checkpoint()
        self.compute = ComputeWorker(self.project, self.raw, self.features, self.folder / "checkpoint")
        self.ingest = OnlineIngest(self.project, self.features, self.online, horizon_us=self.horizon_us)
        self.archive = ArchiveWorker(self.project, self.raw, self.features, self.offline)

    def publish(self, stream: StreamPlan, batch: Sequence[RawEvent]) -> None:
        """Append records of one partition that arrive together, as one record batch."""
        self.clock.advance_to(batch[0].arrival_us)
        block = encode_rows(stream.schema, [record.fields for record in batch])  # type: ignore[misc]
        [base] = self.raw.append([Append(stream.name, batch[0].partition, encode_block(block), len(batch))])
        assert base == batch[0].offset

    def put(self, table: TablePlan, batch: Sequence[TableRow]) -> None:
        """Append rows that are written together to the topic of table rows."""
        self.clock.advance_to(max(self.clock.now_us(), batch[0].written_us))
        [base] = self.features.append([Append(TABLES, 0, encode_table_rows(batch_of(table, batch)), len(batch))])
        assert base == batch[0].offset

    def drain(self) -> None:
        """Let compute and ingestion catch up."""
        while self.compute.step():
            pass
        while self.ingest.step():
            pass

    def read(self, view: ViewPlan, keys: Sequence[tuple[Any, ...]], times: Sequence[int]) -> FeatureBlock:
        """Online, at each (key, time)."""
        reader = OnlineReader(view, self.project, self.online, horizon_us=self.horizon_us)
        return reader.read(request_of(view, keys, times))

    def history(
        self, view: ViewPlan, keys: Sequence[tuple[Any, ...]], times: Sequence[int], served: ServedAt | None = None
    ) -> FeatureBlock:
        """From archive and log tail, at each (key, time)."""
        past = Past(self.project, self.raw, self.features, self.offline)
        return HistoryReader(view, self.project, past).read(request_of(view, keys, times), served)


def batch_of(table: TablePlan, rows: Sequence[TableRow]) -> Batch:
    """Rows as they are appended to the topic of table rows."""

    def available(row: TableRow) -> int:
        if not row.backfilled:
            return row.written_us
        return NULL_US if row.event_time_us is None else row.event_time_us + table.delay_us

    return Batch(
        table.name,
        table.version,
        len(rows),
        [row.key for row in rows],
        np.array([NULL_US if row.event_time_us is None else row.event_time_us for row in rows], np.int64),
        np.array([available(row) for row in rows], np.int64),
        {
            spec.name: column_of(spec.dtype, [None if row.fields is None else row.fields[spec.name] for row in rows])
            for spec in table.features
        },
        np.array([row.fields is None for row in rows]),
    )


def request_of(view: ViewPlan, keys: Sequence[tuple[Any, ...]], times: Sequence[int]) -> dict[str, Column]:
    """The request fields of these (key, time) pairs."""
    columns = {ASKED_AT: column_of(DType.TIMESTAMP, list(times))}
    for index, name in enumerate(view.bindings[0].request_keys):
        columns[name] = column_of(view.request[name].dtype, [key[index] for key in keys])
    return columns


def batches(records: Sequence[RawEvent], rng: random.Random) -> Iterable[list[RawEvent]]:
    """Cut a log into record batches at random: one partition and one arrival each."""
    batch: list[RawEvent] = []
    for record in records:
        together = batch and (record.partition, record.arrival_us) == (batch[0].partition, batch[0].arrival_us)
        if batch and (not together or rng.random() < 0.3):
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


def bits(value: Any) -> Any:
    """A value such that two are equal only if they have one type and the same bits."""
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    if isinstance(value, list):
        return ("list", [bits(item) for item in value])
    if isinstance(value, dict):
        return ("dict", [(bits(key), bits(item)) for key, item in value.items()])
    return (type(value).__name__, value)


def shown(block: FeatureBlock, row: int) -> dict[str, Any]:
    """One row of a block by feature name, without the prefix of the group."""
    values = plain_values({name: block.column(name) for name in block.names}, row)
    return {name.partition("__")[2]: value for name, value in values.items()}


def differing(got: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Values that are not the same bits, by name: (got, wanted)."""
    assert got.keys() == wanted.keys()
    return {name: (got[name], wanted[name]) for name in wanted if bits(got[name]) != bits(wanted[name])}


def served_at(position: Position, streams: Iterable[str], partitions: int, n: int) -> ServedAt:
    """`n` rows served at one position."""
    return ServedAt(
        {s: np.array([position.streams.get(s, [0] * partitions)] * n, np.int64) for s in streams},
        np.full(n, position.tables, np.int64),
    )
