"""Redis servers of the online store: where they are, connections to them, commands in one round trip, errors in words.

`redis-py` finds the servers (one, the primary that Sentinel names, or a cluster's) and keeps the connections; commands
go over them packed and unpacked by hiredis alone, which takes half the time of its clients' own way.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from headrace.core.errors import ConfigError, StoreError, Unreachable
from headrace.core.time import US_PER_SECOND, parse_duration

try:
    import hiredis
    import redis
    import redis.exceptions as failures
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise ConfigError('an online store in Redis needs its client: pip install "headrace[redis]"') from error

Command = Sequence[Any]
_T = TypeVar("_T")
_TRANSIENT: Final = (
    failures.ConnectionError,
    failures.TimeoutError,
    failures.ReadOnlyError,
    failures.ClusterDownError,
    failures.TryAgainError,
    failures.OutOfMemoryError,
    OSError,
)
_MOVED: Final = (failures.MovedError, failures.AskError)
_TIMEOUT_S: Final = 5.0
_SHARDS_OF_A_CLUSTER: Final = 16
# Whoever needs the store decides how long to wait for it; here nothing is tried again unasked.
_NO_RETRY: Final[dict[str, Any]] = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_DEFAULT_PORT = {"sentinel": 26379}


@dataclass(frozen=True)
class RedisAddress:
    """Where the store is, as its URL says.

    Attributes:
        kind: "server", "sentinel" or "cluster".
        url: what redis-py takes; holds the password. Of a Sentinel: how to reach the primary, without its host.
        hosts: host and port of each server that was named.
        service: name of the primary that Sentinel watches.
        shown: the address without user, password and options, for people.
        prefix: what the names of all keys begin with.
        ttl_us: after this time without a write a record goes away; 0: never.
        shards: parts that the keys are spread over; 1 keeps all in one slot of a cluster.
        timeout_s: how long an answer is waited for.
    """

    kind: str
    url: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...]
    service: str
    shown: str
    prefix: str
    ttl_us: int
    shards: int
    timeout_s: float = _TIMEOUT_S

    @property
    def tls(self) -> bool:
        """True if connections are encrypted."""
        return self.url.startswith("rediss")


def parse_address(text: str) -> RedisAddress:
    """Read a URL such as `redis://cache:6379/0`; raises ConfigError, which never holds a password.

    Schemes: `redis`, `rediss` (TLS), `unix` (a socket's path), each of the first two also with `+sentinel`
    (`redis+sentinel://a:26379,b:26379/service/0`) or `+cluster`. Options: `prefix`, `ttl` (a duration), `shards`,
    `timeout` (s) and those of redis-py, such as `ssl_ca_certs`.
    """
    try:
        parts = urlsplit(text)
        scheme, _, kind = parts.scheme.partition("+")
        hosts, shown = _hosts(parts, kind)
    except ValueError as error:
        raise ConfigError(f"the address of the online store is no URL: {error}") from None
    if (
        scheme not in ("redis", "rediss", "unix")
        or kind not in ("", "sentinel", "cluster")
        or (scheme == "unix" and kind)
    ):
        raise ConfigError(
            f"online = {shown}: known are redis://, rediss://, unix://, redis+sentinel://, redis+cluster://"
        )
    options = dict(parse_qsl(parts.query))
    prefix, shards = options.pop("prefix", "headrace"), options.pop("shards", "")
    try:
        ttl_us = parse_duration(options.pop("ttl")) if "ttl" in options else 0
        timeout = float(options.pop("timeout", _TIMEOUT_S))
        parted = int(shards) if shards else _SHARDS_OF_A_CLUSTER if kind == "cluster" else 1
    except ValueError as error:
        raise ConfigError(f"online = {shown}: {error}") from None
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(f"online = {shown}: prefix={prefix} may have letters, digits and . _ : - alone")
    if not 1 <= parted <= 1024 or timeout <= 0 or (ttl_us and ttl_us < US_PER_SECOND):
        raise ConfigError(f"online = {shown}: shards= is 1 to 1024, timeout= above 0 s, ttl= at least 1s")
    options = {"socket_timeout": str(timeout), "socket_connect_timeout": str(min(timeout, 2.0))} | options
    path, service = parts.path, ""
    if kind == "sentinel":
        service, _, database = path.strip("/").partition("/")
        path = f"/{database or 0}"
        if not service:
            raise ConfigError(f"online = {shown}: name the service that Sentinel watches, as in /mymaster/0")
    user, at, _ = parts.netloc.rpartition("@")
    host = "" if kind == "sentinel" or scheme == "unix" else f"{hosts[0][0]}:{hosts[0][1]}"
    url = f"{scheme}://{user}{at}{host}{path}?{urlencode(options)}"
    return RedisAddress(kind or "server", url, hosts, service, shown, prefix, ttl_us, parted, timeout)


def _hosts(parts: SplitResult, kind: str) -> tuple[tuple[tuple[str, int], ...], str]:
    named = parts.netloc.rpartition("@")[2]
    hosts = []
    for item in named.split(",") if named else ["localhost"]:
        one = urlsplit(f"//{item}")
        hosts.append((one.hostname or "localhost", one.port or _DEFAULT_PORT.get(kind, 6379)))
    shown = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
    return tuple(hosts), f"{parts.scheme}://{'' if parts.scheme == 'unix' else shown}{parts.path}"


class RedisServers:
    """Connections to the servers of one address; safe to use from several threads. Nothing is opened before it is
    needed, and what breaks is opened anew."""

    def __init__(self, address: RedisAddress) -> None:
        self.address = address
        try:
            redis.ConnectionPool.from_url(address.url).make_connection()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"online = {address.shown}: an option behind the ? is wrong: {error}") from None
        self._local = threading.local()
        self._closed = False

    def pool(self, tag: bytes) -> Any:
        """The connections to the server that holds the keys with this hash tag."""
        if self.address.kind != "cluster":
            return self._pool
        cluster = self._cluster
        node = cluster.nodes_manager.get_node_from_slot(cluster.keyslot(tag))
        return cluster.get_redis_connection(node).connection_pool

    def pools(self) -> list[Any]:
        """The connections to each primary."""
        if self.address.kind != "cluster":
            return [self._pool]
        cluster = self._cluster
        return [cluster.get_redis_connection(node).connection_pool for node in cluster.get_primaries()]

    def ask(self, questions: Sequence[tuple[bytes, Sequence[Command]]]) -> list[list[Any]]:
        """The replies to the commands for each hash tag, in one round trip: all are sent before one is awaited.

        For what may be asked twice: a connection that has died since it was last used is replaced, once.
        """
        return self.explained(lambda: self._ask(questions))

    def _ask(self, questions: Sequence[tuple[bytes, Sequence[Command]]]) -> list[list[Any]]:
        for last in (False, True):
            used = bool(self._local.__dict__.get("kept"))
            try:
                connections = [self._kept(tag) for tag, _ in questions]
                return exchange([(c, commands) for c, (_, commands) in zip(connections, questions, strict=True)])
            except (failures.ConnectionError, failures.MovedError, OSError) as error:
                self._forget()
                self._look_around()
                moved = isinstance(error, failures.MovedError) and self.address.kind == "cluster"
                if last or not (used or moved) or isinstance(error, failures.TimeoutError):
                    raise
            except BaseException:
                self._forget()  # replies of other servers may be waiting on their connections
                raise
        raise AssertionError

    def _kept(self, tag: bytes) -> Any:
        """This thread's connection to a server."""
        pool = self.pool(tag)
        kept: dict[int, _Kept] = self._local.__dict__.setdefault("kept", {})
        found = kept.get(id(pool))
        if found is None:
            found = kept[id(pool)] = _Kept(pool)
        return found.connection

    def _forget(self) -> None:
        """Close what this thread has open; it is opened again when it is needed."""
        for kept in self._local.__dict__.pop("kept", {}).values():
            kept.connection.disconnect()

    def _look_around(self) -> None:
        """Ask a cluster anew which node has which slots: one may have died, and another taken its place."""
        if self.address.kind == "cluster":
            with suppress(Exception):
                self._cluster.nodes_manager.initialize()

    def explained(self, do: Callable[[], _T]) -> _T:
        """The result of `do`; what redis-py raises in it becomes StoreError or Unreachable in words."""
        if self._closed:
            raise StoreError("this online store is closed: open it again")
        try:
            return do()
        except (failures.RedisError, failures.RedisClusterException, OSError) as error:
            raise self._in_words(error) from error

    def _in_words(self, error: Exception) -> StoreError:
        where = f"the online store at {self.address.shown}"
        said = str(error) or type(error).__name__
        if isinstance(error, failures.AuthenticationError | failures.NoPermissionError) or said.startswith("NOAUTH"):
            return StoreError(f"{where} refuses this user or password ({said}): mend the address of online")
        if isinstance(error, _MOVED):
            self._look_around()
            if self.address.kind == "cluster":
                return Unreachable(f"{where} is moving keys between its servers; try again")
            return StoreError(f"{where} is part of a cluster: write the address with redis+cluster://")
        if isinstance(error, failures.ReadOnlyError):
            for pool in [] if self.address.kind == "cluster" else [self._pool]:
                pool.disconnect(inuse_connections=False)
            return Unreachable(f"{where} is a replica, or has just become one: name the primary, or a Sentinel")
        if isinstance(error, failures.OutOfMemoryError) or said.startswith("OOM"):
            return Unreachable(f"{where} is full: raise its maxmemory, or set ttl= in the address")
        if isinstance(error, failures.BusyLoadingError):
            return Unreachable(f"{where} is loading its data from disk; try again")
        self._look_around()
        if isinstance(error, (*_TRANSIENT, failures.RedisClusterException)) or said.startswith(
            ("MISCONF", "MASTERDOWN")
        ):
            return Unreachable(f"{where} does not answer ({said}): start it, or look at the network between")
        return StoreError(f"{where} refused: {said}")

    @cached_property
    def _pool(self) -> Any:
        address = self.address
        pool = redis.ConnectionPool.from_url(address.url, **_NO_RETRY)
        if address.kind != "sentinel":
            return pool
        from redis.sentinel import Sentinel

        given = {name: value for name, value in pool.connection_kwargs.items() if name not in ("host", "port")}
        watch = {name: given[name] for name in ("socket_timeout", "socket_connect_timeout")}
        sentinel: Any = Sentinel(list(address.hosts), sentinel_kwargs={**watch, **_NO_RETRY})  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.service, ssl=address.tls, **given).connection_pool

    @cached_property
    def _cluster(self) -> Any:
        from redis.cluster import ClusterNode, RedisCluster

        pool = redis.ConnectionPool.from_url(self.address.url, protocol=2)
        given = {name: value for name, value in pool.connection_kwargs.items() if name not in ("host", "port", "db")}
        nodes = [ClusterNode(host, port) for host, port in self.address.hosts]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes, ssl=self.address.tls, **given)

    def close(self) -> None:
        """Hang up."""
        self._closed = True
        for name in ("_pool", "_cluster"):
            client = self.__dict__.pop(name, None)
            if client is not None:
                (client.disconnect if name == "_pool" else client.close)()


class _Kept:
    """A connection that a thread keeps; its pool has it back when the thread ends or wants another."""

    def __init__(self, pool: Any) -> None:
        self.connection: Any = None
        self._pool = pool
        self.connection = pool.get_connection()

    def __del__(self) -> None:
        if self.connection is not None:
            self._pool.release(self.connection)


def exchange(questions: Sequence[tuple[Any, Sequence[Command]]]) -> list[list[Any]]:
    """Send commands over connections, then take the replies; raises the first that is an error, when all are in.

    A connection that fails is closed. One connection may occur more than once.
    """
    for connection, commands in questions:
        if connection._sock is None:
            connection.connect()  # sending would connect too, but past the Sentinel
        connection.send_packed_command([b"".join([hiredis.pack_command(tuple(command)) for command in commands])])
    failed: Exception | None = None
    answers: list[list[Any]] = []
    for connection, commands in questions:
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except failures.ResponseError as error:
                failed = failed or error
        answers.append(replies)
    if failed is not None:
        raise failed
    return answers
