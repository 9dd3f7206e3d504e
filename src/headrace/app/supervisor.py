"""`headrace up`: all layers as processes on one machine, restarted when they die, and anew when definitions change.

`apply` asks for rest by holding a lock: what computes and stores stops, the service goes on answering by the former
definitions, and when the lock is free all layers start with the new ones. The supervisor owns the socket that the
service listens on, so while the service starts anew its callers wait and are not refused.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.app.heartbeats import COPY, LAYERS, read_heartbeat
from headrace.app.locks import APPLY, FolderLock, holder_of
from headrace.app.services import stop_on_signals
from headrace.app.sharing import process_names
from headrace.app.sides import BESIDE, BESIDE_LAYERS
from headrace.core.errors import StoreError, Unreachable
from headrace.serving.listener import INHERITED, listen

if TYPE_CHECKING:
    import socket
    import threading

    from headrace.app.settings import Settings

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_STEADY_S = 30.0
_GIVE_UP_AFTER = 3
_STOP_S = 20.0


@dataclass(slots=True)
class _Child:
    layer: str
    process: subprocess.Popen[bytes]
    started: float
    announced: bool = False
    failures: int = 0


@dataclass(slots=True)
class Supervisor:
    """Starts the layers, says what happens, restarts what dies and stops them all.

    Args:
        settings: of the project.
        say: told one line per layer, restart and stop.
        environment: variables that the layers get beside this process's own.
        command: how a layer is started; `headrace run LAYER` if None.
        beside: supervises the layers of the side that runs beside the served one, as long as there is one.
        interpreter: gives the Python that starts the layers; None if there is nothing to run any more.
    """

    settings: Settings
    say: Callable[[str], None]
    environment: dict[str, str] = field(default_factory=dict)
    command: Callable[[str], list[str]] | None = None
    beside: bool = False
    interpreter: Callable[[], str | None] = lambda: sys.executable
    restarts: int = 0
    _python: str = sys.executable
    _door: socket.socket | None = None
    _children: dict[str, _Child] = field(default_factory=dict)

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT. Raises Busy, naming the holder, if the folder is up already, ConfigError
        if the address cannot be listened on, and StoreError if a layer cannot be started."""
        settings = self.settings
        with (
            FolderLock(self._folder, "up"),
            nullcontext() if self.beside else listen(settings.host, settings.port) as self._door,
            stop_on_signals() as stopped,
        ):
            try:
                self._start_all()
                self._watch(stopped)
            finally:
                self._stop()

    @property
    def _folder(self) -> Path:
        """Where the locks, heartbeats and logs of the layers lie."""
        return self.settings.state / BESIDE if self.beside else self.settings.state

    @property
    def _layers(self) -> Sequence[str]:
        """The names of the processes: of the layers, and of workers beside the first of one."""
        if self.beside:
            return BESIDE_LAYERS
        return [*process_names(self.settings, LAYERS), *([COPY] if self.settings.copied else [])]

    def _start_all(self) -> bool:
        """Start every layer; False if there is nothing to run any more."""
        with suppress(Unreachable):  # of the catalog: as it was, then
            python = self.interpreter()
            if python is None:
                return False
            self._python = python
        for layer in self._layers:
            self._start(layer)
        return True

    def _watch(self, stopped: threading.Event) -> None:
        up = False
        while not stopped.wait(0.1):
            if holder_of(self._folder, APPLY) is not None:
                if not self._rest(stopped):
                    return
                up = False
            for child in list(self._children.values()):
                if child.process.poll() is not None:
                    self._restart(child, stopped)
                elif not child.announced:
                    self._announce(child)
            if not up and all(child.announced for child in self._children.values()):
                up = True
                self.say("all layers are up; stop with Ctrl-C")

    def _start(self, layer: str, failures: int = 0) -> None:
        log = self.log_of(layer)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = self._command(layer) if self.command is None else self.command(layer)
        with log.open("ab") as file:
            # A session of its own, so that Ctrl-C reaches the supervisor alone, which then stops the layers in order.
            door = self._door.fileno() if layer == "serve" and self._door is not None else None
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                pass_fds=() if door is None else (door,),
                env={
                    **os.environ, "HEADRACE_STATE": str(self.settings.state), **self.environment,
                    **({} if door is None else {INHERITED: str(door)}),
                },
            )  # fmt: skip
        self._children[layer] = _Child(layer, process, time.monotonic(), failures=failures)

    def _command(self, layer: str) -> list[str]:
        settings = self.settings
        environment = [] if settings.env == "default" else ["--env", settings.env]
        where = ["--project", str(settings.folder), "--parent", str(os.getpid())]
        beside = ["--beside"] if self.beside else []
        return [self._python, "-m", "headrace", "run", _layer_of(layer), *where, *environment, *beside]

    def _announce(self, child: _Child) -> None:
        # A worker of several takes whichever name is free.
        names = [name for name in self._layers if _layer_of(name) == _layer_of(child.layer)]
        beats = [read_heartbeat(self._folder, name) for name in names]
        beat = next((beat for beat in beats if beat is not None and beat.pid == child.process.pid), None)
        if beat is None:
            return
        child.announced = True
        where = f" at {beat.address}" if beat.address else ""
        self.say(f"{child.layer:<9} process {beat.pid}{where}")

    def _restart(self, child: _Child, stopped: threading.Event) -> None:
        code = child.process.returncode
        steady = time.monotonic() - child.started > _STEADY_S or child.announced
        failures = 1 if steady else child.failures + 1
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = self._last_words(child.layer)
        # Whom somebody kills, again and again even, may well start.
        if failures >= _GIVE_UP_AFTER and code not in (-signal.SIGKILL, -signal.SIGTERM):
            raise StoreError(f"layer {child.layer} does not start ({how}): {last or 'it said nothing'}")
        pause = min(_FIRST_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S)
        self.say(f"{child.layer:<9} ended ({how}{f': {last}' if last and code > 0 else ''}), restarting in {pause:g} s")
        self.restarts += 1
        if not stopped.wait(pause):
            self._start(child.layer, failures)

    def _rest(self, stopped: threading.Event) -> bool:
        """Stand still for whoever changes what is run, then start all layers anew; False if there are none any more."""
        resting = "compute and ingest rest" if self.beside else "compute, ingest and schedule rest, serve goes on"
        self.say(f"definitions are being applied, or sides switched: {resting}")
        self._stop((COPY, "schedule", "compute", "ingest"))
        while holder_of(self._folder, APPLY) is not None and not stopped.wait(0.1):
            pass
        if stopped.is_set():
            return True
        self._stop(("serve",))
        return self._start_all()

    def _stop(self, layers: Sequence[str] = ("serve", COPY, "schedule", "compute", "ingest")) -> None:
        """Stop the door first, then what stands behind it, so that what was accepted is computed and stored."""
        names = [name for layer in layers for name in self._layers if _layer_of(name) == layer]
        stopping = {name: self._children.pop(name) for name in names if name in self._children}
        for child in stopping.values():
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + _STOP_S
        for layer, child in stopping.items():
            try:
                code = child.process.wait(max(deadline - time.monotonic(), 0.1))
                self.say(f"{layer:<9} stopped" if code == 0 else f"{layer:<9} stopped with exit code {code}")
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
                self.say(f"{layer:<9} did not stop within {_STOP_S:g} s and was killed; nothing is lost by that")

    def log_of(self, layer: str) -> Path:
        """File that holds what a layer says."""
        return self._folder / "run" / f"{layer}.log"

    def _last_words(self, layer: str) -> str:
        try:
            lines = self.log_of(layer).read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:300] if lines else ""


def _layer_of(name: str) -> str:
    """The layer of a process; workers beside the first have a number behind it."""
    return name.partition("-")[0]
