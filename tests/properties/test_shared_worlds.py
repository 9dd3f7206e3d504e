"""Any number of compute workers that take shares from each other give what the oracle says, and one log."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.errors import LogMoved
from headrace.engines.stream.commits import WINDOWS, CommitHead
from headrace.engines.stream.worker import ComputeWorker, read_heads
from headrace.features.plan import GroupPlan, StreamPlan
from headrace.testing.oracle import RawEvent
from tests.properties.test_engine_vs_oracle import (
    HORIZONS_US,
    SEEDS,
    cases,
    group_row,
    judge,
    partitions_of,
    questions,
    start_of,
    step_at_random,
)
from tests.properties.world import SOME, World, batches, differing, group_view, project_of, served_at, shown


class Team:
    """Workers that share partitions out, and change their minds: some that have lost a share do not know it."""

    def __init__(self, start: Callable[[set[int]], ComputeWorker], partitions: int, rng: random.Random) -> None:
        self._start, self._rng, self._shares = start, rng, list(range(partitions))
        self._stale: list[ComputeWorker] = []
        self._deal()

    def _deal(self) -> None:
        """Give the shares to up to three new workers."""
        of = [self._rng.randrange(3) for _ in self._shares]
        self.workers = [self._start({s for s, w in zip(self._shares, of, strict=True) if w == n}) for n in set(of)]

    def checkpoint(self) -> None:
        for worker in self.workers:
            worker.checkpoint()

    def step(self, max_records: int = 50_000) -> int:
        """A step of some worker that has something to do, 0 if none has; now and then the shares are dealt anew."""
        rng = self._rng
        if rng.random() < 0.2:
            for worker in self.workers:
                if rng.random() < 0.5:
                    worker.checkpoint()
            self._stale = self._stale[-2:] + self.workers
            self._deal()
        turn = rng.sample(self.workers, len(self.workers))
        if self._stale and rng.random() < 0.4:
            turn.insert(0, rng.choice(self._stale))
        for worker in turn:
            try:
                done = worker.step(max_records)
            except LogMoved:
                done = 1  # it has lost a share, or another one had it for a while: there may be more
            if done:
                return done
        return 0


@dataclass
class SharedWorld(World):
    """A world that a team computes."""

    seed: int = 0

    def restart(self, checkpoint: bool = False) -> None:
        def start(shares: set[int]) -> ComputeWorker:
            return ComputeWorker(self.project, self.raw, self.features, self.folder / "checkpoint", shares=shares)

        super().restart(checkpoint)
        self.compute = Team(start, self.partitions, random.Random(self.seed))  # type: ignore[assignment]


@settings(max_examples=max(SOME.max_examples // 3, 1))
@given(cases(), HORIZONS_US, SEEDS, st.data())
def test_what_a_team_computes_is_what_the_oracle_says(
    case: tuple[StreamPlan, list[RawEvent], GroupPlan], horizon_us: int, seed: int, data: st.DataObject
) -> None:
    """Online answers given while workers came and went are the oracle's at their positions, and history as served."""
    stream, records, group = case
    keys, times = data.draw(questions(stream, records, group))
    rng = random.Random(seed)
    view, partitions = group_view(group), partitions_of(records)
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        world = SharedWorld(
            project_of(stream, group), partitions, start_of(records), horizon_us, Path(folder), seed=seed
        )
        for batch in batches(records, rng):
            world.publish(stream, batch)
            step_at_random(world, rng, restarts=True)
            if rng.random() < 0.1:
                answers.append(asked(world, view, keys, times))
        world.drain()
        answers.append(asked(world, view, keys, times))
        check_log(world, stream)
        events = judge(stream, records)
        for at, block in answers:
            again = world.history(view, keys, at, served_at(block.position, [stream.name], partitions, len(keys)))
            assert np.array_equal(again.valid, block.valid)
            assert np.array_equal(again.words, block.words)
            place = block.position.streams.get(stream.name, [0] * partitions)
            for row, (key, t) in enumerate(zip(keys, at, strict=True)):
                assert differing(shown(block, row), group_row(group, key, t, events, place)) == {}
        ends = [world.raw.end(stream.name, p) for p in range(partitions)]
        assert not any(ends) or answers[-1][1].position.streams[stream.name] == ends


def asked(world: World, view, keys, times):  # type: ignore[no-untyped-def]
    """The times that may be asked for, and the answers."""
    newest = max(world.ingest.position.clock_us.values(), default=-(2**63))
    at = [max(t, newest - world.horizon_us) for t in times]
    return at, world.read(view, keys, at)


def check_log(world: World, stream: StreamPlan) -> None:
    """Each commit begins where those before it end, and says of every partition where it stands and by which clock."""
    at, clocks = [0] * world.partitions, [-(2**63)] * world.partitions
    heads: list[CommitHead] = [head for _, head in read_heads(world.features, 0, world.features.end(WINDOWS, 0))]
    for head in heads:
        span = head.streams[stream.name]
        assert span.begin == at
        moved = [begin != end for begin, end in zip(span.begin, span.end, strict=True)]
        assert any(moved)
        assert [c for c, own in zip(span.clocks_us, moved, strict=True) if not own] == [
            c for c, own in zip(clocks, moved, strict=True) if not own
        ]
        at, clocks = span.end, span.clocks_us
        assert head.positions == {stream.name: at}
