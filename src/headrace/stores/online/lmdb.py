"""OnlineStore in an LMDB environment: the embedded default, read by any number of processes.

Records lie in the main database under their own keys; the position lies under a key that is longer than any record's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final

import lmdb
import numpy as np
import numpy.typing as npt

from headrace.core.columns import IntArray
from headrace.core.errors import StoreError
from headrace.core.keys import JoinedKeys
from headrace.core.lmdb_env import (
    DEFAULT_MAP_SIZE,
    RECOVERABLE,
    SharedEnvironment,
    acquire_environment,
    explain,
    release_environment,
)
from headrace.core.lmdb_map import FOUND, STALE
from headrace.core.lmdb_wipe import separators, wipe_environment
from headrace.stores.online.base import Change, Fetched, OnlineStore, Record, Revision
from headrace.stores.online.checks import MAX_KEY_BYTES, check_keys, checked, updated

_POSITION: Final = b"\xff" * (MAX_KEY_BYTES + 1)
"""Sorts after every record's key, so appending loads and scans never meet it in between."""
_POSITION_SIZE: Final = np.array([len(_POSITION)], np.int64)

_SWEPT: Final = 20_000
_TRIES: Final = 3
"""Times that `fetch` begins anew when two writers were done between its begin and its first look."""


class LmdbOnlineStore(OnlineStore):
    """A store in folder `path`; it may be open many times, in this process and in others.

    Args:
        path: the folder; made if it does not exist, unless `readonly`.
        sync: False: a write survives the death of any process as soon as it returns, but not power loss, after which
            the store is rebuilt from the feature log. True: it survives power loss too; each write waits for the disk.
        map_size: most bytes that the store can ever hold; costs address space only.
        readonly: refuse `write`, and a folder that holds no store.

    Raises StoreError if the folder cannot be opened, read or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sync: bool = False,
        map_size: int = DEFAULT_MAP_SIZE,
        readonly: bool = False,
    ) -> None:
        if readonly and not (Path(path) / "data.mdb").exists():
            raise StoreError(f"{os.fspath(path)} holds no online store: start the ingestion that fills it first")
        self._readonly = readonly
        try:
            shared = acquire_environment(path, sync=sync, map_size=map_size, named=False)
        except ValueError as error:
            raise StoreError(f"cannot open the online store: {error}") from None
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"cannot open the online store: {explain(error, path)}") from error
        self._open: SharedEnvironment | None = shared
        if not readonly:
            with _explained(shared):
                shared.settle()

    @property
    def _shared(self) -> SharedEnvironment:
        if self._open is None:
            raise StoreError("this online store is closed: open it again")
        return self._open

    def read(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes]:
        shared = self._shared
        while True:
            with shared.read_gate:
                try:
                    txn = (shared.env or shared.opened()).begin()
                    get = txn.get
                    try:
                        return [get(key) for key in keys], get(_POSITION) or b""
                    finally:
                        txn.abort()
                except RECOVERABLE as error:
                    failed = error
                except lmdb.BadValsizeError:
                    raise StoreError(f"a key has 1 to {MAX_KEY_BYTES} bytes; one of {list(keys)} has not") from None
                except lmdb.Error as error:
                    raise StoreError(explain(error, shared.path)) from error
            with _explained(shared):
                shared.recover(failed)

    def fetch(self, keys: JoinedKeys) -> Fetched:
        joined = np.frombuffer(keys.joined + _POSITION, np.uint8)
        sizes = np.concatenate((keys.sizes, _POSITION_SIZE))
        for _ in range(_TRIES):
            found = self._find(joined, sizes)
            if found is None:
                break
            became, words, begins, lengths = found
            if became == FOUND:
                # The position was asked for last.
                position = words[begins[-1] :].tobytes()[: lengths[-1]] if begins[-1] >= 0 else b""
                begins[-1] = -1
                return Fetched(words, begins, lengths[:-1], position)
            if became != STALE:
                break
        # One by one; it mends what can be mended, and says what is wrong where something is.
        return super().fetch(keys)

    def _find(self, keys: npt.NDArray[np.uint8], sizes: IntArray) -> tuple[int, IntArray, IntArray, IntArray] | None:
        """What `find_records` gives; None where there is no snapshot or no map to read it in."""
        shared, find = self._shared, _finder()
        with shared.read_gate:
            try:
                txn = (shared.env or shared.opened()).begin()
            except (lmdb.Error, OSError):
                return None
            try:
                pages = shared.pages()
                return None if pages is None else find(pages.address, pages.size, txn.id(), keys, sizes)
            finally:
                txn.abort()

    def prepare(self) -> None:
        # A page of zeros is no page of LMDB's, so nothing is looked up; the store itself is not touched.
        nothing = np.zeros(64, np.int64)
        _finder()(nothing.ctypes.data, nothing.nbytes, 0, np.frombuffer(_POSITION, np.uint8), _POSITION_SIZE)

    def write(self, records: Sequence[Record], position: bytes) -> None:
        latest = checked(records)
        self._commit(lambda txn: _put(txn, latest, position))

    def update(self, keys: Sequence[bytes], change: Change) -> None:
        check_keys(keys)

        def renew(txn: lmdb.Transaction[bytes]) -> None:
            # In key order each page is touched once, by reads and by writes.
            get, order = txn.get, sorted(keys)
            found = {key: get(key) for key in order}
            records, position = change([found[key] for key in keys], get(_POSITION) or b"")
            latest = updated(records, keys)
            _put(txn, latest, position, [key for key in order if key in latest])

        self._commit(renew)

    def revise(self, keys: Sequence[bytes], change: Revision) -> None:
        check_keys(keys)

        def renew(txn: lmdb.Transaction[bytes]) -> None:
            get = txn.get
            records = change([get(key) for key in keys])
            _put(txn, checked(records), None)

        self._commit(renew)

    def _commit(self, do: Callable[[lmdb.Transaction[bytes]], None]) -> None:
        """Run `do` in a write transaction."""
        shared = self._shared
        if self._readonly:
            raise StoreError(f"the online store in {shared.path} was opened for reading: open it without readonly")
        with _explained(shared):
            shared.write(do)

    def position(self) -> bytes:
        return self.read(())[1]

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        shared = self._shared
        with _explained(shared):
            txn = _snapshot(shared)
            try:
                for key, record in txn.cursor():
                    if key != _POSITION:
                        yield key, record
            finally:
                txn.abort()

    def sweep(self) -> Iterator[tuple[bytes, bytes]]:
        shared, at = self._shared, b""
        while True:
            # Snapshots are short, so that the pages of what is replaced meanwhile can be used again.
            with _explained(shared):
                txn = _snapshot(shared)
                try:
                    cursor = txn.cursor()
                    found = list(islice(cursor, _SWEPT)) if cursor.set_range(at) else []
                finally:
                    txn.abort()
            yield from ((key, record) for key, record in found if key != _POSITION)
            if len(found) < _SWEPT:
                return
            at = found[-1][0] + b"\0"

    def count(self) -> int:
        shared = self._shared
        with _explained(shared):
            txn = _snapshot(shared)
            try:
                return txn.stat()["entries"] - (txn.get(_POSITION) is not None)
            finally:
                txn.abort()

    def wipe(self) -> None:
        shared = self._shared
        with _explained(shared), shared.write_gate:
            keys = list(separators(shared))
            found, _ = self.read(keys)
            if None in found:
                _renew(shared)
            wipe_environment(shared)

    def sync(self) -> None:
        shared = self._shared
        with _explained(shared), shared.write_gate:
            shared.opened().sync(True)

    def close(self) -> None:
        shared, self._open = self._open, None
        if shared is not None:
            release_environment(shared)


def _put(
    txn: lmdb.Transaction[bytes],
    latest: dict[bytes, bytes | None],
    position: bytes | None,
    order: Sequence[bytes] | None = None,
) -> None:
    """Write records in the order of their keys, which is `order` where it is known."""
    keys = sorted(latest) if order is None else order
    cursor = txn.cursor()
    # A first load comes in order: records beyond all others are appended, with no search and to full pages. The
    # position, which lies behind them, makes room.
    append = position is not None and _beyond_all(cursor, keys)
    if append:
        txn.delete(_POSITION)
    items = [(key, record) for key in keys if (record := latest[key]) is not None]
    cursor.putmulti(items, append=append)
    if len(items) < len(keys):
        for key in keys:
            if latest[key] is None:
                txn.delete(key)
    if position is not None:
        txn.put(_POSITION, position)


def _beyond_all(cursor: lmdb.Cursor[bytes], keys: Sequence[bytes]) -> bool:
    """True if all of the sorted keys are greater than those of every record."""
    if not keys:
        return False
    found = cursor.last()
    if found and cursor.key() == _POSITION:
        found = cursor.prev()
    return not found or cursor.key() < keys[0]


def _snapshot(shared: SharedEnvironment) -> lmdb.Transaction[bytes]:
    while True:
        try:
            with shared.read_gate:
                return shared.opened().begin()
        except RECOVERABLE as error:
            shared.recover(error)


def _renew(shared: SharedEnvironment) -> None:
    """Build the tree anew in one transaction: above its leaves stand keys of records that are gone."""
    before = _snapshot(shared)
    try:

        def fill(txn: lmdb.Transaction[bytes]) -> None:
            main = shared.opened().open_db(None, txn)
            txn.drop(main, delete=False)
            txn.cursor().putmulti(before.cursor(), append=True)

        shared.write(fill)
    finally:
        before.abort()


@cache
def _finder() -> Callable[..., tuple[int, IntArray, IntArray, IntArray]]:
    """`find_records`; compiled code is heavy to import, and most who open a store do not fetch."""
    from headrace.stores.online.lmdb_find import find_records

    return find_records


@contextmanager
def _explained(shared: SharedEnvironment) -> Iterator[None]:
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise StoreError(explain(error, shared.path)) from error
