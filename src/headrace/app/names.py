"""How a project's streams, tables, groups, views and models are named: by class, by object or by name."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from headrace.core.errors import NotFound, SchemaError
from headrace.features.definition import definition_of, is_bound
from headrace.features.event import EventDefinition
from headrace.features.model import Model
from headrace.features.plan import ModelPlan, ProjectPlan, ViewPlan
from headrace.features.view import FeatureView


class Names(ABC):
    """The definitions of a project, found by whatever names them; raises NotFound with near names, or SchemaError."""

    @property
    @abstractmethod
    def definitions(self) -> list[Any]:
        """The classes, views and models of the project."""

    @property
    @abstractmethod
    def definition_plan(self) -> ProjectPlan:
        """The definitions, every name resolved."""

    @property
    @abstractmethod
    def running_plan(self) -> ProjectPlan:
        """The definitions as they run: with what is kept beside them, at the generations that are served."""

    @cached_property
    def _classes(self) -> dict[tuple[str, str], type]:
        """Definition classes by kind and name."""
        found: dict[tuple[str, str], type] = {}
        for item in self.definitions:
            if isinstance(item, FeatureView):
                pass
            elif isinstance(item, type) and not is_bound(item):
                definition = definition_of(item)
                found[definition.kind, definition.name] = item
        return found

    def _class(self, name: str, kind: str) -> type:
        return self._classes[kind, name]

    def _source(self, name: str) -> type:
        for kind in ("group", "table"):
            if (kind, name) in self._classes:
                return self._classes[kind, name]
        raise self._unknown("group or table", name, [n for k, n in self._classes if k in ("group", "table")])

    def _is_source(self, what: Any) -> bool:
        if isinstance(what, str):
            plan = self.definition_plan
            return what in plan.groups or what in plan.tables
        return isinstance(what, type) and getattr(definition_of(what), "kind", "") in ("group", "table")

    def _name(self, item: Any) -> str:
        if isinstance(item, str):
            return item
        if isinstance(item, type) and hasattr(item, "__definition__"):
            return definition_of(item).name
        raise SchemaError(f"expected a definition or its name, got {item!r}")

    def _stream_name(self, stream: Any) -> str:
        if isinstance(stream, type) and isinstance(definition_of(stream), EventDefinition):
            definition = definition_of(stream)
            assert isinstance(definition, EventDefinition)
            return definition.root_name
        return self._name(stream)

    def _view(self, view: Any) -> ViewPlan:
        views = self.running_plan.views
        if isinstance(view, FeatureView | Model):
            (view.view if isinstance(view, Model) else view).warn_of_superseded()
        model = self._model_or_none(view)
        if model is not None and not (isinstance(view, str) and view in views):
            return views[model.view]
        name = view.name if isinstance(view, FeatureView) else str(view)
        if name not in views:
            raise self._unknown("view", name, views)
        return views[name]

    def _model_or_none(self, what: Any) -> ModelPlan | None:
        name = what.name if isinstance(what, Model) else what if isinstance(what, str) else None
        if isinstance(what, Model) and name not in self.definition_plan.models:
            raise self._unknown("model", what.name, self.definition_plan.models)
        return None if name is None else self.running_plan.models.get(name)

    def _described_name(self, what: Any) -> str:
        if isinstance(what, Model | FeatureView):
            return what.name
        owner, name = getattr(what, "owner", None), getattr(what, "name", None)
        if isinstance(owner, type) and isinstance(name, str):
            return f"{definition_of(owner).name}.{name}"
        return self._name(what)

    def _unknown(self, kind: str, name: str, known: Sequence[str] | Iterable[str]) -> NotFound:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names) or 'none'}"
        return NotFound(f'there is no {kind} "{name}"; {hint}')
