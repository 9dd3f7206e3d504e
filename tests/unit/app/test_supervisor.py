"""The supervisor, with layers that are a line of Python."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.app.heartbeats import LAYERS
from headrace.app.locks import FolderLock, layers_at_rest
from headrace.app.settings import Settings
from headrace.app.supervisor import Supervisor
from headrace.core.errors import Busy, StoreError

_LAYER = """
import os, sys, time
from pathlib import Path
from headrace.app.heartbeats import Heartbeat, write_heartbeat
import signal
signal.signal(signal.SIGTERM, lambda *_: (print("ended"), os._exit(0)))
write_heartbeat(Path(sys.argv[1]), Heartbeat(sys.argv[2], os.getpid(), 0, 0))
while True:
    time.sleep(0.05)
"""


def steady(state: Path) -> Callable[[str], list[str]]:
    return lambda layer: [sys.executable, "-c", _LAYER, str(state), layer]


def failing(layer: str) -> list[str]:
    return [sys.executable, "-c", "import sys; sys.exit('the disk is full')"]


class Said(list[str]):
    """What the supervisor says; `on` does something once a line holds some text."""

    def __init__(self, on: dict[str, Callable[[], None]]) -> None:
        super().__init__()
        self._on = on

    def __call__(self, line: str) -> None:
        self.append(line)
        for text in [text for text in self._on if text in line]:
            self._on.pop(text)()


def stop() -> None:
    """SIGTERM to this process, from a thread, as an operator would."""
    threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()


def test_layers_are_started_announced_restarted_and_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state"
    settings = Settings(tmp_path, state=state, port=0)
    supervisor = Supervisor(settings, print, command=steady(state))

    def kill_one() -> None:
        child = supervisor._children["ingest"].process
        supervisor.say = Said({"ingest    process": stop})
        said.append("killed")
        child.kill()

    said = Said({"all layers are up": kill_one})
    supervisor.say = said
    supervisor.run()
    later = supervisor.say
    assert isinstance(later, Said)
    assert {line.split()[0] for line in said[:4]} == set(LAYERS)
    assert supervisor.restarts == 1
    assert later[0].startswith("ingest    ended (signal SIGKILL)")
    assert sorted(line.split()[0] for line in later if line.endswith("stopped")) == sorted(LAYERS)
    assert all("ended" in supervisor.log_of(layer).read_text() for layer in LAYERS)


def test_a_layer_that_never_starts_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(Settings(tmp_path, state=tmp_path / "s", port=0), said.append, command=failing)
    with pytest.raises(StoreError, match=r"layer \w+ does not start \(exit code 1\): the disk is full"):
        supervisor.run()
    assert any("restarting in" in line for line in said)


def test_a_second_one_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    settings = Settings(tmp_path, state=tmp_path / "s", port=0)
    with FolderLock(settings.state, "up"), pytest.raises(Busy, match=f"process {os.getpid()}"):
        Supervisor(settings, print, command=failing).run()


def test_layers_rest_while_definitions_change_and_start_anew(tmp_path: Path) -> None:
    state = tmp_path / "state"
    supervisor = Supervisor(Settings(tmp_path, state=state, port=0), print, command=steady(state))
    seen: dict[str, set[str]] = {}

    def apply() -> None:
        before = {layer: child.process.pid for layer, child in supervisor._children.items()}
        with layers_at_rest(state, LAYERS, answering=("serve",)):
            while len(supervisor._children) > 1:
                time.sleep(0.02)
            seen["at rest"] = {x for x in LAYERS if x not in supervisor._children}
            seen["answering"] = {x for x, child in supervisor._children.items() if child.process.pid == before[x]}
        said.clear()
        said._on["all layers are up"] = lambda: (
            seen.update(anew={x for x, c in supervisor._children.items() if c.process.pid != before[x]}),
            stop(),
        )[0]

    said = Said({"all layers are up": lambda: threading.Thread(target=apply, daemon=True).start()})
    supervisor.say = said
    supervisor.run()
    assert seen == {"at rest": {"compute", "ingest", "schedule"}, "answering": {"serve"}, "anew": set(LAYERS)}
