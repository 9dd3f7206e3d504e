"""PORT OfflineStore: append-only history in tables of a format with atomic commits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.dataset as ds

from headrace.core.errors import StoreError

GONE = "is gone"
"""The fault of a file that is not there."""


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file of a table that cannot be read.

    Attributes:
        path: where it lay, or lies.
        fault: what is wrong with it, such as `GONE`.
        rows: how many rows it held.
        bounds: the least and the greatest value of its int64 columns, of those of which that is known.
    """

    path: str
    fault: str
    rows: int
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class OfflineStore(ABC):
    """Append-only tables, partitioned by the day of a time column, with versions to go back to.

    `rewrite` and `forget` alone change what was appended: they are for data that have to go.

    Times are int64 µs columns. Appends are atomic and idempotent: each carries a writer's name and a number that only
    grows, and an append whose number is not greater than the writer's last one does nothing. Many readers in many
    processes; one writer per table and writer name, unless each says what its append comes `after`.
    """

    @abstractmethod
    def append(
        self, table: str, rows: pa.Table, *, time_column: str, writer: str, number: int, after: int | None = None
    ) -> int:
        """Append rows (the table is created by the first append) and return the table's version after it.

        `after`: the number that the writer's last append must have had (-1: there was none); where it is another one
        below `number`, another process writes under the same name, and StoreMoved is raised.
        Rows whose time is null or out of range are put under day 1970-01-01.
        """

    @abstractmethod
    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        version: int | None = None,
        between: tuple[str, int, int] | None = None,
    ) -> pa.Table:
        """Return rows with `since_us <= time < until_us` of the table's time column, in no promised order.

        `between` leaves only rows with `low <= value < high` of an int64 column, given as (column, low, high); what was
        appended with other values is not read, so that a large table can be read piece by piece.
        An unknown table raises NotFound.
        """

    @abstractmethod
    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        version: int | None = None,
    ) -> Iterator[pa.Table]:
        """Return what `scan` returns in tables of bounded size, read as they are asked for."""

    @abstractmethod
    def count(self, table: str, *, since_us: int | None = None, until_us: int | None = None) -> int:
        """At least the number of rows that `scan` returns, known without reading them; 0 if there is no such table."""

    @abstractmethod
    def columns(self, table: str) -> dict[str, pa.DataType]:
        """Types of the columns of a table's newest version, by name; empty if there is no such table."""

    @abstractmethod
    def tables(self) -> list[str]:
        """Names of all tables, sorted."""

    @abstractmethod
    def version(self, table: str) -> int | None:
        """The newest version of a table; None if there is no such table."""

    @abstractmethod
    def number(self, table: str, writer: str) -> int:
        """The number of the writer's last append to the table; -1 if there was none."""

    @abstractmethod
    def compact(self, table: str) -> None:
        """Rewrite small files into large ones; rows and older versions stay readable."""

    def rewrite(self, table: str, where: ds.Expression, change: Callable[[pa.Table], pa.Table]) -> int:
        """Put what `change` makes of the rows for which `where` is true in their place; returns how many those were.

        `change` is called for some of them at a time and keeps columns, types and the time of each row; it may leave
        rows out. Killed between, some are changed and others not. Writers' numbers stay. Nobody may append meanwhile.
        """
        raise StoreError(f'rows of table "{table}" cannot be changed in this store')

    def forget(self, table: str) -> None:
        """Drop all versions but the newest with their files, so that what `rewrite` took away can be read nowhere.

        Whoever reads an older version at the moment may fail.
        """
        raise StoreError(f'older versions of table "{table}" cannot be dropped in this store')

    def remains(self) -> list[str]:
        """Where a server may keep copies of files that `forget` deletes, in words."""
        return []

    def damaged(self, table: str) -> list[DamagedFile]:
        """Files of the newest version that are gone, or not as long as they were written, known without reading them;
        a store without files has none."""
        return []

    def drop_damaged(self, table: str) -> int:
        """Leave damaged files out of the table from a new version on, with the rows that they held; return how many.

        Whoever calls this brings the rows back by other means. 0 if some of the files have to be deleted first, by
        somebody who may.
        """
        return 0

    @abstractmethod
    def close(self) -> None:
        """Release what is held."""
