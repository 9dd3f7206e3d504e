"""What the online store should hold, computed from the archive and the log behind it.

A record is a function of what lies below its position, however that was batched, so what is computed here is compared
with what is served by bits, and stands in its place where it was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.aggregations.table_records import DELETED, words_of
from headrace.aggregations.table_splice import NewRows, merge_table
from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, Column, IntArray, column_of
from headrace.core.keys import encode_numbers, key_encoder
from headrace.core.schema import DType
from headrace.core.time import NULL_US
from headrace.engines.stream.commits import TABLES
from headrace.eventlog.base import EventLog
from headrace.features.plan import GroupPlan, ProjectPlan, TablePlan
from headrace.ingestion.backfill import GroupBackfill, LeftOut, Progress
from headrace.ingestion.digests import hashes_of, holds
from headrace.retrieval.past import AVAILABLE, EVENT_TIME, ORDER, Past
from headrace.retrieval.past import DELETED as GONE
from headrace.stores.offline.base import OfflineStore
from headrace.stores.online.base import OnlineStore

_VERSION_BYTES = 8
_CHUNK = 50_000
"""Records of a table that are made at once."""
_BATCHES = 1_000


@dataclass(frozen=True, slots=True)
class Share:
    """One of `of` equal shares of all entities, told by a hash of their keys, `number` from 0; with further records.

    Attributes:
        also: XXH64 of the keys of records that belong to it besides, sorted.
    """

    number: int
    of: int
    also: npt.NDArray[np.uint64] | None = None

    def holds(self, keys: Sequence[bytes]) -> BoolArray:
        """Which of these keys of records are of entities in this share."""
        hashes = hashes_of([key[:-_VERSION_BYTES] for key in keys])
        mine: BoolArray = np.asarray(hashes % np.uint64(self.of) == np.uint64(self.number))
        if self.also is not None and len(self.also):
            mine |= holds(self.also, hashes_of(keys))
        return mine


ALL = Share(0, 1)


class Arrivals:
    """When the feature log took each row of a table; asks for what is new, and remembers the rest."""

    def __init__(self, features: EventLog) -> None:
        self._features = features
        self._next = features.begin(TABLES, 0) if TABLES in features.topics() else 0
        self._bases: list[int] = []
        self._times: list[int] = []

    def of(self, orders: IntArray, otherwise: IntArray) -> IntArray:
        """int64 [n]: the arrival of each; `otherwise` where it is not known any more."""
        while TABLES in self._features.topics():
            batches = self._features.read(TABLES, 0, self._next, _BATCHES)
            if not batches:
                break
            self._bases += [batch.base for batch in batches]
            self._times += [batch.arrival_us for batch in batches]
            self._next = batches[-1].end
        if not self._bases:
            return otherwise
        found = np.searchsorted(np.array(self._bases), orders, "right") - 1
        return np.where(found >= 0, np.array(self._times)[np.maximum(found, 0)], otherwise)


class Expected:
    """Computes records of tables and groups.

    Args:
        scratch: makes an empty store in memory.
        horizon_us: as-of horizon of the store.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        raw: EventLog,
        features: EventLog,
        offline: OfflineStore,
        past: Past,
        scratch: Callable[[], OnlineStore],
        *,
        horizon_us: int,
    ) -> None:
        self._plan, self._raw, self._features, self._offline = plan, raw, features, offline
        self._past, self._scratch, self.horizon_us = past, scratch, horizon_us
        self.arrivals = Arrivals(features)

    def table(
        self, table: TablePlan, below: int, share: Share = ALL, on_way: Callable[[], object] = lambda: None
    ) -> Iterator[dict[bytes, bytes | None]]:
        """Records of a table that reflect the rows below an offset of their topic, in the order of their keys, some at
        a time. All rows of the share are in memory at once, by column. `on_way` is called now and then, and may raise.
        """
        pieces = []
        for batch in self._past.row_batches(table, None, None, None):
            on_way()
            piece = self._rows(table, batch, below, share)
            if piece is not None:
                pieces.append(piece)
        if not pieces:
            return
        rows = NewRows.joined(pieces)
        del pieces
        order = _by_key(table, rows)
        keys = [rows.keys[row] for row in order.tolist()]
        at = 0
        while at < len(keys):
            end = min(at + _CHUNK, len(keys))
            while end < len(keys) and keys[end] == keys[end - 1]:
                end += 1
            # In the order of writing, as they came from the log.
            some = order[at:end]
            some = some[np.argsort(rows.orders[some], kind="stable")]
            records: dict[bytes, bytes | None] = dict.fromkeys(keys[at:end])
            merge_table(rows.at(some), records, self.horizon_us)
            yield records
            at = end

    def _rows(self, table: TablePlan, rows: pa.Table, below: int, share: Share) -> NewRows | None:
        rows = rows.filter(pc.less(rows[ORDER], below))
        types = [part.dtype for part in table.key]
        columns = [from_arrow(rows[part.name], part.dtype, part.name) for part in table.key]
        if types in ([DType.INT], [DType.TIMESTAMP]):
            keys = encode_numbers(np.array(columns[0].values, np.int64), types[0], table.version)
        else:
            parts = list(zip(*[column.to_pylist() for column in columns], strict=True)) if columns else []
            keys = list(map(key_encoder(types, table.version), parts or [()] * rows.num_rows))
        if share.of > 1 and keys:
            mine = share.holds(keys)
            rows, keys = rows.filter(pa.array(mine)), [key for key, own in zip(keys, mine.tolist(), strict=True) if own]
        n = rows.num_rows
        if not n:
            return None
        features = [_feature(rows, field.name, field.dtype) for field in table.features]
        words, bits, objects = words_of(features, n)
        orders, available = _ints(rows[ORDER]), _ints(rows[AVAILABLE])
        return NewRows(
            keys,
            _ints(rows[EVENT_TIME]),
            available,
            orders,
            np.where(np.asarray(rows[GONE].combine_chunks().to_numpy(zero_copy_only=False), np.bool_), DELETED, bits),
            words,
            self.arrivals.of(orders, available),
            objects,
        )

    def groups(
        self,
        groups: Sequence[GroupPlan],
        at: Sequence[int],
        share: Share = ALL,
        into: OnlineStore | None = None,
        progress: Progress | None = None,
        left_out: Mapping[str, LeftOut] | None = None,
    ) -> Iterator[dict[bytes, bytes | None]]:
        """Records of groups of one stream that reflect the events below the offsets `at`, a position of compute.

        `left_out` says by version what the backfill that made the records has left out; without it, nothing.
        """
        apart: dict[LeftOut | None, list[GroupPlan]] = {}
        for group in groups:
            apart.setdefault((left_out or {}).get(group.version), []).append(group)
        for without, some in apart.items():
            store = into or self._scratch()
            begin = [0] * len(at)
            if without is not None:
                before_us, below = without
                first = [min(a, b) for a, b in zip(at, below, strict=True)]
                self._job(some, store, share, before_us).advance(begin, first, progress)
                begin = first
            self._job(some, store, share, NULL_US).advance(begin, at, progress)
            if into is None:
                ends = tuple(bytes.fromhex(group.version) for group in some)
                yield {
                    key: record
                    for key, record in store.scan()
                    if key.endswith(ends) and not key.startswith(b"\xff\xff")
                }

    def _job(self, groups: Sequence[GroupPlan], store: OnlineStore, share: Share, before_us: int) -> GroupBackfill:
        return GroupBackfill(
            self._plan, groups, self._raw, self._features, self._offline, store,
            horizon_us=self.horizon_us, clock_us=None, only=None if share.of == 1 else share.holds, before_us=before_us,
        )  # fmt: skip


def _feature(rows: pa.Table, name: str, dtype: DType) -> Column:
    if name in rows.column_names:
        return from_arrow(rows[name], dtype, name)
    return column_of(dtype, [None] * rows.num_rows)


def _by_key(table: TablePlan, rows: NewRows) -> IntArray:
    """The rows in the order of their keys, those of one key in the order of writing or another."""
    if [part.dtype for part in table.key] in ([DType.INT], [DType.TIMESTAMP]):
        size = len(rows.keys[0])
        table_of_bytes = np.frombuffer(b"".join(rows.keys), np.uint8).reshape(-1, size)
        numbers = np.ascontiguousarray(table_of_bytes[:, size - 16 : size - 8]).view(">u8").ravel()
        return np.argsort(numbers, kind="stable")
    return np.array(sorted(range(len(rows.keys)), key=rows.keys.__getitem__), np.int64)


def _ints(column: pa.ChunkedArray) -> IntArray:
    return np.array(column, np.int64)
