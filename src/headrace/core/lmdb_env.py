"""LMDB environments shared within one process.

LMDB forbids opening one environment twice in a process, and using one across a fork. So adapters that lie on LMDB
take their environment from here: one per folder and process, counted, and closed around every fork (it opens again by
itself on both sides).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import lmdb

from headrace.core.lmdb_map import PageMap, map_pages

DEFAULT_MAP_SIZE: Final = 1 << 40
"""Bytes of address space, not of disk or memory: the file grows as data comes."""
RECOVERABLE: Final = (lmdb.MapResizedError, lmdb.BadRslotError)
"""What `SharedEnvironment.recover` mends, after which the transaction can begin again."""
_MAX_READERS: Final = 1024
_MAX_DBS: Final = 4096
T = TypeVar("T")


class SharedEnvironment:
    """One LMDB environment of this process, behind two gates.

    A read transaction lives within `read_gate`, a write transaction within `write_gate`; readers therefore never wait
    for writers. Whoever needs the environment to stand still (a fork, a resize) takes both, the write gate first.
    `env` is None while it is closed; `handles` are of the open environment and empty while there is none.
    """

    def __init__(self, path: Path, *, sync: bool, map_size: int, named: bool) -> None:
        self.path = path
        self.sync = sync
        self.map_size = map_size
        self.users = 0
        self.read_gate = threading.Lock()
        self.write_gate = threading.RLock()
        self.env: lmdb.Environment | None = None
        self.handles: dict[object, lmdb._Database] = {}
        self._pages: PageMap | None = None
        self._mapped = False
        self._max_dbs = _MAX_DBS if named else 0
        self._opening = threading.Lock()

    def opened(self) -> lmdb.Environment:
        """The environment, opened if need be. Raises lmdb.Error or OSError if it cannot be."""
        with self._opening:
            if self.env is None:
                env = lmdb.open(
                    str(self.path),
                    map_size=self.map_size,
                    max_dbs=self._max_dbs,
                    max_readers=_MAX_READERS,
                    max_spare_txns=1,
                    sync=self.sync,
                    metasync=self.sync,
                )
                env.reader_check()
                self.env = env
            return self.env

    def pages(self) -> PageMap | None:
        """The data file as it lies in memory; None where it cannot be mapped a second time.

        It may be read within `read_gate` alone, as far as a read transaction of the open environment keeps its pages.
        """
        if not self._mapped:
            self._pages = map_pages(self.path / "data.mdb", self.opened().info()["map_size"])
            self._mapped = True
        return self._pages

    def handle(self, key: object, name: bytes, *, create: bool = False) -> lmdb._Database:
        """The handle of a named database, kept under `key`. Raises lmdb.NotFoundError if it does not exist.

        Must not be called within `read_gate`.
        """
        with self.write_gate:
            env = self.opened()
            if key not in self.handles:
                # A write transaction in any case: the binding recycles read transactions, which drops new handles.
                self.handles[key] = self.write(lambda txn: env.open_db(name, txn, create=create))
            return self.handles[key]

    def write(self, do: Callable[[lmdb.Transaction[bytes]], T]) -> T:
        """Run `do` in a write transaction and commit; what it raises aborts. Must not be called within `read_gate`."""
        with self.write_gate:
            while True:
                try:
                    txn = (self.env or self.opened()).begin(write=True)
                except lmdb.MapResizedError as error:
                    self.recover(error)
                    continue
                try:
                    result = do(txn)
                    txn.commit()
                    return result
                except BaseException:
                    txn.abort()
                    raise

    def settle(self) -> None:
        """Let this process see what a killed writer has committed but not yet announced to readers.

        LMDB writes a transaction's root to the data file and then its number to the lock file, where readers look. A
        writer that dies in between leaves readers one transaction behind until somebody takes the write lock. Whoever
        goes on from what a read tells (a position) settles first, else it would do the unannounced work twice.
        """
        self.write(lambda txn: None)

    def recover(self, error: lmdb.Error) -> None:
        """Mend what a RECOVERABLE error at the begin of a transaction says. Must not be called within `read_gate`."""
        with self.write_gate, self.read_gate:
            if isinstance(error, lmdb.MapResizedError):
                self._unmap()
                self.opened().set_mapsize(0)  # take over the size that another process has set
            else:
                # Something in this process opened and closed the lock file (a backup, say), so POSIX took away our
                # locks, and another process took our reader's slot for that of a dead one.
                self.suspend()
                self.opened()

    def suspend(self) -> None:
        """Close the environment for now; the caller holds both gates."""
        self.handles = {}
        self._unmap()
        if self.env is not None:
            self.env.close()
            self.env = None

    def _unmap(self) -> None:
        pages, self._pages, self._mapped = self._pages, None, False
        if pages is not None:
            pages.close()

    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the data file; None if there is none."""
        try:
            status = os.stat(self.path / "data.mdb")
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino


