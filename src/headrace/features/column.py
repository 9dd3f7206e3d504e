"""References to named columns: fields of events and tables, features of groups, computed columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from headrace.core.schema import DType
from headrace.features.expr import Expr, broken

T_co = TypeVar("T_co", covariant=True)


class ColumnOf(Expr[T_co]):
    """The column `name` of the definition `owner`, which may be bound with `.of(...)`.

    `str()` gives the name that the column has in a view.
    """

    __slots__ = ("name", "owner")

    def __init__(self, owner: type, name: str, dtype: DType | None, entity: Any = None) -> None:
        super().__init__(dtype)
        self.owner = owner
        self.name = name
        self.entity = entity

    def __str__(self) -> str:
        return column_name(self)

    def __repr__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"


class Family(Generic[T_co]):
    """One feature over several windows; `family["1h"]` is the feature over one of them.

    On a returned row it is a mapping of windows to values. `members` are by the text of their window without spaces.
    """

    __slots__ = ("members",)

    def __init__(self, members: dict[str, Expr[Any]]) -> None:
        self.members = members

    @overload
    def __get__(self, instance: None, owner: type) -> Family[T_co]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Mapping[str, T_co]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        if instance is not None:
            raise AttributeError("this row has no values for it")
        return Family({window: column_on(owner, member) for window, member in self.members.items()})

    def __getitem__(self, window: str) -> Expr[T_co]:
        found = self.members.get(suffix(window))
        if found is None:
            windows = ", ".join(f'"{name}"' for name in self.members)
            return broken(f'there is no window "{window}" here; there is {windows}')
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __repr__(self) -> str:
        return "a family over " + ", ".join(f'["{window}"]' for window in self.members)

    if not TYPE_CHECKING:  # which report these themselves

        def _operate(self, *_: object) -> Expr[Any]:
            return broken(f'a family has a value per window; name one of its windows, such as ["{next(iter(self))}"]')

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _operate
        __neg__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = __invert__ = _operate


def suffix(window: str) -> str:
    """What a family adds to its name for this window."""
    return re.sub(r"\s+", "", window)


def column_on(owner: type, expr: Expr[Any]) -> Expr[Any]:
    """What the class attribute that holds `expr` means when it is read as `owner.attribute`."""
    names: dict[int, str] = getattr(owner, "__columns__", {})
    name = names.get(id(expr))
    if name is None:
        return expr
    return ColumnOf(owner, name, expr.dtype, copied_entity(expr))


def copied_entity(expr: Expr[Any]) -> Any:
    """The entity that values of `expr` name: its own, or that of the key it copies by reference, first or last."""
    if expr.entity is not None:
        return expr.entity
    copied = getattr(expr, "kind", None) in ("first", "last")
    return copied_entity(expr.args[0]) if copied and expr.args else None


def column_name(column: ColumnOf[Any]) -> str:
    """The name of the column in a view: `<prefix><group>__<feature>`, or a request field's own name."""
    definition = getattr(column.owner, "__definition__", None)
    if definition is None or definition.kind == "event":
        return column.name
    bound: tuple[ColumnOf[Any], ...] = getattr(column.owner, "__bound__", ())
    return "".join(f"{part.name}__" for part in bound) + f"{definition.name}__{column.name}"
