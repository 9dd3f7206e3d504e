"""The benchmarks of refreshes and of recovery run, small, and check themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[2] / "bench"


def run(name: str, *sizes: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCH / name), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_small_refresh_writes_what_has_changed() -> None:
    sizes = ("--users", "30000", "--ceiling-users", "20000", "--ceiling", "1000", "--checked", "40")
    record = run("refresh.py", *sizes)
    assert record["bench"] == "refresh"
    assert record["checked"] == {"requests": 40, "values": 40 * 20 * 2, "differing": 0}
    assert 0.05 < record["figures"]["written_share"] < 0.065
    assert {"users_per_s", "peak_rss_mb", "ceiling_writes_per_s"} <= set(record["figures"])


def test_a_small_store_is_made_anew_to_the_bit() -> None:
    record = run("recovery.py", "--keys", "3000", "--events", "5000")
    assert record["bench"] == "recovery"
    assert record["checked"]["records"] > 3000
    assert record["checked"]["differing"] == 0
    assert {"seconds", "records_per_s"} <= set(record["figures"])
