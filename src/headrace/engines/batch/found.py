"""Rows of a table on their way to the log: those with an owner, in order of writing; which of a run are new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from headrace.core.columns import Column, IntArray
from headrace.core.events import concat_columns
from headrace.core.tablerows import TableRows
from headrace.core.time import MAX_US, NULL_US
from headrace.engines.batch.fingerprints import Fingerprints, Prints, joined_prints, prints_of
from headrace.engines.batch.results import typed_columns
from headrace.features.plan import TablePlan

if TYPE_CHECKING:
    import pyarrow as pa

_pack = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class OwnedRows:
    """Rows of a table by column, none with a null in its key; `owned` says which of those given these are (None: all).

    `prints` may be empty where nobody asks for them.
    """

    key: list[Column]
    times: IntArray
    features: list[Column]
    prints: Prints
    owned: Any

    @classmethod
    def of(cls, table: TablePlan, columns: Mapping[str, Column], n: int) -> OwnedRows:
        """Rows out of the columns of the table's schema."""
        field = table.schema.time_field
        times = np.full(n, NULL_US, np.int64) if field is None else np.asarray(columns[field].values, np.int64)
        key = [columns[part.name] for part in table.key]
        features = [columns[spec.name] for spec in table.features]
        masks = [column.valid for column in key if column.valid is not None]
        owned = np.logical_and.reduce(masks) if masks else None
        rows = cls(key, times, features, prints_of(key, times, features), None)
        if owned is not None and not owned.all():
            rows = rows.take(owned)
            rows.owned = owned
        return rows

    def take(self, at: Any) -> OwnedRows:
        """Those at `at` (indices or a mask), in that order."""
        key, features = [column.take(at) for column in self.key], [column.take(at) for column in self.features]
        return OwnedRows(key, self.times[at], features, self.prints.take(at), None)

    def in_order(self, table: TablePlan) -> OwnedRows:
        """In the order of writing: by key, event time, encoded row."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from headrace.core.arrow import STORED_TYPES, to_arrow

        n = len(self.times)
        columns = {
            str(index): to_arrow(Column(column.dtype, column.values, None)).cast(STORED_TYPES[column.dtype])
            for index, column in enumerate(self.key)
        }
        columns["time"] = pa.array(self.times)
        order = (
            pc.sort_indices(pa.table(columns), [(name, "ascending") for name in columns]).to_numpy().astype(np.int64)
        )
        keys, times = self.prints.keys[order], self.times[order]
        tied = (keys[1:] == keys[:-1]) & (times[1:] == times[:-1]) if n else np.zeros(0, np.bool_)
        if tied.any():
            some = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
            among = order[some]
            encoded = _encoded([column.take(among) for column in self.features], len(among))
            group = np.cumsum(np.append(True, ~tied))[some].tolist()
            order[some] = among[sorted(range(len(among)), key=lambda row: (group[row], encoded[row]))]
        return self.take(order)

    def as_written(self, table: TablePlan, which: slice, now_us: int, backfill: bool) -> TableRows:
        """Rows `which` as the log takes them."""
        at = np.arange(which.start, which.stop)
        n, times = len(at), self.times[which]
        keys = list(zip(*[column.take(at).to_pylist() for column in self.key], strict=True)) if self.key else [()] * n
        return TableRows(
            table.name,
            table.version,
            n,
            keys,
            times,
            _available(times, table.delay_us) if backfill else np.full(n, now_us, np.int64),
            {field.name: column.take(at) for field, column in zip(table.features, self.features, strict=True)},
            np.zeros(n, np.bool_),
        )


class Found:
    """What a run finds in the results of a query, batch by batch.

    Attributes:
        read: rows so far.
        dead: of them, rows with a null in their key.
        seen: which remembered places the rows are at; see `Fingerprints.same`.
        torn: some places were given several rows, and not all of them are new: the last in order decides for all.
    """

    def __init__(self, table: TablePlan, state: Fingerprints) -> None:
        self._table, self._state = table, state
        self._new: list[OwnedRows] = []
        self.read = self.dead = 0
        self.seen = state.nothing_seen()

    def look(self, result: pa.Table) -> None:
        """Take a batch of results; raises SchemaError if a row does not fit."""
        rows = self._rows(result, self.read)
        self.read += result.num_rows
        self.dead += result.num_rows - len(rows.times)
        same = self._state.same(rows.prints, self.seen)
        if not same.all():
            self._new.append(rows.take(np.flatnonzero(~same)) if same.any() else rows)

    def _rows(self, result: pa.Table, first: int) -> OwnedRows:
        return OwnedRows.of(self._table, typed_columns(self._table, result, first=first), result.num_rows)

    @property
    def torn(self) -> bool:
        """See the class."""
        return bool((self.seen == 3).any())

    def look_again(self, results: Iterator[pa.Table]) -> None:
        """Take the rows at torn places from the results once more, all of them."""
        places = self._state.places(self.seen, 3)
        for number, rows in enumerate(self._new):
            self._new[number] = rows.take(~np.isin(rows.prints.keys, places.keys))
        pieces = []
        for result in results:
            rows = self._rows(result, 0)
            pieces.append(rows.take(np.isin(rows.prints.keys, places.keys)))
        rows = _joined(pieces).in_order(self._table)
        keys, times = rows.prints.keys, rows.prints.times
        last = np.append((keys[1:] != keys[:-1]) | (times[1:] != times[:-1]), True)
        stands = self._state.same(rows.prints, self._state.nothing_seen()) & last
        # Number of the place that each row is at, so that what holds of its last row holds of all.
        place = np.cumsum(np.append(0, last[:-1]))
        self._new.append(rows.take(~stands[last][place]))

    def fresh(self) -> OwnedRows:
        """The rows to write, in order."""
        if not self._new:
            return self._rows(_empty(self._table), 0)
        return _joined(self._new).in_order(self._table)


def _joined(parts: Sequence[OwnedRows]) -> OwnedRows:
    if len(parts) == 1:
        return parts[0]
    return OwnedRows(
        [concat_columns(list(columns)) for columns in zip(*[part.key for part in parts], strict=True)],
        np.concatenate([part.times for part in parts]),
        [concat_columns(list(columns)) for columns in zip(*[part.features for part in parts], strict=True)],
        joined_prints([part.prints for part in parts]),
        None,
    )


def _empty(table: TablePlan) -> pa.Table:
    import pyarrow as pa

    from headrace.core.arrow import ARROW_TYPES

    return pa.table({field.name: pa.array([], ARROW_TYPES[field.dtype]) for field in table.schema})


def _available(event_time: IntArray, delay_us: int) -> IntArray:
    """Event time plus delay; a row that is always true is available from ever."""
    return np.where(event_time == NULL_US, NULL_US, np.minimum(event_time, MAX_US) + delay_us).astype(np.int64)


def _encoded(columns: Sequence[Column], n: int) -> list[bytes]:
    """The features of each row as bytes: what is compared, and the last criterion of the write order."""
    lists = [column.to_pylist() for column in columns]
    return [_pack(row) for row in zip(*lists, strict=True)] if columns else [b""] * n
