"""`headrace up`, as a user runs it: real processes, killed one after the other, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

import headrace as hr
from tests.e2e.shop import now, orders, outcomes, write_shop
from tests.e2e.up import HEADRACE, LAYERS, Up, eventually, running

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop with five days of orders and a promoted model."""
    folder = write_shop(tmp_path / "shop")
    with hr.connect(folder) as project:
        past = orders(400, now() - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        model = project.model("risk")
        model.promote(model.train(), why="the first one")
    return folder


@pytest.fixture
def up(shop: Path) -> Iterator[Up]:
    with running(shop) as up:
        yield up


def test_layers_are_killed_and_nothing_is_lost(up: Up, shop: Path) -> None:
    second = subprocess.run([*HEADRACE, "up", "--project", str(shop)], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"process {up.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr

    published = 400
    scored: list[str] = []
    killed: dict[str, int] = {}
    for layer in ("schedule", "compute", "ingest", "serve"):
        batch = orders(50, now(), start=published, step_s=0.001)
        answer = httpx.post(f"{up.address}/v1/events/order", json=batch, timeout=20)
        assert answer.status_code in (200, 202), answer.text
        published += 50
        killed[layer] = up.beat(layer)["pid"]
        os.kill(killed[layer], signal.SIGKILL)

        def visible(n: int = published) -> bool:
            found = httpx.get(f"{up.address}/v1/records/spend/u3", timeout=20).json()
            return bool(found["features"]["n_7d"] == n // 10)

        eventually(visible, up)

        def score(name: str = layer) -> bool:
            asked = {"order_id": f"asked-{name}", "user": "u3", "amount": 60.0}
            reply = httpx.post(f"{up.address}/v1/models/risk/score", json=asked, timeout=20)
            reply.raise_for_status()
            scored.append(reply.json()["id"])
            return True

        eventually(score, up)
    assert len(set(scored)) == 4
    eventually(lambda: all(up.said(rf"^{layer} .*process \d+", 2) for layer in LAYERS), up)
    assert all(up.beat(layer)["pid"] != pid for layer, pid in killed.items())
    with hr.connect(shop) as project:

        def all_in_time() -> bool:
            return [(layer.name, layer.alive, layer.late) for layer in project.status().layers] == [
                (name, True, False) for name in LAYERS
            ]

        eventually(all_in_time, up)
        status = project.status()
        assert {stream.name: stream.events for stream in status.streams} == {"order": 600, "outcome": 400}
        assert status.dead_letters == 0

    assert up.finish() == 0, "\n".join(up.lines)
    assert up.said("stopped$", 4), "\n".join(up.lines)
    with hr.connect(shop) as project:
        assert len(project.history("order")) == 600
        for user in range(10):
            assert project.get("spend", user=f"u{user}").n["7d"] == 60
        audit = project.model("risk").audit()
        assert (audit.rows, audit.differing) == (4, 0)
        served = project.history("risk", served=True)
        assert sorted(served["prediction_id"]) == sorted(scored)


def test_definitions_are_applied_while_all_layers_run_and_callers_notice_nothing(up: Up, shop: Path) -> None:
    address, done = up.address, threading.Event()
    answered: list[int] = []
    trouble: list[str] = []

    def customers() -> None:
        client = httpx.Client(timeout=60)
        while not done.is_set():
            n = len(answered)
            try:
                order = orders(1, now(), start=400 + n)
                asked = {"order_id": f"asked-{n}", "user": "u3", "amount": 60.0}
                for reply in (
                    client.post(f"{address}/v1/events/order", json=order),
                    client.post(f"{address}/v1/models/risk/score", json=asked),
                ):
                    reply.raise_for_status()
                answered.append(n)
            except httpx.RemoteProtocolError:
                client.close()  # a kept connection ends with the process that held it
                client = httpx.Client(timeout=60)
            except Exception as error:
                trouble.append(repr(error))
                break
            time.sleep(0.01)
        client.close()

    customer = threading.Thread(target=customers, daemon=True)
    customer.start()
    try:
        eventually(lambda: len(answered) > 20, up)
        file = shop / "features.py"
        before = {layer: up.beat(layer)["pid"] for layer in LAYERS}
        file.write_text(
            file.read_text().replace("last = hr.last(", 'most = hr.max(Order.amount, window="7d")\n    last = hr.last(')
        )
        applied = subprocess.run(
            [*HEADRACE, "apply", "--yes", "--project", str(shop)], capture_output=True, text=True, timeout=120
        )
        assert applied.returncode == 0, applied.stderr
        eventually(lambda: all(up.beat(layer)["pid"] != before[layer] for layer in LAYERS), up)
        record = f"{address}/v1/records/spend/u3"
        eventually(lambda: httpx.get(record, timeout=20).json()["features"].get("most") is not None, up)
        more = len(answered)
        eventually(lambda: len(answered) > more + 20, up)
    finally:
        done.set()
        customer.join(90)
    assert trouble == []
    assert up.said("definitions are being applied")
    assert up.finish() == 0, "\n".join(up.lines)
    with hr.connect(shop) as project:
        orders_kept = project.history("order").to_arrow()
        assert len(orders_kept) >= 400 + len(answered)
        mine = [row["amount"] for row in orders_kept.to_pylist() if row["user"] == "u3"]
        got = project.get("spend", user="u3")
        assert (got.n["7d"], got.most) == (len(mine), max(mine))
        audit = project.model("risk").audit()
        assert audit.rows >= len(answered)
        assert audit.differing == 0
