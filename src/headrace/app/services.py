"""The layers as processes: each takes its lock, works in steps, reports once a second, and stops after a step."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from headrace.app.heartbeats import COPY, Heartbeat, layer_counters, stalled_layers, write_heartbeat
from headrace.app.locks import FolderLock
from headrace.app.sharing import beside_others, worker_slot, workers_of
from headrace.app.sides import BESIDE_LAYERS
from headrace.core.errors import ConfigError, StoreError, Unreachable
from headrace.serving.listener import INHERITED

if TYPE_CHECKING:
    from headrace.app.archives import Archiving
    from headrace.app.wiring import Parts
    from headrace.derivation.worker import ComputingLayer
    from headrace.engines.stream.following import FollowingWorker
    from headrace.serving.prediction_log import PredictionLog

_logger = logging.getLogger("headrace.app")
BUSY_S, IDLE_S = 0.001, 0.05
_BEAT_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Between two calls of a server that is away."""
_ARCHIVE_EVENTS = 100_000

T = TypeVar("T")


class Layer(ABC):
    """The work of one layer."""

    name: str
    stopping: Callable[[], bool] = staticmethod(lambda: False)
    """What a long step asks on its way: whether it shall end soon; what is left is done after the next start."""
    alive: Callable[[], object] = staticmethod(lambda: None)
    """What a long step calls on its way."""

    @abstractmethod
    def step(self) -> int:
        """Do what is waiting, a bounded piece of it; returns how much was done (0: nothing was waiting)."""

    def lag(self) -> int:
        """What is still waiting."""
        return 0

    def counters(self) -> dict[str, float]:
        """Totals since the start."""
        return {}

    def problem(self) -> str:
        """What keeps a part of the work waiting although the layer runs; empty if nothing does."""
        return ""

    @abstractmethod
    def finish(self, *, drain: bool) -> None:
        """Do what makes the next start cheap; called once, after the last step.

        `drain`: nothing more will come, so finish what lags behind too.
        """


class ComputeLayer(Layer):
    """Stream compute."""

    name = "compute"

    def __init__(self, parts: Parts) -> None:
        self._worker: ComputingLayer | FollowingWorker = parts.following() if parts.beside else parts.compute()
        self._worker.checkpoint()
        self._problem = ""
        self._lag = 0

    def step(self) -> int:
        # A step that fails has done nothing, and the next one begins where the feature log ends.
        try:
            done = self._worker.step()
        except Unreachable as error:
            self._problem = str(error)
            return 0
        self._problem = ""
        return done

    def lag(self) -> int:
        with suppress(Unreachable):
            self._lag = sum(self._worker.lag().values())
        return self._lag

    def problem(self) -> str:
        return self._problem

    def counters(self) -> dict[str, float]:
        return {"counted": self._worker.counted, "dead_letters": self._worker.dead}

    def finish(self, *, drain: bool) -> None:
        self._worker.checkpoint()


class IngestLayer(Layer):
    """Ingestion into both stores; the archive has a thread of its own. Beside the served side, into its own online
    store alone: the archive is common."""

    name = "ingest"

    def __init__(self, parts: Parts) -> None:
        from headrace.app.archives import Archiving
        from headrace.app.ingesting import Ingesting

        self._online = Ingesting(parts)
        self._archive: Archiving | None = None if parts.beside else Archiving(parts)
        self._fresh = 0

    def step(self) -> int:
        if self._archive is None:
            return self._online.step()
        if self._archive.failure is not None:
            raise self._archive.failure
        done = self._online.step()
        self._fresh += done
        if self._fresh >= _ARCHIVE_EVENTS // 1_000:
            self._fresh = 0
            self._archive.wake()
        return done

    def lag(self) -> int:
        return self._online.lag()

    def counters(self) -> dict[str, float]:
        return {**self._online.counters(), **({} if self._archive is None else self._archive.counters())}

    def problem(self) -> str:
        return self._online.problem or ("" if self._archive is None else self._archive.problem)

    def finish(self, *, drain: bool) -> None:
        if self._archive is not None:
            self._archive.stop()
        if drain:  # who stops this process does not wait for the archive: the logs hold what it lacks
            if self._archive is not None:
                self._archive.drain()
            if self._online.problem:
                raise Unreachable(self._online.problem)


