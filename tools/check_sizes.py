"""Warns about modules and functions that outgrow the size budget; `--strict` makes a warning an error.

Budget: median module 150 lines, no module above 600; one function in a hundred may have more than 60 lines (without
its docstring).
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODULE_MEDIAN = 150
MODULE_MAX = 600
FUNCTION_P99 = 60
SOURCE = Path(__file__).resolve().parent.parent / "src" / "headrace"


@dataclass(frozen=True, slots=True)
class Function:
    """A function and its number of lines, docstring left out."""

    where: str
    lines: int


def functions_of(path: Path, source: Path) -> Iterator[Function]:
    """Every function and method of a module, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            yield Function(f"{path.relative_to(source.parent)}:{node.lineno} {node.name}", lines)


def over_budget(source: Path = SOURCE) -> list[str]:
    """One line per breach of the budget; empty if all is well."""
    modules = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(source.rglob("*.py"))}
    written = [lines for path, lines in modules.items() if path.name != "__init__.py"]
    functions = sorted((f for path in modules for f in functions_of(path, source)), key=lambda f: -f.lines)
    found = [
        f"{path.relative_to(source.parent)}: {lines} lines, more than {MODULE_MAX}; split it by noun"
        for path, lines in modules.items()
        if lines > MODULE_MAX
    ]
    if written and statistics.median(written) > MODULE_MEDIAN:
        found.append(f"the median module has {statistics.median(written):.0f} lines, more than {MODULE_MEDIAN}")
    long = [f for f in functions if f.lines > FUNCTION_P99]
    if len(long) > len(functions) // 100:
        found.append(f"{len(long)} of {len(functions)} functions have more than {FUNCTION_P99} lines:")
        found += [f"  {f.where}: {f.lines} lines" for f in long]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="exit 1 when the budget is exceeded")
    strict = parser.parse_args().strict
    found = over_budget()
    for line in found:
        print(f"warning: {line}" if not line.startswith(" ") else line)
    if not found:
        print("sizes: within the budget")
    return 1 if found and strict else 0


if __name__ == "__main__":
    sys.exit(main())
