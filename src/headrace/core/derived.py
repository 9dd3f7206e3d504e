"""Blocks of derived records: what deriving writes to the topic of a logged derived stream.

MessagePack `[1, commits, position, arrivals, counts, exceptions, block]`. A record stands at the partition and offset
of the event that it was derived from and keeps its arrival (runs of `counts` records that arrived together) and its
verdict (`exceptions` lists `[row, code]` of what does not count, `OUTSIDE` among it: events that the condition of the
stream leaves out). `position` is what the look-ups of the whole block saw of the logs, and `commits` the offset in
topic `windows` from which deriving goes on; so output and progress are one record. `block` holds the fields and the
derived columns (`core.events`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from headrace.core.columns import IntArray
from headrace.core.errors import SchemaError
from headrace.core.positions import Position, decode_position, encode_position

OUTSIDE = 4
"""The verdict, beside those of stream compute, on an event that the condition of a derived stream leaves out."""

_FORMAT = 1
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, int, bytes, list[int], list[int], list[tuple[int, int]], bytes]).decode


@dataclass(slots=True)
class DerivedBatch:
    """Derived records of one partition.

    Attributes:
        commits: first offset of topic `windows` that deriving has not dealt with.
        position: what the look-ups saw.
        arrivals: int64 [n], when the source events arrived.
        exceptions: rows that do not count, with their verdicts.
        block: bytes of an event block of n rows.
    """

    commits: int
    position: Position
    arrivals: IntArray
    exceptions: list[tuple[int, int]] = field(default_factory=list)
    block: bytes = b""

    def codes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Verdicts of all rows, uint8 [n]."""
        codes = np.zeros(len(self.arrivals), np.uint8)
        for row, code in self.exceptions:
            codes[row] = code
        return codes


def encode_derived(batch: DerivedBatch) -> bytes:
    """Return the stored bytes."""
    arrivals = batch.arrivals
    starts = np.concatenate([[0], np.flatnonzero(arrivals[1:] != arrivals[:-1]) + 1]) if len(arrivals) else np.zeros(0)
    starts = starts.astype(np.int64)
    counts = np.diff(np.append(starts, len(arrivals)))
    return _pack(
        [
            _FORMAT,
            batch.commits,
            encode_position(batch.position),
            arrivals[starts].tolist(),
            counts.tolist(),
            batch.exceptions,
            batch.block,
        ]
    )


def decode_derived(payload: bytes) -> DerivedBatch:
    """Read what `encode_derived` wrote; raises SchemaError if the bytes are something else."""
    try:
        version, commits, position, arrivals, counts, exceptions, block = _unpack(payload)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise SchemaError(f"not a batch of derived records: {error}") from None
    if version != _FORMAT:
        raise SchemaError(f"a batch of derived records has format {version}; this version reads format {_FORMAT}")
    stamps = np.repeat(np.array(arrivals, np.int64), counts)
    return DerivedBatch(commits, decode_position(position), stamps, exceptions, block)
