"""The compute worker: raw topics in, feature log out, restartable at any moment.

Where it stands is in its own output: the last commit of topic `windows` names the offsets up to which each raw stream
was read. The verdict state (clocks, recent ids) is saved to a checkpoint now and then; after a restart the worker
loads it and judges the events between checkpoint and last commit again without any output, which gives the same state.

Several workers may share the partitions out. Each reads and judges its own, and puts its commits at the end of the one
topic: before an append it has taken in every commit below, so a commit continues from those of all workers, and the
topic reads as if one worker had written it. An append that another worker has forestalled is refused by the log and
made again; a worker whose own partition another one has moved has lost it, and writes nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from headrace.core.derived import decode_derived
from headrace.core.errors import LogError, LogMoved
from headrace.core.events import EventBlock, concat_blocks, decode_block
from headrace.core.time import MAX_US, NULL_US
from headrace.engines.stream.batches import as_judged, set_aside
from headrace.engines.stream.checkpoints import (
    FileCheckpoint,
    LogCheckpoint,
    Place,
    Saved,
    load_all,
    save_shares,
    saved,
)
from headrace.engines.stream.commits import (
    DEAD_LETTERS,
    WINDOWS,
    CommitHead,
    StepOutput,
    decode_head,
    encode_body,
    encode_commit,
    encode_dead_letters,
)
from headrace.engines.stream.engine import RawChunk, StreamEngine
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.checks import decoding
from headrace.features.plan import ProjectPlan, StreamPlan

_CHECKPOINT_EVERY = 500_000
_HEADS_AT_ONCE = 100
_logger = logging.getLogger(__name__)


class ComputeWorker:
    """Reads the streams of a project, raw and derived, computes, and appends commits to the feature log.

    `step` is the unit of work; killing the process between or inside steps loses nothing and doubles nothing.
    `partitions` is for topics that do not exist yet. Without `shares` it has all partitions to itself, and a commit of
    another worker is an error (LogMoved). With them it works beside others: share n is partition n of every raw stream,
    share 0 all partitions of derived ones as well. Who has which share is not decided here; two workers that take the
    same one hinder each other (LogMoved) and write nothing twice.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        raw: EventLog,
        features: EventLog,
        checkpoint: Path,
        *,
        partitions: int = 1,
        shares: Collection[int] | None = None,
    ) -> None:
        self.plan = plan
        self.shares = None if shares is None else frozenset(shares)
        self._raw = raw
        self._features = features
        self._file = checkpoint
        self._logged = {share: LogCheckpoint(features, share) for share in self.shares or ()}
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

    def owns(self, topic: str, partition: int) -> bool:
        """True if this worker reads the partition."""
        return self.shares is None or self._share_of(topic, partition) in self.shares

    def step(self, max_records: int = 50_000, *, until_us: int = MAX_US, only: Collection[str] | None = None) -> int:
        """Process what has been appended since; returns how many events were read (0: caught up).

        `until_us` leaves events that were appended later for a later step, `only` those of other streams.
        """
        self._mend()
        self._take_in_others()
        chunks: dict[str, list[RawChunk]] = {}
        read = 0
        try:
            for name, positions in self.positions.items():
                if only is not None and name not in only:
                    continue
                for partition, position in enumerate(positions):
                    if not self.owns(name, partition):
                        continue
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
        self._commit(output)
        self._torn = False
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

    def _commit(self, output: StepOutput) -> None:
        """Append what a step has made, after the commits of all other workers."""
        commit, dead, own = output.commit, output.dead, output.commit.positions
        body = encode_body(commit)
        letters = [Append(DEAD_LETTERS, 0, encode_dead_letters(dead), len(dead))] if dead else []
        while True:
            commit.positions = {**self._others, **own}
            item = Append(WINDOWS, 0, encode_commit(commit, body), base=self._end)
            try:
                self._end = self._features.append([item, *letters])[0] + 1
            except LogMoved:
                # Without shares there is nobody else who may write here.
                if not self._take_in_others():
                    raise
                own = {name: self._with_mine(name, positions) for name, positions in own.items()}
                for name, span in commit.streams.items():
                    span.begin = self._with_mine(name, span.begin)
                    span.end = own[name]
                    span.clocks_us = [state.clock_us for state in self._engine.states[name]]
            else:
                self.positions = own
                return

    def _with_mine(self, name: str, offsets: list[int]) -> list[int]:
        """`offsets` where the partition is this worker's, else where the others have come to."""
        known = self.positions[name]
        return [at if self.owns(name, p) else known[p] for p, at in enumerate(offsets)]

    def _take_in_others(self) -> bool:
        """Take in the commits of the other workers; True if there were any.

        Raises LogMoved if one of them has computed what is this worker's.
        """
        if self.shares is None:
            return False
        found = False
        while heads := read_heads(self._features, self._end, _HEADS_AT_ONCE):
            for batch, head in heads:
                for name, span in head.streams.items():
                    if name in self.positions:
                        self._take_in(name, span.begin, span.end, span.clocks_us)
                for name, positions in head.positions.items():
                    if name in self.positions:
                        self.positions[name] = [
                            at if self.owns(name, p) else positions[p] for p, at in enumerate(self.positions[name])
                        ]
                    else:
                        self._others[name] = positions
                self._end, found = batch.end, True
        return found

    def _take_in(self, name: str, begin: list[int], end: list[int], clocks_us: list[int]) -> None:
        states = self._engine.state(name, len(end))
        for partition, (low, high) in enumerate(zip(begin, end, strict=True)):
            if self.owns(name, partition):
                if low != high:
                    self._torn = True
                    raise LogMoved(
                        f"another worker has computed partition {partition} of {name} up to {high}: it has taken over "
                        "this one's share"
                    )
            else:
                states[partition].clock_us = clocks_us[partition]

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
        """Save the verdict state, so that a restart has little to judge again; each save is whole or not there.

        Does nothing where the last step failed between judging and appending: its events are judged again.
        """
        if self._torn:
            return
        parts = {
            (name, partition): saved(self.positions[name][partition], state)
            for name, states in self._engine.states.items()
            for partition, state in enumerate(states)
            if self.owns(name, partition)
        }
        if self.shares is None:
            FileCheckpoint(self._file).save(parts)
        else:
            by_share: dict[int, dict[Place, Saved]] = {}
            for place, part in parts.items():
                by_share.setdefault(self._share_of(*place), {})[place] = part
            save_shares(self._features, self._logged, by_share)
        self._since_checkpoint = 0

    def _share_of(self, topic: str, partition: int) -> int:
        return partition if topic in self.plan.streams else 0

    def lag(self) -> dict[str, int]:
        """Events appended but not computed yet, by stream; of this worker's partitions."""
        return {
            name: sum(self._raw.end(name, p) - at for p, at in enumerate(positions) if self.owns(name, p))
            for name, positions in self.positions.items()
        }

    def _recover(self) -> None:
        # The end first: a commit of another worker that comes in between is found out by the next append.
        self._end = self._features.end(WINDOWS, 0)
        committed = _positions_at(self._features, self._end)
        known = self._saved() if committed or self.shares is not None else {}
        clocks = clocks_at(self._features, self._end, committed) if self.shares is not None else {}
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
            states = self._engine.state(name, held)
            for partition, end in enumerate(target):
                if not self.owns(name, partition):
                    states[partition].clock_us = clocks[name][partition] if name in clocks else NULL_US
                    continue
                part = known.get((name, partition))
                if part is not None and part.logged and part.at > end:
                    part = None  # of another side, which has come further
                at = self._raw.begin(name, partition) if part is None else part.at
                if at > end:
                    raise LogError(
                        f"the checkpoint of stream {name} is at offset {at}, past the feature log's {end}; "
                        f"the feature log was replaced: delete {self._file} and start again"
                    )
                if part is not None:
                    part.restore(states[partition])
                self._judge_again(name, partition, at, end)
            self.positions[name] = list(target)

    def _saved(self) -> dict[Place, Saved]:
        """What was saved. What cannot be read is not needed where the raw topics are whole: all is judged again."""
        logged = None if self.shares is None else self._logged.values()
        try:
            return load_all(self._file, self._features, logged)
        except LogError as error:
            if any(self._raw.begin(name, p) for name, found in self.positions.items() for p in range(len(found))):
                raise
            _logger.warning("all that the raw topics hold is judged again: %s", error)
            return {}

    def _judge_again(self, name: str, partition: int, at: int, end: int) -> None:
        stream = self._streams[name]
        state = self._engine.state(name, len(self.positions[name]))[partition]
        spans = set_aside(self._features) if at < end else {}
        while at < end:
            batches = self._raw.read(name, partition, at, min(50_000, end - at))
            chunk = self._chunk(name, partition, at, batches, end)
            if chunk.codes is None:
                chunk = as_judged(chunk, name, spans)
            self._engine.verdicts(stream, state, chunk)
            at += chunk.block.n
            self._since_checkpoint += chunk.block.n

    def _chunk(
        self, name: str, partition: int, position: int, batches: list[LogBatch], end: int | None = None
    ) -> RawChunk:
        fields = self._engine.fields(name)
        if name in self.plan.derived:
            return derived_chunk(self._streams[name], partition, position, batches, end, only=fields)
        return _chunk(self._streams[name], partition, position, batches, end, only=fields)


