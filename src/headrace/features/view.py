"""Feature views: what a model sees for one request."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeAlias

from headrace.features.column import ColumnOf, Family, column_name
from headrace.features.definition import Definition, definition_of, unbound
from headrace.features.entity import name_problem
from headrace.features.event import Event, EventDefinition, event_scope
from headrace.features.expr import Expr, problems_of, walk_expr
from headrace.features.group import FeatureGroup
from headrace.features.keys import bind_key
from headrace.features.onrequest import OnRequest
from headrace.features.site import Problems, user_site
from headrace.features.superseded import warn_of_superseded
from headrace.features.table import Table

Listed: TypeAlias = type[FeatureGroup] | type[Table] | type[OnRequest] | Expr[Any] | Family[Any]


class FeatureView:
    """The features of one kind of request.

    Args:
        name: names the view.
        request: the event that is asked about; its fields are what a request holds.
        features: groups, tables and on-request classes (all their features, in declared order), single features such
            as `Spend.n["1h"]`, families, and fields of the request.
        owner: who answers for it.
        doc: what it is for.
        tags: words to find it by.

    Raises DefinitionError, with every problem at once, for a key that cannot be bound and for columns named twice.
    """

    def __init__(
        self,
        name: str,
        *,
        request: type[Event],
        features: Sequence[Listed],
        owner: str = "",
        doc: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.request = request
        self.owner = owner
        self.doc = inspect.cleandoc(doc)
        self.tags = tuple(tags)
        self.site = user_site()
        problems = Problems(f'view "{name}"', self.site)
        problem = name_problem(name)
        if problem:
            problems.add(problem)
        self.columns: tuple[ColumnOf[Any], ...] = ()
        if not isinstance(features, list | tuple):
            problems.add("features= takes a list, such as features=[Spend]")
        elif _check_request(request, problems):
            self.columns = tuple(column for item in features for column in _listed(item, problems))
            self._check(problems)
        problems.check()
        self.warn_of_superseded()

    def warn_of_superseded(self) -> None:
        """Warn of classes that a notebook has defined again since."""
        warn_of_superseded(repr(self), [self.request, *(column.owner for column in self.columns)])

    def _check(self, problems: Problems) -> None:
        names: set[str] = set()
        values: dict[tuple[Any, ...], str] = {}
        for column in self.columns:
            name = column_name(column)
            wrong = view_problems(column, self.request)
            if wrong:
                problems.add_all(wrong)
            elif name in names:
                problems.add(f'two columns of one name, "{name}"; list it once')
            else:
                other = values.setdefault(_identity(column, self.request), name)
                if other != name:
                    problems.add(f'"{other}" and "{name}" are the same values; list them once')
            names.add(name)

    def __repr__(self) -> str:
        return f"hr.FeatureView({self.name!r})"


def _identity(column: ColumnOf[Any], request: type) -> tuple[Any, ...]:
    """What the column is, whatever it is called: columns that agree in it hold the same values."""
    definition = definition_of(column.owner)
    keys = bind_key(column.owner, event_scope(request)) if definition.kind in ("group", "table") else ()
    return definition.kind, definition.name if definition.kind != "event" else "", column.name, keys


def columns_of(cls: type) -> list[ColumnOf[Any]]:
    """References to all features of a group, table or on-request class (bound or not), in declared order."""
    definition = definition_of(cls)
    found: list[ColumnOf[Any]] = [
        ColumnOf(cls, name, field.dtype, field.spec.entity)
        for name, field in definition.fields.items()
        if field.spec.kind == "field"
    ]
    return found + [ColumnOf(cls, name, expr.dtype, expr.entity) for name, expr in definition.computed.items()]


def view_problems(column: ColumnOf[Any], request: type) -> list[str]:
    """What is wrong with reading `column` for a request, also through on-request classes."""
    definition = definition_of(column.owner)
    if isinstance(definition, EventDefinition):
        if not issubclass(request, column.owner):
            return [f"{column!r} is no field of the request, {request.__name__}"]
        return []
    if definition.kind == "onrequest":
        found: list[str] = []
        for part in walk_expr(definition.computed[column.name]):
            if isinstance(part, ColumnOf):
                found += [f"{column!r}: {problem}" for problem in view_problems(part, request)]
        return found
    bound = bind_key(column.owner, event_scope(request))
    return [bound] if isinstance(bound, str) else []


def _check_request(request: Any, problems: Problems) -> bool:
    definition = getattr(request, "__definition__", None)
    if not isinstance(definition, EventDefinition):
        problems.add(f"request= takes an event class, not {request!r}")
        return False
    if definition.abstract:
        problems.add(f"request={request.__name__}: an abstract event cannot be asked about; name a subclass")
        return False
    return True


def _listed(item: Any, problems: Problems) -> list[ColumnOf[Any]]:
    if isinstance(item, ColumnOf):
        return [item]
    if isinstance(item, Family):
        return [column for column in item.members.values() if isinstance(column, ColumnOf)]
    if isinstance(item, Expr):
        unnamed = "an expression needs a name; assign it in an hr.OnRequest class and list that"
        problems.add_all(problems_of(item) or [unnamed])
        return []
    definition: Definition | None = getattr(item, "__definition__", None)
    if isinstance(item, type) and definition is not None and definition.kind != "event":
        return columns_of(item)
    cure = f"; list its fields, such as {item.__name__}.x" if isinstance(item, type) else ""
    problems.add(f"features= takes groups, tables, on-request classes and their columns, not {item!r}{cure}")
    return []


def sources_of(view: FeatureView) -> list[type]:
    """Groups and tables that the view reads, as declared, each once."""
    found: dict[type, None] = {}

    def visit(column: ColumnOf[Any]) -> None:
        definition = definition_of(column.owner)
        if definition.kind == "onrequest":
            for part in walk_expr(definition.computed[column.name]):
                if isinstance(part, ColumnOf):
                    visit(part)
        elif definition.kind != "event":
            found.setdefault(unbound(column.owner))

    for column in view.columns:
        visit(column)
    return list(found)
