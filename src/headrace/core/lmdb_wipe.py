"""Bytes that LMDB no longer uses are overwritten in its file.

LMDB never overwrites: what is replaced or deleted stays on free pages, and in the gaps of pages that are in use, until
something else happens to be written there. Under the writers' lock, and once no reader holds an older snapshot, those
bytes are nobody's. So the trees are walked from the newest meta page, as LMDB 0.9 lays them out (`lmdb.h`, `mdb.c`:
data version 1, 64 bits), and everything that is not reached becomes zeros. Pages of which the trees count other
numbers than the walk finds are a layout that this module does not know: then nothing is touched.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from headrace.core.errors import Busy, StoreError
from headrace.core.lmdb_env import SharedEnvironment

if TYPE_CHECKING:
    import lmdb

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER: Final = 16
"""Bytes before what a page holds: number (8), pad (2), flags (2), lower and upper (2 + 2) or number of pages (4)."""
_META = struct.Struct("<IIQQ")
_DB = struct.Struct("<IHHQQQQQ")
"""Of a tree: pad, flags, depth, branch, leaf and overflow pages, entries, root."""
_TAIL = struct.Struct("<QQ")
_NOWHERE = 2**64 - 1
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG, _TREE = 1, 2
_NODE: Final = 8
_PATIENCE_S = 60.0
_AT_ONCE = 1 << 20


def wipe_environment(shared: SharedEnvironment, *, patience_s: float = _PATIENCE_S) -> int:
    """Overwrite all that the newest snapshot does not hold; returns how many bytes of the file it does hold.

    Readers go on; writers wait, as does this for readers of older snapshots: Busy if one holds on to its for
    `patience_s`. Must not be called within `read_gate`. Raises StoreError if the file is laid out in another way.
    """
    deadline = time.monotonic() + patience_s
    with shared.write_gate:
        shared.opened().sync(True)
        return shared.write(lambda txn: _wipe(shared, txn, deadline))


def separators(shared: SharedEnvironment) -> Iterator[bytes]:
    """Keys that stand above the leaves of the main tree, some of which may be of records that are gone."""
    with shared.write_gate:
        found: list[bytes] = []
        shared.write(lambda txn: found.extend(_separators(shared)))
    yield from found


@dataclass(slots=True)
class _Walk:
    """What the walk finds: which pages are in use, and the ranges of bytes in them that are not."""

    data: npt.NDArray[np.uint8]
    size: int
    used: npt.NDArray[np.bool_] = field(init=False)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    keep_keys: bool = False

    def __post_init__(self) -> None:
        self.used = np.zeros(len(self.data) // self.size, np.bool_)

    def tree(self, raw: bytes) -> None:
        """Mark the pages of a tree, whose description these are the bytes of, and of the trees in it."""
        _, _, _, branches, leaves, overflows, _, root = _DB.unpack(raw)
        found = [0, 0, 0]
        waiting = [] if root == _NOWHERE else [root]
        inner: list[bytes] = []
        while waiting:
            page = self._use(waiting.pop())
            start = page * self.size
            words = self.data[start : start + self.size].view("<u2")
            flags, lower, upper = int(words[5]), int(words[6]), int(words[7])
            if not _HEADER <= lower <= upper <= self.size:
                raise _strange(f"page {page} has bounds {lower} and {upper}")
            self.gaps.append((start + lower, start + upper))
            at = words[_HEADER // 2 : lower // 2].astype(np.int64)
            node = words[(at // 2)[:, None] + np.arange(4)].astype(np.int64)
            if flags & _BRANCH:
                found[0] += 1
                waiting += (node[:, 0] | node[:, 1] << 16 | node[:, 2] << 32).tolist()
                if self.keep_keys:
                    places = zip(at.tolist(), node[:, 3].tolist(), strict=True)
                    self.keys += [self._bytes(start + one + _NODE, size) for one, size in places]
            elif flags & _LEAF:
                found[1] += 1
                for row in np.flatnonzero(node[:, 2] & (_BIG | _TREE)).tolist():
                    value = start + int(at[row]) + _NODE + int(node[row, 3])
                    if node[row, 2] & _TREE:
                        inner.append(self._bytes(value, _DB.size))
                    else:
                        found[2] += self._overflow(value, int(node[row, 0] | node[row, 1] << 16))
            else:
                raise _strange(f"page {page} of a tree has flags {flags}")
        if found != [branches, leaves, overflows]:
            raise _strange(f"a tree counts {branches}, {leaves} and {overflows} pages, the walk {found}")
        for one in inner:
            self.tree(one)

    def _overflow(self, value: int, size: int) -> int:
        first = int.from_bytes(self._bytes(value, 8), "little")
        start = first * self.size
        pages = int.from_bytes(self._bytes(start + 12, 4), "little")
        flags = int.from_bytes(self._bytes(start + 10, 2), "little")
        if not flags & _OVERFLOW or not _HEADER + size <= pages * self.size:
            raise _strange(f"page {first} holds no long value")
        for page in range(first, first + pages):
            self._use(page)
        self.gaps.append((start + _HEADER + size, start + pages * self.size))
        return pages

    def _use(self, page: int) -> int:
        if not 2 <= page < len(self.used) or self.used[page]:
            raise _strange(f"page {page} is used twice, or is not in the file")
        self.used[page] = True
        return page

    def _bytes(self, start: int, n: int) -> bytes:
        return self.data[start : start + n].tobytes()


def _walked(shared: SharedEnvironment, *, keep_keys: bool = False) -> _Walk:
    """The newest snapshot; the caller is the writer."""
    env = shared.opened()
    size = int(env.stat()["psize"])
    data: npt.NDArray[np.uint8] = np.memmap(shared.path / "data.mdb", np.uint8, "r")
    data = data[: len(data) // size * size]
    metas = []
    for page in (0, 1):
        start = page * size + _HEADER
        magic, version, _, _ = _META.unpack(data[start : start + _META.size].tobytes())
        if (magic, version) != (_MAGIC, _VERSION):
            raise _strange(f"meta page {page} has magic {magic:x} and version {version}")
        after = start + _META.size + 2 * _DB.size
        _, number = _TAIL.unpack(data[after : after + _TAIL.size].tobytes())
        metas.append((number, start + _META.size))
    number, at = max(metas)
    if number != env.info()["last_txnid"]:
        raise _strange(f"the newest meta page is of transaction {number}")
    walk = _Walk(data, size, keep_keys=keep_keys)
    walk.used[:2] = True
    # Of the free list the keys are numbers.
    walk.keep_keys = False
    walk.tree(data[at : at + _DB.size].tobytes())
    walk.keep_keys = keep_keys
    walk.tree(data[at + _DB.size : at + 2 * _DB.size].tobytes())
    return walk


def _wipe(shared: SharedEnvironment, txn: lmdb.Transaction[bytes], deadline: float) -> int:
    last = txn.id() - 1
    while held := _older_readers(shared, last):
        if time.monotonic() >= deadline:
            raise Busy(
                f"process {held[0]} has been reading an old snapshot of {shared.path} all the time, so deleted bytes "
                "cannot be overwritten yet; end it and run this again"
            )
        shared.opened().reader_check()
        time.sleep(0.01)
    walk = _walked(shared)
    file = os.open(shared.path / "data.mdb", os.O_RDWR)
    try:
        ends = np.flatnonzero(np.diff(np.concatenate([[False], ~walk.used, [False]]).astype(np.int8)))
        for first, end in ends.reshape(-1, 2).tolist():
            _zero(file, first * walk.size, end * walk.size)
        for start, end in walk.gaps:
            _zero(file, start, end)
        _zero(file, len(walk.data), os.fstat(file).st_size)
        os.fsync(file)
    finally:
        os.close(file)
    return int(walk.used.sum()) * walk.size


def _zero(file: int, start: int, end: int) -> None:
    while start < end:
        n = min(end - start, _AT_ONCE)
        os.pwrite(file, bytes(n), start)
        start += n


def _older_readers(shared: SharedEnvironment, last: int) -> list[str]:
    """Processes that read a snapshot before transaction `last`."""
    found = []
    for line in shared.opened().readers().splitlines():
        words = line.split()
        if len(words) == 3 and words[2].isdecimal() and int(words[2]) < last:
            found.append(words[0])
    return found


def _separators(shared: SharedEnvironment) -> list[bytes]:
    return [key for key in _walked(shared, keep_keys=True).keys if key]


def _strange(what: str) -> StoreError:
    return StoreError(f"the file is not laid out as LMDB 0.9 does it ({what}): nothing in it was overwritten")
