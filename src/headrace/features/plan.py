"""The engine-neutral plan: definitions after every name is resolved. Frozen data that engines interpret.

`features/compile.py` makes it from the user's classes; nothing below `features/` knows those classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.core.schema import DType, Field, Schema
from headrace.features.nodes import Node


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """A raw stream (a topic). Verdict settings are of the stream (design 4.6)."""

    name: str
    schema: Schema
    partition_key: tuple[str, ...] = ()
    future_us: int = 3_600_000_000
    lateness_us: int | None = None
    dedupe_us: int = 86_400_000_000
    owner: str = ""
    doc: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One field of a group's key: its name in the source stream or table, its type, the entity that it names."""

    name: str
    dtype: DType
    entity: str | None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A column that a group's aggregations read, as an expression over the fields of one event.

    `size` is the length of its lists, if it is a LIST.
    """

    node: Node
    dtype: DType
    size: int | None = None


@dataclass(frozen=True, slots=True)
class AggregateSpec:
    """One aggregated feature of a group.

    `kind` is the aggregation's name (count, sum, mean, …). `input` and `where` index the group's inputs; `where` is a
    BOOL input whose null is false. `window_us` None is the whole lifetime. `hop_us` is the step of the window's lower
    edge (at least the group's resolution; equal to it means exact). `by` indexes the input whose values
    are the keys of a map; None is no map. Of a LIST input the value is a LIST, too, made element by element.
    """

    name: str
    kind: str
    input: int | None
    where: int | None
    window_us: int | None
    hop_us: int
    delay_us: int
    dtype: DType
    params: tuple[tuple[str, Any], ...] = ()
    version: str = ""
    doc: str = ""
    by: int | None = None


@dataclass(frozen=True, slots=True)
class FeatureRead:
    """A feature of another group or a table that a feature of features reads; its expression calls it `name`.

    `keys` are the fields of the reading group's key that hold the key of `source`, one per part.
    """

    name: str
    source: str
    is_table: bool
    feature: str
    dtype: DType
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DerivedSpec:
    """A feature of features: an expression over the group's own feature names (local names such as "n_30m").

    `reads` are the columns of other groups and tables in it, looked up at the time of the read.
    """

    name: str
    node: Node
    dtype: DType
    version: str = ""
    doc: str = ""
    reads: tuple[FeatureRead, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A windowed feature group: aggregations over the events of one stream per entity.

    `stream` is the topic of its events: a raw stream's name, or the topic of a logged derived stream.

    `where` keeps only events for which it is true. `order` lists all feature names as declared. `version` is 16 hex
    digits: the hash of everything that decides the stored state (stream, where, key, inputs, aggregates, resolution).
    """

    name: str
    version: str
    stream: str
    where: Node | None
    key: tuple[KeyPart, ...]
    inputs: tuple[InputSpec, ...]
    aggregates: tuple[AggregateSpec, ...]
    derived: tuple[DerivedSpec, ...]
    order: tuple[str, ...]
    resolution_us: int = 1
    owner: str = ""
    doc: str = ""
    tags: tuple[str, ...] = ()

    @property
    def dtypes(self) -> dict[str, DType]:
        """Types of all features by name."""
        return {s.name: s.dtype for s in self.aggregates} | {s.name: s.dtype for s in self.derived}


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """A declared check that gates each batch run of a table.

    Kinds and params: rows(min, max) · null_share(column, max) · unique(columns) · in_range(column, min, max).
    """

    kind: str
    params: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table: the latest row per key. Fed by a scheduled query or by `put`.

    `query` is None for tables fed by `put`; `on` names a configured source. `schedule` is None (once per apply),
    "@hourly", "@daily" or a duration such as "15m". Features are the fields that are neither key nor event time.
    """

    name: str
    version: str
    schema: Schema
    key: tuple[KeyPart, ...]
    query: str | None
    on: str | None
    schedule: str | None
    ttl_us: int | None
    delay_us: int
    checks: tuple[CheckSpec, ...]
    owner: str = ""
    doc: str = ""
    tags: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[Field, ...]:
        """Fields that are features: neither part of the key nor the event time."""
        keys = {part.name for part in self.key}
        return tuple(f for f in self.schema if f.name not in keys and f.name != self.schema.time_field)


@dataclass(frozen=True, slots=True)
class Binding:
    """A group or table looked up with the key in `request_keys` (request fields, one per key part).

    `source` is its name; `prefix` ("" or e.g. "origin__") stands before `<group>__<feature>` in column names.
    """

    source: str
    is_table: bool
    prefix: str
    request_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """One column of a view.

    origin "feature": `binding` and `feature` (local name) say where it is read; "request": the request field of that
    name; "computed": `node` over the view's other columns. Hidden columns are read for computed ones only. `calendar`
    marks values that depend on the request's time alone (never watched for drift).
    """

    name: str
    dtype: DType
    origin: Literal["feature", "request", "computed"]
    binding: int | None = None
    feature: str | None = None
    node: Node | None = None
    hidden: bool = False
    calendar: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """A feature view: what a model sees for one request.

    `request` is the schema of the request event, `stream` its topic. Columns are in output order, and each computed
    one stands after all that it reads. `version` is the hash of everything that decides a value. `where` names the
    hidden column of the condition that events of the stream have to meet to be requests; None: all are.
    """

    name: str
    version: str
    stream: str
    request: Schema
    bindings: tuple[Binding, ...]
    columns: tuple[ViewColumn, ...]
    owner: str = ""
    doc: str = ""
    where: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def visible(self) -> tuple[ViewColumn, ...]:
        """Columns that a caller gets."""
        return tuple(column for column in self.columns if not column.hidden)


@dataclass(frozen=True, slots=True)
class DerivedPlan:
    """A derived stream that is logged, since it looks something up (or computes a key).

    `view` is asked once per event of the stream `view.stream`, at the event's own time; its visible columns stand
    beside the event's fields in the derived record, and the column `_where`, if it is there, says which events belong.
    `stream` describes the logged records: its name is their topic, `<name>-<version>`, so that an edit begins a new
    topic. A record has partition and offset of its source.
    """

    name: str
    version: str
    stream: StreamPlan
    view: ViewPlan

    @property
    def topic(self) -> str:
        """The topic of the derived records."""
        return self.stream.name

    @property
    def source(self) -> str:
        """The topic of the events that it is derived from."""
        return self.view.stream

    @property
    def computed(self) -> tuple[str, ...]:
        """Names of the columns that stand beside the source's fields."""
        return tuple(column.name for column in self.view.visible if column.name != WHERE)


WHERE = "_where"
"""The column of a derived stream's view that says which events belong to it."""


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """The truth: `node` over an event of `stream`, joined where its field `join_field` equals the request's id.

    Only events for which `where` is true bring a truth; None: all do.

    The latest event wins. A row may train when `wait_us` has passed since the request; then without truth it gets
    `default`, or is left out if there is none (`has_default` False).
    """

    stream: str
    join_field: str
    node: Node
    dtype: DType
    wait_us: int
    has_default: bool
    default: Any
    where: Node | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """When to retrain. Kinds and params: every(every_us) · on_drift(psi) · on_decay(drop)."""

    kind: str
    params: tuple[tuple[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.params)[name]


@dataclass(frozen=True, slots=True)
class PromotionPlan:
    """Promote a challenger that is better on the last `on_us` of truth with this confidence."""

    on_us: int
    confidence: float
    no_worse_in: tuple[str, ...] = ()
    steps: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model: an unfitted scikit-learn style estimator on a view, its truth, and how it is kept fresh."""

    name: str
    view: str
    label: LabelPlan
    estimator: Any
    metric: str
    train_on_us: int | None
    retrain: tuple[Trigger, ...]
    promote: PromotionPlan | None
    owner: str = ""
    doc: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectPlan:
    """Everything a project declares, by name.

    `streams` are the raw ones. `derived` are the logged derived streams by topic, each after those that it reads.
    `kept_views` (by version) and `kept_groups` (by a name of their own) are no longer declared, but computed still,
    since a model may answer with them. `scheduled` says how many µs lie between two runs of the groups that a job
    computes, by version; stream compute leaves those alone. It comes from the configuration, not from the definitions.
    """

    streams: Mapping[str, StreamPlan]
    groups: Mapping[str, GroupPlan]
    tables: Mapping[str, TablePlan]
    views: Mapping[str, ViewPlan]
    models: Mapping[str, ModelPlan]
    derived: Mapping[str, DerivedPlan] = field(default_factory=dict)
    kept_groups: Mapping[str, GroupPlan] = field(default_factory=dict)
    kept_views: Mapping[str, ViewPlan] = field(default_factory=dict)
    scheduled: Mapping[str, int] = field(default_factory=dict)

    def stream(self, topic: str) -> StreamPlan:
        """The stream, raw or derived, whose records lie in `topic`."""
        derived = self.derived.get(topic)
        return self.streams[topic] if derived is None else derived.stream

    def topics(self) -> dict[str, StreamPlan]:
        """All streams by topic: raw ones, then derived ones."""
        return {**self.streams, **{topic: derived.stream for topic, derived in self.derived.items()}}

    def root(self, topic: str) -> str:
        """The raw stream that the records of a topic come from; a raw stream itself."""
        while topic in self.derived:
            topic = self.derived[topic].source
        return topic

    @property
    def computed_groups(self) -> tuple[GroupPlan, ...]:
        """All groups that are computed, each version once."""
        found = {group.version: group for group in (*self.kept_groups.values(), *self.groups.values())}
        return tuple(found.values())

    @property
    def streamed_groups(self) -> tuple[GroupPlan, ...]:
        """Those of `computed_groups` that stream compute computes."""
        return tuple(group for group in self.computed_groups if group.version not in self.scheduled)

    def views_of(self, model: str) -> tuple[ViewPlan, ...]:
        """The view that a model is declared with, then the versions of it that are kept."""
        view = self.views[self.models[model].view]
        return (view, *(kept for kept in self.kept_views.values() if kept.name == view.name))

    def group(self, name: str) -> GroupPlan:
        """A group that is declared or kept."""
        return self.groups[name] if name in self.groups else self.kept_groups[name]
