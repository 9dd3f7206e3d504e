"""From a stream of Kinesis into a raw topic: every record once, in the order of its shard, wherever the copier dies.

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
from typing import Final, Protocol

import msgspec

from headrace.core.errors import LogError
from headrace.core.events import EventBlock
from headrace.core.messages import read_messages
from headrace.core.schema import Schema
from headrace.eventlog.base import Append, EventLog
from headrace.ingestion.kinesis import Expired, Page, Shard, Throttled

_logger = logging.getLogger("headrace.ingestion")
FORMAT: Final = 1
_PACE_S: Final = 0.25
"""Between two calls for one shard: Kinesis takes five a second from all of its readers."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_LIST_AGAIN_S: Final = 30.0
_KEPT: Final = 1_000
"""Positions beyond this number are dropped, but for the last."""


def position_topic(stream: str) -> str:
    """The topic of the raw log that says how far a stream was copied."""
    return f"_kinesis.{stream}"


class Source(Protocol):
    """What is asked of a stream of Kinesis; see `ingestion.kinesis.KinesisStream`."""

    def created(self) -> str: ...
    def shards(self) -> list[Shard]: ...
    def iterator(self, shard: str, after: str | None) -> str: ...
    def read(self, shard: str, iterator: str) -> Page: ...


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


def readable(shards: Sequence[Shard], reached: dict[str, Reached]) -> list[str]:
    """Ids of the shards to read now: those not at their end whose parents are, or have been dropped by Kinesis.

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


@dataclass(slots=True)
class StreamCopier:
    """Copies one stream; one thread calls it.

    Args:
        stream: the stream of events, whose topic gets them.
        source: the stream of Kinesis.
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
        """Copy what is there now, a page of each shard at most; returns how many events that were.

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
            self._pool = ThreadPoolExecutor(8, thread_name_prefix="kinesis")
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
        """How far the slowest shard is behind its newest record, as Kinesis last said."""
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
            topic = position_topic(self.stream)
            self.log.create(topic)
            newest = self.log.last(topic, 0)
            found = Position(FORMAT, "", {}) if newest is None else _decoded(newest.payload, topic)
            self._end = self.log.end(topic, 0)
            created = self.source.created()
            if found.created not in ("", created):
                _logger.warning(
                    "stream %s: its stream of Kinesis was made anew; it is copied from its begin", self.stream
                )
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
            _logger.error("stream %s: Kinesis dropped shard %s before it was copied to its end", self.stream, shard)
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
        reading.due = self.seconds() + _PACE_S
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
        appends: list[Append] = []
        bad = 0
        if page.messages:
            n = len(page.messages)
            block = read_messages(self.door.schema(self.stream), n, False, list(page.messages), [])
            appends, bad = self.door.prepare(self.stream, block), len(block.malformed)
        if reached != before:
            moved = Position(FORMAT, self._position.created, {**self._position.shards, shard: reached})
            self._append(appends, moved)
            self._position = moved
        # Only now: had the append failed, the same page would have to be read again.
        reading.iterator = page.iterator
        if reached.ended:
            self._reading.pop(shard)
            self._list_at = 0.0
        self.totals.copied += len(page.messages)
        self.totals.malformed += bad
        return len(page.messages)

    def _append(self, events: list[Append], moved: Position) -> None:
        topic = position_topic(self.stream)
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
