"""PORT BatchEngine: runs the query of a table over the project's sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.features.plan import TablePlan

if TYPE_CHECKING:
    import pyarrow as pa


class BatchEngine(ABC):
    """Runs declared queries and returns what they give, unjudged: checks and types are the runner's business.

    The query's table names are sources of the engine. A source may say when each of its rows became known; a run sees
    only rows known by its time, so that a run of the past sees what a run then would have seen. Thread-safe.
    """

    @abstractmethod
    def run(self, table: TablePlan, *, now_us: int | None = None, since_us: int | None = None) -> pa.Table:
        """Return the rows of the table's query at `now_us` (default: the engine's clock), in no promised order.

        With `since_us` only rows with `since_us < event time <= now_us`; ignored for tables without event time.
        Raises NotFound for a source that does not exist, PlanError for a query that cannot be run, StoreError for a
        source that cannot be reached.
        """

    def batches(
        self, table: TablePlan, rows: int, *, now_us: int | None = None, since_us: int | None = None
    ) -> Iterator[pa.Table]:
        """What `run` returns in batches of about so many rows, at least one; an engine that can, reads as it goes.

        To be read to its end before the engine is asked for anything else.
        """
        yield self.run(table, now_us=now_us, since_us=since_us)

    @abstractmethod
    def close(self) -> None:
        """Release connections; the engine cannot be used afterwards."""
