"""Tables: what is. The latest row per key, fed by a scheduled query or by `put`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, dataclass_transform

from headrace.core.time import parse_duration
from headrace.features import field as fields_of
from headrace.features.definition import (
    Definition,
    begin,
    is_bound,
    own_doc,
    read_duration,
    take_computed,
    take_fields,
)
from headrace.features.expr import Expr
from headrace.features.field import entity_name
from headrace.features.keys import bound_class
from headrace.features.plan import CheckSpec, KeyPart
from headrace.features.record import Record
from headrace.features.site import Problems
from headrace.features.typing_rules import NUMBERS

C = TypeVar("C")
_SCHEDULES = ("@hourly", "@daily")


@dataclass(frozen=True, slots=True)
class SQL:
    """A query that gives the rows of a table: columns by field name. `on` names a configured source."""

    query: str
    on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCount:
    """A batch run must give at least `min` and at most `max` rows."""

    min: int | None = None
    max: int | None = None


@dataclass(frozen=True, slots=True)
class NullShare:
    """At most the share `max` of a batch run's rows may be null in `column`."""

    column: str
    max: float


@dataclass(frozen=True, slots=True, init=False)
class UniqueKey:
    """No two rows of a batch run may agree in these columns; by default the key and the event time."""

    columns: tuple[str, ...]

    def __init__(self, *columns: str) -> None:
        object.__setattr__(self, "columns", columns)


@dataclass(frozen=True, slots=True)
class InRange:
    """Every value of `column` that is not null must lie between `min` and `max`, both included."""

    column: str
    min: float | None = None
    max: float | None = None


Check = RowCount | NullShare | UniqueKey | InRange


@dataclass(slots=True)
class TableDefinition(Definition):
    """A table class."""

    kind: ClassVar[str] = "table"
    source: SQL | None = None
    schedule: str | None = None
    ttl_us: int | None = None
    delay_us: int = 0
    checks: tuple[CheckSpec, ...] = field(default=())

    @property
    def time_field(self) -> str | None:
        """Name of the event time; None if rows are always true."""
        return next((name for name, f in self.fields.items() if f.spec.kind == "event_time"), None)


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(fields_of.key, fields_of.id, fields_of.event_time, fields_of.field),
)
class Table(Record):
    """The latest row per key: annotated fields, at least one of them `hr.key(...)`.

    Class keywords: `source` (an `hr.SQL`; without it rows come by `put`), `schedule` ("@hourly", "@daily", "15m"; none
    means once per apply), `ttl` after which a row is no longer read ("3h"), `delay` after which a backfilled row
    counts as known, `checks` that gate each run, `name`, `owner`, `tags`. Without an event time a row is always true.
    """

    def __init_subclass__(
        cls,
        *,
        source: SQL | None = None,
        schedule: str | None = None,
        ttl: str | None = None,
        delay: str | None = None,
        checks: list[Check] | tuple[Check, ...] = (),
        name: str | None = None,
        owner: str = "",
        tags: list[str] | tuple[str, ...] = (),
    ) -> None:
        if is_bound(cls):
            return
        chosen, problems = begin(cls, name)
        definition = TableDefinition(cls, chosen, problems.site, owner, own_doc(cls), tuple(tags))
        definition.source, definition.schedule = source, schedule
        definition.ttl_us = read_duration(ttl, "ttl", problems)
        definition.delay_us = read_duration(delay, "delay", problems) or 0
        definition.fields = take_fields(cls, problems, allowed=True)
        for column in take_computed(cls, problems):
            problems.add("a table computes nothing; compute in an hr.OnRequest or in the query", column)
        _check_table(definition, problems)
        definition.checks = _check_specs(definition, tuple(checks), problems)
        type.__setattr__(cls, "__definition__", definition)
        problems.check()

    @classmethod
    def of(cls: type[C], *fields: Expr[Any]) -> type[C]:
        """This table looked up by these fields of a request, one per part of its key."""
        return bound_class(cls, fields)  # type: ignore[no-any-return]


def _check_table(definition: TableDefinition, problems: Problems) -> None:
    keys = [f for f in definition.fields.values() if f.spec.kind == "key"]
    definition.key = tuple(KeyPart(f.name, f.dtype, entity_name(f.spec.entity)) for f in keys)
    if not keys:
        problems.add('no key; add a field such as "user: hr.Field[str] = hr.key(User)"')
    for name, made in definition.fields.items():
        if made.spec.kind == "id":
            problems.add("a table has no id; its rows are identified by their hr.key fields", name)
        if made.spec.aliases:
            problems.add("alias= is for events; a table that changes starts anew, its rows are put again", name)
    times = [name for name, made in definition.fields.items() if made.spec.kind == "event_time"]
    if len(times) > 1:
        problems.add(f"a second event time beside {times[0]}; a row has one", times[1])
    if definition.ttl_us is not None and not times:
        problems.add("a ttl needs an event time to count from")
    if definition.source is not None and not isinstance(definition.source, SQL):
        problems.add(f"source= takes an hr.SQL, not {definition.source!r}")
    if definition.schedule is not None:
        if definition.source is None:
            problems.add("a schedule needs a source= to run")
        if definition.schedule not in _SCHEDULES and not _is_duration(definition.schedule):
            problems.add(f'schedule "{definition.schedule}" is none of "@hourly", "@daily" or a duration such as "15m"')


def _is_duration(text: str) -> bool:
    try:
        return parse_duration(text) > 0
    except ValueError:
        return False


def _check_specs(definition: TableDefinition, checks: tuple[Any, ...], problems: Problems) -> tuple[CheckSpec, ...]:
    specs = []
    for check in checks:
        columns: tuple[str, ...] = ()
        if isinstance(check, RowCount):
            specs.append(CheckSpec("rows", (("min", check.min), ("max", check.max))))
        elif isinstance(check, NullShare):
            columns = (check.column,)
            specs.append(CheckSpec("null_share", (("column", check.column), ("max", check.max))))
        elif isinstance(check, UniqueKey):
            time_field = definition.time_field
            default = (*(part.name for part in definition.key), *([time_field] if time_field else []))
            columns = check.columns or default
            specs.append(CheckSpec("unique", (("columns", columns),)))
        elif isinstance(check, InRange):
            columns = (check.column,)
            made = definition.fields.get(check.column)
            if made is not None and made.dtype not in NUMBERS:
                problems.add(f'hr.InRange("{check.column}"): the column is no number')
            bounds = (("min", check.min), ("max", check.max))
            specs.append(CheckSpec("in_range", (("column", check.column), *bounds)))
        else:
            problems.add(f"checks= takes hr.RowCount, hr.NullShare, hr.UniqueKey and hr.InRange, not {check!r}")
        for column in columns:
            if column not in definition.fields:
                problems.add(f'{type(check).__name__} names "{column}", which is no field of this table')
    return tuple(specs)
