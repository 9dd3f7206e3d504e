"""The online stores against a dict and a position, under any sequence of calls by two that hold the store open."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from headrace.core.errors import StoreError
from headrace.stores.online.base import OnlineStore, Record
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.stores.online.redis import RedisOnlineStore
from headrace.testing.capabilities import capability
from tests.services import address

_KEYS = st.sampled_from([b"a", b"b", b"\xff\xffnote", b"entity-1version1", b"entity-1version2", b"entity-2version1"])
_VALUE = st.none() | st.binary(max_size=20) | st.builds(lambda n: b"long" * n, st.integers(1_000, 3_000))
_RECORDS = st.lists(st.tuples(_KEYS, _VALUE), max_size=6)
_POSITION = st.binary(max_size=12)


@capability("any sequence of calls, against a model")
class StoreMachine(RuleBasedStateMachine):
    """Two objects on one store; the plain machine has one on each rule's turn, as memory cannot be shared."""

    port = "OnlineStore"
    adapter = "memory"
    stores: list[OnlineStore]
    keeps = False

    def __init__(self) -> None:
        super().__init__()
        self.stores = self.opened()
        self.records: dict[bytes, bytes] = {}
        self.position = b""

    def opened(self) -> list[OnlineStore]:
        return [MemoryOnlineStore()]

    def _take(self, records: list[Record]) -> None:
        for key, record in records:
            self.records.pop(key, None)
            if record is not None:
                self.records[key] = record

    def _pick(self, pick: int) -> OnlineStore:
        return self.stores[pick % len(self.stores)]

    @rule(pick=st.integers(0, 1), records=_RECORDS, position=_POSITION)
    def write(self, pick: int, records: list[Record], position: bytes) -> None:
        self._pick(pick).write(records, position)
        self._take(records)
        self.position = position

    @rule(pick=st.integers(0, 1), records=_RECORDS, more=st.lists(_KEYS, max_size=3), position=_POSITION)
    def update(self, pick: int, records: list[Record], more: list[bytes], position: bytes) -> None:
        keys = [*more, *[key for key, _ in records]]

        def change(found: list[bytes | None], at: bytes) -> tuple[list[Record], bytes]:
            assert found == [self.records.get(key) for key in keys]
            assert at == self.position
            return records, position

        self._pick(pick).update(keys, change)
        self._take(records)
        self.position = position

    @rule(pick=st.integers(0, 1), key=_KEYS)
    def update_that_is_refused(self, pick: int, key: bytes) -> None:
        with pytest.raises(StoreError, match="no others"):
            self._pick(pick).update([key], lambda found, at: ([(key, b"1"), (b"not given", b"2")], b"never"))
        with pytest.raises(ZeroDivisionError):
            self._pick(pick).update([key], lambda found, at: ([(key, b"1")], bytes(1 // 0)))

    @rule(pick=st.integers(0, 1), keys=st.lists(_KEYS, max_size=3), records=_RECORDS)
    def revise(self, pick: int, keys: list[bytes], records: list[Record]) -> None:
        def change(found: list[bytes | None]) -> list[Record]:
            assert found == [self.records.get(key) for key in keys]
            return records

        self._pick(pick).revise(keys, change)
        self._take(records)

    @rule(pick=st.integers(0, 1), keys=st.lists(_KEYS, max_size=6))
    def read(self, pick: int, keys: list[bytes]) -> None:
        assert self._pick(pick).read(keys) == ([self.records.get(key) for key in keys], self.position)

    @precondition(lambda self: self.keeps)
    @rule(pick=st.integers(0, 1))
    def reopen(self, pick: int) -> None:
        self._pick(pick).close()
        self.stores[pick % len(self.stores)] = self.open()

    def open(self) -> OnlineStore:
        raise NotImplementedError

    @invariant()
    def all_of_them_show_the_same(self) -> None:
        for store in self.stores:
            assert list(store.scan()) == sorted(self.records.items())
            assert store.count() == len(self.records)
            assert store.position() == self.position

    def teardown(self) -> None:
        for store in self.stores:
            store.close()


class LmdbStoreMachine(StoreMachine):
    """On a folder."""

    adapter = "LMDB"
    keeps = True

    def opened(self) -> list[OnlineStore]:
        self.place = Path(tempfile.mkdtemp(prefix="headrace-online-"))
        return [self.open(), self.open()]

    def open(self) -> OnlineStore:
        return LmdbOnlineStore(self.place)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.place)


class RedisStoreMachine(StoreMachine):
    """On a server, with all keys in one shard."""

    adapter = "Redis"
    keeps = True
    options = ""

    def opened(self) -> list[OnlineStore]:
        self.name = uuid.uuid4().hex
        return [self.open(), self.open()]

    def open(self) -> OnlineStore:
        return RedisOnlineStore(f"{address('redis')}?prefix=machine{self.options}", namespace=self.name)

    def teardown(self) -> None:
        super().teardown()
        with redis.Redis.from_url(address("redis")) as plain:
            names = list(plain.scan_iter(f"{{machine:{self.name}:*", count=1000))
            if names:
                plain.delete(*names)


class ShardedRedisStoreMachine(RedisStoreMachine):
    """In three shards."""

    adapter = "Redis, sharded"
    options = "&shards=3"


@pytest.mark.parametrize("machine", [StoreMachine, LmdbStoreMachine], ids=["memory", "lmdb"])
def test_a_store_behaves_like_a_dict(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=20))


@pytest.mark.redis
@pytest.mark.parametrize("machine", [RedisStoreMachine, ShardedRedisStoreMachine], ids=["one shard", "three"])
def test_a_store_in_redis_behaves_like_a_dict(machine: type[StoreMachine]) -> None:
    address("redis")
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=20, max_examples=15))
