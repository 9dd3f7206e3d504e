"""Conformance kit of the catalog: derive a test class per database, say how to open it and look behind it."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from headrace.catalog.catalog import Catalog
from headrace.catalog.migrations import FORMAT, MIGRATIONS
from headrace.catalog.records import DefinitionRecord
from headrace.core.errors import ConfigError, NotFound, PlanError, StoreError
from headrace.core.time import SimulatedClock
from headrace.testing.capabilities import capability
from headrace.testing.processes import (
    add_versions,
    apply_in_turns,
    barrier,
    die_in_a_transaction,
    finished,
    killed_after,
    move_alias,
    started,
)

OLDEST = """
CREATE TABLE definitions (id {id}, kind VARCHAR(40) NOT NULL, name VARCHAR(255) NOT NULL,
    version VARCHAR(64) NOT NULL, body TEXT NOT NULL, owner VARCHAR(255) NOT NULL, doc TEXT NOT NULL,
    tags TEXT NOT NULL, applied_at_us BIGINT NOT NULL, active BOOLEAN NOT NULL);
CREATE INDEX definitions_by_name ON definitions (kind, name, active);
CREATE TABLE models (model VARCHAR(255) NOT NULL PRIMARY KEY, last_number INTEGER NOT NULL, generation BIGINT NOT NULL);
CREATE TABLE model_versions (model VARCHAR(255) NOT NULL, number INTEGER NOT NULL, created_us BIGINT NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (model, number));
CREATE TABLE aliases (model VARCHAR(255) NOT NULL, alias VARCHAR(64) NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (model, alias));
CREATE TABLE alias_history (id {id}, model VARCHAR(255) NOT NULL, alias VARCHAR(64) NOT NULL, number INTEGER,
    previous INTEGER, at_us BIGINT NOT NULL, who VARCHAR(255) NOT NULL, why TEXT NOT NULL);
CREATE INDEX ix_alias_history_model ON alias_history (model);
CREATE TABLE runs (id {id}, job VARCHAR(255) NOT NULL, trigger VARCHAR(255) NOT NULL, status VARCHAR(16) NOT NULL,
    attempt INTEGER NOT NULL, started_us BIGINT NOT NULL, ended_us BIGINT, detail TEXT NOT NULL);
CREATE INDEX ix_runs_job ON runs (job);
CREATE TABLE alerts (id {id}, kind VARCHAR(64) NOT NULL, subject VARCHAR(255) NOT NULL, severity VARCHAR(16) NOT NULL,
    at_us BIGINT NOT NULL, resolved_us BIGINT, detail TEXT NOT NULL);
CREATE INDEX alerts_by_subject ON alerts (kind, subject);
CREATE TABLE decisions (id {id}, model VARCHAR(255) NOT NULL, at_us BIGINT NOT NULL, challenger INTEGER NOT NULL,
    champion INTEGER, verdict VARCHAR(16) NOT NULL, reason TEXT NOT NULL, figures TEXT NOT NULL);
