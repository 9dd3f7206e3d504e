"""PORT EventLog: durable, partitioned topics of record batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.core.errors import LogError


@dataclass(frozen=True, slots=True)
class Append:
    """A record batch on its way in: `count` records (at least one) encoded in `payload`.

    `base`: the offset that it must get, for topics of one writer; None: whatever comes next.
    """

    topic: str
    partition: int
    payload: bytes
    count: int = 1
    base: int | None = None


@dataclass(frozen=True, slots=True)
class LogBatch:
    """A record batch as stored. Its records have the offsets `base`, `base + 1`, …, `base + count - 1`.

    `arrival_us` is the log's clock when the batch was appended; it never goes back within a partition.
    """

    topic: str
    partition: int
    base: int
    count: int
    arrival_us: int
    payload: bytes

    @property
    def end(self) -> int:
        """Offset after the last record."""
        return self.base + self.count


class EventLog(ABC):
    """Topics of one or more partitions; each partition is an ordered, append-only sequence of records.

    Records travel in batches, as in Kafka: the payload is opaque here, `count` says how many records (offsets) it
    holds. Batches are never split, and edited by `rewrite` alone. Any number of processes may append, read and commit
    at once; a reader sees whole batches in offset order without gaps, as soon as they are appended, and never a torn
    one. After a kill of any process everything appended is there; with `sync` also after power loss. Offsets only
    grow. Thread-safe.

    A server that is away raises LogUnreachable. Topics of single events that other tools write as well (raw topics on
    Kafka) differ in three ways, which whoever reads or appends raw events has to bear: a batch may be cut anew at every
    read, offsets at which no event stands are read as rows of nothing (`core.messages`), and an append may come through
    in part if its process dies. Offsets are without gaps there, too.

    Attributes:
        editable: whether `rewrite` can edit what is stored. Kafka's topics only ever lose their beginning.
    """

    editable: bool = False

    @abstractmethod
    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic; does nothing if it exists with as many partitions, else raises LogError."""

    @abstractmethod
    def topics(self) -> dict[str, int]:
        """Number of partitions by topic."""

    @abstractmethod
    def append(self, items: Sequence[Append]) -> list[int]:
        """Append batches, all or none, and return the base offset of each.

        Unknown topic: NotFound. A batch that would get another offset than its `base`: LogMoved, so that a writer that
        was taken for dead cannot write after the one that has taken over.
        """

    @abstractmethod
    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        """Return batches from the one that holds `offset` on (it may start before it), until `max_records` or the end.

        At least one batch if there is any; an empty list at or past the end. Below the trimmed begin: LogError.
        """

    @abstractmethod
    def begin(self, topic: str, partition: int) -> int:
        """First offset still held."""

    @abstractmethod
    def end(self, topic: str, partition: int) -> int:
        """Offset that the next record will get."""

    @abstractmethod
    def last(self, topic: str, partition: int) -> LogBatch | None:
        """The newest batch, or None if nothing is held."""

    @abstractmethod
    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Record that consumer group `group` has dealt with everything below `offset`; it never goes back."""

    @abstractmethod
    def committed(self, group: str, topic: str, partition: int) -> int:
        """What was committed last; 0 if nothing was."""

    @abstractmethod
    def groups(self) -> dict[tuple[str, str, int], int]:
        """All committed offsets by (group, topic, partition)."""

    @abstractmethod
    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that lie below `before`; returns the new begin."""

    def rewrite(self, topic: str, partition: int, change: Callable[[LogBatch], bytes | None]) -> int:
        """Give batches another payload; returns how many. `change` is asked for each that is held, in order, and may
        be asked again for one that it has changed; None leaves a batch as it is.

        A batch keeps its offsets, its count and its arrival; a reader sees it whole, as it was or as it is. Batches
        that are appended meanwhile are reached, too. Raises LogError where the log is not `editable`.
        """
        raise LogError(f'messages of topic "{topic}" cannot be edited here: they are kept until they are trimmed')

    def wipe(self) -> None:  # noqa: B027  an adapter without files has nothing to do
        """Make sure that what was rewritten or trimmed cannot be read from the log's files any more.

        Whoever reads at the moment is waited for. A log whose files are not at hand does nothing.
        """

    @abstractmethod
    def sync(self) -> None:
        """Make everything appended so far survive power loss."""

    @abstractmethod
    def close(self) -> None:
        """Release files; the log cannot be used afterwards."""
