"""The benchmark of windows runs, small, and checks itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "windows.py"


def test_small_run_agrees_with_the_oracle_and_with_duckdb() -> None:
    sizes = ["--rows", "400", "--events", "6000", "--entities", "60", "--checked", "30", "--repeats", "1"]
    done = subprocess.run([sys.executable, str(BENCH), *sizes], capture_output=True, text=True, check=True, timeout=300)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "windows"
    assert record["checked"]["rows"] == 30
    assert record["checked"]["values"] == 30 * 12
    assert record["checked"]["differing"] == 0
    assert record["peers"]["duckdb"]["windows_compared"] == ["10m", "1h", "1d", "7d"]
    assert record["peers"]["duckdb"]["equal"] is True
    assert set(record["figures"]) == {"seconds", "cpu_seconds", "cold_seconds", "peak_rss_mb"}
