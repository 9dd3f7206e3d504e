"""Types, fields and schemas: what an event, a table row or a request looks like. Pure data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any


class DType(str, Enum):
    """Logical type of a column, and how its values lie in a NumPy array.

    INT int64 · FLOAT float64 (NaN is null) · BOOL bool · STRING object of str · TIMESTAMP int64 µs UTC ·
    DURATION int64 µs · LIST object of float64 arrays of the declared size.

    What aggregations give besides, never what arrives, is nested: object of Python lists ("list<int>") or dicts
    ("map<string,int>"), whose items are of those types as `Column.to_pylist` gives them. Items of a map may be None.
    """

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STRING = "string"
    TIMESTAMP = "timestamp"
    DURATION = "duration"
    LIST = "list"
    LIST_INT = "list<int>"
    LIST_FLOAT = "list<float>"
    LIST_BOOL = "list<bool>"
    LIST_STRING = "list<string>"
    LIST_TIMESTAMP = "list<timestamp>"
    LIST_DURATION = "list<duration>"
    MAP_INT_INT = "map<int,int>"
    MAP_INT_FLOAT = "map<int,float>"
    MAP_INT_TIMESTAMP = "map<int,timestamp>"
    MAP_INT_DURATION = "map<int,duration>"
    MAP_INT_STRING = "map<int,string>"
    MAP_FLOAT_INT = "map<float,int>"
    MAP_BOOL_INT = "map<bool,int>"
    MAP_BOOL_FLOAT = "map<bool,float>"
    MAP_BOOL_TIMESTAMP = "map<bool,timestamp>"
    MAP_BOOL_DURATION = "map<bool,duration>"
    MAP_BOOL_STRING = "map<bool,string>"
    MAP_STRING_INT = "map<string,int>"
    MAP_STRING_FLOAT = "map<string,float>"
    MAP_STRING_TIMESTAMP = "map<string,timestamp>"
    MAP_STRING_DURATION = "map<string,duration>"
    MAP_STRING_STRING = "map<string,string>"
    MAP_TIMESTAMP_INT = "map<timestamp,int>"
    MAP_TIMESTAMP_FLOAT = "map<timestamp,float>"
    MAP_TIMESTAMP_TIMESTAMP = "map<timestamp,timestamp>"
    MAP_TIMESTAMP_DURATION = "map<timestamp,duration>"
    MAP_TIMESTAMP_STRING = "map<timestamp,string>"
    MAP_DURATION_INT = "map<duration,int>"
    MAP_DURATION_FLOAT = "map<duration,float>"
    MAP_DURATION_TIMESTAMP = "map<duration,timestamp>"
    MAP_DURATION_DURATION = "map<duration,duration>"
    MAP_DURATION_STRING = "map<duration,string>"

    # Types key the tables of every block that is decoded; Enum's own hash is a Python function.
    __hash__ = str.__hash__

    @property
    def is_integer_backed(self) -> bool:
        """True if values are int64 in memory and in records."""
        return self in (DType.INT, DType.TIMESTAMP, DType.DURATION)

    @property
    def is_nested(self) -> bool:
        """True for lists and maps that aggregations give."""
        return self in _PARTS

    @property
    def is_object(self) -> bool:
        """True if values are Python objects, not 8-byte words: texts, lists and maps."""
        return self in (DType.STRING, DType.LIST) or self in _PARTS

    @property
    def parts(self) -> tuple[DType, ...]:
        """The types that a nested one is made of: a list's items, or a map's keys and items."""
        return _PARTS[self]


_PARTS = {
    dtype: tuple(DType(part) for part in dtype.value[:-1].partition("<")[2].split(","))
    for dtype in DType
    if "<" in dtype.value
}
SCALARS = frozenset(DType) - frozenset(_PARTS) - {DType.LIST}
"""Types of one value each."""


def list_of(item: DType) -> DType:
    """The type of lists of these."""
    return DType(f"list<{item.value}>")


def map_of(key: DType, item: DType) -> DType:
    """The type of maps of these keys to these items."""
    return DType(f"map<{key.value},{item.value}>")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a schema.

    `entity` names the entity (or request event) that the field is a key of; None if it is no key.
    `default` stands in for a field that does not arrive at all; a field without one and not nullable is required.
    `aliases` are its former names, the oldest first: what arrived or was stored under one of them is this field.
    `personal`: its values are hidden from people who look at dead letters, statistics and pages.
    """

    name: str
    dtype: DType
    nullable: bool = False
    has_default: bool = False
    default: Any = None
    entity: str | None = None
    size: int | None = None
    doc: str = ""
    aliases: tuple[str, ...] = ()
    personal: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The name, then the former ones, the newest first."""
        return (self.name, *reversed(self.aliases))

    @property
    def first_name(self) -> str:
        """The oldest name: it stays through every renaming, so versions are made of it."""
        return self.aliases[0] if self.aliases else self.name


@dataclass(frozen=True, slots=True)
class Schema:
    """Fields in declared order, which of them is the event time, and which (if any) the id.

    `time_field` is None only for tables without event time (always true) and is then treated as −∞.
    """

    name: str
    fields: tuple[Field, ...]
    time_field: str | None
    id_field: str | None = None
    doc: str = ""

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __contains__(self, name: str) -> bool:
        return any(field.name == name for field in self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def current_name(self, name: str) -> str | None:
        """The name today of a field that was given by this name or by a former one; None if there is no such field."""
        if name in self:
            return name
        return next((field.name for field in self.fields if name in field.aliases), None)

    @property
    def first_names(self) -> dict[str, str]:
        """The oldest name of each field, by its name."""
        return {field.name: field.first_name for field in self.fields}
