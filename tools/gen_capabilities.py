"""Writes docs/capabilities.md: what the tests prove of each adapter, from the marks of the conformance kits.

`--check` only says whether the page is up to date. Nothing is run here: what a class of tests runs is what CI runs.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from generated import write_or_check

from headrace.testing.capabilities import proved

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "capabilities.md"
PORTS = ("EventLog", "OnlineStore", "OfflineStore", "Catalog", "ModelRegistry", "BatchEngine")
HEADER = """# What each adapter can do

Written by `make docs` from the marks on the tests that run on each adapter; edit those, not this page.
"yes": a test proves it on this adapter, and CI runs it, on a real server where there is one; "-": none does.
The kits are public: derive a class from the one in `headrace.testing` to hold an adapter of your own against them.
"""


def tests() -> Iterator[type]:
    """Every class of tests that names its adapter."""
    for folder in ("conformance", "stateful"):
        for path in sorted((ROOT / "tests" / folder).glob("test_*.py")):
            module = importlib.import_module(f"tests.{folder}.{path.stem}")
            for value in vars(module).values():
                if inspect.isclass(value) and value.__module__ == module.__name__ and hasattr(value, "adapter"):
                    yield value


def table(port: str, classes: list[type]) -> str:
    """One port's table: a row per capability in the order of the kit, a column per adapter."""
    found: dict[str, set[str]] = {}
    rows: dict[str, None] = {}
    for cls in classes:
        can = found.setdefault(cls.adapter, set())  # type: ignore[attr-defined]
        for name in proved(cls):
            can.add(name)
            rows.setdefault(name)
    lines = [f"| {port} | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for name in rows:
        lines.append(f"| {name} | " + " | ".join("yes" if name in can else "-" for can in found.values()) + " |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    by_port: dict[str, list[type]] = {port: [] for port in PORTS}
    for cls in tests():
        by_port[cls.port].append(cls)  # type: ignore[attr-defined]
    return HEADER + "".join(f"\n## {port}\n\n{table(port, classes)}\n" for port, classes in by_port.items())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(write_or_check(__doc__, PAGE, page))
