"""Backfills of a project: beside what is served, published as a whole, and never behind it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.app import applying, backfill
from headrace.app.locks import FolderLock
from headrace.app.project import Project
from headrace.app.reconciling import reconcile_all
from headrace.core.errors import Busy, NotFound, PlanError, SchemaError, StoreError
from headrace.core.time import SimulatedClock, to_us
from headrace.ingestion.backfill import left_out, read_state
from headrace.stores.online.lmdb import LmdbOnlineStore
from tests.e2e.shop import orders
from tests.unit.app.conftest import NOON

Edit = Callable[..., Project]
TOP = 'n = hr.count(window=["1h", "7d"])\n    top = hr.max(Order.amount, window="7d")'


@pytest.fixture
def edited(shop: Project) -> Edit:
    """The shop with 30 orders, opened again after an edit of its definitions."""

    def edit(old: str = 'n = hr.count(window=["1h", "7d"])', new: str = TOP, **settings: Any) -> Project:
        if not shop.parts.raw.topics():
            shop.publish("order", orders(30, NOON - timedelta(minutes=1), users=3))
        file = shop.settings.folder / "features.py"
        text = file.read_text()
        assert old in text
        # The length of a file tells whether its compiled form is fresh, so it must change with the text.
        file.write_text(text.replace(old, new) + "\n")
        return Project.open(shop.settings.folder, clock=shop.clock, **settings)

    return edit


def asked(n: int = 3, at: datetime = NOON) -> list[dict[str, Any]]:
    return [{"order_id": "asked", "user": f"u{i}", "amount": 30.0, "at": at} for i in range(n)]


def test_a_backfill_runs_beside_the_layers_and_apply_publishes_it(shop: Project, edited: Edit) -> None:
    with edited() as new:
        with FolderLock(shop.settings.state, "compute"), FolderLock(shop.settings.state, "ingest"):
            seen: list[tuple[int, int]] = []
            report = new.backfill("spend", progress=lambda done, total: seen.append((done, total)))
            assert (report.names, report.events, report.due) == (("spend",), 30, ("spend",))
            assert report.positions == {"order": [30]}
            assert seen[-1] == (30, 30)
            # The former version is served, by who has the former definitions, until the new one is published.
            assert shop.get("spend", user="u1").n["7d"] == 10
            with pytest.raises(Busy, match="former definitions"):
                new.apply()
        # What comes meanwhile comes in the former definitions, and is caught up with.
        shop.publish("order", orders(6, NOON - timedelta(seconds=1), start=30, users=3, step_s=1))
        assert new.backfill().events == 6
        shop.publish("order", orders(3, NOON - timedelta(seconds=1), start=36, users=3, step_s=0.1))
        new.apply()
        assert new.get("spend", user="u1").n["7d"] == 13
        assert new.get("spend", user="u1").top == 60.0
        new.publish("order", orders(3, NOON - timedelta(microseconds=5), start=39, users=3, step_s=0))
        assert new.get("spend", user="u1").n["7d"] == 14
        assert new.history("order", asked()).to_arrow() == new.online("order", asked()).to_arrow()
        assert new.backfill().names == ()
        assert str(new.backfill()) == "no group has to be computed"


@pytest.mark.parametrize("partitions", [1, 3])
def test_late_repeated_and_reordered_events_count_as_they_do_live(
    tmp_path: Path, shop: Project, edited: Edit, partitions: int
) -> None:
    shop.settings = shop.settings.__class__(
        **{n: getattr(shop.settings, n) for n in shop.settings.__slots__} | {"partitions": partitions}
    )
    rows = orders(60, NOON - timedelta(minutes=1), users=4, step_s=600)
    for part in (rows[40:], rows[:25], rows[20:45], [{**rows[3], "order_id": "late"}, {"order_id": "bad"}]):
        shop.publish("order", part)
    assert shop.parts.raw.topics()["order"] == partitions
    with edited() as new:
        archive = new.parts.archive()
        while archive.step():
            pass
        assert archive.archived > 0
        new.publisher.publish("order", orders(9, NOON - timedelta(seconds=5), start=60, users=4, step_s=1))
        new.apply()
        new.settle()
        assert new.history("order", asked(5)).to_arrow() == new.online("order", asked(5)).to_arrow()
        assert new.get("spend", user="u3").n["7d"] == 18


def test_only_what_windows_reach_is_read_and_since_may_not_cut_it(shop: Project, edited: Edit) -> None:
    last = ("    last = hr.last(Order.amount)\n", "")
    shop.publish("order", orders(400, NOON, users=3, step_s=3600))
    with edited(*last) as new:
        with pytest.raises(PlanError, match=r"group spend: events from 2026-04-2\dT.*name an earlier time"):
            new.backfill("spend", since=NOON - timedelta(days=3))
        new.backfill("spend", since=NOON - timedelta(days=9))
        new.apply()
        assert new.get("spend", user="u0", at=NOON).n["7d"] == 56
        assert new.history("order", asked()).to_arrow() == new.online("order", asked()).to_arrow()


@pytest.mark.parametrize(("known", "made_up"), [(True, 0), (False, 6)])
def test_what_is_dropped_before_it_was_ingested_is_there_when_it_comes_back(
    shop: Project, edited: Edit, monkeypatch: pytest.MonkeyPatch, known: bool, made_up: int
) -> None:
    """It is ingested to the end before it goes; what was applied before plans were kept is computed when it is back."""
    if not known:
        monkeypatch.setattr(applying, "remembered_groups", lambda *_: [])
    file = shop.settings.folder / "features.py"
    text = file.read_text()
    with edited() as new:
        # Computed under the former definitions, but not yet in the store when they go.
        shop.publisher.publish("order", orders(6, NOON - timedelta(seconds=9), start=30, users=3, step_s=1))
        compute = shop.parts.compute()
        while compute.step():
            pass
        new.apply()
        assert new.get("spend", user="u1").n["7d"] == 12
    file.write_text(text + "\n\n")
    with Project.open(shop.settings.folder, clock=shop.clock) as back:
        assert back.backfill().events == made_up
        back.apply()
        assert back.get("spend", user="u1").n["7d"] == 12
        assert back.history("order", asked()).to_arrow() == back.online("order", asked()).to_arrow()


class Killed(BaseException):
    """Stands for kill -9."""


def test_an_apply_that_is_killed_and_taken_back_loses_nothing(
    shop: Project, edited: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shop.settings.folder / "features.py"
    before = file.read_text()
    with edited() as new:
        assert shop.get("spend", user="u1").n["7d"] == 10
        shop.publisher.publish("order", orders(6, NOON - timedelta(seconds=9), start=30, users=3, step_s=1))
        compute = shop.parts.compute()
        while compute.step():
            pass

        def die(*_: Any) -> None:
            raise Killed

        # It brings what is served up to the log, and dies before the definitions change.
        monkeypatch.setattr(applying, "remember_views", die)
        with pytest.raises(Killed):
            new.apply()
    file.write_text(before + "\n\n")
    with Project.open(shop.settings.folder, clock=shop.clock) as again:
        assert not again.plan()
        assert again.get("spend", user="u1").n["7d"] == 12
        assert again.history("order", asked()).to_arrow() == again.online("order", asked()).to_arrow()


def test_nothing_is_published_behind_what_is_served(
    shop: Project, edited: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited() as new:
        monkeypatch.setattr(backfill, "_advance", lambda *_: 0)
        with pytest.raises(StoreError, match="nothing was published: run headrace backfill spend"):
            new.apply()
        assert new.plan().backfills == ("spend",)


def test_a_store_that_was_lost_is_not_filled_with_half_of_the_truth(shop: Project, edited: Edit) -> None:
    import shutil

    with edited() as new:
        new.apply()
    shop.close()
    shutil.rmtree(shop.settings.state / "online")
    with Project.open(shop.settings.folder, clock=shop.clock) as found:
        with pytest.raises(StoreError, match="headrace backfill spend"):
            found.publish("order", orders(3, NOON, start=30, users=3, step_s=0))
        report = found.backfill()
        assert (report.names, report.due) == (("spend",), ())
        found.settle()
        assert found.get("spend", user="u1", at=NOON).n["7d"] == 10
        assert found.history("order", asked()).to_arrow() == found.online("order", asked()).to_arrow()


def test_a_new_group_without_events_needs_nothing(shop: Project) -> None:
    shop.apply()
    assert read_state(shop.parts.online, shop.definition_plan.groups["spend"].version) is None
    assert isinstance(shop.parts.online, LmdbOnlineStore)
    with pytest.raises(NotFound, match="did you mean spend"):
        shop.backfill("spent")


def test_two_models_on_one_group_compute_it_once(shop: Project, clock: SimulatedClock, edited: Edit) -> None:
    from headrace.engines.stream import engine

    text = (shop.settings.folder / "features.py").read_text()
    second = text[text.index("risk = hr.Model(") :].replace('"risk"', '"other"').replace("risk =", "other =")
    with edited("risk = hr.Model(", second + "\nrisk = hr.Model(") as new:
        assert len(new.definition_plan.models) == 2
        new.apply()
        computed: list[str] = []
        delta = engine._delta

        def counted(group: Any, *rest: Any) -> Any:
            computed.append(group.plan.name)
            return delta(group, *rest)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(engine, "_delta", counted)
            new.publish("order", orders(5, NOON, start=30, users=3))
        assert computed == ["spend"]


def test_the_plan_says_how_much_is_read_and_about_how_long_that_takes(shop: Project, edited: Edit) -> None:
    with edited() as new:
        plan = new.plan()
        assert (plan.backfills, plan.events, plan.seconds) == (("spend",), 30, None)
        assert "backfill: 30 events" in str(plan)
        new.parts.catalog.set_setting("backfill.events_per_s", 0.25)
        plan = new.plan()
        assert plan.seconds == 120
        assert str(plan).endswith("backfill: 30 events, about 2 min")
        new.backfill()
        assert new.plan().events == 0


def test_a_feature_is_previewed_before_anything_is_applied(shop: Project, edited: Edit) -> None:
    with edited() as new:
        archive = shop.parts.archive()
        while archive.step():
            pass
        shop.publish("order", orders(3, NOON - timedelta(seconds=1), start=30, users=3, step_s=0.1))
        spine = [{"user": f"u{i}", "at": NOON} for i in range(3)]
        before = new.history(["spend"], spine).to_arrow()
        assert before["spend__top"].to_pylist() == [60.0, 60.0, 60.0]
        assert new.plan()
        new.apply()
        assert new.history(["spend"], spine).to_arrow().equals(before)
        assert [new.get("spend", user=f"u{i}", at=NOON).n["7d"] for i in range(3)] == before["spend__n_7d"].to_pylist()


DERIVED = '''

class Bought(Order, where=Order.amount > 5):
    """Orders with the buyer's age at the time."""

    age = Profile.age + 0


