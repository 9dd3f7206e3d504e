"""Sides: what one version of the code has computed, and which one is served.

A side is a topic of commits, an online store and a checkpoint; raw and derived topics, rows of tables, dead letters,
archive, predictions and models are common to all sides. Every project has the side `main`. Another one may run beside
the served one: it follows that one's commits, so that commit k of both holds the same events, and the catalog says
which one is served.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.core.errors import Busy, ConfigError, LogError, NotFound
from headrace.engines.stream.commits import WINDOWS
from headrace.eventlog.forked import Segment

if TYPE_CHECKING:
    from headrace.app.settings import Settings
    from headrace.catalog.catalog import Catalog

MAIN = "main"
BESIDE = "beside"
"""Folder below the state folder that holds locks, heartbeats and logs of the layers that run beside the served ones."""
BESIDE_LAYERS = ("compute", "ingest")
_SETTING, _FORMAT = "sides", 1


class Side(msgspec.Struct, frozen=True):
    """One side.

    Attributes:
        name: `main`, or what it was started as.
        python: the interpreter that runs its layers; empty for the one that asks.
        segments: where the topic of its commits lies.
        ready: whether its store has been filled up to where it leaves the side that it was made from.
    """

    name: str
    python: str = ""
    segments: tuple[Segment, ...] = (Segment(0, WINDOWS),)
    ready: bool = True

    @property
    def fork(self) -> int:
        """The first commit that is its own."""
        return self.segments[-1].begin

    @property
    def topic(self) -> str:
        """The topic of the feature log that its commits are appended to."""
        return self.segments[-1].topic

    @property
    def interpreter(self) -> str:
        """What its layers are started with."""
        return self.python or sys.executable

    def folder(self, state: Path) -> Path:
        """Where its embedded store and its checkpoint lie."""
        return state if self.name == MAIN else state / "sides" / self.name


class Sides(msgspec.Struct, frozen=True):
    """The side that is served, the one beside it if there is any, and, after a switch, the one to go back to."""

    served: Side = Side(MAIN)
    beside: Side | None = None
    former: str = ""
    format: int = _FORMAT

    def need_beside(self) -> Side:
        """The side beside the served one; raises NotFound if there is none."""
        if self.beside is None:
            raise NotFound("nothing runs beside what is served; begin with: headrace beside start")
        return self.beside


def own_from(side: Side, other: Side) -> int:
    """The first commit of a side that it does not have in common with another one."""
    begins = sorted({segment.begin for segment in (*side.segments, *other.segments)})
    return next(at for at in begins if _place_of(side, at) != _place_of(other, at))


def _place_of(side: Side, commit: int) -> tuple[str, int]:
    """Topic and offset of a commit."""
    held = [segment for segment in side.segments if segment.begin <= commit][-1]
    return held.topic, commit - held.begin + held.base


def read_sides(settings: Settings, catalog: Catalog) -> Sides:
    """The sides of a project. Raises LogError if a newer version noted them in another form."""
    stored: dict[str, Any] | None = catalog.setting(_SETTING)
    if stored is None:
        return Sides()
    if stored.get("format") != _FORMAT:
        raise LogError(
            f"the sides of {settings.folder} are noted in format {stored.get('format')}, this version reads {_FORMAT}: "
            "use the version that started the run beside"
        )
    return msgspec.convert(stored, Sides)


def write_sides(catalog: Catalog, sides: Sides) -> None:
    """Note the sides; processes that start from now on take them as they are here."""
    catalog.set_setting(_SETTING, msgspec.to_builtins(sides))


def check_side_name(name: str) -> None:
    """Raise ConfigError unless a side can have this name."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) or name == MAIN:
        raise ConfigError(f'"{name}" cannot name a side: use up to 31 of a-z, 0-9 and _, such as "green"')


def refuse_beside(catalog: Catalog, settings: Settings, what: str) -> None:
    """Raise Busy if another side runs beside the served one."""
    sides = read_sides(settings, catalog)
    if sides.beside is not None:
        raise Busy(
            f"{what} cannot be done while side {sides.beside.name} runs beside {sides.served.name}: it would compute "
            "by the former definitions; drop it first (headrace beside drop), and start it again afterwards"
        )


@contextmanager
def locks_beside(state: Path) -> Iterator[None]:
    """Be all layers of the side beside; raises Busy naming the holder if one runs."""
    from headrace.app.locks import FolderLock

    with FolderLock(state / BESIDE, "compute"), FolderLock(state / BESIDE, "ingest"):
        yield
