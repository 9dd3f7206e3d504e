"""The last part of a demo: what comes up after the replay goes over HTTP to the services of `headrace up`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.app.replaying import History, ReplayRun
from headrace.app.settings import SCHEMES
from headrace.core.columns import Column, FloatArray
from headrace.core.errors import StoreError
from headrace.core.schema import DType, Schema
from headrace.core.time import US_PER_MINUTE, to_iso

_SLICE_US = 10 * US_PER_MINUTE
_START_S = 60.0


@dataclass(slots=True)
class LiveResult:
    """Requests scored and events published over HTTP; `latencies_ms` float64 [requests], as the client saw them."""

    requests: int
    events: int
    latencies_ms: FloatArray
    failed: int


def run_live(run: ReplayRun, history: History, until_us: int, meanwhile: Callable[[], object]) -> LiveResult:
    """Start `headrace up` on the replay's state, send it what came up until `until_us`, and stop it.

    Events go in simulated slices of ten minutes, each before the requests of that time. `meanwhile` is done while the
    services start.
    """
    with _services(run, meanwhile) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        start, path = run.spec.until_us, f"/v1/models/{run.model.name}/score"
        requests = history.clean[run.parts.plan.views[run.model.view].stream]
        first, last = np.searchsorted(requests.known_us, [start, until_us], "right").tolist()
        bodies = [json.dumps(row) for row in _rows(requests.schema, requests.block.slice(first, last).columns)]
        times = requests.known_us[first:last].tolist()
        at = {name: int(np.searchsorted(s.known_us, start, "right")) for name, s in history.arriving.items()}
        latencies: list[float] = []
        events = failed = sent = 0
        for edge in range(start + _SLICE_US, until_us + _SLICE_US, _SLICE_US):
            batch: list[Any] = []
            for name, stream in history.arriving.items():
                stop = int(np.searchsorted(stream.known_us, edge - _SLICE_US, "right"))
                block = stream.block(at[name], stop)
                broken = {bad.row: json.loads(bad.payload) for bad in block.malformed}
                for row, fields in enumerate(_rows(stream.schema, block.columns)):
                    batch.append({**broken.get(row, fields), "stream": name})
                at[name] = stop
            if batch:
                events += len(batch)
                failed += _post(client, "/v1/events", json.dumps(batch))[0] != 200
            while sent < len(bodies) and times[sent] <= edge:
                began = time.perf_counter()
                status, _ = _post(client, path, bodies[sent])
                latencies.append((time.perf_counter() - began) * 1000)
                failed += status != 200
                sent += 1
        client.close()
        return LiveResult(sent, events, np.array(latencies or [0.0]), failed)


@contextlib.contextmanager
def _services(run: ReplayRun, meanwhile: Callable[[], object]) -> Iterator[int]:
    """`headrace up` as a process of its own on a free port; yields the port once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "HEADRACE_STATE": str(run.spec.state.resolve()),
        "HEADRACE_PORT": str(port),
        "HEADRACE_SYNC": "false",
        **{f"HEADRACE_{part.upper()}": "embedded" for part in SCHEMES},  # whatever the project is set to
    }
    log = run.spec.state / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "--project", str(run.spec.project), "up"],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            meanwhile()
            _wait_until_ready(process, port, log)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Any) -> None:
    end = time.monotonic() + _START_S
    status = 0
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as client:
                client.request("GET", "/health/ready")
                status = client.getresponse().status
            if status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise StoreError(f"the services did not get ready (last answer: {status}); their output is in {log}")


def _post(client: http.client.HTTPConnection, path: str, body: str) -> tuple[int, bytes]:
    client.request("POST", path, body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    return answer.status, answer.read()


def _rows(schema: Schema, columns: dict[str, Column]) -> Iterator[dict[str, Any]]:
    """Rows as JSON values: times as ISO 8601 text."""
    lists = []
    for field in schema.fields:
        values = columns[field.name].to_pylist()
        if field.dtype is DType.TIMESTAMP:
            values = [None if value is None else to_iso(value) for value in values]
        lists.append(values)
    names = [field.name for field in schema.fields]
    for row in zip(*lists, strict=True):
        yield dict(zip(names, row, strict=True))
