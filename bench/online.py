"""How fast features are read online: one request and a hundred at once, in process and over HTTP.

The last line is one JSON object. The view has 8 groups over different entities with 55 features in 32 windows; the
store is filled by the real workers from random events, with fewer entities hot than cold. Requests ask for random
entities at random times within the as-of horizon. Some of the answers are compared with the oracle, value by value;
one that differs ends the run. `one_*` and `hundred_*` are from columns to columns, `row_*` from a mapping to a dict of
Python values, as `project.online` answers. Feast reads as many made-up values from Redis, where both are installed.
With `--http` the same requests go to a server in a process of its own with one worker, over one connection that is
kept alive (`one_*`) and over several (`requests_per_s`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import selectors
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

import headrace as hr
from harness import versions
from headrace.app.rows import python_value, request_columns
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.core.columns import Column
from headrace.core.events import EventBlock, encode_block
from headrace.core.schema import DType
from headrace.core.time import US_PER_DAY, US_PER_MINUTE, SimulatedClock, parse_time
from headrace.eventlog.base import Append
from headrace.features.compile import compile_project
from headrace.features.plan import ProjectPlan
from headrace.serving.access import Access
from headrace.serving.http import serve
from headrace.serving.service import Service
from headrace.testing.oracle.events import RawEvent, judge
from headrace.testing.oracle.view import view_row

ROOT = Path(__file__).parents[1]
FEAST = ROOT / "bench" / "peers" / ".venvs" / "feast" / "bin" / "python"
REDIS_DATABASE = 13
"""Of the Redis of `make services`; what is in it is deleted."""
FEAST_ENTITIES, FEAST_REQUESTS = 20_000, 1_000
"""Of each kind, and in all: Feast writes a few thousand rows a second."""
KEYS = ("user", "card", "device", "merchant", "terminal", "city", "bank", "agent")
END_US = parse_time("2025-03-01")
SPAN_US = 8 * US_PER_DAY
BATCH = 2_000
STREAM = "payment"
User, Card, Device, Merchant = hr.Entity("user"), hr.Entity("card"), hr.Entity("device"), hr.Entity("merchant")
Terminal, City, Bank, Agent = hr.Entity("terminal"), hr.Entity("city"), hr.Entity("bank"), hr.Entity("agent")


class Parties(hr.Event, abstract=True):
    """Who takes part."""

    user: hr.Field[int] = hr.key(User)
    card: hr.Field[int] = hr.key(Card)
    device: hr.Field[int] = hr.key(Device)
    merchant: hr.Field[int] = hr.key(Merchant)
    terminal: hr.Field[int] = hr.key(Terminal)
    city: hr.Field[int] = hr.key(City)
    bank: hr.Field[int] = hr.key(Bank)
    agent: hr.Field[int] = hr.key(Agent)
    at: hr.Field[datetime] = hr.event_time()


class Payment(Parties):
    """What is counted."""

    amount: hr.Field[float] = hr.field("in euros")


class Asked(Parties):
    """What is asked."""


class ByUser(hr.FeatureGroup, key=Payment.user):
    n = hr.count(window=["1h", "1d"])
    mean = hr.mean(Payment.amount, window=["6h", "7d"])
    most = hr.max(Payment.amount, window="7d")
    large = hr.share(Payment.amount > 100, window="1d")
    recent = n["1h"] / n["1d"]


class ByCard(hr.FeatureGroup, key=Payment.card):
    n = hr.count(window=["1h", "1d"])
    mean = hr.mean(Payment.amount, window=["6h", "7d"])
    most = hr.max(Payment.amount, window="7d")
    large = hr.share(Payment.amount > 100, window="1d")
    recent = n["1h"] / n["1d"]


class ByDevice(hr.FeatureGroup, key=Payment.device):
    n = hr.count(window=["1h", "1d"])
    total = hr.sum(Payment.amount, window=["6h", "7d"])
    spread = hr.std(Payment.amount, window="7d")
    large = hr.share(Payment.amount > 100, window="1d")
    last = hr.last(Payment.amount)


class ByMerchant(hr.FeatureGroup, key=Payment.merchant):
    n = hr.count(window=["30m", "2h", "1d"])
    mean = hr.mean(Payment.amount, window=["30m", "2h", "7d"])
    least = hr.min(Payment.amount, window="1d")


class ByTerminal(hr.FeatureGroup, key=Payment.terminal):
    n = hr.count(window=["30m", "2h", "1d"])
    mean = hr.mean(Payment.amount, window=["30m", "2h", "7d"])
    last = hr.last(Payment.amount)


class ByCity(hr.FeatureGroup, key=Payment.city):
    n = hr.count(window=["1h", "6h", "1d"])
    mean = hr.mean(Payment.amount, window=["1h", "6h", "7d"])
    most = hr.max(Payment.amount, window="1d")


class ByBank(hr.FeatureGroup, key=Payment.bank):
    n = hr.count(window=["1h", "6h", "1d"])
    large = hr.share(Payment.amount > 100, window=["1h", "6h", "7d"])
    most = hr.max(Payment.amount, window="1d")


class ByAgent(hr.FeatureGroup, key=Payment.agent):
    n = hr.count(window=["1h", "1d"])
    mean = hr.mean(Payment.amount, window=["6h", "7d"])
    spread = hr.std(Payment.amount, window="7d")
    large = hr.share(Payment.amount > 100, window="1d")


GROUPS = (ByUser, ByCard, ByDevice, ByMerchant, ByTerminal, ByCity, ByBank, ByAgent)
VIEW = hr.FeatureView("asked", request=Asked, features=list(GROUPS))


@dataclass(frozen=True)
class Options:
    """What to measure."""

    entities: int
    events: int
    reads: int
    checked: int
    connections: int
    seconds: float
    seed: int
    http: bool = False
    key: bool = False
    peers: bool = False
    one_entity: bool = False


@dataclass(frozen=True)
class Filled:
    """The events that were published: keys int64 [events, 8], amounts, times."""

    keys: np.ndarray[Any, np.dtype[np.int64]]
    amounts: np.ndarray[Any, np.dtype[np.float64]]
    times: np.ndarray[Any, np.dtype[np.int64]]

    def block(self, start: int, stop: int) -> EventBlock:
        """Some of them as a block."""
        columns = {name: Column(DType.INT, self.keys[start:stop, i].copy()) for i, name in enumerate(KEYS)}
        columns["at"] = Column(DType.TIMESTAMP, self.times[start:stop])
        columns["amount"] = Column(DType.FLOAT, self.amounts[start:stop])
        return EventBlock(stop - start, columns)

    def of(self, request: dict[str, int]) -> list[RawEvent]:
        """Those that share a key with the request, as the log holds them; no others can count for it."""
        wanted = np.array([request[name] for name in KEYS])
        at = np.flatnonzero((self.keys == wanted).any(axis=1)).tolist()
        return [
            RawEvent(
                0,
                i,
                int(self.times[i]),
                dict(zip(KEYS, self.keys[i].tolist(), strict=True))
                | {"at": int(self.times[i]), "amount": float(self.amounts[i])},
            )
            for i in at
        ]


def parts_in(folder: Path, plan: ProjectPlan) -> Parts:
    """The parts of a project whose clock stands at the end of the events."""
    return Parts(Settings(folder=folder, state=folder, sync=False), plan, SimulatedClock(END_US))


def fill(parts: Parts, options: Options, random: np.random.Generator) -> Filled:
    """Publish random events and let the workers bring the online store up to date."""
    each = options.entities // len(KEYS)
    # The square makes low numbers frequent: one entity in a hundred gets a tenth of the events.
    keys = (random.random((options.events, len(KEYS))) ** 2 * each).astype(np.int64)
    if options.one_entity:
        keys[:] = keys[:, :1]
    times = np.sort(random.integers(END_US - SPAN_US, END_US, options.events))
    made = Filled(keys, np.round(random.exponential(60.0, options.events), 2), times)
    parts.raw.create(STREAM)
    compute, ingest = parts.compute(), parts.ingest()
    for start in range(0, options.events, BATCH):
        block = made.block(start, min(start + BATCH, options.events))
        parts.raw.append([Append(STREAM, 0, encode_block(block), block.n)])
        compute.step()
        ingest.step()
    while compute.step() or ingest.step():
        pass
    return made


def requests_of(
    options: Options, newest_us: int, horizon_us: int, n: int, random: np.random.Generator
) -> dict[str, Column]:
    """`n` requests for random entities at random times within the horizon."""
    each = options.entities // len(KEYS)
    columns = {name: Column(DType.INT, random.integers(0, each, n)) for name in KEYS}
    if options.one_entity:
        columns = dict.fromkeys(KEYS, columns[KEYS[0]])
    columns["at"] = Column(DType.TIMESTAMP, random.integers(newest_us - horizon_us, newest_us + US_PER_MINUTE, n))
    return columns


def rows_at(request: dict[str, Column], start: int, stop: int) -> dict[str, Column]:
    """Some of the requests."""
    return {name: Column(column.dtype, column.values[start:stop]) for name, column in request.items()}


def timed(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Microseconds of each call."""
    spent = []
    for call in calls:
        began = time.perf_counter_ns()
        call()
        spent.append((time.perf_counter_ns() - began) / 1_000)
    return spent


