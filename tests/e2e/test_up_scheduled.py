"""A group that leaves the stream for a schedule and comes back, as a user does it: by headrace.toml, apply and up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as hr
from tests.e2e.shop import now, orders
from tests.e2e.test_up import shop
from tests.e2e.up import HEADRACE, LAYERS, Up, eventually

pytestmark = pytest.mark.slow
__all__ = ["shop"]


def headrace(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [*HEADRACE, "--project", str(folder), *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in found.stderr
    return found


def started(folder: Path, running: list[Up]) -> Up:
    up = Up(folder)
    running.append(up)
    eventually(lambda: up.said("all layers are up"), up, 90)
    return up


def publish(up: Up, n: int, start: int) -> None:
    batch = orders(n, now(), start=start, step_s=0.001)
    assert httpx.post(f"{up.address}/v1/events/order", json=batch, timeout=20).status_code in (200, 202)


def seen(up: Up, user: str = "u3") -> tuple[int, dict[str, Any]]:
    found = httpx.get(f"{up.address}/v1/records/spend/{user}", timeout=20).json()
    return found["features"]["n_7d"], found["position"]


def score(up: Up) -> dict[str, Any]:
    asked = {"order_id": "asked", "user": "u3", "amount": 60.0}
    reply = httpx.post(f"{up.address}/v1/models/risk/score", json=asked, timeout=20)
    reply.raise_for_status()
    return dict(reply.json())


@pytest.fixture
def running() -> Any:
    found: list[Up] = []
    yield found
    for up in found:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
            up.close()
        for layer in LAYERS:
            try:
                os.kill(up.beat(layer)["pid"], signal.SIGKILL)
            except (OSError, KeyError, json.JSONDecodeError):
                continue


def test_a_group_is_switched_by_configuration_and_served_values_stay_audited(shop: Path, running: list[Up]) -> None:
    (shop / "headrace.toml").write_text('sync = false\n[groups.spend]\nrun = "300d"\n', encoding="utf-8")
    assert headrace(shop, "plan").stdout == "~ group spend runs every 300d, so far in the stream\n"
    refused = headrace(shop, "up")
    assert refused.returncode == 1
    assert "then run: headrace apply" in refused.stderr
    assert "applied: 1 changes" in headrace(shop, "apply", "--yes").stdout

    up = started(shop, running)
    publish(up, 50, 400)
    eventually(lambda: seen(up)[1]["streams"]["order"] == [450], up)
    # At the start the group ran; what came since it does not know, and says so.
    n, position = seen(up)
    assert (n, list(position["groups"].values())) == (40, [[400]])
    assert list(score(up)["position"]["groups"].values()) == [[400]]
    said = headrace(shop, "status").stdout
    assert "group spend runs every 300d: last 20" in said
    assert "; 50 events behind" in said
    metrics = httpx.get(f"{up.address}/metrics", timeout=20).text
    assert 'headrace_group_lag_events{group="spend"} 50.0' in metrics
    assert 'headrace_group_age_seconds{group="spend"} ' in metrics
    assert "group spend [400]" in headrace(shop, "score", "risk", "order_id=x", "user=u3", "amount=1").stdout
    assert "50 events read" in headrace(shop, "backfill", "spend").stdout
    assert seen(up)[0] == 45
    score(up)
    # A schedule that was killed starts anew, and with it the group runs.
    publish(up, 50, 450)
    eventually(lambda: seen(up)[1]["streams"]["order"] == [500], up)
    assert seen(up)[0] == 45
    score(up)
    os.kill(up.beat("schedule")["pid"], signal.SIGKILL)
    eventually(lambda: seen(up)[0] == 50, up)
    score(up)
    publish(up, 50, 500)
    eventually(lambda: seen(up)[1]["streams"]["order"] == [550], up)

    # Applied beside what runs: the service answers all the while, and starts anew with the group in the stream.
    (shop / "headrace.toml").write_text("sync = false\n", encoding="utf-8")
    applied = json.loads(headrace(shop, "apply", "--yes", "--json").stdout)
    assert [(run["name"], run["after"]) for run in applied["runs"]] == [("spend", None)]
    eventually(lambda: up.said("all layers are up", 2), up, 90)
    assert seen(up)[0] == 55
    publish(up, 50, 550)
    eventually(lambda: seen(up)[0] == 60, up)
    assert "groups" not in seen(up)[1]
    score(up)
    assert up.finish() == 0, "\n".join(up.lines)
    with hr.connect(shop) as project:
        assert project.get("spend", user="u3").n["7d"] == 60
        audit = project.model("risk").audit()
        assert (audit.rows, audit.differing) == (6, 0)
        runs = [(run.trigger, run.detail) for run in project.parts.catalog.runs("group spend")]
        assert runs == [("start", {"events": 50}), ("asked for", {"events": 50})]
