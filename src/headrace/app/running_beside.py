"""A run beside as Python and the command line steer it: both call these methods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from headrace.app.beside import (
    SideStatus,
    begin_side,
    catch_up_as,
    drop,
    fill_side,
    run_as,
    side_status,
    switch,
)
from headrace.app.heartbeats import read_heartbeat
from headrace.app.locks import holder_of, holder_pid
from headrace.app.sides import BESIDE, BESIDE_LAYERS
from headrace.core.errors import Busy, StoreError

if TYPE_CHECKING:
    from headrace.app.comparing import Compared
    from headrace.app.settings import Settings
    from headrace.app.wiring import Parts

_START_S, _STOP_S = 90.0, 60.0
_started: list[subprocess.Popen[bytes]] = []
"""Supervisors that this process started; they go on without it."""


class BesideStatus(msgspec.Struct, frozen=True):
    """The sides, and how far they are.

    Attributes:
        served: what is served.
        beside: what runs beside it; None if nothing does.
        follows: whether the layers of that one run.
    """

    served: SideStatus
    beside: SideStatus | None
    follows: bool

    def __str__(self) -> str:
        lines = [str(side) for side in (self.served, self.beside) if side is not None]
        if self.beside is not None and not self.follows:
            lines.append("its layers do not run; start them with: headrace beside start")
        return "\n".join(lines)


class Switched(msgspec.Struct, frozen=True):
    """Sides that were switched: what is served from a commit on, and what runs beside it now."""

    served: str
    beside: str
    commit: int

    def __str__(self) -> str:
        return f"side {self.served} is served from commit {self.commit:,} on; {self.beside} runs beside it"


class RunBeside:
    """Another version beside the served one; `project.beside` gives it.

    Its layers are processes of their own, which follow what is served until `stop`. Without them it is brought up to
    what is served whenever it is compared or switched to.
    """

    def __init__(self, parts: Parts, ensure_applied: Callable[[], object], changed: Callable[[], object]) -> None:
        """`ensure_applied` is called before anything is computed, `changed` when another side is served than before."""
        self._parts, self._ensure_applied, self._changed = parts, ensure_applied, changed

    def start(
        self,
        name: str = "green",
        *,
        python: str | None = None,
        from_beginning: bool = False,
        follow: bool = True,
        progress: Callable[[int, int], None] | None = None,
        said: Callable[[str], object] = lambda _: None,
    ) -> BesideStatus:
        """Begin a side, or go on with it: make its records from archive and log, then start its layers.

        `python` is the interpreter of the environment with the new version (this one). `from_beginning` computes every
        event of the raw topics instead. With `follow=False` no layer is started. `progress` gets how many records are
        made and how many there are. Raises Busy if another side runs beside, ConfigError if the name or the interpreter
        is none, PlanError if the logs no longer hold the beginning.
        """
        self._ensure_applied()
        self._go_over()
        side = begin_side(self._parts, name, python or sys.executable)
        if not side.ready:
            said(f"side {name}: making its records, by {side.interpreter}")
            if side.interpreter == sys.executable:
                fill_side(self._parts, from_beginning=from_beginning, progress=progress)
            else:
                beginning = ["--from-beginning"] if from_beginning else []
                run_as(side, self._parts.settings, ["fill", *beginning])
            said(f"side {name} is filled")
        if follow and not self._follows:
            _start_layers(self._parts.settings, name)
        return self.status()

    def status(self) -> BesideStatus:
        """The sides and how far they are."""
        self._go_over()
        served, *others = side_status(self._parts)
        return BesideStatus(served, others[0] if others else None, self._follows)

    def compare(self, sample: int | None = 1_000) -> Compared:
        """Compare every feature of both sides at equal positions, bit by bit: of `sample` entities of each group and
        table, or of all (None). Raises NotFound if nothing runs beside, StoreError if it does not catch up."""
        from headrace.app.comparing import compare_sides

        self._ensure_applied()
        self._go_over()
        if not self._follows:
            with suppress(Busy):  # they have just been started
                catch_up_as(self._parts, self._parts.sides.need_beside())
        return compare_sides(self._parts, sample)

    def switch(self) -> Switched:
        """Serve what runs beside, from one commit on; what was served runs beside it from then on.

        Compute, ingestion and schedules rest for some seconds, the service goes on. Raises PlanError if the two sides
        disagree about which events count, or if there is one to go `back` to.
        """
        return self._switch(back=False)

    def back(self) -> Switched:
        """Serve what was served before; nothing that came meanwhile is lost."""
        return self._switch(back=True)

    def _switch(self, *, back: bool) -> Switched:
        from headrace.engines.stream.commits import WINDOWS

        self._ensure_applied()
        self._go_over()
        sides = switch(self._parts, back=back)
        self._go_over()
        commit = self._parts.features.end(WINDOWS, 0)
        return Switched(sides.served.name, sides.need_beside().name, commit)

    def stop(self) -> BesideStatus:
        """Stop the layers of what runs beside; it stays, and `start` goes on with it."""
        _stop_layers(self._parts.settings)
        return self.status()

    def drop(self) -> BesideStatus:
        """Remove what runs beside, with its layers; raises NotFound if nothing does."""
        self._go_over()
        drop(self._parts)
        return self.status()

    def _go_over(self) -> None:
        """Whoever has the project open goes on with what is served now."""
        if self._parts.refresh_side():
            self._changed()

    @property
    def _follows(self) -> bool:
        return holder_of(self._parts.settings.state / BESIDE, "compute") is not None


def _start_layers(settings: Settings, name: str) -> None:
    """Start what supervises the layers as a process of its own; returns when they run."""
    state = settings.state / BESIDE
    environment = [] if settings.env == "default" else ["--env", settings.env]
    log = state / "run" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "headrace", "beside", "start", "--name", name, "--project", str(settings.folder),
                *environment,
            ],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            env={**os.environ, "HEADRACE_STATE": str(settings.state)},
        )  # fmt: skip
    _started.append(process)
    deadline = time.monotonic() + _START_S
    while not all(_runs(settings, layer) for layer in BESIDE_LAYERS):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()
            raise StoreError(f"the layers beside did not start: {said[-1] if said else 'it said nothing'}; see {log}")
        time.sleep(0.05)


def _runs(settings: Settings, layer: str) -> bool:
    """True once the process of a layer has said how it is."""
    state = settings.state / BESIDE
    beat, pid = read_heartbeat(state, layer), holder_pid(state, layer)
    return beat is not None and beat.pid == pid


def _stop_layers(settings: Settings) -> None:
    state = settings.state / BESIDE
    pid = holder_pid(state, "up")
    if pid is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while any(holder_of(state, role) is not None for role in ("up", *BESIDE_LAYERS)):
        if time.monotonic() > deadline:
            raise StoreError(f"process {pid}, which runs the layers beside, does not end; see {state / 'run'}")
        time.sleep(0.05)
    for process in _started:
        if process.pid == pid:
            process.wait(_STOP_S)
