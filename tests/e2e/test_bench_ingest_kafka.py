"""The benchmark of the way through Kafka runs, small, on a real broker, and checks itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import address

pytestmark = pytest.mark.kafka
BENCH = Path(__file__).parents[2] / "bench" / "ingest_kafka.py"


def test_small_run_agrees_with_the_oracle() -> None:
    sizes = ["--entities", "600", "--events", "6000", "--seconds", "0.6", "--rate", "2000", "--checked", "40"]
    command = [sys.executable, str(BENCH), "--log", address("kafka"), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "ingest_kafka"
    assert record["params"]["published"] == 200 + 6000 + 6000 + 1200
    assert record["checked"] == {**record["checked"], "requests": 40, "values": 40 * 20, "differing": 0}
    assert set(record["figures"]) == {"events_per_s", "visible_p99_s", "publish_per_s", "at_rate"}
