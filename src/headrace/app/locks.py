"""Locks on a project's state folder, held by the kernel so that they go with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from headrace.core.errors import Busy


class FolderLock:
    """Exclusive hold of one role (`up`, `compute`, `ingest`, …) in a state folder.

    Raises Busy naming the holder's process id and command if it is held.
    """

    def __init__(self, state: Path, role: str) -> None:
        self._path = state / f"{role}.lock"
        state.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 500).decode(errors="replace").strip() or "another process"
            os.close(self._file)
            raise Busy(f"{state} is held by {holder} as {role}; stop it first, or use another folder") from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} ({' '.join(sys.argv)[:300]})".encode())

    def release(self) -> None:
        """Give the role free."""
        os.ftruncate(self._file, 0)
        os.close(self._file)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


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