class Buyer(hr.FeatureGroup, key=Bought.user):
    years = hr.sum(Bought.age, window="7d")
    n = hr.count(window="7d")


seen = hr.FeatureView("seen", request=Order, features=[Buyer])
'''


def test_groups_over_derived_streams_are_backfilled_dropped_and_come_back(shop: Project, clock: SimulatedClock) -> None:
    features = shop.settings.folder / "features.py"
    plain = features.read_text()

    def opened(text: str) -> Project:
        features.write_text(text)
        return Project.open(shop.settings.folder, clock=shop.clock)

    later = NOON + timedelta(hours=2)
    published: list[dict[str, Any]] = []

    def publish(project: Project, rows: list[dict[str, Any]]) -> None:
        published.extend(rows)
        project.publish("order", rows)
        project.settle()

    def agree(project: Project) -> None:
        online = project.online("seen", asked(at=later)).to_arrow()
        assert project.history("seen", asked(at=later)).to_arrow() == online
        of = [sum(row["user"] == f"u{i}" and row["amount"] > 5 for row in published) for i in range(3)]
        assert online["buyer__n"].to_pylist() == of
        assert online["buyer__years"].to_pylist() == [n * (30 + i) for i, n in enumerate(of)]

    with opened(plain + DERIVED) as project:
        project.put("profile", [{"user": f"u{i}", "age": 30 + i, "city": None, "at": "2026-01-01"} for i in range(3)])
        # Ages are known from when they were written.
        clock.advance_to(to_us(later))
        publish(project, orders(30, later - timedelta(minutes=1), users=3))
        agree(project)
        archive = project.parts.archive()
        while archive.step():
            pass
        publish(project, orders(6, later - timedelta(seconds=9), start=30, users=3, step_s=1))
    edited = DERIVED.replace("    n = hr.count", '    most = hr.max(Bought.age, window="1d")\n    n = hr.count')
    with opened(plain + edited + "\n") as project:
        assert project.plan().backfills == ("buyer",)
        assert project.backfill().events == 36
        project.apply()
        agree(project)
        assert project.get("buyer", user="u1").most == 31
        publish(project, orders(3, later - timedelta(seconds=2), start=40, users=3, step_s=0.1))
        agree(project)
    # What was dropped lacks only what came since, and gets nothing twice.
    with opened(plain + DERIVED + "\n\n") as project:
        assert project.backfill().events == 3
        project.apply()
        agree(project)


def test_a_table_with_a_query_is_filled_from_a_time_on(shop: Project) -> None:
    folder = shop.settings.folder
    features = folder / "features.py"
    features.write_text(
        features.read_text()
        + '''

