"""One source of chance that decides what goes wrong at every port, and the ports in memory that ask it.

A call of a port may be struck before or after it takes effect: by the death of the process that made it, by a server
that does not answer, by a full disk (then nothing is stored), or by slowness, which moves the simulated clock. A server
may stay away for a while. Whatever is decided is written to a trace.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from headrace.catalog.catalog import Catalog
from headrace.catalog.records import Definition, DefinitionChange, DefinitionRecord
from headrace.core.errors import LogError, LogUnreachable, StoreError, Unreachable
from headrace.core.time import US_PER_HOUR, US_PER_SECOND
from headrace.eventlog.base import Append, LogBatch
from headrace.eventlog.memory import MemoryEventLog
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.stores.online.base import Change, Record, Revision
from headrace.stores.online.memory import MemoryOnlineStore

T = TypeVar("T")
DEATH, SILENCE, FULL, SLOW = "death", "silence", "full disk", "slowness"
KINDS = (DEATH, SILENCE, FULL, SLOW)
_JUMPS_US = (-3 * US_PER_HOUR, -US_PER_SECOND, US_PER_SECOND, 20 * US_PER_SECOND, 2 * US_PER_HOUR)


class Killed(BaseException):
    """Stands for kill -9: whatever the process had in memory is gone."""


class JumpingClock:
    """A clock of a machine that somebody sets: it may go back."""

    def __init__(self, us: int) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us


class Chance:
    """The one source of chance of a simulation.

    Each seed draws its own mixture: some kinds of faults do not occur at all, others often. `on` is False while the
    world is being built and once it has to come to rest.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = JumpingClock(5 * US_PER_HOUR)
        self.trace: list[str] = []
        self.on = False
        chosen = [kind for kind in KINDS if self.rng.random() < 0.6]
        self.rates = {kind: self.rng.choice((0.01, 0.05, 0.15)) for kind in chosen}
        self.jumps = self.rng.random() < 0.4
        self.away: dict[str, int] = {}
        self.struck = 0
        self.say(f"rates {self.rates}, jumps {self.jumps}")

    def say(self, what: str) -> None:
        self.trace.append(what)

    def turn(self) -> None:
        """One turn of the world is over."""
        self.away = {part: left - 1 for part, left in self.away.items() if left > 1}
        self.clock.us += self.rng.randrange(1, 5 * US_PER_SECOND)
        if self.jumps and self.rng.random() < 0.05:
            jump = self.rng.choice(_JUMPS_US)
            self.say(f"the clock jumps by {jump} us")
            self.clock.us = max(self.clock.us + jump, 0)

    def call(
        self,
        part: str,
        name: str,
        do: Callable[[], T],
        *,
        writes: bool = False,
        local: bool = False,
        some: Callable[[], object] | None = None,
    ) -> T:
        """Do it, or nothing, or what `some` leaves of it. A `local` part is no server: it cannot be away."""
        if not self.on:
            return do()
        if part in self.away and not local:
            raise self._silence(part, name)
        for kind, rate in self.rates.items():
            if self.rng.random() >= (rate if writes else rate / 4):
                continue
            if kind == SLOW:
                self.clock.us += self.rng.randrange(30 * US_PER_SECOND)
                continue
            if (kind == SILENCE and local) or (kind == FULL and not writes):
                continue
            self.struck += 1
            done = kind != FULL and self.rng.random() < 0.5
            self.say(f"  {kind} {'after' if done else 'before'} {part}.{name}")
            if done:
                (some or do)()
            if kind == DEATH:
                raise Killed
            if kind == FULL:
                raise (LogError if part.endswith(" log") else StoreError)(
                    f"the disk of {part} is full; nothing was stored"
                )
            if self.rng.random() < 0.3:
                self.away[part] = self.rng.randrange(2, 30)
            raise self._silence(part, name)
        return do()

    def _silence(self, part: str, name: str) -> Unreachable:
        return (LogUnreachable if part.endswith(" log") else Unreachable)(f"{part} did not answer {name}")


class FaultyLog(MemoryEventLog):
    """An event log that may fail. Appends to topics in `torn` may come through in part, as events do in Kafka."""

    def __init__(self, chance: Chance, part: str, torn: Collection[str] = ()) -> None:
        super().__init__(chance.clock)
        self._chance, self._part, self._torn = chance, part, torn
        self._trimmed: dict[tuple[str, int], list[LogBatch]] = {}

    def append(self, items: Sequence[Append]) -> list[int]:
        def some() -> object:
            parted = len(items) > 1 and all(item.topic in self._torn for item in items)
            return super(FaultyLog, self).append(items[: self._chance.rng.randrange(len(items))] if parted else items)

        name = f"append {sorted({item.topic for item in items})}"
        return self._chance.call(self._part, name, lambda: super(FaultyLog, self).append(items), writes=True, some=some)

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        return self._chance.call(
            self._part, f"read {topic}", lambda: super(FaultyLog, self).read(topic, partition, offset, max_records)
        )

    def end(self, topic: str, partition: int) -> int:
        return self._chance.call(self._part, f"end {topic}", lambda: super(FaultyLog, self).end(topic, partition))

    def last(self, topic: str, partition: int) -> LogBatch | None:
        return self._chance.call(self._part, f"last {topic}", lambda: super(FaultyLog, self).last(topic, partition))

    def topics(self) -> dict[str, int]:
        return self._chance.call(self._part, "topics", super().topics)

    def trim(self, topic: str, partition: int, before: int) -> int:
        def do() -> int:
            held = list(self._partition(topic, partition).batches)
            begin = super(FaultyLog, self).trim(topic, partition, before)
            dropped = [batch for batch in held if batch.base < begin]
            self._trimmed.setdefault((topic, partition), []).extend(dropped)
            return begin

        return self._chance.call(self._part, f"trim {topic}", do, writes=True)

    @property
    def trimmed(self) -> bool:
        """True once anything was trimmed."""
        return any(self._trimmed.values())

    def whole(self) -> MemoryEventLog:
        """A log that never fails, with what was trimmed."""
        log = MemoryEventLog(self._chance.clock)
        for topic, partitions in self._held().items():
            log.create(topic, len(partitions))
            for partition, held in enumerate(partitions):
                mine = log._partition(topic, partition)
                mine.batches = [*self._trimmed.get((topic, partition), []), *held.batches]
                mine.end, mine.arrival_us = held.end, held.arrival_us
        return log


