"""`headrace up` as a process that a test watches, and everything it started."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

HEADRACE = [sys.executable, "-m", "headrace"]
LAYERS = ("compute", "ingest", "serve", "schedule")


class Up:
    """A running `headrace up`, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*HEADRACE, "up", "--port", "0", "--project", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def beat(self, layer: str) -> dict[str, Any]:
        file = self.folder / ".headrace" / "run" / f"{layer}.json"
        return dict(json.loads(file.read_text()))

    @property
    def address(self) -> str:
        """Where the service listens; one that is just starting has not said so yet."""
        eventually(lambda: bool(self.beat("serve")["address"]), self)
        return str(self.beat("serve")["address"])

    def said(self, pattern: str, times: int = 1) -> bool:
        return sum(re.search(pattern, line) is not None for line in list(self.lines)) >= times

    def finish(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(90)
        self.close()
        return code

    def close(self) -> None:
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()  # may be closed already


def eventually(what: Callable[[], bool], up: Up, seconds: float = 90.0) -> None:
    """Wait until it is so; a layer may be restarting meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert up.process.poll() is None, "\n".join(up.lines)
        try:
            if what():
                return
        except (httpx.HTTPError, OSError, KeyError, json.JSONDecodeError):
            pass
        time.sleep(0.05)
    pytest.fail("it never came:\n" + "\n".join(up.lines))


@contextmanager
def running(folder: Path) -> Iterator[Up]:
    """A running `headrace up` of a project, all layers announced; nothing of it is left afterwards."""
    up = Up(folder)
    try:
        eventually(lambda: up.said("all layers are up"), up, 90)
        yield up
    finally:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
        up.close()
        for layer in LAYERS:
            try:
                os.kill(up.beat(layer)["pid"], signal.SIGKILL)
            except (OSError, KeyError, json.JSONDecodeError):
                continue
