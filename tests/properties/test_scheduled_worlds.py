"""A group that streams, runs on a schedule, or is switched in the middle gives the same values, at its own position.

Two groups over one random stream; at random moments workers step, the scheduled group runs, the configuration changes,
and whatever writes is killed at any of its writes and started again. What is read in between is the oracle's value at
the position that the answer names for each group, and history as served gives the same bits.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, note
from hypothesis import strategies as st

from headrace.aggregations import layout
from headrace.app.applying import apply_changes
from headrace.app.scheduled import applied_schedule, run_group
from headrace.app.settings import Settings
from headrace.app.wiring import Parts
from headrace.catalog.catalog import Catalog
from headrace.core.columns import column_of
from headrace.core.events import encode_block
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import SimulatedClock
from headrace.derivation.worker import ComputingLayer
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import Binding, GroupPlan, ProjectPlan, StreamPlan, ViewColumn, ViewPlan
from headrace.ingestion import backfill
from headrace.retrieval.history import HistoryReader, ServedAt, served_at
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.rows import FeatureBlock
from headrace.stores.offline.memory import MemoryOfflineStore
from headrace.stores.online.base import Change, Revision
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.testing import strategies
from headrace.testing.oracle import RawEvent, group_row, judge
from tests.properties.world import ASKED_AT, SOME, batches, differing

SEEDS = st.integers(0, 2**32 - 1)
HORIZONS_S = st.sampled_from((0, 1, 600, 86_400))
MODES: tuple[dict[str, str], ...] = ({}, {"one": "1h"}, {"one": "1h"}, {"one": "1h", "two": "5m"}, {"two": "1h"})


class Killed(BaseException):
    """Stands for kill -9."""


class Fuse:
    """Kills whoever writes for the `left`-th time; what was written before that stays."""

    left = -1

    def write(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


class MortalStore(MemoryOnlineStore):
    """An online store whose writer may be killed before each transaction."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def update(self, keys: Sequence[bytes], change: Change) -> None:
        self.fuse.write()
        super().update(keys, change)

    def revise(self, keys: Sequence[bytes], change: Revision) -> None:
        self.fuse.write()
        super().revise(keys, change)


class MortalCatalog(Catalog):
    """A catalog whose writer may be killed before each transaction."""

    fuse = Fuse()

    def set_setting(self, name: str, value: Any) -> None:
        self.fuse.write()
        super().set_setting(name, value)

    def apply(self, records: Any, **more: Any) -> Any:
        self.fuse.write()
        return super().apply(records, **more)


