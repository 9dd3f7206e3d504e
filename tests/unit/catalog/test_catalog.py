"""The catalog keeps what it is told, for every process, and says what changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.catalog.catalog import Catalog
from headrace.catalog.records import DefinitionRecord
from headrace.core.errors import NotFound, StoreError
from headrace.core.time import SimulatedClock


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(1_000)


@pytest.fixture
def catalog(tmp_path: Path, clock: SimulatedClock) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "state" / "catalog.db", clock)
    yield opened
    opened.close()


def group(name: str, version: str, **more: object) -> DefinitionRecord:
    return DefinitionRecord("group", name, version, {"window": "7d"}, **more)  # type: ignore[arg-type]


def test_apply_says_what_changed_and_keeps_the_former(catalog: Catalog, clock: SimulatedClock) -> None:
    first = catalog.apply([group("Spend", "v1"), group("Visits", "v1")])
    assert [(c.name, c.change, c.before, c.after) for c in first] == [
        ("Spend", "added", None, "v1"),
        ("Visits", "added", None, "v1"),
    ]
    clock.advance_to(2_000)
    second = [group("Spend", "v2"), group("Login", "v1")]
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


def test_applying_the_same_again_changes_nothing(catalog: Catalog, clock: SimulatedClock) -> None:
    records = [group("Spend", "v1", tags=("money",), doc="What is paid out.")]
    catalog.apply(records)
    clock.advance_to(5_000)
    assert [c.change for c in catalog.apply(records)] == ["unchanged"]
    assert [d.applied_at_us for d in catalog.definitions(active=False)] == [1_000]


def test_a_new_owner_is_stored_although_the_version_is_the_same(catalog: Catalog) -> None:
    catalog.apply([group("Spend", "v1", owner="a@x.example")])
    assert [c.change for c in catalog.apply([group("Spend", "v1", owner="b@x.example")])] == ["unchanged"]
    assert catalog.definition("group", "Spend").record.owner == "b@x.example"
    assert len(catalog.definitions()) == 1


def test_definition_round_trips_and_an_unknown_one_lists_the_names(catalog: Catalog) -> None:
    record = group("Spend", "v1", owner="risk@bank.example", doc="Paid − out", tags=("money", "risk"))
    catalog.apply([record])
    assert catalog.definition("group", "Spend").record == record
    with pytest.raises(NotFound, match="there are: Spend"):
        catalog.definition("group", "Spent")
    with pytest.raises(NotFound, match="run apply first"):
        catalog.definition("view", "transfer")


def test_search_needs_every_word_anywhere(catalog: Catalog) -> None:
    catalog.apply([group("Spend", "v1", tags=("Money",), doc="Paid out"), group("Visits", "v1", doc="Paid visits")])
    assert [d.record.name for d in catalog.search("paid")] == ["Spend", "Visits"]
    assert [d.record.name for d in catalog.search("money PAID")] == ["Spend"]
    assert catalog.search("money visits") == []


def test_runs_start_end_and_are_listed_newest_first(catalog: Catalog, clock: SimulatedClock) -> None:
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


def test_finishing_an_unknown_run_is_an_error(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="no run 12"):
        catalog.finish_run(12, "done")


def test_runs_that_were_cut_off_are_marked_failed(catalog: Catalog) -> None:
    cut = catalog.start_run("train", "manual")
    other = catalog.start_run("weather", "@hourly")
    whole = catalog.start_run("train", "manual")
    catalog.finish_run(whole, "done", {"version": 1})
    assert catalog.abandon_runs("the process died", job="train") == 1
    by_id = {run.id: run for run in catalog.runs()}
    assert (by_id[cut].status, by_id[cut].detail) == ("failed", {"error": "the process died"})
    assert (by_id[other].status, by_id[whole].status, by_id[whole].detail) == ("running", "done", {"version": 1})


def test_alerts_are_open_until_resolved(catalog: Catalog, clock: SimulatedClock) -> None:
    catalog.raise_alert("drift", "late", {"psi": {"a": 0.3}})
    catalog.raise_alert("drift", "late", severity="critical")
    catalog.raise_alert("check", "Weather")
    clock.advance_to(4_000)
    assert catalog.resolve_alerts("drift", "late") == 2
    assert catalog.resolve_alerts("drift", "late") == 0
    assert [(a.kind, a.resolved_us) for a in catalog.alerts()] == [("check", None), ("drift", 4_000), ("drift", 4_000)]
    assert [a.subject for a in catalog.alerts(open_only=True)] == ["Weather"]
    newest, oldest = catalog.alerts("drift", "late")
    assert (newest.severity, oldest.severity, oldest.detail, oldest.at_us) == (
        "critical",
        "warning",
        {"psi": {"a": 0.3}},
        1_000,
    )


def test_decisions_keep_reason_and_table(catalog: Catalog) -> None:
    catalog.record_decision("late", challenger=1, champion=None, verdict="promoted", reason="first model")
    table = [{"segment": "", "champion": 0.3, "challenger": 0.32}]
    catalog.record_decision("late", challenger=2, champion=1, verdict="refused", reason="AP +0.02", table=table)
    catalog.record_decision("fraud", challenger=1, champion=None, verdict="promoted", reason="first model")
    newest, first = catalog.decisions("late")
    assert (newest.challenger, newest.champion, newest.verdict, newest.table) == (2, 1, "refused", table)
    assert (first.champion, first.verdict, first.at_us) == (None, "promoted", 1_000)
    assert len(catalog.decisions()) == 3


def test_settings_and_profiles_are_replaced(catalog: Catalog) -> None:
    assert catalog.setting("audit.from", 7) == 7
    catalog.set_setting("audit.from", [1, 2])
    catalog.set_setting("audit.from", {"at": 3})
    assert catalog.setting("audit.from") == {"at": 3}
    assert catalog.profile("Spend") is None
    catalog.save_profile("Spend", {"rows": 1})
    catalog.save_profile("Spend", {"rows": 2})
    assert catalog.profile("Spend") == {"rows": 2}


def test_everything_is_there_after_reopening(tmp_path: Path, clock: SimulatedClock) -> None:
    first = Catalog(tmp_path / "c.db", clock)
    run = first.start_run("train", "manual")
    first.close()
    second = Catalog(f"sqlite:///{tmp_path / 'c.db'}", clock)
    assert [r.id for r in second.runs()] == [run]
    second.close()


def test_a_file_that_is_no_catalog_is_refused_by_name(tmp_path: Path, clock: SimulatedClock) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(b"these are just notes, long enough to be taken for a header" * 100)
    with pytest.raises(StoreError, match=r"notes\.db cannot be opened"):
        Catalog(path, clock)


def test_a_catalog_of_a_later_format_is_refused(tmp_path: Path, clock: SimulatedClock) -> None:
    catalog = Catalog(tmp_path / "c.db", clock)
    catalog.set_setting("catalog.format", 99)
    catalog.close()
    with pytest.raises(StoreError, match=r"format 99.*upgrade"):
        Catalog(tmp_path / "c.db", clock)


def test_a_failed_write_leaves_nothing_behind(catalog: Catalog) -> None:
    catalog.models.add_version("late", lambda number, at: "{}")

    def fails(number: int, created_us: int) -> str:
        raise ValueError(f"no record for {number}")

    before = catalog.models.generation("late")
    with pytest.raises(ValueError, match="no record for 2"):
        catalog.models.add_version("late", fails)
    assert catalog.models.generation("late") == before
    assert catalog.models.add_version("late", lambda number, at: "{}") == 2


def test_threads_lose_no_write(catalog: Catalog) -> None:
    def write(worker: int) -> None:
        for _ in range(25):
            catalog.raise_alert("load", str(worker))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len({alert.id for alert in catalog.alerts(limit=1_000)}) == 100


WRITER = """
import sys
from headrace.catalog.catalog import Catalog
from headrace.core.time import SimulatedClock

catalog = Catalog(sys.argv[1], SimulatedClock(1))
for _ in range(40):
    catalog.models.add_version("late", lambda number, at: str(number))
"""


def test_processes_create_and_write_together(tmp_path: Path, clock: SimulatedClock) -> None:
    path = tmp_path / "c.db"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stderr=subprocess.PIPE) for _ in range(3)]
    for writer in writers:
        _, complaints = writer.communicate(timeout=60)
        assert (writer.returncode, complaints) == (0, b"")
    catalog = Catalog(path, clock)
    assert catalog.models.versions("late") == [str(number) for number in range(1, 121)]
    assert catalog.models.generation("late") == 120
    catalog.close()
