"""The benchmark of the stream's way into the online store runs, small, and checks itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "stream.py"


def test_small_run_agrees_with_the_oracle() -> None:
    sizes = ["--entities", "600", "--events", "6000", "--seconds", "0.6", "--rate", "2000", "--checked", "40"]
    done = subprocess.run([sys.executable, str(BENCH), *sizes], capture_output=True, text=True, check=True, timeout=300)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "stream"
    assert record["params"]["aggregations"] == 20
    assert record["params"]["entities"] == 600
    assert record["params"]["published"] == 200 + 6000 + 1500 + 6000 + 1200 + 240
    assert record["checked"]["requests"] == 40
    assert record["checked"]["values"] == 40 * 20
    assert record["checked"]["differing"] == 0
    assert set(record["figures"]) == {
        "events_per_s",
        "visible_p99_s",
        "visible_p99_s_at_10k",
        "kernel_events_per_s",
        "uniform_events_per_s",
        "at_rate",
        "at_a_fifth",
    }
