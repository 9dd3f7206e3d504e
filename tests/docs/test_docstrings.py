"""Examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
MODULES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in sorted((SOURCE / "headrace").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_examples_run() -> None:
    for name in MODULES:
        result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
        assert result.attempted > 0, f"the examples of {name} stand where doctest does not look"
        assert result.failed == 0, name
