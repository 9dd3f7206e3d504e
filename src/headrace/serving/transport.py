"""The way of requests and answers over a socket: head and body in one write, and an end for whoever dawdles.

uvicorn writes the head of an answer and its body one after the other, and each write is a call of the kernel, which
takes as long as reading the features of an entity does; the client is woken twice, too. It also waits for ever for a
request that was begun, and keeps a head of any size: both cost a caller nothing, and need no key.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_logger = logging.getLogger("headrace.serving")
MOST_HEAD: Final = 64 * 1024
"""Bytes that may come one after the other without any of a body among them; what comes at once counts as one."""
_OTHERS: Final = 128
"""Open files that are left for everything but connections."""
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
)
_TOLD: Final = b'{"error":"the head of the request is too large","hint":"send at most 64 KiB of path and headers"}'


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection is waited for, in seconds.

    Args:
        head: for a request, from its first byte (or from the opening of the connection) to the end of its headers.
        body: for its body, beside a second for each `bytes_per_s` that came.
        answer: for a client that takes no more of its answer.
    """

    head: float = 20.0
    body: float = 20.0
    bytes_per_s: float = 10_000.0
    answer: float = 60.0


def _most_connections() -> int:
    """As many as files may be open, less what the service needs itself."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if files == resource.RLIM_INFINITY else max(files - _OTHERS, _OTHERS)


class JoinedWrites:
    """A transport that writes what came in one turn of the event loop in one piece; else it is the one it wraps."""

    __slots__ = ("_loop", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write before the loop's next turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Write what waits, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data, self._parts = b"".join(self._parts), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoinedProtocol(HttpToolsProtocol):
    """uvicorn's protocol over `JoinedWrites`, with limits for heads, time and connections."""

    patience = Patience()
    most_connections = _most_connections()

    _due = math.inf
    _stuck_since = math.inf
    _fruitless = 0
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", JoinedWrites(transport, self.loop))
        self._due = self.loop.time() + self.patience.head
        if len(self.connections) > self.most_connections:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._fruitless += len(data)
        if self._due == math.inf:  # empty lines between requests begin nothing, but end uvicorn's own waiting
            self._due = self.loop.time() + self.patience.head
        super().data_received(data)
        if self._fruitless > MOST_HEAD and not self.transport.is_closing():
            # Headers, trailers or the extensions of a chunk that have no end.
            if self._in_head:
                self.transport.write(b"%scontent-length: %d\r\n\r\n%s" % (_TOO_LARGE, len(_TOLD), _TOLD))
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._fruitless = True, 0
        self._due = self.loop.time() + self.patience.head

    def on_headers_complete(self) -> None:
        self._in_head, self._fruitless = False, 0
        self._due = self.loop.time() + self.patience.body
        super().on_headers_complete()
        # What follows a body in pieces is no header: a key or an origin is not to be put there.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        self._due += len(body) / self.patience.bytes_per_s
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._fruitless, self._due = 0, math.inf
        super().on_message_complete()

    def hurry(self, now: float) -> bool:
        """End the connection if it was waited for long enough at `now` (the loop's time); True if it was."""
        if self.flow.write_paused or self.transport.is_closing():
            self._stuck_since = min(self._stuck_since, now)
            late = now - self._stuck_since > self.patience.answer
        else:
            self._stuck_since = math.inf
            if self.flow.read_paused:  # it is the service that does not read just now
                self._due = max(self._due, now + self.patience.body)
            late = now > self._due
        if late:
            self.transport.abort()
        return late


def hurry_all(connections: Iterable[Any], now: float) -> int:
    """End the connections that were waited for long enough; returns how many."""
    late = sum(one.hurry(now) for one in list(connections) if isinstance(one, JoinedProtocol))
    if late:
        _logger.info("%d connections were ended: their requests did not come, or nobody took the answers", late)
    return late
