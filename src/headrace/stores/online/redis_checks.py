"""What can be wrong with a Redis that holds the online store, and what to do about it."""

from __future__ import annotations

from typing import Any

from headrace.stores.online.redis_servers import RedisServers, exchange

_LEAST_VERSION = (6, 2)


def software(servers: RedisServers) -> str:
    """Name and version of each server's software."""
    found = {_named(info) for info in _infos(servers)}
    return ", ".join(sorted(found))


def problems(servers: RedisServers) -> list[tuple[str, str]]:
    """Each problem with its cure."""
    found: list[tuple[str, str]] = []
    for info in _infos(servers):
        found += _of_server(info, expiring=servers.address.ttl_us > 0)
    return list(dict.fromkeys(found))


def _of_server(info: dict[str, str], *, expiring: bool) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if "valkey_version" not in info and _version(info["redis_version"]) < _LEAST_VERSION:
        found.append((_named(info), "use Redis 6.2 or newer, or Valkey"))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and not (expiring and policy.startswith("volatile-")):
        found.append(
            (
                f"maxmemory-policy {policy}: a full server throws records away unnoticed",
                "set maxmemory-policy noeviction" + (" or volatile-ttl" if expiring else ""),
            )
        )
    if info.get("role") != "master":
        found.append((f"its role is {info.get('role')}", "name the primary in the address, or a Sentinel"))
    if info.get("aof_enabled") == "0" and info.get("save", "") == "":
        found.append(
            (
                "it keeps nothing on disk: a restart means a replay from the feature log, and backfills are lost",
                "set appendonly yes",
            )
        )
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(name, "ok") != "ok":
            found.append((f"its last {what} could not be written", "look into the server's log; free disk space"))
    return found


def _named(info: dict[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _infos(servers: RedisServers) -> list[dict[str, str]]:
    found = []
    for pool in servers.pools():
        connection = pool.get_connection()
        try:
            ((text,),) = exchange([(connection, [(b"INFO", b"everything")])])
            info = _fields(text)
            info["save"] = _setting(connection)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        found.append(info)
    return found


def _setting(connection: Any) -> str:
    """When the server makes snapshots; hosted servers do not tell, which counts as "some time"."""
    from redis.exceptions import ResponseError

    try:
        ((found,),) = exchange([(connection, [(b"CONFIG", b"GET", b"save")])])
    except ResponseError:
        return "unknown"
    return found[1].decode() if len(found) > 1 else "unknown"


def _fields(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
