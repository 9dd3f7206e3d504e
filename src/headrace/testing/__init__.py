"""Test kit: tests of features in memory (`given`), conformance suites of the ports, and the oracle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.testing.world import World, given, late

__all__ = ["World", "given", "late"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("headrace.testing.world"), name)
