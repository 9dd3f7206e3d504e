"""On-request features: computed from a request and what is looked up for it; the same code when training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace.features.aggregate import Aggregate
from headrace.features.definition import (
    Definition,
    DefinitionBase,
    begin,
    column_names,
    own_doc,
    take_computed,
    take_fields,
)
from headrace.features.expr import walk_expr


@dataclass(slots=True)
class OnRequestDefinition(Definition):
    """An on-request class."""

    kind: ClassVar[str] = "onrequest"


class OnRequest(DefinitionBase):
    """Expressions over request fields, features and earlier names of the class: `z = (usd - Spend.mean) / Spend.std`.

    Class keywords: `name` (class name in snake case), `owner`, `tags`.
    """

    def __init_subclass__(
        cls, *, name: str | None = None, owner: str = "", tags: list[str] | tuple[str, ...] = ()
    ) -> None:
        chosen, problems = begin(cls, name)
        definition = OnRequestDefinition(cls, chosen, problems.site, owner, own_doc(cls), tuple(tags))
        take_fields(cls, problems, allowed=False)
        definition.computed = take_computed(cls, problems)
        for feature, expr in definition.computed.items():
            if any(isinstance(part, Aggregate) for part in walk_expr(expr)):
                problems.add("aggregations belong in an hr.FeatureGroup, which this class then reads", feature)
        type.__setattr__(cls, "__definition__", definition)
        type.__setattr__(cls, "__columns__", column_names(definition.computed))
        problems.check()
