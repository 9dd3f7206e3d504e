"""The aggregations by name, as the modules of `catalog/` export them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from headrace.aggregations import catalog
from headrace.aggregations.aggregation import Aggregation
from headrace.core.errors import PlanError


@cache
def aggregations() -> Mapping[str, Aggregation]:
    """Every aggregation that a module of `catalog/` defines under a public name, in the order of names.

    Raises PlanError if two have one name.
    """
    found: dict[str, Aggregation] = {}
    for info in pkgutil.iter_modules(catalog.__path__):
        module = importlib.import_module(f"{catalog.__name__}.{info.name}")
        for public, member in vars(module).items():
            own = inspect.isclass(member) and member.__module__ == module.__name__
            if not own or public.startswith("_") or not issubclass(member, Aggregation):
                continue
            if member.name in found:
                raise PlanError(
                    f'aggregation "{member.name}" is defined twice; the second is {module.__name__}.{public}'
                )
            found[member.name] = member()
    return MappingProxyType(dict(sorted(found.items())))


def aggregation(name: str) -> Aggregation:
    """The aggregation of this name; raises PlanError if there is none."""
    found = aggregations().get(name)
    if found is None:
        raise PlanError(f'there is no aggregation "{name}"; there are {", ".join(aggregations())}')
    return found