class ScheduleLayer(Layer):
    """Batch tables, truth, monitors, retraining and the audit, on their schedules."""

    name = "schedule"

    def __init__(self, parts: Parts) -> None:
        from headrace.app.reconciling import Reconciling
        from headrace.app.schedules import project_scheduler, sources_of
        from headrace.orchestration.jobs import RunControl

        self._parts = parts
        self._runner = parts.batch(sources_of(parts))
        control = RunControl(lambda: self.stopping(), lambda: self.alive())
        self._scheduler, self._at_start = project_scheduler(parts, self._runner, control, reconcile=False)
        self._reconciling = Reconciling(parts) if parts.settings.reconcile_s else None
        self._clock = parts.clock
        self._ran = 0
        self._pause_s, self._again_at = 0.0, 0.0
        self._problem = ""

    def step(self) -> int:
        if self._reconciling is not None and self._reconciling.failure is not None:
            raise self._reconciling.failure
        if time.monotonic() < self._again_at:
            return 0
        try:
            ran = self._run(self._clock.now_us())
        except Unreachable as error:
            # The catalog is away. What could not be recorded as done is done again: jobs may be repeated.
            self._problem = str(error)
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._again_at = time.monotonic() + self._pause_s
            return 0
        self._problem, self._pause_s = "", 0.0
        self._ran += ran
        return ran

    def _run(self, now_us: int) -> int:
        if not self._at_start:
            return self._scheduler.run_due(now_us)
        self._scheduler.run_now(self._at_start[0], now_us, "start")
        self._at_start.pop(0)
        return 1

    def problem(self) -> str:
        return self._problem or ("" if self._reconciling is None else self._reconciling.problem)

    def lag(self) -> int:
        return len(self._at_start) + (1 if self._scheduler.next_us <= self._clock.now_us() else 0)

    def counters(self) -> dict[str, float]:
        rows = self._runner.totals
        return {
            "jobs_run": self._ran,
            "rows_read": rows.read,
            "rows_unchanged": rows.unchanged,
            "rows_written": rows.written,
            "rows_dead": rows.dead,
            "throttled_s": self._parts.throttled_s,
            **({} if self._reconciling is None else self._reconciling.counters()),
        }

    def finish(self, *, drain: bool) -> None:
        """Every run is recorded as it ends; what the comparison has not finished is begun again."""
        if self._reconciling is not None:
            self._reconciling.stop()


def _copy(parts: Parts) -> Layer:
    from headrace.app.copying import CopyLayer

    return CopyLayer(parts)


LAYER_CLASSES: dict[str, Callable[[Parts], Layer]] = {
    "compute": ComputeLayer,
    "ingest": IngestLayer,
    "schedule": ScheduleLayer,
    COPY: _copy,
}


def run_layer(parts: Parts, name: str, *, once: bool = False, parent: int | None = None) -> None:
    """Run a layer until SIGTERM or SIGINT (or, with `once`, until nothing is waiting), then finish and return.

    `parent`: stop also when the process of that id is no longer the parent. Raises Busy naming the holder if the layer
    runs already, unless the settings say that it has several workers.
    """
    if parts.beside and name not in BESIDE_LAYERS:
        raise ConfigError(f"{name} runs for the served side alone; beside it run {' and '.join(BESIDE_LAYERS)}")
    if parts.beside and not parts.side.ready:
        raise StoreError(f"side {parts.side.name} is not filled yet: go on with headrace beside start")
    if name == "serve":
        if once:
            raise ConfigError("serve answers until it is stopped; --once is for compute, ingest, schedule and copy")
        _serve(parts, parent)
        return
    state = parts.settings.state
    # Beside the served side one worker of each layer follows; it has no share to give.
    if workers_of(parts.settings, name) > 1 and not parts.beside:
        from headrace.app.shared_layers import SharedCompute, SharedIngest

        kind = SharedCompute if name == "compute" else SharedIngest
        with beside_others(parts.settings, name), worker_slot(state, name) as slot, stop_on_signals() as stopped:
            _loop(parts, kind(parts, slot), stopped, once, parent)
        return
    with FolderLock(parts.role_folder, name), stop_on_signals() as stopped:
        layer = LAYER_CLASSES[name](parts)
        _loop(parts, layer, stopped, once, parent)


