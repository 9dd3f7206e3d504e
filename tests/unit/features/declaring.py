"""Runs the text of a features.py, so that tests can assert which line an error names."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from headrace.core.errors import DefinitionError

SHOP = """\
from datetime import datetime, timedelta
import headrace as hr
User, Merchant = hr.Entity("user"), hr.Entity("merchant")
class Transfer(hr.Event):
    transfer_id: hr.Field[str] = hr.id()
    sender: hr.Field[str] = hr.key(User)
    receiver: hr.Field[str] = hr.key(User)
    merchant: hr.Field[str | None] = hr.key(Merchant)
    amount: hr.Field[float]
    count: hr.Field[int]
    channel: hr.Field[str] = hr.field(default="app")
    member: hr.Field[bool]
    at: hr.Field[datetime] = hr.event_time()
class Spend(hr.FeatureGroup, key=Transfer.sender):
    n = hr.count(window=["1h", "1d"])
    mean = hr.mean(Transfer.amount, window="1d")
class Profile(hr.Table):
    user: hr.Field[str] = hr.key(User)
    age: hr.Field[int]
    taste: hr.Field[list[float]] = hr.field(size=3)
    at: hr.Field[datetime] = hr.event_time()
"""
FIRST_LINE = SHOP.count("\n") + 1
"""Line of the first line after SHOP."""


def declare(source: str) -> dict[str, Any]:
    """Names that a features.py of SHOP and `source` binds."""
    names: dict[str, Any] = {"__name__": "features"}
    exec(compile(SHOP + textwrap.dedent(source), "features.py", "exec", dont_inherit=True), names)
    return names


def errors(source: str) -> list[str]:
    """Lines of the DefinitionError that `source` after SHOP raises; "@N" stands for "features.py:" and its Nth line."""
    with pytest.raises(DefinitionError) as raised:
        declare(source)
    found = []
    for line in str(raised.value).splitlines():
        place, _, rest = line.partition(" ")
        file, _, number = place.partition(":")
        assert file == "features.py", line
        found.append(f"@{int(number) - FIRST_LINE + 1} {rest}")
    return found


def error(source: str) -> str:
    """The only line."""
    found = errors(source)
    assert len(found) == 1, found
    return found[0]
