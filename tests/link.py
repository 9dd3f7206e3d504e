"""A connection to a real server that a test may cut: a port that forwards to it until it is told otherwise."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable


class Link:
    """Forwards `port` on loopback to a server's; usable as a context manager.

    `cut` refuses and drops connections until `mend`. `swallow` lets a request through and loses its answer.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._whole = True
        self._lost: Callable[[bytes], bool] | None = None
        self.swallowed = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, args=(self._door,), daemon=True).start()

    def cut(self) -> None:
        """The server is away: its port refuses, and what is connected is reset."""
        with self._lock:
            self._whole = False
            self._shut(self._door)
            for connection in self._open:
                self._shut(connection)
            self._open.clear()

    def mend(self) -> None:
        """The server is back at the same port."""
        with self._lock:
            self._door = socket.create_server(("127.0.0.1", self.port))
            self._whole = True
        threading.Thread(target=self._accept, args=(self._door,), daemon=True).start()

    def swallow(self, request: Callable[[bytes], bool]) -> None:
        """The server gets the first request that this is true of, but its answer never arrives."""
        self._lost = request

    def close(self) -> None:
        """Cut it for good."""
        self.cut()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self, door: socket.socket) -> None:
        while True:
            try:
                near, _ = door.accept()
                far = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                return
            with self._lock:
                if not self._whole:
                    near.close()
                    far.close()
                    return
                self._open |= {near, far}
            threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, requests: bool) -> None:
        try:
            while data := source.recv(65_536):
                if requests and self._lost is not None and self._lost(data):
                    self._lost = None
                    self._swallow(source, target, data)
                    break
                target.sendall(data)
        except OSError:
            pass
        with self._lock:
            for end in (source, target):
                self._shut(end)
                self._open.discard(end)

    def _swallow(self, near: socket.socket, far: socket.socket, data: bytes) -> None:
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

    @staticmethod
    def _shut(end: socket.socket) -> None:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()