class FaultyOnlineStore(MemoryOnlineStore):
    """An online store that may fail. `local`: a file of this machine, else a server, which a failover may take back
    to where it was a few writes ago."""

    def __init__(self, chance: Chance, part: str, *, local: bool = False) -> None:
        super().__init__()
        self._chance, self._part, self._local = chance, part, local
        self._former: list[tuple[dict[bytes, bytes], bytes]] = []

    def read(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes]:
        return self._call("read", lambda: super(FaultyOnlineStore, self).read(keys))

    def write(self, records: Sequence[Record], position: bytes) -> None:
        self._call("write", lambda: super(FaultyOnlineStore, self).write(records, position), writes=True)

    def update(self, keys: Sequence[bytes], change: Change) -> None:
        self._call("update", lambda: super(FaultyOnlineStore, self).update(keys, change), writes=True)

    def revise(self, keys: Sequence[bytes], change: Revision) -> None:
        self._call("revise", lambda: super(FaultyOnlineStore, self).revise(keys, change), writes=True)

    def sync(self) -> None:
        """What was written before does not go in a failover."""

        def do() -> None:
            self._former = []

        self._chance.call(self._part, "sync", do, writes=True, local=self._local)

    def _call(self, name: str, do: Callable[[], T], *, writes: bool = False) -> T:
        if writes and not self._local and self._chance.on:
            self._former = [*self._former[-3:], (dict(self._held()), self._position)]
        return self._chance.call(self._part, name, do, writes=writes, local=self._local)

    def fail_over(self) -> None:
        """The last writes are lost."""
        if self._former:
            records, self._position = self._chance.rng.choice(self._former)
            self._records, self._former = dict(records), []

    def wipe(self) -> None:
        """All is lost."""
        self._records, self._position, self._former = {}, b"", []


class FaultyCatalog(Catalog):
    """A catalog whose server may fail: a transaction is refused, or done and not answered for."""

    def __init__(self, chance: Chance, file: Path) -> None:
        super().__init__(file, chance.clock)
        self._chance = chance

    def setting(self, name: str, default: Any = None) -> Any:
        return self._chance.call(
            "catalog", f"setting {name}", lambda: super(FaultyCatalog, self).setting(name, default)
        )

    def set_setting(self, name: str, value: Any) -> None:
        self._call(f"set {name}", lambda: super(FaultyCatalog, self).set_setting(name, value))

    def revise_setting(self, name: str, change: Callable[[Any], Any]) -> Any:
        return self._call(f"revise {name}", lambda: super(FaultyCatalog, self).revise_setting(name, change))

    def definitions(self, kind: str | None = None, *, active: bool = True) -> list[Definition]:
        return self._chance.call(
            "catalog", f"definitions {kind}", lambda: super(FaultyCatalog, self).definitions(kind, active=active)
        )

    def diff(self, records: Sequence[DefinitionRecord]) -> list[DefinitionChange]:
        return self._chance.call("catalog", "diff", lambda: super(FaultyCatalog, self).diff(records))

    def apply(self, records: Sequence[DefinitionRecord], **more: Any) -> list[DefinitionChange]:
        return self._call("apply", lambda: super(FaultyCatalog, self).apply(records, **more))

    def _call(self, name: str, do: Callable[[], T]) -> T:
        return self._chance.call("catalog", name, do, writes=True)


class FaultyOfflineStore(MemoryOfflineStore):
    """An offline store that may fail."""

    def __init__(self, chance: Chance) -> None:
        super().__init__()
        self._chance = chance

    def append(self, table: str, rows: pa.Table, **more: Any) -> int:
        return self._chance.call(
            "offline store", f"append {table}", lambda: super(FaultyOfflineStore, self).append(table, rows, **more),
            writes=True,
        )  # fmt: skip

    def scan(self, table: str, columns: Sequence[str] | None = None, **more: Any) -> pa.Table:
        return self._chance.call(
            "offline store", f"scan {table}", lambda: super(FaultyOfflineStore, self).scan(table, columns, **more)
        )

    def batches(self, table: str, columns: Sequence[str] | None = None, **more: Any) -> Iterator[pa.Table]:
        return self._chance.call(
            "offline store", f"batches {table}", lambda: super(FaultyOfflineStore, self).batches(table, columns, **more)
        )

    def number(self, table: str, writer: str) -> int:
        return self._chance.call(
            "offline store", f"number {table}", lambda: super(FaultyOfflineStore, self).number(table, writer)
        )
