"""Versions of views that no definition describes any more, kept because a model may still answer with them.

A model's champion, canary and shadow and the version that `rollback` would go back to go on reading the features that
they were trained on, whatever the definitions say: the groups of such a view stay computed under their own version.
What is kept is decided by `apply` alone, and noted in the catalog, so that all processes compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headrace.core.errors import PlanError
from headrace.features.nodes import references
from headrace.features.plan import GroupPlan, ProjectPlan, ViewPlan
from headrace.features.plan_json import functions_of, plan_from_json, plan_to_json
from headrace.registry.base import CANARY, CHAMPION, SHADOW

if TYPE_CHECKING:
    from headrace.catalog.catalog import Catalog
    from headrace.registry.base import ModelRegistry

_ANSWER = (CHAMPION, CANARY, SHADOW)
_VIEW, _KEPT, _GROUP = "view ", "kept views", "group plan "


@dataclass(frozen=True, slots=True)
class Need:
    """A version of a model that may answer, and the version of its view that it reads.

    `live`: it is champion, canary or shadow, not only one to go back to. `lost` says why its features cannot be
    computed under the new definitions; empty if they can.
    """

    model: str
    number: int
    view: str
    view_version: str
    live: bool
    lost: str = ""

    def __str__(self) -> str:
        if self.lost:
            return (
                f"model {self.model} version {self.number} cannot answer any more: {self.lost}; keep the definition, "
                f"or apply with {'--abandon' if self.live else 'this in mind'} and train it again"
            )
        if not self.live:
            return f"model {self.model} can be rolled back to version {self.number}, whose features stay computed"
        return f"model {self.model} stays on version {self.number}, whose features stay computed; train it again"


def remember_views(plan: ProjectPlan, catalog: Catalog) -> None:
    """Store the views that models read, by version, with their groups and the versions of their tables."""
    for model in plan.models.values():
        view = plan.views[model.view]
        name = _VIEW + view.version
        groups = [plan.groups[b.source] for b in view.bindings if not b.is_table]
        tables = {b.source: plan.tables[b.source].version for b in view.bindings if b.is_table}
        catalog.set_setting(name, {"view": plan_to_json(view), "groups": plan_to_json(groups), "tables": tables})


def remember_groups(plan: ProjectPlan, catalog: Catalog) -> None:
    """Store the groups that are computed, by version: one that is dropped is ingested to the end before it goes."""
    for group in plan.computed_groups:
        if catalog.setting(_GROUP + group.version) is None:
            catalog.set_setting(_GROUP + group.version, plan_to_json(group))


def remembered_groups(catalog: Catalog, versions: Iterable[str]) -> list[GroupPlan]:
    """Those of these versions that were stored. Their functions cannot be called: they are not there any more."""

    class _Gone(dict[str, Callable[..., Any]]):
        def __missing__(self, source_hash: str) -> Callable[..., Any]:
            def gone(*_: Any) -> Any:
                raise PlanError(f"the function of hash {source_hash} is no longer there")

            return gone

    stored = [catalog.setting(_GROUP + version) for version in versions]
    return [plan_from_json(group, _Gone()) for group in stored if group is not None]


def kept_plan(plan: ProjectPlan, catalog: Catalog) -> ProjectPlan:
    """The definitions with what is kept beside them, as far as it can be computed under them.

    Definitions that it cannot be computed under are not applied yet, and nothing runs with them.
    """
    kept = {version: catalog.setting(_VIEW + version) for version in catalog.setting(_KEPT, [])}
    return with_kept(plan, {version: stored for version, stored in kept.items() if not _problem(plan, version, stored)})


def kept_streams(catalog: Catalog) -> dict[str, str]:
    """Versions of the groups of what is kept, each with the topic of its events."""
    stored = [catalog.setting(_VIEW + version) for version in catalog.setting(_KEPT, [])]
    return {group["version"]: group["stream"] for view in stored for group in view["groups"]}


def with_kept(plan: ProjectPlan, kept: Mapping[str, Any]) -> ProjectPlan:
    """The plan with views of other versions, given by version as `remember_views` stores them.

    Raises PlanError, saying why, if one cannot be computed under these definitions.
    """
    functions = functions_of(plan)
    groups: dict[str, GroupPlan] = {}
    views: dict[str, ViewPlan] = {}
    present = {group.version: group for group in plan.groups.values()}
    for version, stored in kept.items():
        view: ViewPlan = plan_from_json(stored["view"], functions)
        names = {}
        for name, table in stored["tables"].items():
            if name not in plan.tables or plan.tables[name].version != table:
                raise PlanError(f"table {name} has changed or is gone")
        for group in plan_from_json(stored["groups"], functions):
            # One that is still defined, perhaps under another name, is computed already. Features of features are no
            # part of a group's version, so its own may have changed: such a group is read under a name of its own.
            same = present.get(group.version)
            if same is not None and same.derived == group.derived and same.aggregates == group.aggregates:
                names[group.name] = same.name
                continue
            _check(plan, group)
            names[group.name] = f"{group.name}@{group.version[:8]}-{version[:8]}"
            groups[names[group.name]] = replace(group, name=names[group.name])
        _check_request(plan, view)
        bindings = tuple(b if b.is_table else replace(b, source=names[b.source]) for b in view.bindings)
        views[version] = replace(view, bindings=bindings)
    return replace(plan, kept_groups=groups, kept_views=views)


def needs_of(plan: ProjectPlan, catalog: Catalog, registry: ModelRegistry) -> tuple[Need, ...]:
    """The versions of models that may answer and read another version of their view than `plan` defines."""
    found = []
    for name in registry.models():
        live = {number for alias in _ANSWER if (number := registry.alias(name, alias)) is not None}
        former = rolled_back_to(registry, name)
        for number in sorted(live if former is None else live | {former}):
            info = registry.get(name, number).info
            need = Need(name, number, info.view, info.view_version, number in live)
            view = plan.views.get(info.view)
            if name not in plan.models:
                found.append(replace(need, lost="the model is no longer defined"))
            elif view is None or plan.models[name].view != info.view:
                found.append(replace(need, lost=f"it reads view {info.view}, another one than it is defined with"))
            elif view.version != info.view_version:
                found.append(replace(need, lost=_lost(plan, catalog, info.view_version)))
    return tuple(found)


def keep(catalog: Catalog, needs: tuple[Need, ...]) -> None:
    """Note what is kept from now on."""
    catalog.set_setting(_KEPT, sorted({need.view_version for need in needs if not need.lost}))


def plan_keeping(plan: ProjectPlan, catalog: Catalog, needs: tuple[Need, ...]) -> ProjectPlan:
    """The definitions with what these needs keep."""
    return with_kept(plan, {n.view_version: catalog.setting(_VIEW + n.view_version) for n in needs if not n.lost})


def rolled_back_to(registry: ModelRegistry, model: str) -> int | None:
    """The version that `rollback` would make champion; None if there is none."""
    current = registry.alias(model, CHAMPION)
    former = [change.number for change in registry.alias_history(model, CHAMPION) if change.number is not None]
    while former and former[-1] == current:
        former.pop()
    return former[-1] if former else None


def _lost(plan: ProjectPlan, catalog: Catalog, version: str) -> str:
    stored = catalog.setting(_VIEW + version)
    if stored is None:
        return "its view was applied by a former version of headrace, which kept no plan of it"
    return _problem(plan, version, stored)


def _problem(plan: ProjectPlan, version: str, stored: Any) -> str:
    """Why a view cannot be computed under these definitions; empty if it can."""
    try:
        with_kept(plan, {version: stored})
    except PlanError as error:
        return str(error)
    return ""


def _check(plan: ProjectPlan, group: GroupPlan) -> None:
    """Raise PlanError unless the group's stream still has all that it reads."""
    stream = plan.topics().get(group.stream)
    if stream is None:
        raise PlanError(f"stream {group.stream} is gone")
    nodes = [spec.node for spec in group.inputs] + ([] if group.where is None else [group.where])
    for name in sorted(set().union(*map(references, nodes)) | {part.name for part in group.key}):
        if name not in stream.schema:
            raise PlanError(f"stream {group.stream} has no field {name} any more")
    for part in group.key:
        if stream.schema[part.name].dtype is not part.dtype:
            raise PlanError(f"field {part.name} of stream {group.stream} has another type")


def _check_request(plan: ProjectPlan, view: ViewPlan) -> None:
    request = plan.topics().get(view.stream)
    for field in view.request.fields:
        if request is None or field.name not in request.schema or request.schema[field.name].dtype is not field.dtype:
            raise PlanError(f"requests have no field {field.name} of type {field.dtype.value} any more")
