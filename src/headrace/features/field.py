"""Fields: the columns that arrive with an event or a table row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, overload

from headrace.core import schema
from headrace.core.schema import DType
from headrace.features.column import ColumnOf
from headrace.features.entity import Entity, name_problem
from headrace.features.expr import Expr
from headrace.features.typing_rules import literal_of, shown

T = TypeVar("T")
S = TypeVar("S")


class _Missing:
    def __repr__(self) -> str:
        return "<no default>"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """What stands on the right of an annotated field."""

    kind: Literal["field", "key", "id", "event_time"]
    doc: str = ""
    entity: Any = None
    default: Any = MISSING
    size: int | None = None
    aliases: tuple[str, ...] = ()
    personal: bool = False


Alias = str | list[str] | tuple[str, ...]
"""Former names of a field of an event, the oldest first."""


def key(entity: Entity | type[Any], doc: str = "", *, alias: Alias = (), personal: bool = False) -> Any:
    """A field that names an entity, or another event by its id: `hr.key(User)`, `hr.key(Transfer)`.

    `alias`: its former name (several: the oldest first), under which older events lie in the log and the archive.
    `personal`: as in `hr.field`.
    """
    return FieldSpec("key", doc, entity, aliases=_names(alias), personal=personal)


def id(doc: str = "", *, alias: Alias = (), personal: bool = False) -> Any:
    """The field that identifies an event: a repeated id within the dedupe horizon is dropped.

    `alias`: as in `hr.key`; `personal`: as in `hr.field`.
    """
    return FieldSpec("id", doc, aliases=_names(alias), personal=personal)


def event_time(doc: str = "", *, alias: Alias = ()) -> Any:
    """The field that says when the event happened, or from when a table row is true. `alias`: as in `hr.key`."""
    return FieldSpec("event_time", doc, aliases=_names(alias))


@overload
def field(doc: str = "", *, size: int | None = None, alias: Alias = (), personal: bool = False) -> Any: ...
@overload
def field(
    doc: str = "", *, default: object, size: int | None = None, alias: Alias = (), personal: bool = False
) -> Any: ...
def field(
    doc: str = "",
    *,
    default: object = MISSING,
    size: int | None = None,
    alias: Alias = (),
    personal: bool = False,
) -> Any:
    """Any other field: its documentation, the value that stands in where it does not arrive, the length of a list.

    `alias`: its former name (several: the oldest first), under which older events lie in the log and the archive.
    `personal`: its values are hidden where people look (dead letters, statistics, pages); it changes no version.
    """
    return FieldSpec("field", doc, None, default, size, _names(alias), personal)


def _names(alias: Alias) -> tuple[str, ...]:
    return tuple(map(str, alias)) if isinstance(alias, list | tuple) else (alias,)


class Field(Generic[T]):
    """A column that arrives. On the class an `Expr[T]`, on an instance a `T`: `amount: hr.Field[float]`.

    T is bool, int, float, str, datetime, timedelta or list[float] (with a declared size), each also with `| None`.
    """

    __slots__ = ("dtype", "name", "nullable", "spec")

    name: str
    dtype: DType
    nullable: bool
    spec: FieldSpec

    @classmethod
    def of(cls, name: str, dtype: DType, nullable: bool, spec: FieldSpec) -> Field[Any]:
        """Make the descriptor of one field."""
        made: Field[Any] = cls()
        made.name, made.dtype, made.nullable, made.spec = name, dtype, nullable, spec
        return made

    @overload
    def __get__(self: Field[S | None], instance: None, owner: type) -> Expr[S]: ...
    @overload
    def __get__(self, instance: None, owner: type) -> Expr[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return ColumnOf(owner, self.name, self.dtype, self.spec.entity)
        return instance.__dict__[self.name]

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self.name] = value

    @property
    def has_default(self) -> bool:
        """True if a value stands in where the field does not arrive."""
        return self.spec.default is not MISSING

    def problems(self) -> list[str]:
        """What is wrong with the declaration of this field alone."""
        found = []
        kind, entity = self.spec.kind, self.spec.entity
        if kind == "event_time" and (self.dtype is not DType.TIMESTAMP or self.nullable):
            found.append('the event time is written "hr.Field[datetime] = hr.event_time()"')
        if kind == "id" and (self.dtype not in (DType.STRING, DType.INT) or self.nullable):
            found.append("an id is a str or an int, never null")
        if kind == "key" and self.dtype in (DType.FLOAT, DType.LIST):
            found.append(f"a {shown(self.dtype)} cannot be a key, it has no exact equality; use a str or an int")
        if kind == "key" and not isinstance(entity, Entity | type):
            found.append("hr.key takes an hr.Entity or an event class")
        if self.dtype is DType.LIST and not self.spec.size:
            found.append('a list needs its length; write "= hr.field(size=64)"')
        if self.dtype is not DType.LIST and self.spec.size is not None:
            found.append("only lists have a size")
        if self.has_default:
            found += self._default_problems()
        for alias in self.spec.aliases:
            problem = name_problem(str(alias))
            found += [f"alias: {problem}"] if problem else []
        return found

    def _default_problems(self) -> list[str]:
        default = self.spec.default
        if default is None:
            return [] if self.nullable else ["a default of None needs a type with | None"]
        if self.dtype is DType.LIST:
            return ["a list takes no default"]
        literal = literal_of(default)
        if isinstance(literal, str):
            return [f"default: {literal}"]
        if literal[1] is self.dtype or (literal[1] is DType.INT and self.dtype is DType.FLOAT):
            return []
        return [f"the default {default!r} is no {shown(self.dtype)}"]

    def schema_field(self) -> schema.Field:
        """The field as the core describes it."""
        default = self.spec.default if self.has_default else None
        if default is not None:
            literal = literal_of(default)
            default = float(literal[0]) if self.dtype is DType.FLOAT else literal[0]
        return schema.Field(
            self.name, self.dtype, self.nullable, self.has_default, default, entity_name(self.spec.entity),
            self.spec.size, self.spec.doc, self.spec.aliases, self.spec.personal,
        )  # fmt: skip


def entity_name(entity: Any) -> str | None:
    """Name of an entity, or of the stream of an event class."""
    if entity is None:
        return None
    if isinstance(entity, Entity):
        return entity.name
    definition = getattr(entity, "__definition__", None)
    return None if definition is None else definition.root_name
