"""OnlineStore in the memory of one process: the model that the others are held against."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from headrace.core.errors import StoreError
from headrace.stores.online.base import Change, OnlineStore, Record, Revision
from headrace.stores.online.checks import check_keys, checked, updated


class MemoryOnlineStore(OnlineStore):
    """Records in a dict; gone with the process."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] | None = {}
        self._position = b""
        self._lock = threading.Lock()

    def _held(self) -> dict[bytes, bytes]:
        if self._records is None:
            raise StoreError("this online store is closed: make a new one")
        return self._records

    def read(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes]:
        with self._lock:
            held = self._held()
            return [held.get(key) for key in keys], self._position

    def write(self, records: Sequence[Record], position: bytes) -> None:
        latest = checked(records)
        with self._lock:
            self._put(latest)
            self._position = position

    def update(self, keys: Sequence[bytes], change: Change) -> None:
        check_keys(keys)
        with self._lock:
            held = self._held()
            records, position = change([held.get(key) for key in keys], self._position)
            self._put(updated(records, keys))
            self._position = position

    def revise(self, keys: Sequence[bytes], change: Revision) -> None:
        check_keys(keys)
        with self._lock:
            held = self._held()
            self._put(checked(change([held.get(key) for key in keys])))

    def _put(self, latest: dict[bytes, bytes | None]) -> None:
        held = self._held()
        for key, record in latest.items():
            if record is None:
                held.pop(key, None)
            else:
                held[key] = record

    def position(self) -> bytes:
        return self.read(())[1]

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            snapshot = sorted(self._held().items())
        yield from snapshot

    def count(self) -> int:
        with self._lock:
            return len(self._held())

    def sync(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self._records = None
