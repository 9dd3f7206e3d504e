"""OnlineStore in Redis or Valkey: one server, a primary that Sentinel watches, or a cluster.

All keys begin with `{prefix:s/S}`, the hash tag of shard s of S, so that a cluster keeps a shard together. Behind it
stand `r` and a record's own key, `p` (the head: 16 bytes of a token that changes with every write, a mark, the
position), `c` (how many records there are), `n` (what the next write will bring, while it is under way) and `w` (who
asks others to wait).

A write is a transaction that the server refuses if the head has changed since it was read (WATCH), so a writer that
was overtaken while it slept writes nothing. With one shard that is all. With several, what the write brings to each is
laid down there first; the transaction of shard 0 decides, and the others follow. Whoever finds a shard behind takes
what lies ready in it: a reader to answer, the next writer to finish the write. A revision is a write that leaves the
position as it is; since it may take longer than the writer beside it leaves between two writes, it has others wait.

Where a failover has thrown back one shard and not the others, the store stands where that one does, and records of the
others are ahead of it. Replay leaves them as they are until it comes there; up to then the mark in the head names the
position that must be reached before anybody may read again.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Any, Final

import msgspec

from headrace.core.errors import ConfigError, Unreachable
from headrace.core.positions import decode_position
from headrace.core.time import US_PER_SECOND
from headrace.stores.online.base import Change, OnlineStore, Record, Revision
from headrace.stores.online.checks import NOTE, check_keys, checked, updated
from headrace.stores.online.redis_checks import problems, software
from headrace.stores.online.redis_servers import Command, RedisServers, exchange, parse_address

_TOKEN: Final = 16
_LENGTH: Final = 4
"""Bytes that say how long the mark is."""
_AT_ONCE: Final = 1_000
"""Keys that one command names: the server turns to others in between."""
_TRIES: Final = 50
_WAITS: Final = 6_000
_UNEVEN_TIMES: Final = 20
"""As often as shards were found to differ they may have been so because another writer was at work; not more often."""
_LEASE_MS: Final = 10_000
"""How long others wait for a revision at most; then it must do without."""
_PAUSE_S: Final = 0.005
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, int, list[bytes], list[bytes | None]]).decode


class RedisOnlineStore(OnlineStore):
    """The store at a URL (see `redis_servers.parse_address`); what `namespace` adds to its prefix keeps stores apart.

    Opening it takes no connection. Every method raises Unreachable while the server does not answer, and
    StoreError for what does not pass by itself. `count` is kept exactly, unless records expire: then it is counted.
    """

    at_once = 20_000

    def __init__(self, url: str, *, namespace: str = "") -> None:
        address = parse_address(url)
        self.address = address
        self._servers = RedisServers(address)
        self._ttl_s = str(address.ttl_us // US_PER_SECOND).encode()
        if not re.fullmatch(r"[^{}*?\[\]\\]*", namespace):
            raise ConfigError(f"the environment {namespace} cannot be part of a key in Redis: rename it")
        prefix = f"{address.prefix}:{namespace}" if namespace else address.prefix
        self._shards = [_Shard(number, f"{{{prefix}:{number}/{address.shards}}}") for number in range(address.shards)]
        self._pattern = f"{{{prefix}:*/{address.shards}}}r*"
        self._newest = b""

    def read(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes]:
        if len(self._shards) > 1:
            return self._read_spread(keys)
        shard = self._shards[0]
        records = shard.records
        head, *found = self._servers.ask([(shard.tag, [(b"MGET", shard.head, *[records + key for key in keys])])])[0][0]
        return found, _position(head or b"")

    def _read_spread(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes]:
        """`read` from several shards, whose heads agree unless a write is under way or a server has lost some."""
        places = self._by_shard(keys) or {0: []}
        shards = [self._shards[number] for number in places]
        questions: list[tuple[bytes, list[Command]]] = [
            (shard.tag, [(b"MGET", shard.head, *[shard.records + keys[i] for i in at])])
            for shard, at in zip(shards, places.values(), strict=True)
        ]
        for turn in range(_TRIES):
            answers = [reply[0] for reply in self._servers.ask(questions)]
            heads = [answer[0] or b"" for answer in answers]
            newest = max(heads, key=_age)
            if len(self._newest) and _age(newest) < _age(self._newest) and turn < _TRIES - 1:
                newest = self._newest
            found: list[bytes | None] = [None] * len(keys)
            for answer, at in zip(answers, places.values(), strict=True):
                for i, record in zip(at, answer[1:], strict=True):
                    found[i] = record
            if self._catch_up(shards, list(places.values()), heads, newest, keys, found):
                self._newest = max(self._newest, newest, key=_age)
                if _mark(newest):
                    break
                return found, _position(newest)
            if turn > 2:
                time.sleep(_PAUSE_S)
            if turn == _TRIES // 2:
                self._newest = b""  # the servers may have fallen back behind what was read before
        raise Unreachable(
            f"the servers at {self.address.shown} have lost different parts of what was written last: ingestion brings "
            "them level again when it runs"
        )

    def _catch_up(
        self,
        shards: Sequence[_Shard],
        places: Sequence[Sequence[int]],
        heads: Sequence[bytes],
        newest: bytes,
        keys: Sequence[bytes],
        found: list[bytes | None],
    ) -> bool:
        """Bring what was read of shards that lag behind `newest` up to it with what lies ready there; False if not."""
        behind = [i for i, head in enumerate(heads) if head != newest]
        if not behind:
            return True
        ready = self._servers.ask([(shards[i].tag, [(b"GET", shards[i].next)]) for i in behind])
        for i, (data,) in zip(behind, ready, strict=True):
            head, _, names, records = _decode(data) if data is not None else (b"", 0, [], [])
            if head != newest:
                return False
            fresh = dict(zip(names, records, strict=True))
            for place in places[i]:
                if keys[place] in fresh:
                    found[place] = fresh[keys[place]]
        return True

    def write(self, records: Sequence[Record], position: bytes) -> None:
        latest = checked(records)
        self.update(list(latest), lambda found, before: (list(latest.items()), position))

    def update(self, keys: Sequence[bytes], change: Change) -> None:
        check_keys(keys)

        def checked_change(found: list[bytes | None], position: bytes) -> tuple[dict[bytes, bytes | None], bytes]:
            records, after = change(found, position)
            return updated(records, keys), after

        self._commit(keys, checked_change, b"")

    def revise(self, keys: Sequence[bytes], change: Revision) -> None:
        check_keys(keys)
        self._commit(keys, lambda found, position: (checked(change(found)), position), os.urandom(8))

    def _commit(self, keys: Sequence[bytes], change: _Checked, lease: bytes) -> None:
        """Write what `change` makes, as often anew as others write in between; with a `lease` others wait."""
        conflicts = uneven = 0
        for _ in range(_WAITS):
            with self._session() as session:
                outcome = session.commit(keys, change, lease, fallen=uneven >= _UNEVEN_TIMES)
                if outcome == _DONE:
                    return
                session.unwatch()
            if outcome in (_HELD, _UNEVEN):
                time.sleep(_PAUSE_S)
            conflicts += outcome == _CONFLICT
            uneven = uneven + 1 if outcome == _UNEVEN else 0
            if conflicts == _TRIES:
                break
        raise Unreachable(f"others keep writing to the online store at {self.address.shown}: stop one writer")

    def _records(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(keys)
        for number, at in self._by_shard(keys).items():
            shard = self._shards[number]
            names = [shard.records + keys[i] for i in at]
            for i, record in zip(at, _joined(self._servers.ask([(shard.tag, _gets(names))])[0]), strict=True):
                found[i] = record
        return found

    def _by_shard(self, keys: Sequence[bytes]) -> dict[int, list[int]]:
        """Which of the keys lie in each shard: those of one entity in one, for the last eight bytes are the version."""
        count = len(self._shards)
        if count == 1:
            return {0: list(range(len(keys)))}
        places: dict[int, list[int]] = {}
        for i, key in enumerate(keys):
            places.setdefault(zlib.crc32(key[:-8] or key) % count, []).append(i)
        return places

    def position(self) -> bytes:
        for turn in range(_TRIES):
            replies = self._servers.ask([(shard.tag, [(b"GET", shard.head)]) for shard in self._shards])
            heads = [head or b"" for (head,) in replies]
            newest = max(heads, key=_age)
            if self._catch_up(self._shards, [()] * len(heads), heads, newest, (), []):
                return _position(newest)
            time.sleep(_PAUSE_S if turn else 0)
        return _position(min(heads, key=_age))

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """See the port. The server is asked in small pieces; if it is written to meanwhile, from the start again."""
        for _ in range(5):
            before = self._marks()
            names = sorted({(key.partition(b"}r")[2], key) for key in self._names()})
            found: list[bytes | None] = []
            for first in range(0, len(names), _AT_ONCE):
                found += self._records([key for key, _ in names[first : first + _AT_ONCE]])
            if self._marks() == before:
                for (key, _), record in zip(names, found, strict=True):
                    if record is not None:
                        yield key, record
                return
        raise Unreachable(f"the online store at {self.address.shown} is being written to: scan it when it rests")

    def sweep(self) -> Iterator[tuple[bytes, bytes]]:
        """See the port. The server is asked in small pieces."""
        names = self._names()
        while keys := [name.partition(b"}r")[2] for name in islice(names, _AT_ONCE)]:
            for key, record in zip(keys, self._records(keys), strict=True):
                if record is not None:
                    yield key, record

    def _marks(self) -> list[list[Any]]:
        return self._servers.ask([(shard.tag, [(b"GET", shard.head)]) for shard in self._shards])

    def _names(self) -> Iterator[bytes]:
        """Names of all records; some may come twice."""

        def page(pool: Any, cursor: bytes) -> tuple[bytes, list[bytes]]:
            connection = pool.get_connection()
            try:
                found = exchange([(connection, [(b"SCAN", cursor, b"MATCH", self._pattern, b"COUNT", _AT_ONCE)])])
            except BaseException:
                connection.disconnect()
                raise
            finally:
                pool.release(connection)
            after, names = found[0][0]
            return after, names

        for pool in self._servers.explained(self._servers.pools):
            cursor = b"0"
            while True:
                cursor, names = self._servers.explained(lambda pool=pool, cursor=cursor: page(pool, cursor))  # type: ignore[misc]
                yield from names
                if cursor == b"0":
                    break

    def count(self) -> int:
        if self.address.ttl_us:
            return len(set(self._names()))
        replies = self._servers.ask([(shard.tag, [(b"GET", shard.count)]) for shard in self._shards])
        return sum(int(count or 0) for (count,) in replies)

    def problems(self) -> list[tuple[str, str]]:
        return self._servers.explained(lambda: problems(self._servers))

    def remains(self) -> list[str]:
        return ["Redis' own files (append-only file, snapshots) and those of its replicas, until it rewrites them"]

    def about(self) -> str:
        return f" in {self._servers.explained(lambda: software(self._servers))}"

    def sync(self) -> None:
        """Wait until the replicas that are connected have all that was written, so that none of them takes over without
        it. What survives power loss is the servers' setting (`appendonly`).

        Raises Unreachable if one of them does not say so in time.
        """
        # WAIT is about the writes of its own connection, and replicas take all writes in order: so it gets one to make.
        tags = [(shard.tag, shard.tag + b"y") for shard in self._shards]
        told = self._servers.ask([(tag, [(b"INFO", b"replication")]) for tag, _ in tags])
        wanted = [int((re.search(rb"connected_slaves:(\d+)", reply[0] or b"") or (b"", b"0"))[1]) for reply in told]
        patience_ms = int(self.address.timeout_s * 800)  # it answers before the connection gives up
        found = self._servers.ask(
            [
                (tag, [(b"SET", mark, b""), (b"DEL", mark), (b"WAIT", n, patience_ms)])
                for (tag, mark), n in zip(tags, wanted, strict=True)
                if n
            ]
        )
        late = sum(n > int(reply[-1]) for n, reply in zip([n for n in wanted if n], found, strict=True))
        if late:
            raise Unreachable(
                f"a replica of the online store at {self.address.shown} does not follow: what was written stands on "
                "its primary alone; look at the replica, or take it away, and do it again"
            )

    def close(self) -> None:
        self._servers.close()

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        with ExitStack() as stack:
            yield _Session(self, stack)


_Checked = Callable[[list[bytes | None], bytes], tuple[dict[bytes, bytes | None], bytes]]
_DONE, _CONFLICT, _HELD, _FINISHED, _UNEVEN = range(5)
_Part = tuple[int, list[bytes], list[bytes | None]]
"""What a write brings to a shard: by how many records it grows, their keys, the records."""


class _Shard:
    """The names of a shard's keys."""

    def __init__(self, number: int, tag: str) -> None:
        self.number, self.tag = number, tag.encode()
        self.records, self.head, self.count, self.next, self.lease = [
            self.tag + letter for letter in (b"r", b"p", b"c", b"n", b"w")
        ]


