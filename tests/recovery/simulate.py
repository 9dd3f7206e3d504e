"""Simulations by seed. A seed that failed is replayed, with all that happened in it, by

python -m tests.recovery.simulate --seed 17
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pyarrow as pa

from headrace.aggregations import layout
from headrace.aggregations.layout import GroupLayout
from headrace.app.applying import apply_changes
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.core.time import SimulatedClock
from headrace.engines.stream import engine
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import GroupPlan
from headrace.ingestion import backfill, materialize
from headrace.retrieval import binding
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.stores.online.memory import MemoryOnlineStore
from tests.recovery.simulated import Simulation
from tests.recovery.simulated_checks import check
from tests.recovery.simulated_shop import PROJECT, RUNS


def failures(seeds: Iterable[int], *, most: int = 3) -> dict[int, str]:
    """The seeds whose worlds are wrong in the end, with what is wrong; the search ends at `most` of them."""
    found: dict[int, str] = {}
    with _quiet(), tempfile.TemporaryDirectory(dir=_memory()) as folder:
        catalog = applied_catalog(Path(folder))
        for seed in seeds:
            wrong, _ = _simulated(seed, Path(folder), catalog)
            if wrong:
                found[seed] = wrong
            if len(found) == most:
                break
    return found


def replayed(seed: int) -> tuple[str, list[str]]:
    """What is wrong with the world of a seed ("" if nothing is), and what happened in it."""
    with _quiet(), tempfile.TemporaryDirectory(dir=_memory()) as folder:
        return _simulated(seed, Path(folder), applied_catalog(Path(folder)))


def applied_catalog(folder: Path) -> Path:
    """A catalog in which the project was applied, for each world to have a copy of."""
    settings = Settings(folder=folder, state=folder / "applied", groups=RUNS)
    parts = Parts(settings, PROJECT, SimulatedClock(0))
    logs = {name: MemoryEventLog(parts.clock) for name in ("raw", "features")}
    parts.__dict__.update(logs, online=MemoryOnlineStore(), offline=MemoryOfflineStore())
    apply_changes(parts, PROJECT, None, abandon=False, progress=None)
    parts.close()
    return settings.state / "catalog.db"


def _simulated(seed: int, folder: Path, catalog: Path) -> tuple[str, list[str]]:
    world = Simulation(seed, folder / str(seed), catalog)
    try:
        world.run()
        check(world)
    except Exception:
        return traceback.format_exc(), world.chance.trace
    finally:
        world.close()
        shutil.rmtree(world.folder)
    return "", world.chance.trace


@contextmanager
def _quiet() -> Iterator[None]:
    """Tables are tiny, so threads cost more than they bring; workers are made again and again, always for the same few
    groups, so the layouts of these are kept; and what is torn on purpose is no news."""
    cores, disabled, layouts = pa.cpu_count(), logging.root.manager.disable, {}

    def layout_of(group: GroupPlan) -> GroupLayout:
        if group.version not in layouts:
            layouts[group.version] = layout.layout_of(group)
        return layouts[group.version]

    pa.set_cpu_count(1)
    logging.disable(logging.WARNING)
    try:
        with ExitStack() as patched:
            for module in (engine, binding, materialize, backfill):
                patched.enter_context(mock.patch.object(module, "layout_of", layout_of))
            yield
    finally:
        pa.set_cpu_count(cores)
        logging.disable(disabled)


def _memory() -> str | None:
    """A folder in memory, if there is one: locks and checkpoints are written again and again."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay one seed, or look for a wrong one among many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and print its trace")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args(arguments)
    if given.seed is None:
        found = failures(range(given.first, given.first + given.count))
        sys.stdout.write("".join(f"seed {seed}:\n{wrong}" for seed, wrong in found.items()) or "nothing is wrong\n")
        return bool(found)
    wrong, trace = replayed(given.seed)
    sys.stdout.write("\n".join([*trace, wrong or "nothing is wrong", ""]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