class _Registry:
    """The environments of this process by real path."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._shared: dict[Path, tuple[SharedEnvironment, tuple[int, int] | None]] = {}

    def acquire(self, path: Path, make: Callable[[], SharedEnvironment]) -> SharedEnvironment:
        with self._lock:
            if path in self._shared:
                shared, identity = self._shared[path]
                if shared.identity() == identity:
                    shared.users += 1
                    return shared
            shared = make()
            shared.opened()
            shared.users = 1
            self._shared[path] = (shared, shared.identity())
            return shared

    def release(self, shared: SharedEnvironment) -> None:
        with self._lock:
            shared.users -= 1
            if shared.users:
                return
            if shared.path in self._shared and self._shared[shared.path][0] is shared:
                del self._shared[shared.path]
            with shared.write_gate, shared.read_gate:
                shared.suspend()

    def before_fork(self) -> None:
        self._lock.acquire()
        for shared, _ in self._shared.values():
            shared.write_gate.acquire()
            shared.read_gate.acquire()
            shared.suspend()

    def after_fork(self) -> None:
        for shared, _ in self._shared.values():
            shared.read_gate.release()
            shared.write_gate.release()
        self._lock.release()


_registry = _Registry()
os.register_at_fork(
    before=_registry.before_fork,
    after_in_parent=_registry.after_fork,
    after_in_child=_registry.after_fork,
)


def acquire_environment(path: str | os.PathLike[str], *, sync: bool, map_size: int, named: bool) -> SharedEnvironment:
    """Open the environment in folder `path` (made if absent), or share the one that this process has open.

    A synced one that is open serves an unsynced user too; the reverse raises ValueError. Release it once when done.
    Raises lmdb.Error or OSError if it cannot be opened.
    """
    folder = Path(os.path.realpath(path))
    folder.mkdir(parents=True, exist_ok=True)
    shared = _registry.acquire(folder, lambda: SharedEnvironment(folder, sync=sync, map_size=map_size, named=named))
    if sync and not shared.sync:
        _registry.release(shared)
        raise ValueError(f"{folder} is open in this process without sync; close it first, or open it with sync there")
    return shared


def release_environment(shared: SharedEnvironment) -> None:
    """Give back what `acquire_environment` gave; the last user closes it."""
    _registry.release(shared)


def explain(error: lmdb.Error | OSError, path: str | os.PathLike[str]) -> str:
    """What went wrong with the environment in `path`, and what to do about it."""
    if isinstance(error, lmdb.MapFullError):
        return f"{path} has used up its map; nothing was stored: open it with a larger map_size, or drop old data"
    # LMDB calls a cut-off write an input/output error.
    if any(said in str(error) for said in ("No space left", "Input/output error", "File too large", "quota")):
        return f"the disk of {path} is full or fails; nothing was stored: free some space and do it again"
    if isinstance(error, lmdb.ReadersFullError):
        return f"{path} has {_MAX_READERS} readers at once already: close some of the processes that read it"
    if isinstance(error, lmdb.DbsFullError):
        return f"{path} holds {_MAX_DBS} topic partitions already: use fewer partitions, or a second folder"
    if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError | lmdb.PanicError):
        return f"{path} is damaged ({error}): restore the folder, or remove it and build it anew from its source"
    if isinstance(error, lmdb.MemoryError) or "Cannot allocate memory" in str(error):
        return f"{path} cannot be mapped: raise the limit of address space (ulimit -v) or pass a smaller map_size"
    return f"{path}: {error}"
