"""The documents tell the truth: their Python runs, their commands and links exist.

A Python block that starts with `# name.py` is a file beside the page's other blocks, which run in order as one script.
A block that must not run stands under `<!-- not run: reason -->`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
BLOCK = re.compile(r"(?P<skip><!-- not run: \S.*-->\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\w+\.py)\n")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def runnable(path: Path) -> list[str]:
    return [match["code"] for match in BLOCK.finditer(text_of(path)) if not match["skip"]]


@pytest.mark.parametrize("path", [path for path in PAGES if runnable(path)], ids=ids)
def test_python_blocks_run(path: Path, tmp_path: Path) -> None:
    script = []
    for code in runnable(path):
        if named := NAMED.match(code):
            (tmp_path / named[1]).write_text(code, encoding="utf-8")
        else:
            script.append(code)
    (tmp_path / "page_blocks.py").write_text("\n".join(script), encoding="utf-8")
    done = subprocess.run([sys.executable, "page_blocks.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readme_has_an_example_that_runs() -> None:
    assert runnable(ROOT / "README.md")


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text_of(path))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_commands_exist(path: Path) -> None:
    from headrace.cli.main import main as cli

    shown = re.findall(r"`([^`\n]+)`", text_of(path))
    shown += [
        line
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text_of(path), re.DOTALL)
        for line in block.splitlines()
    ]
    targets = set(re.findall(r"^([a-z-]+):.*## ", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert isinstance(cli, click.Group)
    commands = set(cli.list_commands(click.Context(cli)))
    for command in shown:
        if used := re.match(r"(?:\$ )?make ([a-z-]+)", command):
            assert used[1] in targets, command
        if used := re.match(r"(?:\$ )?(?:\.venv/bin/)?headrace ([a-z]+)", command):
            assert used[1] in commands, command
