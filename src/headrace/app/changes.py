"""What a project defines as the catalog keeps it, and what an edit of it changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.app.evolution import Body, evolved, field_body, refusals, widened
from headrace.app.kept import Need
from headrace.app.scheduled import run_text
from headrace.catalog.records import DefinitionChange, DefinitionRecord
from headrace.core.errors import PlanError
from headrace.features.plan import DerivedPlan, GroupPlan, ModelPlan, ProjectPlan, StreamPlan, TablePlan, ViewPlan
from headrace.features.version import digest, node_content

if TYPE_CHECKING:
    from headrace.catalog.catalog import Catalog

_UNUSED = "definitions without events of "
_NAMED = ("stream", "derived")
"""What lies in a topic of its name: another name is another one."""
SIGNS = {"added": "+", "changed": "~", "removed": "-", "renamed": ">"}


def definition_records(plan: ProjectPlan, owner: str = "") -> list[DefinitionRecord]:
    """One record per stream, logged derived stream, table, group, feature, view and model; `owner` stands in where none
    is named.

    A feature is named `<group>.<feature>`. Versions hash what is computed, not what it is called.
    """
    records = [_stream(stream) for stream in plan.streams.values()]
    records += [_derived(derived, plan) for derived in plan.derived.values()]
    records += [_table(table) for table in plan.tables.values()]
    for group in plan.groups.values():
        stream = stream_name(plan, group.stream)
        records += [_group(group, stream), *_features(group, stream)]
    records += [_view(view) for view in plan.views.values()]
    records += [_model(model, plan) for model in plan.models.values()]
    if not owner:
        return records
    return [record if record.owner else DefinitionRecord(**{**_as_dict(record), "owner": owner}) for record in records]


def stream_name(plan: ProjectPlan, topic: str) -> str:
    """What users call the stream of a topic."""
    derived = plan.derived.get(topic)
    return topic if derived is None else derived.name


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one definition: "added", "changed", "removed" or "renamed" (`was` is the former name)."""

    kind: str
    name: str
    change: str
    before: str | None
    after: str | None
    was: str | None = None

    def __str__(self) -> str:
        sign = SIGNS[self.change]
        if self.change == "renamed":
            return f"{sign} {self.kind} {self.was} -> {self.name}"
        versions = f" {(self.before or '')[:8]} -> {(self.after or '')[:8]}" if self.change == "changed" else ""
        return f"{sign} {self.kind} {self.name}{versions}"


@dataclass(frozen=True, slots=True)
class RunChange:
    """How a group will run that ran otherwise, or is `new`: µs between two runs, None in the stream."""

    name: str
    version: str
    before: int | None
    after: int | None
    new: bool = False

    @property
    def joins(self) -> bool | None:
        """True if it goes over to the stream, False if it leaves it, None if it does neither."""
        if self.new or (self.before is None) == (self.after is None):
            return None
        return self.after is None

    def __str__(self) -> str:
        if self.new:
            return f"  group {self.name} runs {run_text(self.after)}"
        return f"~ group {self.name} runs {run_text(self.after)}, so far {run_text(self.before)}"


