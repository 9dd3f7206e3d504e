"""A Kafka broker that a test owns: to be stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

from tests.services import address

ROOT = Path(__file__).parents[1]


class Broker:
    """A broker of this test's own."""

    def __init__(self) -> None:
        address("kafka")  # skips where there is none, or fails
        self.name = f"kafka-{uuid.uuid4().hex[:8]}"
        self.url = ""

    def start(self) -> Broker:
        self._run("start")
        self.url = (ROOT / ".services" / f"{self.name}.url").read_text().strip()
        return self

    def _run(self, verb: str) -> None:
        script = ROOT / "tools" / "services" / "kafka.sh"
        subprocess.run([script, verb], env={**os.environ, "HEADRACE_KAFKA": self.name}, check=True, timeout=120)

    def kill(self) -> None:
        """kill -9, at once."""
        os.kill(int((ROOT / ".services" / self.name / "pid").read_text()), signal.SIGKILL)

    def remove(self) -> None:
        """Stop it, and leave nothing of it."""
        self._run("stop")
        shutil.rmtree(ROOT / ".services" / self.name)
        for file in (ROOT / ".services").glob(f"{self.name}*.url"):
            file.unlink()
