"""What an online store holds, as a tree of hashes over ranges of its keys: two of them are compared without reading it.

A record is known by two hashes of 64 bits, that of its key and that of its bytes (XXH64, pinned). Sorted by the hash of
the key, they fall into 4,096 ranges; a leaf of the tree is a sum over a range, and every node above it one over 16
nodes. Sums do not depend on the order in which records were met.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.aggregations.sketch import hash_slices
from headrace.core.columns import BoolArray
from headrace.core.keys import record_keys
from headrace.core.positions import Position, decode_position, encode_position
from headrace.core.tablerows import decode_table_rows
from headrace.engines.stream.commits import TABLES, WINDOWS, decode_commit
from headrace.eventlog.base import EventLog, LogBatch
from headrace.features.plan import ProjectPlan
from headrace.ingestion.materialize import new_rows

HashArray = npt.NDArray[np.uint64]

_BITS = 12
_FAN = 16
_AT_ONCE = 50_000
_BATCHES = 1_000
_VERSION_BYTES = 8
_FORMAT = 1
_UNKNOWN = 0
"""No record's hash, as good as surely."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


def hashes_of(pieces: Sequence[bytes]) -> HashArray:
    """XXH64 of each."""
    at = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), out=at[1:])
    return hash_slices(b"".join(pieces) or b"\0", at).view(np.uint64)


@dataclass(slots=True)
class Digests:
    """The hashes of a store's records, sorted by those of their keys, and the tree above them.

    `levels` holds the nodes, the root first; `edges` is where the leaves begin, and where the last one ends.
    """

    keys: HashArray
    records: HashArray
    edges: npt.NDArray[np.int64]
    levels: list[HashArray]

    @classmethod
    def of(cls, keys: HashArray, records: HashArray) -> Digests:
        """Of hashes in any order."""
        if len(keys) and (keys[1:] <= keys[:-1]).any():
            keys, at = np.unique(keys, return_index=True)  # what was met twice counts once
            records = records[at]
        bounds = np.arange(1 << _BITS, dtype=np.uint64) << np.uint64(64 - _BITS)
        edges = np.append(np.searchsorted(keys, bounds), len(keys)).astype(np.int64)
        sums = np.zeros(len(keys) + 1, np.uint64)
        np.cumsum((keys * _ODD) ^ records, out=sums[1:])
        levels = [sums[edges[1:]] - sums[edges[:-1]]]
        while len(levels[0]) > 1:
            weights = np.arange(1, 2 * _FAN, 2, dtype=np.uint64) * _ODD
            levels.insert(0, (levels[0].reshape(-1, _FAN) * weights).sum(axis=1, dtype=np.uint64))
        return cls(keys, records, edges, levels)

    def differing(self, other: Digests) -> npt.NDArray[np.int64]:
        """The leaves in which the two differ; below nodes that agree nothing is looked at."""
        nodes = np.zeros(1, np.int64)
        for mine, theirs in zip(self.levels, other.levels, strict=True):
            if len(mine) > 1:
                nodes = (nodes[:, None] * _FAN + np.arange(_FAN)).ravel()
            nodes = nodes[mine[nodes] != theirs[nodes]]
        return nodes

    def changed(self, other: Digests) -> HashArray:
        """Hashes of the keys that one of the two has alone, or whose records differ; sorted."""
        leaves = self.differing(other)
        if not len(leaves):
            return np.zeros(0, np.uint64)
        mine, my_records = self._within(leaves)
        theirs, their_records = other._within(leaves)
        both = np.concatenate([mine, theirs])
        records = np.concatenate([my_records, their_records])
        order = np.lexsort((records, both))
        both, records = both[order], records[order]
        # What both have stands twice, side by side.
        same = np.zeros(len(both), np.bool_)
        twice = (both[1:] == both[:-1]) & (records[1:] == records[:-1])
        same[1:] |= twice
        same[:-1] |= twice
        return np.unique(both[~same])

    def doubting(self, keys: HashArray) -> Digests:
        """The same, but that nothing agrees with the records of these keys, be they there or not."""
        if not len(keys):
            return self
        keep = ~holds(keys, self.keys)
        unknown = np.full(len(keys), _UNKNOWN, np.uint64)
        return Digests.of(np.append(self.keys[keep], keys), np.append(self.records[keep], unknown))

    def _within(self, leaves: npt.NDArray[np.int64]) -> tuple[HashArray, HashArray]:
        if len(leaves) == 1 << _BITS:
            return self.keys, self.records
        spans = [slice(low, high) for low, high in zip(self.edges[leaves], self.edges[leaves + 1], strict=True)]
        return np.concatenate([self.keys[s] for s in spans]), np.concatenate([self.records[s] for s in spans])


