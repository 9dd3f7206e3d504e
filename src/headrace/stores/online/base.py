"""PORT OnlineStore: the latest record per group and entity, for reads in microseconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from headrace.core.columns import IntArray
from headrace.core.keys import JoinedKeys

Record = tuple[bytes, bytes | None]
"""A key and what is stored under it; None: nothing."""
Change = Callable[[list[bytes | None], bytes], tuple[Sequence[Record] | Mapping[bytes, bytes | None], bytes]]
"""From records and position to new records and the position that they bring the store to."""
Revision = Callable[[list[bytes | None]], Sequence[Record]]
"""From records to new ones."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records one after another, as compiled code reads them; all of one snapshot.

    Attributes:
        words: the records, each from a word of its own on; never empty.
        begins: [keys + 1], the word where each key's record begins, -1 where there is none; the last is -1.
        sizes: [keys], bytes of each record.
        position: of the snapshot.
    """

    words: IntArray
    begins: IntArray
    sizes: IntArray
    position: bytes

    def record(self, key: int) -> bytes | None:
        """The record of a key, by the key's place among those asked for."""
        begin = int(self.begins[key])
        return None if begin < 0 else self.words[begin:].view(np.uint8)[: self.sizes[key]].tobytes()


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

    def fetch(self, keys: JoinedKeys) -> Fetched:
        """What `read` reads, as words: the records of these keys, in this order, each of them once."""
        listed = keys.listed()
        places = {key: place for place, key in enumerate(dict.fromkeys(listed))}
        records, position = self.read(list(places))
        begins, sizes, at = [], [], 0
        for record in records:
            begins.append(-1 if record is None else at)
            sizes.append(0 if record is None else len(record))
            at += (sizes[-1] + 7) >> 3
        found = [record if not len(record) & 7 else record + bytes(-len(record) & 7) for record in records if record]
        words = np.frombuffer(bytearray().join(found) or bytearray(8), np.int64)
        of = [places[key] for key in listed]
        begins_of, sizes_of = [*[begins[place] for place in of], -1], [sizes[place] for place in of]
        return Fetched(words, np.array(begins_of, np.int64), np.array(sizes_of, np.int64), position)

    def prepare(self) -> None:  # noqa: B027  most adapters have nothing to make ready
        """Make ready what `fetch` needs of this process, such as compiled code, so that no reader waits for it."""

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
