"""What all definition classes share: how a class body is read, where its lines are, and its description.

A class body runs in a `Body`, which notes the line of each attribute, so that every problem can name its line; the
class statement then checks the whole class and raises all problems at once.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_origin

from headrace.core.errors import DefinitionError
from headrace.core.time import parse_duration
from headrace.features.column import Family, column_on
from headrace.features.entity import name_problem
from headrace.features.expr import Expr, broken, problems_of
from headrace.features.field import Field, FieldSpec
from headrace.features.plan import KeyPart
from headrace.features.site import Problems, Site
from headrace.features.typing_rules import annotated_dtype

D = TypeVar("D", bound="Definition")


NO_HEIR = "a group cannot be inherited from; build shared features with an ordinary function"


class UnknownName(DefinitionError, AttributeError):
    """A definition has no column of that name."""


class _Annotations(dict[str, Any]):
    """The annotations of a class body; notes their lines."""

    def __init__(self, lines: dict[str, int]) -> None:
        super().__init__()
        self._lines = lines

    def __setitem__(self, name: str, value: Any) -> None:
        self._lines.setdefault(name, sys._getframe(1).f_lineno)
        super().__setitem__(name, value)


class Body(dict[str, Any]):
    """Namespace of a class body; notes the line of each name, and names that are given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}
        self.twice: list[str] = []
        self["__annotations__"] = _Annotations(self.lines)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self and isinstance(self[name], Expr | Family | FieldSpec) and not name.startswith("__"):
            self.twice.append(name)
        if not name.startswith("__"):
            self.lines[name] = sys._getframe(1).f_lineno
        super().__setitem__(name, value)


@dataclass(slots=True)
class Definition:
    """What a definition class describes. `kind` is "event", "table", "group" or "onrequest"."""

    kind: ClassVar[str] = ""
    cls: type
    name: str
    site: Site
    owner: str
    doc: str
    tags: tuple[str, ...]
    fields: dict[str, Field[Any]] = field(default_factory=dict)
    computed: dict[str, Expr[Any]] = field(default_factory=dict)
    key: tuple[KeyPart, ...] = ()


class DefinitionMeta(type):
    """Reads class bodies of definitions. Type checkers never see it, so class keywords stay checked by them."""

    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **keywords: Any) -> Body:
        return Body()

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **keywords: Any) -> DefinitionMeta:
        frame = sys._getframe(1)
        site = Site(frame.f_code.co_filename, frame.f_lineno, getattr(body, "lines", {}))
        if bases and "__bound__" not in body:
            wrong = _wrong_keywords(bases[0], keywords)
            if wrong:
                raise DefinitionError("\n".join(f"{site.at()} {name}: {text}" for text in wrong))
        namespace = dict(body)
        namespace["__site__"] = site
        namespace["__frame__"] = frame
        namespace["__twice__"] = tuple(getattr(body, "twice", ()))
        cls = super().__new__(mcs, name, bases, namespace, **keywords)
        type.__delattr__(cls, "__frame__")
        return cls

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **keywords: Any) -> None:
        super().__init__(name, bases, body)

    def read_column(cls, expr: Expr[Any]) -> Expr[Any]:
        """What an assigned expression means when it is read as an attribute of this class."""
        return column_on(cls, expr)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        definition: Definition | None = cls.__dict__.get("__definition__")
        known = [*definition.fields, *definition.computed] if definition is not None else []
        near = difflib.get_close_matches(name, known, 1)
        cure = f'did you mean "{near[0]}"?' if near else f"it has {', '.join(known) or 'none'}"
        message = f'{cls.__name__} has no column "{name}"; {cure}'
        frame = sys._getframe(1)
        if isinstance(frame.f_locals, Body):
            return broken(message)
        site = Site(frame.f_code.co_filename, frame.f_lineno)
        raise UnknownName(f"{site.at()} {message}")


def _wrong_keywords(base: type, keywords: Mapping[str, Any]) -> list[str]:
    """What is wrong with the names of a class statement's keywords."""
    known = list(getattr(base.__init_subclass__, "__kwdefaults__", None) or ())
    wrong: list[str] = []
    meant: list[str] = []
    for keyword in keywords if known else ():
        if keyword not in known:
            near = difflib.get_close_matches(keyword, known, 1)
            meant += near
            cure = f"did you mean {near[0]}=?" if near else f"there are {', '.join(known)}"
            wrong.append(f"unknown keyword {keyword}=; {cure}")
    required = getattr(base, "__required__", None)
    if required is not None and required[0] not in (*keywords, *meant):
        inherits = isinstance(base.__dict__.get("__definition__"), Definition)
        wrong.append(NO_HEIR if inherits else f"missing {required[0]}=; {required[1]}")
    return wrong


if TYPE_CHECKING:

    class DefinitionBase:
        """Base of all definition classes."""

else:

    class DefinitionBase(metaclass=DefinitionMeta):
        """Base of all definition classes."""


def definition_of(cls: type) -> Definition:
    """The description of a definition class, bound or not."""
    definition = getattr(cls, "__definition__", None)
    if not isinstance(definition, Definition):
        raise DefinitionError(f"{cls.__name__} is no definition: expected a subclass of hr.Event, hr.Table, …")
    return definition


def is_bound(cls: type) -> bool:
    """True for what `.of(...)` gives."""
    return "__bound__" in cls.__dict__


def unbound(cls: type) -> type:
    """The class as it was declared."""
    return cls.__bases__[0] if is_bound(cls) else cls


