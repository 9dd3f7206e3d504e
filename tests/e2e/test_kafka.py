"""A project on a real Kafka broker: other tools beside it, workers and the broker killed, and not a bit is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

import headrace as hr
from headrace.app.doctor import examine
from headrace.core.errors import LogError
from headrace.engines.stream.commits import DEAD_LETTERS, decode_dead_letters
from tests.e2e.shop import now, orders, write_shop
from tests.services import address

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
USERS = 10


def shop_on(folder: Path, log: str, more: str = "") -> Path:
    """The shop with its logs at an address."""
    write_shop(folder)
    lines = f'sync = false\nlog = "{log}"\npartitions = 2\n{more}'
    (folder / "headrace.toml").write_text(lines, encoding="utf-8")
    return folder


def requests_at(t: datetime) -> list[dict[str, Any]]:
    """One request per user, and one of a stranger."""
    return [{"order_id": f"r{n}", "user": f"u{n}", "amount": 3.0, "at": t} for n in range(USERS + 1)]


def answers(project: Any, t: datetime) -> list[dict[str, Any]]:
    """What the project answers online, which must be what its history says, to the bit."""
    project.settle()
    online = [dict(row) for row in project.online("order", requests_at(t))]
    history = project.history("order", requests_at(t)).to_arrow().to_pylist()
    by_id = {row["order_id"]: row for row in history}
    for row in online:
        found = by_id[row["order_id"]]
        assert repr({name: found[name] for name in row if name != "at"}) == repr(
            {name: value for name, value in row.items() if name != "at"}
        )
    return online


class Twin:
    """A project with embedded parts in which the same events are published, each once and undisturbed."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], ages: list[dict[str, Any]]) -> None:
        self._folder = write_shop(folder)
        with hr.connect(self._folder) as project:
            project.put("profile", ages)
            project.publish("order", rows)

    def answers(self, t: datetime) -> list[dict[str, Any]]:
        with hr.connect(self._folder) as project:
            return answers(project, t)


def producer(url: str, **own: Any) -> Producer:
    """A client that knows nothing of Headrace."""
    return Producer({"bootstrap.servers": url.removeprefix("kafka://").split("/")[0], **own})


def letters(project: Any) -> list[Any]:
    """All dead letters."""
    batches = project.parts.features.read(DEAD_LETTERS, 0, 0, 1_000_000)
    return [letter for batch in batches for letter in decode_dead_letters(batch.payload)]


def test_the_loop_runs_on_kafka_beside_other_tools(tmp_path: Path) -> None:
    url = f"{address('kafka')}/shop-{uuid.uuid4().hex}"
    end = now()
    rows = orders(400, end, users=USERS)
    ages = [
        {"user": f"u{n}", "age": 20 + n, "city": None, "at": (end - timedelta(days=1)).isoformat()} for n in range(5)
    ]
    topic = f"core.orders-{uuid.uuid4().hex}"
    folder = shop_on(tmp_path / "shop", url, f'streams.order = {{ topic = "{topic}" }}\n')
    twin = Twin(tmp_path / "twin", rows, ages)
    with hr.connect(folder) as project:
        project.put("profile", ages)
        project.publish("order", rows[:100])
        answers(project, end)
        # Another tool writes JSON with a key of its own, some of it broken, and some of it takes back.
        other = producer(url, **{"transactional.id": uuid.uuid4().hex})
        other.init_transactions(10)
        for start, kept in ((100, True), (0, False), (200, True)):
            other.begin_transaction()
            for row in rows[start : start + 100]:
                other.produce(topic, json.dumps(row), key=row["user"])
            other.produce(topic, b"what is this?", partition=1)
            other.flush(10)
            other.commit_transaction(10) if kept else other.abort_transaction(10)
        answers(project, end)
    with hr.connect(folder) as project:  # a restart in the middle
        project.publish("order", rows[300:])
        t = now()
        found = answers(project, t)
        assert [(letter.stream, letter.payload, letter.reason) for letter in letters(project)] == [
            ("order", b'"what is this?"', "the message is no JSON")
        ] * 2
    looked_at = {finding.what: finding for finding in examine(folder) if finding.what.endswith(" log")}
    assert [looked_at[f"{name} log"].ok for name in ("event", "feature", "internal")] == [True] * 3
    assert looked_at["event log"].found == f"2 topics at {url}"
    assert found == twin.answers(t)
    assert [row["profile__age"] for row in found] == [*range(20, 25), *[None] * 6]


