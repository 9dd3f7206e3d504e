"""PORT Source: a stream of events in another system, as it is copied from there into a raw topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Throttled(Exception):
    """The source asks its readers to slow down; the same call may be made again later."""


class Expired(Exception):
    """An iterator holds no longer; another one goes on from the last position."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the stream whose records have an order. One with children (it is in their `parents`) gets no more."""

    id: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """What one call gave: the data of records in order, the last one's position (None without records).

    `iterator` goes on from here; None at the end of a closed shard. `behind_ms`: how far this is from the newest.
    `lost`: at most so many records before these were dropped by the source and never read.
    """

    messages: list[bytes]
    last: str | None
    iterator: str | None
    behind_ms: int
    lost: int = 0


class Source(Protocol):
    """A stream of another system. Thread-safe, with one thread per shard at a time.

    Methods raise Unreachable if its servers do not answer, NotFound if there is no such stream, LogError or StoreError
    if they refuse.

    Attributes:
        system: what the stream is of, a word for names and messages.
        pace_s: seconds between two calls for one shard, at least.
    """

    @property
    def system(self) -> str: ...
    @property
    def pace_s(self) -> float: ...

    def created(self) -> str:
        """What tells the stream from another one of the same name that was made later; empty if nothing does."""

    def shards(self) -> list[Shard]:
        """The shards that hold records or will, by id."""

    def iterator(self, shard: str, after: str | None) -> str:
        """Where reading goes on after a position; from the oldest record held if there is none."""

    def read(self, shard: str, iterator: str) -> Page:
        """The next records of a shard. Raises Throttled, and Expired if the iterator does not hold any more."""
