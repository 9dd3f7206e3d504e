"""Head and body of an answer leave in one write, and nothing is lost or turned round by waiting for that."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from headrace.serving.http import serving
from headrace.serving.transport import JoinedWrites
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
