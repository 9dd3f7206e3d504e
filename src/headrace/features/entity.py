"""Entities: what features are about."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.core.errors import DefinitionError

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def name_problem(name: str) -> str | None:
    """Why `name` may not name a stream, group, feature, entity or view; None if it may."""
    if not _NAME.fullmatch(name):
        return f'name "{name}" must match [a-z][a-z0-9_]*'
    if "__" in name:
        return f'name "{name}" may not contain "__", which separates the parts of column names'
    return None


@dataclass(frozen=True, slots=True)
class Entity:
    """A kind of thing that features describe, such as a user; fields name it with `hr.key(User)`."""

    name: str
    doc: str = ""

    def __post_init__(self) -> None:
        problem = name_problem(self.name)
        if problem:
            raise DefinitionError(f"hr.Entity: {problem}")
