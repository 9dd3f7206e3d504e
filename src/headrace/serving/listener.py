"""The socket that a service listens on. It is light to import: who starts services opens it for them."""

from __future__ import annotations

import socket

from headrace.core.errors import ConfigError

INHERITED = "HEADRACE_LISTENER"
"""Variable that holds the number of an open socket that a serving process is to listen on."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address; `port` 0 takes any free one. Raises ConfigError if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; stop what uses it or choose another port"
        ) from error
    listener.set_inheritable(True)
    return listener
