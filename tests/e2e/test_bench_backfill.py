"""The benchmark of backfills runs, small, and checks itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "backfill.py"


def test_small_run_agrees_with_the_oracle() -> None:
    sizes = ["--events", "8000", "--per-day", "400", "--users", "300", "--shops", "60", "--checked", "20"]
    done = subprocess.run([sys.executable, str(BENCH), *sizes], capture_output=True, text=True, check=True, timeout=300)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "backfill"
    assert [run["checked"] for run in record["runs"]] == [{"answers": 20, "values": 400, "differing": 0}] * 2
    assert [run["days"] for run in record["runs"]] == [10, 20]
    assert {"events_per_s", "peak_rss_mb", "peak_rss_mb_of_half_of_history"} <= set(record["figures"])
