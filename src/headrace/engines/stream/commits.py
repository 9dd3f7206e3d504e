"""Compute commits: the records of topic `windows` of the feature log.

One commit is what one step of stream compute brought: how far it read each raw stream (its own position: the last
commit says where to go on), the clocks, which events did not count, and per group the deltas of the entities that were
touched. It is appended as one record batch, so output and position are durable together or not at all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.core.errors import LogError

WINDOWS = "windows"
TABLES = "tables"
DEAD_LETTERS = "dead_letters"


class StreamSpan(msgspec.Struct, array_like=True, gc=False):
    """Offsets `begin` to `end` (exclusive) per partition of a raw stream, and each partition's clock at `end`.

    `exceptions` lists (partition, offset, verdict code) of the events in between that did not count.
    """

    begin: list[int]
    end: list[int]
    clocks_us: list[int]
    exceptions: list[tuple[int, int, int]] = []


class GroupDelta(msgspec.Struct, array_like=True, gc=False):
    """New events of one group, entity by entity.

    `keys` are entity bytes; `counts` says how many events each has. The byte fields are little-endian int64 arrays:
    `clocks` (the greatest clock of a partition at one of the entity's events) and `positions` (entities x partitions)
    by entity, `times`, `columns`, `offsets`, `partitions` by event. `ids` is None unless ties of event time matter.
    Columns of texts hold their numbers in `texts`, which are sorted.
    """

    keys: list[bytes]
    counts: list[int]
    clocks: bytes
    positions: bytes
    times: bytes
    columns: list[bytes]
    offsets: bytes
    partitions: bytes
    ids: list[Any] | None = None
    texts: list[str] = []


class Commit(msgspec.Struct, gc=False):
    """One step of stream compute; see the module's docstring.

    `positions` are the worker's positions after it in every stream, also those it did not touch; `streams` the spans
    that it read; `groups` is keyed by the group's version; `null_keys` counts events that belong to nobody.
    """

    format: int
    positions: dict[str, list[int]]
    streams: dict[str, StreamSpan]
    groups: dict[str, GroupDelta]
    null_keys: int = 0


class CommitHead(msgspec.Struct, array_like=True, gc=False):
    """A commit without its deltas, for readers of raw events; it is stored first, so that they decode nothing else."""

    format: int
    positions: dict[str, list[int]]
    streams: dict[str, StreamSpan]


class DeadLetter(msgspec.Struct):
    """An event that was set aside: where it stands, which field is at fault, why, and what was sent (JSON)."""

    stream: str
    partition: int
    offset: int
    field: str
    reason: str
    arrival_us: int
    payload: bytes


@dataclass(slots=True)
class StepOutput:
    """What a step of the engine made: a commit and the dead letters that belong to it."""

    commit: Commit
    dead: list[DeadLetter] = field(default_factory=list)
    counted: int = 0


FORMAT = 2
_encoder = msgspec.msgpack.Encoder()
_length = struct.Struct("<I")
_bodies = msgspec.msgpack.Decoder(tuple[dict[str, GroupDelta], int])
_heads = msgspec.msgpack.Decoder(CommitHead)
_letters = msgspec.msgpack.Decoder(list[DeadLetter])


def encode_commit(commit: Commit, body: bytes | None = None) -> bytes:
    """Stored form of a commit: length of the head (uint32, little-endian), the head, the deltas.

    `body`: what `encode_body` made of this commit before its head changed.
    """
    head = _encoder.encode(CommitHead(commit.format, commit.positions, commit.streams))
    return b"".join([_length.pack(len(head)), head, encode_body(commit) if body is None else body])


def encode_body(commit: Commit) -> bytes:
    """Stored form of the deltas."""
    return _encoder.encode((commit.groups, commit.null_keys))


def decode_commit(payload: bytes) -> Commit:
    """Read what `encode_commit` wrote. Raises LogError as `decode_head` does."""
    head, end = decode_head(payload), 4 + _length.unpack_from(payload)[0]
    groups, null_keys = _bodies.decode(memoryview(payload)[end:])
    return Commit(head.format, head.positions, head.streams, groups, null_keys)


def decode_head(payload: bytes) -> CommitHead:
    """Read positions, spans and verdicts of a commit only. Raises LogError if another version wrote it."""
    data = memoryview(payload)[4 : 4 + _length.unpack_from(payload)[0]]
    try:
        head = _heads.decode(data)
        written = head.format
    except msgspec.ValidationError:
        # Of another shape: all that is known of it is that the format comes first.
        written = msgspec.msgpack.decode(data)[0]
    if written != FORMAT:
        raise LogError(
            f"the feature log holds a commit of format {written}, this version reads {FORMAT}: compute it again "
            "from the raw topics, or read it with the version that wrote it"
        )
    return head


def encode_dead_letters(letters: list[DeadLetter]) -> bytes:
    """Stored form of a batch of dead letters."""
    return _encoder.encode(letters)


def decode_dead_letters(payload: bytes) -> list[DeadLetter]:
    """Read what `encode_dead_letters` wrote."""
    return _letters.decode(payload)
