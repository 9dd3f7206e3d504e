"""The door for events: whatever a user hands over is encoded, given a partition and appended to its topic."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from headrace.core.errors import NotFound
from headrace.core.events import EventBlock, Malformed, encode_block
from headrace.core.rows import RowEncoder, encode_json, encode_rows
from headrace.core.schema import Schema
from headrace.core.values import payload_of
from headrace.eventlog.base import Append, EventLog
from headrace.features.plan import StreamPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

UNKNOWN_TOPIC = "_unknown"
"""Topic of events that name no stream, or one that is not declared: each a malformed record with its own offset."""

IPC = b"\xff\xff\xff\xff"
"""What a stream of Arrow's begins with, and no JSON."""
"""What a stream of Arrow's begins with; no JSON does."""
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class PublishReceipt:
    """What became of one publish.

    `appended` counts all records, the `malformed` among them included: these have offsets too and end as dead letters.
    `offsets` holds the first and the last offset by partition.
    """

    stream: str
    appended: int
    malformed: int
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def first_offset(self) -> int | None:
        """First offset in the lowest partition that got a record; None if nothing was published."""
        return self.offsets[min(self.offsets)][0] if self.offsets else None

    @property
    def last_offset(self) -> int | None:
        """Last offset in the highest partition that got a record; None if nothing was published."""
        return self.offsets[max(self.offsets)][1] if self.offsets else None

    def __add__(self, other: PublishReceipt) -> PublishReceipt:
        """The receipt of two publishes of one stream, one after the other."""
        offsets = dict(self.offsets)
        for partition, (first, last) in other.offsets.items():
            offsets[partition] = (offsets.get(partition, (first, last))[0], last)
        return PublishReceipt(self.stream, self.appended + other.appended, self.malformed + other.malformed, offsets)


