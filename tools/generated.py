"""What tools that write a page of the documentation from the code have in common: write it, or tell that it is old."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(about: str | None, file: Path, page: Callable[[], str]) -> int:
    """Write the page to its file, or with --check only compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    check = parser.parse_args().check
    text = page()
    if not check:
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file}")
    elif not file.exists() or file.read_text(encoding="utf-8") != text:
        print(f"{file.name} is out of date; run: make docs", file=sys.stderr)
        return 1
    return 0