@dataclass(frozen=True, slots=True)
class ProjectChanges:
    """What `apply` would do.

    Attributes:
        changes: definitions added, changed, renamed or removed, streams first.
        models: models that read something that changes; each keeps its champion only if its view stays as it is.
        backfills: groups whose state has to be computed from events that are in the log already.
        dropped: versions of groups that are computed no longer.
        derives: derived streams that have to be derived from events that are in the log already.
        records: what the catalog will hold.
        evolutions: by stream, how its fields change while its older events stay readable.
        needs: versions of models that may answer and were trained on another version of their view.
        reuse: new and edited features though one of equal definition is there: (new, there, its owner).
        events: how many events the backfills will read.
        seconds: about how long that takes, by the last backfill's rate; None if none has told.
        runs: groups that the configuration makes run otherwise than they do, and new ones that are scheduled.
        generation: the catalog's, when the definitions were compared with it.
    """

    changes: tuple[Change, ...]
    models: tuple[str, ...]
    backfills: tuple[str, ...]
    dropped: tuple[str, ...]
    records: tuple[DefinitionRecord, ...]
    evolutions: tuple[tuple[str, str], ...] = ()
    derives: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    reuse: tuple[tuple[str, str, str], ...] = ()
    events: int = 0
    seconds: float | None = None
    runs: tuple[RunChange, ...] = ()
    generation: int = 0

    def __bool__(self) -> bool:
        return bool(self.changes or self.runs)

    def __str__(self) -> str:
        if not self:
            return "nothing changes"
        lines = [*map(str, self.changes), *map(str, self.runs)]
        lines += [f"  stream {name}: {told}" for name, told in self.evolutions]
        bound = {need.model for need in self.needs}
        lines += [
            f"  model {name} reads something that changes: train it again" for name in self.models if name not in bound
        ]
        lines += [f"  {need}" for need in self.needs]
        lines += [
            f"  {added} is the same as {there}{f' of {owner}' if owner else ''}: use that one"
            for added, there, owner in self.reuse
        ]
        lines += [f"  stream {name} is derived from the events in the log" for name in self.derives]
        lines += [f"  group {name} is computed from archive and log" for name in self.backfills]
        if self.events:
            about = "" if self.seconds is None else f", about {_rough(self.seconds)}"
            lines.append(f"  backfill: {self.events:,} events{about}")
        lines += [
            f"  table {change.name} starts empty: its query runs again, or put its rows again"
            for change in self.changes
            if change.kind == "table" and change.change == "changed"
        ]
        return "\n".join(lines)


def project_changes(
    plan: ProjectPlan,
    catalog: Catalog,
    owner: str = "",
    *,
    has_events: Callable[[str], bool] = lambda stream: True,
    largest: Callable[[str, str], float] = lambda stream, field: 0.0,
    computed: frozenset[str] = frozenset(),
) -> ProjectChanges:
    """Compare definitions with what is applied.

    `has_events` says whether anything was ever published to a stream; one that is empty may change in any way.
    `largest` gives the greatest absolute value of a field of a stream, asked of ints that become floats. `computed` are
    versions of groups that are computed besides the applied ones. Raises
    PlanError, listing every reason with its cure, if older events of a stream cannot be read under its new fields.
    """
    records = definition_records(plan, owner)
    generation = catalog.generation()
    found = catalog.diff(records)
    changes = _with_renames([change for change in found if change.change != "unchanged"], catalog)
    touched = {(change.kind, change.name) for change in changes}
    evolutions = _evolutions(plan, catalog, changes, has_events, largest)
    models = [
        model.name
        for model in plan.models.values()
        if ("view", model.view) in touched and any(c.change == "changed" and c.name == model.view for c in changes)
    ]
    active = catalog.definitions()
    before = computed | {d.record.version for d in active if d.record.kind == "group"}
    groups = [
        c.name
        for c in changes
        if c.kind == "group" and c.change in ("added", "changed") and plan.groups[c.name].version not in before
    ]
    derives = [c.name for c in changes if c.kind == "derived" and c.change in ("added", "changed")]
    dropped = sorted(before - {group.version for group in plan.computed_groups})
    return ProjectChanges(
        tuple(changes), tuple(models), tuple(groups), tuple(dropped), tuple(records), tuple(evolutions),
        derives=tuple(derives), reuse=_reuse(changes, records), generation=generation,
    )  # fmt: skip


def _reuse(changes: Sequence[Change], records: Sequence[DefinitionRecord]) -> tuple[tuple[str, str, str], ...]:
    """New and edited features of whose very definition there is another."""
    added = {c.name: c.after for c in changes if c.kind == "feature" and c.change in ("added", "changed")}
    features = [record for record in records if record.kind == "feature"]
    found = []
    for name, version in added.items():
        same = [r for r in features if r.version == version and r.name != name and r.name not in added]
        # Of several that are added at once the first one is the one to use.
        same += [r for r in features if r.version == version and r.name in added]
        if same[0].name != name:
            found.append((name, same[0].name, same[0].owner))
    return tuple(found)