class Publisher:
    """Appends events to the topics of their streams (topic name = stream name, created when first needed).

    `partitions` is for topics that do not exist yet. An event goes to the partition that the hash of its stream's
    partition key gives, else of its id; the same key always gives the same one. One publish is appended as a whole or
    not at all, in record batches of at most `batch_rows`. Safe to use from several threads.
    """

    def __init__(
        self, log: EventLog, streams: Mapping[str, StreamPlan], *, partitions: int = 1, batch_rows: int = 10_000
    ) -> None:
        self._log = log
        self._streams = dict(streams)
        self._partitions = partitions
        self._batch_rows = batch_rows
        self._counts = log.topics()
        self._encoders = {name: RowEncoder(plan.schema) for name, plan in self._streams.items()}

    def publish(self, stream: str, data: Any) -> PublishReceipt:
        """Publish rows (a list of mappings), bytes (JSON, or a stream of Arrow's), a table (Arrow, pandas, Polars) or a
        block.

        Rows that do not fit are appended as malformed records. Raises NotFound for an unknown stream and SchemaError
        for a table that lacks a column or a body that is no JSON; then nothing is appended.
        """
        block = self.encode(stream, data)
        if not block.n:
            return PublishReceipt(stream, 0, 0)
        appends = self.prepare(stream, block)
        return self._receipts(appends, self._log.append(appends), {stream: len(block.malformed)})[stream]

    def publish_mixed(self, events: Sequence[Any]) -> dict[str, PublishReceipt]:
        """Publish events of several streams, each an object with "stream" beside its fields; all or none.

        Events of one stream keep their order. What names no declared stream goes to the topic `_unknown`, one
        malformed record each, so that it has an offset and is not lost.
        """
        by_stream: dict[str, list[Any]] = {}
        strangers: list[Malformed] = []
        for event in events:
            name = event.get("stream") if isinstance(event, Mapping) else None
            if isinstance(name, str) and name in self._streams:
                by_stream.setdefault(name, []).append({key: item for key, item in event.items() if key != "stream"})
            else:
                reason = self._stranger(event, name)
                strangers.append(Malformed(len(strangers), "stream", reason, payload_of(event)))
        blocks = {name: self._encoders[name].rows(rows) for name, rows in by_stream.items()}
        if strangers:
            blocks[UNKNOWN_TOPIC] = EventBlock(len(strangers), {}, strangers)
        if not blocks:
            return {}
        appends = [append for name, block in blocks.items() for append in self.prepare(name, block)]
        malformed = {name: len(block.malformed) for name, block in blocks.items()}
        return self._receipts(appends, self._log.append(appends), malformed)

    def publish_file(
        self, stream: str, path: str | Path, on_batch: Callable[[PublishReceipt], None] | None = None
    ) -> PublishReceipt:
        """Publish an event file batch by batch; `on_batch` is told the receipt so far after each.

        Raises InputFileError if the file is empty, cut short or not what its name says.
        """
        schema = self.schema(stream)
        total = PublishReceipt(stream, 0, 0)
        for block in read_event_file(path, schema):
            total = total + self.publish(stream, block)
            if on_batch is not None:
                on_batch(total)
        return total

    def schema(self, stream: str) -> Schema:
        """The schema of a declared stream; raises NotFound with near names otherwise."""
        plan = self._streams.get(stream)
        if plan is None:
            raise NotFound(self._no_stream(stream))
        return plan.schema

    def encode(self, stream: str, data: Any) -> EventBlock:
        """The block of what `publish` accepts, without publishing it."""
        if isinstance(data, EventBlock):
            self.schema(stream)
            return data
        schema = self.schema(stream)
        if isinstance(data, bytes | bytearray | memoryview):
            body = bytes(data)
            return encode_ipc(schema, body) if body.startswith(IPC) else self._encoders[stream].json(body)
        if isinstance(data, Mapping):
            return self._encoders[stream].rows([data])
        if isinstance(data, list | tuple):
            return self._encoders[stream].rows(list(data))
        return encode_arrow(schema, data)

    def prepare(self, stream: str, block: EventBlock) -> list[Append]:
        """The record batches of a block, to be appended with others in one call; creates the topic if need be."""
        count = self._count(stream)
        if count == 1:
            return self._batches(stream, 0, block)
        homes = self._homes(stream, block, count)
        appends = []
        for partition in range(count):
            rows = np.flatnonzero(homes == partition)
            if len(rows):
                appends += self._batches(stream, partition, _rows_of(block, rows))
        return appends

    def _count(self, topic: str) -> int:
        count = self._counts.get(topic)
        if count is None:
            self._counts = self._log.topics()
            if topic not in self._counts:
                wanted = 1 if topic == UNKNOWN_TOPIC else self._partitions
                self._log.create(topic, wanted)
                self._counts[topic] = wanted
            count = self._counts[topic]
        return count

    def _batches(self, topic: str, partition: int, block: EventBlock) -> list[Append]:
        if block.n <= self._batch_rows:
            return [Append(topic, partition, encode_block(block), block.n)]
        parts = [
            block.slice(start, min(start + self._batch_rows, block.n)) for start in range(0, block.n, self._batch_rows)
        ]
        return [Append(topic, partition, encode_block(part), part.n) for part in parts]

    def _homes(self, stream: str, block: EventBlock, count: int) -> Any:
        """int64 [n]: the partition of each row."""
        homes = np.zeros(block.n, np.int64)
        plan = self._streams.get(stream)
        names = () if plan is None else plan.partition_key or ((plan.schema.id_field,) if plan.schema.id_field else ())
        if names:
            keys = zip(*[block.columns[name].to_pylist() for name in names], strict=True)
            seen: dict[tuple[Any, ...], int] = {}
            for row, key in enumerate(keys):
                home = seen.get(key)
                if home is None:
                    home = seen[key] = _partition_of(_pack(key), count)
                homes[row] = home
        else:
            # Without key and id an event is its place in the log; blocks are spread by what is in them.
            homes[:] = _partition_of(encode_block(block), count)
        for bad in block.malformed:
            homes[bad.row] = _partition_of(bad.payload, count)
        return homes

    def _receipts(
        self, appends: Sequence[Append], bases: Sequence[int], malformed: Mapping[str, int]
    ) -> dict[str, PublishReceipt]:
        offsets: dict[str, dict[int, tuple[int, int]]] = {}
        counts: dict[str, int] = {}
        for append, base in zip(appends, bases, strict=True):
            of_topic = offsets.setdefault(append.topic, {})
            of_topic[append.partition] = (of_topic.get(append.partition, (base, 0))[0], base + append.count - 1)
            counts[append.topic] = counts.get(append.topic, 0) + append.count
        return {name: PublishReceipt(name, counts[name], malformed[name], offsets[name]) for name in counts}

    def _stranger(self, event: Any, name: Any) -> str:
        if not isinstance(event, Mapping):
            return f"expected an object with a stream and its fields, got {type(event).__name__}"
        if not isinstance(name, str):
            return 'the event names no stream; send {"stream": NAME, ...fields}'
        return self._no_stream(name)

    def _no_stream(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._streams, 3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"declared are {', '.join(sorted(self._streams)) or 'none'}"
        )
        return f'there is no stream "{name}"; {hint}'


def encode_arrow(schema: Schema, table: Any) -> EventBlock:
    """A block of an Arrow table or of a frame that speaks Arrow; see `ingestion.frames.encode_arrow`."""
    from headrace.ingestion.frames import encode_arrow as encode

    return encode(schema, table)


def encode_ipc(schema: Schema, body: bytes) -> EventBlock:
    """A block of a stream of Arrow's; raises SchemaError if it is damaged, or has not the columns of the schema."""
    from headrace.ingestion.ipc import read_ipc

    return encode_arrow(schema, read_ipc(body, schema.name))


def read_event_file(path: str | Path, schema: Schema) -> Iterator[EventBlock]:
    """Blocks of an event file (Parquet, CSV, NDJSON, JSON, Arrow); see `ingestion.files.read_event_file`."""
    from headrace.ingestion.files import read_event_file as read

    return read(path, schema)


def _partition_of(key: bytes, count: int) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % count


def _rows_of(block: EventBlock, rows: Any) -> EventBlock:
    place = {int(row): index for index, row in enumerate(rows.tolist())}
    bad = [Malformed(place[m.row], m.field, m.reason, m.payload) for m in block.malformed if m.row in place]
    return EventBlock(len(rows), {name: column.take(rows) for name, column in block.columns.items()}, bad)


__all__ = [
    "IPC",
    "UNKNOWN_TOPIC",
    "PublishReceipt",
    "Publisher",
    "encode_arrow",
    "encode_ipc",
    "encode_json",
    "encode_rows",
    "read_event_file",
]
