"""Which fields of a request (or event, or group) hold the key of a group or table that is looked up there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.core.schema import DType
from headrace.features.column import ColumnOf
from headrace.features.definition import definition_of, is_bound, unbound
from headrace.features.field import entity_name
from headrace.features.plan import KeyPart
from headrace.features.site import refuse
from headrace.features.typing_rules import shown

_SHOWN_CANDIDATES = 6


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a key is bound: columns by name, each with its type and the entity that it names, of the event `owner`."""

    owner: type
    columns: Mapping[str, tuple[DType, str | None]]

    def shown(self, name: str) -> str:
        """How the user's code may write the column: by the first event class that has it, which exists already."""
        owners = [
            cls
            for cls in self.owner.__mro__
            if (definition := cls.__dict__.get("__definition__")) is not None
            and not definition.abstract
            and (name in definition.fields or name in definition.computed)
        ]
        return f"{owners[-1].__name__}.{name}"


def bind_key(cls: type, scope: Scope) -> tuple[str, ...] | str:
    """Names of the columns of `scope` that hold the key of `cls`, one per key part; or the problem, with its cure.

    Per key part: the field of the same entity and name, else the only one of that entity; a part that names no entity
    binds by name and type. `.of(...)` decides it outright.
    """
    if is_bound(cls):
        return _bind_given(cls, scope)
    found: list[str] = []
    choices: list[list[str]] = []
    for part in definition_of(cls).key:
        fitting = [name for name, column in scope.columns.items() if fits(part, name, column)]
        choices.append(fitting)
        if part.name in fitting:
            found.append(part.name)
        elif len(fitting) == 1:
            found.append(fitting[0])
    if len(found) == len(choices):
        return tuple(found)
    return _unbound_problem(cls, scope, choices)


def fits(part: KeyPart, name: str, column: tuple[DType, str | None]) -> bool:
    """True if the column `name` may hold this part of a key."""
    dtype, entity = column
    if part.entity is None:
        return name == part.name and dtype is part.dtype
    return entity == part.entity and dtype is part.dtype


def lookup_problems(column: ColumnOf[Any], scope: Scope) -> list[str]:
    """What is wrong with reading `column` of a group or table at each event of `scope`."""
    if definition_of(column.owner).kind not in ("group", "table"):
        return [f"{column!r} is computed per request and cannot be read here"]
    bound = bind_key(column.owner, scope)
    return [bound] if isinstance(bound, str) else []


def bound_class(cls: type, fields: tuple[Any, ...]) -> Any:
    """The class that `cls.of(*fields)` returns: `cls`, looked up by these fields.

    Raises DefinitionError if the fields are not fit to be its key.
    """
    parts = definition_of(cls).key
    shown_call = f"{cls.__name__}.of({', '.join(repr(field) for field in fields)})"
    if is_bound(cls):
        raise refuse(f"{shown_call}: {cls.__name__} is bound already")
    if len(fields) != len(parts):
        names = ", ".join(part.name for part in parts)
        raise refuse(f"{shown_call}: the key has {len(parts)} part(s) ({names}), but {len(fields)} given")
    for part, given in zip(parts, fields, strict=True):
        problem = _given_problem(part, given)
        if problem:
            raise refuse(f"{shown_call}: {problem}")
    namespace = {"__bound__": fields, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls)(cls.__name__, (cls,), namespace)


def _given_problem(part: KeyPart, given: Any) -> str | None:
    if not isinstance(given, ColumnOf):
        return f"{given!r} is no field of a request; write <Event>.<field>"
    if given.dtype is not part.dtype:
        wanted = "" if given.dtype is None else f", which is {shown(given.dtype)}"
        return f"key part {part.name} is {shown(part.dtype)}, not {given!r}{wanted}"
    entity = entity_name(given.entity)
    if entity is not None and part.entity is not None and entity != part.entity:
        return f"key part {part.name} names a {part.entity}, but {given!r} names a {entity}"
    return None


def _bind_given(cls: type, scope: Scope) -> tuple[str, ...] | str:
    fields: tuple[ColumnOf[Any], ...] = cls.__dict__["__bound__"]
    for field in fields:
        if not issubclass(scope.owner, field.owner) or field.name not in scope.columns:
            return f"{cls.__name__}.of({field!r}): {field!r} is no field of {scope.owner.__name__}"
    return tuple(field.name for field in fields)


def _unbound_problem(cls: type, scope: Scope, choices: list[list[str]]) -> str:
    definition = definition_of(unbound(cls))
    for part, fitting in zip(definition.key, choices, strict=True):
        if not fitting:
            what = f"a key of {part.entity}" if part.entity is not None else f'"{part.name}" of {shown(part.dtype)}'
            return (
                f"{cls.__name__} cannot be looked up: no field of {scope.owner.__name__} is {what}; "
                f"declare one, or bind another field with {cls.__name__}.of(...)"
            )
    calls = []
    for combination in itertools.product(*choices):
        if len(set(combination)) == len(combination):
            fields = ", ".join(scope.shown(name) for name in combination)
            calls.append(f"{cls.__name__}.of({fields})")
    listed = " or ".join(calls[:_SHOWN_CANDIDATES])
    return f"{cls.__name__} can be looked up by several fields of {scope.owner.__name__}; write {listed}"
