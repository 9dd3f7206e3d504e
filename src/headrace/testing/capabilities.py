"""What the tests of a kit prove about an adapter: marks on the tests, and what a class of tests has of them.

class EventLogTests(ABC):
    port = "EventLog"

    @capability("fenced appends")
    def test_an_append_may_demand_its_offset(self) -> None: ...

class TestMyLog(EventLogTests):
    adapter = "My log"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_MARK = "__headrace_capability__"
_Marked = TypeVar("_Marked", bound=Callable[..., Any])


def capability(name: str) -> Callable[[_Marked], _Marked]:
    """Mark a test, or a state machine, with what passing it shows, in words that a reader of a table understands."""

    def mark(marked: _Marked) -> _Marked:
        setattr(marked, _MARK, name)
        return marked

    return mark


def proved(tests: type) -> dict[str, list[str]]:
    """The tests of a class by what they prove, those that it inherits first; a marked machine stands for itself.

    A test that a class overrides counts only if it is marked there again.
    """
    found: dict[str, list[str]] = {}
    own = getattr(tests, _MARK, None)
    if own is not None:
        found[own] = [tests.__name__]
    for name in dict.fromkeys(name for cls in reversed(tests.__mro__) for name in vars(cls)):
        mark = getattr(getattr(tests, name), _MARK, None) if name.startswith("test_") else None
        if mark is not None:
            found.setdefault(mark, []).append(name)
    return found


def unmarked(tests: type) -> list[str]:
    """Names of the tests of a class that say nothing of what they prove."""
    return [name for name in dir(tests) if name.startswith("test_") and not hasattr(getattr(tests, name), _MARK)]
