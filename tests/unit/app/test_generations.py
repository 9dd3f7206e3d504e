"""Derived streams derived anew: late look-ups come into online values, and what was served before stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.app.project import Project
from headrace.app.rows import Row, request_columns
from headrace.catalog.catalog import Catalog
from headrace.core.errors import PlanError, SchemaError
from headrace.core.time import SimulatedClock, to_us
from headrace.eventlog.lmdb import LmdbEventLog
from headrace.features.compile import compile_project
from headrace.features.generation import at_generations, generations_of, version_at
from headrace.retrieval.history import HistoryReader, ServedAt, served_at
from headrace.stores.online.lmdb import LmdbOnlineStore
from tests.unit.app.conftest import NOON
from tests.unit.app.test_derived import Chargeback, Fx, Names, Transfer, minutes, opened, rate, transfer


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(to_us(NOON - timedelta(days=50)))


def asked(at: float) -> dict[str, Any]:
    return transfer("x", NOON + minutes(at))


def late(project: Project, clock: SimulatedClock) -> None:
    """A rate of before the transfers, and the transfer of a chargeback, both of which come too late to be looked up."""
    project.put("fx", [rate(NOON - timedelta(days=51), 2.0)])
    clock.advance_to(to_us(NOON + minutes(2)))
    project.publish("transfer", [transfer("a", NOON), transfer("b", NOON, -1.0), transfer("c", NOON, 3.0)])
    project.publish("chargeback", [{"transfer": "d", "fraud": True, "at": (NOON + minutes(1)).isoformat()}])
    clock.advance_to(to_us(NOON + minutes(5)))
    project.publish("transfer", [transfer("d", NOON - minutes(10), 7.0)])
    clock.advance_to(to_us(NOON + minutes(10)))


def disputes(row: Row) -> Any:
    return row.to_dict()["disputes__n"]


def as_served(project: Project, row: Row, request: dict[str, Any]) -> dict[str, Any]:
    """A row computed again at its own position."""
    view = project.running_plan.views["transfer"]
    columns = request_columns(view.request, [request], 0)
    reader = HistoryReader(view, project.running_plan, project.parts.past)
    block = reader.read(columns, served_at(row.position, 1))
    return {name: values[0] for name, values in block.to_pydict().items()}


def test_online_values_follow_and_former_ones_stay(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with opened(tmp_path, names, clock) as project:
        late(project, clock)
        before = project.online("transfer", asked(9))
        assert disputes(before) == 0
        assert project.history("transfer", [asked(9)])["disputes__n"] == [1]
        clock.advance_to(to_us(NOON + minutes(11)))
        report = project.backfill(names.Paid)
        # What looks the stream up is derived anew, too.
        assert (report.names, report.due) == (("paid", "disputed"), ())
        assert not project.plan()
        after = project.online("transfer", asked(9))
        assert (disputes(after), after[names.Spend.total]) == (1, 22.0)
        assert project.history("transfer", [asked(9)])["disputes__n"] == [1]
        assert project.get("disputes", shop=7, at=NOON + minutes(9)).n == 1
        # Rows of both generations are what they were, one by one and together.
        for row, wanted in ((before, 0), (after, 1)):
            assert as_served(project, row, asked(9))["disputes__n"] == wanted
        assert project.history("transfer", [asked(9)], as_of=NOON + minutes(9))["disputes__n"] == [0]
        assert project.history("transfer", [asked(9)], as_of=NOON + minutes(12))["disputes__n"] == [1]
        view = project.running_plan.views["transfer"]
        columns = request_columns(view.request, [asked(9)] * 3, 0)
        of = [after.position, before.position, after.position]
        topics = {topic for position in of for topic in position.streams}
        streams = {t: np.array([position.streams.get(t, [0]) for position in of], np.int64) for t in topics}
        reader = HistoryReader(view, project.running_plan, project.parts.past)
        block = reader.read(columns, ServedAt(streams, np.array([position.tables for position in of])))
        assert block.column("disputes__n").to_pylist() == [1, 0, 1]
    # Another process goes on with it, and the next generation takes in what came late since.
    with opened(tmp_path, names, clock) as project:
        assert disputes(project.online("transfer", asked(9))) == 1
        at = (NOON + minutes(11)).isoformat()
        project.publish("chargeback", [{"transfer": t, "fraud": True, "at": at} for t in ("a", "e")])
        clock.advance_to(to_us(NOON + minutes(13)))
        project.publish("transfer", [transfer("e", NOON + minutes(3), 100.0)])
        clock.advance_to(to_us(NOON + minutes(20)))
        row = project.online("transfer", asked(19))
        assert (disputes(row), row[names.Spend.total]) == (2, 222.0)
        project.backfill("disputes")
        assert disputes(project.online("transfer", asked(19))) == 3
        assert project.history("transfer", [asked(19)])["disputes__n"] == [3]
        for served, request, wanted in ((before, 9, 0), (after, 9, 1), (row, 19, 2)):
            assert as_served(project, served, asked(request))["disputes__n"] == wanted
        parts = project.parts
        assert {topic[-3:] for topic in parts.plan.derived if topic.startswith("disputed")} == {"-g2"}
        while parts.archive().step():
            pass
        assert project.history("transfer", [asked(19)])["disputes__n"] == [3]


def test_definitions_and_schedules_outlive_a_generation(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with Project.open(tmp_path, clock=clock, definitions=names.all, groups={"spend": "1h"}) as project:
        late(project, clock)
        project.backfill("spend")
        total = project.online("transfer", asked(9))[names.Spend.total]
        project.backfill(names.Paid)
        plan = project.running_plan
        assert plan.scheduled == {plan.groups["spend"].version: 3_600_000_000}
        assert project.online("transfer", asked(9))[names.Spend.total] == total == 22.0
        project.publish("transfer", [transfer("f", NOON + minutes(6), 1.0)])
        assert project.online("transfer", asked(9))[names.Spend.total] == total
        project.backfill("spend")
        assert project.online("transfer", asked(9))[names.Spend.total] == 24.0
        assert not project.plan()
    # An edit begins with a first generation of its own, and the way back leads to the generation that was there.
    edited = Names(factor=10.0)
    with opened(tmp_path, edited, clock) as project:
        project.apply()
        assert project.online("transfer", asked(9))[edited.Spend.total] == 240.0
        assert set(generations_of(project.running_plan).values()) == {0}
    with opened(tmp_path, names, clock) as project:
        project.apply()
        assert project.online("transfer", asked(9))[names.Spend.total] == 24.0
        assert set(generations_of(project.running_plan).values()) == {1}


def test_what_cannot_be_derived_anew_is_refused(tmp_path: Path, clock: SimulatedClock) -> None:
    names = Names()
    with opened(tmp_path, names, clock) as project:
        late(project, clock)
        with pytest.raises(SchemaError, match="paid is derived anew as a whole: name it alone"):
            project.backfill(names.Paid, since="2026-01-01")
        # A group that nothing of is due has no events to leave out.
        assert project.backfill(names.Spend, since="2026-01-01").names == ()
        with pytest.raises(SchemaError, match="name it alone"):
            project.backfill([names.Paid, "volume"])
    with opened(tmp_path, Names(factor=2.0), clock) as project, pytest.raises(PlanError, match="headrace apply"):
        project.backfill("paid")


def test_a_version_at_a_generation_is_told_from_the_definition_and_back() -> None:
    plan = compile_project([*Names().all, Transfer, Fx, Chargeback])
    first = dict.fromkeys(generations_of(plan), 0)
    second = at_generations(plan, dict.fromkeys(first, 2))
    assert set(generations_of(second).values()) == {2}
    assert at_generations(second, first) == plan
    old, new = plan.groups["spend"], second.groups["spend"]
    assert version_at(old.version, old.stream, new.stream) == new.version != old.version
    assert len(new.version) == 16
    assert second.views["transfer"].version == plan.views["transfer"].version


class Killed(BaseException):
    """Stands for a kill."""


STEPS: list[tuple[type, str]] = [
    (LmdbEventLog, "append"),
    (LmdbEventLog, "create"),
    (LmdbOnlineStore, "revise"),
    (LmdbOnlineStore, "update"),
    (Catalog, "apply"),
]
"""Everything that deriving anew writes with."""


def _dying(monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> list[str]:
    """Die at a write, before or after it is done; returns the writes so far."""
    done: list[str] = []

    def at_each(owner: type, name: str) -> None:
        write: Callable[..., Any] = getattr(owner, name)

        def dying(*args: Any, **named: Any) -> Any:
            done.append(name)
            if len(done) - 1 == at and not after:
                raise Killed
            found = write(*args, **named)
            if len(done) - 1 == at:
                raise Killed
            return found

        monkeypatch.setattr(owner, name, dying)

    for owner, name in STEPS:
        at_each(owner, name)
    return done


def test_a_kill_at_any_write_leaves_one_generation_or_the_next(
    tmp_path: Path, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names()
    project = opened(tmp_path, names, clock)
    late(project, clock)
    before = project.online("transfer", asked(9))
    generation = at = 0
    killed: set[str] = set()
    whole = False
    while not whole:
        with monkeypatch.context() as patch:
            # Each try goes on where the last one was killed: a little further, then to the end and one more generation.
            done = _dying(patch, at // 2, bool(at % 2))
            try:
                project.backfill("paid")
                whole = True
            except Killed:
                killed.add(done[-1])
        at += 1
        project.close()
        project = opened(tmp_path, names, clock)
        found = set(generations_of(project.running_plan).values())
        assert found <= {generation, generation + 1}
        assert len(found) == 1
        generation = found.pop()
        row = project.online("transfer", asked(9))
        assert (disputes(row), row[names.Spend.total]) == (min(generation, 1), 22.0)
        assert as_served(project, before, asked(9))["disputes__n"] == 0
    assert killed >= {"append", "create", "revise", "apply"}
    with project:
        clock.advance_to(to_us(NOON + minutes(20)))
        project.publish("transfer", [transfer("f", NOON + minutes(12), 100.0)])
        row = project.online("transfer", asked(19))
        assert (disputes(row), row[names.Spend.total]) == (1, 222.0)
        wanted = project.history("transfer", [asked(19)])
        assert (wanted["disputes__n"], wanted["spend__total"]) == ([1], [222.0])
