"""EventLog in an LMDB environment: the embedded default, durable and shared by the processes of one machine.

One named database per topic partition: key = base offset (8 bytes, big-endian), value = header (count, CRC-32 of the
payload, arrival) and payload. A further one, `headrace`, holds the topics, the groups' offsets and, for partitions
that were trimmed to nothing, where they go on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias, TypeVar
from zlib import crc32

import lmdb

from headrace.core.errors import LogError
from headrace.core.lmdb_env import (
    DEFAULT_MAP_SIZE,
    RECOVERABLE,
    SharedEnvironment,
    acquire_environment,
    explain,
    release_environment,
)
from headrace.core.lmdb_wipe import wipe_environment
from headrace.core.time import NULL_US, Clock
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.checks import below_begin, check_base, check_count, check_name, check_partitions, no_topic

T = TypeVar("T")
Key = tuple[str, int]
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

_HEADER: Final = struct.Struct(">IIq")
_MARK: Final = struct.Struct(">Qq")
_META: Final = b"headrace"
_TRIM_STEP: Final = 5_000
_REWRITE_STEP: Final = 10_000
"""Records that are looked at before what has changed among them is written."""


class LmdbEventLog(EventLog):
    """A log in folder `path`; any number of processes and threads may have it open, also twice in one process.

    Args:
        path: the folder; made if it does not exist.
        clock: gives the arrival of each batch.
        sync: True makes an append durable against power loss before it returns. False survives the death of any
            process but not of the machine: after power loss the folder may have to be rebuilt.
        map_size: most bytes that the log can ever hold; costs address space only.
        spoilt: what is handed out instead of a batch whose checksum differs; None, or without it: LogError.

    Every method raises LogError if the folder cannot be read or written, and says what to do.
    """

    editable = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock,
        *,
        sync: bool = True,
        map_size: int = DEFAULT_MAP_SIZE,
        spoilt: Callable[[LogBatch], bytes | None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._spoilt = spoilt
        # Ends and last arrivals as of transaction `_tails_txn`: whoever writes next sees by its own number whether
        # another log object, perhaps in another process, has written since.
        self._tails: dict[Key, tuple[int, int]] = {}
        self._tails_txn = -1
        try:
            shared = acquire_environment(path, sync=sync, map_size=map_size, named=True)
        except ValueError as error:
            raise LogError(f"cannot open the event log: {error}") from None
        except (lmdb.Error, OSError) as error:
            raise LogError(f"cannot open the event log: {explain(error, os.fspath(path))}") from error
        self._open: SharedEnvironment | None = shared
        with _explained(shared):
            shared.handle(_META, _META, create=True)
            shared.settle()

    @property
    def _shared(self) -> SharedEnvironment:
        if self._open is None:
            raise LogError("this event log is closed: open it again")
        return self._open

    def create(self, topic: str, partitions: int = 1) -> None:
        shared = self._shared
        existing = self.topics().get(topic)
        check_partitions(topic, partitions, existing)
        if existing is not None:
            return
        with _explained(shared), shared.write_gate:
            meta = shared.handle(_META, _META)
            # Databases first, the topic's entry last: what a kill leaves in between is completed by the next call.
            for partition in range(partitions):
                shared.handle((topic, partition), _database(topic, partition), create=True)
            self._write(lambda txn: txn.put(_topic_key(topic), partitions.to_bytes(4, "big"), overwrite=False, db=meta))
        check_partitions(topic, partitions, self.topics()[topic])

    def topics(self) -> dict[str, int]:
        return {key.decode(): int.from_bytes(value, "big") for key, value in self._meta_items(b"t\0")}

    def append(self, items: Sequence[Append]) -> list[int]:
        if not items:
            return []
        now = self._clock.now_us()
        shared = self._shared
        with shared.write_gate:
            for item in items:
                check_count(item.topic, item.partition, item.count)
                if (item.topic, item.partition) not in shared.handles:
                    self._find(item.topic, item.partition)
            try:
                bases, changed, number = shared.write(lambda txn: self._append(txn, items, now))
            except lmdb.Error as error:
                raise LogError(f"nothing was appended: {explain(error, shared.path)}") from error
            self._tails.update(changed)  # only now: a commit that failed has changed nothing
            self._tails_txn = number
            return bases

    def _append(
        self, txn: Transaction, items: Sequence[Append], now: int
    ) -> tuple[list[int], dict[Key, tuple[int, int]], int]:
        """Puts the items; returns their base offsets, the new tails, and the number of the transaction."""
        shared = self._shared
        number = txn.id()
        if self._tails_txn != number - 1:
            self._tails = {}
        changed: dict[Key, tuple[int, int]] = {}
        bases = []
        for item in items:
            key = (item.topic, item.partition)
            handle = shared.handles[key]
            base, arrival = changed.get(key) or self._tails.get(key) or self._tail(txn, key, handle)
            check_base(*key, item.base, base)
            if now > arrival:
                arrival = now
            payload = item.payload
            value = _HEADER.pack(item.count, crc32(payload), arrival) + payload
            if not txn.put(base.to_bytes(8, "big"), value, append=True, db=handle):
                place = f"{item.topic}/{item.partition}"
                raise LogError(f"{shared.path} is damaged: {place} goes on past its end {base}; restore it")
            changed[key] = (base + item.count, arrival)
            bases.append(base)
        return bases, changed, number

    def read(self, topic: str, partition: int, offset: int, max_records: int = 10_000) -> list[LogBatch]:
        if offset < 0:
            raise LogError(f"offset {offset} of {topic}/{partition} is negative: offsets start at 0")
        return self._read(topic, partition, lambda txn: self._batches(txn, topic, partition, offset, max_records))

    def _batches(self, txn: Transaction, topic: str, partition: int, offset: int, max_records: int) -> list[LogBatch]:
        key = (topic, partition)
        if self._tails_txn == txn.id():
            tail = self._tails.get(key)
            if tail is not None and offset >= tail[0]:
                return []
        value = txn.get(offset.to_bytes(8, "big"))
        if value is None:
            base = self._holder(txn, key, offset)
            if base is None:
                return []
            offset = base
            value = txn.get(offset.to_bytes(8, "big"))
        batches = []
        while value is not None:
            batch = _decoded(topic, partition, offset, value, self._spoilt)
            batches.append(batch)
            max_records -= batch.count
            if max_records <= 0:
                break
            offset += batch.count
            value = txn.get(offset.to_bytes(8, "big"))
        return batches

    def _holder(self, txn: Transaction, key: Key, offset: int) -> int | None:
        """Base of the batch that holds `offset`, None at or past the end; raises LogError below the begin."""
        cursor = txn.cursor()
        above = cursor.set_range(offset.to_bytes(8, "big"))
        if cursor.prev() if above else cursor.last():
            base = int.from_bytes(cursor.key(), "big")
            if base + _HEADER.unpack_from(cursor.value())[0] > offset:
                return base
            if above:
                raise LogError(f"{self._shared.path} is damaged: {key[0]}/{key[1]} lacks offset {offset}: restore it")
            return None
        begin = self._begin(txn, key)
        if offset < begin:
            raise below_begin(*key, offset, begin)
        return None

    def begin(self, topic: str, partition: int) -> int:
        return self._read(topic, partition, lambda txn: self._begin(txn, (topic, partition)))

    def end(self, topic: str, partition: int) -> int:
        return self._read(topic, partition, lambda txn: self._tail(txn, (topic, partition), None)[0])

    def last(self, topic: str, partition: int) -> LogBatch | None:
        def newest(txn: Transaction) -> LogBatch | None:
            cursor = txn.cursor()
            if not cursor.last():
                return None
            base = int.from_bytes(cursor.key(), "big")
            return _decoded(topic, partition, base, cursor.value(), self._spoilt)

        return self._read(topic, partition, newest)

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        check_name("consumer group", group)
        if offset < 0:
            raise LogError(f"group {group} cannot commit offset {offset} of {topic}/{partition}: offsets start at 0")
        key, shared = _group_key(group, topic, partition), self._shared

        def forward(txn: Transaction) -> None:
            meta = shared.handles[_META]
            value = txn.get(key, db=meta)
            if value is None or int.from_bytes(value, "big") < offset:
                txn.put(key, offset.to_bytes(8, "big"), db=meta)

        with shared.write_gate:
            self._find(topic, partition)
            self._write(forward)

    def committed(self, group: str, topic: str, partition: int) -> int:
        key = _group_key(group, topic, partition)
        return int.from_bytes(self._view(_META, lambda txn: txn.get(key, b"")), "big")

    def groups(self) -> dict[tuple[str, str, int], int]:
        found = {}
        for key, value in self._meta_items(b"g\0"):
            group, topic, partition = key.decode().split("\0")
            found[group, topic, int(partition)] = int.from_bytes(value, "big")
        return found

    def trim(self, topic: str, partition: int, before: int) -> int:
        key, shared = (topic, partition), self._shared

        def drop(txn: Transaction) -> bool:
            """Drops some batches; True if there may be more."""
            handle, meta = shared.handles[key], shared.handles[_META]
            end, arrival = self._tail(txn, key, handle)
            cursor = txn.cursor(handle)
            cursor.first()
            for _ in range(_TRIM_STEP):
                if not cursor.key():
                    txn.put(_mark_key(key), _MARK.pack(end, arrival), db=meta)
                    return False
                base = int.from_bytes(cursor.key(), "big")
                if base + _HEADER.unpack_from(cursor.value())[0] > before:
                    return False
                cursor.delete()
            return True

        with shared.write_gate:
            self._find(topic, partition)
            # In steps, so that other writers do not wait for long and no transaction grows without bound.
            while self._write(drop):
                pass
        return self.begin(topic, partition)

    def rewrite(self, topic: str, partition: int, change: Callable[[LogBatch], bytes | None]) -> int:
        key, shared = (topic, partition), self._shared
        at, found = self.begin(topic, partition), 0

        def put(txn: Transaction, items: list[tuple[LogBatch, bytes]]) -> int:
            """Puts those that are still there as they were read."""
            handle, done = shared.handles[key], 0
            for batch, payload in items:
                place = batch.base.to_bytes(8, "big")
                if txn.get(place, db=handle) is not None:  # else it was trimmed meanwhile
                    txn.put(place, _HEADER.pack(batch.count, crc32(payload), batch.arrival_us) + payload, db=handle)
                    done += 1
            return done

        while batches := self.read(topic, partition, at, _REWRITE_STEP):
            items = [(batch, payload) for batch in batches if (payload := change(batch)) is not None]
            if items:
                with shared.write_gate:
                    self._find(topic, partition)
                    found += self._write(partial(put, items=items))
            at = batches[-1].end
        return found

    def wipe(self) -> None:
        shared = self._shared
        with _explained(shared):
            wipe_environment(shared)

    def sync(self) -> None:
        shared = self._shared
        with _explained(shared), shared.write_gate:
            shared.opened().sync(True)

    def close(self) -> None:
        shared, self._open = self._open, None
        if shared is not None:
            release_environment(shared)

    def _find(self, topic: str, partition: int) -> lmdb._Database:
        """The handle of a partition's database; one that another process has made is found, none raises NotFound."""
        shared = self._shared
        with _explained(shared):
            shared.handle(_META, _META)
            try:
                return shared.handle((topic, partition), _database(topic, partition))
            except (lmdb.NotFoundError, lmdb.BadValsizeError):
                pass
        raise no_topic(topic, partition, self.topics())

    def _tail(self, txn: Transaction, key: Key, handle: lmdb._Database | None) -> tuple[int, int]:
        """End and last arrival of a partition."""
        cursor = txn.cursor(handle) if handle is not None else txn.cursor()
        if cursor.last():
            count, _, arrival = _HEADER.unpack_from(cursor.value())
            return int.from_bytes(cursor.key(), "big") + count, arrival
        return self._mark(txn, key)

    def _begin(self, txn: Transaction, key: Key) -> int:
        cursor = txn.cursor()
        return int.from_bytes(cursor.key(), "big") if cursor.first() else self._mark(txn, key)[0]

    def _mark(self, txn: Transaction, key: Key) -> tuple[int, int]:
        value = txn.get(_mark_key(key), db=self._shared.handles[_META])
        return _MARK.unpack(value) if value else (0, NULL_US)

    def _meta_items(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        def collect(txn: Transaction) -> list[tuple[bytes, bytes]]:
            found = []
            cursor = txn.cursor()
            cursor.set_range(prefix)
            while cursor.key().startswith(prefix):
                found.append((cursor.key()[len(prefix) :], cursor.value()))
                cursor.next()
            return found

        return self._view(_META, collect)

    def _read(self, topic: str, partition: int, do: Callable[[Transaction], T]) -> T:
        """Run `do` in a read transaction whose default database is the partition's."""
        if (topic, partition) not in self._shared.handles:
            self._find(topic, partition)
        return self._view((topic, partition), do)

    def _view(self, key: object, do: Callable[[Transaction], T]) -> T:
        shared = self._shared
        while True:
            failed: lmdb.Error | None = None
            with shared.read_gate:
                handle, meta, env = shared.handles.get(key), shared.handles.get(_META), shared.env
                if handle is not None and meta is not None and env is not None:
                    try:
                        txn = env.begin(handle)
                        try:
                            return do(txn)
                        finally:
                            txn.abort()
                    except RECOVERABLE as error:
                        failed = error
                    except lmdb.Error as error:
                        raise LogError(explain(error, shared.path)) from error
            # Rare: this process has forked since, or another one has let the map grow.
            with _explained(shared):
                if failed is not None:
                    shared.recover(failed)
                shared.handle(_META, _META)
                if isinstance(key, tuple):
                    self._find(*key)

    def _write(self, do: Callable[[Transaction], T]) -> T:
        """Run `do` in a write transaction; handles must have been found before."""
        shared = self._shared
        with _explained(shared):
            return shared.write(do)


@contextmanager
def _explained(shared: SharedEnvironment) -> Iterator[None]:
    """Turn what LMDB raises into a LogError; NotFoundError and BadValsizeError are answers, not failures."""
    try:
        yield
    except (lmdb.NotFoundError, lmdb.BadValsizeError):
        raise
    except (lmdb.Error, OSError) as error:
        raise LogError(explain(error, shared.path)) from error


def _decoded(
    topic: str, partition: int, base: int, value: bytes, spoilt: Callable[[LogBatch], bytes | None]
) -> LogBatch:
    count, checksum, arrival = _HEADER.unpack_from(value)
    payload = value[_HEADER.size :]
    batch = LogBatch(topic, partition, base, count, arrival, payload)
    if crc32(payload) == checksum:
        return batch
    instead = spoilt(batch)
    if instead is not None:
        return replace(batch, payload=instead)
    raise LogError(
        f"the batch at offset {base} of {topic}/{partition} is damaged (checksum differs): "
        f"restore the log's folder, or go on at offset {base + count} and rebuild what it held"
    )


def _database(topic: str, partition: int) -> bytes:
    return f"{topic}/{partition}".encode()


def _topic_key(topic: str) -> bytes:
    return b"t\0" + topic.encode()


def _group_key(group: str, topic: str, partition: int) -> bytes:
    return f"g\0{group}\0{topic}\0{partition}".encode()


def _mark_key(key: Key) -> bytes:
    return f"m\0{key[0]}\0{key[1]}".encode()
