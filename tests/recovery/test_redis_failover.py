"""The primary is killed under load, the replica takes over without its last writes, and replay brings the same bits."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.app.ingesting import Ingesting
from headrace.app.wiring import Parts
from headrace.core.errors import Unreachable
from headrace.core.positions import decode_position
from headrace.ingestion.materialize import OnlineIngest
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.stores.online.redis import RedisOnlineStore
from tests.recovery.shop import HORIZON_US, PROJECT, Shop, deeds
from tests.redis_server import RedisServer, clustered, replica_of, until, watched

SEED, DEEDS = 20130202, 120
PASSWORD = "s3cret"


@contextmanager
def replicated(folder: Path) -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """A primary, its replica and the Sentinel that watches them."""
    primary = RedisServer(folder / "primary", password=PASSWORD).start()
    replica = RedisServer(
        folder / "replica", "--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0",
        password=PASSWORD,
    ).start()  # fmt: skip
    until(lambda: replica.info("master_link_status") == "up")
    sentinel = watched(folder / "sentinel", primary, "shop")
    until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "shop"))
    try:
        yield primary, replica, sentinel
    finally:
        for server in (sentinel, replica, primary):
            server.kill()


class Load:
    """Publishing and computing, a bit at a time, and a reader that never stops."""

    def __init__(self, shop: Shop, store: RedisOnlineStore) -> None:
        self.shop, self.store = shop, store
        self.waiting = list(deeds(SEED, DEEDS))
        self.compute = shop.compute()
        self.away, self.answers = 0, 0
        self.wrong: list[BaseException] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def some(self, share: float) -> None:
        count = int(len(self.waiting) * share)
        for deed in self.waiting[:count]:
            deed(self.shop)
            self.compute.step()
        del self.waiting[:count]

    def _read(self) -> None:
        while not self._stopped.is_set():
            try:
                decode_position(self.store.position())
                self.answers += 1
            except Unreachable:
                self.away += 1
            except BaseException as error:
                self.wrong.append(error)
            time.sleep(0.001)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.mark.redis
def test_replay_repairs_what_the_replica_had_not_received(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    with replicated(tmp_path) as (primary, replica, sentinel):
        store = RedisOnlineStore(f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/shop/0?timeout=1")
        ingest = layer_of(shop, store)
        load = Load(shop, store)
        load.some(0.5)
        drain(ingest, shop, store)
        shared = store.position()
        until(lambda: primary.ask("WAIT", "1", "1000") == 1)
        # From here on nothing comes to the replica: it may not log in when it tries again.
        replica.ask("CONFIG", "SET", "masterauth", "wrong")
        primary.ask("CLIENT", "KILL", "TYPE", "replica")
        until(lambda: replica.info("master_link_status") == "down")
        load.some(0.3)
        drain(ingest, shop, store)
        lost = store.position()
        assert decode_position(lost).windows > decode_position(shared).windows
        feeding = threading.Thread(target=load.some, args=(1.0,), daemon=True)
        feeding.start()
        ingest.step()
        primary.kill()
        answers = load.answers
        until(lambda: ingest.step() == 0 and ingest.problem)
        assert "does not answer" in ingest.problem
        assert PASSWORD not in ingest.problem
        until(lambda: replica.info("role") == "master", 30)
        held = [key for key in replica.ask("KEYS", "*") if key.endswith(b"}p")]
        assert replica.ask("GET", held[0])[20:] == shared, "what was written since is lost"
        feeding.join()
        drain(ingest, shop, store)
        until(lambda: load.answers > answers)  # reads go on once the replica has taken over
        load.stop()
        assert load.wrong == []
        assert load.away > 0
        model = MemoryOnlineStore()
        undisturbed = ingest_of(shop, model)
        while undisturbed.step():
            pass
        assert list(store.scan()) == list(model.scan())
        assert decode_position(store.position()) == decode_position(model.position())
        assert store.count() == model.count()
        store.close()
    shop.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[list[RedisServer], RedisServer]]:
    """Three nodes, and a replica of the second one."""
    nodes = clustered(tmp_path)
    replica = replica_of(nodes, nodes[1], tmp_path / "replica")
    yield nodes, replica
    for node in (*nodes, replica):
        node.kill()


@pytest.mark.redis
def test_a_node_of_a_cluster_dies_and_its_replica_goes_on(
    tmp_path: Path, cluster: tuple[list[RedisServer], RedisServer]
) -> None:
    """With the last writes, or without them in one shard alone: replay brings the shards level again."""
    shop = Shop(tmp_path / "shop")
    nodes, replica = cluster
    store = RedisOnlineStore(f"redis+cluster://127.0.0.1:{nodes[0].port}?shards=8&timeout=2")
    ingest = layer_of(shop, store)
    compute = shop.compute()
    waiting = list(deeds(SEED, DEEDS))
    for part in range(3):
        for deed in waiting[part * 50 : (part + 1) * 50 if part < 2 else None]:
            deed(shop)
            compute.step()
        if part == 1:
            until(lambda: nodes[1].ask("WAIT", "1", "1000") == 1)
            nodes[1].kill()
            ingest.step()
            until(lambda: replica.info("role") == "master", 30)
        if part == 2:
            # What a failover loses: some shards fall back to where they were before the last write.
            before = {key: replica.ask("DUMP", key) for key in replica.ask("KEYS", "*")}
            drain(ingest, shop, store)
            for key in replica.ask("KEYS", "*"):
                replica.ask("DEL", key)
            for key, data in before.items():
                replica.ask("RESTORE", key, 0, data)
            behind = decode_position(store.position()).windows
            assert behind < shop.features.end("windows", 0)
            assert unreadable(store), "the shards disagree"
            replay = ingest_of(shop, store)
            replay.step(1)
            assert behind < replay.position.windows < shop.features.end("windows", 0)
            assert unreadable(store), "the shards agree, but some hold records that are ahead"
            ingest = layer_of(shop, store)
        drain(ingest, shop, store)
    model = MemoryOnlineStore()
    undisturbed = ingest_of(shop, model)
    while undisturbed.step():
        pass
    assert list(store.scan()) == list(model.scan())
    assert decode_position(store.position()) == decode_position(model.position())
    assert not unreadable(store)
    store.close()
    shop.close()


def unreadable(store: RedisOnlineStore) -> bool:
    """True if the store refuses to read what lies in several shards."""
    try:
        store.read([b"user-%d-version1" % number for number in range(50)])
    except Unreachable as error:
        return "have lost different parts" in str(error)
    return False


def layer_of(shop: Shop, store: RedisOnlineStore) -> Ingesting:
    """Ingestion as its process runs it."""
    settings = SimpleNamespace(writes_per_s=0)
    return Ingesting(cast(Parts, SimpleNamespace(settings=settings, ingest=lambda ceiling: ingest_of(shop, store))))


def ingest_of(shop: Shop, store: Any) -> OnlineIngest:
    return OnlineIngest(PROJECT, shop.features, store, horizon_us=HORIZON_US)


def drain(ingest: Ingesting, shop: Shop, store: RedisOnlineStore) -> None:
    """Step until the store reflects the whole feature log."""

    def done() -> bool:
        while ingest.step():
            pass
        try:
            position = decode_position(store.position())
        except Unreachable:
            return False
        return position.windows == shop.features.end("windows", 0) and position.tables == shop.features.end("tables", 0)

    until(done, 40)


@pytest.mark.redis
def test_sync_returns_when_the_replica_has_all_and_says_so_if_it_does_not(tmp_path: Path) -> None:
    with replicated(tmp_path) as (primary, replica, _):
        store = RedisOnlineStore(f"{primary.url}?timeout=1")
        for n in range(5):
            store.write([(b"k%d" % i, b"%d" % n * 1000) for i in range(200)], b"p%d" % n)
            store.sync()
            # A replica refuses whoever reads it as a store, so it is asked as it is.
            names = [name for name in primary.ask("KEYS", "*") if not name.endswith(b"w")]
            assert [replica.ask("GET", name) for name in names[:20]] == [
                primary.ask("GET", name) for name in names[:20]
            ]
        held = sorted(primary.ask("KEYS", "*"))
        store.sync()
        assert sorted(primary.ask("KEYS", "*")) == held  # it leaves nothing of its own
        assert replica.process is not None
        replica.process.send_signal(signal.SIGSTOP)
        try:
            store.write([(b"k1", b"new")], b"last")
            with pytest.raises(Unreachable, match=r"a replica of the online store .* does not follow"):
                store.sync()
        finally:
            replica.process.send_signal(signal.SIGCONT)
        store.sync()
        store.close()
