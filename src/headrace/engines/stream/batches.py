"""Batches of raw topics that cannot be read, once judged: verdicts stand, whatever becomes of the bytes.

A batch that could not be read is a dead letter even if its bytes were mended since, or what its letter publishes again
would find its own ids counted. And events that counted are not left out because a disk has spoilt them since: nobody
goes on without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from headrace.core.errors import LogError
from headrace.core.events import Malformed
from headrace.core.unreadable import WITH_BATCH, is_whole_batch, keeps_batch, kept_of
from headrace.engines.stream.commits import DEAD_LETTERS, decode_dead_letters
from headrace.engines.stream.engine import RawChunk
from headrace.engines.stream.verdicts import DEAD
from headrace.eventlog.base import EventLog

_READ = 10_000

Spans = dict[tuple[str, int], list[tuple[int, int]]]
"""By stream and partition, the offsets from and to (exclusive)."""


def set_aside(features: EventLog) -> Spans:
    """The batches that became dead letters as a whole."""
    found: Spans = {}
    at = features.begin(DEAD_LETTERS, 0)
    while batches := features.read(DEAD_LETTERS, 0, at, _READ):
        for batch in batches:
            for letter in decode_dead_letters(batch.payload) if keeps_batch(batch.payload) else ():
                if is_whole_batch(letter.reason):
                    end = letter.offset + kept_of(letter.payload).events
                    found.setdefault((letter.stream, letter.partition), []).append((letter.offset, end))
        at = batches[-1].end
    return found


def as_judged(chunk: RawChunk, stream: str, spans: Spans) -> RawChunk:
    """Events that were judged before, with those dead that were set aside with their batch.

    Raises LogError if others cannot be read any more.
    """
    n = chunk.block.n
    dead = np.zeros(n, np.bool_)
    for begin, end in spans.get((stream, chunk.partition), ()):
        dead[max(begin - chunk.base, 0) : max(end - chunk.base, 0)] = True
    check_readable(
        ((bad.row, bad.reason) for bad in chunk.block.malformed if not dead[bad.row]),
        {}, stream, chunk.partition, chunk.base,
    )  # fmt: skip
    if not dead.any():
        return chunk
    bad = [one for one in chunk.block.malformed if not dead[one.row]]
    bad += [Malformed(row, "", WITH_BATCH, b"") for row in np.flatnonzero(dead).tolist()]
    block = replace(chunk.block, malformed=sorted(bad, key=lambda one: one.row))
    return replace(chunk, block=block)


def check_readable(
    malformed: Iterable[tuple[int, str]], codes: Mapping[int, int], stream: str, partition: int, base: int
) -> None:
    """Raise LogError if one of the rows (row, reason) stands in a batch that cannot be read and has another verdict.

    `codes` are the verdicts by offset of what did not count.
    """
    for row, reason in malformed:
        if (reason == WITH_BATCH or is_whole_batch(reason)) and codes.get(base + row) != DEAD:
            raise LogError(
                f"topic {stream}, partition {partition}, offset {base + row}: this event was computed, and cannot be "
                "read any more; nothing behind it is taken: restore the log from a backup, or bring this batch back "
                "from another copy of it"
            )