def until_reached(work: Callable[[], T], say: Callable[[str], object]) -> T:
    """What `work` returns, once the servers that it needs answer; `say` gets the first reason to wait."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            return work()
        except Unreachable as error:
            if pause == FIRST_PAUSE_S:
                say(f"waiting: {error}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loop(parts: Parts, layer: Layer, stopped: threading.Event, once: bool, parent: int | None) -> None:
    beat = Beat(parts, layer.name)
    layer.stopping = lambda: stopped.is_set() or orphaned(parent)
    layer.alive = lambda: beat.maybe(0, layer)
    pause = BUSY_S
    problem, drained = "", False
    beat.write(layer.lag(), layer.counters())
    try:
        while not stopped.is_set() and not orphaned(parent):
            done = layer.step()
            if once and not done:
                drained = True
                break
            beat.maybe(done, layer)
            pause = BUSY_S if done else min(pause * 2, IDLE_S)
            if not done:
                stopped.wait(pause)
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
        raise
    else:
        layer.finish(drain=drained)
    finally:
        beat.write(0 if problem else layer.lag(), layer.counters(), problem=problem or layer.problem())


def orphaned(parent: int | None) -> bool:
    """True if the process that started this one is gone."""
    return parent is not None and os.getppid() != parent


class Beat:
    """Writes a layer's heartbeat about once a second."""

    def __init__(self, parts: Parts, layer: str, address: str = "") -> None:
        self._parts = parts
        self._layer = layer
        self._started = parts.clock.now_us()
        self._written = time.monotonic()
        self._done = 0
        self.address = address

    def maybe(self, done: int, layer: Layer) -> None:
        """Note work that was done; write if a second has passed."""
        self._done += done
        passed = time.monotonic() - self._written
        if passed >= _BEAT_S:
            self.write(layer.lag(), layer.counters(), rate=self._done / passed, problem=layer.problem())

    def write(self, lag: int, counters: dict[str, float], *, rate: float = 0.0, problem: str = "") -> None:
        """Write it now."""
        self._written, self._done = time.monotonic(), 0
        now = self._parts.clock.now_us()
        beat = Heartbeat(
            self._layer, os.getpid(), self._started, now, lag, rate, counters, self.address, problem, sys.executable
        )  # fmt: skip
        write_heartbeat(self._parts.role_folder, beat)


def _serve(parts: Parts, parent: int | None) -> None:
    from headrace.app.access import check_address, is_loopback, tls_of
    from headrace.app.erasures import Erasures
    from headrace.app.letters import letters_of
    from headrace.app.models import scorer_of
    from headrace.serving.access import Access
    from headrace.serving.http import serve
    from headrace.serving.notes import PutNotes
    from headrace.serving.prediction_log import PredictionLog
    from headrace.serving.service import Service

    settings = parts.settings
    check_address(parts)
    tls = tls_of(settings)
    if tls is None and not is_loopback(settings.host):
        _logger.warning("keys and data travel in clear text: set tls_cert and tls_key, or put a proxy with TLS before")
    with FolderLock(settings.state, "serve"):
        log = PredictionLog(parts.internal, background=True)
        service = Service(
            parts.plan, parts.clock, parts.publisher(), parts.online, parts.horizon_us, parts.internal,
            {name: scorer_of(parts, model, log) for name, model in parts.plan.models.items()}, log, parts.raw,
            parts.features, lambda: layer_counters(settings.state),
            lambda: stalled_layers(settings.state, parts.clock.now_us()), Access(parts.catalog.keys, parts.clock),
            PutNotes(parts.catalog.changes), letters_of(parts), Erasures(parts),
        )  # fmt: skip
        beat = Beat(parts, "serve")
        done = threading.Event()

        def beating() -> None:
            before = log.written
            while not done.wait(_BEAT_S):
                beat.write(log.queued, _served(log), rate=(log.written - before) / _BEAT_S)
                before = log.written
                if orphaned(parent):
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        thread = threading.Thread(target=beating, name="heartbeat", daemon=True)

        def ready(port: int) -> None:
            beat.address = f"{'http' if tls is None else 'https'}://{settings.host}:{port}"
            beat.write(0, _served(log))
            thread.start()

        try:
            with stop_on_signals():
                serve(service, settings.host, settings.port, listener=_inherited(), on_ready=ready, tls=tls)
        finally:
            done.set()
            log.close()
            beat.address = ""
            beat.write(0, _served(log))


def _inherited() -> socket.socket | None:
    """The socket that whoever started this process has opened for it."""
    number = os.environ.pop(INHERITED, None)
    return None if number is None else socket.socket(fileno=int(number))


def _served(log: PredictionLog) -> dict[str, float]:
    return {"predictions": log.written, "log_failures": log.failures}