class Broker:
    """A broker of this test's own, to be killed."""

    def __init__(self) -> None:
        address("kafka")  # skips where there is none, or fails
        self.name = f"kafka-{uuid.uuid4().hex[:8]}"
        self.url = ""

    def run(self, verb: str) -> None:
        script = ROOT / "tools" / "services" / "kafka.sh"
        subprocess.run([script, verb], env={**os.environ, "HEADRACE_KAFKA": self.name}, check=True, timeout=120)
        if verb == "start":
            self.url = (ROOT / ".services" / f"{self.name}.url").read_text().strip()

    def kill(self) -> None:
        os.kill(int((ROOT / ".services" / self.name / "pid").read_text()), signal.SIGKILL)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A running broker that nobody else uses."""
    broker = Broker()
    broker.run("start")
    yield broker
    broker.run("stop")
    subprocess.run(["rm", "-rf", broker.name, f"{broker.name}.url"], cwd=ROOT / ".services", check=True)


class Layers:
    """Compute and ingestion as processes, which are started again when they end, as a supervisor does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said = (folder / "layers.log").open("wb")
        self.running = {name: self._started(name) for name in ("compute", "ingest")}

    def _started(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "headrace", "run", name, "--project", str(self._folder)]
        return subprocess.Popen(command, stdout=self._said, stderr=self._said)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()
        self.running[name] = self._started(name)

    def keep(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                self.running[name] = self._started(name)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(60)
        self._said.close()


def test_nothing_is_lost_or_doubled_when_workers_and_the_broker_are_killed(tmp_path: Path, broker: Broker) -> None:
    end = now()
    rows = orders(1_200, end, users=USERS, step_s=10)
    folder = shop_on(tmp_path / "shop", broker.url)
    failures: list[BaseException] = []
    refused: list[str] = []
    published, given_up = threading.Event(), threading.Event()
    with hr.connect(folder) as project:
        project.publish("order", rows[:10])
        layers = Layers(folder)

        def publish() -> None:
            try:
                for start in range(10, len(rows), 10):
                    while not given_up.is_set():
                        try:
                            project.publish("order", rows[start : start + 10])
                            break
                        except LogError as error:  # again, with the same ids
                            refused.append(str(error))
                            time.sleep(0.1)
                    time.sleep(0.03)
            except BaseException as error:
                failures.append(error)
            finally:
                published.set()

        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        try:
            time.sleep(2)
            layers.kill("compute")
            time.sleep(2)
            broker.kill()
            time.sleep(1)
            layers.kill("compute")
            broker.run("start")
            time.sleep(1)
            layers.kill("ingest")
            time.sleep(0.7)
            layers.kill("compute")
            assert published.wait(120), refused[-3:]
            thread.join()
            assert failures == []
            deadline = time.monotonic() + 120
            while project.parts.online.position() == b"" or not caught_up(project, len(rows)):
                assert time.monotonic() < deadline, (folder / "layers.log").read_text()[-3_000:]
                layers.keep()
                time.sleep(0.1)
        finally:
            given_up.set()
            thread.join(60)
            layers.stop()
    with hr.connect(folder) as project:
        t = now()
        found = answers(project, t)
        assert sum(row["spend__n_7d"] for row in found) == len(rows)
        assert letters(project) == []
    assert found == Twin(tmp_path / "twin", rows, []).answers(t)


def caught_up(project: Any, counted: int) -> bool:
    """True when the online store counts all events."""
    rows = project.online("order", requests_at(now() + timedelta(seconds=1)))
    return sum(row["spend__n_7d"] for row in rows) == counted
