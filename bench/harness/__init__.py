"""What the benchmarks share: the versions that a figure belongs to, and processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


def versions(*packages: str) -> dict[str, Any]:
    """Versions of Python and of these packages, and the machine: what a record's figures depend on."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def peak_mb() -> int:
    """Highest resident memory of this process, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def in_process_of_its_own(target: Callable[..., None], *arguments: object) -> Any:
    """What the target sends; raises SystemExit if it fails."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=target, args=(*arguments, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{target.__name__} failed; its error is above") from None
    finally:
        process.join()
