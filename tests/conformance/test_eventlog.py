"""The adapters of the event log against their kit."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lmdb
import pytest

from headrace.core.errors import LogError
from headrace.core.time import SimulatedClock
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.eventlog.memory import MemoryEventLog
from headrace.testing.capabilities import capability
from headrace.testing.eventlog import DurableEventLogTests, EventLogTests, UnrulyClock
from headrace.testing.processes import create_and_append, started


class TestMemoryEventLog(EventLogTests):
    adapter = "memory"

    def open(self, place: Path, clock: UnrulyClock) -> EventLog:
        return MemoryEventLog(clock)

    def raw_batches(self, log: EventLog, place: Path, topic: str, partition: int) -> list[LogBatch]:
        assert isinstance(log, MemoryEventLog)
        assert log._topics is not None
        return list(log._topics[topic][partition].batches)


class TestLmdbEventLog(DurableEventLogTests):
    adapter = "LMDB"

    def open(self, place: Path, clock: UnrulyClock) -> EventLog:
        return LmdbEventLog(place, clock)

    def opener(self, place: Path) -> Callable[[], EventLog]:
        return partial(LmdbEventLog, place, SimulatedClock(1_000))

    def raw_batches(self, log: EventLog, place: Path, topic: str, partition: int) -> list[LogBatch]:
        # A copy, because LMDB forbids a second environment on the same file in one process; without the lock file.
        copy = place.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        shutil.copyfile(place / "data.mdb", copy / "data.mdb")
        found = []
        with lmdb.open(str(copy), max_dbs=100, map_size=1 << 30) as env:
            database = env.open_db(f"{topic}/{partition}".encode(), create=False)
            with env.begin(database) as txn:
                for key, value in txn.cursor():
                    count, _, arrival = struct.unpack_from(">IIq", value)
                    found.append(
                        LogBatch(topic, partition, struct.unpack(">Q", key)[0], count, arrival, bytes(value[16:]))
                    )
        return found

    def raw_damage(self, place: Path, payload: bytes) -> None:
        # Also where older versions of its page lie.
        with open(place / "data.mdb", "r+b") as file:
            held = file.read()
            assert payload in held
            for found in re.finditer(re.escape(payload), held):
                file.seek(found.start() + len(payload) // 2)
                file.write(b"\xff")

    @capability("goes on after a fork")
    def test_a_log_goes_on_in_both_processes_after_a_fork(self, log: EventLog) -> None:
        log.append([Append("t", 0, b"parent")])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                log.commit("child", "t", 0, log.append([Append("t", 0, b"child")])[0])
                code = 0 if [batch.payload for batch in log.read("t", 0, 0)] == [b"parent", b"child"] else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert log.append([Append("t", 0, b"parent again")]) == [2]
        assert log.groups() == {("child", "t", 0): 1}
        assert [batch.payload for batch in log.read("t", 0, 0)] == [b"parent", b"child", b"parent again"]

    @capability("a full disk area is told, with the cure")
    def test_a_full_map_is_reported_with_the_cure_and_stores_nothing(self, tmp_path: Path) -> None:
        log = LmdbEventLog(tmp_path / "small", UnrulyClock(), map_size=1 << 20)
        log.create("t")
        items = [Append("t", 0, b"x" * 30_000)]
        log.append(items)
        with pytest.raises(LogError, match="larger map_size"):
            _ = [log.append(items) for _ in range(100)]
        held = log.end("t", 0)
        log.close()
        larger = LmdbEventLog(tmp_path / "small", UnrulyClock(), map_size=1 << 30)
        assert larger.append([Append("t", 0, b"x" * 30_000)]) == [held]
        assert [batch.base for batch in larger.read("t", 0, 0)] == list(range(held + 1))
        larger.close()

    def test_a_log_follows_a_map_that_another_process_lets_grow(self, tmp_path: Path) -> None:
        log = LmdbEventLog(tmp_path / "grows", UnrulyClock(), map_size=1 << 20)
        log.create("t")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                log.close()
                grown = LmdbEventLog(tmp_path / "grows", UnrulyClock(), map_size=1 << 30)
                for _ in range(60):
                    grown.append([Append("t", 0, b"x" * 50_000)])
                code = 0
            finally:
                os._exit(code)
        assert log.end("t", 0) >= 0  # opens it anew after the fork, with the small map
        assert os.waitpid(child, 0)[1] == 0
        assert len(log.read("t", 0, 0)) == 60
        assert log.append([Append("t", 0, b"y")]) == [60]
        log.close()

    def test_a_topic_is_found_though_another_process_has_let_the_map_grow(self, tmp_path: Path) -> None:
        log = LmdbEventLog(tmp_path / "grows", UnrulyClock(), map_size=1 << 20)
        larger = partial(LmdbEventLog, tmp_path / "grows", UnrulyClock(), map_size=1 << 30)
        with started(create_and_append, larger, "u", b"y" * 3_000_000) as (_, pipe):
            pipe.recv_bytes()
        assert log.end("u", 1) == 1  # asks for the handle of a database with the small map still in place
        assert len(log.read("u", 1, 0)[0].payload) == 3_000_000
        log.close()

    def test_a_reader_that_another_process_took_for_dead_reads_on(self, log: EventLog, place: Path) -> None:
        log.append([Append("t", 0, b"x")])
        assert len(log.read("t", 0, 0)) == 1
        (place / "lock.mdb").read_bytes()  # closing the file drops the locks that say that this process is alive
        with started(create_and_append, self.opener(place), "u", b"y") as (_, pipe):
            pipe.recv_bytes()
        assert log.read("u", 1, 0)[0].payload == b"y"
        assert log.append([Append("t", 0, b"z")]) == [1]
        assert len(log.read("t", 0, 0)) == 2

    def test_an_unsynced_log_is_not_shared_as_a_synced_one(self, tmp_path: Path) -> None:
        unsynced = LmdbEventLog(tmp_path / "log", UnrulyClock(), sync=False)
        with pytest.raises(LogError, match="without sync"):
            LmdbEventLog(tmp_path / "log", UnrulyClock(), sync=True)
        unsynced.close()
        LmdbEventLog(tmp_path / "log", UnrulyClock(), sync=True).close()

    def test_a_folder_that_was_made_anew_is_a_new_log(self, tmp_path: Path) -> None:
        old = LmdbEventLog(tmp_path / "log", UnrulyClock())
        old.create("old")
        shutil.rmtree(tmp_path / "log")
        new = LmdbEventLog(tmp_path / "log", UnrulyClock())
        assert new.topics() == {}
        new.close()
        old.close()

    def test_a_file_that_is_no_log_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "log").mkdir()
        (tmp_path / "log" / "data.mdb").write_bytes(b"not a log" * 2_000)
        with pytest.raises(LogError, match=r"cannot open the event log: .*log"):
            LmdbEventLog(tmp_path / "log", UnrulyClock())