def _rough(seconds: float) -> str:
    """About how long, for people."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def forget_empty_streams(changes: ProjectChanges, catalog: Catalog, has_events: Callable[[str], bool]) -> None:
    """Note that no event was published under what was applied before to the streams that change; called by `apply`."""
    for name in _fresh_streams(changes.changes):
        if not has_events(name):
            catalog.set_setting(_UNUSED + name, len(_applied(catalog).get(name, ())))


def _fresh_streams(changes: Sequence[Change]) -> list[str]:
    return [c.name for c in changes if c.kind == "stream" and c.change in ("added", "changed")]


def _applied(catalog: Catalog) -> dict[str, list[Body]]:
    """All definitions of each stream that were ever applied, the oldest first."""
    found: dict[str, list[Body]] = {}
    for definition in catalog.definitions("stream", active=False):
        found.setdefault(definition.record.name, []).append(definition.record.body)
    return found


def _evolutions(
    plan: ProjectPlan,
    catalog: Catalog,
    changes: Sequence[Change],
    has_events: Callable[[str], bool],
    largest: Callable[[str, str], float],
) -> list[tuple[str, str]]:
    touched = _fresh_streams(changes)
    applied = _applied(catalog) if touched else {}
    found: list[tuple[str, str]] = []
    problems: list[str] = []
    for name in touched:
        bodies = applied.get(name, [])[catalog.setting(_UNUSED + name, 0) :]
        if not bodies or not has_events(name):
            continue
        schema = plan.streams[name].schema
        problems += refusals(name, bodies, schema)
        problems += [
            f'stream {name}: field "{field}" holds ints of 2^53 or more, which floats would round; keep int, or add a '
            "field of another name"
            for field in widened(bodies[-1], schema)
            if largest(name, field) >= 2**53
        ]
        told = evolved(bodies[-1], schema)
        if told:
            found.append((name, told))
    if problems:
        raise PlanError("older events could not be read under these definitions:\n" + "\n".join(problems))
    return found


def _with_renames(changes: Sequence[DefinitionChange], catalog: Catalog) -> list[Change]:
    """Pairs of one removed and one added definition of the same content become one renaming."""
    removed = {(c.kind, c.before): c.name for c in changes if c.change == "removed" and c.kind not in _NAMED}
    renamed: dict[tuple[str, str], str] = {}
    for change in changes:
        was = removed.get((change.kind, change.after))
        if change.change == "added" and was is not None and was not in renamed.values():
            renamed[change.kind, change.name] = was
    gone = {(kind, was) for (kind, _), was in renamed.items()}
    result = []
    for change in changes:
        if (change.kind, change.name) in gone and change.change == "removed":
            continue
        was = renamed.get((change.kind, change.name))
        kind = "renamed" if was is not None else change.change
        result.append(Change(change.kind, change.name, kind, change.before, change.after, was))
    return result


def _as_dict(record: DefinitionRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _fields(schema: Any) -> list[dict[str, Any]]:
    return [field_body(field) for field in schema]


def _stream(stream: StreamPlan) -> DefinitionRecord:
    fields = _fields(stream.schema)
    content = [
        [[f["name"], f["type"], f["nullable"], f["size"], *_arriving(f)] for f in fields],
        stream.schema.time_field, stream.schema.id_field, stream.future_us, stream.lateness_us, stream.dedupe_us,
    ]  # fmt: skip
    body = {"fields": fields, "time": stream.schema.time_field, "id": stream.schema.id_field}
    return DefinitionRecord("stream", stream.name, digest(content), body, stream.owner, stream.doc, stream.tags)


def _arriving(field: dict[str, Any]) -> list[Any]:
    """What else decides how a field is read; nothing for one that has neither default nor former names."""
    if field["has_default"] or field["aliases"]:
        return [field["has_default"], field["default"], field["aliases"]]
    return []


def _table(table: TablePlan) -> DefinitionRecord:
    body = {
        "fields": _fields(table.schema),
        "key": [part.name for part in table.key],
        "entities": [part.entity for part in table.key],
        "query": table.query,
        "on": table.on,
        "schedule": table.schedule,
        "ttl_us": table.ttl_us,
        "checks": [[check.kind, dict(check.params)] for check in table.checks],
    }
    return DefinitionRecord("table", table.name, table.version, body, table.owner, table.doc, table.tags)


def _derived(derived: DerivedPlan, plan: ProjectPlan) -> DefinitionRecord:
    stream = derived.stream
    body = {
        "source": stream_name(plan, derived.source),
        "fields": _fields(stream.schema),
        "computed": list(derived.computed),
        "looks_up": sorted({binding.source for binding in derived.view.bindings}),
    }
    return DefinitionRecord("derived", derived.name, derived.version, body, stream.owner, stream.doc, stream.tags)


def _group(group: GroupPlan, stream: str) -> DefinitionRecord:
    body = {
        "stream": stream,
        "topic": group.stream,
        "key": [part.name for part in group.key],
        "entities": [part.entity for part in group.key],
        "features": list(group.order),
        "resolution_us": group.resolution_us,
    }
    return DefinitionRecord("group", group.name, group.version, body, group.owner, group.doc, group.tags)


def _features(group: GroupPlan, stream: str) -> list[DefinitionRecord]:
    base = {"group": group.name, "stream": stream, "entities": [part.entity for part in group.key]}
    found = {}
    for spec in group.aggregates:
        found[spec.name] = DefinitionRecord(
            "feature", f"{group.name}.{spec.name}", spec.version,
            base | {"type": spec.dtype.value, "aggregation": spec.kind, "window_us": spec.window_us,
                    "hop_us": spec.hop_us, "delay_us": spec.delay_us},
            group.owner, spec.doc, group.tags,
        )  # fmt: skip
    for derived in group.derived:
        found[derived.name] = DefinitionRecord(
            "feature", f"{group.name}.{derived.name}", derived.version,
            base | {"type": derived.dtype.value, "computed": True}, group.owner, derived.doc, group.tags,
        )  # fmt: skip
    return [found[name] for name in group.order]


def _view(view: ViewPlan) -> DefinitionRecord:
    body = {
        "request": view.stream,
        "columns": [column.name for column in view.visible],
        "sources": sorted({binding.source for binding in view.bindings}),
    }
    return DefinitionRecord("view", view.name, view.version, body, view.owner, view.doc, view.tags)


def _model(model: ModelPlan, plan: ProjectPlan) -> DefinitionRecord:
    label = model.label
    estimator = _text(model.estimator)
    default = None if not label.has_default else [str(label.default)]
    names = plan.stream(label.stream).schema.first_names
    join = names.get(label.join_field, label.join_field)
    truth = [label.stream, join, node_content(label.node, names), label.wait_us, default]
    if label.where is not None:
        truth.append(node_content(label.where, names))
    content = [plan.views[model.view].version, truth, _estimator(model.estimator), model.metric, model.train_on_us]
    body = {
        "view": model.view,
        "estimator": estimator,
        "metric": model.metric,
        "train_on_us": model.train_on_us,
        "label": {
            "stream": stream_name(plan, label.stream),
            "wait_us": label.wait_us,
            "has_default": label.has_default,
        },
        "retrain": [[trigger.kind, dict(trigger.params)] for trigger in model.retrain],
    }
    return DefinitionRecord("model", model.name, digest(content), body, model.owner, model.doc, model.tags)


def _estimator(estimator: Any) -> list[Any]:
    """What an estimator is, equal in every process: its class and all of its parameters."""
    kind = type(estimator).__qualname__
    get_params = getattr(estimator, "get_params", None)
    if get_params is None:
        return [kind, _text(estimator)]
    return [kind, [[name, _text(value)] for name, value in sorted(get_params(deep=True).items())]]


def _text(value: Any) -> str:
    """The representation on one line, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
