"""Both type checkers accept what a user writes, without a plugin, and report what is wrong with it.

`mistakes.py` marks each wrong line with an ignore comment, and both checkers report a comment that they do not need.
So that this stays a test, a file with one needless comment is checked too: it alone must be reported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKED = [
    *sorted(str(path) for path in Path(__file__).parent.glob("*.py") if path.name != Path(__file__).name),
    str(ROOT / "examples" / "flights" / "features.py"),
]
PYRIGHT = shutil.which("pyright", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@pytest.fixture
def needless(tmp_path: Path) -> str:
    path = tmp_path / "needless.py"
    path.write_text(
        "# pyright: reportUnnecessaryTypeIgnoreComment=true\n"
        "import headrace as hr\n"
        'ONE = hr.Entity("one")\n'
        "NAME: str = ONE.name  # type: ignore[assignment]\n",
        encoding="utf-8",
    )
    return str(path)


def errors(command: list[str]) -> list[str]:
    environment = {**os.environ, "MYPYPATH": f"src{os.pathsep}."}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if " error: " in line or " - error: " in line]


@pytest.mark.slow
def test_mypy_strict(needless: str) -> None:
    options = ["--strict", "--explicit-package-bases", "--follow-imports=silent"]
    found = errors([sys.executable, "-m", "mypy", *options, *CHECKED, needless])
    assert len(found) == 1, "\n".join(found)
    assert "needless.py:4" in found[0]


@pytest.mark.slow
@pytest.mark.skipif(PYRIGHT is None, reason="pyright is not installed")
def test_pyright(needless: str) -> None:
    assert PYRIGHT is not None
    found = errors([PYRIGHT, *CHECKED, needless])
    assert len(found) == 1, "\n".join(found)
    assert "needless.py:4" in found[0]


def test_there_are_mistakes_to_report() -> None:
    text = (Path(__file__).parent / "mistakes.py").read_text(encoding="utf-8")
    assert text.count("# type: ignore[") >= 30
