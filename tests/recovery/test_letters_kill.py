"""A replay of dead letters killed with -9 again and again publishes each of them once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from contextlib import nullcontext
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from pathlib import Path

from headrace.app.clock import SystemClock
from headrace.core.events import decode_block
from headrace.core.schema import DType, Field, Schema
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.features.plan import ProjectPlan, StreamPlan
from headrace.ingestion.letters import MENDS, DeadLetters
from headrace.ingestion.publisher import Publisher

LETTERS, AT_ONCE, LEAST_KILLS = 4_000, 7, 10
PIECES = LETTERS // AT_ONCE
AT = datetime(2026, 5, 1, tzinfo=timezone.utc).isoformat()
# No id is declared, so nothing but the mark keeps an event from counting twice.
BEFORE = Schema("Tick", (Field("n", DType.INT), Field("at", DType.TIMESTAMP)), "at")
AFTER = Schema("Tick", (*BEFORE.fields, Field("colour", DType.STRING, nullable=True)), "at")
_SERVER = multiprocessing.get_context("forkserver")


def opened(folder: Path, schema: Schema) -> tuple[LmdbEventLog, LmdbEventLog, DeadLetters]:
    clock, streams = SystemClock(), {"Tick": StreamPlan("Tick", schema)}
    raw = LmdbEventLog(folder / "raw", clock, sync=False)
    features = LmdbEventLog(folder / "features", clock, sync=False)
    publisher = Publisher(raw, streams, partitions=3)
    return raw, features, DeadLetters(features, raw, publisher, streams, clock, nullcontext, at_once=AT_ONCE)


def replay(folder: Path, pipe: Connection) -> None:
    """The work of a process that is killed."""
    _, _, letters = opened(folder, AFTER)
    pipe.send_bytes(b"started")

    def told(done: int) -> None:
        """Say that a piece is done and wait for leave to go on: whoever kills may come late, but not pieces late."""
        pipe.send_bytes(b"on")
        pipe.recv_bytes()

    letters.replay(who="tester", progress=told)
    pipe.send_bytes(b"done")
    time.sleep(60)


def heard(pipe: Connection) -> bytes:
    assert pipe.poll(60), "the replay says nothing"
    return pipe.recv_bytes()


def test_each_letter_is_published_once_however_often_the_replay_is_killed(tmp_path: Path) -> None:
    raw, features, letters = opened(tmp_path, BEFORE)
    publisher = Publisher(raw, {"Tick": StreamPlan("Tick", BEFORE)}, partitions=3)
    for start in range(0, LETTERS, 100):
        publisher.publish("Tick", [{"n": n, "at": AT, "colour": "red"} for n in range(start, start + 100)])
    compute = ComputeWorker(
        ProjectPlan({"Tick": StreamPlan("Tick", BEFORE)}, {}, {}, {}, {}), raw, features, tmp_path / "c", partitions=3
    )
    while compute.step():
        pass
    assert letters.find().total == LETTERS
    dice, kills, done = random.Random(20260501), 0, False
    while not done:
        pipe, there = _SERVER.Pipe()
        process = _SERVER.Process(target=replay, args=(tmp_path, there), daemon=True)
        process.start()
        there.close()
        assert heard(pipe) == b"started"
        for _ in range(dice.randrange(PIECES // LEAST_KILLS)):
            done = done or heard(pipe) == b"done"
            if not done:
                pipe.send_bytes(b"go on")
        time.sleep(dice.uniform(0.0, 0.002))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        pipe.close()
        kills += not done
    assert kills >= LEAST_KILLS
    _, _, again = opened(tmp_path, AFTER)
    assert again.find().total == 0
    assert again.count() == (LETTERS, 0)
    numbers: list[int] = []
    mends: list[str] = []
    schema = Schema("Tick", (*AFTER.fields, Field(MENDS, DType.STRING, nullable=True)), "at")
    for partition in range(3):
        for batch in raw.read("Tick", partition, 0, 1_000_000):
            block = decode_block(batch.payload, schema)
            fits = [row for row in range(block.n) if row not in {bad.row for bad in block.malformed}]
            numbers += [block.columns["n"].to_pylist()[row] for row in fits]
            mends += [block.columns[MENDS].to_pylist()[row] for row in fits]
    assert sorted(numbers) == list(range(LETTERS))
    assert len(set(mends)) == LETTERS
    raw.close()
    features.close()
