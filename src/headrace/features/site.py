"""Where in the user's files a definition stands, and how its problems are reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from headrace.core.errors import DefinitionError

_PACKAGE = str(Path(__file__).parent) + os.sep


@dataclass(slots=True)
class Site:
    """File and line of a definition, and the lines of its attributes."""

    file: str
    line: int
    lines: dict[str, int] = field(default_factory=dict)

    def at(self, attribute: str | None = None) -> str:
        """Text such as "features.py:61"."""
        line = self.line if attribute is None else self.lines.get(attribute, self.line)
        return f"{shown_path(self.file)}:{line}"


@dataclass(slots=True)
class Problems:
    """Problems of one definition, raised together."""

    title: str
    site: Site
    found: list[str] = field(default_factory=list)

    def add(self, message: str, attribute: str | None = None) -> None:
        """Note a problem, of one attribute or of the whole definition; the same text counts once."""
        name = self.title if attribute is None else f"{self.title}.{attribute}"
        text = f"{self.site.at(attribute)} {name}: {message}"
        if text not in self.found:
            self.found.append(text)

    def add_all(self, messages: Iterable[str], attribute: str | None = None) -> None:
        """Note several."""
        for message in messages:
            self.add(message, attribute)

    def check(self) -> None:
        """Raise DefinitionError if there is any problem."""
        if self.found:
            raise DefinitionError("\n".join(self.found))


def user_frame() -> FrameType:
    """The innermost frame that is outside `headrace.features`."""
    frame: FrameType | None = sys._getframe(1)
    last = frame
    while frame is not None:
        last = frame
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return frame
        frame = frame.f_back
    assert last is not None
    return last


def user_site() -> Site:
    """Where the user's code stands now."""
    frame = user_frame()
    return Site(frame.f_code.co_filename, frame.f_lineno)


def shown_path(file: str) -> str:
    """The path as a person wants to read it: relative below the current folder, else the last part."""
    try:
        relative = os.path.relpath(file)
    except ValueError:
        return os.path.basename(file)
    return os.path.basename(file) if relative.startswith("..") else relative


def refuse(message: str) -> DefinitionError:
    """An error at the user's current line."""
    return DefinitionError(f"{user_site().at()} {message}")
