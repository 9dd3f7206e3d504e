"""Each layer away for a while: the others go on, everybody says which one it is, and it makes up for it by itself."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as hr
from headrace.app.heartbeats import Heartbeat, read_heartbeat, stalled_layers, write_heartbeat
from headrace.app.locks import FolderLock
from headrace.app.project import Project
from headrace.app.services import run_layer
from tests.e2e.shop import now, orders, write_shop
from tests.e2e.up import HEADRACE


class Shop:
    """A project whose service runs; compute and ingestion do their work here, when they are told to."""

    def __init__(self, folder: Path, project: Project, client: httpx.Client) -> None:
        self.state, self.project, self.client = folder / ".headrace", project, client
        self.published = 0

    def publish(self, n: int) -> None:
        batch = orders(n, now(), start=self.published, step_s=0.001)
        reply = self.client.post("/v1/events/order", json=batch)
        assert (reply.status_code, reply.json()["appended"]) == (200, n)
        self.published += n

    def work(self, *layers: str) -> None:
        for layer in layers:
            run_layer(self.project.parts, layer, once=True)

    def seen(self) -> int:
        """How many orders the service's answers reflect; it must answer, whatever is away."""
        found = [self.client.get(f"/v1/records/spend/u{user}") for user in range(10)]
        assert {reply.status_code for reply in found} == {200}
        return sum(reply.json()["features"]["n_7d"] for reply in found)

    def ready(self) -> dict[str, Any]:
        return dict(self.client.get("/health/ready").json())

    def metric(self, name: str) -> float:
        found = re.search(rf'^{name}{{stream="order"}} (.+)$', self.client.get("/metrics").text, re.M)
        assert found is not None
        return float(found[1])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    folder = write_shop(tmp_path / "shop")
    features = (folder / "features.py").read_text()
    (folder / "features.py").write_text(features[: features.index("risk = hr.Model(")])
    with ExitStack() as held:
        project = held.enter_context(hr.connect(folder))
        project.apply()
        serve = subprocess.Popen([*HEADRACE, "run", "serve", "--port", "0", "--project", str(folder)])
        held.callback(lambda: (serve.terminate(), serve.wait(30)))
        run_layer(project.parts, "compute", once=True)
        run_layer(project.parts, "ingest", once=True)
        for _ in range(600):
            beat = read_heartbeat(folder / ".headrace", "serve")
            if beat is not None and beat.address:
                break
            assert serve.poll() is None
            time.sleep(0.1)
        assert beat is not None
        client = held.enter_context(httpx.Client(base_url=beat.address, timeout=30))
        yield Shop(folder, project, client)


def test_layers_are_away_in_turn_and_the_others_go_on(shop: Shop) -> None:
    shop.publish(100)
    shop.work("compute", "ingest")
    assert shop.seen() == 100

    with FolderLock(shop.state, "ingest"):  # it runs, as far as anybody can see
        shop.publish(50)
        assert set(shop.ready()["stalled"]) == {"compute"}
        assert "start it: headrace run compute" in shop.ready()["stalled"]["compute"]
        assert (shop.ready()["status"], shop.seen()) == ("ready", 100)
        assert shop.metric("headrace_online_lag_events") == 50
        (stream,) = [s for s in shop.project.status().streams if s.name == "order"]
        assert (stream.uncomputed, stream.invisible) == (50, 50)
        age = shop.metric("headrace_online_age_seconds")
        shop.publish(10)
        assert shop.metric("headrace_online_age_seconds") > age  # what is served grows older, whatever comes in

    with FolderLock(shop.state, "compute"):
        assert set(shop.ready()["stalled"]) == {"ingest"}
    shop.work("compute")  # while ingestion is away
    (stream,) = [s for s in shop.project.status().streams if s.name == "order"]
    assert (stream.uncomputed, stream.invisible) == (0, 60)
    assert shop.seen() == 100

    assert set(shop.ready()["stalled"]) == {"compute", "ingest"}
    shop.publish(40)
    shop.work("compute", "ingest")
    assert shop.seen() == shop.published == 200
    assert shop.metric("headrace_online_lag_events") == 0
    with FolderLock(shop.state, "compute"), FolderLock(shop.state, "ingest"):
        assert shop.ready() == {"status": "ready"}

    # What came while one or the other was away is what history says, to the bit.
    asked = [
        {"order_id": f"asked-{n}", "user": f"u{n}", "amount": 30.0, "at": now() + timedelta(seconds=1)}
        for n in range(11)
    ]
    online = shop.project.online("order", asked).to_arrow().sort_by("order_id")
    assert repr(shop.project.history("order", asked).to_arrow().sort_by("order_id").to_pylist()) == repr(
        online.to_pylist()
    )


def test_a_layer_that_hangs_or_waits_is_told_from_one_that_works(tmp_path: Path) -> None:
    second = 1_000_000
    assert stalled_layers(tmp_path, second) == {}  # it may run elsewhere
    with FolderLock(tmp_path, "compute"):
        write_heartbeat(tmp_path, Heartbeat("compute", 7, 0, 10 * second))
        assert stalled_layers(tmp_path, 11 * second) == {}
        assert stalled_layers(tmp_path, 16 * second) == {
            "compute": "process 7 has not reported since 1970-01-01T00:00:10Z"
        }
        write_heartbeat(tmp_path, Heartbeat("compute", 7, 0, 10 * second, problem="the broker is away"))
        assert stalled_layers(tmp_path, 11 * second) == {"compute": "the broker is away"}
    assert "does not run since 1970-01-01T00:00:10Z (the broker is away)" in stalled_layers(tmp_path, 0)["compute"]
