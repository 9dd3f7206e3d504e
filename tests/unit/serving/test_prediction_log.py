"""The prediction log's writer: in order, off the response path, and nothing lost when the log is slow or refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from headrace.core.errors import LogError
from headrace.core.time import SimulatedClock
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.retrieval.predictions import ScoredBlock, read_predictions
from headrace.serving.prediction_log import PredictionLog
from tests.unit.serving.views import VIEW, features, request


def block(number: int) -> ScoredBlock:
    return ScoredBlock(
        "fraud",
        [f"p-{number}"],
        [str(number)],
        np.array([number]),
        number,
        request([str(number)], [number]),
        features([[number, None, None, None, None, None]]),
        {1: np.array([0.5])},
        1,
        VIEW.name,
        VIEW.version,
    )


def ids(log: MemoryEventLog) -> list[str]:
    return read_predictions(log, "fraud", VIEW)[0].ids


class GatedLog(MemoryEventLog):
    """Appends wait for `open`, and fail as often as `failures` says."""

    def __init__(self) -> None:
        super().__init__(SimulatedClock())
        self.open = threading.Event()
        self.failures = 0
        self.appends = 0

    def append(self, items: Sequence[Append]) -> list[int]:
        assert self.open.wait(10)
        if self.failures:
            self.failures -= 1
            raise LogError("the disk is full")
        self.appends += 1
        return super().append(items)


def test_at_once_means_that_it_is_there_when_write_returns() -> None:
    log = MemoryEventLog(SimulatedClock())
    predictions = PredictionLog(log)
    for number in range(3):
        predictions.write(block(number))
        assert ids(log) == [f"p-{i}" for i in range(number + 1)]
    assert predictions.written == 3


def test_gathered_blocks_go_in_one_append_or_when_flushed() -> None:
    log = GatedLog()
    log.open.set()
    predictions = PredictionLog(log, gather=3)
    for number in range(4):
        predictions.write(block(number))
    assert (log.appends, ids(log), predictions.queued) == (1, ["p-0", "p-1", "p-2"], 1)
    predictions.flush()
    assert ids(log)[-1] == "p-3"


def test_a_service_does_not_wait_for_the_log() -> None:
    log = GatedLog()
    predictions = PredictionLog(log, background=True)
    for number in range(200):
        predictions.write(block(number))
    assert predictions.written == 0
    log.open.set()
    predictions.close()
    assert ids(log) == [f"p-{i}" for i in range(200)]
    assert log.appends < 200


def test_a_full_queue_makes_the_writer_wait_and_loses_nothing() -> None:
    log = GatedLog()
    predictions = PredictionLog(log, background=True, capacity=5)
    threading.Timer(0.1, log.open.set).start()
    for number in range(600):
        predictions.write(block(number))
        assert predictions.queued <= 6
    assert log.open.is_set()
    predictions.close()
    assert ids(log) == [f"p-{i}" for i in range(600)]


def test_a_log_that_refuses_for_a_while_loses_nothing() -> None:
    log = GatedLog()
    log.open.set()
    log.failures = 2
    predictions = PredictionLog(log, background=True)
    for number in range(20):
        predictions.write(block(number))
    deadline = time.monotonic() + 10
    while predictions.written < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (predictions.failures, ids(log)) == (2, [f"p-{i}" for i in range(20)])
    predictions.close()


def test_a_log_that_refuses_says_so_to_a_replay_and_keeps_the_block() -> None:
    log = GatedLog()
    log.open.set()
    log.failures = 1
    predictions = PredictionLog(log)
    with pytest.raises(LogError, match="disk is full"):
        predictions.write(block(0))
    predictions.flush()
    assert ids(log) == ["p-0"]


def test_a_closed_log_takes_nothing() -> None:
    predictions = PredictionLog(MemoryEventLog(SimulatedClock()), background=True)
    predictions.close()
    with pytest.raises(LogError, match="closed"):
        predictions.write(block(0))


def test_many_threads_may_write() -> None:
    log = MemoryEventLog(SimulatedClock())
    predictions = PredictionLog(log, background=True, capacity=20)

    def write(start: int) -> None:
        for number in range(start, start + 100):
            predictions.write(block(number))

    threads = [threading.Thread(target=write, args=(1_000 * t,), daemon=True) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    predictions.close()
    got = [int(name[2:]) for name in ids(log)]
    assert sorted(got) == [1_000 * t + i for t in range(4) for i in range(100)]
    for t in range(4):
        assert [i for i in got if i // 1_000 == t] == [1_000 * t + i for i in range(100)]
