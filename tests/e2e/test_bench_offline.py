"""The benchmark of the offline store runs, small, and checks itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import address

BENCH = Path(__file__).parents[2] / "bench" / "offline.py"


@pytest.mark.s3
def test_small_run_compares_what_it_reads_with_what_it_wrote() -> None:
    environment = {**os.environ, "HEADRACE_TEST_S3": address("s3")}
    command = [sys.executable, str(BENCH), "--rows", "20", "--appends", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["bench"] == "offline"
    assert set(record["figures"]) == {"local", "s3"}
    assert all(figure > 0 for figures in record["figures"].values() for figure in figures.values())
