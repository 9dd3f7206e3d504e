"""What a definition or a feature is, where it comes from and who uses it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.app.changes import definition_records
from headrace.core.errors import NotFound
from headrace.core.time import format_duration, to_iso

if TYPE_CHECKING:
    from headrace.app.wiring import Parts
    from headrace.catalog.records import DefinitionRecord

_ORDER = ("model", "view", "group", "table", "feature", "derived", "stream")


class VersionOf(msgspec.Struct, frozen=True):
    """A version of a definition: numbered from 1 in the order in which they were applied."""

    number: int
    version: str
    applied_at_us: int
    active: bool


class Description(msgspec.Struct, frozen=True):
    """A definition: `reads` is what it is computed from, `read_by` what reads it; `facts` are by kind."""

    kind: str
    name: str
    version: str
    owner: str
    doc: str
    tags: tuple[str, ...]
    facts: dict[str, Any]
    reads: list[str]
    read_by: list[str]
    versions: list[VersionOf]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(msgspec.to_builtins(self))

    def __str__(self) -> str:
        lines = [f"{self.kind} {self.name} version {self.version}"]
        if self.doc:
            lines.append(f"  {self.doc}")
        lines += [
            f"  {name}: {_shown(name, value)}" for name, value in self.facts.items() if value not in (None, [], "")
        ]
        lines.append(f"  owner: {self.owner or 'nobody'}{f'; tags: {chr(44).join(self.tags)}' if self.tags else ''}")
        lines.append(f"  reads: {', '.join(self.reads) or 'nothing'}")
        lines.append(f"  read by: {', '.join(self.read_by) or 'nothing'}")
        lines += [
            f"  v{v.number} {v.version} applied {to_iso(v.applied_at_us)}{' (active)' if v.active else ''}"
            for v in self.versions
        ]
        return "\n".join(lines)


def describe(parts: Parts, name: str) -> Description:
    """Describe a definition (or a feature, as `group.feature`) by name; NotFound names what is near."""
    records = {(r.kind, r.name): r for r in definition_records(parts.plan, parts.settings.owner)}
    kind = next((kind for kind in _ORDER if (kind, name) in records), None)
    if kind is None:
        names = sorted({name for _, name in records})
        near = difflib.get_close_matches(name, names, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "headrace search finds definitions by words"
        raise NotFound(f'nothing is called "{name}"; {hint}')
    record = records[kind, name]
    applied = [d for d in parts.catalog.definitions(kind, active=False) if d.record.name == name]
    versions = [VersionOf(i + 1, d.record.version, d.applied_at_us, d.active) for i, d in enumerate(applied)]
    facts = {key: value for key, value in record.body.items() if key not in ("fields", "columns", "features")}
    for key in ("fields", "columns", "features"):
        if key in record.body:
            items = record.body[key]
            facts[key] = [item["name"] if isinstance(item, dict) else item for item in items]
    return Description(
        kind, name, record.version, record.owner, record.doc, record.tags, facts,
        reads(parts, record), read_by(parts, record), versions,
    )  # fmt: skip


def reads(parts: Parts, record: DefinitionRecord) -> list[str]:
    """What a definition is computed from, directly."""
    body = record.body
    if record.kind == "feature":
        return [f"group {body['group']}"]
    if record.kind == "group":
        return [f"stream {body['stream']}"]
    if record.kind == "derived":
        return [f"stream {body['source']}", *_sources(parts, body["looks_up"])]
    if record.kind == "table":
        return ["a query" + (f" on {body['on']}" if body["on"] else "")] if body["query"] else ["put"]
    if record.kind == "view":
        return _sources(parts, body["sources"])
    if record.kind == "model":
        return [f"view {body['view']}", f"stream {body['label']['stream']} (truth)"]
    return []


def _sources(parts: Parts, names: Sequence[str]) -> list[str]:
    return [f"{'table' if name in parts.plan.tables else 'group'} {name}" for name in names]


def read_by(parts: Parts, record: DefinitionRecord) -> list[str]:
    """Definitions that read it, and the models behind them."""
    plan, name = parts.plan, record.name
    found: list[str] = []
    if record.kind in ("stream", "derived"):
        topic = next((derived.topic for derived in plan.derived.values() if derived.name == name), name)
        found += [f"stream {derived.name}" for derived in plan.derived.values() if derived.source == topic]
        found += [f"group {group.name}" for group in plan.groups.values() if group.stream == topic]
        found += [f"view {view.name}" for view in plan.views.values() if view.stream == topic]
        found += [f"model {model.name} (truth)" for model in plan.models.values() if model.label.stream == topic]
        return found
    if record.kind in ("group", "table"):
        found += [
            f"stream {derived.name}"
            for derived in plan.derived.values()
            if any(binding.source == name for binding in derived.view.bindings)
        ]
    if record.kind == "view":
        views = [name]
    else:
        source, _, feature = name.partition(".")
        views = [view.name for view in plan.views.values() if _uses(view, source, feature)]
        found += [f"view {view}" for view in views]
    return found + [f"model {model.name}" for model in plan.models.values() if model.view in views]


def _uses(view: Any, source: str, feature: str) -> bool:
    return any(
        column.binding is not None
        and view.bindings[column.binding].source == source
        and (not feature or column.feature == feature)
        for column in view.columns
    )


def _shown(name: str, value: Any) -> str:
    if name.endswith("_us") and isinstance(value, int):
        return format_duration(value)
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
