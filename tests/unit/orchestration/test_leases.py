"""Who has which share while workers come, go, hang and die."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from headrace.core.time import SimulatedClock
from headrace.orchestration.leases import Leases, Member, read_roster

LEASE_US = 10_000_000
SECOND = 1_000_000


class Setting:
    """A setting of the catalog, in memory."""

    def __init__(self) -> None:
        self.value: Any = None

    def revise(self, change: Callable[[Any], Any]) -> Any:
        self.value = change(self.value)
        return self.value

    def owners(self) -> dict[str, str]:
        return read_roster(self.value).owners


def worker(setting: Setting, clock: SimulatedClock, pid: int, **more: Any) -> Leases:
    now = clock.now_us()
    return Leases(setting.revise, Member("host", pid, "place", pid, now, now), clock, LEASE_US, **more)


def turn(workers: list[Leases], shares: int) -> None:
    """Everyone renews and gives up what it is asked for."""
    for one in workers:
        surplus = one.renew(shares)
        if surplus:
            one.release(surplus)


def test_one_worker_has_all_and_gives_a_newcomer_its_part_only_when_it_is_in_order() -> None:
    setting, clock = Setting(), SimulatedClock(0)
    first = worker(setting, clock, 1)
    assert first.renew(4) == frozenset()
    assert first.held == {0, 1, 2, 3}
    clock.advance_to(SECOND)
    second = worker(setting, clock, 2)
    assert second.renew(4) == frozenset()
    assert second.held == frozenset()
    assert first.renew(4) == {2, 3}
    assert (first.held, second.renew(4), second.held) == ({0, 1, 2, 3}, frozenset(), frozenset())
    first.release({2, 3})
    second.renew(4)
    assert (first.held, second.held) == ({0, 1}, {2, 3})
    second.leave()
    first.renew(4)
    assert first.held == {0, 1, 2, 3}
    assert list(read_roster(setting.value).members) == [first.name]


def test_a_dead_worker_loses_its_shares_after_its_lease_by_the_clock_of_who_looks() -> None:
    setting, mine, theirs = Setting(), SimulatedClock(0), SimulatedClock(10**15)
    me, other = worker(setting, mine, 1), worker(setting, theirs, 2)
    for _ in range(3):
        turn([me, other], 4)
    assert (me.held, other.held) == ({0, 1}, {2, 3})
    # Clocks that are years apart trouble nobody as long as both count up.
    for second in range(1, 30):
        mine.advance_to(second * SECOND)
        turn([me, other], 4)
    assert (me.held, other.held) == ({0, 1}, {2, 3})
    me.renew(4)  # it sees the other count up for the last time
    mine.advance_to(29 * SECOND + LEASE_US)
    me.renew(4)
    assert me.held == {0, 1}
    mine.advance_to(29 * SECOND + LEASE_US + 1)
    me.renew(4)
    assert me.held == {0, 1, 2, 3}
    # It was only slow: it learns what it has lost, and gets its part again.
    assert other.renew(4) == frozenset()
    assert other.held == frozenset()
    turn([me, other, me, other], 4)
    assert (me.held, other.held) == ({0, 1}, {2, 3})


def test_one_that_was_struck_off_for_a_pause_gets_its_part_again_however_often() -> None:
    setting, clock = Setting(), SimulatedClock(0)
    me, slow = worker(setting, clock, 1), worker(setting, clock, 2)
    me.renew(2)
    for _ in range(3):
        slow.renew(2)
        turn([me], 2)  # it sees the other count up, once
        assert me.held == {0}
        clock.advance_to(clock.now_us() + LEASE_US + 1)
        me.renew(2)
        assert me.held == {0, 1}


def test_a_worker_that_is_known_to_have_ended_loses_its_shares_at_once() -> None:
    setting, clock = Setting(), SimulatedClock(0)
    worker(setting, clock, 1).renew(2)
    after = worker(setting, clock, 2, gone=lambda member: member.pid == 1)
    after.renew(2)
    assert after.held == {0, 1}


def test_shares_that_are_no_more_are_forgotten_and_new_ones_dealt_out() -> None:
    setting, clock = Setting(), SimulatedClock(0)
    one = worker(setting, clock, 1)
    one.renew(3)
    one.renew(1)
    assert one.held == {0}
    one.renew(2)
    assert one.held == {0, 1}


def test_whatever_happens_no_share_has_two_owners_and_in_peace_all_parts_are_equal() -> None:
    for seed in range(30):
        rng, setting, clock = random.Random(seed), Setting(), SimulatedClock(0)
        shares, workers = rng.randrange(1, 9), [worker(setting, clock, 0)]
        for number in range(1, 60):
            clock.advance_to(clock.now_us() + rng.randrange(SECOND))
            deed = rng.random()
            if deed < 0.15:
                workers.append(worker(setting, clock, number))
            elif deed < 0.25 and len(workers) > 1:
                gone = workers.pop(rng.randrange(len(workers)))
                if rng.random() < 0.5:
                    gone.leave()
            one = rng.choice(workers)
            surplus = one.renew(shares)
            if rng.random() < 0.7:
                one.release(surplus)
            held = [share for share, owner in setting.owners().items() if owner in {w.name for w in workers}]
            assert len(held) == len(set(held))
        for _ in range(4):
            for _ in range(4):
                turn(workers, shares)
            clock.advance_to(clock.now_us() + LEASE_US // 2 + 1)
        parts = sorted(len(one.held) for one in workers)
        assert sum(parts) == shares, seed
        assert parts[-1] - parts[0] <= 1, seed
