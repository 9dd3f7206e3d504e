"""A computing layer that is killed while it derives loses and doubles nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.core.arrow import from_arrow
from headrace.core.derived import DerivedBatch, decode_derived
from headrace.core.time import SimulatedClock
from headrace.engines.stream.commits import TABLES
from headrace.engines.stream.worker import ComputeWorker, committed_positions
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.memory import MemoryEventLog
from headrace.retrieval.history import HistoryReader, served_at
from headrace.stores.online.memory import MemoryOnlineStore
from tests.recovery.derived_shop import (
    PRICED,
    PROJECT,
    computing,
    deeds,
    logs,
    past_of,
    prepare,
    records_of,
    work,
)

SEED, DEEDS, KILLS = 20130501, 90, 12
_SERVER = multiprocessing.get_context("forkserver")


class Killed(BaseException):
    """Stands for a kill."""


class DyingLog(MemoryEventLog):
    """Dies at one of its appends, just before or just after it is done."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__(clock)
        self.appends, self.dies_at, self.after = 0, -1, False

    def append(self, items: Sequence[Append]) -> list[int]:
        self.appends += 1
        dies = self.appends == self.dies_at
        if dies and not self.after:
            raise Killed
        bases = super().append(items)
        if dies:
            raise Killed
        return bases


def test_a_kill_at_any_append_changes_nothing(tmp_path: Path) -> None:
    raw, features, appends = _run(tmp_path / "whole", None)
    wanted = _rows(raw, features, PRICED)
    for number in range(1, appends + 1):
        for after in (False, True):
            raw, features, _ = _run(tmp_path / f"{number}{after}", (number, after))
            assert _rows(raw, features, PRICED) == wanted, f"killed {'after' if after else 'before'} append {number}"
            for topic in PROJECT.derived:
                _check_topic(raw, features, topic)
            _check_windows(raw, features, tmp_path)


def _run(folder: Path, kill: tuple[int, bool] | None) -> tuple[EventLog, EventLog, int]:
    """Everything appended, then worked off a little at a time, killed once; the logs, and how often a kill can strike.

    Odd numbers strike at an append to the raw log (of derived records), even ones at one to the feature log.
    """
    folder.mkdir()
    clock = SimulatedClock(0)
    raw, features = DyingLog(clock), DyingLog(clock)
    prepare(raw, features)
    for now, deed in deeds(SEED, 6):
        clock.advance_to(now)
        deed(raw, features)
    both, state = (features, raw), MemoryOnlineStore()
    made = [log.appends for log in both]
    if kill is not None:
        odd = kill[0] % 2
        both[odd].dies_at, both[odd].after = made[odd] + (kill[0] + 1) // 2, kill[1]
    worker = computing(raw, features, folder, state)
    working = True
    while working:
        try:
            working = worker.step(5) > 0
        except Killed:
            worker = computing(raw, features, folder, state)
    return raw, features, 2 * max(log.appends - before for log, before in zip(both, made, strict=True))


