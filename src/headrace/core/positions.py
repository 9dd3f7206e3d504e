"""Positions: which part of the logs a value reflects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec


class Position(msgspec.Struct, frozen=True):
    """What the online store reflects at one moment.

    Attributes:
        streams: per raw stream, the first offset *not* reflected in each of its partitions.
        tables: the first offset of the topic of table rows that is not reflected.
        windows: the first offset of the topic of window deltas that is not reflected.
        clock_us: N(p), the greatest partition clock per raw stream (design 4.3).
    """

    streams: dict[str, list[int]]
    tables: int
    windows: int
    clock_us: dict[str, int]

    def covers(self, other: Mapping[str, list[int]]) -> bool:
        """True if every stream offset is at or past that of `other`."""
        return all(
            name in self.streams and all(a >= b for a, b in zip(self.streams[name], offsets, strict=True))
            for name, offsets in other.items()
        )


def snapshot_name(streams: Mapping[str, Sequence[int]], tables: int) -> str:
    """16 hex digits for what was read: per raw stream, and for table rows, the first offset that was not known.

    Equal names are equal positions.
    """
    position = repr((sorted((name, list(ends)) for name, ends in streams.items()), tables))
    return hashlib.blake2b(position.encode(), digest_size=8).hexdigest()


EMPTY_POSITION = Position(streams={}, tables=0, windows=0, clock_us={})
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Position)


def encode_position(position: Position) -> bytes:
    """Return the stored form."""
    return _encoder.encode(position)


def decode_position(data: bytes) -> Position:
    """Read what `encode_position` wrote; empty bytes are the position before everything."""
    return _decoder.decode(data) if data else EMPTY_POSITION
