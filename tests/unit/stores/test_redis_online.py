"""What the online store in Redis does beyond the port: names, fences, expiry, servers that go away, secrets."""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from headrace.core.errors import ConfigError, StoreError, Unreachable
from headrace.stores.online import redis as adapter
from headrace.stores.online.redis import RedisOnlineStore
from headrace.stores.online.redis_servers import parse_address
from tests.redis_server import RedisServer, free_port
from tests.services import address

KEYS = [b"user-%d-version1" % number for number in range(12)]


class Killed(BaseException):
    """In place of kill -9."""


@pytest.fixture
def name() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    with redis.Redis.from_url(address("redis")) as plain:
        names = list(plain.scan_iter(f"{{unit:{name}:*", count=1000))
        if names:
            plain.delete(*names)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers that end with the test."""
    servers: list[RedisServer] = []

    def started(*options: str, password: str = "") -> RedisServer:
        servers.append(RedisServer(tmp_path / f"redis{len(servers)}", *options, password=password).start())
        return servers[-1]

    yield started
    for server in servers:
        server.kill()


@pytest.fixture
def opened(name: str) -> Iterator[Callable[..., RedisOnlineStore]]:
    stores: list[RedisOnlineStore] = []

    def opened(options: str = "") -> RedisOnlineStore:
        stores.append(RedisOnlineStore(f"{address('redis')}?prefix=unit{options}", namespace=name))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "shown", "more"),
    [
        ("redis://cache", "server", (("cache", 6379),), "redis://cache:6379", (1, 0)),
        (
            "redis://u:s3cret@cache:7000/2?ttl=30d",
            "server",
            (("cache", 7000),),
            "redis://cache:7000/2",
            (1, 30 * 86400),
        ),
        ("unix:///run/redis.sock?db=3", "server", (("localhost", 6379),), "unix:///run/redis.sock", (1, 0)),
        (
            "rediss+sentinel://:s3cret@a:1,b/main/4",
            "sentinel",
            (("a", 1), ("b", 26379)),
            "rediss+sentinel://a:1,b:26379/main/4",
            (1, 0),
        ),
        ("redis+cluster://a,b:7?shards=64", "cluster", (("a", 6379), ("b", 7)), "redis+cluster://a:6379,b:7", (64, 0)),
        ("redis+cluster://a", "cluster", (("a", 6379),), "redis+cluster://a:6379", (16, 0)),
    ],
)
def test_an_address_says_where_the_store_is(
    url: str, kind: str, hosts: object, shown: str, more: tuple[int, int]
) -> None:
    found = parse_address(url)
    assert (found.kind, found.hosts, found.shown) == (kind, hosts, shown)
    assert (found.shards, found.ttl_us // 1_000_000) == more
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://:s3cret@a", "known are redis://"),
        ("unix+cluster:///x", "known are redis://"),
        ("redis://:s3cret@a?ttl=often", "often"),
        ("redis://:s3cret@a?ttl=1ms", "ttl= at least 1s"),
        ("redis://:s3cret@a?shards=0", "shards= is 1 to 1024"),
        ("redis://:s3cret@a?prefix={x}", "letters, digits"),
        ("redis://:s3cret@a:none", "no URL"),
        ("redis+sentinel://:s3cret@a", "name the service"),
        ("redis://:s3cret@a?colour=red", "an option behind the"),
    ],
)
def test_a_wrong_address_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        RedisOnlineStore(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.redis
def test_the_records_of_an_entity_lie_in_one_slot_and_the_names_of_a_shard_too(
    opened: Callable[..., RedisOnlineStore], name: str
) -> None:
    store = opened("&shards=7")
    keys = [b"user-%d-%s" % (user, version) for user in range(40) for version in (b"version1", b"version2")]
    store.write([(key, b"x") for key in keys], b"p")
    with redis.Redis.from_url(address("redis")) as plain:
        slots: dict[str, set[int]] = {}
        tags: dict[bytes, set[bytes]] = {}
        for found in plain.scan_iter(f"{{unit:{name}:*", count=1000):
            tag, _, key = found.partition(b"}")
            slots.setdefault(tag.decode(), set()).add(key_slot(found))
            if key.startswith(b"r"):
                tags.setdefault(key[1:-8], set()).add(tag)
    assert len(slots) == 7
    assert all(len(of) == 1 for of in slots.values())
    assert len(tags) == 40
    assert all(len(of) == 1 for of in tags.values())
    assert len(set().union(*tags.values())) == 7, "forty users come to all seven shards"


@pytest.mark.redis
@pytest.mark.parametrize("options", ["", "&shards=4"])
def test_a_writer_that_slept_through_the_write_of_another_begins_anew(
    opened: Callable[..., RedisOnlineStore], options: str
) -> None:
    sleeper, other = opened(options), opened(options)
    seen: list[tuple[list[bytes | None], bytes]] = []

    def change(records: list[bytes | None], position: bytes) -> tuple[dict[bytes, bytes | None], bytes]:
        seen.append((records, position))
        if len(seen) == 1:
            other.write([(KEYS[0], b"other")], b"p1")
        return {KEYS[0]: (records[0] or b"") + b"+"}, position + b"+"

    sleeper.update(KEYS[:1], change)
    assert seen == [([None], b""), ([b"other"], b"p1")]
    assert sleeper.read(KEYS[:1]) == ([b"other+"], b"p1+")

    def fenced(records: list[bytes | None], position: bytes) -> tuple[dict[bytes, bytes | None], bytes]:
        if position != b"p1+":
            raise ZeroDivisionError  # as ingestion does when the store stands elsewhere than it left it
        other.write([(KEYS[1], b"other")], b"p2")
        return {KEYS[1]: b"sleeper"}, b"never"

    with pytest.raises(ZeroDivisionError):
        sleeper.update(KEYS[:2], fenced)
    assert other.read(KEYS[:2]) == ([b"other+", b"other"], b"p2")


@pytest.mark.redis
@pytest.mark.parametrize("survives", range(5))
def test_a_write_to_several_shards_that_is_cut_short_is_seen_whole_or_not_at_all(
    opened: Callable[..., RedisOnlineStore], monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    """Its writer dies before the first, second, ... exchange with the servers, or halfway through the last."""
    store = opened("&shards=4")
    store.write([(key, b"old") for key in KEYS], b"p1")
    asked, ask = 0, adapter._Session.ask

    def dying(session: Any, questions: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > survives:
            if survives == 3:
                ask(session, questions[:1])
            raise Killed
        return ask(session, questions)

    with monkeypatch.context() as patched:
        patched.setattr(adapter._Session, "ask", dying)
        dies = opened("&shards=4")
        changed: list[tuple[bytes, bytes | None]] = [(key, b"new") for key in KEYS[1:]]
        if survives == 4:
            dies.write([*changed, (KEYS[0], None)], b"p2")
        else:
            with pytest.raises(Killed):
                dies.write([*changed, (KEYS[0], None)], b"p2")
    # 1: read; 2: laid ready; 3: decided. From there on it is done, though only one shard has it.
    decided = survives >= 3
    expected = ([None] + [b"new"] * 11, b"p2") if decided else ([b"old"] * 12, b"p1")
    for reader in (store, opened("&shards=4")):
        assert reader.read(KEYS) == expected
        assert reader.position() == expected[1]
        for key, record in zip(KEYS, expected[0], strict=True):
            records, position = reader.read([key])
            assert (records, position) in (([record], expected[1]), ([b"old"], b"p1"))
    store.revise([KEYS[3]], lambda records: [(KEYS[3], (records[0] or b"") + b"!")])
    revised = [*expected[0][:3], (expected[0][3] or b"") + b"!", *expected[0][4:]]
    assert store.read(KEYS) == (revised, expected[1])
    store.update(KEYS[:1], lambda records, position: ({KEYS[0]: b"next"}, position + b"+"))
    assert store.read(KEYS) == ([b"next", *revised[1:]], expected[1] + b"+")
    assert store.count() == 12
    assert dict(store.scan()) == dict(zip(KEYS, [b"next", *revised[1:]], strict=True))


@pytest.mark.redis
def test_records_expire_after_the_time_to_live_and_notes_and_position_stay(
    opened: Callable[..., RedisOnlineStore], name: str
) -> None:
    store = opened("&ttl=1s")
    note = b"\xff\xffnote"
    store.write([(b"user1-version1", b"1"), (b"user2-version1", b"2"), (note, b"kept")], b"p")
    store.revise([], lambda records: [(b"user3-version1", b"3"), (note + b"2", b"kept")])
    assert store.count() == 5
    with redis.Redis.from_url(address("redis")) as plain:
        lives = {key.partition(b"}")[2]: plain.pttl(key) for key in plain.scan_iter(f"{{unit:{name}:*", count=1000)}
    assert {key for key, left in lives.items() if 0 < left <= 1000} == {b"ruser%d-version1" % n for n in (1, 2, 3)}
    assert {key for key, left in lives.items() if left == -1} >= {b"r" + note, b"r" + note + b"2", b"p"}
    end = time.monotonic() + 10
    while store.count() > 2 and time.monotonic() < end:
        store.update([b"user2-version1"], lambda records, position: ({b"user2-version1": b"2"}, position))
        if store.read([b"user1-version1"])[0] == [None]:
            break
        time.sleep(0.1)
    assert store.read([b"user1-version1", b"user2-version1", note]) == ([None, b"2", b"kept"], b"p")


def test_a_server_that_is_away_is_unreachable_and_found_again_when_it_is_back(
    started: Callable[..., RedisServer],
) -> None:
    server = started("--appendonly", "yes", "--appendfsync", "always", password="s3cret")
    store = RedisOnlineStore(server.url)
    idle = RedisOnlineStore(server.url)
    store.write([(b"a", b"1")], b"p1")
    assert idle.read([b"a"]) == ([b"1"], b"p1")
    server.kill()
    for refused in (
        lambda: store.read([b"a"]),
        lambda: store.write([(b"a", b"2")], b"p2"),
        lambda: store.revise([], lambda records: [(b"a", b"2")]),
        store.position,
        store.count,
        lambda: list(store.scan()),
        store.problems,
    ):
        with pytest.raises(Unreachable, match="does not answer") as away:
            refused()
        assert "s3cret" not in str(away.value)
    server.start()
    assert idle.read([b"a"]) == ([b"1"], b"p1")
    store.write([(b"a", b"2")], b"p2")
    assert store.read([b"a"]) == ([b"2"], b"p2")
    server.stop()
    server.start()
    assert store.read([b"a"]) == ([b"2"], b"p2"), "what was closed in good order is opened anew"
    with pytest.raises(StoreError, match="user or password") as wrong:
        RedisOnlineStore(server.url.replace("s3cret", "gue55")).position()
    assert "gue55" not in str(wrong.value)
    store.close()
    idle.close()


def test_what_is_wrong_with_a_server_is_said_with_its_cure(started: Callable[..., RedisServer]) -> None:
    server = started("--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru")
    store, other = RedisOnlineStore(server.url), RedisOnlineStore(f"{server.url}?ttl=1d")
    cures = [cure for _, cure in store.problems()]
    assert cures == ["set maxmemory-policy noeviction", "set appendonly yes"]
    server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    server.ask("CONFIG", "SET", "save", "3600 1")
    assert [cure for _, cure in store.problems()] == ["set maxmemory-policy noeviction"]
    assert other.problems() == []
    assert store.about() == f" in Redis {server.info('redis_version')}"
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(Unreachable, match="is full: raise its maxmemory"):
        store.write([(b"a", b"x")], b"p1")
    server.ask("CONFIG", "SET", "maxmemory", "0")
    server.ask("REPLICAOF", "127.0.0.1", "1")
    assert ("its role is slave", "name the primary in the address, or a Sentinel") in store.problems()
    with pytest.raises(Unreachable, match="is a replica"):
        store.write([(b"a", b"1")], b"p3")
    store.close()
    other.close()


@pytest.mark.redis
def test_threads_share_a_store(opened: Callable[..., RedisOnlineStore]) -> None:
    store = opened()
    store.write([(key, key) for key in KEYS], b"p")
    wrong: list[object] = []

    def read() -> None:
        for number in range(200):
            keys = KEYS[number % 5 : number % 5 + 4]
            if store.read(keys) != (keys, b"p"):
                wrong.append(keys)

    threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.redis
def test_threads_that_have_ended_leave_no_connection_behind(opened: Callable[..., RedisOnlineStore]) -> None:
    store = opened()
    for _ in range(150):
        thread = threading.Thread(target=store.read, args=([b"a"],), daemon=True)
        thread.start()
        thread.join()
    pool = store._servers._pool
    assert pool._created_connections + len(pool._available_connections) < 10


def test_connections_are_encrypted_and_the_server_is_checked(
    tmp_path: Path, started: Callable[..., RedisServer]
) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(make, check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    started(*tls, "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no")
    store = RedisOnlineStore(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}")
    store.write([(b"a", b"1")], b"p")
    assert store.read([b"a"]) == ([b"1"], b"p")
    stranger = RedisOnlineStore(f"rediss://127.0.0.1:{port}/0")
    with pytest.raises(Unreachable, match=r"(?i)certificate"):
        stranger.position()
    store.close()
