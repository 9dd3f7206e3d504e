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


_CLUSTER = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--appendonly", "yes")
_CLUSTER += ("--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")


def replica_of(nodes: list[RedisServer], primary: RedisServer, folder: Path) -> RedisServer:
    """One more node of a cluster, which takes over when `primary` dies."""
    replica = RedisServer(folder, *_CLUSTER).start()
    nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", replica.port)
    name = primary.ask("CLUSTER MYID").decode()
    until(lambda: replica.ask("CLUSTER", "REPLICATE", name))
    until(lambda: replica.info("master_link_status") == "up")
    for node in nodes:
        until(lambda node=node: any(len(span) > 3 for span in _shards(node)))  # type: ignore[misc]
    return replica


def clustered(folder: Path, nodes: int = 3) -> list[RedisServer]:
    """A cluster of primaries, each with a share of the slots."""
    servers = [RedisServer(folder / f"node{number}", *_CLUSTER).start() for number in range(nodes)]
    share = -(-16384 // nodes)
    for number, server in enumerate(servers):
        server.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, 16384) - 1)
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for server in servers[1:]:
        servers[0].ask("CLUSTER", "MEET", "127.0.0.1", server.port)
    for server in servers:
        until(lambda server=server: b"cluster_state:ok" in _cluster_info(server))  # type: ignore[misc]
        until(lambda server=server: len(_shards(server)) == nodes)  # type: ignore[misc]
    return servers


def _cluster_info(server: RedisServer) -> bytes:
    with redis.Redis(port=server.port) as client:
        return b"cluster_state:ok" if client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" else b""


def _shards(server: RedisServer) -> Any:
    with redis.Redis(port=server.port) as client:
        return client.execute_command("CLUSTER SLOTS")


def move_a_slot(nodes: list[RedisServer], held: bytes) -> int:
    """Move the slot of some key whose name has `held` from the first node to the second; returns its keys."""
    first, second = nodes[0], nodes[1]
    name = next(key for key in first.ask("KEYS", "*") if held in key)
    slot = first.ask("CLUSTER KEYSLOT", name)
    ids = [node.ask("CLUSTER MYID").decode() for node in (first, second)]
    second.ask("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    first.ask("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    keys = first.ask("CLUSTER GETKEYSINSLOT", slot, 10_000)
    first.ask("MIGRATE", "127.0.0.1", second.port, "", 0, 5000, "KEYS", *keys)
    for node in (second, first, *nodes[2:]):
        node.ask("CLUSTER SETSLOT", slot, "NODE", ids[1])
    return len(keys)
