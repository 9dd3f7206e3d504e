"""From another system into a raw topic: every event once, in the order of its shard, wherever the copier dies.

How far each shard was copied is a record of the raw log itself, in a topic of its own, appended in one step with the
events where the log can do so: both are there or neither is. Where it cannot (single events on Kafka) the position
comes after its events, so that after a crash some come twice, with their ids. The topic is fenced: a copier that was
taken for dead cannot go on beside its successor.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Protocol

import msgspec

from headrace.core.columns import nulls
from headrace.core.errors import LogError, SchemaError
from headrace.core.events import EventBlock, Malformed
from headrace.core.messages import read_messages
from headrace.core.schema import Schema
from headrace.core.values import payload_of
from headrace.eventlog.base import Append, EventLog
from headrace.eventlog.source import Expired, Page, Shard, Source, Throttled
from headrace.ingestion.publisher import IPC, encode_ipc

_logger = logging.getLogger("headrace.ingestion")
FORMAT: Final = 1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_LIST_AGAIN_S: Final = 30.0
_KEPT: Final = 1_000
"""Positions beyond this number are dropped, but for the last."""


def position_topic(stream: str, system: str) -> str:
    """The topic of the raw log that says how far a stream was copied from a system."""
    return f"_{system}.{stream}"


class Door(Protocol):
    """What is asked of a publisher; see `ingestion.publisher.Publisher`."""

    def schema(self, stream: str) -> Schema: ...
    def prepare(self, stream: str, block: EventBlock) -> list[Append]: ...


class Reached(msgspec.Struct, frozen=True, array_like=True):
    """How far a shard was copied: the last sequence number (None: nothing yet), and whether that was its end."""

    last: str | None = None
    ended: bool = False


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far a stream was copied; `created` tells it from another one of its name."""

    format: int
    created: str
    shards: dict[str, Reached]


def blocks_of(schema: Schema, messages: Sequence[bytes]) -> list[EventBlock]:
    """The events of messages in their order: one in JSON each, or any number as a stream of Arrow's (IPC).

    What is neither, and an Arrow stream that is damaged or lacks a column, is one malformed row.
    """
    found: list[EventBlock] = []
    for arrow, run in groupby(messages, lambda message: message.startswith(IPC)):
        together = list(run)
        if not arrow:
            found.append(read_messages(schema, len(together), False, list(together), []))
            continue
        for message in together:
            try:
                found.append(encode_ipc(schema, message))
            except SchemaError as error:
                columns = {field.name: nulls(field.dtype, 1) for field in schema}
                found.append(EventBlock(1, columns, [Malformed(0, "", str(error), payload_of(message))]))
    return [block for block in found if block.n]


def readable(shards: Sequence[Shard], reached: dict[str, Reached]) -> list[str]:
    """Ids of the shards to read now: those not at their end whose parents are, or have been dropped by the source.

    A key's records lie in one shard, and after that was split or merged in a child of it: parents first keeps their
    order.
    """
    there = {shard.id for shard in shards}
    ended = {shard for shard, found in reached.items() if found.ended}
    return [
        shard.id
        for shard in shards
        if shard.id not in ended and all(parent in ended or parent not in there for parent in shard.parents)
    ]


@dataclass(slots=True)
class _Reading:
    """One shard while it is read: where it goes on, when it may be asked again, and how long it was told to wait."""

    iterator: str | None = None
    due: float = 0.0
    pause_s: float = 0.0
    behind_ms: int | None = None


@dataclass(slots=True)
class CopyTotals:
    """Since the start."""

    copied: int = 0
    malformed: int = 0
    throttled: int = 0
    lost_shards: int = 0
    lost_records: int = 0


