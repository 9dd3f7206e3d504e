"""Deleted and replaced bytes are gone from the file, whatever the tree looked like, and nothing else is."""

from __future__ import annotations

import multiprocessing
import random
import re
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from headrace.app.clock import SystemClock
from headrace.core import lmdb_wipe
from headrace.core.errors import Busy, StoreError
from headrace.core.lmdb_env import acquire_environment, release_environment
from headrace.core.lmdb_wipe import wipe_environment
from headrace.eventlog.base import Append
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.stores.online.lmdb import LmdbOnlineStore


def keys_in(folder: Path) -> set[bytes]:
    return set(re.findall(rb"user-\d{6}", (folder / "data.mdb").read_bytes()))


@pytest.mark.parametrize("seed", range(4))
def test_keys_and_records_that_were_deleted_stand_nowhere_in_the_file(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    held: dict[bytes, bytes] = {}
    with_branches = 4_000
    store = LmdbOnlineStore(tmp_path)
    for round_ in range(5):
        batch = {}
        for _ in range(with_branches // 4):
            key = b"user-%06d" % dice.randrange(with_branches)
            batch[key] = (key + b"|") * dice.choice([1, 5, 20, 600 if dice.random() < 0.1 else 3])
        store.write(list(batch.items()), b"%d" % round_)
        held |= batch
        gone = [key for key in sorted(held) if dice.random() < 0.2]
        store.write([(key, None) for key in gone], b"%d" % round_)
        for key in gone:
            del held[key]
        if round_ % 2:
            assert keys_in(tmp_path) - held.keys()  # else there was nothing to wipe
            store.wipe()
            assert keys_in(tmp_path) == held.keys()
            assert dict(store.scan()) == held
    assert store.position() == b"4"
    store.close()


def _hold(folder: Path, pipe: Connection) -> None:
    store = LmdbOnlineStore(folder, readonly=True)
    scan = store.scan()
    next(scan)
    pipe.send("reading")
    pipe.recv()
    pipe.send(sum(1 for _ in scan))
    pipe.recv()


def test_a_reader_of_an_older_snapshot_is_waited_for(tmp_path: Path) -> None:
    store = LmdbOnlineStore(tmp_path)
    store.write([(b"user-%06d" % n, b"x" * 300) for n in range(500)], b"1")
    server = multiprocessing.get_context("forkserver")
    pipe, there = server.Pipe()
    process = server.Process(target=_hold, args=(tmp_path, there), daemon=True)
    process.start()
    assert pipe.poll(60)
    assert pipe.recv() == "reading"
    store.write([(b"user-%06d" % n, None) for n in range(500)], b"2")
    shared = acquire_environment(tmp_path, sync=False, map_size=1 << 40, named=False)
    with pytest.raises(Busy, match=f"process {process.pid} has been reading"):
        wipe_environment(shared, patience_s=0.05)
    assert keys_in(tmp_path)
    pipe.send("go on")
    assert pipe.recv() == 499  # it saw its snapshot to the end
    wipe_environment(shared)
    assert not keys_in(tmp_path)
    pipe.send("end")
    process.join(30)
    release_environment(shared)
    store.close()


def test_what_was_rewritten_in_a_log_stands_nowhere_in_its_file(tmp_path: Path) -> None:
    dice = random.Random(1)
    log = LmdbEventLog(tmp_path, SystemClock(), sync=False)
    log.create("t", 3)
    for n in range(200):
        log.append([Append("t", p, b"user-%06d " % n * dice.choice([1, 50, 3_000]), 5) for p in range(3)])
    log.trim("t", 2, 500)
    for partition in range(3):
        log.rewrite("t", partition, lambda batch: None if batch.base < 50 else b"gone")
    log.wipe()
    assert keys_in(tmp_path) == {b"user-%06d" % n for n in range(10)}
    assert [log.end("t", p) for p in range(3)] == [1_000] * 3
    assert log.read("t", 1, 45, 10)[0].payload.startswith(b"user-000009 ")
    log.close()


def test_a_file_of_another_layout_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LmdbOnlineStore(tmp_path)
    store.write([(b"user-%06d" % n, b"x") for n in range(100)], b"1")
    store.write([(b"user-%06d" % n, None) for n in range(100)], b"2")
    before = (tmp_path / "data.mdb").read_bytes()
    monkeypatch.setattr(lmdb_wipe, "_VERSION", 2)
    with pytest.raises(StoreError, match=r"not laid out as LMDB 0\.9"):
        store.wipe()
    assert (tmp_path / "data.mdb").read_bytes() == before
    store.close()
