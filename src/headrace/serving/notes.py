"""What callers change over HTTP, for the log of changes: a line at once, then one a minute with how many rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

_EVERY_S = 60.0


class ChangeLog(Protocol):
    """Where changes are logged; `catalog.access.ChangeTable`."""

    def add(self, who: str, action: str, subject: str, detail: dict[str, Any] | None = None) -> int: ...


class PutNotes:
    """Rows put by callers: too many to log each, so they are counted by caller and table. Thread-safe.

    The first row of a caller and table is written by the next `flush`, later ones together once a minute and at the
    end; a process that is killed takes at most the number of a minute with it, not that there were some.
    """

    def __init__(self, log: ChangeLog, seconds: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._seconds = seconds
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], int] = {}
        self._written: dict[tuple[str, str], float] = {}

    def put(self, who: str, table: str) -> None:
        """Count a row."""
        with self._lock:
            self._rows[who, table] = self._rows.get((who, table), 0) + 1

    def flush(self, *, everything: bool = False) -> None:
        """Write what is due. Raises StoreError if the catalog cannot be written; the counts are kept then."""
        now = self._seconds()
        with self._lock:
            due = [
                (pair, rows) for pair, rows in self._rows.items()
                if everything or now - self._written.get(pair, -_EVERY_S) >= _EVERY_S
            ]  # fmt: skip
        for pair, rows in due:
            self._log.add(pair[0], "put", pair[1], {"rows": rows})
            with self._lock:
                self._written[pair] = now
                left = self._rows[pair] - rows
                if left:
                    self._rows[pair] = left
                else:
                    del self._rows[pair]
