"""The compute worker: raw topics in, feature log out, restartable at any moment.

Where it stands is in its own output: the last commit of topic `windows` names the offsets up to which each raw stream
was read. The verdict state (clocks, recent ids) is saved to a checkpoint file now and then; after a restart the worker
loads it and judges the events between checkpoint and last commit again without any output, which gives the same state.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headrace.core.derived import decode_derived
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
from headrace.eventlog.checks import decoding
from headrace.features.plan import ProjectPlan, StreamPlan

_CHECKPOINT_EVERY = 500_000
_CHECKPOINT_FORMAT = 1
_logger = logging.getLogger(__name__)


class _SavedPartition(msgspec.Struct, array_like=True):
    clock_us: int
    swept_us: int
    ids: list[Any]
    clocks: list[int]


class _Checkpoint(msgspec.Struct):
    positions: dict[str, list[int]]
    states: dict[str, list[_SavedPartition]]
    format: int = 1


class _Numbered(msgspec.Struct):
    format: int = 1


def checkpoint_positions(file: Path) -> dict[str, list[int]]:
    """Offsets by stream and partition below which a restart reads nothing again; empty if there is no checkpoint.

    Raises LogError if it is damaged, or of another format.
    """
    saved = _load(file)
    return {} if saved is None else saved.positions


def _load(file: Path) -> _Checkpoint | None:
    try:
        data = file.read_bytes()
        # The number first: what another format holds may be of another shape.
        written = msgspec.msgpack.decode(data, type=_Numbered).format
        if written == _CHECKPOINT_FORMAT:
            return msgspec.msgpack.decode(data, type=_Checkpoint)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise LogError(
            f"the checkpoint {file} is damaged ({error}): delete it, and compute judges again what the raw topics "
            "still hold; of events that were dropped from them (retention) it no longer knows the ids"
        ) from None
    raise LogError(
        f"{file} has format {written}, this version reads {_CHECKPOINT_FORMAT}: run compute by the version that "
        "wrote it; or delete it, and all that the raw topics still hold is judged again"
    )


def checkpoint_ids(file: Path) -> dict[str, list[Any]]:
    """The ids by stream that a checkpoint remembers; empty if there is none. Raises as `checkpoint_positions`."""
    saved = _load(file)
    states = {} if saved is None else saved.states
    return {name: [id for state in partitions for id in state.ids] for name, partitions in states.items()}


def replace_ids(file: Path, ids: Mapping[str, Mapping[Any, Any]]) -> int:
    """Put other ids in the place of some that a checkpoint remembers, by stream; returns how many. Atomic."""
    saved, found = _load(file), 0
    if saved is None:
        return 0
    for name, partitions in saved.states.items():
        new = ids.get(name, {})
        for state in partitions:
            found += sum(id in new for id in state.ids)
            state.ids = [new.get(id, id) for id in state.ids]
    if found:
        _store(file, saved)
    return found


class ComputeWorker:
    """Reads every stream of a project, raw and derived, computes, and appends commits to the feature log.

    One worker per project at a time (the caller holds the lock). `step` is the unit of work; killing the process
    between or inside steps loses nothing and doubles nothing. `partitions` is for topics that do not exist yet.
    """

    def __init__(
        self, plan: ProjectPlan, raw: EventLog, features: EventLog, checkpoint: Path, *, partitions: int = 1
    ) -> None:
        self.plan = plan
        self._raw = raw
        self._features = features
        self._file = checkpoint
        self._engine = StreamEngine(plan)
        self._streams = plan.topics()
        for name in self._streams:
            if name not in raw.topics():
                raw.create(name, raw.topics().get(plan.root(name), partitions))
        features.create(WINDOWS)
        features.create(DEAD_LETTERS)
        # A topic may have lost its beginning before anybody computed it.
        self.positions: dict[str, list[int]] = {
            name: [raw.begin(name, partition) for partition in range(raw.topics()[name])] for name in self._streams
        }
        # Of streams that are no longer declared: should one come back, it goes on from there.
        self._others: dict[str, list[int]] = {}
        self.counted = 0
        self.dead = 0
        self._since_checkpoint = 0
        self._torn = False
        self._ahead: dict[tuple[str, int], deque[LogBatch]] = {}
        # Where its next commit has to stand. Another worker, on another machine say, would have moved it.
        self._end = 0
        self._recover()

    def step(self, max_records: int = 50_000, *, until_us: int = MAX_US, only: Collection[str] | None = None) -> int:
        """Process what has been appended since; returns how many events were read (0: caught up).

        `until_us` leaves events that were appended later for a later step, `only` those of other streams.
        """
        self._mend()
        chunks: dict[str, list[RawChunk]] = {}
        read = 0
        try:
            for name, positions in self.positions.items():
                if only is not None and name not in only:
                    continue
                for partition, position in enumerate(positions):
                    batches = self._take(name, partition, position, max_records, until_us)
                    if batches:
                        chunk = self._chunk(name, partition, position, batches)
                        chunks.setdefault(name, []).append(chunk)
                        read += chunk.block.n
        except BaseException:
            self._ahead.clear()  # what was taken is read again
            raise
        if not read:
            return 0
        self._torn = True
        output = self._engine.process(chunks, self.positions)
        moved, output.commit.positions = output.commit.positions, {**self._others, **output.commit.positions}
        items = [Append(WINDOWS, 0, encode_commit(output.commit), base=self._end)]
        if output.dead:
            items.append(Append(DEAD_LETTERS, 0, encode_dead_letters(output.dead), len(output.dead)))
        self._end = self._features.append(items)[0] + 1
        self._torn = False
        self.positions = moved
        self._note(read, output.counted, len(output.dead))
        return read

    def follow(self, heads: Sequence[CommitHead]) -> int:
        """Make the next commits of exactly the spans that these commits of another worker have; returns how many.

        Dead letters are left to the one who is followed. Raises LogError if the commits do not go on from here.
        """
        self._mend()
        if not heads:
            return 0
        self._torn = True
        positions = {**self._others, **self.positions}
        items: list[Append] = []
        read = counted = dead = 0
        for head in heads:
            chunks: dict[str, list[RawChunk]] = {}
            for name, span in head.streams.items():
                if name not in self._streams or positions[name] != span.begin:
                    raise LogError(
                        f"a commit to follow reads stream {name} from {span.begin} on, but this worker stands at "
                        f"{positions.get(name, 'no such stream')}: it follows another log, or other definitions"
                    )
                chunks[name] = [
                    self._span(name, partition, begin, end)
                    for partition, (begin, end) in enumerate(zip(span.begin, span.end, strict=True))
                    if begin < end
                ]
            output = self._engine.process(chunks, positions)
            items.append(Append(WINDOWS, 0, encode_commit(output.commit), base=self._end + len(items)))
            positions = output.commit.positions
            read += sum(chunk.block.n for pieces in chunks.values() for chunk in pieces)
            counted, dead = counted + output.counted, dead + len(output.dead)
        self._end = self._features.append(items)[-1] + 1
        self._torn = False
        self.positions = {name: positions[name] for name in self.positions}
        self._note(read, counted, dead)
        return len(items)

    @property
    def end(self) -> int:
        """Where its next commit will stand."""
        self._mend()
        return self._end

    def _mend(self) -> None:
        if self._torn:
            # The last step failed between judging and appending: judge again, or its events would be duplicates.
            self._engine = StreamEngine(self.plan)
            self._ahead.clear()
            self._recover()
            self._torn = False

    def _note(self, read: int, counted: int, dead: int) -> None:
        self.counted += counted
        self.dead += dead
        self._since_checkpoint += read
        if self._since_checkpoint >= _CHECKPOINT_EVERY:
            self.checkpoint()

    def _span(self, name: str, partition: int, begin: int, end: int) -> RawChunk:
        batches: list[LogBatch] = []
        at = begin
        while at < end:
            batches += self._raw.read(name, partition, at, end - at)
            at = batches[-1].end
        return self._chunk(name, partition, begin, batches, end)

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
        """Save the verdict state, so that a restart has little to judge again. Atomic: written beside, then renamed.

        Does nothing where the last step failed between judging and appending: its events are judged again.
        """
        if self._torn:
            return
        states = {
            name: [
                _SavedPartition(s.clock_us, s.swept_us, list(s.seen.keys()), list(s.seen.values())) for s in partitions
            ]
            for name, partitions in self._engine.states.items()
        }
        _store(self._file, _Checkpoint(self.positions, states, _CHECKPOINT_FORMAT))
        self._since_checkpoint = 0

    def lag(self) -> dict[str, int]:
        """Events appended but not computed yet, by stream."""
        return {
            name: sum(self._raw.end(name, p) - position for p, position in enumerate(positions))
            for name, positions in self.positions.items()
        }

    def _recover(self) -> None:
        # The end first: a commit of another worker that comes in between is found out by the next append.
        self._end = self._features.end(WINDOWS, 0)
        committed = committed_positions(self._features)
        begin: dict[str, list[int]] = {}
        saved = self._saved() if committed else None
        if saved is not None:
            begin = saved.positions
            for name, partitions in saved.states.items():
                if name not in self._streams:
                    continue
                for state, kept in zip(self._engine.state(name, len(partitions)), partitions, strict=True):
                    state.clock_us, state.swept_us = kept.clock_us, kept.swept_us
                    state.seen = dict(zip(kept.ids, kept.clocks, strict=True))
        for name, target in committed.items():
            if name not in self._streams:
                self._others[name] = target
                continue
            held = len(self.positions[name])
            if held != len(target):
                raise LogError(
                    f"topic {name} has {held} partitions now, and had {len(target)} when it was last computed: "
                    f"keys and ids would change their partitions; publish to a stream of another name"
                )
            for partition, end in enumerate(target):
                at = begin[name][partition] if name in begin else self._raw.begin(name, partition)
                if at > end:
                    raise LogError(
                        f"the checkpoint of stream {name} is at offset {at}, past the feature log's {end}; "
                        f"the feature log was replaced: delete {self._file} and start again"
                    )
                self._judge_again(name, partition, at, end)
            self.positions[name] = list(target)

    def _saved(self) -> _Checkpoint | None:
        """The checkpoint. One that cannot be read is not needed where the raw topics are whole: all is judged again."""
        try:
            return _load(self._file)
        except LogError as error:
            if any(self._raw.begin(name, p) for name, found in self.positions.items() for p in range(len(found))):
                raise
            _logger.warning("all that the raw topics hold is judged again: %s", error)
            return None

    def _judge_again(self, name: str, partition: int, at: int, end: int) -> None:
        stream = self._streams[name]
        state = self._engine.state(name, len(self.positions[name]))[partition]
        while at < end:
            batches = self._raw.read(name, partition, at, min(50_000, end - at))
            chunk = self._chunk(name, partition, at, batches, end)
            self._engine.verdicts(stream, state, chunk)
            at += chunk.block.n

    def _chunk(
        self, name: str, partition: int, position: int, batches: list[LogBatch], end: int | None = None
    ) -> RawChunk:
        fields = self._engine.fields(name)
        if name in self.plan.derived:
            return derived_chunk(self._streams[name], partition, position, batches, end, only=fields)
        return _chunk(self._streams[name], partition, position, batches, end, only=fields)


def _store(path: Path, checkpoint: _Checkpoint) -> None:
    data, beside = msgspec.msgpack.encode(checkpoint), path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise LogError(
            f"the checkpoint {path} cannot be written ({error.strerror}); nothing is lost, the former one "
            "stands: free some space and start again"
        ) from error


def committed_positions(features: EventLog) -> dict[str, list[int]]:
    """Up to where stream compute has read each raw stream, from the feature log itself."""
    last = features.last(WINDOWS, 0) if WINDOWS in features.topics() else None
    if last is None:
        return {}
    with decoding(last):
        return decode_head(last.payload).positions


def read_heads(features: EventLog, offset: int, max_commits: int) -> list[tuple[LogBatch, CommitHead]]:
    """Commits from `offset` on, without their deltas, with the batches that hold them."""
    found = []
    for batch in features.read(WINDOWS, 0, offset, max_commits):
        with decoding(batch):
            found.append((batch, decode_head(batch.payload)))
    return found


def read_span(plan: ProjectPlan, raw: EventLog, topic: str, partition: int, begin: int, end: int) -> RawChunk:
    """The events `begin` to `end` (exclusive) of one partition of a raw or derived stream, with all of their fields."""
    stream = plan.stream(topic)
    batches: list[LogBatch] = []
    at = begin
    while at < end:
        batches += raw.read(topic, partition, at, end - at)
        at = batches[-1].end
    if topic in plan.derived:
        return derived_chunk(stream, partition, begin, batches, end)
    return _chunk(stream, partition, begin, batches, end, only=stream.schema.first_names)


def derived_chunk(
    stream: StreamPlan,
    partition: int,
    position: int,
    batches: list[LogBatch],
    end: int | None = None,
    *,
    only: Container[str] | None = None,
) -> RawChunk:
    """The derived records from `position` on (up to `end`, exclusive), with arrivals and verdicts of their sources."""
    held, blocks = [], []
    for batch in batches:
        if end is None or batch.base < end:
            with decoding(batch):
                held.append(decode_derived(batch.payload))
                blocks.append(decode_block(held[-1].block, stream.schema, only))
    block = concat_blocks(blocks)
    arrivals = np.concatenate([batch.arrivals for batch in held])
    codes = np.concatenate([batch.codes() for batch in held])
    start, stop = position - batches[0].base, block.n if end is None else min(end - batches[0].base, block.n)
    if (start, stop) != (0, block.n):
        block, arrivals, codes = block.slice(start, stop), arrivals[start:stop], codes[start:stop]
    return RawChunk(partition, position, block, arrivals, None, codes)


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
        with decoding(batch):
            block = decode_block(batch.payload, stream.schema, only)
        blocks.append(block if (start, stop) == (0, block.n) else block.slice(start, stop))
    return concat_blocks(blocks)
