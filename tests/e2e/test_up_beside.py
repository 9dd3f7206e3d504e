"""Two versions of the package side by side under load: compared, switched, gone back from, killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

import headrace as hr
from tests.e2e.shop import now, orders, outcomes, write_shop
from tests.e2e.up import HEADRACE, eventually, running
from tests.e2e.versions import other_version

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop with five days of orders and a promoted model."""
    folder = write_shop(tmp_path / "shop")
    with hr.connect(folder) as project:
        past = orders(200, now() - timedelta(hours=2), step_s=2000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        model = project.model("risk")
        model.promote(model.train(), why="the first one")
    return folder


class Customers:
    """Post orders, ask for scores and read a record, one after the other, and note what came."""

    def __init__(self, address: str, first: int) -> None:
        self.address, self.first = address, first
        self.answered = 0
        self.trouble: list[str] = []
        self.positions: list[int] = []
        self.ids: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Customers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(90)

    def _run(self) -> None:
        client = httpx.Client(timeout=60)
        while not self._done.is_set():
            n = self.answered
            try:
                order = orders(1, now(), start=self.first + n)
                client.post(f"{self.address}/v1/events/order", json=order).raise_for_status()
                asked = {"order_id": f"asked-{n}", "user": f"u{n % 10}", "amount": 60.0}
                reply = client.post(f"{self.address}/v1/models/risk/score", json=asked)
                reply.raise_for_status()
                self.ids.append(reply.json()["id"])
                record = client.get(f"{self.address}/v1/records/spend/u3")
                record.raise_for_status()
                self.positions.append(record.json()["position"]["streams"]["order"][0])
                self.answered += 1
            except httpx.RemoteProtocolError:
                client.close()  # a kept connection ends with the process that held it
                client = httpx.Client(timeout=60)
                self.first += 1  # whether its order came in is not known
            except Exception as error:
                self.trouble.append(repr(error))
                return
            time.sleep(0.1)  # each costs the service and this process what the layers need to start
        client.close()


@contextmanager
def beside(shop: Path, python: Path) -> Iterator[subprocess.Popen[str]]:
    """`headrace beside start` of another interpreter's version."""
    with (shop / "beside.log").open("w") as out:
        process = subprocess.Popen(
            [*HEADRACE, "beside", "start", "--python", str(python), "--project", str(shop)],
            stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(40)


def pid_of(shop: Path, layer: str, role: str = "") -> int:
    return int(json.loads((shop / ".headrace" / role / "run" / f"{layer}.json").read_text())["pid"])


def package_of(pid: int) -> str:
    """The folder from which a process takes the package first."""
    environment = dict(
        pair.split("=", 1) for pair in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in pair
    )
    return environment.get("PYTHONPATH", "")


def test_a_new_version_is_compared_served_and_gone_back_from_under_load(shop: Path, tmp_path: Path) -> None:
    following = other_version(tmp_path / "next")
    with running(shop) as up, Customers(up.address, 200) as customers, beside(shop, following) as other:

        def more() -> None:
            """Some customers later."""
            before = customers.answered
            eventually(lambda: bool(customers.trouble) or customers.answered > before + 5, up)

        more()
        eventually(lambda: min(pid_of(shop, layer, "beside") for layer in ("compute", "ingest")) > 0, up, 90)
        assert package_of(pid_of(shop, "compute", "beside")) == str(tmp_path / "next")
        with hr.connect(shop) as project:
            found = project.beside.compare(None)
            assert (found.differing, found.compared) == (0, 10 * 2 * 6)
            assert project.beside.switch().served == "green"
        eventually(lambda: package_of(pid_of(shop, "compute")) == str(tmp_path / "next"), up)
        eventually(lambda: package_of(pid_of(shop, "compute", "beside")) != str(tmp_path / "next"), up)
        more()
        for layer, role in (("compute", ""), ("ingest", "beside")):
            os.kill(pid_of(shop, layer, role), signal.SIGKILL)
        more()
        with hr.connect(shop) as project:
            assert project.beside.compare(None).differing == 0
            assert project.beside.back().served == "main"
        more()
        with hr.connect(shop) as project:
            assert project.beside.drop().beside is None
        assert other.wait(40) == 0, (shop / "beside.log").read_text()
    assert customers.trouble == []
    assert customers.positions == sorted(customers.positions)
    with hr.connect(shop) as project:
        project.settle()
        kept = [row["user"] for row in project.history("order").to_arrow().to_pylist()]
        assert len(kept) == len({row["order_id"] for row in project.history("order").to_arrow().to_pylist()})
        assert len(kept) >= 200 + customers.answered
        assert [project.get("spend", user=f"u{n}").n["7d"] for n in range(10)] == [
            kept.count(f"u{n}") for n in range(10)
        ]
        audit = project.model("risk").audit()
        assert audit.rows >= customers.answered
        assert audit.differing == 0
