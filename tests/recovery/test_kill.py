"""Workers killed with -9 at random moments and started again leave what an undisturbed run leaves, byte for byte."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from headrace.core.positions import decode_position
from headrace.engines.stream.commits import DEAD_LETTERS, TABLES, decode_dead_letters
from headrace.engines.stream.worker import committed_positions
from headrace.retrieval.past import events_table, rows_table
from tests.recovery.shop import PROFILE, PROJECT, Shop, deeds, steps_of, work

SEED, DEEDS, KILLS = 20130201, 160, 12
ROLES = ("compute", "ingest", "archive")
# Workers are forked off a server that has imported what they need, and has opened nothing: they start at once.
_SERVER = multiprocessing.get_context("forkserver")


class Worker:
    """A worker process of one role; killed and started again at will."""

    def __init__(self, role: str, folder: Path) -> None:
        self.role, self.folder, self.starts = role, folder, 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.pipe: Connection
        self.pipe, there = _SERVER.Pipe(duplex=False)
        arguments = (self.role, self.folder, SEED + self.starts, there)
        self.process: ForkServerProcess = _SERVER.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        there.close()

    def wait(self, steps: int, seconds: float) -> int:
        """Wait until it has reported so often; returns how often it has, which is less if the time is over."""
        seen, end = 0, time.monotonic() + seconds
        while seen < steps and self.pipe.poll(max(end - time.monotonic(), 0)):
            self.pipe.recv_bytes()
            seen += 1
        return seen

    def kill(self) -> None:
        assert self.process.pid is not None
        assert self.process.is_alive(), f"{self.role} ended by itself with {self.process.exitcode}"
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.pipe.close()


def final_state(shop: Shop) -> dict[str, Any]:
    """All that may be compared: what depends on how steps were cut is the offset of commits alone."""
    online, offline = shop.online(), shop.offline()
    position = decode_position(online.position())
    letters = [
        letter
        for batch in shop.features.read(DEAD_LETTERS, 0, 0, 1_000_000)
        for letter in decode_dead_letters(batch.payload)
    ]
    archive = {events_table(name): offline.scan(events_table(name)).sort_by("_offset") for name in PROJECT.streams}
    state = {
        "records": list(online.scan()),
        "position": (position.streams, position.tables, position.clock_us),
        "committed": committed_positions(shop.features),
        "dead letters": {name: [letter for letter in letters if letter.stream == name] for name in PROJECT.streams},
        "archive": {name: rows.to_pydict() for name, rows in archive.items()},
        "rows": offline.scan(rows_table(PROFILE)).sort_by("_order").to_pydict(),
    }
    online.close()
    offline.close()
    return state


def undisturbed(folder: Path) -> dict[str, Any]:
    """Everything published first and then worked off in few large steps."""
    shop = Shop(folder)
    for deed in deeds(SEED, DEEDS):
        deed(shop)
    compute = shop.compute()
    while compute.step():
        pass
    for role in ROLES[1:]:
        step = steps_of(role, shop, random.Random(0))
        while step():
            pass
    state = final_state(shop)
    shop.close()
    return state


def drained(shop: Shop, archived: dict[str, int]) -> bool:
    """True once every worker has dealt with all that was published; `archived` rows are awaited in the archive."""
    ends = {name: [shop.raw.end(name, 0)] for name in PROJECT.streams}
    if committed_positions(shop.features) != ends:
        return False
    online, offline = shop.online(), shop.offline()
    position = decode_position(online.position())
    names = set(archived) & set(offline.tables())
    rows = {name: offline.scan(name).num_rows for name in names}
    done = position.streams == ends and position.tables == shop.features.end(TABLES, 0)
    online.close()
    offline.close()
    return done and all(rows.get(name, 0) >= count for name, count in archived.items())


@pytest.mark.slow
def test_killed_workers_leave_what_an_undisturbed_run_leaves(tmp_path: Path) -> None:
    wanted = undisturbed(tmp_path / "undisturbed")
    assert all(wanted["dead letters"].values())
    assert wanted["records"]
    rng = random.Random(SEED)
    shop = Shop(tmp_path / "killed")
    workers = {role: Worker(role, shop.folder) for role in ROLES}
    all_deeds = list(deeds(SEED, DEEDS))
    share = len(all_deeds) // KILLS
    hit = 0
    for number in range(KILLS):
        worker = workers[ROLES[number % len(ROLES)]]
        for deed in all_deeds[number * share : (number + 1) * share]:
            deed(shop)
        # Once it is under way, and has something to do, it is struck in the midst of a step.
        hit += worker.wait(rng.randrange(2, 6), seconds=60) > 1
        time.sleep(rng.uniform(0, 0.004))
        worker.kill()
        worker.start()
    for deed in all_deeds[KILLS * share :]:
        deed(shop)
    assert hit == KILLS
    archived = {name: len(rows["_offset"]) for name, rows in wanted["archive"].items()}
    end = time.monotonic() + 60
    while not drained(shop, archived) and time.monotonic() < end:
        time.sleep(0.05)
    for worker in workers.values():
        worker.kill()
    found = final_state(shop)
    shop.close()
    for part, value in wanted.items():
        assert found[part] == value, part