def begin(cls: type, name: str | None) -> tuple[str, Problems]:
    """The snake-case name of a new class, and its list of problems, filled with those of its name and its body."""
    problems = Problems(cls.__name__, cls.__dict__["__site__"])
    chosen = snake_case(cls.__name__) if name is None else name
    problem = name_problem(chosen)
    if problem:
        problems.add(problem)
    for twice in cls.__dict__["__twice__"]:
        problems.add("declared twice in this class; give one of the two another name", twice)
    return chosen, problems


def snake_case(name: str) -> str:
    """`CarrierAtOrigin` -> `carrier_at_origin`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def own_doc(cls: type) -> str:
    """The class's own docstring, cleaned."""
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "")


def read_duration(text: str | None, what: str, problems: Problems, attribute: str | None = None) -> int | None:
    """µs of a duration such as "7d"; None stays None, and a malformed one becomes a problem."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        problems.add(f"{what}: {error}", attribute)
    except TypeError:
        problems.add(f'{what}: {text!r} is no text; write a duration such as "7d"', attribute)
    return None


def take_fields(cls: type, problems: Problems, *, allowed: bool) -> dict[str, Field[Any]]:
    """Turn the annotations of a class into `Field` descriptors; inherited fields come first."""
    fields: dict[str, Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        definition = base.__dict__.get("__definition__")
        if definition is not None:
            fields.update(definition.fields)
    annotations = _own_annotations(cls)
    for name, annotation in annotations.items():
        if get_origin(annotation) is ClassVar or annotation is ClassVar or name.startswith("__"):
            continue
        made = _make_field(cls, name, annotation, problems, allowed)
        if made is not None:
            if name in fields:
                problems.add("an inherited field of this name exists; give this one another name", name)
            fields[name] = made
            setattr(cls, name, made)
    for name, value in list(cls.__dict__.items()):
        if isinstance(value, FieldSpec) and name not in annotations:
            problems.add(f'no annotation; write "{name}: hr.Field[...] = hr.{value.kind}(...)"', name)
    return fields


def take_computed(cls: type, problems: Problems) -> dict[str, Expr[Any]]:
    """Expressions that the class body assigns, by name; a family counts as one name per window."""
    computed: dict[str, Expr[Any]] = {}
    seen: dict[int, str] = {}
    for name, value in cls.__dict__.items():
        members = {name: value}
        if isinstance(value, Family):
            members = {f"{name}_{window}": member for window, member in value.members.items()}
        elif not isinstance(value, Expr):
            continue
        problem = name_problem(name) or ('"of" is reserved for binding keys' if name == "of" else None)
        if problem:
            problems.add(problem, name)
        for column, expr in members.items():
            if column in computed:
                problems.add(f'the family makes a column "{column}" that is declared beside it', name)
            if id(expr) in seen:
                problems.add(f"is the same expression as {seen[id(expr)]}; build it twice, or use one name", name)
            seen[id(expr)] = column
            computed[column] = expr
            problems.site.lines.setdefault(column, problems.site.lines.get(name, problems.site.line))
            problems.add_all(problems_of(expr), name)
    return computed


def column_names(computed: Mapping[str, Expr[Any]]) -> dict[int, str]:
    """Names of a class's computed columns by identity of their expression."""
    return {id(expr): name for name, expr in computed.items()}


def _own_annotations(cls: type) -> dict[str, Any]:
    found = {}
    frame: FrameType | None = cls.__dict__["__frame__"]
    for name, annotation in inspect.get_annotations(cls).items():
        found[name] = _resolve(annotation, frame, cls) if isinstance(annotation, str) else annotation
    return found


def _resolve(text: str, frame: FrameType | None, cls: type) -> Any:
    """Evaluate an annotation where its class was written; itself if that fails."""
    while frame is not None:
        try:
            value = eval(text, frame.f_globals, {**frame.f_locals})
            return _resolve(value, frame, cls) if isinstance(value, str) and value != text else value
        except NameError:
            frame = frame.f_back
        except Exception:
            return text
    return text


def _make_field(cls: type, name: str, annotation: Any, problems: Problems, allowed: bool) -> Field[Any] | None:
    value = cls.__dict__.get(name)
    if not allowed:
        problems.add("annotated fields belong in an hr.Event or hr.Table; here names are assigned, not annotated", name)
        return None
    problem = name_problem(name) or ('"of" is reserved for binding keys' if name == "of" else None)
    if problem:
        problems.add(problem, name)
        return None
    if get_origin(annotation) is not Field:
        shown = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None) or str(annotation)
        if annotated_dtype(annotation) is None:
            problems.add(f'cannot read the annotation {shown}; write "{name}: hr.Field[...]" of a known type', name)
        else:
            default = " = ..." if isinstance(value, FieldSpec) else ""
            shown = str(annotation) if get_args(annotation) else shown
            problems.add(f'a plain annotation is not a field; write "{name}: hr.Field[{shown}]{default}"', name)
        return None
    read = annotated_dtype(get_args(annotation)[0])
    if read is None:
        problems.add(
            f"hr.Field[{get_args(annotation)[0]}] is no column type; there are bool, int, float, str, datetime, "
            "timedelta and list[float], each also with | None",
            name,
        )
        return None
    if value is not None and not isinstance(value, FieldSpec):
        problems.add(f'a default is written "{name}: hr.Field[...] = hr.field(default={value!r})"', name)
        return None
    made = Field.of(name, *read, value or FieldSpec("field"))
    problems.add_all(made.problems(), name)
    return made
