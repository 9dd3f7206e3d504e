"""The benchmark of tables' way into the online store runs, small, and checks itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import address

BENCH = Path(__file__).parents[2] / "bench" / "materialize.py"


@pytest.mark.redis
def test_small_run_reads_what_was_put_in() -> None:
    sizes = ["--rows", "2000", "--checked", "50", "--reads", "200", "--events", "2000", "--url", address("redis")]
    done = subprocess.run([sys.executable, str(BENCH), *sizes], capture_output=True, text=True, check=True, timeout=300)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "materialize"
    assert record["checked"] == {"requests": 100, "values": 700, "differing": 0}
    assert set(record["figures"]) == {
        "embedded_rows_per_s",
        "redis_rows_per_s",
        "embedded_new_rows_per_s",
        "redis_new_rows_per_s",
        "redis_one_p50_us",
        "redis_one_p99_us",
        "redis_hundred_p50_us",
    }
