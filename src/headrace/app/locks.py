"""Locks on a project's state folder, held by the kernel so that they go with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headrace.app.private import private_folder
from headrace.core.errors import Busy

APPLY = "apply"
"""The role of whoever changes the definitions: while it is held, a supervisor keeps its layers at rest."""


class FolderLock:
    """Exclusive hold of one role (`up`, `compute`, `ingest`, …) in a state folder, or a `shared` one with others.

    Raises Busy naming the holder's process id and command if it is held.
    """

    def __init__(self, state: Path, role: str, *, shared: bool = False) -> None:
        self._path, self._shared = state / f"{role}.lock", shared
        private_folder(state)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 500).decode(errors="replace").strip() or "another process"
            os.close(self._file)
            raise Busy(f"{state} is held by {holder} as {role}; stop it first, or use another folder") from None
        # Several holders write the same, and it stays.
        told = f"several workers, of {role}" if shared else f"{_this_process()}({_this_command()[:300]})"
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, told.encode(), 0)

    def release(self) -> None:
        """Give the role free."""
        if not self._shared:
            os.ftruncate(self._file, 0)
        os.close(self._file)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def layers_at_rest(
    state: Path, layers: Sequence[str], answering: Sequence[str], timeout_s: float = 60.0
) -> Iterator[None]:
    """Keep `layers` from running while the context lasts: a supervisor is asked to stop them, and starts them anew.

    Those of `answering` may go on under a supervisor, which starts them anew as well. Raises Busy, naming the holder,
    if a layer runs that no supervisor started, or does not stop in time.
    """
    with FolderLock(state, APPLY):
        supervisor = holder_of(state, "up")
        supervised = supervisor is not None and not supervisor.startswith(_this_process())
        layers = [layer for layer in layers if not (supervised and layer in answering)]
        deadline = time.monotonic() + (timeout_s if supervised else 0.0)
        while holders := [holder for layer in layers if (holder := holder_of(state, layer)) is not None]:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"{state} is in use by {holders[0]}, which runs the former definitions; stop it first "
                    "(headrace backfill computes new groups while it runs)"
                )
            time.sleep(0.05)
        yield


def holder_of(state: Path, role: str) -> str | None:
    """Who holds a role, in words; None if nobody does."""
    path = state / f"{role}.lock"
    if not path.exists():
        return None
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(file, 500).decode(errors="replace").strip() or "another process"
    else:
        return None
    finally:
        os.close(file)


def holder_pid(state: Path, role: str) -> int | None:
    """The process id of who holds a role alone; None if nobody does."""
    found = re.match(r"process (\d+) ", holder_of(state, role) or "")
    return None if found is None else int(found[1])


def _this_command() -> str:
    """The command line; of an erasure without the key, which is to stand nowhere."""
    words = sys.argv
    return " ".join(words[: words.index("erase") + 1] if "erase" in words else words)


def _this_process() -> str:
    return f"process {os.getpid()} "
