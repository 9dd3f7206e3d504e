"""kill -9 of anything at random while 5,000 events a second come in: in the end all is as if nothing had happened.

`headrace up` runs the layers and starts them again. 10 kills per run in CI, 100 by `make test-long`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as hr
from headrace.core.errors import HeadraceError, Unreachable
from headrace.core.positions import decode_position
from headrace.engines.stream.commits import DEAD_LETTERS, decode_dead_letters
from headrace.retrieval.past import events_table
from tests.e2e.shop import now, orders, write_shop
from tests.e2e.up import Up, eventually, running
from tests.kafka_broker import Broker
from tests.redis_server import RedisServer

KILLS = 100 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 10
SEED = int(os.environ.get("HEADRACE_KILLS_SEED", "20130401"))
LAYERS = ("compute", "ingest", "serve")
RATE, AT_ONCE, USERS = 6_500, 500, 50
"""Events per second that are to be published: above 5,000 by what a slow machine may fall behind."""


class Load(threading.Thread):
    """Publishes orders at a steady rate until it is stopped; what is not acknowledged is published again.

    Every 97th order is malformed and every 13th is sent twice. `outages` is odd while a server is away, of which the
    rate (`calm` events in `calm_s`) does not speak.
    """

    def __init__(self, project: Any, first: datetime) -> None:
        super().__init__(daemon=True)
        self._project, self._first = project, first
        self.batches = 0
        self.published = 0
        self.outages = 0
        self.calm, self.calm_s = 0, 0.0
        self.failure: BaseException | None = None
        self._stopped = threading.Event()

    def batch(self, number: int) -> list[dict[str, Any]]:
        """The orders of a batch; the same for the same number."""
        start = number * AT_ONCE
        end = self._first + timedelta(milliseconds=start + AT_ONCE)
        rows = orders(AT_ONCE, end, start=start, users=USERS, step_s=0.001)
        for row in rows[96::97]:
            row["amount"] = "much"
        return rows + rows[12::13]

    def run(self) -> None:
        try:
            due_s = 0.0
            while not self._stopped.is_set():
                outage, began = self.outages, time.monotonic()
                events = self._publish(self.batch(self.batches))
                self.published += events
                took_s = time.monotonic() - began
                if outage == self.outages and not outage % 2:
                    due_s += events / RATE - took_s  # what it fell behind is made up for
                    pause_s, due_s = max(due_s, 0.0), min(due_s, 0.0)
                    self.calm += events
                    self.calm_s += took_s + pause_s
                    time.sleep(pause_s)
        except BaseException as error:
            self.failure = error

    def _publish(self, rows: list[dict[str, Any]]) -> int:
        """Publish until it is acknowledged: whoever gives up does not know what is there. Returns how many they are."""
        while True:
            try:
                self._project.publisher.publish("order", rows)
            except Unreachable:
                time.sleep(0.1)
            else:
                self.batches += 1
                return len(rows)

    def stop(self) -> None:
        self._stopped.set()
        self.join(120)
        assert not self.is_alive(), "a publish was never acknowledged"


def victims(rng: random.Random, among: Sequence[str]) -> list[str]:
    """Who is killed, in order: everybody at least once, the rest at random."""
    found = [*among, *rng.choices(among, k=KILLS - len(among))]
    rng.shuffle(found)
    return found


def is_back(up: Up, layer: str, killed: int) -> bool:
    """True once another process does the work of the one that was killed."""
    return bool(up.beat(layer)["pid"] != killed)


def answers(project: Any, t: datetime) -> list[str]:
    """What is said online of every user, which must be what history says, as text that shows every bit."""
    rows = [{"order_id": f"r{n:02}", "user": f"u{n}", "amount": 3.0, "at": t} for n in range(USERS + 1)]
    online = project.online("order", rows).to_arrow().sort_by("order_id").to_pylist()
    history = project.history("order", rows).to_arrow().sort_by("order_id").to_pylist()
    assert [repr(row) for row in history] == [repr(row) for row in online]
    return [repr(row) for row in online]


def letters(project: Any) -> list[tuple[int, int]]:
    """Partition and offset of each dead letter."""
    batches = project.parts.features.read(DEAD_LETTERS, 0, 0, 10_000_000)
    return sorted((letter.partition, letter.offset) for b in batches for letter in decode_dead_letters(b.payload))


def archived(project: Any) -> list[tuple[int, int]]:
    """Partition and offset of each archived order."""
    worker = project.parts.archive()
    while worker.step():
        pass
    rows = project.parts.offline.scan(events_table("order"), ["_partition", "_offset"])
    return sorted(zip(rows["_partition"].to_pylist(), rows["_offset"].to_pylist(), strict=True))


def serves(up: Up) -> bool:
    """True if the service answers."""
    body = {"order_id": "r", "user": "u1", "amount": 3.0, "at": now().isoformat()}
    return httpx.post(f"{up.address}/v1/features/order", json=body, timeout=5).status_code == 200


def caught_up(project: Any) -> bool:
    """True once the online store reflects all that was published."""
    raw = project.parts.raw
    try:
        ends = {"order": [raw.end("order", p) for p in range(raw.topics()["order"])]}
        return decode_position(project.parts.online.position()).covers(ends)
    except HeadraceError:
        return False


def survived(folder: Path, others: Mapping[str, tuple[Callable[[], object], Callable[[], object]]]) -> None:
    """Load, kills, peace; then everything is compared with a twin with embedded parts that nobody disturbed.

    `others` are the servers by name, each with what kills it and what starts it again.
    """
    rng = random.Random(SEED)
    first = now() - timedelta(hours=3)
    struck: list[str] = []
    killed: dict[str, int] = {}
    with running(folder) as up, hr.connect(folder) as project:
        load = Load(project, first)
        load.start()
        try:
            for victim in victims(rng, [*LAYERS, *others]):
                time.sleep(rng.uniform(0.1, 0.8))
                assert load.failure is None, load.failure
                if victim in others:
                    kill, start = others[victim]
                    load.outages += 1
                    kill()
                    time.sleep(rng.uniform(0.0, 1.0))
                    start()
                    load.outages += 1
                else:
                    if victim in killed:  # nobody dies twice before coming back once
                        eventually(partial(is_back, up, victim, killed[victim]), up)
                    killed[victim] = up.beat(victim)["pid"]
                    os.kill(killed[victim], signal.SIGKILL)
                struck.append(victim)
        finally:
            load.stop()
        assert load.failure is None, load.failure
        eventually(lambda: caught_up(project), up, 120)
        eventually(lambda: serves(up), up)
        assert up.finish() == 0
    rate = load.calm / load.calm_s
    print(f"{len(struck)} kills ({', '.join(struck)}), {load.published:,} events at {rate:,.0f}/s")
    # What a machine bears that runs everything else besides is no matter of a test; the long run has it to itself.
    assert rate >= 5_000 or KILLS == 10
    with hr.connect(folder) as project, hr.connect(write_shop(folder.parent / "twin")) as twin:
        for number in range(load.batches):
            twin.publisher.publish("order", load.batch(number))
        twin.settle()
        t = now()
        assert answers(project, t) == answers(twin, t)
        parts = range(project.parts.raw.topics()["order"])
        places = {(p, offset) for p in parts for offset in range(project.parts.raw.end("order", p))}
        dead, held = letters(project), archived(project)
        assert len(set(dead)) == len(dead), "a dead letter is there twice"
        assert len(set(held)) == len(held), "an event is in the archive twice"
        assert {*dead, *held} == places, "an event is lost"
        if not others:
            assert letters(twin) == dead
            assert list(twin.parts.online.scan()) == list(project.parts.online.scan())


@pytest.mark.slow
@pytest.mark.timeout(3_600 if KILLS > 10 else 300)
def test_embedded_parts_survive_any_kill(tmp_path: Path) -> None:
    survived(write_shop(tmp_path / "shop"), {})


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Broker, RedisServer]]:
    """A broker and a Redis that keeps what it was told, both this test's own."""
    with ExitStack() as stack:
        broker = Broker()
        redis = RedisServer(tmp_path / "redis", "--appendonly", "yes", password="s3cret")
        stack.callback(redis.kill)
        stack.callback(broker.remove)
        yield broker.start(), redis.start()


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(3_600 if KILLS > 10 else 300)
def test_kafka_and_redis_survive_any_kill(tmp_path: Path, servers: tuple[Broker, RedisServer]) -> None:
    broker, redis = servers
    folder = write_shop(tmp_path / "shop")
    lines = f'sync = false\nlog = "{broker.url}/shop"\nonline = "{redis.url}"\npartitions = 2\n'
    (folder / "headrace.toml").write_text(lines)
    survived(folder, {"broker": (broker.kill, broker.start), "store": (redis.kill, redis.start)})
