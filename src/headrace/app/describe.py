"""What a definition or a feature is, where it comes from and who uses it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.app.changes import definition_records
from headrace.app.scheduled import group_status
from headrace.app.statistics import kept_statistics, statistics_line
from headrace.catalog.records import DefinitionRecord
from headrace.core.errors import NotFound
from headrace.core.positions import decode_position
from headrace.core.time import format_duration, to_iso
from headrace.features.plan import TablePlan
from headrace.registry.base import CHAMPION
from headrace.training.statistics import ColumnStatistics

if TYPE_CHECKING:
    from headrace.app.wiring import Parts

_LOOKED_BACK = 200_000
"""Rows of tables, from the newest on, among which the last one of a table is looked for."""
_ORDER = ("model", "view", "group", "table", "feature", "derived", "stream")


class VersionOf(msgspec.Struct, frozen=True):
    """A version of a definition: numbered from 1 in the order in which they were applied."""

    number: int
    version: str
    applied_at_us: int
    active: bool


class Freshness(msgspec.Struct, frozen=True):
    """How new something is: the time of its newest event or row, and how long before now that lies, in µs."""

    newest_us: int
    age_us: int


class ShownStatistics(msgspec.Struct, frozen=True):
    """Figures of a column of a view or model (`what`), and when they were computed."""

    what: str
    at_us: int
    column: ColumnStatistics


class Description(msgspec.Struct, frozen=True):
    """A definition.

    Attributes:
        facts: what it is, by kind.
        reads, read_by: what it is computed from, and what reads it, directly.
        lineage: all that it is computed from, back to streams and queries.
        models: models that read it, on whatever way, each with the version that answers.
        freshness: by stream or table that it is computed from: time of the newest event that the online store
            reflects, or of the last row written, and how long ago that was; None where nothing has come yet.
        statistics: figures of the columns that show it, as `Project.statistics` computed them last.
    """

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
    lineage: list[str] = []
    models: list[str] = []
    freshness: dict[str, Freshness | None] = {}
    statistics: list[ShownStatistics] = []

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
        lines.append(f"  comes from: {', '.join(self.lineage) or 'outside'}")
        lines.append(f"  models: {', '.join(self.models) or 'none'}")
        lines += [
            f"  {name}: nothing yet" if found is None
            else f"  {name}: newest {to_iso(found.newest_us)}, {_ago(found.age_us)}"
            for name, found in self.freshness.items()
        ]  # fmt: skip
        lines += [
            f"  in {shown.what}: {statistics_line(shown.column, shown.column.information is not None)}"
            for shown in self.statistics
        ]
        lines += [
            f"  v{v.number} {v.version} applied {to_iso(v.applied_at_us)}{' (active)' if v.active else ''}"
            for v in self.versions
        ]
        return "\n".join(lines)


def describe(parts: Parts, name: str) -> Description:
    """Describe a definition (or a feature, as `group.feature`) by name; NotFound names what is near."""
    known = definition_records(parts.plan, parts.settings.owner)
    records = {(r.kind, r.name): r for r in [*known, *_table_features(parts, known)]}
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
    if kind == "group":
        status = group_status(parts, parts.plan.groups[name])
        facts["runs"] = status.run if parts.plan.groups[name].version not in parts.plan.scheduled else str(status)
    if kind in ("stream", "table"):
        schema = (parts.plan.streams if kind == "stream" else parts.plan.tables)[name].schema
        facts["docs"] = [f"{field.name}: {field.doc}" for field in schema if field.doc]
    return Description(
        kind, name, record.version, record.owner, record.doc, record.tags, facts,
        reads(parts, record), read_by(parts, record), versions, lineage(parts, record, records),
        models_of(parts, record), _freshness(parts, record), _statistics(parts, record),
    )  # fmt: skip


def _table_features(parts: Parts, known: list[DefinitionRecord]) -> list[DefinitionRecord]:
    """Features of tables; a table's version says all that theirs could."""
    tables = {record.name: record for record in known if record.kind == "table"}
    return [
        DefinitionRecord(
            "feature", f"{table.name}.{field.name}", table.version,
            {"group": table.name, "entities": [part.entity for part in table.key], "type": field.dtype.value},
            tables[table.name].owner, field.doc, table.tags,
        )
        for table in parts.plan.tables.values()
        for field in table.features
    ]  # fmt: skip


