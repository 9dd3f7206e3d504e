"""A connection to a real server that a test may cut: a port that forwards to it until it is told otherwise."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Link:
    """Forwards `port` on loopback to a server's; usable as a context manager.

    It lives in the test's own process: a client that keeps the interpreter's lock while it waits would wait for itself.
    `cut` refuses and drops connections until `mend`. `swallow` lets a request through and loses its answer.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._open: set[socket.socket] = set()
        self._lost: Callable[[bytes], bool] | None = None
        self.swallowed = 0
        self.port = 0
        self._lock = threading.Lock()
        self.mend()

    def cut(self) -> None:
        """The server is away: its port refuses, and what is connected is reset."""
        self._door.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        with self._lock:
            for end in self._open:
                _end(end)

    def mend(self) -> None:
        """The server is back at the same port."""
        self._door = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._door.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, args=(self._door,), daemon=True)
        self._accepting.start()

    def swallow(self, request: Callable[[bytes], bool]) -> None:
        """The server gets the first request that this is true of, but its answer never arrives."""
        self._lost = request

    def close(self) -> None:
        """Cut it for good."""
        with suppress(OSError):  # it may be cut already
            self.cut()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self, door: socket.socket) -> None:
        with door:
            while True:
                try:
                    near, _ = door.accept()
                except OSError:
                    return
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        # Both ends stay open until both directions have ended: a number of a file is given out again when it is closed.
        with near, socket.create_connection(("127.0.0.1", self._server_port)) as far:
            with self._lock:
                self._open |= {near, far}
            back = threading.Thread(target=self._carry, args=(far, near, False), daemon=True)
            back.start()
            self._carry(near, far, True)
            back.join()
            with self._lock:
                self._open -= {near, far}

    def _carry(self, source: socket.socket, target: socket.socket, requests: bool) -> None:
        try:
            while data := source.recv(65_536):
                if requests and self._lost is not None and self._lost(data):
                    self._lost = None
                    self._swallow(source, data)
                    break
                target.sendall(data)
        except OSError:
            pass
        _end(source)
        _end(target)

    def _swallow(self, near: socket.socket, data: bytes) -> None:
        """Send the request on, on a connection of its own so that nobody else reads the answer, and wait for that."""
        with socket.create_connection(("127.0.0.1", self._server_port)) as own:
            own.sendall(data)
            near.settimeout(0.3)
            try:
                while data := near.recv(65_536):
                    own.sendall(data)
            except TimeoutError:
                pass
            own.recv(65_536)
        self.swallowed += 1


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
