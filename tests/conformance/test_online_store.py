"""The adapters of the online store against their kit."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
import pytest
import redis

from headrace.core.errors import StoreError, Unreachable
from headrace.stores.online.base import OnlineStore
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.stores.online.redis import RedisOnlineStore
from headrace.testing.capabilities import capability
from headrace.testing.online_store import DurableOnlineStoreTests, OnlineStoreTests
from tests.redis_server import RedisServer, clustered, move_a_slot, until
from tests.services import address


class TestMemoryOnlineStore(OnlineStoreTests):
    adapter = "memory"

    def open(self, place: Path) -> OnlineStore:
        return MemoryOnlineStore()

    def raw_records(self, store: OnlineStore, place: Path) -> dict[bytes, bytes]:
        assert isinstance(store, MemoryOnlineStore)
        return dict(store._records or {})


class TestLmdbOnlineStore(DurableOnlineStoreTests):
    adapter = "LMDB"

    def open(self, place: Path) -> OnlineStore:
        return LmdbOnlineStore(place)

    def opener(self, place: Path) -> Callable[[], OnlineStore]:
        return partial(LmdbOnlineStore, place)

    def raw_records(self, store: OnlineStore, place: Path) -> dict[bytes, bytes]:
        copy = place.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        shutil.copyfile(place / "data.mdb", copy / "data.mdb")
        with lmdb.open(str(copy), map_size=1 << 30) as env, env.begin() as txn:
            return {bytes(key): bytes(value) for key, value in txn.cursor() if len(key) <= 500}

    def test_a_readonly_store_reads_what_others_write_and_refuses_to_write(self, place: Path) -> None:
        with pytest.raises(StoreError, match="holds no online store"):
            LmdbOnlineStore(place, readonly=True)
        store = LmdbOnlineStore(place)
        reader = LmdbOnlineStore(place, readonly=True)
        store.write([(b"a", b"1")], b"p")
        assert reader.read([b"a"]) == ([b"1"], b"p")
        with pytest.raises(StoreError, match="without readonly"):
            reader.write([], b"q")
        reader.close()
        assert store.position() == b"p"
        store.close()

    @capability("a full disk area is told, with the cure")
    def test_a_full_map_is_reported_with_the_cure_and_stores_nothing(self, place: Path) -> None:
        store = LmdbOnlineStore(place, map_size=1 << 20)
        store.write([(b"a", b"1")], b"p")
        with pytest.raises(StoreError, match="larger map_size"):
            store.write([(b"a", b"2"), *((b"%d" % key, b"x" * 30_000) for key in range(100))], b"q")
        assert store.read([b"a", b"0"]) == ([b"1", None], b"p")
        store.close()

    def test_a_synced_store_keeps_what_it_was_given(self, place: Path) -> None:
        store = LmdbOnlineStore(place, sync=True)
        store.write([(b"a", b"1")], b"p")
        store.close()
        unsynced = LmdbOnlineStore(place)
        assert unsynced.read([b"a"]) == ([b"1"], b"p")
        with pytest.raises(StoreError, match="without sync"):
            LmdbOnlineStore(place, sync=True)
        unsynced.close()


@pytest.mark.redis
class TestRedisOnlineStore(DurableOnlineStoreTests):
    """All keys in one shard, as on a single server."""

    adapter = "Redis"
    options = ""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Path]:
        place = tmp_path / uuid.uuid4().hex
        yield place
        with redis.Redis.from_url(address("redis")) as plain:
            for key in plain.scan_iter(f"{{kit:{place.name}:*", count=1000):
                plain.delete(key)

    def open(self, place: Path) -> OnlineStore:
        return self.opener(place)()

    def opener(self, place: Path) -> Callable[[], OnlineStore]:
        return partial(RedisOnlineStore, f"{address('redis')}?prefix=kit{self.options}", namespace=place.name)

    def raw_records(self, store: OnlineStore, place: Path) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        with redis.Redis.from_url(address("redis")) as plain:
            for key in plain.scan_iter(f"{{kit:{place.name}:*}}*", count=1000):
                tag, _, name = bytes(key).partition(b"}")
                if name.startswith(b"r"):
                    found[name[1:]] = plain.get(key)
                else:
                    assert name in (b"p", b"c"), "what a write lays down is gone after it"
                assert tag.startswith(b"{kit:")
        return found


@pytest.mark.redis
class TestShardedRedisOnlineStore(TestRedisOnlineStore):
    """Keys in several shards, as in a cluster."""

    adapter = "Redis, sharded"
    options = "&shards=5"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """A cluster."""
    nodes = clustered(tmp_path_factory.mktemp("cluster"))
    yield nodes
    for node in nodes:
        node.kill()


@pytest.mark.redis
class TestClusterRedisOnlineStore(DurableOnlineStoreTests):
    """Keys spread over three nodes."""

    adapter = "Redis Cluster"

    @pytest.fixture
    def place(self, nodes: list[RedisServer], tmp_path: Path) -> Iterator[Path]:
        yield tmp_path / f"{nodes[0].port}-{uuid.uuid4().hex}"
        for node in nodes:
            node.ask("FLUSHALL")

    def open(self, place: Path) -> OnlineStore:
        return self.opener(place)()

    def opener(self, place: Path) -> Callable[[], OnlineStore]:
        port = place.name.partition("-")[0]
        return partial(RedisOnlineStore, f"redis+cluster://127.0.0.1:{port}?shards=8", namespace=place.name)

    def raw_records(self, store: OnlineStore, place: Path) -> dict[bytes, bytes]:
        with redis.RedisCluster(host="127.0.0.1", port=int(place.name.partition("-")[0])) as plain:
            keys = list(plain.scan_iter(f"{{headrace:{place.name}:*}}r*", count=1000))
            return {key.partition(b"}r")[2]: plain.get(key) for key in keys}

    @capability("keys spread over servers")
    def test_entities_come_to_all_nodes(self, store: OnlineStore, nodes: list[RedisServer]) -> None:
        store.write([(b"entity-%d-version1" % number, b"x") for number in range(60)], b"p")
        held = [sum(b"}r" in key for key in node.ask("KEYS", "*")) for node in nodes]
        assert sum(held) == store.count() == 60
        assert min(held) > 0

    @capability("slots that move are followed")
    def test_a_slot_that_moves_to_another_node_is_followed(self, store: OnlineStore, nodes: list[RedisServer]) -> None:
        keys = [b"entity-%d-version1" % number for number in range(60)]
        store.write([(key, b"old") for key in keys], b"p1")
        moved = move_a_slot(nodes, b"}r")
        assert moved
        until(lambda: _answered(store, keys, b"old", b"p1"))
        until(lambda: _written(store, keys))
        assert store.read(keys) == ([b"new"] * 60, b"p2")


def _answered(store: OnlineStore, keys: list[bytes], record: bytes, position: bytes) -> bool:
    try:
        return store.read(keys) == ([record] * len(keys), position)
    except Unreachable:
        return False


def _written(store: OnlineStore, keys: list[bytes]) -> bool:
    try:
        store.write([(key, b"new") for key in keys], b"p2")
    except Unreachable:
        return False
    return True
