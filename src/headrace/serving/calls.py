"""A request as handlers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from headrace.serving.access import ANYBODY, Caller

_TRUE = {"1", "true", "yes"}


@dataclass(slots=True)
class Call:
    """A request without its transport: path parameters, raw query, whole body, and who asks."""

    params: Mapping[str, str]
    query: bytes = b""
    body: bytes = b""
    caller: Caller = ANYBODY

    def option(self, name: str) -> str | None:
        """The last value of a query parameter; None if it is not given."""
        if not self.query:
            return None
        found = parse_qs(self.query.decode("latin-1"), keep_blank_values=True).get(name)
        return found[-1] if found else None

    def flag(self, *names: str) -> bool:
        """True if one of these query parameters is 1, true or yes."""
        return any((self.option(name) or "").lower() in _TRUE for name in names) if self.query else False
