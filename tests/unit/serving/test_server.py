"""The running server: promotions under load lose no request, a signal ends it in order, addresses are checked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from headrace.core.errors import ConfigError
from headrace.retrieval.predictions import read_predictions
from headrace.serving.http import serving
from tests.unit.serving.shop import VIEW, fitted, opened

PAYMENT = {"payment_id": "p9", "user": "ann", "amount": 35.0, "at": "2013-02-01T10:30:00Z"}
CLIENTS = 16
SWITCHES = 20


def test_promotions_under_sixteen_clients_fail_no_request(tmp_path: Path) -> None:
    with opened(tmp_path) as shop:
        shop.pay(("p1", "ann", 10.0, 1))
        models = [fitted(25), fitted(45)]
        for model in models:
            shop.register(model)
        shop.scorer.reload()
        done = threading.Event()
        failures: list[str] = []
        seen: list[list[tuple[float, int, float, str]]] = [[] for _ in range(CLIENTS)]

        def hammer(port: int, mine: list[tuple[float, int, float, str]]) -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                while not done.is_set():
                    response = client.post("/v1/models/fraud/score", json=PAYMENT)
                    if response.status_code != 200:
                        failures.append(response.text)
                        return
                    body = response.json()
                    mine.append((time.monotonic(), body["version"], body["value"], body["id"]))

        with serving(shop.service()) as port:
            threads = [threading.Thread(target=hammer, args=(port, mine), daemon=True) for mine in seen]
            for thread in threads:
                thread.start()
            for switch in range(SWITCHES):
                number = 1 + switch % 2
                shop.promote(number)
                deadline = time.monotonic() + 10
                while shop.scorer.champion is None or shop.scorer.champion.number != number:
                    assert time.monotonic() < deadline, "the promotion was not taken over"
                    time.sleep(0.002)
                time.sleep(0.02)
            done.set()
            for thread in threads:
                thread.join()
        assert failures == []
        answers = [answer for mine in seen for answer in mine]
        assert all(mine for mine in seen)
        # Each version says one value of this request: so an answer is of the very version that it names.
        assert len({(version, value) for _, version, value, _ in answers}) == 2
        assert {version for _, version, _, _ in answers} == {1, 2}
        batch, _ = read_predictions(shop.internal, "fraud", VIEW)
        assert sorted(batch.ids) == sorted(name for _, _, _, name in answers)
        assert len(set(batch.ids)) == len(answers)
        # Each switch shows as one change in the order of the predictions: none is answered by a version of the past.
        order = sorted(range(len(batch)), key=lambda row: int(batch.ids[row].rsplit("-", 1)[1], 36))
        versions = batch.versions[order].tolist()
        assert sum(a != b for a, b in pairwise(versions)) <= SWITCHES


def test_a_taken_address_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as shop, serving(shop.service()) as port:
        taken = f"cannot listen on 127.0.0.1 port {port}.*another port"
        with pytest.raises(ConfigError, match=taken), serving(shop.service(), port=port):
            pass


PROGRAM = """
import sys
from pathlib import Path
from headrace.serving.http import serve
from tests.unit.serving.shop import fitted, opened

with opened(Path(sys.argv[1])) as shop:
    shop.pay(("p1", "ann", 10.0, 1))
    shop.register(fitted(25))
    serve(shop.service(), port=0, on_ready=lambda port: print(port, flush=True))
    print("stopped", shop.predictions.queued, flush=True)
"""


def test_a_signal_ends_it_in_order(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    with process:
        port = int(process.stdout.readline())
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + 10
            while client.get("/health/ready").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.02)
            ids = [client.post("/v1/models/fraud/score", json=PAYMENT).json()["id"] for _ in range(30)]
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopped 0\n"
        assert process.wait(20) == 0
    with opened(tmp_path) as shop:
        assert read_predictions(shop.internal, "fraud", VIEW)[0].ids == ids