@dataclass(slots=True)
class StreamCopier:
    """Copies one stream; one thread calls it.

    Args:
        stream: the stream of events, whose topic gets them.
        source: the stream of the other system.
        log: the raw log.
        door: what gives the events their partitions.
        at_once: the log appends events and position in one step.
        seconds: a clock that only goes forward.
    """

    stream: str
    source: Source
    log: EventLog
    door: Door
    at_once: bool = True
    seconds: Callable[[], float] = time.monotonic
    totals: CopyTotals = field(default_factory=CopyTotals)
    _position: Position | None = None
    _end: int = 0
    _shards: list[Shard] = field(default_factory=list)
    _list_at: float = 0.0
    _reading: dict[str, _Reading] = field(default_factory=dict)
    _pool: ThreadPoolExecutor | None = None

    def step(self) -> int:
        """Copy what is there now, a page of each shard at most; returns how many messages that were.

        Raises Unreachable if the source or the log does not answer: nothing is lost, the next step goes on. Throttling
        is waited for shard by shard.
        """
        position = self._opened()
        now = self.seconds()
        if now >= self._list_at:
            position = self._listed(position, now)
        open_shards = readable(self._shards, position.shards)
        due = [shard for shard in open_shards if self._reading.setdefault(shard, _Reading()).due <= now]
        if not due:
            return 0
        if self._pool is None:
            self._pool = ThreadPoolExecutor(8, thread_name_prefix="copy")
        calls = [(shard, self._pool.submit(self._page, shard, position)) for shard in due]
        done = 0
        failed: Exception | None = None
        for shard, call in calls:
            # What the other shards gave is kept although one of them failed, but for a failure of the log.
            try:
                page = call.result()
                if isinstance(page, Throttled):
                    self._slow_down(self._reading.get(shard))
                elif page is not None and self._position is not None:
                    done += self._take(shard, page)
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return done

    def behind_ms(self) -> int:
        """How far the slowest shard is behind its newest record, as the source last said."""
        return max((reading.behind_ms or 0 for reading in self._reading.values()), default=0)

    def caught_up(self) -> bool:
        """True if every shard was read to its newest record, when it was last asked."""
        if self._position is None or not self._list_at:
            return False
        open_shards = readable(self._shards, self._position.shards)
        return all(shard in self._reading and self._reading[shard].behind_ms == 0 for shard in open_shards)

    def close(self) -> None:
        """End its threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _opened(self) -> Position:
        if self._position is None:
            topic = position_topic(self.stream, self.source.system)
            self.log.create(topic)
            newest = self.log.last(topic, 0)
            found = Position(FORMAT, "", {}) if newest is None else _decoded(newest.payload, topic)
            self._end = self.log.end(topic, 0)
            created = self.source.created()
            if found.created not in ("", created):
                _logger.warning("stream %s: what it is copied from was made anew; from its begin again", self.stream)
                found = Position(FORMAT, created, {})
            self._position = Position(FORMAT, created, found.shards)
            self._list_at = 0.0
        return self._position

    def _listed(self, position: Position, now: float) -> Position:
        self._shards = self.source.shards()
        self._list_at = now + _LIST_AGAIN_S
        there = {shard.id for shard in self._shards}
        gone = [shard for shard, reached in position.shards.items() if shard not in there and not reached.ended]
        for shard in gone:
            self.totals.lost_shards += 1
            _logger.error("stream %s: shard %s was dropped before it was copied to its end", self.stream, shard)
        kept = {shard: reached for shard, reached in position.shards.items() if shard in there}
        self._reading = {shard: reading for shard, reading in self._reading.items() if shard in there}
        self._position = Position(FORMAT, position.created, kept)
        return self._position

    def _page(self, shard: str, position: Position) -> Page | Throttled | None:
        """What a shard gives; None if it has to be asked again. Touches nothing but the state of its own shard."""
        reading = self._reading[shard]
        try:
            if reading.iterator is None:
                reading.iterator = self.source.iterator(shard, position.shards.get(shard, Reached()).last)
            page = self.source.read(shard, reading.iterator)
        except Expired:
            reading.iterator = None
            return None
        except Throttled as told:
            return told
        reading.pause_s = 0.0
        reading.due = self.seconds() + self.source.pace_s
        reading.behind_ms = page.behind_ms
        return page

    def _slow_down(self, reading: _Reading | None) -> None:
        self.totals.throttled += 1
        if reading is not None:
            reading.pause_s = min(max(2 * reading.pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            reading.due = self.seconds() + reading.pause_s

    def _take(self, shard: str, page: Page) -> int:
        """Append a page and where it ends."""
        assert self._position is not None
        reading, before = self._reading[shard], self._position.shards.get(shard, Reached())
        reached = Reached(page.last or before.last, page.iterator is None)
        blocks = blocks_of(self.door.schema(self.stream), page.messages)
        appends = [append for block in blocks for append in self.door.prepare(self.stream, block)]
        if reached != before:
            moved = Position(FORMAT, self._position.created, {**self._position.shards, shard: reached})
            self._append(appends, moved)
            self._position = moved
        # Only now: had the append failed, the same page would have to be read again.
        reading.iterator = page.iterator
        if reached.ended:
            self._reading.pop(shard)
            self._list_at = 0.0
        self.totals.copied += sum(block.n for block in blocks)
        self.totals.malformed += sum(len(block.malformed) for block in blocks)
        if page.lost:
            self.totals.lost_records += page.lost
            _logger.error(
                "stream %s: shard %s dropped up to %d records before they were read", self.stream, shard, page.lost
            )
        return len(page.messages)

    def _append(self, events: list[Append], moved: Position) -> None:
        topic = position_topic(self.stream, self.source.system)
        told = Append(topic, 0, msgspec.msgpack.encode(moved), base=self._end)
        try:
            if self.at_once:
                self.log.append([*events, told])
            else:
                if events:
                    self.log.append(events)
                self.log.append([told])
        except Exception:
            # Another copier has written, or whether this came through is not known: the log is asked.
            self._forget()
            raise
        self._end += 1
        if self._end - self.log.begin(topic, 0) > 2 * _KEPT:
            self.log.trim(topic, 0, self._end - _KEPT)

    def _forget(self) -> None:
        """Begin again from what the log holds."""
        self._position = None
        self._reading = {}


def _decoded(payload: bytes, topic: str) -> Position:
    try:
        found = msgspec.msgpack.decode(payload, type=Position)
    except (msgspec.DecodeError, ValueError):
        raise LogError(f"topic {topic} of the raw log holds something else than positions") from None
    if found.format != FORMAT:
        raise LogError(f"topic {topic} has positions of format {found.format}; this version reads format {FORMAT}")
    return found
