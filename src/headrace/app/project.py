"""The project as Python sees it: every verb of the platform on one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from headrace.app.clock import SystemClock
from headrace.app.embedded import EmbeddedWorkers
from headrace.app.operations import Operations
from headrace.app.rows import Row, as_mapping, is_record, python_value, python_values, request_columns
from headrace.app.schedules import sources_of
from headrace.app.settings import Settings, load_settings
from headrace.app.times import Time, given_us
from headrace.app.users import os_user
from headrace.app.wiring import Parts
from headrace.core.errors import ConfigError, PlanError, SchemaError
from headrace.core.time import Clock
from headrace.features.compile import compile_project
from headrace.features.definition import definition_of
from headrace.features.discover import load_definitions
from headrace.features.event import Event
from headrace.features.group import FeatureGroup, instance_of
from headrace.features.model import Model
from headrace.features.plan import ProjectPlan
from headrace.features.table import Table
from headrace.features.view import FeatureView

if TYPE_CHECKING:
    from headrace.app.audits import PredictionAudit
    from headrace.app.backfill import BackfillReport
    from headrace.app.changes import ProjectChanges
    from headrace.app.datasets import Dataset, Datasets
    from headrace.app.describe import Description
    from headrace.app.history import HistoryRows
    from headrace.app.letters import ChosenLetters
    from headrace.app.models import ModelHandle
    from headrace.app.replays import ReplayOutcome
    from headrace.app.statistics import Statistics
    from headrace.app.status import ProjectStatus
    from headrace.catalog.records import Definition
    from headrace.engines.batch.runner import BatchReport, BatchRunner
    from headrace.ingestion.publisher import Publisher, PublishReceipt
    from headrace.orchestration.replay import ReplayProgress
    from headrace.retrieval.online import OnlineReader
    from headrace.retrieval.rows import Rows

G = TypeVar("G", bound=FeatureGroup)
T = TypeVar("T", bound=Table)


class Project(Operations):
    """A project: its definitions and its opened parts. `headrace.connect()` makes one.

    Streams, tables, groups, views and models are named by their class or object, or by their name. Times are datetimes
    (naive is UTC), ISO 8601 text or int µs. While no `headrace up` runs on the folder, `publish` and `put` compute and
    ingest in this process before they return.
    """

    def __init__(self, settings: Settings, clock: Clock, definitions: Iterable[Any] | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self._given = None if definitions is None else list(definitions)
        self._runner: BatchRunner | None = None
        self._readers: dict[str, OnlineReader] = {}
        self._handles: dict[str, ModelHandle] = {}
        self._ready = False

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        env: str | None = None,
        clock: Clock | None = None,
        definitions: Iterable[Any] | None = None,
        **settings: Any,
    ) -> Project:
        """The project of a folder (or of the nearest one above it with headrace.toml).

        `definitions` replaces what the folder's files define; other keywords win over every other setting.
        """
        return cls(load_settings(path, env=env, **settings), clock or SystemClock(), definitions)

    # -- definitions ------------------------------------------------------------------------------------------------

    @cached_property
    def definitions(self) -> list[Any]:
        """The classes, views and models of the project."""
        return self._given if self._given is not None else load_definitions(self.settings.folder)

    @cached_property
    def definition_plan(self) -> ProjectPlan:
        """The definitions, every name resolved, with the groups that the configuration schedules.

        Raises ConfigError if that names a group that there is not, or one that has to run in the stream.
        """
        from headrace.app.scheduled import declared_schedule

        plan = compile_project(self.definitions)
        groups = self.settings.groups
        return replace(plan, scheduled=declared_schedule(plan, groups)) if groups else plan

    @cached_property
    def parts(self) -> Parts:
        """The opened parts, with what is kept computed for models; groups run as was applied last."""
        parts = Parts(self.settings, self.definition_plan, self.clock)
        parts.plan = self._running(parts)
        return parts

    @property
    def running_plan(self) -> ProjectPlan:
        """The definitions as they run: with what is kept beside them, at the generations that are served."""
        return self.parts.plan

    def plan(self) -> ProjectChanges:
        """What `apply` would change.

        Raises PlanError, with reasons and cures, if older events of a stream cannot be read under its new fields.
        """
        from headrace.app.applying import plan_changes

        return plan_changes(self.parts, self.definition_plan)

    def apply(
        self,
        changes: ProjectChanges | None = None,
        *,
        abandon: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ProjectChanges:
        """Make the definitions the ones that run; returns what changed.

        A derived stream that is new or changed is derived from the events in the log, a group computed from archive and
        log first; `backfill` can do most of that before.
        `progress` gets how many events are read and how many there are. The layers of `headrace up` rest meanwhile, but
        for the service, which answers by the former definitions, and all start anew with the new ones. Raises Busy,
        naming the holder, if a layer runs that was started by itself, and PlanError if `changes` is no longer what
        would change, if older events of a stream cannot be read under its new fields, or if a live model could not
        answer any more (unless `abandon`).
        """
        from headrace.app.applying import apply_changes

        try:
            current = apply_changes(self.parts, self.definition_plan, changes, abandon=abandon, progress=progress)
        finally:
            self._reopen()
        self._ready = True
        return current

    def backfill(
        self,
        what: Any = None,
        *,
        since: Time | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> BackfillReport:
        """Compute new or edited groups from archive and log, so that `apply` only has to publish them.

        `what` is a group, its name or a list of them; None is all that `plan` finds due. No layer has to stop for it:
        reads are answered by the former version. Killed, it goes on where it was when it is asked again. `since` leaves
        older events out; PlanError if any of them count. A table with a query is filled with rows from `since` on, each
        available from its event time (and the table's delay) on. A scheduled group that is named is brought up to date
        now, out of turn.

        A derived stream, or a group over one for which nothing of that is due, is derived anew of all that is known
        now, with what reads it, and served at once; the layers of `headrace up` rest a moment for it. Raises Busy if a
        layer runs that was started by itself.
        """
        from headrace.app.backfills import backfill_groups, backfill_table, derived_anew, streams_of
        from headrace.app.generations import derive_anew

        chosen = what if isinstance(what, list | tuple) else [] if what is None else [what]
        names = [self._name(item) for item in chosen]
        since_us = given_us(since, "since")
        tables = [name for name in names if name in self.definition_plan.tables]
        if tables:
            if len(names) > 1:
                raise SchemaError("backfill one table at a time, and groups apart from tables")
            self.ensure_applied()
            report = backfill_table(self._batch, self.definition_plan.tables[tables[0]], since_us)
            self.settle(wait=False)
            return report
        groups, streams = self.definition_plan.groups, streams_of(self.definition_plan)
        unknown = [name for name in names if name not in groups and name not in streams]
        if unknown:
            known = [*groups, *self.definition_plan.tables, *streams]
            raise self._unknown("group, table or derived stream", unknown[0], known)
        planned = self.plan().backfills
        anew = derived_anew(self.parts, names, streams, planned, since_us)
        if not anew:
            return backfill_groups(self.parts, None if what is None else names, planned, since_us, progress)
        self.ensure_applied()
        self.settle(wait=False)
        try:
            return derive_anew(self.parts, anew, progress)
        finally:
            self._reopen()

    def ensure_applied(self) -> None:
        """Apply the definitions if none were ever applied; raise PlanError if others are."""
        if self._ready:
            return
        changes = self.plan()
        if changes and not self.parts.catalog.definitions():
            self.apply()
        elif changes:
            told = [str(change).strip() for change in (*changes.changes, *changes.runs)]
            raise PlanError(
                f"the definitions changed since they were applied ({', '.join(told[:3])}"
                f"{', …' if len(told) > 3 else ''}); look with: headrace plan, then run: headrace apply"
            )
        self._ready = True

    # -- data -------------------------------------------------------------------------------------------------------

    @overload
    def publish(self, stream: Event | Sequence[Event]) -> dict[str, PublishReceipt]: ...
    @overload
    def publish(self, stream: type[Event] | str, data: Any) -> PublishReceipt: ...
    def publish(self, stream: Any, data: Any = None) -> PublishReceipt | dict[str, PublishReceipt]:
        """Publish events: `publish(Login, rows)` or `publish([Login(...), Transfer(...)])`.

        `data`: a list of mappings or of instances, Arrow, pandas, Polars, JSON bytes. What does not fit becomes a dead
        letter; the receipt counts it. A list of instances gives one receipt per stream.
        """
        self.ensure_applied()
        if data is None:
            events = [stream] if is_record(stream) else stream
            if not isinstance(events, list | tuple) or not all(is_record(event) for event in events):
                raise SchemaError("publish takes a stream and its rows, or a list of instances of event classes")
            mixed = [{"stream": definition_of(type(e)).name, **as_mapping(e)} for e in events]
            receipts = self.publisher.publish_mixed(mixed)
            self.settle(wait=False)
            return receipts
        rows = (
            [as_mapping(row) for row in data] if isinstance(data, list | tuple) and any(map(is_record, data)) else data
        )
        receipt = self.publisher.publish(self._stream_name(stream), rows)
        self.settle(wait=False)
        return receipt

    def put(self, table: type[Table] | str, rows: Any) -> BatchReport:
        """Write rows of a table (PutRecord), each replacing the former one of its key.

        Raises SchemaError naming row and field if one does not fit; then nothing is written.
        """
        self.ensure_applied()
        name = self._name(table)
        if name not in self.definition_plan.tables:
            raise self._unknown("table", name, self.definition_plan.tables)
        given: Any = [as_mapping(row) for row in rows] if isinstance(rows, list | tuple) else rows
        if not isinstance(given, list):
            from headrace.ingestion.frames import as_table

            given = as_table(given, name)
        report = self._batch.put_rows(self.definition_plan.tables[name], given)
        self.parts.catalog.changes.add(os_user(), "put", name, {"rows": report.appended})
        self.settle(wait=False)
        return report

    def settle(self, *, wait: bool = True, timeout_s: float = 60.0) -> None:
        """Bring the stores up to the log; with `wait` also if other processes have to do it."""
        if self.parts.refresh_side():
            self._reopen()
        if wait:
            self._workers.settle(timeout_s)
        else:
            self._workers.drive()

    # -- reading ----------------------------------------------------------------------------------------------------

    @overload
    def get(self, source: type[G], *, at: Time | None = None, **key: Any) -> G: ...
    @overload
    def get(self, source: type[T], *, at: Time | None = None, **key: Any) -> T | None: ...
    @overload
    def get(self, source: str, *, at: Time | None = None, **key: Any) -> Any: ...
    def get(self, source: Any, *, at: Time | None = None, **key: Any) -> Any:
        """The row of one key of a group or table (GetRecord), as an instance of its class.

        A table gives None if there is no row; a group of an unseen entity has empty windows. `at`: as it counted then.
        """
        from headrace.app import lookups

        plan, name = self.running_plan, self._name(source)
        at_us, now = given_us(at, "at"), self.clock.now_us()
        if name in plan.tables:
            found = lookups.read_table(self.parts, plan.tables[name], key, at_us, now)
            return None if found is None else self._class(name, "table")(**found)
        if name in plan.groups:
            values = lookups.read_group(self.parts, plan.groups[name], key, now if at_us is None else at_us)
            return instance_of(self._class(name, "group"), values)
        raise self._unknown("group or table", name, [*plan.groups, *plan.tables])

    @overload
    def online(self, view: FeatureView | Model | str, request: Event | Mapping[str, Any]) -> Row: ...
    @overload
    def online(self, view: FeatureView | Model | str, request: Sequence[Event | Mapping[str, Any]]) -> Rows: ...
    def online(self, view: FeatureView | Model | str, request: Any) -> Any:
        """The features of one request (an event or a mapping): a `Row`; of a list of requests: `Rows`.

        An event time that is left out is now. Raises HorizonError for times before the as-of horizon.
        """
        plan = self._view(view)
        single = not isinstance(request, list | tuple)
        now = self.clock.now_us()
        columns = request_columns(plan.request, [request] if single else request, now)
        reader = self._readers.get(plan.name)
        if reader is None:
            reader = self._readers[plan.name] = self.parts.reader(plan.name)
        block = reader.read(columns)
        if not single:
            from headrace.retrieval.rows import Rows

            return Rows(columns | {name: block.column(name) for name in block.names}, block.position)
        clocks = block.position.clock_us
        newest = max(clocks.values(), default=None)
        asked = int(columns[plan.request.time_field or ""].values[0])
        age = None if newest is None else timedelta(microseconds=asked - newest)
        (features,) = block.to_rows(python_value)
        return Row(python_values(columns) | features, block.position, age)

    def history(
        self,
        what: Any,
        spine: Any = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        as_of: Time | None = None,
        served: bool = False,
    ) -> HistoryRows:
        """Rows of the past, each feature as it was known at the row's own time.

        Of a model: its training set (request, features, `label`) of requests in [since, until); `served=True`: what it
        was asked, saw and answered. Of a view: the events of its request stream, or the rows of `spine`. Of a list of
        groups, tables and features, also such as were never applied: the rows of `spine`. `as_of`: only what had
        arrived by then. Rows are anything Arrow can take in.
        """
        from headrace.app import history

        since_us, until_us, as_of_us = given_us(since, "since"), given_us(until, "until"), given_us(as_of, "as_of")
        model = self._model_or_none(what)
        if served and model is None:
            raise SchemaError("served=True reads what a model was served; name a model")
        if served and model is not None:
            return history.served_history(self.parts, model, since_us, until_us)
        if model is not None and spine is None:
            end = self.clock.now_us() if until_us is None else until_us
            return history.model_history(self.parts, model, since_us, end, as_of_us)
        if isinstance(what, list | tuple) or self._is_source(what):
            if spine is None:
                raise SchemaError("groups and tables are read at the times of rows; give these as the second argument")
            items = what if isinstance(what, list | tuple) else [what]
            return history.listed_history(self.parts, items, spine, as_of_us, self._source)
        view = self.running_plan.views[model.view] if model is not None else self._view(what)
        return history.view_history(self.parts, view, spine, since_us, until_us, as_of_us)

    def snapshot(self, what: Any, at: Time | None = None, *, since: Time | None = None) -> HistoryRows:
        """The row of every entity at one time (now), as `history` would give it: what batch scoring starts from.

        Of a group or table: of each key that occurs before `at`. Of a view or model: of each combination of keys among
        the requests before `at`, other request fields being those of its newest request. `since` leaves out what occurs
        only before it. Rows come in order of their keys.
        """
        from headrace.app import snapshots

        given, since_us = given_us(at, "at"), given_us(since, "since")
        at_us = self.clock.now_us() if given is None else given
        if self._is_source(what):
            name = self._name(what)
            plan = self.parts.plan
            if name in plan.groups:
                return self.history([what], snapshots.group_entities(self.parts, plan.groups[name], at_us, since_us))
            return self.history([what], snapshots.table_entities(self.parts, plan.tables[name], at_us, since_us))
        return snapshots.view_snapshot(self.parts, self._view(what), at_us, since_us)

    def dataset(
        self,
        name: str,
        what: Model | FeatureView | str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        negatives: float | None = None,
        seed: int = 0,
        version: int | None = None,
        refresh: bool = False,
    ) -> Dataset:
        """A named data set: made of a model's labelled rows or of a view's, requests in [since, until), and kept.

        The same call gives the same rows for good, whatever comes later; another query under the name, or `refresh`, is
        a new version. `negatives` keeps so many rows with a false label per row with a true one, drawn by `seed`, with
        the weight of each row in column `weight`. Without `what`, the newest version of that name, or `version`.
        """
        from headrace.app.datasets import Datasets

        sets = Datasets(self.parts)
        if what is None:
            return sets.get(name, version)
        until_us = given_us(until, "until")
        if until_us is None:
            raise ConfigError(f'data set {name}: until when? give until="2026-06-01", so that it can be made again')
        source = self._model_or_none(what) or self._view(what)
        return sets.make(
            name, source, since_us=given_us(since, "since"), until_us=until_us, negatives=negatives, seed=seed,
            refresh=refresh,
        )  # fmt: skip

    @property
    def datasets(self) -> Datasets:
        """All data sets: `all`, `get`, `delete`, `verify`."""
        from headrace.app.datasets import Datasets

        return Datasets(self.parts)

    def audit(self, prediction_id: str) -> PredictionAudit:
        """Recompute one prediction's features as they were served and compare every bit."""
        from headrace.app.audits import audit_prediction

        return audit_prediction(self.parts, prediction_id)

    def dead_letters(
        self,
        stream: type[Event] | str | None = None,
        *,
        field: str | None = None,
        reason: str | None = None,
        since: Time | None = None,
        until: Time | None = None,
        state: str = "open",
        letters: Sequence[str] = (),
        limit: int = 100,
        personal: bool = False,
    ) -> ChosenLetters:
        """Events that were set aside: of a stream, with a field at fault, a part of the reason, a time of arrival, or
        named one by one by their ids.

        `state`: open, replayed, fixed, dropped or all. The answer lists them, publishes them again, corrects, drops.
        Values of personal fields are shown with `personal` only.
        """
        from headrace.app.letters import Chosen, ChosenLetters, letters_of

        self.ensure_applied()
        name = None if stream is None else self._stream_name(stream)
        since_us, until_us = given_us(since, "since"), given_us(until, "until")
        chosen = Chosen(tuple(letters), name, field, reason, since_us, until_us, state)
        return ChosenLetters(letters_of(self.parts), chosen, limit, lambda: self.settle(wait=False), personal)

    # -- models -----------------------------------------------------------------------------------------------------

    def model(self, model: Model | str) -> ModelHandle:
        """A model, by its name or object."""
        from headrace.app.models import ModelHandle

        name = model.name if isinstance(model, Model) else model
        if name not in self._handles:
            self._handles[name] = ModelHandle(self.parts, self.parts.model(name))
        return self._handles[name]

    def replay(
        self,
        model: Model | str,
        *,
        since: Time | None = None,
        until: Time | None = None,
        progress: Callable[[ReplayProgress], None] | None = None,
    ) -> ReplayOutcome:
        """Run archived history through the live pipeline on a simulated clock, in a scratch copy of the project.

        The first model is trained at `since` on all before; then the loop runs to `until`. See `replay_project`.
        """
        from headrace.app.replays import replay_project

        plan = self.parts.model(model.name if isinstance(model, Model) else model)
        return replay_project(self, plan, given_us(since, "since"), given_us(until, "until"), progress)

    # -- looking ----------------------------------------------------------------------------------------------------

    def search(self, text: str, *, entity: Any = None) -> list[Definition]:
        """Applied definitions whose name, doc, owner or tags hold every word, of one entity if it is given."""
        found = self.parts.catalog.search(text)
        if entity is None:
            return found
        name = entity if isinstance(entity, str) else getattr(entity, "name", None) or self._name(entity)
        return [definition for definition in found if name in definition.record.body.get("entities", ())]

    def describe(self, what: Any) -> Description:
        """Doc, owner, versions, lineage and statistics of a definition or of one feature."""
        from headrace.app.describe import describe

        return describe(self.parts, what if isinstance(what, str) else self._described_name(what))

    def statistics(
        self, what: Model | FeatureView | str, *, since: Time | None = None, until: Time | None = None
    ) -> Statistics:
        """Figures of every column of a view or model over requests in [since, until); `describe` shows them.

        Of a model also how much each column tells about the label, as far as it could be known at the request's time.
        """
        from headrace.app.statistics import compute_statistics, personal_columns

        model, view = self._model_or_none(what), self._view(what)
        rows = self.history(view.name if model is None else model.name, since=since, until=until)
        name = view.name if model is None else model.name
        personal = personal_columns(view, self.definition_plan)
        return compute_statistics(name, view.version, rows, self.clock.now_us(), self.parts.catalog, personal)

    def status(self) -> ProjectStatus:
        """What runs, how far it is, and what is wrong."""
        from headrace.app.status import project_status

        return project_status(self.parts)

    def close(self) -> None:
        """Close all parts; the project cannot be used afterwards."""
        if "parts" in self.__dict__:
            self.parts.close()

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Project({str(self.settings.folder)!r}, env={self.settings.env!r})"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        """Go on with what is kept now; what was made of the former plan is made anew when it is asked for."""
        self.parts.plan = self._running(self.parts)
        self.parts.__dict__.pop("past", None)
        self.__dict__.pop("_workers", None)
        self.__dict__.pop("publisher", None)
        self._runner = None
        self._readers.clear()
        self._handles.clear()

    def _running(self, parts: Parts) -> ProjectPlan:
        """The definitions with what is kept beside them, and how they run."""
        from headrace.app.generations import running_plan

        return running_plan(self.definition_plan, parts.catalog)

    @cached_property
    def publisher(self) -> Publisher:
        """The door for events; it appends and does nothing else."""
        return self.parts.publisher()

    @cached_property
    def _workers(self) -> EmbeddedWorkers:
        return EmbeddedWorkers(self.parts)

    @property
    def _batch(self) -> BatchRunner:
        if self._runner is None:
            self._runner = self.parts.batch(sources_of(self.parts))
        return self._runner
