"""A backfill killed with -9 at random moments and asked again leaves what the live stream leaves, byte for byte."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from headrace.core.errors import PlanError
from headrace.engines.stream.worker import committed_positions
from headrace.features.plan import GroupPlan
from headrace.ingestion.backfill import GroupBackfill, read_state
from headrace.ingestion.materialize import OnlineIngest
from headrace.stores.online.base import OnlineStore
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.testing.processes import killed_after
from tests.recovery.shop import GROUPS, HORIZON_US, PROJECT, Shop, deeds

SEED, DEEDS = 20140301, 120
_SPEND, _TRAFFIC = GROUPS


def lived_through(folder: Path) -> dict[bytes, bytes]:
    """Records of the live stream; of the events, some are archived and the rest is in the log alone."""
    shop = Shop(folder)
    all_deeds = list(deeds(SEED, DEEDS))
    for deed in all_deeds[: len(all_deeds) // 2]:
        deed(shop)
    compute = shop.compute()
    while compute.step(20):
        pass
    archive = shop.archive()
    while archive.step(5):
        pass
    for deed in all_deeds[len(all_deeds) // 2 :]:
        deed(shop)
    while compute.step(20):
        pass
    online = shop.online()
    ingest = OnlineIngest(PROJECT, shop.features, online, horizon_us=HORIZON_US)
    while ingest.step():
        pass
    records = group_records(online, *GROUPS)
    online.close()
    shop.close()
    return records


def group_records(online: OnlineStore, *groups: GroupPlan) -> dict[bytes, bytes]:
    """What is stored of groups, without tables and without how far they are."""
    ends = tuple(map(_suffix, groups))
    return {key: record for key, record in online.scan() if key.endswith(ends)}


def _suffix(group: GroupPlan) -> bytes:
    return bytes.fromhex(group.version)


def of_group(
    shop: Shop, online: OnlineStore, groups: Sequence[GroupPlan], piece: int, *, served: bool = False
) -> GroupBackfill:
    return GroupBackfill(
        PROJECT, groups, shop.raw, shop.features, shop.offline(), online,
        horizon_us=HORIZON_US, clock_us=None, piece=piece, served=served,
    )  # fmt: skip


def telling(pipe: Connection, reports: int) -> Callable[[int, int], None]:
    """Says how far a backfill is. One piece may follow the last report, in which it is killed, however late that is."""
    told = count(1)

    def tell(done: int, total: int) -> None:
        pipe.send_bytes(done.to_bytes(8, "big"))
        time.sleep(random.random() * 0.002 if next(told) <= reports else 60)

    return tell


def work(folder: Path, group: int, reports: int, pipe: Connection) -> None:
    """Go on with the backfill of a group, saying how far it is."""
    shop, online = Shop(folder), LmdbOnlineStore(folder / "fresh")
    state = read_state(online, GROUPS[group].version)
    end = committed_positions(shop.features)[GROUPS[group].stream]
    of_group(shop, online, [GROUPS[group]], 13).advance([0] if state is None else state.at, end, telling(pipe, reports))
    time.sleep(60)


def run_on_schedule(folder: Path, reports: int, pipe: Connection) -> None:
    """Bring a scheduled group up to date in small pieces, saying how far it is."""
    shop, online = Shop(folder), LmdbOnlineStore(folder / "fresh")
    end = committed_positions(shop.features)["order"]
    state = read_state(online, _SPEND.version)
    of_group(shop, online, [_SPEND], 7, served=True).advance(
        [0] if state is None else state.at, end, telling(pipe, reports)
    )
    time.sleep(60)


@pytest.mark.slow
def test_whoever_reads_a_scheduled_group_finds_all_of_a_position_or_nothing(tmp_path: Path) -> None:
    """Killed at random moments, records and position are at any time those of one and the same moment of the log."""
    wanted = lived_through(tmp_path)
    reached = []
    for kill in range(6):
        killed_after(run_on_schedule, tmp_path, 2 + 3 * kill, reports=2 + 3 * kill)
        shop, online, other = Shop(tmp_path), LmdbOnlineStore(tmp_path / "fresh"), MemoryOnlineStore()
        state = read_state(online, _SPEND.version)
        assert state is not None
        assert state.target is None
        reached.append(state.at[0])
        job = of_group(shop, other, [_SPEND], 100_000)
        job.advance([0], state.at)
        assert group_records(online, _SPEND) == group_records(other, _SPEND)
        there = read_state(other, _SPEND.version)
        assert there is not None
        assert there.clock_us == state.clock_us
        online.close()
        shop.close()
    assert reached == sorted(reached)
    shop, online = Shop(tmp_path), LmdbOnlineStore(tmp_path / "fresh")
    end = committed_positions(shop.features)["order"]
    assert 0 < reached[0] < end[0]
    of_group(shop, online, [_SPEND], 7, served=True).advance([reached[-1]], end)
    assert group_records(online, _SPEND) == {k: v for k, v in wanted.items() if k.endswith(_suffix(_SPEND))}
    online.close()
    shop.close()


@pytest.mark.slow
def test_a_killed_backfill_goes_on_and_leaves_what_the_live_stream_leaves(tmp_path: Path) -> None:
    wanted = lived_through(tmp_path)
    for kill in range(5):
        killed_after(work, tmp_path, 0, 3 + 4 * kill, reports=3 + 4 * kill)
    shop, online = Shop(tmp_path), LmdbOnlineStore(tmp_path / "fresh")
    state = read_state(online, _SPEND.version)
    end = committed_positions(shop.features)
    assert state is not None
    assert 0 < state.at[0] < end["order"][0]
    of_group(shop, online, [_SPEND], 13).advance(state.at, end["order"])
    # The other group at once, in pieces of another size.
    of_group(shop, online, [_TRAFFIC], 100_000).advance([0], end["visit"])
    assert group_records(online, *GROUPS) == wanted
    assert online.position() == b""
    assert [read_state(online, group.version) for group in GROUPS] != [None, None]
    online.close()
    shop.close()


def test_a_piece_that_was_cut_off_is_done_again_over_its_own_range(tmp_path: Path) -> None:
    wanted = lived_through(tmp_path)
    shop, online = Shop(tmp_path), LmdbOnlineStore(tmp_path / "fresh")
    end = committed_positions(shop.features)["order"]
    half = [end[0] // 2]

    job = of_group(shop, online, [_SPEND], 100_000)
    notes = job._note
    job._note = lambda state: None if state.target is None else notes(state)  # type: ignore[method-assign]
    job.advance([0], half)
    state = read_state(online, _SPEND.version)
    assert state is not None
    assert (state.at, state.target) == ([0], half)
    # All records were written, but not that they were; more has come since, so a piece would now reach further.
    of_group(shop, online, [_SPEND], 100_000).advance(state.at, end)
    assert group_records(online, _SPEND) == {k: v for k, v in wanted.items() if k.endswith(_suffix(_SPEND))}
    online.close()
    shop.close()


def test_since_may_not_leave_out_what_counts(tmp_path: Path) -> None:
    lived_through(tmp_path)
    shop, online = Shop(tmp_path), LmdbOnlineStore(tmp_path / "fresh")
    end = committed_positions(shop.features)["order"]
    job = GroupBackfill(
        PROJECT, [_SPEND], shop.raw, shop.features, shop.offline(), online,
        horizon_us=HORIZON_US, clock_us=None, since_us=10**15,
    )  # fmt: skip
    with pytest.raises(PlanError, match="features without a window; leave since out"):
        job.advance([0], end)
    online.close()
    shop.close()
