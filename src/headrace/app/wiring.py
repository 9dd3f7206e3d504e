"""The composition root: the only place that chooses and opens the adapters of a project."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.app.private import private_folder
from headrace.app.settings import Settings
from headrace.core.errors import ConfigError, StoreError, Unreachable
from headrace.core.time import US_PER_SECOND, Clock
from headrace.features.plan import ModelPlan, ProjectPlan, ViewPlan

if TYPE_CHECKING:
    from headrace.app.sides import Side, Sides
    from headrace.catalog.catalog import Catalog
    from headrace.derivation.worker import ComputingLayer
    from headrace.engines.batch.duckdb import DuckDBBatchEngine
    from headrace.engines.batch.runner import BatchRunner
    from headrace.engines.stream.following import FollowingWorker
    from headrace.eventlog.base import EventLog
    from headrace.eventlog.kafka.source import KafkaTopicSource
    from headrace.ingestion.archive import ArchiveWorker
    from headrace.ingestion.ceiling import BackgroundShare, WriteCeiling
    from headrace.ingestion.copier import StreamCopier
    from headrace.ingestion.expected import Expected
    from headrace.ingestion.materialize import OnlineIngest
    from headrace.ingestion.publisher import Publisher
    from headrace.registry.base import ModelRegistry
    from headrace.retrieval.online import OnlineReader
    from headrace.retrieval.past import Past
    from headrace.stores.offline.base import OfflineStore
    from headrace.stores.online.base import OnlineStore


@dataclass
class Parts:
    """The opened parts of a project; each is opened when it is first asked for and closed by `close`.

    `beside`: those of the side that runs beside the served one (see `app.sides`).
    """

    settings: Settings
    plan: ProjectPlan
    clock: Clock
    beside: bool = False
    _opened: list[object] = field(default_factory=list)

    @cached_property
    def sides(self) -> Sides:
        """Which sides there are, as it was when these parts were opened."""
        return self._known_sides()

    @property
    def side(self) -> Side:
        """The side that these parts are of; raises NotFound if there is none beside the served one."""
        return self.sides.need_beside() if self.beside else self.sides.served

    def refresh_side(self) -> bool:
        """Go over to the side that is served now; True if that is another one than before. While the catalog does not
        answer, nobody can switch."""
        before = self.sides.served.name
        try:
            now = self._known_sides()
        except Unreachable:
            return False
        self.__dict__["sides"] = now
        if now.served.name == before:
            return False
        for name in ("features", "online", "derivation", "past"):
            self.__dict__.pop(name, None)
        return True

    def check_side(self) -> None:
        """Raise StoreError if these parts are no longer of the side of their role; who works holds its lock."""
        now = self._known_sides()
        held = now.beside if self.beside else now.served
        if held is None or held.name != self.side.name:
            raise StoreError(
                f"side {self.side.name} is no longer {'beside' if self.beside else 'served'}: another process has "
                "switched sides; open the project again, or start this layer again"
            )

    def _known_sides(self) -> Sides:
        from headrace.app.sides import Sides, read_sides

        settings = self.settings
        if settings.catalog == "embedded" and not (settings.state / "catalog.db").exists():
            return Sides()
        return read_sides(settings, self.catalog)

    @cached_property
    def _state(self) -> Path:
        """The state folder, made if it is missing."""
        return private_folder(self.settings.state)

    @property
    def role_folder(self) -> Path:
        """The folder of locks and heartbeats of the layers that run on these parts."""
        from headrace.app.sides import BESIDE

        return self.settings.state / BESIDE if self.beside else self.settings.state

    @cached_property
    def raw(self) -> EventLog:
        """The event log of raw topics."""
        return self._log("raw")

    @cached_property
    def features(self) -> EventLog:
        """The feature log: topics `windows`, `tables`, `dead_letters`. What raw topics still hold (`retention`)
        can be computed again from them."""
        return self._commits_of(self.side)

    @cached_property
    def plain_features(self) -> EventLog:
        """The feature log, topic by topic as it lies there."""
        return self._log("features")

    def _commits_of(self, side: Side) -> EventLog:
        """The feature log with the commits of a side."""
        from headrace.app.sides import MAIN
        from headrace.engines.stream.commits import WINDOWS
        from headrace.eventlog.forked import ForkedLog

        return self.plain_features if side.name == MAIN else ForkedLog(self.plain_features, WINDOWS, side.segments)

    @cached_property
    def internal(self) -> EventLog:
        """The internal log: predictions, labels, truth."""
        return self._log("internal")

    @cached_property
    def online(self) -> OnlineStore:
        """The online store; unsynced, since the feature log rebuilds what power loss may take."""
        from headrace.app.sides import MAIN

        store: OnlineStore
        side = self.side
        if self.settings.online == "embedded":
            from headrace.stores.online.lmdb import LmdbOnlineStore

            store = LmdbOnlineStore(side.folder(self._state) / "online", sync=False)
        else:
            from headrace.stores.online.redis import RedisOnlineStore

            space = self.settings.env if side.name == MAIN else f"{self.settings.env}@{side.name}"
            store = RedisOnlineStore(self.settings.online, namespace=space)
        self._opened.append(store)
        return store

    @cached_property
    def derivation(self) -> OnlineStore:
        """The store of what derived streams look up, fed from the feature log; whoever opens it holds the lock of
        compute. Stores of former definitions are deleted."""
        from headrace.app.backfill import fill_lookups
        from headrace.derivation.worker import state_name
        from headrace.stores.online.lmdb import LmdbOnlineStore

        folder, name = self.side.folder(self._state) / "derivation", state_name(self.plan)
        for other in folder.iterdir() if folder.exists() else ():
            if other.name != name:
                shutil.rmtree(other)
        store = LmdbOnlineStore(folder / name, sync=False)
        self._opened.append(store)
        fill_lookups(self, store)
        return store

    def forget_lookups(self) -> None:
        """Close the store of look-ups; it is opened anew when it is asked for."""
        store = self.__dict__.pop("derivation", None)
        if store is not None:
            self._opened.remove(store)
            store.close()

    @cached_property
    def offline(self) -> OfflineStore:
        """The offline store: a local folder, or a prefix of a bucket."""
        from headrace.stores.objects import s3_options
        from headrace.stores.offline.delta import DeltaOfflineStore

        settings = self.settings
        if settings.offline == "embedded":
            store = DeltaOfflineStore(self._state / "offline")
        else:
            below = "" if settings.env == "default" else f"/{settings.env}"
            store = DeltaOfflineStore(settings.offline.rstrip("/") + below, s3_options(settings.s3))
        self._opened.append(store)
        return store

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog: a file, or a schema of a PostgreSQL database."""
        from headrace.catalog.catalog import Catalog

        settings = self.settings
        if settings.catalog == "embedded":
            catalog = Catalog(self._state / "catalog.db", self.clock)
        else:
            catalog = Catalog(settings.catalog, self.clock, env=settings.env)
        self._opened.append(catalog)
        return catalog

    @cached_property
    def registry(self) -> ModelRegistry:
        """The model registry."""
        from headrace.registry.local import LocalModelRegistry

        return LocalModelRegistry(self.catalog, self._state / "models")

    @cached_property
    def past(self) -> Past:
        """Archive and log tail as one."""
        from headrace.retrieval.past import Past

        return Past(self.plan, self.raw, self.features, self.offline, memory_bytes=self.memory_bytes)

    def has_events(self, stream: str) -> bool:
        """True if anything was ever published to the stream."""
        partitions = self.raw.topics().get(stream, 0)
        return any(self.raw.end(stream, partition) > 0 for partition in range(partitions))

    @property
    def checkpoint(self) -> Path:
        """The file that holds clocks and recent ids of compute."""
        return self.side.folder(self.settings.state) / "compute.checkpoint"

    @property
    def checkpoints(self) -> list[Path]:
        """Those of all sides: each may be where its compute begins to read again."""
        sides = self._known_sides()
        chosen = [sides.served] if sides.beside is None else [sides.served, sides.beside]
        return [side.folder(self.settings.state) / self.checkpoint.name for side in chosen]

    @property
    def memory_bytes(self) -> int:
        """How much of one stream or table history holds in memory at a time."""
        return self.settings.history_mb * 2**20

    @property
    def horizon_us(self) -> int:
        """As-of horizon of the online store."""
        return self.settings.horizon_s * US_PER_SECOND

    def publisher(self) -> Publisher:
        """A publisher of events."""
        from headrace.ingestion.publisher import Publisher

        return Publisher(self.raw, self.plan.streams, partitions=self.settings.partitions)

    def copier(self, stream: str) -> StreamCopier:
        """What copies a stream from elsewhere, as the settings say; raises ConfigError if that cannot be exact."""
        from headrace.ingestion.copier import StreamCopier
        from headrace.ingestion.kinesis import KinesisSource, KinesisStream

        plan, source = self.plan.streams.get(stream), self.settings.copied[stream]
        if plan is None:
            declared = ", ".join(self.plan.streams) or "none"
            raise ConfigError(f'streams.{stream}: there is no stream "{stream}"; declared are {declared}')
        at_once = self.settings.log == "embedded"
        if not at_once and plan.schema.id_field is None:
            raise ConfigError(
                f"streams.{stream}: an event that is copied may be appended to Kafka twice, and stream {stream} "
                f"declares no id by which that is seen; declare one with hr.id(), or use the embedded log"
            )
        opened: KafkaTopicSource | KinesisStream
        if isinstance(source, KinesisSource):
            opened = KinesisStream(source)
        else:
            opened = self._kafka_source(source.url, f"streams.{stream}")
        self._opened.append(opened)
        copier = StreamCopier(stream, opened, self.raw, self.publisher(), at_once=at_once)
        self._opened.append(copier)
        return copier

    def compute(self, shares: Collection[int] | None = None) -> ComputingLayer:
        """The worker of the computing layer; the caller holds the lock of that role, or leases of the `shares`."""
        from headrace.derivation.worker import ComputingLayer

        self.check_side()
        return ComputingLayer(
            self.plan,
            self.raw,
            self.features,
            self.checkpoint,
            state=lambda: self.derivation,
            past=lambda: self.past,
            horizon_us=self.horizon_us,
            partitions=self.settings.partitions,
            shares=shares,
        )

    def following(self) -> FollowingWorker:
        """The compute worker of the side beside the served one; the caller holds the lock of that role."""
        from headrace.engines.stream.following import FollowingWorker

        self.check_side()
        leader = self._commits_of(self.sides.served)
        return FollowingWorker(self.plan, self.raw, self.features, leader, self.checkpoint)

    def ingest(self, ceiling: WriteCeiling | None = None) -> OnlineIngest:
        """The worker that writes the online store, under a ceiling or none; the caller holds the lock of that role.

        Raises StoreError if the store has lost what a backfill brought to it, or sides were switched.
        """
        from headrace.app.backfill import lost_groups
        from headrace.ingestion.materialize import OnlineIngest

        self.check_side()
        lost = lost_groups(self)
        if lost:
            raise StoreError(
                f"the online store lacks what was computed for group {lost[0]} before it was applied; compute it again "
                f"with: headrace backfill {' '.join(lost)}"
            )
        return OnlineIngest(self.plan, self.features, self.online, horizon_us=self.horizon_us, ceiling=ceiling)

    def pace(self, records: int, on_way: Callable[[], object] = lambda: None) -> None:
        """Wait until a backfill or a repair may write so many records beside the stream (`writes_per_s`)."""
        if self.background is not None:
            self.background.take(records, on_way)

    @property
    def throttled_s(self) -> float:
        """How long backfills and repairs of this process have waited for room."""
        return 0.0 if self.background is None else self.background.throttled_us / US_PER_SECOND

    @cached_property
    def background(self) -> BackgroundShare | None:
        """What backfills and repairs of this process may write; None: as much as they can."""
        from headrace.app.ingesting import background_share

        return background_share(self)

    def archive(self) -> ArchiveWorker:
        """The worker that writes the offline store; the caller holds the lock of that role."""
        from headrace.ingestion.archive import ArchiveWorker

        return ArchiveWorker(self.plan, self.raw, self.features, self.offline)

    def batch(self, sources: dict[str, object] | None = None) -> BatchRunner:
        """The runner of scheduled tables; `sources` replaces the configured ones."""
        from headrace.engines.batch.runner import BatchRunner

        folder = self.settings.state / "fingerprints"
        return BatchRunner(self.batch_engine(sources), self.features, self.clock, folder=folder)

    def batch_engine(self, sources: dict[str, object] | None = None) -> DuckDBBatchEngine:
        """What runs their queries."""
        from headrace.engines.batch.duckdb import DuckDBBatchEngine
        from headrace.stores.objects import s3_options

        chosen = sources if sources is not None else dict(self.settings.sources)
        objects = s3_options(self.settings.s3)
        engine = DuckDBBatchEngine(chosen, self.clock, folder=self.settings.folder / "data", objects=objects)
        self._opened.append(engine)
        return engine

    def expected(self) -> Expected:
        """What computes from archive and log what the online store should hold."""
        from headrace.ingestion.expected import Expected

        return Expected(
            self.plan, self.raw, self.features, self.offline, self.past, self.scratch, horizon_us=self.horizon_us
        )

    @staticmethod
    def scratch() -> OnlineStore:
        """An empty online store in memory."""
        from headrace.stores.online.memory import MemoryOnlineStore

        return MemoryOnlineStore()

    def reader(self, view: str) -> OnlineReader:
        """An online reader of a view, for one thread."""
        return self.view_reader(self.plan.views[view])

    def view_reader(self, view: ViewPlan) -> OnlineReader:
        """An online reader of a view that is declared or kept, for one thread."""
        from headrace.retrieval.online import OnlineReader

        return OnlineReader(view, self.plan, self.online, horizon_us=self.horizon_us)

    def model(self, name: str) -> ModelPlan:
        """A model's plan; raises NotFound naming the models that there are."""
        from headrace.core.errors import NotFound

        if name not in self.plan.models:
            raise NotFound(f'there is no model "{name}"; the project declares {", ".join(self.plan.models) or "none"}')
        return self.plan.models[name]

    def close(self) -> None:
        """Close whatever was opened; the newest first."""
        while self._opened:
            part = self._opened.pop()
            close = getattr(part, "close", None)
            if close is not None:
                close()

    def log_problems(self) -> list[tuple[str, str]]:
        """What about the logs' topics would lose something, with the cure."""
        logs = (self.raw, self.features, self.internal)
        return [problem for log in logs for problem in getattr(log, "problems", list)()]

    def _log(self, name: str) -> EventLog:
        log = self._embedded_log(name) if self.settings.log == "embedded" else self._kafka_log(name)
        self._opened.append(log)
        return log

    def _embedded_log(self, name: str) -> EventLog:
        from headrace.eventlog.lmdb import LmdbEventLog
        from headrace.eventlog.spoilt import spoilt_events
        from headrace.ingestion.publisher import UNKNOWN_TOPIC

        spoilt = spoilt_events({*self.plan.streams, UNKNOWN_TOPIC} if name == "raw" else ())
        return LmdbEventLog(self._state / "log" / name, self.clock, sync=self.settings.sync, spoilt=spoilt)

    @staticmethod
    def _kafka_source(url: str, setting: str) -> KafkaTopicSource:
        try:
            from headrace.eventlog.kafka.source import KafkaTopicSource
        except ImportError:
            raise ConfigError(f'{setting} needs the client of Kafka: pip install "headrace[kafka]"') from None
        return KafkaTopicSource(url, setting)

    def _kafka_log(self, name: str) -> EventLog:
        from headrace.ingestion.publisher import UNKNOWN_TOPIC

        try:
            from headrace.eventlog.kafka.cluster import parse_address
            from headrace.eventlog.kafka.log import KafkaEventLog
            from headrace.eventlog.kafka.raw import KafkaRawLog
        except ImportError:
            raise ConfigError('a log on Kafka needs its client: pip install "headrace[kafka]"') from None

        address = parse_address(self.settings.log, self.settings.env, self.settings.kafka)
        if name != "raw":
            return KafkaEventLog(address.below(name), self.clock)
        keys = {
            stream: plan.partition_key or ((plan.schema.id_field,) if plan.schema.id_field else ())
            for stream, plan in self.plan.streams.items()
        }
        strange = sorted(self.settings.topics.keys() - keys.keys())
        if strange:
            declared = ", ".join(keys) or "none"
            raise ConfigError(f'streams.{strange[0]}: there is no stream "{strange[0]}"; declared are {declared}')
        return KafkaRawLog(address.below(name), self.clock, {**keys, UNKNOWN_TOPIC: ()}, self.settings.topics)