def lineage(parts: Parts, record: DefinitionRecord, records: Mapping[tuple[str, str], DefinitionRecord]) -> list[str]:
    """All that a definition is computed from, the nearest first, back to streams and queries."""
    found: dict[str, None] = {}
    waiting = [record]
    while waiting:
        for name in reads(parts, waiting.pop(0)):
            kind, _, rest = name.removesuffix(" (truth)").partition(" ")
            if name not in found and (kind, rest) in records:
                waiting.append(records[kind, rest])
            found.setdefault(name)
    return list(found)


def models_of(parts: Parts, record: DefinitionRecord) -> list[str]:
    """Models that read a definition on whatever way, each with the version that answers now."""
    plan, name = parts.plan, record.name
    groups = (
        {group.name for group in plan.groups.values() if group.stream == name} if record.kind == "stream" else set()
    )
    found = []
    for model in plan.models.values():
        view = plan.views[model.view]
        here = name in (model.name, view.name) or (
            record.kind == "stream" and name in (view.stream, model.label.stream)
        )
        source, _, feature = name.partition(".")
        if here or _uses(view, source, feature) or any(_uses(view, group, "") for group in groups):
            champion = parts.registry.alias(model.name, CHAMPION)
            told = ""
            if champion is not None:
                former = parts.registry.get(model.name, champion).info.view_version != view.version
                told = f" (version {champion}{', on features of a former version' if former else ''})"
            found.append(model.name + told)
    return found


def _freshness(parts: Parts, record: DefinitionRecord) -> dict[str, Freshness | None]:
    plan, now = parts.plan, parts.clock.now_us()
    sources = [record.name.partition(".")[0]]
    if record.kind in ("view", "model"):
        sources = [b.source for b in plan.views[record.body.get("view", record.name)].bindings]
    clocks = decode_position(parts.online.position()).clock_us
    found: dict[str, Freshness | None] = {}
    for name in sources:
        if name in plan.tables:
            newest = _last_written(parts, plan.tables[name])
            found[f"table {name}"] = None if newest is None else Freshness(newest, now - newest)
        else:
            stream = plan.groups[name].stream if name in plan.groups else name
            clock = clocks.get(stream)
            if name in plan.groups and plan.groups[name].version in plan.scheduled:
                clock = group_status(parts, plan.groups[name]).newest_us
                stream += f" in {name}"
            found[f"stream {stream}"] = None if clock is None else Freshness(clock, now - clock)
    return found


def _last_written(parts: Parts, table: TablePlan) -> int | None:
    """When the newest row of a table was written, among the newest batches of the log."""
    from headrace.core.tablerows import decode_table_rows
    from headrace.engines.stream.commits import TABLES

    log = parts.features
    end = log.end(TABLES, 0) if TABLES in log.topics() else 0
    at = max(end - _LOOKED_BACK, log.begin(TABLES, 0)) if end else 0
    for batch in reversed(log.read(TABLES, 0, at, _LOOKED_BACK) if end else []):
        rows = decode_table_rows(batch.payload)
        if (rows.table, rows.version) == (table.name, table.version):
            return batch.arrival_us
    return None


def _statistics(parts: Parts, record: DefinitionRecord) -> list[ShownStatistics]:
    """Kept figures: of a feature, those of the columns that show it; of a view or model, of all its columns."""
    plan = parts.plan
    found = []
    source, _, feature = record.name.partition(".")
    for name, view in [(m.name, plan.views[m.view]) for m in plan.models.values()] + [*plan.views.items()]:
        kept = kept_statistics(parts.catalog, name, view.version)
        if kept is None:
            continue
        columns = {
            column.name
            for column in view.visible
            if column.binding is not None
            and (view.bindings[column.binding].source, column.feature) == (source, feature or column.feature)
        }
        whole = record.kind in ("view", "model") and name == record.name
        found += [ShownStatistics(name, kept.at_us, c) for c in kept.columns if whole or c.name in columns]
    return found


def reads(parts: Parts, record: DefinitionRecord) -> list[str]:
    """What a definition is computed from, directly."""
    body = record.body
    if record.kind == "feature":
        group = parts.plan.groups.get(body["group"])
        specs = [] if group is None else [s for s in group.derived if f"{group.name}.{s.name}" == record.name]
        elsewhere = {read.source for spec in specs for read in spec.reads}
        return _sources(parts, [body["group"], *sorted(elsewhere)])
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


def _ago(age_us: int) -> str:
    return f"{format_duration(age_us - age_us % 1_000_000)} ago" if age_us >= 1_000_000 else "just now"


def _shown(name: str, value: Any) -> str:
    if name.endswith("_us") and isinstance(value, int):
        return format_duration(value)
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
