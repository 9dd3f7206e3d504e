"""A whole project in one process, driven by one source of chance: producers, workers, and whatever befalls them.

A turn lets one of the actors do something: a producer publishes, a worker steps. Each stands for a process: when it
dies, what it had in memory is gone, and it begins anew at its next turn. What a server does not answer is tried again
by the rules of the layers (`app/services.py`, `app/ingesting.py`, `app/archives.py`). At the end nothing fails any
more, everybody catches up, and `simulated_checks` looks at what is there.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from headrace.app.applying import apply_changes
from headrace.app.backfill import lost_groups
from headrace.app.backfills import backfill_groups
from headrace.app.generations import running_plan
from headrace.app.retention import trim_raw
from headrace.app.scheduled import run_group
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.core.columns import Column, column_of
from headrace.core.errors import HeadraceError, Unreachable
from headrace.core.positions import encode_position
from headrace.core.schema import DType
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import US_PER_HOUR, US_PER_SECOND
from headrace.derivation.worker import ComputingLayer
from headrace.engines.stream import checkpoints
from headrace.engines.stream.commits import TABLES
from headrace.eventlog.base import Append
from headrace.features.plan import ProjectPlan, ViewPlan
from headrace.ingestion.archive import ArchiveWorker
from headrace.ingestion.materialize import OnlineIngest
from headrace.ingestion.publisher import Publisher
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.rows import FeatureBlock
from tests.recovery.faults import (
    FULL,
    Chance,
    FaultyCatalog,
    FaultyLog,
    FaultyOfflineStore,
    FaultyOnlineStore,
    Killed,
)
from tests.recovery.simulated_shop import EDITS, PROJECT, RUNS

HORIZON_S = 30
USERS = ("u0", "u1", None)


@dataclass(slots=True)
class Sent:
    """What a producer sends until it is answered. Only what has ids, or is a row, may be repeated."""

    send: Callable[[], object]
    repeat: bool
    visits: list[dict[str, Any]]
    orders: list[dict[str, Any]]


@dataclass(slots=True)
class Answer:
    """What was read online in the midst of it all."""

    plan: ProjectPlan
    view: ViewPlan
    request: dict[str, Column]
    block: FeatureBlock


@dataclass
class Simulation:
    """One world of one seed, in `folder`, which holds locks, checkpoints and the catalog, a copy of `catalog_file`.

    Attributes:
        plan: the definitions that are served; `wanted` are those that somebody has edited, until they are applied.
    """

    seed: int
    folder: Path
    catalog_file: Path
    chance: Chance = field(init=False)
    answers: list[Answer] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)
    ordered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chance = Chance(self.seed)
        self.rng: random.Random = self.chance.rng
        self.partitions = 1 + self.seed % 2
        settings = Settings(
            folder=self.folder, state=self.folder / "state", horizon_s=HORIZON_S, partitions=self.partitions,
            groups=RUNS,
        )  # fmt: skip
        self.edits, self.trims = self.rng.random() < 0.5, self.rng.random() < 0.5
        self.plan: ProjectPlan = PROJECT
        self.wanted: ProjectPlan | None = None
        settings.state.mkdir(parents=True)
        shutil.copy(self.catalog_file, settings.state / "catalog.db")
        self.catalog = FaultyCatalog(self.chance, settings.state / "catalog.db")
        self.parts = Parts(settings, PROJECT, self.chance.clock)
        self.derivation = FaultyOnlineStore(self.chance, "store of look-ups", local=True)
        self.online = FaultyOnlineStore(self.chance, "online store")
        self.offline = FaultyOfflineStore(self.chance)
        self.raw = FaultyLog(self.chance, "raw log", torn=PROJECT.streams)
        self.features = FaultyLog(self.chance, "feature log")
        given = {
            "raw": self.raw, "features": self.features, "online": self.online, "offline": self.offline,
            "derivation": self.derivation, "catalog": self.catalog,
        }  # fmt: skip
        self.parts.__dict__.update(given)
        for name in PROJECT.streams:
            self.raw.create(name, self.partitions)
        self.features.create(TABLES)
        self.publisher = Publisher(self.raw, PROJECT.streams, partitions=self.partitions)
        self._waiting: dict[str, list[Sent]] = {"one": [], "two": []}
        self._known: list[str] = ["o"]
        self._made = 0
        self._compute: ComputingLayer | None = None
        self._ingest: OnlineIngest | None = None
        self._archive: ArchiveWorker | None = None
        self._old: list[OnlineIngest | ComputingLayer] = []

    def run(self, turns: int = 60) -> None:
        """All turns, and then peace."""
        self.chance.on = True
        with mock.patch.object(checkpoints.os, "fsync", self._fsync):
            for _ in range(turns):
                self._turn()
                self.chance.turn()
            self.chance.say("peace")
            self.chance.on = False
            for _ in range(10_000):
                if not any(self._waiting.values()):
                    break
                self._produce("one")
                self._produce("two")
            self.catch_up()

    def close(self) -> None:
        """Let go of the catalog."""
        self.catalog.close()

    def catch_up(self) -> None:
        """All that was published is computed, ingested and archived, by the definitions that somebody wants."""
        if self.wanted is not None:
            self._apply()
        self._compute = self._ingest = self._archive = None
        compute = self.parts.compute()
        while compute.step():
            pass
        self._restore_groups()
        ingest, archive = self.parts.ingest(), self.parts.archive()
        while ingest.step():
            pass
        while archive.step():
            pass
        run_group(self.parts, self.plan.groups["ordered"])

    def _turn(self) -> None:
        actors: list[tuple[str, Callable[[], object]]] = [
            ("producer one", lambda: self._produce("one")),
            ("producer two", lambda: self._produce("two")),
            ("producer one", lambda: self._produce("one")),
            ("compute", self._step_compute),
            ("compute", self._step_compute),
            ("ingest", self._step_ingest),
            ("ingest", self._step_ingest),
            ("archive", self._step_archive),
            ("schedule", lambda: run_group(self.parts, self.plan.groups["ordered"])),
            ("reader", self._read),
            ("fate", self._fate),
            ("a former worker", self._step_old),
        ]  # fmt: skip
        actors += [("retention", self._trim)] if self.trims else []
        actors += [("definitions", self._edit)] * 2 if self.edits else []
        if self.wanted is not None:
            # The layers do not start while other definitions are there than those that were applied.
            actors = [
                actor for actor in actors if actor[0] in ("producer one", "producer two", "reader", "definitions")
            ]
            actors += [("definitions", self._edit)] * 3
        name, act = self.rng.choice(actors)
        self.chance.say(f"{name} at {self.chance.clock.us}")
        try:
            act()
        except Killed:
            if name == "compute":
                self._compute = None
                self._tear_checkpoint()
            elif name == "ingest":
                self._ingest = None
            elif name == "archive":
                self._archive = None
        except Unreachable as error:
            self.chance.say(f"  waits: {error}")
            if name == "ingest" and self.seed % 3:  # as the layer does; in a script or notebook the worker stays
                self._ingest = None
        except (HeadraceError, OSError) as error:
            self.chance.say(f"  ends: {error}")
            if name == "compute":
                self._compute = None
            elif name == "ingest":
                self._ingest = None
            elif name == "archive":
                self._archive = None

    def _step_compute(self) -> None:
        if self._compute is None:
            self._compute = self.parts.compute()
        if self.rng.random() < 0.2:
            self._compute.checkpoint()
        done = self._compute.step(self.rng.choice((1, 3, 10, 50_000)))
        self.chance.say(f"  computed {done}")

    def _step_ingest(self) -> None:
        if self._ingest is None or encode_position(self._ingest.position) != self.online.position():
            self._restore_groups()
            self._ingest = self.parts.ingest()
        self.chance.say(f"  ingested {self._ingest.step(self.rng.choice((1, 2, 1_000)))}")

    def _restore_groups(self) -> None:
        """What whoever operates it does when ingestion says that the store has lost what was backfilled."""
        lost = lost_groups(self.parts)
        if lost:
            self.chance.say(f"  backfill {lost}")
            backfill_groups(self.parts, lost, [], None, None)

    def _edit(self) -> None:
        """Somebody edits the definitions and applies them; cut short, they are applied again, or taken back."""
        if self.wanted is None:
            self.wanted = self.rng.choice([plan for plan in EDITS if plan is not self.plan])
        elif self.rng.random() < 0.3:
            self.wanted = self.plan
        self._apply()

    def _apply(self) -> None:
        """All layers rest meanwhile, on every machine; then they start anew with the new definitions."""
        assert self.wanted is not None
        self.chance.say(f"  apply {EDITS.index(self.wanted)} after {EDITS.index(self.plan)}")
        if self._compute is not None and self.rng.random() < 0.7:
            self._compute.checkpoint()
        self._compute = self._ingest = self._archive = None
        self._old = []
        self.parts.plan = running_plan(self.wanted, self.catalog)
        apply_changes(self.parts, self.wanted, None, abandon=False, progress=None)
        self.parts.plan = running_plan(self.wanted, self.catalog)
        self.parts.__dict__.pop("past", None)
        self.plan, self.wanted = self.wanted, None
        self.chance.say("  applied")

    def _trim(self) -> None:
        """Raw topics keep some seconds or minutes, and what somebody still needs."""
        keep_us = self.rng.choice((0, 10, 60, 600)) * US_PER_SECOND
        self.chance.say(f"  trimmed {trim_raw(self.parts, keep_us)}")

    def _step_archive(self) -> None:
        if self._archive is None:
            self._archive = self.parts.archive()
        self.chance.say(f"  archived {self._archive.step(self.rng.choice((1, 3, 1_000)))}")

    def _step_old(self) -> None:
        """A worker that was taken for dead goes on. It is on another machine, so it has no lock and no store in common
        with its successor but those of servers."""
        if self._old and self.rng.random() < 0.7:
            old = self.rng.choice(self._old)
            with suppress(HeadraceError):
                self.chance.say(f"  a former {type(old).__name__} does {old.step(self.rng.choice((1, 5)))}")
        elif self._ingest is not None and self.rng.random() < 0.5:
            self._old.append(self._ingest)
            self._ingest = None

    def _fate(self) -> None:
        dice = self.rng.random()
        if dice < 0.15:
            self.chance.say("  the online store fails over")
            self.online.fail_over()
        elif dice < 0.25:
            self.chance.say("  the store of look-ups is lost, and with it the process that had it open")
            self._compute = None
            self.derivation.wipe()
        elif dice < 0.5:
            self.chance.say("  compute is stopped and started")
            if self._compute is not None:
                self._compute.checkpoint()
            self._compute = None

    def _fsync(self, handle: int) -> None:
        """Saving a checkpoint: the disk may be full, the process may die before or after the file has its name."""
        self.chance.call("disk of the checkpoint", "fsync", lambda: None, writes=False, local=True)
        if self.chance.on and FULL in self.chance.rates and self.rng.random() < self.chance.rates[FULL]:
            self.chance.say("  the disk of the checkpoint is full")
            raise OSError(errno.ENOSPC, "No space left on device")

    def _tear_checkpoint(self) -> None:
        """The machine died with the process: what it was writing is torn, and on a bad disk so is the file itself."""
        # Of events that were trimmed the file alone knows the ids.
        bad = 0.0 if self.raw.trimmed else 0.1
        for file, likely in ((self.parts.checkpoint.with_suffix(".new"), 0.5), (self.parts.checkpoint, bad)):
            if file.exists() and self.rng.random() < likely:
                data = file.read_bytes()
                file.write_bytes(data[: self.rng.randrange(len(data))] if data else data)
                self.chance.say(f"  {file.name} is torn")

    def _produce(self, name: str) -> None:
        """Send what waits, or something new; whoever got no answer sends events with an id again."""
        waiting = self._waiting[name]
        if not waiting:
            if not self.chance.on:
                return
            waiting.append(self._something_new())
        sent = waiting[0]
        try:
            sent.send()
        except (Unreachable, Killed):
            # An event without an id would count twice, so nobody sends it again.
            if not sent.repeat:
                self.doubtful += [row["at"] for row in waiting.pop(0).visits]
            raise
        except HeadraceError:
            raise  # nothing was stored
        waiting.pop(0)
        self.acknowledged += [row["at"] for row in sent.visits]
        self.ordered |= {row["order_id"] for row in sent.orders if row["amount"] != "much"}

    def _something_new(self) -> Sent:
        self._made += 1
        now, dice = self.chance.clock.us, self.rng.random()
        if dice < 0.2:
            append = self._row(now, self.rng.choice("EU"), self.rng.choice((0.5, 1.25, 2.0, 5.0)))
            return Sent(lambda: self.features.append([append]), True, [], [])
        if dice < 0.4:
            visits = [self._visit(now) for _ in range(self.rng.randrange(1, 4))]
            return Sent(lambda: self.publisher.publish("visit", visits), False, visits, [])
        orders = [self._order(now, f"o{self._made}.{index}") for index in range(self.rng.randrange(1, 6))]
        if dice < 0.9:
            return Sent(lambda: self.publisher.publish("order", orders), True, [], orders)
        visits = [self._visit(now)]
        both = [{**row, "stream": "order"} for row in orders] + [{**row, "stream": "visit"} for row in visits]
        return Sent(lambda: self.publisher.publish_mixed(both), False, visits, orders)

    def _order(self, now: int, name: str) -> dict[str, Any]:
        rng = self.rng
        late = rng.choice((0, 0, 0, US_PER_SECOND, 90 * US_PER_SECOND, 3 * US_PER_HOUR, -2 * US_PER_HOUR))
        chosen = name if rng.random() < 0.9 else rng.choice(self._known[-8:])
        self._known.append(name)
        return {
            "order_id": chosen,
            "user": rng.choice(USERS),
            "currency": rng.choice("EU"),
            "amount": rng.choice((None, 0.1, 1e300, -1e-300, rng.gauss(0, 1e6))) if rng.random() < 0.95 else "much",
            "at": max(now - late, 0),
        }

    def _visit(self, now: int) -> dict[str, Any]:
        self._made += 1
        at = max(now // 10_000 - self.rng.randrange(6_000), 0) * 10_000
        return {"user": self.rng.choice(USERS), "at": at + self._made}  # no two are of one time

    def _row(self, now: int, currency: str, usd: float) -> Append:
        table = PROJECT.tables["rate"]
        at, written = np.array([max(now - self.rng.randrange(US_PER_HOUR), 0)], np.int64), np.array([now], np.int64)
        columns = {"usd": column_of(DType.FLOAT, [usd])}
        rows = TableRows(table.name, table.version, 1, [(currency,)], at, written, columns, np.zeros(1, np.bool_))
        return Append(TABLES, 0, encode_table_rows(rows))

    def _read(self) -> None:
        """Ask for some rows online; what comes must be right at the positions that it names."""
        view = self.plan.views[self.rng.choice(("streamed", "scheduled"))]
        reader = OnlineReader(view, self.plan, self.online, horizon_us=self.parts.horizon_us)
        newest = max(reader.read(request_of([2**60])).position.clock_us.values(), default=0)
        ahead = self.rng.choice((0, 1, US_PER_SECOND, US_PER_HOUR, -HORIZON_S * US_PER_SECOND))
        request = request_of([max(newest + ahead, 0)])
        self.answers.append(Answer(self.plan, view, request, reader.read(request)))
        self.chance.say(f"  read {view.name} as of commit {self.answers[-1].block.position.windows}")


def request_of(times: list[int]) -> dict[str, Column]:
    """Orders of each user and currency at each of these times."""
    asked = [(user, currency, t) for user, currency in zip(USERS, "EUE", strict=True) for t in times]
    return {
        "order_id": column_of(DType.STRING, ["r"] * len(asked)),
        "user": column_of(DType.STRING, [row[0] for row in asked]),
        "currency": column_of(DType.STRING, [row[1] for row in asked]),
        "amount": column_of(DType.FLOAT, [1.0] * len(asked)),
        "at": column_of(DType.TIMESTAMP, [row[2] for row in asked]),
    }
