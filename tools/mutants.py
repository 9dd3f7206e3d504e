"""Breaks the rules of time and exactness, one at a time, and looks whether a test notices.

    python tools/mutants.py              every mutant
    python tools/mutants.py tie fence    those whose name has one of these words
    python tools/mutants.py --jobs 1     one at a time (two are the default)

Each mutant changes one place in a copy of the tree and runs the tests that ought to fail, the likeliest first, up to
the first that does. A mutant that survives is a hole in the suite; the exit code is then 1. First all these tests run
without any change and must pass, else it means nothing that they fail later.

That run also compiles the kernels. A mutant compiles anew only what its change reaches: Numba's cache looks at a
function's own file alone, so what has functions of the changed file compiled into it is found by its imports.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mutant_rules import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("src", "tests", "examples", "docs", "tools", "pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")


class Verdict(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVES"
    INVALID = "INVALID"
    """The code does not compile, or a test could not even be loaded: this says nothing about the tests."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on a mutant, the test that was the first to fail (or why there is none), and how long it took."""

    mutant: Mutant
    verdict: Verdict
    note: str
    seconds: float

    def line(self) -> str:
        return f"{self.verdict.value:8} {self.mutant.name} ({self.seconds:.0f} s{self.note and ', ' + self.note})"


def copied(source: Path, place: Path) -> None:
    """A copy of the tree with its times of change, so that the kernels that were compiled in it are found good."""
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, place / part, ignore=shutil.ignore_patterns("*.pyc"))
        elif (source / part).exists():
            shutil.copy2(source / part, place / part)


def imported(path: Path) -> set[str]:
    """The modules that a file takes functions or constants from; classes are not compiled into it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            given = [alias.name for alias in node.names if alias.name.isupper() or alias.name[0].islower()]
            names |= {node.module, *(f"{node.module}.{name}" for name in given)} if given else set()
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def kernel_files(place: Path) -> dict[Path, set[Path]]:
    """The files with compiled functions; for each itself and those whose functions are compiled into its own."""
    package = place / "src"
    files = {path for path in package.rglob("*.py") if "@njit" in path.read_text()}
    reach = {
        path: {path, *(files & {package.joinpath(*name.split(".")).with_suffix(".py") for name in imported(path)})}
        for path in files
    }
    for middle in files:
        for path in files:
            if middle in reach[path]:
                reach[path] |= reach[middle]
    return reach


def forget(path: Path) -> None:
    """Remove the compiled functions of one file."""
    for cache in path.parent.glob(f"__pycache__/{path.stem}.*.nb[ic]"):
        cache.unlink()


def forget_stale(place: Path) -> None:
    """Remove compiled functions that are older than a file that is compiled into them."""
    for path, within in kernel_files(place).items():
        compiled = [cache.stat().st_mtime for cache in path.parent.glob(f"__pycache__/{path.stem}.*.nb[ic]")]
        if compiled and min(compiled) <= max(file.stat().st_mtime for file in within):
            forget(path)


def changed(mutant: Mutant, place: Path) -> None:
    """Break the rule in a copy of the tree, and forget what was compiled of it."""
    path = place / "src" / "headrace" / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    for file, within in kernel_files(place).items():
        if path in within:
            forget(file)


def run(place: Path, tests: Sequence[str], *options: str) -> tuple[int, str]:
    """The exit code and the output of pytest over these tests in a copy of the tree, in the order given."""
    command = [
        sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider",
        "-p", "no:randomly", *options, *tests,
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(place / "src"), "HYPOTHESIS_PROFILE": "mutants"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def tried(mutant: Mutant, warm: Path, folder: Path) -> Outcome:
    """Run a mutant's tests in a copy of its own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        place = Path(own)
        copied(warm, place)
        changed(mutant, place)
        code, output = run(place, mutant.tests, "-x")
    return Outcome(mutant, *judged(code, output), time.perf_counter() - began)


def judged(code: int, output: str) -> tuple[Verdict, str]:
    """The verdict by pytest's exit code and output, and the test that failed."""
    if code == 0:
        return Verdict.SURVIVED, ""
    if code != 1 or "numba.core.errors" in output:
        return Verdict.INVALID, output.strip().rpartition("\n")[2] if code != 1 else "it does not compile"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return Verdict.KILLED, failed[1] if failed else ""


def misplaced(mutants: Sequence[Mutant]) -> list[str]:
    """What is wrong with the places of mutants: the code has moved on, and they must be renewed."""
    wrong = []
    for mutant in mutants:
        times = (ROOT / "src" / "headrace" / mutant.file).read_text().count(mutant.old)
        if times != 1:
            wrong.append(f"{mutant.name}: its place stands {times} times in {mutant.file}; renew it")
    return wrong


def main() -> int:
    """Run the mutants that were asked for; 1 if one survives, 2 if they cannot be judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants whose name has one of these words")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once")
    given = parser.parse_args()
    chosen = [m for m in MUTANTS if not given.words or any(word in m.name for word in given.words)]
    if wrong := misplaced(chosen):
        print("\n".join(wrong))
        return 2
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="headrace-mutants-") as name:
        folder = Path(name)
        warm = folder / "warm"
        warm.mkdir()
        copied(ROOT, warm)
        forget_stale(warm)
        code, output = run(warm, sorted({test for mutant in chosen for test in mutant.tests}))
        if code != 0:
            print(f"{output[-5_000:]}\nThese tests fail without a mutant: mend them first.")
            return 2
        print(f"the tests pass without a mutant ({time.perf_counter() - began:.0f} s)", flush=True)
        outcomes = []
        with ThreadPoolExecutor(given.jobs) as pool:
            for outcome in pool.map(lambda mutant: tried(mutant, warm, folder), chosen):
                outcomes.append(outcome)
                print(f"{len(outcomes)}/{len(chosen)} {outcome.line()}", flush=True)
    killed = sum(outcome.verdict is Verdict.KILLED for outcome in outcomes)
    print(f"{killed} of {len(chosen)} mutants killed in {(time.perf_counter() - began) / 60:.0f} minutes")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
