"""A project whose orders come from Kinesis, over a real connection: resharded, throttled, killed, each is once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.app.copying import CopyLayer
from headrace.app.doctor import examine
from headrace.app.status import project_status
from headrace.core.errors import ConfigError, NotFound, Unreachable
from headrace.core.events import decode_block
from headrace.eventlog.source import Throttled
from headrace.ingestion.copier import position_topic
from headrace.ingestion.kinesis import KinesisSource, KinesisStream
from tests.e2e.shop import now, orders, write_shop
from tests.kinesis import KEYS, Kinesis, kinesis


@pytest.fixture(scope="module")
def server() -> Iterator[Kinesis]:
    with kinesis() as found:
        yield found


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def shop_from(folder: Path, server: Kinesis, stream: str) -> Path:
    write_shop(folder)
    told = f'streams.order = {{ kinesis = "{stream}", endpoint = "{server.endpoint}" }}'
    (folder / "headrace.toml").write_text(f"sync = false\n{told}\n")
    return folder


def copied(project: Any, seconds: float = 60.0) -> dict[str, float]:
    """Copy what is there; the counters."""
    layer = CopyLayer(project.parts)
    deadline = time.monotonic() + seconds
    while layer.step():
        assert time.monotonic() < deadline, layer.problem()
    layer.finish(drain=True)
    return layer.counters()


def by_user(project: Any) -> dict[str, list[str]]:
    """Ids of the orders in the raw log, by user, in the order of the log."""
    raw, schema = project.parts.raw, project.parts.plan.streams["order"].schema
    found: dict[str, list[str]] = {}
    for partition in range(raw.topics()["order"]):
        for batch in raw.read("order", partition, 0, 10**9):
            block = decode_block(batch.payload, schema)
            columns = [block.columns[name].to_pylist() for name in ("user", "order_id")]
            for user, order in zip(*columns, strict=True):
                found.setdefault(user, []).append(order)
    return found


def sent_by_user(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["user"], []).append(row["order_id"])
    return found


def greedy(server: Kinesis, stream: str) -> None:
    """Read as another application does, until Kinesis refuses: five reads a second are for all of them together."""
    reader = KinesisStream(KinesisSource(stream, endpoint=server.endpoint))
    for shard in reader.shards():
        iterator = reader.iterator(shard.id, None)
        refused = False
        for _ in range(50):
            try:
                reader.read(shard.id, iterator)
            except Throttled:
                refused = True
                break
        assert refused
    reader.close()


def answers(project: Any, t: Any) -> dict[str, str]:
    """What is answered online about each user, which must be what history says, to the bit."""
    project.settle()
    requests = [{"order_id": f"r{n}", "user": f"u{n}", "amount": 3.0, "at": t} for n in range(12)]
    history = {row["order_id"]: row for row in project.history("order", requests).to_arrow().to_pylist()}
    found = {}
    for row in project.online("order", requests):
        told = {name: value for name, value in row.items() if name != "at"}
        assert repr({name: history[row["order_id"]][name] for name in told}) == repr(told)
        found[row["order_id"]] = repr(told)
    return found


def test_what_comes_from_kinesis_is_what_is_published_over_resharding_throttling_and_restarts(
    tmp_path: Path, server: Kinesis
) -> None:
    end = now()
    rows = orders(360, end - timedelta(minutes=1), step_s=5)
    folder = shop_from(tmp_path / "shop", server, "orders")
    server.make("orders", 2)
    server.put("orders", rows[:200], "user")
    with hr.connect(folder) as project:
        assert copied(project)["copied"] == 200
        answers(project, end)
        first = server.open_shards("orders")[0]
        server.put("orders", rows[200:240], "user")
        server.split("orders", first)
        server.put("orders", rows[240:300], "user")
    with hr.connect(folder) as project:  # a restart in the middle
        layer = CopyLayer(project.parts)
        deadline = time.monotonic() + 60
        while not layer.counters()["throttled"]:
            greedy(server, "orders")
            layer.step()
            assert time.monotonic() < deadline
        assert layer.counters()["copied"] + copied(project)["copied"] == 100
        left, right = server.open_shards("orders")[-2:]
        server.merge("orders", left, right)
        server.client.put_record(StreamName="orders", Data=b"no JSON", PartitionKey="u1")
        server.put("orders", rows[300:], "user")
        counters = copied(project)
        assert (counters["copied"], counters["malformed"], counters["lost_shards"]) == (61, 1, 0)
        found = by_user(project)
        found.pop(None)  # type: ignore[call-overload]
        assert found == sent_by_user(rows)
        online = answers(project, end)
        assert [letter.reason for letter in project.dead_letters()] == ["the message is no JSON"]
        assert project_status(project.parts).layers[-1].name == "copy"
    with hr.connect(write_shop(tmp_path / "twin")) as twin:
        twin.publish("order", rows)
        assert answers(twin, end) == online


def test_a_copier_that_is_killed_leaves_each_event_once(tmp_path: Path, server: Kinesis) -> None:
    rows = orders(800, now(), step_s=1, users=40)
    folder = shop_from(tmp_path / "shop", server, "many")
    server.make("many", 4)
    server.put("many", rows, "user")
    with hr.connect(folder) as project:
        project.ensure_applied()
        seen = 0
        for more in (1, 5):
            command = [sys.executable, "-m", "headrace", "run", "copy", "--project", str(folder)]
            process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not _positions(project) >= seen + more:
                assert process.poll() is None
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGKILL)
            process.wait()
            seen = _positions(project)
        assert sum(map(len, by_user(project).values())) < len(rows), "killed too late to show anything"
        copied(project)
        assert by_user(project) == sent_by_user(rows)


def _positions(project: Any) -> int:
    raw, topic = project.parts.raw, position_topic("order", "kinesis")
    return int(raw.end(topic, 0)) if topic in raw.topics() else 0


def test_doctor_and_errors_say_what_to_do(tmp_path: Path, server: Kinesis, monkeypatch: pytest.MonkeyPatch) -> None:
    server.make("fine")
    folder = shop_from(tmp_path / "shop", server, "fine")
    (finding,) = [found for found in examine(folder) if found.what == "stream order"]
    assert (finding.ok, finding.found) == (True, "1 shards of stream fine of Kinesis")
    shop_from(folder, server, "none")
    (finding,) = [found for found in examine(folder) if found.what == "stream order"]
    assert not finding.ok
    assert "no stream none" in finding.found
    with hr.connect(folder) as project, pytest.raises(NotFound, match="no stream none"):
        CopyLayer(project.parts).step()
    away = KinesisStream(KinesisSource("fine", endpoint="http://127.0.0.1:9"))
    with pytest.raises(Unreachable, match="does not answer"):
        away.shards()
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="region"):
        KinesisStream(KinesisSource("fine", endpoint=server.endpoint))
    by_arn = KinesisStream(
        KinesisSource("arn:aws:kinesis:eu-central-1:123456789012:stream/fine", endpoint=server.endpoint)
    )
    (shard,) = by_arn.shards()
    assert by_arn.read(shard.id, by_arn.iterator(shard.id, None)).messages == []
    assert all(KEYS["AWS_SECRET_ACCESS_KEY"] not in found.found for found in examine(folder))
    for stream in (away, by_arn):
        stream.close()


def test_a_server_that_is_away_is_waited_for(tmp_path: Path, server: Kinesis) -> None:
    server.make("later")
    folder = shop_from(tmp_path / "shop", server, "later")
    text = (folder / "headrace.toml").read_text()
    (folder / "headrace.toml").write_text(text.replace(server.endpoint, "http://127.0.0.1:9"))
    with hr.connect(folder) as project:
        layer = CopyLayer(project.parts)
        assert layer.step() == 1
        assert "does not answer for stream later" in layer.problem()
