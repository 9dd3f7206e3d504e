"""Raw topics lose what is old and archived, and nobody can tell: history, backfills, truth, restarts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.app.project import Project
from headrace.app.reconciling import rebuild_online, reconcile_all
from headrace.app.retention import trim_raw
from headrace.app.scheduled import run_out_of_turn
from headrace.app.schedules import project_scheduler
from headrace.app.services import run_layer
from headrace.app.settings import load_settings
from headrace.core.errors import ConfigError
from headrace.core.time import US_PER_DAY, SimulatedClock, to_us
from tests.e2e.shop import orders, outcomes, write_shop
from tests.unit.app.conftest import NOON

DAYS = 12
NEW_GROUP = '''

class Busy(hr.FeatureGroup, key=Order.user):
    """How much a user does."""

    total = hr.sum(Order.amount)
    peak = hr.max(Order.amount, window="30d")


more = hr.FeatureView("more", request=Order, features=[Spend, Busy])
'''
DERIVED = '''

class Paid(Order, where=Profile.age != 22):
    """An order that looks something up."""

    euros = Order.amount * Profile.age


class PaidLately(hr.FeatureGroup, key=Paid.user):
    """What was paid."""

    total = hr.sum(Paid.euros, window="7d")
'''
CHAINED = '''

class Dear(Paid, where=Paid.euros > Spend.mean_7d * 21):
    """Such an order, if it is dear."""

    times = Paid.amount / Spend.mean_7d


class DearLately(hr.FeatureGroup, key=Dear.user):
    """What was dear."""

    total = hr.sum(Dear.times, window="30d")
    n = hr.count()
'''


def _open(folder: Path, day: int, **settings: Any) -> Project:
    return Project.open(folder, clock=SimulatedClock(to_us(NOON) + day * US_PER_DAY), partitions=2, **settings)


def _day(day: int) -> list[dict[str, Any]]:
    """An order every half hour of a day, the last one at noon."""
    return orders(48, NOON + timedelta(days=day), start=48 * day, users=5, step_s=1800)


def _lived(folder: Path, after: Callable[[Project, int], object]) -> Path:
    """A shop that has lived for days, opened anew each day; `after` is called at the end of each."""
    ages = [{"user": f"u{i}", "age": 20 + i, "city": None, "at": NOON - timedelta(days=30)} for i in range(4)]
    with _open(folder, -1) as project:
        project.put("profile", ages)
    for day in range(DAYS):
        with _open(folder, day) as project:
            project.publish("order", _day(day))
            project.publish("order", _day(day)[-5:])  # again: duplicates
            project.publish("outcome", outcomes(_day(day)))
            run_layer(project.parts, "compute", once=True)
            run_layer(project.parts, "ingest", once=True)
            project_scheduler(project.parts)[0].run_now("truth risk", project.clock.now_us(), "test")
            after(project, day)
    return folder


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same shop twice: whole, and trimmed to three days each day."""
    folder = tmp_path_factory.mktemp("retention")
    dropped: list[int] = []

    def trim(project: Project, day: int) -> None:
        dropped.append(sum(trim_raw(project.parts, 3 * US_PER_DAY).values()))

    whole = _lived(write_shop(folder / "whole"), lambda project, day: None)
    trimmed = _lived(write_shop(folder / "trimmed"), trim)
    # Three days' events are held beside today's: 48 orders, 5 of them twice, and 48 outcomes a day.
    assert dropped == [0] * 4 + [101] * (DAYS - 4)
    return whole, trimmed


