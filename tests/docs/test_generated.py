"""Generated pages and drawn maps agree with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "headrace"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("tool", ["gen_cli_reference", "gen_capabilities", "gen_aggregations"])
def test_a_generated_page_is_up_to_date(tool: str) -> None:
    done = subprocess.run([sys.executable, f"tools/{tool}.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_package_is_in_the_architecture() -> None:
    packages = {path.parent.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("__init__.py")} - {"."}
    missing = {name for name in packages if not re.search(rf"`{name}/`", ARCHITECTURE)}
    assert not missing, "docs/architecture.md names no such folder"


def test_the_architecture_names_no_module_that_is_gone() -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", ARCHITECTURE))
    assert named
    gone = {name for name in named if not (SOURCE / name).exists() and not (ROOT / name).exists()}
    assert not gone
