"""Addresses of servers, for messages."""

from __future__ import annotations


def shown(address: str) -> str:
    """An address without the user, the password and the options that it may hold; rather too little than too much."""
    scheme, found, rest = address.partition("://")
    if not found:
        return address
    secret, _, place = rest.rpartition("@")
    if "?" in secret:  # a sign of the password, or an option with an @: who can tell?
        return f"{scheme}://..."
    return f"{scheme}://{place.split('?', 1)[0]}"
