"""Addresses of servers, for messages."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(?<=://)[^/]*@")


def shown(address: str) -> str:
    """An address without the user, the password and the options that it may hold."""
    return _SECRET.sub("", address.split("?", 1)[0])
