"""A project whose online store is a Redis: the same records and answers as embedded, restarts and outages included."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from headrace.app.doctor import examine
from headrace.app.project import Project
from headrace.app.services import IngestLayer
from headrace.app.settings import load_settings
from headrace.app.status import project_status
from headrace.core.errors import Unreachable
from headrace.core.time import SimulatedClock, to_us
from headrace.stores.online.redis import RedisOnlineStore
from tests.e2e.shop import orders, outcomes, write_shop
from tests.redis_server import RedisServer
from tests.unit.serving.shop import opened
from tests.unit.serving.test_http import connected

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
PASSWORD = "s3cret"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", "--appendonly", "yes", password=PASSWORD).start()
    yield server
    server.kill()


def shop_at(folder: Path, online: str) -> Path:
    write_shop(folder)
    (folder / "headrace.toml").write_text(f'sync = false\nonline = "{online}"\n')
    return folder


def requests(count: int) -> list[dict[str, Any]]:
    return [
        {"order_id": f"asked{i}", "user": f"u{i % 12}", "amount": 10.0 + i, "at": NOON - timedelta(minutes=i % 9)}
        for i in range(count)
    ]


def bits(rows: Any) -> dict[str, list[Any]]:
    """Values by column, floats as their bits."""
    found = rows.to_arrow().to_pydict()
    return {
        name: [v.hex() if isinstance(v, float) and not math.isnan(v) else v for v in values]
        for name, values in found.items()
    }


def fed(project: Project, part: int) -> None:
    """A third of the events, and a row of the table."""
    some = orders(60, NOON - timedelta(minutes=40 - 20 * part), start=60 * part, users=10)
    project.publish("order", some)
    project.publish("outcome", outcomes(some[:5]))
    profile = {"user": f"u{part}", "age": 30 + part, "city": None, "at": NOON - timedelta(hours=3 - part)}
    project.put("profile", [profile])


def test_online_is_history_and_what_is_embedded_to_the_bit_over_restarts_of_both(
    tmp_path: Path, server: RedisServer
) -> None:
    folders = {name: tmp_path / name for name in ("redis-shop", "embedded-shop")}
    for name, online in (("redis-shop", server.url), ("embedded-shop", "embedded")):
        shop_at(folders[name], online)
    for part in range(3):
        answers = []
        for folder in folders.values():
            # Each third by a project that is opened anew.
            with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
                fed(project, part)
                online = project.online("order", requests(40))
                history = project.history("order", requests(40))
                assert bits(online) == {
                    name: v for name, v in bits(history).items() if name in online.to_arrow().column_names
                }
                answers.append((bits(online), list(project.parts.online.scan()), project.parts.online.position()))
        assert answers[0] == answers[1]
        assert len(answers[0][1]) == 10 + part + 1
        if part == 0:
            server.stop()
        else:
            server.kill()
        server.start()


def test_everyone_says_that_the_store_is_away_and_goes_on_when_it_is_back(tmp_path: Path, server: RedisServer) -> None:
    folder = shop_at(tmp_path / "shop", server.url)
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        fed(project, 0)
        assert len(project.online("order", requests(3))) == 3
        layer = IngestLayer(project.parts)
        server.kill()
        fed(project, 1)
        with pytest.raises(Unreachable, match="does not answer"):
            project.online("order", requests(3))
        with pytest.raises(Unreachable):
            project.settle()
        assert layer.step() == 0
        assert "does not answer" in layer.problem()
        assert layer.step() == 0, "it waits before it tries again"
        status = project_status(project.parts)
        assert "does not answer" in str(status)
        said = [finding for finding in examine(folder) if finding.what == "online store"]
        assert [(finding.ok, "does not answer" in finding.found) for finding in said] == [(False, True)]
        assert "start it" in said[0].cure
        for text in (layer.problem(), str(status), repr(said), repr(load_settings(folder))):
            assert PASSWORD not in text
        server.start()
        end = time.monotonic() + 20
        while layer.problem() and time.monotonic() < end:
            layer.step()
            time.sleep(0.05)
        while layer.step():
            pass
        layer.finish(drain=False)
        assert layer.problem() == ""
        assert project_status(project.parts).records == 12
        online, history = project.online("order", requests(20)), project.history("order", requests(20))
        assert bits(online)["spend__n_7d"] == bits(history)["spend__n_7d"]
        assert all(finding.ok for finding in examine(folder) if finding.what == "online store")


def test_a_layer_that_starts_while_the_store_is_away_waits_for_it(tmp_path: Path, server: RedisServer) -> None:
    folder = shop_at(tmp_path / "shop", server.url)
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        fed(project, 0)
        assert len(project.online("order", requests(3))) == 3
        server.kill()
        layer = IngestLayer(project.parts)
        assert "does not answer" in layer.problem()
        with pytest.raises(Unreachable):
            layer.finish(drain=True)


def test_environments_of_a_project_share_a_server_and_no_record(tmp_path: Path, server: RedisServer) -> None:
    folder = shop_at(tmp_path / "shop", server.url)
    with (folder / "headrace.toml").open("a") as file:
        file.write("[env.test]\n")
    for env, part in (("default", 0), ("test", 1)):
        with Project.open(folder, env=env, clock=SimulatedClock(to_us(NOON))) as project:
            fed(project, part)
            project.online("order", requests(1))
            assert project.parts.online.count() == 11
            users = [project.get("profile", user=f"u{user}") is not None for user in range(2)]
            assert users == [part == 0, part == 1]
    assert {key.split(b":")[1] for key in server.ask("KEYS", "*")} == {b"default", b"test"}


def test_http_says_503_while_the_store_is_away(tmp_path: Path, server: RedisServer) -> None:
    with opened(tmp_path / "shop") as shop:
        shop.pay(("p1", "ann", 1.0, 1))
        store = RedisOnlineStore(server.url, namespace=uuid.uuid4().hex)
        store.write(list(shop.store.scan()), shop.store.position())
        with connected(shop, online=store, poll_s=60.0) as client:
            asked = {"payment_id": "x", "user": "ann", "amount": 2.0, "at": "2013-02-01T10:05:00Z"}
            path = f"/v1/features/{next(iter(shop.service().project.views))}"
            answer = client.post(path, json=asked)
            assert answer.status_code == 200
            server.kill()
            refused = client.post(path, json=asked)
            assert refused.status_code == 503
            assert "does not answer" in refused.json()["error"]
            ready = client.get("/health/ready")
            assert ready.status_code == 503
            assert "does not answer" in ready.json()["down"]["online store"]
            assert "headrace_online_store_up 0.0" in client.get("/metrics").text
            assert PASSWORD not in refused.text + ready.text
            server.start()
            assert client.post(path, json=asked).json()["features"] == answer.json()["features"]
            assert "online store" not in client.get("/health/ready").json().get("down", {})
            assert "headrace_online_store_up 1.0" in client.get("/metrics").text
        store.close()
