"""PORT OnlineStore: the latest record per group and entity, for reads in microseconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar


class OnlineStore(ABC):
    """Byte records by byte key, and one position that says which part of the feature log they reflect.

    Keys are at most 500 bytes. `write` commits records and position in one step: a reader sees all of a write or
    none of it, also after kill -9 at any point (with `sync`, after power loss too). One writer at a time, any number
    of reader processes and threads; readers never wait for the writer.

    Attributes:
        at_once: records that a write holds at most where there is a choice, so that readers do not wait for it.
    """

    at_once: ClassVar[int] = 100_000

    @abstractmethod
    def read(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes]:
        """Return one record per key in order (None if there is none) and the position, all of one snapshot.

        The position is empty before the first write.
        """

    @abstractmethod
    def write(self, records: Sequence[tuple[bytes, bytes | None]], position: bytes) -> None:
        """Store records (None deletes) together with the position that they bring the store to."""

    def update(
        self,
        keys: Sequence[bytes],
        change: Callable[[list[bytes | None]], tuple[Sequence[tuple[bytes, bytes | None]], bytes]],
    ) -> None:
        """Write what `change` makes of the records of `keys`: it gets what `read` gives and returns what `write` takes.

        The same as reading and then writing, and cheaper where a store can do both at once. Nothing is written if
        `change` raises. It must not use the store.
        """
        self.write(*change(self.read(keys)[0]))

    def revise(
        self, keys: Sequence[bytes], change: Callable[[list[bytes | None]], Sequence[tuple[bytes, bytes | None]]]
    ) -> None:
        """Like `update`, but the position stays as it is: for records that nobody reads yet, prepared beside a writer.

        A store that several processes may write to does this in one step with them: what they write in the meantime,
        the position above all, is never undone.
        """
        position = self.position()
        self.update(keys, lambda records: (change(records), position))

    @abstractmethod
    def position(self) -> bytes:
        """The position of the last write; empty before the first."""

    @abstractmethod
    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and records of one snapshot in key order."""

    @abstractmethod
    def count(self) -> int:
        """Number of records."""

    @abstractmethod
    def sync(self) -> None:
        """Make everything written so far survive power loss."""

    @abstractmethod
    def close(self) -> None:
        """Release files; the store cannot be used afterwards."""
