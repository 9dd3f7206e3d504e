"""Redis servers that a test owns: to be stopped, killed, failed over and put together to a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tests.services import missing


def program() -> str:
    """Path of redis-server; without one the test is skipped, or fails where CI demands it."""
    found = shutil.which("redis-server")
    if found is None:
        missing("redis", "there is no redis-server here: install it with: tools/services.sh start redis")
    return found


def free_port() -> int:
    """A port that nothing listens on, with room for that of a cluster's bus (10,000 above)."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port > 50_000:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something holds; fails if it does not in time. Errors of Redis count as "not yet"."""
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


class RedisServer:
    """A server process with its data in a folder."""

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        self.folder, self.password, self.options = folder, password, options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        command = [program(), *self.options, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), "--logfile", str(self.folder / "log")]
        if self.password:
            command += ["--requirepass", self.password, "--masterauth", self.password]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.ask("PING"))
        return self

    def ask(self, *command: Any) -> Any:
        """The answer to a command, over a connection of its own."""
        with redis.Redis(port=self.port, password=self.password or None) as client:
            return client.execute_command(*command)

    def info(self, name: str) -> Any:
        """A value of INFO."""
        return self.ask("INFO", "everything")[name]

    def kill(self) -> None:
        """kill -9, at once."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """End it as an operator would."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


def watched(folder: Path, primary: RedisServer, name: str) -> RedisServer:
    """A Sentinel that makes the replica of `primary` take over half a second after its death."""
    folder.mkdir(parents=True)
    config = folder / "sentinel.conf"
    lines = [f"sentinel monitor {name} 127.0.0.1 {primary.port} 1", f"sentinel down-after-milliseconds {name} 500"]
    if primary.password:
        lines.append(f"sentinel auth-pass {name} {primary.password}")
    config.write_text("\n".join([*lines, f"sentinel failover-timeout {name} 2000", ""]))
    return RedisServer(folder, str(config), "--sentinel").start()
