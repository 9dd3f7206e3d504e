"""The history bench runs at a small size, and its own checks pass; its speed is for `make bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "history.py"


def test_small_run_agrees_with_the_oracle_and_with_the_peers() -> None:
    sizes = ["--rows", "3000", "--entities", "200", "--checked", "40", "--repeats", "1"]
    done = subprocess.run([sys.executable, str(BENCH), *sizes], capture_output=True, text=True, check=True, timeout=300)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "history"
    assert record["params"]["groups"] == 8
    assert record["params"]["features"] == 55
    figures = record["figures"]
    assert figures["checked_rows"] == 40
    assert figures["checked_values"] == 40 * 55
    assert figures["not_null"] > figures["checked_values"] // 2
    assert figures["differing"] == 0
    assert set(figures) >= {"seconds", "cold_seconds", "peak_rss_mb"}
    for name in ("duckdb", "polars"):
        assert record["peers"][name]["equal"] is True
    assert record["peers"]["feast"].get("equal", "skipped" in record["peers"]["feast"]) is True