class World:
    """Logs, stores and workers of one project of two groups."""

    def __init__(self, plan: ProjectPlan, partitions: int, start_us: int, horizon_s: int, folder: Path) -> None:
        self.plan, self.partitions = plan, partitions
        self.clock, self.fuse = SimulatedClock(start_us), Fuse()
        settings = Settings(folder=folder, state=folder / "state", horizon_s=horizon_s)
        self.parts = Parts(settings, plan, self.clock)
        catalog = MortalCatalog(folder / "catalog.db", self.clock)
        catalog.fuse = self.fuse
        given = {
            "raw": MemoryEventLog(self.clock),
            "features": MemoryEventLog(self.clock),
            "internal": MemoryEventLog(self.clock),
            "online": MortalStore(self.fuse),
            "offline": MemoryOfflineStore(),
            "catalog": catalog,
        }
        self.parts.__dict__.update(given)
        self.parts.raw.create("order", partitions)
        self.switch({})

    def switch(self, runs: dict[str, str]) -> None:
        """Change the configuration and apply it, with nothing running; killed, apply it again."""
        self.parts.settings = replace(self.parts.settings, groups=runs)
        try:
            apply_changes(self.parts, self.plan, None, abandon=False, progress=None)
        except Killed:
            note("killed while applying")
            self.fuse.left = -1
            apply_changes(self.parts, self.plan, None, abandon=False, progress=None)
        self.restart()

    def restart(self) -> None:
        self.fuse.left = -1
        self.parts.plan = replace(self.plan, scheduled=applied_schedule(self.parts.catalog))
        self.compute: ComputingLayer = self.parts.compute()
        self.ingest, self.archive = self.parts.ingest(), self.parts.archive()

    def run(self) -> None:
        for group in self.plan.groups.values():
            if group.version in self.parts.plan.scheduled:
                run_group(self.parts, group)

    def publish(self, stream: StreamPlan, batch: Sequence[RawEvent]) -> None:
        self.clock.advance_to(batch[0].arrival_us)
        block = encode_rows(stream.schema, [record.fields for record in batch])  # type: ignore[misc]
        self.parts.raw.append([Append(stream.name, batch[0].partition, encode_block(block), len(batch))])

    def do_something(self, rng: random.Random) -> None:
        """Let workers go on at random, some to their death."""
        self.fuse.left = rng.choice((0, 1, 2, 3, 5, 8)) if rng.random() < 0.3 else -1
        try:
            if rng.random() < 0.5:
                self.compute.step(rng.choice((1, 2, 7, 50_000)))
            if rng.random() < 0.5:
                self.ingest.step(rng.choice((1, 2, 1_000)))
            if rng.random() < 0.2:
                self.archive.step(rng.choice((1, 3, 1_000)))
            if rng.random() < 0.3:
                self.run()
        except Killed:
            note("killed at work")
            self.restart()
        if rng.random() < 0.15:
            self.switch(dict(rng.choice(MODES)))
        self.fuse.left = -1

    def read(self, view: ViewPlan, keys: Sequence[tuple[Any, ...]], times: Sequence[int]) -> tuple[Any, FeatureBlock]:
        """Online, at each (key, time), and what was asked: no time is before the horizon of the answer's own clock."""
        reader = OnlineReader(view, self.parts.plan, self.parts.online, horizon_us=self.parts.horizon_us)
        late = reader.read(request_of(view, keys[:1], [2**62])).position.clock_us.get("order")
        asked = list(times) if late is None else [max(t, late - self.parts.horizon_us) for t in times]
        return asked, reader.read(request_of(view, keys, asked))

    def history(
        self, view: ViewPlan, keys: Sequence[tuple[Any, ...]], times: Sequence[int], served: ServedAt | None = None
    ) -> FeatureBlock:
        return HistoryReader(view, self.parts.plan, self.parts.past).read(request_of(view, keys, times), served)


def view_of(*groups: GroupPlan) -> ViewPlan:
    """All features of groups with one key."""
    fields = tuple(Field(part.name, part.dtype, nullable=True, entity=part.entity) for part in groups[0].key)
    request = Schema("request", (*fields, Field(ASKED_AT, DType.TIMESTAMP)), ASKED_AT)
    bindings = tuple(Binding(group.name, False, "", tuple(part.name for part in group.key)) for group in groups)
    columns = tuple(
        ViewColumn(f"{group.name}__{name}", group.dtypes[name], "feature", binding=index, feature=name)
        for index, group in enumerate(groups)
        for name in group.order
    )
    return ViewPlan("asked", "00112233aabbccdd", "request", request, bindings, columns)


def request_of(view: ViewPlan, keys: Sequence[tuple[Any, ...]], times: Sequence[int]) -> dict[str, Any]:
    columns = {ASKED_AT: column_of(DType.TIMESTAMP, list(times))}
    for index, name in enumerate(view.bindings[0].request_keys):
        columns[name] = column_of(view.request[name].dtype, [key[index] for key in keys])
    return columns


@st.composite
def cases(draw: st.DrawFn) -> tuple[StreamPlan, list[RawEvent], list[GroupPlan]]:
    stream = draw(strategies.streams())
    records = draw(strategies.histories(stream, max_events=40, max_partitions=3))
    one = replace(draw(strategies.group_plans(stream)), name="one")
    two = replace(draw(strategies.group_plans(stream)), name="two", key=one.key)
    return stream, records, [replace(one, version="1" * 16), replace(two, version="2" * 16)]


