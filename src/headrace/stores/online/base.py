"""PORT OnlineStore: the latest record per group and entity, for reads in microseconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

Record = tuple[bytes, bytes | None]
"""A key and what is stored under it; None: nothing."""
Change = Callable[[list[bytes | None], bytes], tuple[Sequence[Record] | Mapping[bytes, bytes | None], bytes]]
"""From records and position to new records and the position that they bring the store to."""
Revision = Callable[[list[bytes | None]], Sequence[Record]]
"""From records to new ones."""


class OnlineStore(ABC):
    """Byte records by byte key, and one position that says which part of the feature log they reflect.

    Keys are at most 500 bytes. `write` commits records and position in one step: a reader sees all of a write or
    none of it, also after kill -9 at any point (with `sync`, after power loss too). One writer at a time, any number
    of reader processes and threads; readers never wait for the writer. A store on another machine raises
    Unreachable while it cannot be reached; whether a write that failed so was done, the position tells.

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

    @abstractmethod
    def update(self, keys: Sequence[bytes], change: Change) -> None:
        """Write what `change` makes of the records of `keys` and of the position, all of one snapshot.

        It gets what `read` gives and returns what `write` takes (or a mapping), of these keys alone. Nothing else is
        written between its reading and its writing: where another writer did so, `change` is called again with what
        it left. Nothing is written if `change` raises. It must not use the store.
        """

    @abstractmethod
    def revise(self, keys: Sequence[bytes], change: Revision) -> None:
        """Like `update`, but the position stays as it is: for records that are made beside the writer.

        It may write other keys than those it was given, and readers see all of it or none. A writer in another process
        waits for it; what others write, the position above all, is never undone.
        """

    @abstractmethod
    def position(self) -> bytes:
        """The position of the last write; empty before the first."""

    @abstractmethod
    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and records of one snapshot in key order."""

    def sweep(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and records, each as it stood at some moment meanwhile, in no promised order; however much is
        written. A record that is there from beginning to end is given, and one may be given twice."""
        return self.scan()

    @abstractmethod
    def count(self) -> int:
        """Number of records."""

    def wipe(self) -> None:  # noqa: B027  an adapter without files has nothing to do
        """Make sure that what was replaced or deleted cannot be read from the store's files any more.

        Whoever reads at the moment is waited for. A store whose files are not at hand does what its server offers.
        """

    def remains(self) -> list[str]:
        """Where a server may keep copies of deleted records that `wipe` does not reach, in words."""
        return []

    def about(self) -> str:
        """What keeps the store, such as " in Redis 7.2.4"; empty for an embedded one. Asks the server."""
        return ""

    def problems(self) -> list[tuple[str, str]]:
        """What is wrong with the server behind the store, each with its cure; an embedded store has none."""
        return []

    @abstractmethod
    def sync(self) -> None:
        """Make everything written so far survive power loss, or, of servers, a failover.

        Raises Unreachable if a replica that is connected does not say in time that it has it.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files; the store cannot be used afterwards."""
