"""Every value that the flights project serves is recomputed as served, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.core.columns import column_of
from headrace.core.rows import encode_rows
from headrace.core.tablerows import TableRows, encode_table_rows
from headrace.core.time import NULL_US, US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, SimulatedClock, parse_time
from headrace.engines.stream.commits import TABLES
from headrace.engines.stream.worker import ComputeWorker
from headrace.eventlog.base import Append
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.features.discover import load_project
from headrace.features.plan import ProjectPlan, TablePlan
from headrace.ingestion.archive import ArchiveWorker
from headrace.ingestion.materialize import OnlineIngest
from headrace.ingestion.publisher import Publisher
from headrace.monitoring.skew import Audit, compare
from headrace.retrieval.history import HistoryReader, ServedAt
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.past import Past
from headrace.retrieval.rows import FeatureBlock
from headrace.stores.offline.delta import DeltaOfflineStore
from headrace.stores.online.lmdb import LmdbOnlineStore

START = parse_time("2013-01-01T12:00:00Z")
CARRIERS, ORIGINS, DESTS = ("UA", "B6", "DL"), ("JFK", "LGA", "EWR"), ("LAX", "BOS", "ORD", "MIA")
FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"


@pytest.fixture(scope="module")
def project() -> ProjectPlan:
    return load_project(FLIGHTS)


class Airline:
    """The flights project over embedded parts, with days that a seed makes up."""

    def __init__(self, project: ProjectPlan, folder: Path, seed: int) -> None:
        self.project, self.view = project, project.views["flight"]
        self.rng = random.Random(seed)
        self.clock = SimulatedClock(START)
        self.raw = LmdbEventLog(folder / "raw", self.clock, sync=False)
        self.features = LmdbEventLog(folder / "features", self.clock, sync=False)
        self.publisher = Publisher(self.raw, project.streams)
        self.compute = ComputeWorker(project, self.raw, self.features, folder / "checkpoint")
        online, self.offline = LmdbOnlineStore(folder / "online"), DeltaOfflineStore(folder / "offline")
        self.ingest = OnlineIngest(project, self.features, online)
        self.archive = ArchiveWorker(project, self.raw, self.features, self.offline)
        self.reader = OnlineReader(self.view, project, online, horizon_us=600_000_000)
        self.flown = 0

    def leg(self) -> dict[str, Any]:
        tail = self.rng.choice(("N1", "N2", "N3", None))
        pick = self.rng.choice
        return {"carrier": pick(CARRIERS), "origin": pick(ORIGINS), "dest": pick(DESTS), "tailnum": tail}

    def movement(self) -> dict[str, Any]:
        """A movement that just happened, or did some time ago, or cannot be."""
        self.flown += 1
        behind = self.rng.choice((0, 0, 0, 1, US_PER_MINUTE, 5 * US_PER_HOUR, 2 * US_PER_DAY, -2 * US_PER_HOUR))
        number = self.flown if self.rng.random() < 0.95 else self.rng.randrange(self.flown)
        delay = "soon" if self.rng.random() < 0.02 else round(self.rng.gauss(5, 30), 1)
        at = self.clock.now_us() - behind
        return self.leg() | {"movement_id": f"m{number}", "flight": f"f{number}", "delay": delay, "at": at}

    def pass_time(self) -> None:
        """Some minutes in which aircraft move, the weather is observed, and some of the workers get round to it."""
        self.clock.advance_to(self.clock.now_us() + self.rng.randrange(40 * US_PER_MINUTE))
        for stream in ("departure", "arrival"):
            self.publisher.publish(stream, [self.movement() for _ in range(self.rng.randrange(1, 8))])
        if self.rng.random() < 0.4:
            now, pick = self.clock.now_us(), self.rng.choice
            weather = {"wind_speed": pick((None, 4.6)), "precip": 0.0, "pressure": pick((None, 1012.9)), "visib": 10.0}
            self.put("weather", pick(ORIGINS), now - pick((0, US_PER_HOUR, 4 * US_PER_HOUR)), weather)
            self.put("plane", pick(("N1", "N2", "N3")), None, {"built": pick((None, 1999, 2004))})
        if self.rng.random() < 0.8:
            self.compute.step()
        if self.rng.random() < 0.8:
            self.ingest.step()
        if self.rng.random() < 0.3:
            self.archive.step()

    def put(self, name: str, key: str, at_us: int | None, fields: dict[str, Any]) -> None:
        table: TablePlan = self.project.tables[name]
        now = np.array([self.clock.now_us()], np.int64)
        at = np.array([NULL_US if at_us is None else at_us], np.int64)
        columns = {f.name: column_of(f.dtype, [fields[f.name]]) for f in table.features}
        rows = TableRows(name, table.version, 1, [(key,)], at, now, columns, np.zeros(1, np.bool_))
        self.features.append([Append(TABLES, 0, encode_table_rows(rows))])

    def ask(self) -> tuple[list[dict[str, Any]], FeatureBlock]:
        """Requests at now and shortly after, and what is served for them."""
        now, rows = self.clock.now_us(), []
        for index in range(4):
            at = now + self.rng.choice((0, 1, 7 * US_PER_MINUTE))
            rows.append(
                self.leg() | {"flight_id": f"q{now}.{index}", "at": at, "leaves": at + US_PER_HOUR, "distance": 740.0}
            )
        return rows, self.reader.read(self.columns(rows))

    def columns(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        block = encode_rows(self.view.request, rows)
        assert not block.malformed
        return block.columns

    def recomputed(self, rows: Sequence[dict[str, Any]], served: FeatureBlock | None) -> FeatureBlock:
        """As served at the block's position; without a block, with all that is known now."""
        past = Past(self.project, self.raw, self.features, self.offline)
        reader = HistoryReader(self.view, self.project, past)
        if served is None:
            return reader.read(self.columns(rows))
        place, n = served.position, len(rows)
        streams = {name: np.array([offsets] * n, np.int64) for name, offsets in place.streams.items()}
        return reader.read(self.columns(rows), ServedAt(streams, np.full(n, place.tables, np.int64)))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_served_value_differs_from_its_recomputation(project: ProjectPlan, tmp_path: Path, seed: int) -> None:
    airline = Airline(project, tmp_path, seed)
    asked: list[tuple[list[dict[str, Any]], FeatureBlock]] = []
    for _ in range(45):
        airline.pass_time()
        if airline.rng.random() < 0.3:
            asked.append(airline.ask())
    total, late = Audit(), Audit()
    for rows, served in asked:
        ids = [row["flight_id"] for row in rows]
        total += compare(ids, served, airline.recomputed(rows, served))
        late += compare(ids, served, airline.recomputed(rows, None))
    assert airline.compute.dead > 0
    assert total.checked == sum(len(rows) for rows, _ in asked) * len(airline.view.visible) > 500
    assert total.differing == 0, total.examples
    # Late events came after some of the answers, so corrected history is another matter: the audit can tell.
    assert late.differing > 0
    # Most features had something to say.
    assert np.mean([served.valid.mean() for _, served in asked[-5:]]) > 0.5
