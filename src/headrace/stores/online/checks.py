"""What every online store refuses, in the same words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from headrace.core.errors import StoreError

MAX_KEY_BYTES: Final = 500
"""Longest key of a record."""
NOTE: Final = b"\xff\xff"
"""What keys of notes about the store itself begin with; no entity's key does. They never expire."""


def checked(records: Sequence[tuple[bytes, bytes | None]]) -> dict[bytes, bytes | None]:
    """The records by key, the last one of a key winning; raises StoreError if a key is empty or too long."""
    latest = dict(records)
    check_keys(latest)
    return latest


def check_keys(keys: Collection[bytes]) -> None:
    """Raise StoreError if a key is empty or too long."""
    if keys and not 1 <= min(map(len, keys)) <= max(map(len, keys)) <= MAX_KEY_BYTES:
        key = next(key for key in keys if not 1 <= len(key) <= MAX_KEY_BYTES)
        raise StoreError(f"a key has 1 to {MAX_KEY_BYTES} bytes, {key[:40]!r} has {len(key)}: nothing was written")


def updated(
    records: Sequence[tuple[bytes, bytes | None]] | Mapping[bytes, bytes | None], keys: Sequence[bytes]
) -> dict[bytes, bytes | None]:
    """The records that an update makes, by key; raises StoreError if it was not given one of their keys."""
    latest = dict(records)
    if list(latest) != keys and not set(keys).issuperset(latest):
        check_keys(latest)
        raise StoreError("an update writes the records that it was given, and no others: nothing was written")
    return latest