CREATE INDEX ix_decisions_model ON decisions (model);
CREATE TABLE profiles (subject VARCHAR(255) NOT NULL PRIMARY KEY, at_us BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE settings (name VARCHAR(255) NOT NULL PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO settings VALUES ('catalog.format', '1'), ('audit.from', '[1,2]');
INSERT INTO definitions (kind, name, version, body, owner, doc, tags, applied_at_us, active) VALUES
    ('group', 'Spend', 'v1', '{{}}', 'a@x.example', 'Paid', '["money"]', 5, false),
    ('group', 'Spend', 'v2', '{{"window":"7d"}}', 'a@x.example', 'Paid', '["money"]', 6, true),
    ('group', 'Twice', 'v1', '{{}}', '', '', '[]', 6, true),
    ('group', 'Twice', 'v2', '{{}}', '', '', '[]', 6, true);
INSERT INTO models VALUES ('late', 2, 3);
INSERT INTO model_versions VALUES ('late', 1, 7, 'one'), ('late', 2, 8, 'two');
INSERT INTO aliases VALUES ('late', 'champion', 2);
INSERT INTO alias_history (model, alias, number, previous, at_us, who, why) VALUES
    ('late', 'champion', 2, NULL, 9, 'loop', 'first model');
INSERT INTO runs (job, trigger, status, attempt, started_us, ended_us, detail) VALUES
    ('train', 'manual', 'done', 1, 3, 4, '{{"version":2}}');
"""
"""A catalog of format 1 with a little in it; `{id}` is the database's own numbered key."""


def _group(name: str, version: str, **more: Any) -> DefinitionRecord:
    return DefinitionRecord("group", name, version, {"window": "7d"}, **more)


class CatalogTests(ABC):
    """What a catalog does on every database. Override `opener`, `execute` and `layout`."""

    port = "Catalog"

    numbered_key: str
    """How this database declares a key that numbers itself."""

    @abstractmethod
    def opener(self, place: Path) -> Callable[[], Catalog]:
        """Something that can be pickled and opens the catalog that belongs to `place`, an absent folder at first."""

    @abstractmethod
    def execute(self, place: Path, statement: str) -> list[Any]:
        """Run one statement where the catalog of `place` lies, or will lie; the rows if it returns any."""

    @abstractmethod
    def inspect(self, place: Path) -> tuple[sa.Inspector, str | None]:
        """An inspector of the database, and the schema in which the catalog of `place` lies."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where the catalog lies."""
        return tmp_path / "state"

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        """The catalog's clock."""
        return SimulatedClock(1_000)

    @pytest.fixture
    def catalog(self, place: Path, clock: SimulatedClock) -> Iterator[Catalog]:
        """The open catalog, empty."""
        opened = self.opener(place)()
        opened._clock = opened.models._clock = clock
        yield opened
        opened.close()

    @capability("definitions and their former versions")
    def test_apply_says_what_changed_and_keeps_the_former(self, catalog: Catalog, clock: SimulatedClock) -> None:
        first = catalog.apply([_group("Spend", "v1"), _group("Visits", "v1")])
        assert [(c.name, c.change, c.before, c.after) for c in first] == [
            ("Spend", "added", None, "v1"),
            ("Visits", "added", None, "v1"),
        ]
        clock.advance_to(2_000)
        second = [_group("Spend", "v2"), _group("Login", "v1")]
        planned = catalog.diff(second)
        assert [(c.name, c.change, c.before, c.after) for c in planned] == [
            ("Spend", "changed", "v1", "v2"),
            ("Login", "added", None, "v1"),
            ("Visits", "removed", "v1", None),
        ]
        assert [d.record.version for d in catalog.definitions()] == ["v1", "v1"], "a diff changes nothing"
        assert catalog.apply(second) == planned
        assert [(d.record.name, d.record.version, d.applied_at_us) for d in catalog.definitions("group")] == [
            ("Login", "v1", 2_000),
            ("Spend", "v2", 2_000),
        ]
        everything = catalog.definitions(active=False)
        assert [(d.record.name, d.record.version, d.active) for d in everything] == [
            ("Login", "v1", True),
            ("Spend", "v1", False),
            ("Spend", "v2", True),
            ("Visits", "v1", False),
        ]

    @capability("definitions and their former versions")
    def test_applying_the_same_again_changes_nothing(self, catalog: Catalog, clock: SimulatedClock) -> None:
        records = [_group("Spend", "v1", tags=("money",), doc="What is paid out.")]
        catalog.apply(records)
        clock.advance_to(5_000)
        assert [c.change for c in catalog.apply(records)] == ["unchanged"]
        assert [d.applied_at_us for d in catalog.definitions(active=False)] == [1_000]

    @capability("definitions and their former versions")
    def test_a_new_owner_is_stored_although_the_version_is_the_same(self, catalog: Catalog) -> None:
        catalog.apply([_group("Spend", "v1", owner="a@x.example")])
        assert [c.change for c in catalog.apply([_group("Spend", "v1", owner="b@x.example")])] == ["unchanged"]
        assert catalog.definition("group", "Spend").record.owner == "b@x.example"
        assert len(catalog.definitions()) == 1

    @capability("definitions and their former versions")
    def test_definition_round_trips_and_an_unknown_one_lists_the_names(self, catalog: Catalog) -> None:
        record = _group("Spend", "v1", owner="risk@bank.example", doc="Paid − out", tags=("money", "risk"))
        catalog.apply([record])
        assert catalog.definition("group", "Spend").record == record
        with pytest.raises(NotFound, match="there are: Spend"):
            catalog.definition("group", "Spent")
        with pytest.raises(NotFound, match="run apply first"):
            catalog.definition("view", "transfer")

    @capability("definitions and their former versions")
    def test_search_needs_every_word_anywhere(self, catalog: Catalog) -> None:
        catalog.apply(
            [_group("Spend", "v1", tags=("Money",), doc="Paid out"), _group("Visits", "v1", doc="Paid visits")]
        )
        assert [d.record.name for d in catalog.search("paid")] == ["Spend", "Visits"]
        assert [d.record.name for d in catalog.search("money PAID")] == ["Spend"]
        assert catalog.search("money visits") == []

    @capability("runs, alerts, decisions")
    def test_runs_start_end_and_are_listed_newest_first(self, catalog: Catalog, clock: SimulatedClock) -> None:
        first = catalog.start_run("train", "every 7d")
        second = catalog.start_run("weather", "@hourly", attempt=2, detail={"hour": 3})
        clock.advance_to(9_000)
        catalog.finish_run(first, "done", {"version": 4})
        catalog.finish_run(second, "refused")
        latest, earlier = catalog.runs()
        assert (earlier.status, earlier.started_us, earlier.ended_us, earlier.detail) == (
            "done",
            1_000,
            9_000,
            {"version": 4},
        )
        assert (latest.job, latest.attempt, latest.status, latest.detail) == ("weather", 2, "refused", {"hour": 3})
        assert [run.id for run in catalog.runs("train")] == [first]
        assert [run.id for run in catalog.runs(status="refused")] == [second]
        assert [run.id for run in catalog.runs(limit=1)] == [second]

    @capability("runs, alerts, decisions")
    def test_finishing_an_unknown_run_is_an_error(self, catalog: Catalog) -> None:
        with pytest.raises(NotFound, match="no run 12"):
            catalog.finish_run(12, "done")

    @capability("runs, alerts, decisions")
    def test_runs_that_were_cut_off_are_marked_failed(self, catalog: Catalog) -> None:
        cut = catalog.start_run("train", "manual")
        other = catalog.start_run("weather", "@hourly")
        whole = catalog.start_run("train", "manual")
        catalog.finish_run(whole, "done", {"version": 1})
        assert catalog.abandon_runs("the process died", job="train") == 1
        by_id = {run.id: run for run in catalog.runs()}
        assert (by_id[cut].status, by_id[cut].detail) == ("failed", {"error": "the process died"})
        assert (by_id[other].status, by_id[whole].status, by_id[whole].detail) == ("running", "done", {"version": 1})

    @capability("runs, alerts, decisions")
    def test_alerts_are_open_until_resolved(self, catalog: Catalog, clock: SimulatedClock) -> None:
        catalog.raise_alert("drift", "late", {"psi": {"a": 0.3}})
        catalog.raise_alert("drift", "late", severity="critical")
        catalog.raise_alert("check", "Weather")
        clock.advance_to(4_000)
        assert catalog.resolve_alerts("drift", "late") == 2
        assert catalog.resolve_alerts("drift", "late") == 0
        assert [(a.kind, a.resolved_us) for a in catalog.alerts()] == [
            ("check", None),
            ("drift", 4_000),
            ("drift", 4_000),
        ]
        assert [a.subject for a in catalog.alerts(open_only=True)] == ["Weather"]
        newest, oldest = catalog.alerts("drift", "late")
        assert (newest.severity, oldest.severity, oldest.detail, oldest.at_us) == (
            "critical",
            "warning",
            {"psi": {"a": 0.3}},
            1_000,
        )

    @capability("runs, alerts, decisions")
    def test_decisions_keep_reason_and_table(self, catalog: Catalog) -> None:
        catalog.record_decision("late", challenger=1, champion=None, verdict="promoted", reason="first model")
        table = [{"segment": "", "champion": 0.3, "challenger": 0.32}]
        catalog.record_decision("late", challenger=2, champion=1, verdict="refused", reason="AP +0.02", table=table)
        catalog.record_decision("fraud", challenger=1, champion=None, verdict="promoted", reason="first model")
        newest, first = catalog.decisions("late")
        assert (newest.challenger, newest.champion, newest.verdict, newest.table) == (2, 1, "refused", table)
        assert (first.champion, first.verdict, first.at_us) == (None, "promoted", 1_000)
        assert len(catalog.decisions()) == 3

    @capability("settings and profiles")
    def test_a_setting_is_revised_by_one_process_at_a_time(self, catalog: Catalog, place: Path) -> None:
        assert catalog.revise_setting("n", lambda found: [found, 1]) == [None, 1]
        others = [self.opener(place)() for _ in range(3)]

        def count(one: Catalog) -> None:
            for _ in range(20):
                one.revise_setting("n", lambda found: [found[0], found[1] + 1])

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(count, others))
        assert catalog.setting("n") == [None, 61]
        with pytest.raises(ZeroDivisionError):
            catalog.revise_setting("n", lambda found: 1 // 0)
        assert catalog.setting("n") == [None, 61]
        for one in others:
            one.close()

    @capability("settings and profiles")
    def test_settings_and_profiles_are_replaced(self, catalog: Catalog) -> None:
        assert catalog.setting("audit.from", 7) == 7
        catalog.set_setting("audit.from", [1, 2])
        catalog.set_setting("audit.from", {"at": 3})
        assert catalog.setting("audit.from") == {"at": 3}
        assert catalog.profile("Spend") is None
        catalog.save_profile("Spend", {"rows": 1})
        catalog.save_profile("Spend", {"rows": 2})
        assert catalog.profile("Spend") == {"rows": 2}

    @capability("transactions")
    def test_a_failed_write_leaves_nothing_behind(self, catalog: Catalog) -> None:
        catalog.models.add_version("late", lambda number, at: "{}")

        def fails(number: int, created_us: int) -> str:
            raise ValueError(f"no record for {number}")

        before = catalog.models.generation("late")
        with pytest.raises(ValueError, match="no record for 2"):
            catalog.models.add_version("late", fails)
        assert catalog.models.generation("late") == before
        assert catalog.models.add_version("late", lambda number, at: "{}") == 2

    @capability("threads")
    def test_threads_lose_no_write(self, catalog: Catalog) -> None:
        def write(worker: int) -> None:
            for _ in range(25):
                catalog.raise_alert("load", str(worker))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert len({alert.id for alert in catalog.alerts(limit=1_000)}) == 100

    @capability("keys and the log of changes")
    def test_keys_are_found_again_and_their_changes_are_told(self, place: Path) -> None:
        first = self.opener(place)()
        assert first.keys.generation() == 0
        made, token = first.keys.make("desk", ["score", "read"], who="ann", reads=["Spend"], rate=0.5)
        other, _ = first.keys.make("loader", [], who="ann")
        with pytest.raises(ConfigError, match="live key"):
            first.keys.make("desk", ["read"], who="bob")
        first.close()
        second = self.opener(place)()
        assert {key.id: key for key in second.keys.list()} == {made.id: made, other.id: other}
        assert (made.scopes, made.reads, made.rate, made.burst) == (("read", "score"), ("Spend",), 0.5, 1)
        assert [key.fits(token.encode()) for key in (made, other)] == [True, False]
        assert second.keys.generation() == 2
        revoked = second.keys.revoke("desk", who="bob")
        assert (revoked.state(0), second.keys.generation()) == ("revoked", 3)
        with pytest.raises(NotFound, match="loader"):
            second.keys.revoke("desk", who="bob")
        told = [(change.id, change.who, change.action, change.subject) for change in second.changes.list()]
        assert told == [
            (3, "bob", "keys revoke", "desk"),
            (2, "ann", "keys make", "loader"),
            (1, "ann", "keys make", "desk"),
        ]
        second.close()

    @capability("keys and the log of changes")
    def test_the_log_of_changes_is_searched_and_numbered_without_gaps(
        self, catalog: Catalog, clock: SimulatedClock
    ) -> None:
        catalog.changes._clock = clock
        catalog.apply([_group("Spend", "v1")], who="ann")
        clock.advance_to(2_000)
        catalog.changes.add("key 100%_sure", "put", "Profile", {"rows": 3})

        def write(worker: int) -> None:
            for _ in range(25):
                catalog.changes.add(f"user {worker}", "put", "Profile")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        found = catalog.changes.list(limit=1_000)
        assert [change.id for change in found] == list(range(102, 0, -1))
        assert (found[-1].who, found[-1].action, found[-1].detail) == (
            "ann",
            "apply",
            {"changes": ["added group Spend"]},
        )
        assert [change.detail for change in catalog.changes.list(who="100%_")] == [{"rows": 3}]
        assert catalog.changes.list(who="0%s") == []
        assert [change.action for change in catalog.changes.list(until_us=2_000)] == ["apply"]
        assert len(catalog.changes.list(since_us=2_000, action="put", limit=50)) == 50

    @capability("everything is there after reopening")
    def test_everything_is_there_after_reopening(self, place: Path) -> None:
        first = self.opener(place)()
        run = first.start_run("train", "manual")
        first.close()
        second = self.opener(place)()
        assert [r.id for r in second.runs()] == [run]
        second.close()

    @capability("definitions and their former versions")
    def test_names_are_sorted_byte_for_byte_and_told_apart(self, catalog: Catalog) -> None:
        names = ["a_b", "aB", "ab", "Zoo", "zoo", "Äpfel", "apple", "a b", "ab "]
        catalog.apply([_group(name, "v1") for name in names])
        assert [d.record.name for d in catalog.definitions()] == sorted(names)
        for name in names:
            catalog.models.add_version(name, lambda number, at: "{}")
        assert catalog.models.names() == sorted(names)

    @capability("definitions and their former versions")
    def test_texts_of_any_length_and_sign_come_back(self, catalog: Catalog) -> None:
        long = "ß'\";--\n\t\\ %s :x {} 💧" * 300
        catalog.apply([_group("Spend", long, owner=long, doc=long, tags=(long,))])
        assert catalog.definition("group", "Spend").record == _group("Spend", long, owner=long, doc=long, tags=(long,))
        catalog.start_run(long, long, detail={"text": long + "\0"})
        assert catalog.runs(long)[0].detail == {"text": long + "\0"}
        catalog.set_setting(long, 2**63 - 1)
        assert catalog.setting(long) == 2**63 - 1

    @capability("applying is fenced")
    def test_an_apply_upon_what_has_changed_meanwhile_is_refused(self, catalog: Catalog) -> None:
        before = catalog.generation()
        catalog.apply([_group("Spend", "v1")], generation=before)
        assert catalog.generation() == before + 1
        with pytest.raises(PlanError, match="another process has applied"):
            catalog.apply([_group("Spend", "v2")], generation=before)
        assert [d.record.version for d in catalog.definitions(active=False)] == ["v1"]
        catalog.apply([_group("Spend", "v1")], generation=before + 1)
        assert catalog.generation() == before + 1, "nothing changed"

    @capability("settings and profiles")
    def test_settings_change_with_the_definitions_or_not_at_all(self, catalog: Catalog) -> None:
        catalog.apply([_group("Spend", "v1")], settings={"how": {"a": 1}})
        decided = catalog.generation()
        catalog.apply([_group("Spend", "v1")], settings={"how": {"a": 1}})
        assert catalog.generation() == decided
        # A setting that changes is a change for whoever decided before it.
        catalog.apply([_group("Spend", "v1")], settings={"how": {"a": 2}})
        assert (catalog.generation(), catalog.setting("how")) == (decided + 1, {"a": 2})
        with pytest.raises(PlanError, match="nothing was changed"):
            catalog.apply([_group("Spend", "v2")], generation=decided, settings={"how": {}})
        assert catalog.setting("how") == {"a": 2}

    @capability("applying is fenced")
    def test_of_two_processes_that_apply_at_once_one_wins_and_the_other_is_told(self, place: Path) -> None:
        rounds, ready = 12, barrier(2)
        with (
            started(apply_in_turns, self.opener(place), "a", rounds, ready) as (first, to_first),
            started(apply_in_turns, self.opener(place), "b", rounds, ready) as (second, to_second),
        ):
            won = [(to_first.recv_bytes()[0], to_second.recv_bytes()[0]) for _ in range(rounds)]
            finished(first)
            finished(second)
        assert {sum(pair) for pair in won} == {1}
        winner = "a" if won[-1][0] else "b"
        catalog = self.opener(place)()
        assert [d.record.version for d in catalog.definitions()] == [f"{winner}{rounds - 1}"] * 2
        assert catalog.generation() == rounds
        catalog.close()

    @capability("several processes write")
    def test_processes_create_and_write_together(self, place: Path) -> None:
        with (
            started(add_versions, self.opener(place), "late", 40) as (first, _),
            started(add_versions, self.opener(place), "late", 40) as (second, _),
            started(add_versions, self.opener(place), "late", 40) as (third, _),
        ):
            for process in (first, second, third):
                finished(process)
        catalog = self.opener(place)()
        assert catalog.models.versions("late") == [str(number) for number in range(1, 121)]
        assert catalog.models.generation("late") == 120
        catalog.close()

    @capability("kill -9 in a transaction")
    def test_a_process_killed_in_a_transaction_leaves_nothing_and_holds_nobody_up(
        self, catalog: Catalog, place: Path
    ) -> None:
        catalog.models.add_version("late", lambda number, at: "one")
        with started(die_in_a_transaction, self.opener(place), "late") as (process, pipe):
            assert int.from_bytes(pipe.recv_bytes(), "big") == 2
            assert catalog.models.versions("late") == ["one"], "readers do not wait"
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        assert catalog.models.add_version("late", lambda number, at: "two") == 2
        assert catalog.models.versions("late") == ["one", "two"]

    @capability("transactions")
    def test_a_promotion_and_its_history_are_one(self, catalog: Catalog, place: Path) -> None:
        """Killed at any point, the alias is where the last move of its history says, and no move is left out."""
        for _ in range(2):
            catalog.models.add_version("late", lambda number, at: "{}")
        for reports in (1, 14):
            killed_after(move_alias, self.opener(place), "late", "champion", reports=reports)
            moves = catalog.models.alias_history("late")
            assert [move.previous for move in moves] == [None, *(move.number for move in moves[:-1])]
            assert catalog.models.alias("late", "champion") == moves[-1].number
            assert catalog.models.generation("late") == 2 + len(moves)
        assert len(moves) >= 15
        with (
            started(move_alias, self.opener(place), "late", "champion") as (_, from_first),
            started(move_alias, self.opener(place), "late", "champion") as (_, from_second),
        ):
            for _ in range(10):
                from_first.recv_bytes()
                from_second.recv_bytes()
        moves = catalog.models.alias_history("late")
        assert [move.previous for move in moves] == [None, *(move.number for move in moves[:-1])], "at once"
        assert catalog.models.alias("late", "champion") == moves[-1].number

    @capability("migrations of older formats")
    def test_a_catalog_of_a_later_format_is_refused_by_name(self, catalog: Catalog, place: Path) -> None:
        catalog.set_setting("catalog.format", 99)
        with pytest.raises(StoreError, match=rf"format 99; this version reads up to {FORMAT}: upgrade"):
            self.opener(place)()
        assert catalog.setting("catalog.format") == 99

    @capability("migrations of older formats")
    def test_the_oldest_catalog_becomes_the_newest_and_loses_nothing(
        self, tmp_path: Path, clock: SimulatedClock
    ) -> None:
        self._make_oldest(tmp_path / "old")
        catalog, made = self.opener(tmp_path / "old")(), self.opener(tmp_path / "new")()
        assert self._layout(tmp_path / "old") == self._layout(tmp_path / "new")
        assert [(d.record.name, d.record.version, d.active) for d in catalog.definitions(active=False)] == [
            ("Spend", "v1", False), ("Spend", "v2", True), ("Twice", "v1", False), ("Twice", "v2", True),
        ]  # fmt: skip
        assert catalog.definition("group", "Spend").record.tags == ("money",)
        assert catalog.models.versions("late") == ["one", "two"]
        assert catalog.models.aliases("late") == {"champion": 2}
        assert [(m.number, m.why) for m in catalog.models.alias_history("late")] == [(2, "first model")]
        assert [(r.job, r.detail) for r in catalog.runs()] == [("train", {"version": 2})]
        assert [catalog.setting("audit.from"), catalog.setting("catalog.format")] == [[1, 2], FORMAT]
        assert catalog.models.add_version("late", lambda number, at: "three") == 3
        assert [c.change for c in catalog.apply([_group("Spend", "v3")])] == ["changed", "removed"]
        catalog.close()
        made.close()
        numbers = [row[0] for row in self.execute(tmp_path / "old", "SELECT number FROM migrations ORDER BY number")]
        assert numbers == list(range(2, FORMAT + 1)) == [n + 2 for n in range(len(MIGRATIONS))]

    @capability("migrations of older formats")
    def test_processes_that_open_an_old_catalog_together_migrate_it_once(self, place: Path) -> None:
        self._make_oldest(place)
        with (
            started(add_versions, self.opener(place), "late", 3) as (first, _),
            started(add_versions, self.opener(place), "late", 3) as (second, _),
        ):
            finished(first)
            finished(second)
        assert len(self.execute(place, "SELECT number FROM migrations")) == len(MIGRATIONS)
        assert len(self.execute(place, "SELECT number FROM model_versions")) == 8

    @capability("migrations of older formats")
    def test_a_migration_that_fails_leaves_the_old_catalog_whole(self, place: Path) -> None:
        self._make_oldest(place)
        self.execute(place, "CREATE INDEX definitions_active ON runs (job)")  # stands in the way of the second step
        before = self._layout(place)
        with pytest.raises(StoreError, match="cannot be opened"):
            self.opener(place)()
        assert self._layout(place) == before
        assert self.execute(place, "SELECT value FROM settings WHERE name = 'catalog.format'")[0][0] == "1"
        self.execute(place, "DROP INDEX definitions_active")
        self.opener(place)().close()

    @capability("definitions and their former versions")
    def test_one_name_has_one_active_definition_whoever_writes(self, catalog: Catalog, place: Path) -> None:
        catalog.apply([_group("Spend", "v1")])
        with pytest.raises(sa.exc.IntegrityError):
            self.execute(
                place,
                "INSERT INTO definitions (kind, name, version, body, owner, doc, tags, applied_at_us, active) "
                "VALUES ('group', 'Spend', 'v2', '', '', '', '', 0, true)",
            )

    def _make_oldest(self, place: Path) -> None:
        for statement in OLDEST.format(id=self.numbered_key).split(";\n"):
            if statement.strip():
                self.execute(place, statement)

    def _layout(self, place: Path) -> dict[str, Any]:
        """Columns and indexes of all tables. A text's length and order do not count: SQLite minds neither."""
        inspector, schema = self.inspect(place)
        found: dict[str, Any] = {}
        for table in sorted(inspector.get_table_names(schema)):
            columns = [
                (c["name"], "Text" if isinstance(c["type"], sa.String) else type(c["type"]).__name__, c["nullable"])
                for c in inspector.get_columns(table, schema)
            ]
            indexes = [(i["name"], i["column_names"], bool(i["unique"])) for i in inspector.get_indexes(table, schema)]
            key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
            found[table] = (sorted(columns), sorted(indexes), key)
        return found
