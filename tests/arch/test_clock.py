"""Time is an argument: only the outermost packages may read the machine's clock."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "headrace"
MAY_READ = {"app", "cli", "console"}
READS = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}


def clock_reads(tree: ast.AST) -> Iterator[int]:
    """Line numbers where the wall clock is named; `perf_counter` and `monotonic` measure durations and are free."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if (owner, node.attr) in READS:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and any((node.module, name.name) in READS for name in node.names):
            yield node.lineno


@pytest.mark.parametrize(
    "code",
    [
        "import time\nx = time.time()",
        "from time import time_ns",
        "import datetime\nx = datetime.datetime.now()",
        "from datetime import datetime\nclock = datetime.utcnow",
        "from datetime import date\nx = date.today()",
    ],
)
def test_the_scan_sees_a_clock(code: str) -> None:
    assert list(clock_reads(ast.parse(code)))


def test_the_scan_lets_durations_pass() -> None:
    assert not list(
        clock_reads(ast.parse("import time\nx = time.perf_counter() + time.monotonic()\ny = clock.now_us()"))
    )


def test_no_module_below_app_reads_the_clock() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).parts[0] not in MAY_READ
        for line in clock_reads(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "pass a Clock in instead"
