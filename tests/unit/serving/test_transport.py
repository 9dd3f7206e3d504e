"""Head and body of an answer leave in one write, and nothing is lost or turned round by waiting for that; a request has
limits of size and time, so that nobody holds the service with one that has no end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from headrace.serving.http import serving
from headrace.serving.transport import MOST_HEAD, JoinedProtocol, JoinedWrites, Patience, hurry_all
from tests.unit.serving.shop import opened


class Wire:
    """A transport that keeps what is done to it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


def test_what_is_written_in_one_turn_of_the_loop_is_one_write() -> None:
    async def talk() -> list[Any]:
        wire = Wire()
        joined = JoinedWrites(cast(asyncio.Transport, wire), asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(b"body")
        assert wire.done == []
        await asyncio.sleep(0)
        joined.write(b"next")
        await asyncio.sleep(0)
        joined.write(b"last")
        joined.close()
        assert joined.is_closing()
        await asyncio.sleep(0)
        return wire.done

    assert asyncio.run(talk()) == [b"head body", b"next", b"last", "closed"]


@pytest.mark.parametrize("pieces", [1, 3])
def test_requests_sent_at_once_are_answered_in_their_order(tmp_path: Any, pieces: int) -> None:
    paths = ["/health/live", "/v1/records/nothing/x", "/openapi.json", "/health/live", "/nowhere"] * 4
    asked = b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
    asked += b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with opened(tmp_path) as shop, serving(shop.service()) as port, socket.create_connection(("127.0.0.1", port)) as to:
        size = len(asked) // pieces + 1
        for start in range(0, len(asked), size):
            to.sendall(asked[start : start + size])
        answer = b""
        while piece := to.recv(65_536):
            answer += piece
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append(int(head.split()[1]))
        assert len(rest) >= length
        answer = rest[length:]
    assert found == [200, 404, 200, 200, 404] * 4 + [200]


class Peer(Wire):
    """The other end of a connection in memory, as far as a protocol asks for it."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def abort(self) -> None:
        self.done.append("closed")

    def pause_reading(self) -> None:
        self.done.append("paused")

    def resume_reading(self) -> None:
        self.done.append("resumed")

    @property
    def answer(self) -> bytes:
        return b"".join(one for one in self.done if isinstance(one, bytes))


PATIENCE = Patience()
App = Callable[[Any, Any, Any], Awaitable[None]]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    told = b",".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
    await send({"type": "http.response.body", "body": told})


def connected(app: App = hello) -> tuple[JoinedProtocol, Peer]:
    config = uvicorn.Config(cast(Any, app), log_config=None)
    config.load()
    protocol, peer = JoinedProtocol(config, ServerState(), {}), Peer()
    protocol.connection_made(cast(asyncio.Transport, peer))
    return protocol, peer


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
PIECES = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n"


@pytest.mark.parametrize(
    ("begin", "more", "told"),
    [
        (b"GET /?", b"a" * 1000, b"431"),
        (HEAD, b"x-a: b\r\n" * 100, b"431"),
        (HEAD + b"x-a: ", b"b" * 1000, b"431"),
        (HEAD, b"\r\n x" * 10, b"4"),  # a folded header is none
        (PIECES + b"0\r\n", b"x-a: b\r\n" * 100, b""),
        (PIECES + b"0\r\nx-a: ", b"b" * 1000, b""),
        (PIECES + b"1;a=", b"b" * 1000, b""),
        (b"", b"\r\n" * 500, b""),
    ],
)
def test_what_has_no_end_is_cut_off(begin: bytes, more: bytes, told: bytes) -> None:
    async def talk() -> None:
        protocol, peer = connected()
        protocol.data_received(begin)
        sent = 0
        while not peer.is_closing():
            assert sent < MOST_HEAD + len(begin) + 2 * len(more), "it was never cut off"
            protocol.data_received(more)
            sent += len(more)
            await settled()
        assert peer.answer.startswith(b"HTTP/1.1 " + told) if told else peer.answer == b""
        protocol.connection_lost(None)
        await settled()

    asyncio.run(talk())


def test_a_large_head_and_a_body_of_any_size_are_taken() -> None:
    async def talk() -> None:
        protocol, peer = connected()
        for _ in range(5):  # on one connection: the limit is of each request
            protocol.data_received(HEAD + b"Content-Length: 1000000\r\nx-a: ")
            for _ in range(50):
                protocol.data_received(b"b" * 1000)
            protocol.data_received(b"\r\n\r\n")
            for _ in range(100):
                protocol.data_received(b"c" * 10_000)
                await settled()
        assert peer.answer.count(b"HTTP/1.1 200 OK") == 5
        assert not peer.is_closing()
        protocol.connection_lost(None)
        await settled()

    asyncio.run(talk())


def test_what_follows_a_body_is_no_header() -> None:
    async def talk() -> None:
        protocol, peer = connected()
        protocol.data_received(PIECES + b"0\r\nX-API-Key: hr_1_2\r\nOrigin: http://localhost\r\n\r\n")
        await settled()
        assert peer.answer.endswith(b"\r\n\r\nhost,transfer-encoding")
        protocol.connection_lost(None)
        await settled()

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("begin", "seconds"),
    [
        (b"", PATIENCE.head),
        (b"GE", PATIENCE.head),
        (HEAD, PATIENCE.head),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n|\r\n|\r\n", PATIENCE.head),  # empty lines after a request
        (HEAD + b"Content-Length: 100000\r\n\r\n", PATIENCE.body),
        (HEAD + b"Content-Length: 200000\r\n\r\n" + b"a" * 50_000, PATIENCE.body + 5),
    ],
)
def test_who_dawdles_is_not_waited_for(begin: bytes, seconds: float) -> None:
    async def talk() -> None:
        before = asyncio.get_running_loop().time()
        protocol, peer = connected()
        for piece in filter(None, begin.split(b"|")):
            protocol.data_received(piece)
            await settled()
        late = protocol._due
        assert before + seconds <= late <= protocol.loop.time() + seconds
        others = [object(), protocol]
        assert hurry_all(others, late - 0.001) == 0
        assert not peer.is_closing()
        assert hurry_all(others, late + 0.001) == 1
        assert peer.is_closing()
        protocol.connection_lost(None)
        await settled()

    asyncio.run(talk())


def test_a_service_that_is_slow_itself_does_not_blame_its_callers() -> None:
    async def talk() -> None:
        done = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await done.wait()
            await hello(scope, receive, send)

        waiting, peer = connected(slow)
        waiting.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # the answer takes an hour
        await settled()
        full, other = connected(slow)
        full.data_received(HEAD + b"Content-Length: 900000\r\n\r\n" + b"a" * 300_000)  # nobody reads the body meanwhile
        await settled()
        now = waiting.loop.time()
        for later in range(0, 3600, 5):
            assert not waiting.hurry(now + later)
            assert not full.hurry(now + later)
        # Nobody takes the answer.
        waiting.pause_writing()
        assert not waiting.hurry(now + 3600)
        assert not waiting.hurry(now + 3600 + PATIENCE.answer)
        waiting.resume_writing()
        assert not waiting.hurry(now + 3600 + PATIENCE.answer + 1)
        waiting.pause_writing()
        assert not waiting.hurry(now + 4000)
        assert waiting.hurry(now + 4001 + PATIENCE.answer)
        assert (peer.is_closing(), other.is_closing()) == (True, False)
        done.set()
        await settled()
        for one in (waiting, full):
            one.connection_lost(None)
        await settled()

    asyncio.run(talk())


def test_dawdlers_and_crowds_do_not_hold_a_running_service(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JoinedProtocol, "patience", Patience(head=0.5, body=0.5))
    monkeypatch.setattr(JoinedProtocol, "most_connections", 20)
    post = b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"
    begun = [b"", b"GET /hea", post + b"Content-Length: 9\r\n\r\n[", post, b"\r\n"]
    with opened(tmp_path) as shop, serving(shop.service()) as port, ExitStack() as held:
        slow = [held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(40)]
        for index, connection in enumerate(slow):
            with suppress(ConnectionError):  # one too many
                connection.sendall(begun[index % len(begun)])
        for connection in slow:
            with suppress(ConnectionError):
                assert connection.recv(100) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as to:
            to.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert to.recv(100).startswith(b"HTTP/1.1 200 OK")
