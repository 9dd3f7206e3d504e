"""Another version of the package beside this one, as an environment of its own would hold it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import headrace


def other_version(folder: Path, *edits: tuple[str, str, str]) -> Path:
    """A copy of the package in `folder` with edits (file, what stands there, what instead); returns its interpreter."""
    source = Path(headrace.__file__).parent
    # With the compiled kernels: they are found by name and time of their files.
    copy = shutil.copytree(source, folder / "headrace")
    for name, before, after in edits:
        file = copy / name
        text = file.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{name} has changed"
        file.write_text(text.replace(before, after), encoding="utf-8")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return python