def committed_positions(features: EventLog) -> dict[str, list[int]]:
    """Up to where stream compute has read each raw stream, from the feature log itself."""
    last = features.last(WINDOWS, 0) if WINDOWS in features.topics() else None
    if last is None:
        return {}
    with decoding(last):
        return decode_head(last.payload).positions


def _positions_at(features: EventLog, end: int) -> dict[str, list[int]]:
    """The positions after the commits below an offset."""
    heads = read_heads(features, end - 1, 1) if end > features.begin(WINDOWS, 0) else []
    return heads[0][1].positions if heads else {}


def clocks_at(features: EventLog, end: int, streams: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The clock of each partition of `streams` after the commits below an offset: each stream's last commit says them.

    `streams` gives the positions there; one that stands at nothing but zeros has no clock.
    """
    found: dict[str, list[int]] = {}
    wanted = {name for name, offsets in streams.items() if any(offsets)}
    at = end
    while at > features.begin(WINDOWS, 0) and not wanted <= found.keys():
        begin = max(at - _HEADS_AT_ONCE, features.begin(WINDOWS, 0))
        for _, head in reversed(read_heads(features, begin, at - begin)):
            for name, span in head.streams.items():
                found.setdefault(name, span.clocks_us)
        at = begin
    return found


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
            block = decode_block(batch.payload, stream.schema, only, count=batch.count)
        blocks.append(block if (start, stop) == (0, block.n) else block.slice(start, stop))
    return concat_blocks(blocks)
