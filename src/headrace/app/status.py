"""What runs in a project, how far it is, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from headrace.app.changes import stream_name
from headrace.app.heartbeats import COPY, LAYERS, STALE_US, Heartbeat, read_heartbeat
from headrace.app.locks import holder_of
from headrace.app.scheduled import GroupStatus, group_status, run_text
from headrace.app.sharing import WorkerStatus, extra_workers, layer_role, worker_status
from headrace.core.errors import Unreachable
from headrace.core.positions import decode_position
from headrace.core.time import to_iso
from headrace.registry.base import CANARY, CHALLENGER, CHAMPION
from headrace.serving.split import read_split

if TYPE_CHECKING:
    from headrace.app.wiring import Parts

_SHOWN = 5


class LayerStatus(msgspec.Struct, frozen=True):
    """A layer: `alive` if its lock is held, `late` if it holds the lock but has not reported for seconds."""

    name: str
    alive: bool
    late: bool
    pid: int | None
    lag: int
    rate: float
    address: str
    problem: str
    counters: dict[str, float]


class StreamStatus(msgspec.Struct, frozen=True):
    """A stream, raw or derived: events in the log, and how many of them (of a derived stream: of its source's) are not
    computed, not visible online yet."""

    name: str
    events: int
    uncomputed: int
    invisible: int


class ModelStatus(msgspec.Struct, frozen=True):
    """A model: how many versions it has and which one decides."""

    name: str
    versions: int
    champion: int | None
    challenger: int | None
    last_decision: str
    canary: int | None = None
    share: float | None = None


class DeadLetterStatus(msgspec.Struct, frozen=True):
    """An event that was set aside: where it stands in its stream and why."""

    stream: str
    partition: int
    offset: int
    field: str
    reason: str


class ProjectStatus(msgspec.Struct, frozen=True):
    """All of it; `str()` is for people, `to_dict()` plain JSON values."""

    folder: str
    env: str
    applied: bool
    layers: list[LayerStatus]
    workers: list[WorkerStatus]
    streams: list[StreamStatus]
    groups: list[GroupStatus]
    dead_letters: int
    open_dead_letters: int
    newest_dead_letters: list[DeadLetterStatus]
    records: int
    online_problem: str
    predictions: int
    models: list[ModelStatus]
    runs: list[dict[str, Any]]
    alerts: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(msgspec.to_builtins(self))

    def __str__(self) -> str:
        lines = [f"project {self.folder} ({self.env}){'' if self.applied else ', definitions not applied'}"]
        lines += [_layer_line(layer) for layer in self.layers]
        lines += [str(worker) for worker in self.workers]
        for stream in self.streams:
            rest = f", {stream.uncomputed:,} not computed yet" if stream.uncomputed else ""
            rest += f", {stream.invisible:,} not visible online yet" if stream.invisible else ""
            lines.append(f"stream {stream.name:<12} {stream.events:>12,} events{rest}")
        if self.online_problem:
            lines.append(f"online store: {self.online_problem}")
        # Of the others the lines of their streams tell all.
        lines += [str(group) for group in self.groups if group.run != run_text(None)]
        lines.append(f"online store {self.records:>14,} records; {self.predictions:,} predictions logged")
        waiting = f"; {self.open_dead_letters:,} open (headrace dead list)" if self.open_dead_letters else ""
        lines.append(f"dead letters {self.dead_letters:>14,}{waiting}")
        lines += [
            f"  {d.stream} partition {d.partition} offset {d.offset}: {d.field or 'whole event'}: {d.reason}"
            for d in self.newest_dead_letters
        ]
        for model in self.models:
            champion = "no champion" if model.champion is None else f"champion {model.champion}"
            if model.canary is not None and model.share is not None:
                champion += f", canary {model.canary} answers {100 * model.share:.4g} % of requests"
            last = f"; {model.last_decision}" if model.last_decision else ""
            lines.append(f"model {model.name}: {model.versions} versions, {champion}{last}")
        lines += [f"run {r['job']} ({r['trigger']}): {r['status']} {to_iso(r['started_us'])}" for r in self.runs]
        lines += [f"ALERT {a['severity']} {a['kind']} {a['subject']} {to_iso(a['at_us'])}" for a in self.alerts]
        return "\n".join(lines)


def project_status(parts: Parts) -> ProjectStatus:
    """Look at everything once; starts nothing and changes nothing."""
    catalog = parts.catalog
    now = parts.clock.now_us()
    (dead, waiting), newest = _dead_letters(parts)
    records, problem = _online(parts)
    copying = [COPY] if parts.settings.copied else []
    return ProjectStatus(
        str(parts.settings.folder),
        parts.settings.env,
        bool(catalog.definitions()),
        [layer_status(parts, layer, now) for layer in (*LAYERS, *extra_workers(parts.settings.state), *copying)],
        worker_status(parts),
        _streams(parts),
        [] if problem else [group_status(parts, group) for group in parts.plan.computed_groups],
        dead,
        waiting,
        newest,
        records,
        problem,
        _end(parts.internal, "predictions"),
        [_model(parts, name) for name in parts.plan.models],
        [msgspec.to_builtins(run) for run in catalog.runs(limit=_SHOWN)],
        [msgspec.to_builtins(alert) for alert in catalog.alerts(open_only=True, limit=20)],
    )


def _online(parts: Parts) -> tuple[int, str]:
    """How many records there are, and what keeps the store from telling."""
    try:
        return parts.online.count(), ""
    except Unreachable as error:
        return 0, str(error)


def layer_status(parts: Parts, layer: str, now_us: int) -> LayerStatus:
    """One layer, from its lock and its heartbeat."""
    alive = holder_of(parts.settings.state, layer_role(layer, parts.settings)) is not None
    beat = read_heartbeat(parts.settings.state, layer) or Heartbeat(layer, 0, 0, 0)
    late = alive and now_us - beat.at_us > STALE_US
    return LayerStatus(
        layer, alive, late, beat.pid if alive else None, beat.lag if alive else 0, beat.rate if alive else 0.0,
        beat.address if alive else "", beat.problem, beat.counters,
    )  # fmt: skip


_TOLD = {
    "rows_read": "{:,.0f} rows read",
    "rows_unchanged": "{:,.0f} unchanged",
    "rows_written": "{:,.0f} written",
    "rows_dead": "{:,.0f} dead",
    "throttled_s": "throttled for {:,.0f} s",
    "copied": "{:,.0f} events copied",
    "lost_shards": "{:,.0f} shards dropped before they were read",
    "lost_records": "up to {:,.0f} events dropped before they were read",
    "reconciled": "{:,.0f} records reconciled",
    "repaired": "{:,.0f} repaired",
}
"""Counters that the line of a layer shows, unless they are 0."""


def _layer_line(layer: LayerStatus) -> str:
    if not layer.alive:
        return f"layer {layer.name:<12} not running{f' ({layer.problem})' if layer.problem else ''}"
    state = "late" if layer.late else "alive"
    where = f" at {layer.address}" if layer.address else ""
    told = [text.format(layer.counters[name]) for name, text in _TOLD.items() if layer.counters.get(name)]
    rest = "".join(f"; {part}" for part in (", ".join(told), layer.problem) if part)
    return f"layer {layer.name:<12} {state}, process {layer.pid}, lag {layer.lag:,}, {layer.rate:,.0f}/s{where}{rest}"


def _streams(parts: Parts) -> list[StreamStatus]:
    from headrace.engines.stream.worker import committed_positions

    topics = parts.raw.topics()
    computed = committed_positions(parts.features)
    try:
        online = decode_position(parts.online.position()).streams
    except Unreachable:
        online = {}
    found = []
    for topic in parts.plan.topics():
        root = parts.plan.root(topic)
        ends = [parts.raw.end(root, p) for p in range(topics.get(root, 0))]
        found.append(
            StreamStatus(
                stream_name(parts.plan, topic),
                sum(parts.raw.end(topic, p) - parts.raw.begin(topic, p) for p in range(topics.get(topic, 0))),
                sum(ends) - sum(computed.get(topic, [])),
                sum(ends) - sum(online.get(topic, [])),
            )
        )
    return found


def _dead_letters(parts: Parts) -> tuple[tuple[int, int], list[DeadLetterStatus]]:
    from headrace.app.letters import letters_of
    from headrace.engines.stream.commits import DEAD_LETTERS, decode_dead_letters
    from headrace.ingestion.masking import Masker

    counts = letters_of(parts).count()
    end = _end(parts.features, DEAD_LETTERS)
    if not end:
        return counts, []
    start = max(end - _SHOWN, parts.features.begin(DEAD_LETTERS, 0))
    batches = parts.features.read(DEAD_LETTERS, 0, start, _SHOWN)
    masker = Masker(parts.plan.streams)
    letters = [masker.letter(d) for batch in batches for d in decode_dead_letters(batch.payload)[-_SHOWN:]][-_SHOWN:]
    return counts, [DeadLetterStatus(d.stream, d.partition, d.offset, d.field, d.reason) for d in letters]


def _end(log: Any, topic: str) -> int:
    return int(log.end(topic, 0)) if topic in log.topics() else 0


def _model(parts: Parts, name: str) -> ModelStatus:
    decisions = parts.catalog.decisions(name, limit=1)
    last = "" if not decisions else f"version {decisions[0].challenger} {decisions[0].verdict}: {decisions[0].reason}"
    registry = parts.registry
    split = read_split(parts.catalog.setting, name)
    canary = registry.alias(name, CANARY)
    return ModelStatus(
        name,
        len(registry.list(name)),
        registry.alias(name, CHAMPION),
        registry.alias(name, CHALLENGER),
        last,
        canary,
        split.share if split is not None and split.number == canary else None,
    )
