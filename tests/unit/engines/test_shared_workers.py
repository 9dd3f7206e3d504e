"""Compute workers side by side: commits in turn, shares that are lost, checkpoints that anybody finds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from unittest import mock

import pytest

from headrace.core.errors import LogMoved
from headrace.core.events import encode_block
from headrace.core.rows import encode_rows
from headrace.core.time import SimulatedClock
from headrace.engines.stream import checkpoints
from headrace.engines.stream.checkpoints import checkpoint_ids, checkpoint_positions, logged_shares, replace_ids
from headrace.engines.stream.commits import WINDOWS, Commit, decode_commit
from headrace.engines.stream.verdicts import DUPLICATE
from headrace.engines.stream.worker import ComputeWorker, clocks_at, committed_positions
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from tests.unit.engines.test_verdicts import GROUP, START, Stream, order


class Interrupted(MemoryEventLog):
    """A log in which others are quick: `before` is done once, before the next append."""

    before: Callable[[], object] | None = None

    def append(self, items: Sequence[Append]) -> list[int]:
        do, self.before = self.before, None
        if do is not None:
            do()
        return super().append(items)


class Site:
    """A stream of two partitions and workers over it, each on a machine of its own."""

    def __init__(self, folder: Path) -> None:
        self.stream, self.folder = Stream(folder / "unused"), folder
        self.clock = SimulatedClock(START)
        self.raw, self.features = MemoryEventLog(self.clock), Interrupted(self.clock)
        self.raw.create("order", 2)
        self.machines = 0

    def worker(self, shares: Collection[int] | None) -> ComputeWorker:
        self.machines += 1
        file = self.folder / f"machine{self.machines}" / "checkpoint"
        return ComputeWorker(self.stream.project, self.raw, self.features, file, shares=shares)

    def publish(self, partition: int, *names: str, at: int = START) -> None:
        rows = [order(name, at=at) for name in names]
        block = encode_block(encode_rows(self.stream.plan.schema, rows))
        self.raw.append([Append("order", partition, block, len(rows))])

    def commits(self) -> list[Commit]:
        return [decode_commit(batch.payload) for batch in self.features.read(WINDOWS, 0, 0)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_commit_that_was_forestalled_goes_behind_the_other_and_says_all_that_lies_below(site: Site) -> None:
    left, right = site.worker({0}), site.worker({1})
    site.publish(0, "a", "b", at=START - 7)
    site.publish(1, "c", at=START - 5)
    site.features.before = right.step
    assert left.step() == 2
    spans = [commit.streams["order"] for commit in site.commits()]
    assert [(span.begin, span.end) for span in spans] == [([0, 0], [0, 1]), ([0, 1], [2, 1])]
    assert spans[1].clocks_us == [START - 7, START - 5]
    assert [commit.groups[GROUP.version].counts for commit in site.commits()] == [[1], [2]]
    assert committed_positions(site.features) == {"order": [2, 1]}
    assert clocks_at(site.features, 2, {"order": [2, 1]}) == {"order": [START - 7, START - 5]}
    assert left.lag() == {"order": 0}
    site.publish(1, "d")
    assert left.lag() == {"order": 0}
    assert left.step() == 0
    assert right.step() == 1
    assert committed_positions(site.features) == {"order": [2, 2]}


def test_whoever_lost_a_share_writes_nothing_and_may_have_it_back(site: Site) -> None:
    old, new = site.worker({0, 1}), site.worker({1})
    site.publish(1, "a")
    site.publish(0, "x")
    site.features.before = new.step
    with pytest.raises(LogMoved, match="partition 1 of order up to 1"):
        old.step()
    assert len(site.commits()) == 1
    assert old.step() == 1  # what the other one has not done
    assert site.commits()[1].streams["order"].end == [1, 1]
    site.publish(1, "a", "b")
    assert old.step() == 2  # it knows the ids that the other one counted
    assert site.commits()[2].streams["order"].exceptions == [(1, 1, DUPLICATE)]
    with pytest.raises(LogMoved):
        new.step()


def test_a_checkpoint_is_found_on_any_machine_and_spares_reading_what_it_covers(site: Site) -> None:
    with mock.patch.object(checkpoints, "_PART_BYTES", 7):
        first = site.worker({0, 1})
        site.publish(0, "a", "b")
        site.publish(1, "c")
        first.step()
        first.checkpoint()
        first.checkpoint()  # the second replaces the first
        assert logged_shares(site.features) == [0, 1]
        assert len({site.features.begin(f"checkpoint-{share}", 0) for share in (0, 1)} & {0}) == 0
        for partition, end in enumerate((2, 1)):
            site.raw.trim("order", partition, end)
        site.publish(0, "a", "z")
        site.publish(1, "c")
        for shares in ({0}, {1}):
            site.worker(shares).step()
    assert [commit.streams["order"].exceptions for commit in site.commits()[1:]] == [
        [(0, 2, DUPLICATE)],
        [(1, 1, DUPLICATE)],
    ]
    # Nor does one that is alone again ask for what is gone.
    site.publish(1, "z", "c")
    site.worker(None).step()
    assert site.commits()[3].streams["order"].exceptions == [(1, 3, DUPLICATE)]


def test_a_stale_worker_does_not_replace_a_newer_checkpoint_and_a_newer_one_replaces_a_stale(site: Site) -> None:
    stale = site.worker({0})
    site.publish(0, "a")
    stale.step()
    new = site.worker({0})
    stale.checkpoint()  # after the new one has looked for one
    nowhere = site.folder / "nowhere"
    assert checkpoint_positions(nowhere, site.features, shared=True) == {"order": {0: 1}}
    site.publish(0, "b")
    new.step()
    new.checkpoint()
    stale.checkpoint()
    assert checkpoint_positions(nowhere, site.features, shared=True) == {"order": {0: 2}}


def test_a_checkpoint_in_a_file_is_of_no_use_to_other_machines(site: Site) -> None:
    alone = site.worker(None)
    site.publish(0, "a")
    alone.step()
    alone.checkpoint()
    file = site.folder / f"machine{site.machines}" / "checkpoint"
    assert checkpoint_positions(file, site.features, shared=False) == {"order": {0: 1, 1: 0}}
    assert checkpoint_positions(file, site.features, shared=True) == {}


def test_ids_are_replaced_wherever_they_are_saved(site: Site) -> None:
    both = site.worker({0, 1})
    site.publish(0, "ann", "bob")
    site.publish(1, "ann")
    both.step()
    both.checkpoint()
    nowhere = site.folder / "nowhere"
    assert replace_ids(nowhere, site.features, {"order": {"ann": "p1"}, "visit": {"bob": "p2"}}) == 2
    assert sorted(checkpoint_ids(nowhere, site.features)["order"]) == ["bob", "p1", "p1"]
    assert all(len(site.features.read(f"checkpoint-{share}", 0, 1)) == 1 for share in (0, 1))
    # What was decided by them stays.
    site.publish(0, "p1", "bob", "cid")
    site.worker({0}).step()
    assert site.commits()[-1].streams["order"].exceptions == [(0, 2, DUPLICATE), (0, 3, DUPLICATE)]