@pytest.fixture
def pair(shops: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both that a test may change."""
    for name, folder in zip(("whole", "trimmed"), shops, strict=True):
        shutil.copytree(folder, tmp_path / name)
    return tmp_path / "whole", tmp_path / "trimmed"


def _both(pair: tuple[Path, Path], ask: Callable[[Project], Any], day: int = DAYS - 1) -> Any:
    """What both answer, which is the same."""
    answers = []
    for folder in pair:
        with _open(folder, day) as project:
            answers.append(ask(project))
    assert answers[0] == answers[1]
    return answers[0]


def _rows(rows: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.to_arrow().to_pylist()
    return sorted(found, key=lambda row: (str(row["at"]), str(row["order_id"])))


def test_history_is_whole(pair: tuple[Path, Path]) -> None:
    assert len(_both(pair, lambda project: _rows(project.history("order")))) == 48 * DAYS
    training = _both(pair, lambda project: _rows(project.history("risk", until=NOON + timedelta(days=DAYS))))
    assert len(training) > 48 * (DAYS - 2)


@pytest.mark.parametrize("day", [0, 1, 5, 8, 10])
def test_history_as_of_a_day_that_the_log_has_dropped(pair: tuple[Path, Path], day: int) -> None:
    as_of = NOON + timedelta(days=day, hours=1)
    rows = _both(pair, lambda project: _rows(project.history("order", as_of=as_of)))
    assert len(rows) == 48 * (day + 1)


def test_a_backfill_reads_archive_and_log_as_one(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        with _open(folder, DAYS) as project:
            project.publish("order", _day(DAYS))
        file = folder / "features.py"
        file.write_text(file.read_text() + NEW_GROUP)

    def fill(project: Project) -> list[dict[str, Any]]:
        assert project.backfill().events == 48 * (DAYS + 1) + 5 * DAYS, "duplicates are read, too"
        project.apply()
        asked = [{"order_id": "x", "user": f"u{i}", "amount": 1.0, "at": NOON + timedelta(days=DAYS)} for i in range(6)]
        online = _rows(project.online("more", asked))
        assert online == _rows(project.history("more", asked))
        return online

    rows = _both(pair, fill, DAYS)
    known = [order for day in range(DAYS + 1) for order in _day(day)][:-1]  # the last one is at the time of asking
    for user in ("u1", "u3"):
        total = sum(order["amount"] for order in known if order["user"] == user)
        assert [row["busy__total"] for row in rows if row["user"] == user] == [total]


def test_a_scheduled_group_reads_archive_and_log_as_one(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        file = folder / "features.py"
        file.write_text(file.read_text() + NEW_GROUP)
        (folder / "headrace.toml").write_text('sync = false\ngroups.busy.run = "1h"\n')

    def run(project: Project) -> list[Any]:
        project.apply()
        run_out_of_turn(project.parts, ["busy"])
        asked = [{"order_id": "x", "user": f"u{i}", "amount": 1.0, "at": NOON + timedelta(days=DAYS)} for i in range(6)]
        online = _rows(project.online("more", asked))
        assert online == _rows(project.history("more", asked))
        found = reconcile_all(project.parts, repair=False)
        return [online, found.compared, found.wrong]

    rows, compared, wrong = _both(pair, run, DAYS)
    totals = {f"u{i}": sum(o["amount"] for d in range(DAYS) for o in _day(d) if o["user"] == f"u{i}") for i in range(5)}
    assert {row["user"]: row["busy__total"] for row in rows if row["user"] != "u5"} == totals
    assert (compared, wrong) == (14, 0)


def test_verdicts_go_on_after_a_restart(pair: tuple[Path, Path]) -> None:
    """What came twice counts once, before and after."""

    def again(project: Project) -> int:
        project.publish("order", _day(DAYS - 1)[-10:] + _day(DAYS)[:3])
        return len(project.history("order"))

    assert _both(pair, again, DAYS) == 48 * DAYS + 3


def test_truth_of_a_model_is_joined_and_a_new_one_begins_where_the_log_does(pair: tuple[Path, Path]) -> None:
    def joined(project: Project) -> list[str]:
        scheduler, _ = project_scheduler(project.parts)
        scheduler.run_now("truth risk", project.clock.now_us(), "test")
        return [run.status for run in project.parts.catalog.runs("truth risk")]

    assert _both(pair, joined) == []
    for folder in pair:
        file = folder / "features.py"
        file.write_text(
            file.read_text() + '\n\nother = hr.Model("other", view=view, estimator=Limit(), label=risk.label)\n'
        )

    def begun(project: Project) -> list[str]:
        project.apply()
        scheduler, _ = project_scheduler(project.parts)
        scheduler.run_now("truth other", project.clock.now_us(), "test")
        return [run.status for run in project.parts.catalog.runs("truth other")]

    assert _both(pair, begun) == []


def _trimmable(tmp_path: Path, day: int = 5) -> Project:
    with _open(write_shop(tmp_path / "shop"), 0) as project:
        project.publish("order", _day(0))
        project.publish("outcome", outcomes(_day(0)))
        run_layer(project.parts, "compute", once=True)
        run_layer(project.parts, "ingest", once=True)
        project_scheduler(project.parts)[0].run_now("truth risk", project.clock.now_us(), "test")
    return _open(tmp_path / "shop", day)


def test_all_that_is_old_and_done_goes(tmp_path: Path) -> None:
    with _trimmable(tmp_path) as project:
        assert trim_raw(project.parts, 6 * US_PER_DAY) == {}
        assert trim_raw(project.parts, 4 * US_PER_DAY) == {"order": 48, "outcome": 48}
        assert trim_raw(project.parts, 4 * US_PER_DAY) == {}


def test_what_is_not_archived_stays(tmp_path: Path) -> None:
    with _trimmable(tmp_path) as project:
        shutil.rmtree(project.settings.state / "offline" / "events" / "order")
        assert trim_raw(project.parts, US_PER_DAY) == {"outcome": 48}
        assert len(project.history("order")) == 48
    with _trimmable(tmp_path / "2", 0) as project:
        project.publish("order", _day(1))  # computed, not archived
    with _open(tmp_path / "2" / "shop", 9) as project:
        assert trim_raw(project.parts, US_PER_DAY) == {"order": 48, "outcome": 48}
        assert sum(project.parts.raw.end("order", p) - project.parts.raw.begin("order", p) for p in range(2)) == 48


def test_what_compute_would_judge_again_stays(tmp_path: Path) -> None:
    with _trimmable(tmp_path) as project:
        project.parts.checkpoint.unlink()
        assert trim_raw(project.parts, US_PER_DAY) == {}


def test_labels_that_no_model_has_looked_at_stay(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    with _open(folder, 0) as project:
        project.publish("order", _day(0))
        project.publish("outcome", outcomes(_day(0)))
        run_layer(project.parts, "compute", once=True)
        run_layer(project.parts, "ingest", once=True)
    with _open(folder, 9) as project:
        assert trim_raw(project.parts, US_PER_DAY) == {"order": 48}


def _grown(pair: tuple[Path, Path], more: str, day: int) -> None:
    """Add definitions to both and apply them; then comes another day's events."""
    for folder in pair:
        file = folder / "features.py"
        file.write_text(file.read_text() + more)
        with _open(folder, DAYS) as project:
            project.apply()
            project.publish("order", _day(day))
            run_layer(project.parts, "compute", once=True)
            run_layer(project.parts, "ingest", once=True)


def _derived(project: Project, name: str) -> list[dict[str, Any]]:
    """All judged events of a derived stream, those that do not count, too."""
    topic = next(topic for topic, derived in project.parts.plan.derived.items() if derived.name == name)
    past = project.parts.past
    fields = [field.name for field in past.plan.stream(topic).schema.fields]
    rows = past.events(topic, fields).to_pylist()
    return sorted(rows, key=lambda row: (row["_partition"], row["_offset"]))


def test_new_derived_streams_are_derived_from_archive_and_log_as_one(pair: tuple[Path, Path]) -> None:
    _grown(pair, DERIVED, DAYS)

    def seen(project: Project) -> list[Any]:
        run_layer(project.parts, "ingest", once=True)
        asked = [
            {"order_id": "x", "user": f"u{i}", "amount": 1.0, "at": NOON + timedelta(days=DAYS - 5)} for i in range(5)
        ]
        counted = [project.get("paid_lately", user=f"u{i}").total for i in range(5)]
        found = reconcile_all(project.parts, repair=False)
        return [_derived(project, "paid"), counted, _rows(project.history("order", asked)), found.compared, found.wrong]

    before = _both(pair, seen, DAYS + 2)
    ages = {f"u{i}" for i in range(4)} - {"u2"}
    of_others = [order for day in range(DAYS + 1) for order in _day(day) if order["user"] in ages]
    assert len(before[0]) == len(of_others), "one is left out, of one the age is not known"
    assert before[1][1] > 0
    assert before[4] == 0

    # Derived records age as well. What is derived from them then comes from the archive of both.
    trimmed = pair[1]
    with _open(trimmed, DAYS + 9) as project:
        dropped = trim_raw(project.parts, 3 * US_PER_DAY)
        (topic,) = project.parts.plan.derived
        assert dropped[topic] > 0
        assert all(project.parts.raw.last(topic, p) is not None for p in range(2)), "where deriving goes on"
    _grown(pair, CHAINED, DAYS + 1)

    def chained(project: Project) -> list[Any]:
        return [
            *seen(project),
            _derived(project, "dear"),
            [project.get("dear_lately", user=f"u{i}").n for i in range(5)],
        ]

    after = _both(pair, chained, DAYS + 2)
    assert all(row in after[0] for row in before[0])
    assert after[4] == 0
    assert 0 < len(after[5]) < len(before[0])


def test_what_a_derived_stream_has_not_read_yet_stays(tmp_path: Path) -> None:
    project = _trimmable(tmp_path)
    project.close()
    file = tmp_path / "shop" / "features.py"
    file.write_text(file.read_text() + DERIVED)
    with _open(tmp_path / "shop", 5) as project:
        parts = project.parts
        (topic,) = parts.plan.derived
        assert topic not in parts.raw.topics()
        assert trim_raw(parts, US_PER_DAY) == {"outcome": 48}
        project.apply()
        run_layer(parts, "compute", once=True)
        run_layer(parts, "ingest", once=True)
        assert trim_raw(parts, US_PER_DAY) == {"order": 48}


def test_the_topic_of_somebody_else_is_left_to_him(tmp_path: Path) -> None:
    with _trimmable(tmp_path) as project:
        parts = project.parts
        parts.settings = replace(parts.settings, topics={"order": "company.orders"})
        assert trim_raw(parts, 4 * US_PER_DAY) == {"outcome": 48}


def test_the_setting_is_a_duration_or_forever(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    for text in ("7", "12h", "a week"):
        with pytest.raises(ConfigError, match=f'retention = "{text}"'):
            load_settings(folder, retention=text)
    jobs = {}
    assert load_settings(folder).retention == "7d"
    for text in ("7d", "forever"):
        with _open(folder, 0, retention=text) as project:
            jobs[text] = set(project_scheduler(project.parts)[0]._jobs)
    assert jobs["7d"] - jobs["forever"] == {"retention"}
    assert "compact archive" in jobs["forever"]


def test_compacting_the_archive_changes_no_row(pair: tuple[Path, Path]) -> None:
    with _open(pair[1], DAYS - 1) as project:
        before = _rows(project.history("order"))
        offline = project.settings.state / "offline" / "events" / "order"
        project_scheduler(project.parts)[0].run_now("compact archive", project.clock.now_us(), "test")
        assert len(list(offline.glob("day=2026-05-05/*.parquet"))) > 1, "older versions stay readable"
        assert _rows(project.history("order")) == before


def test_the_online_store_is_what_archive_and_log_say_and_is_made_anew_from_them(pair: tuple[Path, Path]) -> None:
    def compared(project: Project) -> list[Any]:
        found = reconcile_all(project.parts, repair=False)
        return [found.compared, found.missing, found.differing]

    def rebuilt(project: Project) -> dict[bytes, bytes]:
        rebuild_online(project.parts, replace=True)
        return dict(project.parts.online.scan())

    seen = _both(pair, compared)
    assert seen[0] > 0
    assert seen[1:] == [{}, {}]
    _both(pair, rebuilt)
    assert _both(pair, compared) == seen
