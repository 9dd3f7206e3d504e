"""The compute worker: raw topics in, feature log out, restartable at any moment.

Where it stands is in its own output: the last commit of topic `windows` names the offsets up to which each raw stream
was read. The verdict state (clocks, recent ids) is saved to a checkpoint file now and then; after a restart the worker
loads it and judges the events between checkpoint and last commit again without any output, which gives the same state.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Container
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headrace.core.errors import LogError
from headrace.core.events import EventBlock, concat_blocks, decode_block
from headrace.core.time import MAX_US
from headrace.engines.stream.commits import (
    DEAD_LETTERS,
    WINDOWS,
    CommitHead,
    decode_head,
    encode_commit,
    encode_dead_letters,
)
from headrace.engines.stream.engine import RawChunk, StreamEngine
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.features.plan import ProjectPlan, StreamPlan

_CHECKPOINT_EVERY = 500_000


class _SavedPartition(msgspec.Struct, array_like=True):
    clock_us: int
    swept_us: int
    ids: list[Any]
    clocks: list[int]


class _Checkpoint(msgspec.Struct):
    positions: dict[str, list[int]]
    states: dict[str, list[_SavedPartition]]


class ComputeWorker:
    """Reads every raw stream of a project, computes, and appends commits to the feature log.

    One worker per project at a time (the caller holds the lock). `step` is the unit of work; killing the process
    between or inside steps loses nothing and doubles nothing.
    """

    def __init__(self, plan: ProjectPlan, raw: EventLog, features: EventLog, checkpoint: Path) -> None:
        self.plan = plan
        self._raw = raw
        self._features = features
        self._file = checkpoint
        self._engine = StreamEngine(plan)
        for name in plan.streams:
            if name not in raw.topics():
                raw.create(name)
        features.create(WINDOWS)
        features.create(DEAD_LETTERS)
        self.positions: dict[str, list[int]] = {name: [0] * raw.topics()[name] for name in plan.streams}
        self.counted = 0
        self.dead = 0
        self._since_checkpoint = 0
        self._torn = False
        self._ahead: dict[tuple[str, int], deque[LogBatch]] = {}
        self._recover()

    def step(self, max_records: int = 50_000, *, until_us: int = MAX_US) -> int:
        """Process what has been appended since; returns how many raw events were read (0: caught up).

        `until_us` leaves events that were appended later for a later step.
        """
        if self._torn:
            # The last step failed between judging and appending: judge again, or its events would be duplicates.
            self._engine = StreamEngine(self.plan)
            self._ahead.clear()
            self._recover()
            self._torn = False
        chunks: dict[str, list[RawChunk]] = {}
        read = 0
        for name, positions in self.positions.items():
            for partition, position in enumerate(positions):
                batches = self._take(name, partition, position, max_records, until_us)
                if batches:
                    chunk = _chunk(
                        self.plan.streams[name], partition, position, batches, only=self._engine.fields(name)
                    )
                    chunks.setdefault(name, []).append(chunk)
                    read += chunk.block.n
        if not read:
            return 0
        self._torn = True
        output = self._engine.process(chunks, self.positions)
        items = [Append(WINDOWS, 0, encode_commit(output.commit))]
        if output.dead:
            items.append(Append(DEAD_LETTERS, 0, encode_dead_letters(output.dead), len(output.dead)))
        self._features.append(items)
        self._torn = False
        self.positions = output.commit.positions
        self.counted += output.counted
        self.dead += len(output.dead)
        self._since_checkpoint += read
        if self._since_checkpoint >= _CHECKPOINT_EVERY:
            self.checkpoint()
        return read

    def _take(self, name: str, partition: int, position: int, max_records: int, until_us: int) -> list[LogBatch]:
        """The next batches of a partition; what was read but is not due yet is kept for later."""
        ahead = self._ahead.setdefault((name, partition), deque())
        if not ahead:
            ahead.extend(self._raw.read(name, partition, position, max_records))
        taken: list[LogBatch] = []
        while ahead and ahead[0].arrival_us <= until_us:
            taken.append(ahead.popleft())
        return taken

    def checkpoint(self) -> None:
        """Save the verdict state, so that a restart has little to judge again. Atomic: written beside, then renamed."""
        states = {
            name: [
                _SavedPartition(s.clock_us, s.swept_us, list(s.seen.keys()), list(s.seen.values())) for s in partitions
            ]
            for name, partitions in self._engine.states.items()
        }
        data = msgspec.msgpack.encode(_Checkpoint(self.positions, states))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        beside = self._file.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._file)
        self._since_checkpoint = 0

    def lag(self) -> dict[str, int]:
        """Events appended but not computed yet, by stream."""
        return {
            name: sum(self._raw.end(name, p) - position for p, position in enumerate(positions))
            for name, positions in self.positions.items()
        }

    def _recover(self) -> None:
        committed = committed_positions(self._features)
        begin: dict[str, list[int]] = {}
        if committed and self._file.exists():
            saved = msgspec.msgpack.decode(self._file.read_bytes(), type=_Checkpoint)
            begin = saved.positions
            for name, partitions in saved.states.items():
                if name not in self.plan.streams:
                    continue
                for state, kept in zip(self._engine.state(name, len(partitions)), partitions, strict=True):
                    state.clock_us, state.swept_us = kept.clock_us, kept.swept_us
                    state.seen = dict(zip(kept.ids, kept.clocks, strict=True))
        for name, target in committed.items():
            if name not in self.plan.streams:
                continue
            for partition, end in enumerate(target):
                at = begin.get(name, [0] * len(target))[partition]
                if at > end:
                    raise LogError(
                        f"the checkpoint of stream {name} is at offset {at}, past the feature log's {end}; "
                        f"the feature log was replaced: delete {self._file} and start again"
                    )
                self._judge_again(name, partition, at, end)
            self.positions[name] = list(target)

    def _judge_again(self, name: str, partition: int, at: int, end: int) -> None:
        stream = self.plan.streams[name]
        state = self._engine.state(name, len(self.positions[name]))[partition]
        while at < end:
            batches = self._raw.read(name, partition, at, min(50_000, end - at))
            chunk = _chunk(stream, partition, at, batches, end, only=self._engine.fields(name))
            state.judge(stream, chunk.block, chunk.arrivals)
            at += chunk.block.n


def committed_positions(features: EventLog) -> dict[str, list[int]]:
    """Up to where stream compute has read each raw stream, from the feature log itself."""
    last = features.last(WINDOWS, 0) if WINDOWS in features.topics() else None
    return decode_head(last.payload).positions if last is not None else {}


def read_heads(features: EventLog, offset: int, max_commits: int) -> list[tuple[LogBatch, CommitHead]]:
    """Commits from `offset` on, without their deltas, with the batches that hold them."""
    return [(b, decode_head(b.payload)) for b in features.read(WINDOWS, 0, offset, max_commits)]


def _chunk(
    stream: StreamPlan,
    partition: int,
    position: int,
    batches: list[LogBatch],
    end: int | None = None,
    *,
    only: Container[str],
) -> RawChunk:
    """The events from `position` on (up to `end`, exclusive), with the fields in `only`."""
    spans: list[tuple[LogBatch, int, int]] = []
    for batch in batches:
        start = max(position - batch.base, 0)
        stop = batch.count if end is None else min(batch.count, end - batch.base)
        if stop > start:
            spans.append((batch, start, stop))
    arrivals = np.empty(sum(stop - start for _, start, stop in spans), np.int64)
    at = 0
    for batch, start, stop in spans:
        arrivals[at : at + stop - start] = batch.arrival_us
        at += stop - start
    base = max(position, batches[0].base)
    return RawChunk(partition, base, _decoded(stream, spans, only), arrivals, lambda: _decoded(stream, spans, None))


def _decoded(stream: StreamPlan, spans: list[tuple[LogBatch, int, int]], only: Container[str] | None) -> EventBlock:
    blocks = []
    for batch, start, stop in spans:
        block = decode_block(batch.payload, stream.schema, only)
        blocks.append(block if (start, stop) == (0, block.n) else block.slice(start, stop))
    return concat_blocks(blocks)
