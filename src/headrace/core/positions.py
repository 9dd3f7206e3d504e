"""Positions: which part of the logs a value reflects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the online store reflects at one moment.

    Attributes:
        streams: per raw stream, the first offset *not* reflected in each of its partitions.
        tables: the first offset of the topic of table rows that is not reflected.
        windows: the first offset of the topic of window deltas that is not reflected.
        clock_us: N(p), the greatest partition clock per raw stream. Of a stream that a view reads in scheduled groups
            alone, that of the newest of these.
        groups: per version of a scheduled group, the first offset *not* reflected in each partition of its stream. All
            other groups stand where their streams do, and take no room here.
    """

    streams: dict[str, list[int]]
    tables: int
    windows: int
    clock_us: dict[str, int]
    groups: dict[str, list[int]] = {}

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


class GroupState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the records of a group's version have come that are not brought by stream compute.

    Attributes:
        at: per partition of its stream, the first offset that is not merged.
        target: the end of the piece that is being merged beside what is served; None between pieces.
        clock_us: N(at), the greatest clock of the stream's partitions; None where nothing is merged.
        clocks_us: the clock of each partition, where these are known.
        run_us: when a scheduled group was brought up to date last.
        since_us, since_at: of the events below the offsets `since_at`, those before `since_us` were left out, since no
            window reached them; None if all were merged.
    """

    at: list[int]
    target: list[int] | None = None
    clock_us: int | None = None
    run_us: int | None = None
    clocks_us: list[int] | None = None
    since_us: int | None = None
    since_at: list[int] | None = None


_states = msgspec.msgpack.Decoder(GroupState)


def state_key(version: str) -> bytes:
    """Where the state of a group's version lies in the online store."""
    # No record's key begins like this: key parts begin with a letter, and a group without a key has 8 bytes.
    return b"\xff\xffstate" + version.encode()


def encode_state(state: GroupState) -> bytes:
    """Return the stored form."""
    return _encoder.encode(state)


def decode_state(data: bytes | None) -> GroupState | None:
    """Read what `encode_state` wrote; None of nothing."""
    return None if data is None else _states.decode(data)