class _Session:
    """Connections of one write, one per shard: what they watch is theirs alone."""

    def __init__(self, store: RedisOnlineStore, stack: ExitStack) -> None:
        self._store = store
        self._stack = stack
        self._connections: dict[int, Any] = {}

    def ask(self, questions: Sequence[tuple[_Shard, Sequence[Command]]]) -> list[list[Any]]:
        """The replies to the commands for each shard; nothing is asked twice."""
        return self._store._servers.explained(
            lambda: exchange([(self._connection(shard), commands) for shard, commands in questions])
        )

    def _connection(self, shard: _Shard) -> Any:
        found = self._connections.get(shard.number)
        if found is None:
            pool = self._store._servers.pool(shard.tag)
            found = self._connections[shard.number] = pool.get_connection()
            self._stack.push(lambda kind, *_: self._give_back(pool, found, broken=kind is not None))
        return found

    def _give_back(self, pool: Any, connection: Any, *, broken: bool) -> None:
        if broken:
            connection.disconnect()  # it may be watching, or owe a reply
        pool.release(connection)

    def commit(self, keys: Sequence[bytes], change: _Checked, lease: bytes, *, fallen: bool) -> int:
        """Write what `change` makes of the records: _DONE, or why nothing was done: others wrote meanwhile (_CONFLICT),
        one of them asks to wait (_HELD), or shards differ (_UNEVEN) and it is not known yet that they will stay so
        (`fallen`)."""
        store, shards = self._store, self._store._shards
        ask: list[Command] = [(b"GET", shards[0].lease)]
        if lease:
            ask.insert(0, (b"SET", shards[0].lease, lease, b"NX", b"PX", _LEASE_MS))
        watch = [(shard, [(b"WATCH", shard.head), (b"GET", shard.head)]) for shard in shards]
        places = store._by_shard(keys)
        questions: list[tuple[_Shard, list[Command]]] = []
        for shard, first in watch:
            names = [shard.records + keys[i] for i in places.get(shard.number, ())]
            questions.append((shard, [*([] if shard.number else ask), *first, *_gets(names)]))
        replies = self.ask(questions)
        holder = replies[0][len(ask) - 1]
        if holder not in (None, lease):
            return _HELD
        found: list[bytes | None] = [None] * len(keys)
        heads: list[bytes] = []
        del replies[0][: len(ask)]
        for shard, (_, head, *pages) in zip(shards, replies, strict=True):
            heads.append(head or b"")
            for i, record in zip(places.get(shard.number, ()), _joined(pages), strict=True):
                found[i] = record
        if len(heads) > 1 and self._finish(heads):
            return _FINISHED
        if not fallen and len(set(heads)) > 1:
            return _UNEVEN
        try:
            oldest, newest = min(heads, key=_age), max(heads, key=_age)
            latest, position = change(found, _position(oldest))
            mark = _mark(newest) if _mark(newest) or newest == oldest else _position(newest)
            mark = b"" if _reaches(position, mark) else mark
            number = int.from_bytes(newest[:8], "big") + 1
            token = number.to_bytes(8, "big") + os.urandom(8)
            head = token + len(mark).to_bytes(_LENGTH, "big") + mark + position
            done = self._write(keys, found, latest, heads, head, lease)
        except BaseException:
            if lease:
                with suppress(Exception):
                    self.ask([(shards[0], [(b"DEL", shards[0].lease)])])
            raise
        return _DONE if done else _CONFLICT

    def _write(
        self,
        keys: Sequence[bytes],
        found: list[bytes | None],
        latest: dict[bytes, bytes | None],
        heads: Sequence[bytes],
        head: bytes,
        lease: bytes,
    ) -> bool:
        shards, written = self._store._shards, list(latest)
        if written != keys:
            before = dict(zip(keys, found, strict=True))
            before.update(self._unread([key for key in written if key not in before]))
            found = [before[key] for key in written]
        records = list(latest.values())
        made = found.count(None) - records.count(None)
        parts: list[_Part] = [(made, written, records)]
        if len(shards) > 1:
            places = self._store._by_shard(written)
            parts = []
            for shard in shards:
                at = places.get(shard.number, ())
                mine = [records[i] for i in at]
                parts.append(([found[i] for i in at].count(None) - mine.count(None), [written[i] for i in at], mine))
            if not self._lay_ready(shards[1:], heads[1:], head, parts[1:]):
                return False
        todo = [(shard, self._transaction(shard, head, *part)) for shard, part in zip(shards, parts, strict=True)]
        if lease:
            todo[0][1].insert(-1, (b"DEL", shards[0].lease))
        ((*_, decided),) = self.ask(todo[:1])
        if decided is not None and len(todo) > 1:
            # Where one is refused, somebody has found the shard behind and finished the write there already.
            self.ask(todo[1:])
        return decided is not None

    def _unread(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Records that were not read before the change; the heads are watched already."""
        found: dict[bytes, bytes | None] = {}
        for number, at in self._store._by_shard(keys).items() if keys else ():
            shard = self._store._shards[number]
            some = [keys[i] for i in at]
            found.update(
                zip(some, _joined(self.ask([(shard, _gets([shard.records + key for key in some]))])[0]), strict=True)
            )
        return found

    def _lay_ready(self, shards: Sequence[_Shard], heads: Sequence[bytes], head: bytes, parts: Sequence[_Part]) -> bool:
        """Put what a write brings into each shard beside it; False if one has changed since it was read."""
        questions: list[tuple[_Shard, list[Command]]] = []
        for shard, part in zip(shards, parts, strict=True):
            laid: list[Command] = [(b"MULTI",), (b"SET", shard.next, _encode((head, *part))), (b"EXEC",)]
            questions.append((shard, [*laid, (b"WATCH", shard.head), (b"GET", shard.head)]))
        replies = self.ask(questions)
        return all(
            reply[2] is not None and (reply[4] or b"") == before for reply, before in zip(replies, heads, strict=True)
        )

    def _transaction(
        self, shard: _Shard, head: bytes, made: int, keys: Sequence[bytes], records: Sequence[bytes | None]
    ) -> list[Command]:
        """What brings a shard to `head`, if it is as it was when it began to be watched; `made` is by how many records
        it grows."""
        ttl, names = self._store._ttl_s, [shard.records + key for key in keys]
        commands: list[Command] = [(b"MULTI",)]
        if None in records or ttl != b"0":
            gone = [name for name, record in zip(names, records, strict=True) if record is None]
            commands += [(b"DEL", *gone[first : first + _AT_ONCE]) for first in range(0, len(gone), _AT_ONCE)]
            for key, name, record in zip(keys, names, records, strict=True):
                if record is not None:
                    lasting = ttl == b"0" or key.startswith(NOTE)
                    commands.append((b"SET", name, record) if lasting else (b"SET", name, record, b"EX", ttl))
        else:
            pairs: list[Any] = [None] * (2 * len(names))
            pairs[::2], pairs[1::2] = names, records
            commands += [
                (b"MSET", *pairs[first : first + 2 * _AT_ONCE]) for first in range(0, len(pairs), 2 * _AT_ONCE)
            ]
        if made:
            commands.append((b"INCRBY", shard.count, made))
        commands.append((b"SET", shard.head, head))
        if shard.number:
            commands.append((b"DEL", shard.next))
        return [*commands, (b"EXEC",)]

    def _finish(self, heads: Sequence[bytes]) -> bool:
        """Complete a write that shard 0 has and others lack; False if there is none. The shards are being watched."""
        shards, newest = self._store._shards, heads[0]
        behind = [shard for shard, head in zip(shards, heads, strict=True) if head != newest]
        if not behind or newest != max(heads, key=_age):
            return False
        todo: list[tuple[_Shard, list[Command]]] = []
        for shard, (data,) in zip(behind, self.ask([(shard, [(b"GET", shard.next)]) for shard in behind]), strict=True):
            if data is not None:
                head, made, keys, records = _decode(data)
                if head == newest:
                    todo.append((shard, self._transaction(shard, head, made, keys, records)))
        self.ask(todo)
        return bool(todo)

    def unwatch(self) -> None:
        """Watch nothing any more: the connections go back to where others take them from."""
        self.ask([(shard, [(b"UNWATCH",)]) for shard in self._store._shards])


def _gets(names: Sequence[bytes]) -> list[Command]:
    return [(b"MGET", *names[first : first + _AT_ONCE]) for first in range(0, len(names), _AT_ONCE)]


def _joined(pages: Sequence[list[bytes | None]]) -> list[bytes | None]:
    return [record for page in pages for record in page]


def _mark(head: bytes) -> bytes:
    """The position that must be reached before the store may be read; empty: it may."""
    return head[_TOKEN + _LENGTH : _TOKEN + _LENGTH + int.from_bytes(head[_TOKEN : _TOKEN + _LENGTH], "big")]


def _position(head: bytes) -> bytes:
    return head[_TOKEN + _LENGTH + int.from_bytes(head[_TOKEN : _TOKEN + _LENGTH], "big") :]


def _reaches(position: bytes, mark: bytes) -> bool:
    if not mark:
        return True
    here, there = decode_position(position), decode_position(mark)
    return here.windows >= there.windows and here.tables >= there.tables


def _age(head: bytes) -> bytes:
    """Orders heads: the number of the write."""
    return head[:8]
