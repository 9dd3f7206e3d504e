"""Where the tables of a query come from: files, folders, Arrow tables, databases."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.core.errors import NotFound

KNOWN_AT = "known_at"
"""A source with a column of this name is taken to become known row by row at those times."""

_OBJECTS = "s3://"
_NO_NAME = re.compile(r"[/\\\0]|^\.")
"""What would lead out of the folder in which files are looked for by name."""

READERS = {
    ".parquet": "read_parquet",
    ".csv": "read_csv",
    ".csv.gz": "read_csv",
    ".ndjson": "read_json",
    ".jsonl": "read_json",
    ".json": "read_json",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A named input of queries.

    Attributes:
        data: a path to a file or a folder of files (Parquet, CSV, JSON), an Arrow table, the URL of a database, or an
            s3:// URI of Parquet files.
        known_at: SQL expression over the source's columns that says when a row became known: a timestamp or int µs.
            None: the column `known_at` if there is one, else every row is always known. A row whose value is null
            never becomes known.
    """

    data: Any
    known_at: str | None = None

    @property
    def is_database(self) -> bool:
        """True if this is the URL of a database."""
        return isinstance(self.data, str) and "://" in self.data and not self.is_objects

    @property
    def is_objects(self) -> bool:
        """True if this is a prefix or a file of an object store."""
        return isinstance(self.data, str) and self.data.startswith(_OBJECTS)

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine; None for anything else."""
        if isinstance(self.data, Path):
            return self.data
        return Path(self.data) if isinstance(self.data, str) and "://" not in self.data else None


class Sources:
    """The sources by name; a name that is not declared is looked for as a file or folder in `folder`."""

    def __init__(self, declared: Mapping[str, Any], folder: Path | None) -> None:
        self._declared = {name: s if isinstance(s, Source) else Source(s) for name, s in declared.items()}
        self._folder = folder

    def __getitem__(self, name: str) -> Source:
        """The source; raises NotFound with near names, and the places that were searched."""
        known = self._declared.get(name)
        if known is not None:
            return known
        found = None if self._folder is None or _NO_NAME.search(name) else _file_named(self._folder, name)
        if found is not None:
            return Source(found)
        near = difflib.get_close_matches(name, self._declared, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"configured are {_listed(self._declared)}"
        place = "" if self._folder is None else f", and {self._folder} has no file of that name"
        raise NotFound(f'there is no source "{name}": {hint}{place}; name it under [sources]')

    def within(self, folder: Path) -> Sources:
        """The same sources, but undeclared names are looked for in `folder`."""
        return Sources(self._declared, folder)


def files_of(path: Path) -> list[Path]:
    """The data files at a path: itself, or all of one kind in the folder, by name. Raises NotFound if none is there."""
    if path.is_file():
        return [path]
    for suffix in READERS:
        found = sorted(p for p in path.rglob(f"*{suffix}") if p.is_file()) if path.is_dir() else []
        if found:
            return found
    raise NotFound(f"{path}: no such file, or no data file in it; expected {_listed(READERS)}")


def reader_of(path: Path) -> str:
    """Name of DuckDB's function that reads a file; raises NotFound for an unknown kind."""
    for suffix, reader in READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise NotFound(f"{path}: unknown kind of file; expected {_listed(READERS)}")


def _file_named(folder: Path, name: str) -> Path | None:
    candidates = [folder / f"{name}{suffix}" for suffix in READERS]
    return next((path for path in candidates if path.is_file()), folder / name if (folder / name).is_dir() else None)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