def shown(block: FeatureBlock, row: int, group: GroupPlan) -> dict[str, Any]:
    values = {name: items[row] for name, items in block.to_pydict().items()}
    return {name: values[f"{group.name}__{name}"] for name in group.order}


@SOME
@given(cases(), HORIZONS_S, SEEDS, st.data())
def test_values_are_those_of_the_groups_own_positions(
    case: tuple[StreamPlan, list[RawEvent], list[GroupPlan]], horizon_s: int, seed: int, data: st.DataObject
) -> None:
    stream, records, groups = case
    one, two = groups
    events, rng = judge(stream, records), random.Random(seed)
    partitions = max((record.partition for record in records), default=0) + 1
    entities = [*strategies.entities_of(stream, one, records)[:3], tuple(None for _ in one.key)]
    drawn = data.draw(st.lists(strategies.read_times(records, one), min_size=1, max_size=3))
    keys, times = [key for key in entities for _ in drawn], [t for _ in entities for t in drawn]
    plan = ProjectPlan({stream.name: stream}, {group.name: group for group in groups}, {}, {}, {})
    answers: list[tuple[ViewPlan, Any, FeatureBlock]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(MortalStore, "at_once", rng.choice((10, 35, 50_000))),
        mock.patch.object(backfill, "PIECE", rng.choice((13, 250_000))),
        mock.patch.object(layout, "_fewest", (lambda *_: 1) if rng.random() < 0.5 else layout._fewest),
    ):
        start = min((record.arrival_us for record in records), default=0)
        world = World(plan, partitions, start, horizon_s, Path(folder))
        reached: dict[str, list[int]] = {}
        for batch in batches(records, rng):
            world.publish(stream, batch)
            world.do_something(rng)
            if rng.random() < 0.3:
                view = view_of(*rng.choice(([one], [two], groups, groups)))
                answers.append((view, *world.read(view, keys, times)))
                for binding in view.bindings:
                    version, position = plan.groups[binding.source].version, answers[-1][2].position
                    place = position.groups.get(version, position.streams.get("order", []))
                    # A group's position never goes back, however it runs.
                    before = reached.get(version, [0] * partitions)
                    place = [*place, *[0] * (partitions - len(place))]
                    assert all(a >= b for a, b in zip(place, before, strict=True))
                    reached[version] = place
        for view, asked, block in answers:
            again = world.history(view, keys, asked, served_at(block.position, len(keys)))
            assert np.array_equal(again.valid, block.valid)
            assert np.array_equal(again.words, block.words)
            for group in [plan.groups[binding.source] for binding in view.bindings]:
                place = block.position.groups.get(group.version, block.position.streams.get("order", []))
                place = [*place, *[0] * (partitions - len(place))]
                for row, (key, t) in enumerate(zip(keys, asked, strict=True)):
                    note(f"{group.name}: {key} at {t} as served at {place}")
                    assert differing(shown(block, row, group), group_row(group, key, t, events, place)) == {}
        # In the end all is streamed again, and nothing is missing.
        corrected = world.history(view_of(*groups), keys, times)
        world.switch({})
        while world.compute.step():
            pass
        while world.ingest.step():
            pass
        asked, last = world.read(view_of(*groups), keys, times)
        assert last.position.groups == {}
        for group in groups:
            for row, key in enumerate(keys):
                wanted = group_row(group, key, asked[row], events)
                assert differing(shown(last, row, group), wanted) == {}
        world.archive.step()
        whole = world.history(view_of(*groups), keys, times)
        for group in groups:
            for row, key in enumerate(keys):
                assert differing(shown(whole, row, group), group_row(group, key, times[row], events)) == {}
        if world.parts.past.computed().get("order") == [0] * partitions:
            assert np.array_equal(corrected.words, whole.words)
        with suppress(Exception):
            world.parts.catalog.close()