@pytest.mark.slow
def test_killed_workers_derive_each_event_once(tmp_path: Path) -> None:
    wanted = _undisturbed(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    clock = SimulatedClock(0)
    raw, features = logs(folder, clock)
    prepare(raw, features)
    rng = random.Random(SEED)
    all_deeds = list(deeds(SEED, DEEDS))
    share = len(all_deeds) // KILLS
    for number in range(KILLS + 1):
        pipe, there = _SERVER.Pipe(duplex=False)
        process = _SERVER.Process(target=work, args=(folder, SEED + number, there), daemon=True)
        process.start()
        there.close()
        stop = (number + 1) * share if number < KILLS else len(all_deeds)
        for now, deed in all_deeds[number * share : stop]:
            clock.advance_to(now)
            deed(raw, features)
        if number == KILLS:
            _wait_until_done(raw, features)
        else:
            assert pipe.poll(60)
            for _ in range(rng.randrange(2, 6)):
                if pipe.poll(5):
                    pipe.recv_bytes()
            time.sleep(rng.uniform(0, 0.004))
        assert process.is_alive(), f"it ended by itself with {process.exitcode}"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        pipe.close()
    for topic in PROJECT.derived:
        _check_topic(raw, features, topic)
    _check_windows(raw, features, tmp_path)
    # A rate counts only for events of after it was written, so when they were derived makes no difference.
    assert _rows(raw, features, PRICED) == wanted
    raw.close()
    features.close()


def _undisturbed(folder: Path) -> Any:
    clock = SimulatedClock(0)
    raw, features = logs(folder, clock)
    prepare(raw, features)
    for now, deed in deeds(SEED, DEEDS):
        clock.advance_to(now)
        deed(raw, features)
    worker = computing(raw, features, folder, MemoryOnlineStore())
    while worker.step():
        pass
    rows = _rows(raw, features, PRICED)
    raw.close()
    features.close()
    assert rows
    return rows


def _wait_until_done(raw: EventLog, features: EventLog) -> None:
    ends = {topic: [raw.end(PROJECT.root(topic), 0)] for topic in PROJECT.topics()}
    end = time.monotonic() + 60
    while committed_positions(features) != ends and time.monotonic() < end:
        time.sleep(0.02)
    assert committed_positions(features) == ends


def _check_topic(raw: EventLog, features: EventLog, topic: str) -> None:
    """Derived records stand where their sources do, and history agrees with each at the positions that it names."""
    derived, past = PROJECT.derived[topic], past_of(raw, features)
    batches: list[LogBatch] = raw.read(topic, 0, 0, 1_000_000)
    assert [batch.base for batch in batches] == np.cumsum([0, *(batch.count for batch in batches)])[:-1].tolist()
    assert batches[-1].end == raw.end(derived.source, 0)
    rows = past.events(topic, derived.stream.schema.first_names.keys())  # type: ignore[arg-type]
    offsets = np.asarray(rows["_offset"])
    compared = 0
    for batch in batches:
        held = decode_derived(batch.payload)
        _check_nothing_missed(raw, features, topic, held)
        of_batch = rows.filter((offsets >= batch.base) & (offsets < batch.end))
        request = {f.name: from_arrow(of_batch[f.name], f.dtype, f.name) for f in derived.view.request}
        again = HistoryReader(derived.view, PROJECT, past).read(request, served_at(held.position, of_batch.num_rows))
        for name in derived.computed:
            assert again.column(name).to_pylist() == of_batch[name].to_pylist()
        compared += of_batch.num_rows
    assert compared == len(offsets) > 0


def _check_nothing_missed(raw: EventLog, features: EventLog, topic: str, held: DerivedBatch) -> None:
    """What the look-ups had not seen arrived no earlier than the events that were derived."""
    bindings = PROJECT.derived[topic].view.bindings
    for group in (PROJECT.groups[binding.source] for binding in bindings if not binding.is_table):
        root, at = PROJECT.root(group.stream), held.position.streams.get(group.stream, [0])[0]
        assert all(batch.arrival_us >= held.arrivals.max() for batch in raw.read(root, 0, at, 1))
    assert all(batch.arrival_us >= held.arrivals.max() for batch in features.read(TABLES, 0, held.position.tables, 1))


def _check_windows(raw: EventLog, features: EventLog, folder: Path) -> None:
    """Windows computed at once from what is logged are those that were computed on the way."""
    again = MemoryEventLog(SimulatedClock(0))
    worker = ComputeWorker(PROJECT, raw, again, folder / "none")
    while worker.step():
        pass
    found, wanted = records_of(features), records_of(again)
    assert {key: found[key] for key in wanted} == wanted
    assert len(found) == len(wanted) + 2  # rates of two currencies


def _rows(raw: EventLog, features: EventLog, topic: str) -> list[dict[str, Any]]:
    names = list(PROJECT.derived[topic].stream.schema.first_names)
    found: list[dict[str, Any]] = past_of(raw, features).events(topic, names).sort_by("_offset").to_pylist()
    return found