def percentile(spent: list[float], share: float) -> float:
    """A percentile in µs."""
    return round(float(np.quantile(spent, share)), 1)


def check(plan: ProjectPlan, made: Filled, asked: list[dict[str, int]], answers: list[dict[str, Any]]) -> int:
    """Compare answers with the oracle, bit for bit; returns how many values were compared."""
    compared = 0
    for request, answer in zip(asked, answers, strict=True):
        events = judge(plan.streams[STREAM], made.of(request))
        expected = view_row(plan, plan.views["asked"], request, request["at"], {STREAM: events}, {})
        if repr(answer) != repr(expected):
            wrong = {name: (answer.get(name), value) for name, value in expected.items() if answer.get(name) != value}
            raise SystemExit(f"request {request}: (read, oracle) differ in {wrong}")
        compared += len(expected)
    return compared


def in_process(
    parts: Parts, made: Filled, asked: dict[str, Column], options: Options
) -> tuple[dict[str, float], dict[str, int]]:
    """Read each request by itself, then by hundreds; returns figures and what was checked."""
    reader = parts.reader("asked")
    singles = [rows_at(asked, i, i + 1) for i in range(options.reads)]
    hundreds = [rows_at(asked, i, i + 100) for i in range(0, options.reads - 99, 100)]
    for request in (*singles[:100], *hundreds[:10]):
        reader.read(request)
    one = timed([lambda request=request: reader.read(request) for request in singles])  # type: ignore[misc]
    hundred = timed([lambda request=request: reader.read(request) for request in hundreds])  # type: ignore[misc]
    schema = parts.plan.views["asked"].request
    rows = plain(rows_at(asked, 0, options.reads // 2))

    def answer(request: dict[str, int]) -> dict[str, Any]:
        return reader.read(request_columns(schema, [request], END_US)).to_rows(python_value)[0]

    row = timed([lambda request=request: answer(request) for request in rows])  # type: ignore[misc]
    some = plain(rows_at(asked, 0, options.checked))
    found = [{name: v[0] for name, v in reader.read(request).to_pydict().items()} for request in singles[: len(some)]]
    figures = {
        "one_p50_us": percentile(one, 0.5),
        "one_p99_us": percentile(one, 0.99),
        "hundred_p50_us": percentile(hundred, 0.5),
        "row_p50_us": percentile(row, 0.5),
        "row_p99_us": percentile(row, 0.99),
    }
    return figures, {"requests": len(some), "values": check(parts.plan, made, some, found), "differing": 0}


def plain(request: dict[str, Column]) -> list[dict[str, int]]:
    """Requests as mappings, times as µs."""
    lists = {name: column.to_pylist() for name, column in request.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def run_server(folder: str, pipe: Connection, key: bool) -> None:
    """Serve the filled store until told to stop by SIGTERM; sends the port, and the key if the service wants one."""
    parts = parts_in(Path(folder), compile_project([*GROUPS, Payment, Asked, VIEW]))
    service = Service(
        parts.plan, parts.clock, parts.publisher(), parts.online, parts.horizon_us, parts.internal, poll_s=60.0,
        access=Access(parts.catalog.keys, parts.clock),
    )  # fmt: skip
    token = ""
    if key:
        _, token = parts.catalog.keys.make("bench", ["read"], who="bench", rate=1e6)
        assert service.access is not None
        service.access.refresh()
    serve(service, port=0, on_ready=lambda port: pipe.send((port, token)))
    parts.close()


class KeptAlive:
    """One HTTP/1.1 connection; a client that costs next to nothing."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""

    def send(self, message: bytes) -> None:
        """Send a whole request."""
        self.socket.sendall(message)

    def receive(self) -> bytes | None:
        """Take what has come; the body of the answer, or None while it is not whole. SystemExit if it is no success."""
        self._data += self.socket.recv(65_536)
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._data[:end].lower()
        whole = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._data) < whole:
            return None
        body, self._data = self._data[end + 4 :], b""
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"the service answered {head + body!r}")
        return body

    def ask(self, message: bytes) -> bytes:
        """The body of the answer to a request."""
        self.send(message)
        while (body := self.receive()) is None:
            pass
        return body

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def run_feast(folder: Path, plan: ProjectPlan, asked: dict[str, Column]) -> dict[str, object]:
    """The same groups read by Feast from Redis, with made-up values, in an environment of its own."""
    url = ROOT / ".services" / "redis.url"
    if not FEAST.exists():
        return {"skipped": "not installed; bench/peers/setup.sh feast makes its environment"}
    if not url.exists():
        return {"skipped": "no Redis; make services ARGS=redis starts one"}
    import redis

    address = urlsplit(url.read_text().strip())
    requests = [{name: row[name] % FEAST_ENTITIES for name in KEYS} for row in plain(rows_at(asked, 0, FEAST_REQUESTS))]
    groups = {
        group.name: {
            "key": group.key[0].name,
            "entities": FEAST_ENTITIES,
            "features": [(name, dtype.value) for name, dtype in group.dtypes.items()],
        }
        for group in plan.groups.values()
    }
    told = {
        "redis": f"{address.hostname}:{address.port},db={REDIS_DATABASE}", "groups": groups, "requests": requests,
    }  # fmt: skip
    (folder / "asked.json").write_text(json.dumps(told))
    client = redis.Redis(address.hostname or "", address.port or 0, db=REDIS_DATABASE)
    client.flushdb()
    try:
        script = ROOT / "bench" / "peers" / "feast_online.py"
        done = subprocess.run([FEAST, script, folder], capture_output=True, text=True, timeout=1_800)
    finally:
        client.flushdb()
        client.close()
    if done.returncode:
        raise SystemExit(f"feast failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def message(request: dict[str, int], token: str) -> bytes:
    """A whole HTTP request."""
    body = json.dumps(request).encode()
    head = "POST /v1/features/asked HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def throughput(port: int, messages: list[bytes], options: Options) -> float:
    """Answers per second over all connections, each asking again as soon as it is answered.

    One thread drives them all: a thread for each would take more of the machine than the server does.
    """
    connections = [KeptAlive(port) for _ in range(options.connections)]
    waiting = selectors.DefaultSelector()
    for index, connection in enumerate(connections):
        waiting.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(messages[index % len(messages)])
    sent, done = len(connections), 0
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < options.seconds:
        for key, _ in waiting.select(1.0):
            if key.data.receive() is not None:
                done += 1
                key.data.send(messages[sent % len(messages)])
                sent += 1
    waiting.close()
    for connection in connections:
        connection.close()
    return done / seconds


def over_http(
    folder: Path, plan: ProjectPlan, made: Filled, asked: dict[str, Column], options: Options
) -> tuple[dict[str, float], dict[str, int]]:
    """Ask a server in a process of its own; returns figures and what was checked."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    server = spawn.Process(target=run_server, args=(str(folder), there, options.key))
    server.start()
    try:
        port, token = here.recv()
        requests = plain(rows_at(asked, 0, options.reads))
        messages = [message(request, token) for request in requests]
        connection = KeptAlive(port)
        for body in messages[:200]:
            connection.ask(body)
        one = timed([lambda body=body: connection.ask(body) for body in messages])  # type: ignore[misc]
        some = requests[: options.checked]
        found = [json.loads(connection.ask(body))["features"] for body in messages[: len(some)]]
        connection.close()
        per_second = throughput(port, messages, options)
    finally:
        server.terminate()
        server.join()
    figures = {
        "one_p50_us": percentile(one, 0.5),
        "one_p99_us": percentile(one, 0.99),
        "requests_per_s": round(per_second),
    }
    return figures, {"requests": len(some), "values": check(plan, made, some, found), "differing": 0}


def measure(options: Options, folder: Path) -> dict[str, object]:
    """Run everything in `folder` and return the record to print."""
    random = np.random.default_rng(options.seed)
    plan = compile_project([*GROUPS, Payment, Asked, VIEW])
    view = plan.views["asked"]
    groups = plan.groups.values()
    parts = parts_in(folder, plan)
    began = time.perf_counter()
    made = fill(parts, options, random)
    filled_s = time.perf_counter() - began
    asked = requests_of(options, int(made.times[-1]), parts.horizon_us, options.reads, random)
    records = parts.online.count()
    if options.http:
        parts.close()
        figures, checked = over_http(folder, plan, made, asked, options)
    else:
        figures, checked = in_process(parts, made, asked, options)
        parts.close()
    peers = {"feast": run_feast(folder, plan, asked)} if options.peers and not options.http else {}
    return {
        "bench": "online",
        "params": {
            "transport": "http" if options.http else "in process",
            "groups": len(plan.groups),
            "features": len(view.visible),
            "entities_per_request": 1 if options.one_entity else len(KEYS),
            "windows": sum(len({a.window_us for a in g.aggregates if a.window_us is not None}) for g in groups),
            "entities": records,
            "events": options.events,
            "reads": options.reads,
            "seed": options.seed,
            "fill_s": round(filled_s, 1),
            **({"connections": options.connections, "workers": 1, "key": options.key} if options.http else {}),
        },
        "figures": figures,
        "checked": checked,
        "peers": peers,
        "versions": versions("numpy", "numba", "lmdb", "uvicorn"),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=1_000_000, help="of all eight kinds together")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--reads", type=int, default=20_000, help="requests that are timed")
    parser.add_argument("--checked", type=int, default=1_000, help="answers that are compared with the oracle")
    parser.add_argument("--one-entity", action="store_true", help="a request names one entity in all its roles")
    parser.add_argument("--no-peers", action="store_false", dest="peers", help="do not run Feast with Redis")
    parser.add_argument("--http", action="store_true", help="ask a server process instead of reading in process")
    parser.add_argument(
        "--key", action="store_true", help="with --http: each request brings an API key that has a rate"
    )
    parser.add_argument("--connections", type=int, default=16, help="of the throughput over HTTP")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the throughput over HTTP")
    parser.add_argument("--seed", type=int, default=7)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