class City(hr.Table, source=hr.SQL("select user, city, moved as at from cities"), delay="1h"):
    """Where a user lives."""

    user: hr.Field[str] = hr.key(User)
    city: hr.Field[str]
    at: hr.Field[datetime] = hr.event_time()
'''
    )
    (folder / "cities.csv").write_text(
        "user,city,moved\nu1,Ulm,2026-01-01T00:00:00Z\nu1,Bonn,2026-04-01T00:00:00Z\nu2,Kiel,2026-02-01T00:00:00Z\n"
    )
    (folder / "headrace.toml").write_text('sync = false\n[sources]\ncities = "cities.csv"\n')
    with Project.open(folder, clock=shop.clock) as project:
        report = project.backfill("city", since="2026-01-15")
        assert (report.names, report.events) == (("city",), 2)
        # Available from its own time and the delay on, not from when it was written.
        times = ["2026-04-01T00:30:00Z", "2026-04-01T01:30:00Z"]
        rows = project.history(["city"], [{"user": "u1", "at": t} for t in times])
        assert rows["city__city"] == [None, "Bonn"]
        with pytest.raises(SchemaError, match="one table at a time"):
            project.backfill(["city", "spend"])


LATE = 'class Late(hr.FeatureGroup, key=Order.user):\n    n = hr.count(window="2d")\n\n\nclass Profile(hr.Table):'


def test_what_no_window_reaches_is_not_missed_by_reconciliation(shop: Project, edited: Edit) -> None:
    shop.publish("order", orders(400, NOON - timedelta(minutes=1), users=300, step_s=3600))
    assert reconcile_all(shop.parts).wrong == 0
    with edited("class Profile(hr.Table):", LATE) as new:
        new.apply()
        (held,) = left_out(new.parts.online, [new.parts.plan.groups["late"]]).values()
        assert (held[0] < to_us(NOON), held[1]) == (True, (400,))
        assert reconcile_all(new.parts).wrong == 0
        new.publish("order", orders(300, NOON - timedelta(seconds=30), start=400, users=300, step_s=0.05))
        # Late events that no window reaches, of which the stream makes records.
        new.publish("order", orders(100, NOON - timedelta(days=9), start=700, users=100, step_s=3600))
        assert reconcile_all(new.parts).wrong == 0
        user = next(key for key, _ in new.parts.online.scan() if key.endswith(_suffix(new, "late")))
        new.parts.online.write([(user, None)], new.parts.online.position())
        assert reconcile_all(new.parts).missing == {"spend, late": 1}
        late = new.parts.plan.groups["late"].version
    with edited("class Late", "class Later") as new:  # the version goes, and comes back
        new.publisher.publish("order", orders(50, NOON - timedelta(days=8), start=800, users=50, step_s=3600))
        new.apply()
        new.publish("order", orders(50, NOON - timedelta(days=8), start=850, users=50, step_s=3600))
    with edited("class Later", "class Late") as new:
        new.apply()
        assert new.parts.plan.groups["late"].version == late
        assert reconcile_all(new.parts).wrong == 0


def _suffix(project: Project, group: str) -> bytes:
    return bytes.fromhex(project.parts.plan.groups[group].version)