def holds(known: HashArray, asked: HashArray) -> BoolArray:
    """Which of the hashes asked for are among `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(asked), np.bool_)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.asarray(known[at] == asked)


def digest(
    records: Iterable[tuple[bytes, bytes]],
    versions: Collection[str],
    chosen: Callable[[Sequence[bytes]], BoolArray],
    on_way: Callable[[], object] = lambda: None,
    beside: Collection[str] = (),
) -> tuple[Digests, list[bytes]]:
    """The digests of the records of some versions of groups and tables, and those of their keys that are `chosen`.

    Of versions `beside` the chosen keys only.
    """
    hashed = {bytes.fromhex(version) for version in versions}
    ends = hashed | {bytes.fromhex(version) for version in beside}
    kept: list[bytes] = []
    found: list[tuple[HashArray, HashArray]] = []
    keys: list[bytes] = []
    values: list[bytes] = []

    def take() -> None:
        kept.extend([key for key, mine in zip(keys, chosen(keys).tolist(), strict=True) if mine])
        if len(ends) > len(hashed):
            of = [key[-_VERSION_BYTES:] in hashed for key in keys]
            keys[:], values[:] = list(compress(keys, of)), list(compress(values, of))
        found.append((hashes_of(keys), hashes_of(values)))
        keys.clear()
        values.clear()
        on_way()

    for key, record in records:
        if key[-_VERSION_BYTES:] in ends:
            keys.append(key)
            values.append(record)
            if len(keys) >= _AT_ONCE:
                take()
    if keys:
        take()
    none = [np.zeros(0, np.uint64)]
    return Digests.of(*(np.concatenate(none + [pair[side] for pair in found]) for side in (0, 1))), kept


def touched(
    plan: ProjectPlan, features: EventLog, since: Position, until: Position, on_way: Callable[[], object] = lambda: None
) -> HashArray:
    """Hashes of the keys of records that the feature log changes between two positions; sorted."""
    found: list[HashArray] = []
    versions = {group.version for group in plan.streamed_groups}
    for batch in between(features, WINDOWS, since.windows, until.windows):
        for version, delta in decode_commit(batch.payload).groups.items():
            if version in versions and delta.keys:
                found.append(hashes_of(record_keys(delta.keys, version)))
        on_way()
    for batch in between(features, TABLES, since.tables, until.tables):
        rows = decode_table_rows(batch.payload)
        table = plan.tables.get(rows.table)
        if table is not None and table.version == rows.version and rows.n:
            found.append(hashes_of(new_rows(table, rows, batch).keys))
        on_way()
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def between(log: EventLog, topic: str, begin: int, end: int) -> Iterable[LogBatch]:
    """The batches of a topic of one partition that hold offsets of a range."""
    while begin < end:
        batches = log.read(topic, 0, begin, min(end - begin, _BATCHES))
        if not batches:
            return
        yield from batches
        begin = batches[-1].end


class _Head(msgspec.Struct, array_like=True):
    format: int
    generation: int
    versions: list[str]
    since: bytes
    until: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """Digests as they were kept: each record was read somewhere between the positions `since` and `until`."""

    digests: Digests
    since: Position
    until: Position


class DigestFolder:
    """Keeps the digests of one store from one look to the next; lost or unreadable, they are made anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, versions: Collection[str]) -> Kept | None:
        """What was kept last; None if nothing was, or that of other definitions."""
        head = self._head()
        if head is None or head.versions != sorted(versions):
            return None
        try:
            arrays = [np.load(self._file(name, head.generation), mmap_mode="r") for name in ("keys", "records")]
        except (OSError, ValueError):
            return None
        return Kept(Digests.of(*arrays), decode_position(head.since), decode_position(head.until))

    def save(self, versions: Collection[str], kept: Kept) -> None:
        """Keep digests in the place of the last ones: killed at any moment, the one or the other are there."""
        before = self._head()
        head = _Head(
            _FORMAT,
            1 if before is None else before.generation + 1,
            sorted(versions),
            encode_position(kept.since),
            encode_position(kept.until),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, array in (("keys", kept.digests.keys), ("records", kept.digests.records)):
            with self._file(name, head.generation).open("wb") as file:
                np.save(file, array)
                _synced(file)
        beside = self._folder / "head.new"
        with beside.open("wb") as file:
            file.write(msgspec.msgpack.encode(head))
            _synced(file)
        beside.replace(self._folder / "head")
        for old in self._folder.glob("*.npy"):
            if not old.name.endswith(f"-{head.generation}.npy"):
                old.unlink(missing_ok=True)

    def _head(self) -> _Head | None:
        try:
            head = msgspec.msgpack.decode((self._folder / "head").read_bytes(), type=_Head)
        except (OSError, msgspec.DecodeError):
            return None
        return head if head.format == _FORMAT else None

    def _file(self, name: str, generation: int) -> Path:
        return self._folder / f"{name}-{generation}.npy"


def _synced(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
