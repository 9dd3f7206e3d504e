"""A group of a project that runs on a schedule by configuration: how it is said, shown, run, switched and audited."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.app.locks import FolderLock
from headrace.app.project import Project
from headrace.app.schedules import project_scheduler
from headrace.core.errors import Busy, ConfigError, HorizonError, PlanError, SchemaError, StoreError
from headrace.core.time import US_PER_HOUR, SimulatedClock, to_us
from headrace.ingestion.backfill import read_state
from headrace.monitoring.skew import compare
from headrace.retrieval.history import HistoryReader, served_at
from headrace.retrieval.predictions import read_predictions
from tests.e2e.shop import orders, outcomes, write_shop
from tests.unit.app.conftest import NOON

HOURLY = '[groups.spend]\nrun = "1h"\n'
Reopen = Callable[..., Project]


@pytest.fixture
def reopen(tmp_path: Path, clock: SimulatedClock) -> Iterator[Reopen]:
    """Open the shop with these lines in its headrace.toml; what was open is closed."""
    opened: list[Project] = []
    folder = write_shop(tmp_path / "shop")

    def open_with(lines: str = "", **given: Any) -> Project:
        while opened:
            opened.pop().close()
        (folder / "headrace.toml").write_text(f"sync = false\n{lines}", encoding="utf-8")
        opened.append(Project.open(folder, clock=clock, **given))
        return opened[-1]

    yield open_with
    while opened:
        opened.pop().close()


def asked(n: int = 3) -> list[dict[str, Any]]:
    return [{"order_id": "asked", "user": f"u{i}", "amount": 30.0, "at": NOON} for i in range(n)]


def bought(shop: Project, n: int, start: int = 0) -> None:
    shop.publish("order", orders(n, NOON - timedelta(seconds=1), start=start, users=3, step_s=0.01))


def count(shop: Project, user: str = "u1") -> int:
    found: int = shop.get("spend", user=user, at=NOON).n["7d"]
    return found


def test_a_scheduled_group_reflects_its_last_run_and_says_so(reopen: Reopen) -> None:
    shop = reopen(HOURLY)
    version = shop.definition_plan.groups["spend"].version
    assert version == reopen().definition_plan.groups["spend"].version
    shop = reopen(HOURLY)
    bought(shop, 30)
    # Nothing has run: an unseen entity, at the position before everything.
    row = shop.online("order", asked(1)[0])
    assert (count(shop), row.position.groups, row.position.streams["order"]) == (0, {version: [0]}, [30])
    assert row.age is None
    assert shop.backfill("spend").events == 30
    bought(shop, 6, 30)
    assert count(shop) == 10
    row = shop.online("order", asked(1)[0])
    assert (row.position.groups, row.position.streams["order"]) == ({version: [30]}, [36])
    assert row.age == timedelta(seconds=1)
    assert shop.backfill("spend").events == 6
    assert count(shop) == 12
    assert shop.history("order", asked()).to_arrow() == shop.online("order", asked()).to_arrow()
    assert shop.backfill("spend").events == 0
    assert [run.job for run in shop.parts.catalog.runs()] == ["group spend"] * 3
    with pytest.raises(SchemaError, match="name it alone, without since"):
        shop.backfill("spend", since=NOON)


def test_streams_take_no_room_for_positions_of_groups(reopen: Reopen) -> None:
    shop = reopen()
    bought(shop, 3)
    assert shop.online("order", asked(1)[0]).position.groups == {}
    assert b"groups" not in shop.parts.online.position()


def test_the_scheduler_runs_groups_at_its_start_and_on_time(reopen: Reopen, clock: SimulatedClock) -> None:
    shop = reopen(HOURLY)
    bought(shop, 30)
    scheduler, at_start = project_scheduler(shop.parts)
    assert at_start == ["group spend"]
    scheduler.run_due(clock.now_us())
    assert count(shop) == 10
    bought(shop, 3, 30)
    clock.advance_to(to_us(NOON) + US_PER_HOUR - 1)
    scheduler.run_due(clock.now_us())
    assert count(shop) == 10
    clock.advance_to(to_us(NOON) + US_PER_HOUR)
    scheduler.run_due(clock.now_us())
    assert count(shop) == 11
    runs = [run for run in shop.parts.catalog.runs() if run.job == "group spend"]
    assert [(run.trigger, run.detail) for run in runs] == [("schedule", {"events": 3}), ("schedule", {"events": 30})]
    with FolderLock(shop.settings.state, "groups"), pytest.raises(Busy, match="as groups"):
        shop.backfill("spend")


def test_status_and_describe_tell_how_groups_run_and_how_far_they_are(reopen: Reopen, clock: SimulatedClock) -> None:
    shop = reopen(HOURLY)
    bought(shop, 30)
    text = str(shop.status())
    assert "group spend runs every 1h: no run yet, no schedule is running; 30 events behind" in text
    shop.backfill("spend")
    bought(shop, 6, 30)
    clock.advance_to(to_us(NOON) + 60_000_000)
    with FolderLock(shop.settings.state, "schedule"):
        [told] = shop.status().groups
        assert (told.name, told.run, told.behind, told.age_us) == ("spend", "every 1h", 6, 61_000_000)
        assert (told.last_run_us, told.next_run_us) == (to_us(NOON), to_us(NOON) + US_PER_HOUR)
        line = (
            "group spend runs every 1h: last 2026-05-01T12:00:00Z, next 2026-05-01T13:00:00Z; 6 events behind, newest"
        )
        assert line in str(shop.status())
    described = shop.describe("spend")
    assert str(described.facts["runs"]).startswith("group spend runs every 1h: last")
    fresh = described.freshness["stream order in spend"]
    assert fresh is not None
    assert fresh.age_us == 61_000_000
    shop = reopen()
    shop.apply()
    assert "group spend runs" not in str(shop.status())
    assert [group.run for group in shop.status().groups] == ["in the stream"]
    assert shop.describe("spend").facts["runs"] == "in the stream"


def test_plan_and_apply_switch_from_the_stream_and_back_without_loss(reopen: Reopen) -> None:
    shop = reopen()
    bought(shop, 30)
    # Computed, but not in the store when the group leaves the stream.
    shop.publisher.publish("order", orders(3, NOON - timedelta(seconds=1), start=30, users=3, step_s=0.01))
    compute = shop.parts.compute()
    while compute.step():
        pass
    shop = reopen(HOURLY)
    plan = shop.plan()
    assert (plan.changes, plan.backfills, bool(plan)) == ((), (), True)
    assert str(plan) == "~ group spend runs every 1h, so far in the stream"
    with pytest.raises(PlanError, match="group spend runs every 1h, so far in the stream"):
        shop.publish("order", orders(1, NOON))
    shop.apply()
    assert str(shop.plan()) == "nothing changes"
    assert count(shop) == 11
    bought(shop, 6, 33)
    assert count(shop) == 11
    shop.backfill("spend")
    assert count(shop) == 13
    bought(shop, 3, 39)
    assert str(reopen('[groups]\nspend = "2h"\n').plan()) == "~ group spend runs every 2h, so far every 1h"
    reopen('[groups]\nspend = "2h"\n').apply()
    shop = reopen('[groups]\nspend = "stream"\n')
    assert str(shop.plan()).startswith("~ group spend runs in the stream, so far every 2h")
    assert shop.plan().events == 3
    shop.apply()
    assert count(shop) == 14
    bought(shop, 3, 42)
    assert count(shop) == 15
    assert shop.online("order", asked(1)[0]).position.groups == {}
    assert shop.history("order", asked()).to_arrow() == shop.online("order", asked()).to_arrow()


def test_a_group_may_be_edited_and_scheduled_at_once_and_an_edited_one_stays_scheduled(reopen: Reopen) -> None:
    shop = reopen()
    bought(shop, 30)
    file = shop.settings.folder / "features.py"
    text = file.read_text()
    file.write_text(text.replace('n = hr.count(window=["1h", "7d"])', 'n = hr.count(window=["1h", "7d", "9d"])'))
    shop = reopen(HOURLY)
    assert "  group spend runs every 1h\n" in str(shop.plan())
    shop.apply()
    assert count(shop) == 10
    bought(shop, 3, 30)
    assert count(shop) == 10
    shop.backfill("spend")
    assert count(shop) == 11
    bought(shop, 3, 33)
    # Back to the first version, which is computed on from where it was dropped; and the other one is in no schedule.
    file.write_text(text + "\n")
    shop = reopen(HOURLY)
    shop.apply()
    assert count(shop) == 12
    assert list(shop.parts.catalog.setting("scheduled groups")) == [shop.definition_plan.groups["spend"].version]
    bought(shop, 3, 36)
    # To the second one again, dropped from the schedule while behind.
    file.write_text(text.replace('n = hr.count(window=["1h", "7d"])', 'n = hr.count(window=["1h", "7d", "9d"])') + "\n")
    shop = reopen()
    shop.apply()
    assert count(shop) == 13
    assert shop.history("order", asked()).to_arrow() == shop.online("order", asked()).to_arrow()


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ('[groups.spent]\nrun = "1h"\n', 'group "spent" runs, but there is none of that name; there are: spend'),
        (
            '[groups.spend]\nrun = "hourly"\n',
            '[groups] of .*: group spend: "hourly" is no schedule; .*"stream" runs it',
        ),
        ('[groups.spend]\nevery = "1h"\n', "spend is {'every': '1h'}; write spend = { run = \"1h\" }"),
        ("[groups]\nspend = 3600\n", "spend is 3600; write spend"),
        ('groups = "1h"\n', "write GROUP = "),
        ('[groups.spend]\nrun = "0h"\n', "group spend: "),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(reopen: Reopen, lines: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error.replace("[", r"\[").replace("{", r"\{")):
        _ = reopen(lines).definition_plan


def test_environments_and_callers_say_otherwise(reopen: Reopen) -> None:
    lines = HOURLY + '[env.quick.groups.spend]\nrun = "stream"\n[env.slow]\ngroups = { spend = "@daily" }\n'
    version = reopen().definition_plan.groups["spend"].version
    assert reopen(lines).definition_plan.scheduled == {version: US_PER_HOUR}
    assert reopen(lines, env="quick").definition_plan.scheduled == {}
    assert reopen(lines, env="slow").definition_plan.scheduled == {version: 24 * US_PER_HOUR}
    assert reopen(lines, groups={"spend": "5m"}).definition_plan.scheduled == {version: US_PER_HOUR // 12}


def test_a_group_that_a_derived_stream_looks_up_stays_in_the_stream(reopen: Reopen) -> None:
    file = reopen().settings.folder / "features.py"
    derived = """
class Large(Order, where=Order.amount > Spend.mean_7d):
    ratio = Order.amount / Spend.mean_7d


view = hr.FeatureView("""
    file.write_text(file.read_text().replace("view = hr.FeatureView(", derived, 1))
    assert reopen().definition_plan.derived
    with pytest.raises(ConfigError, match="group spend is looked up at every event of the derived stream large"):
        _ = reopen(HOURLY).definition_plan


def test_a_lost_store_is_made_up_for_by_the_next_run(reopen: Reopen) -> None:
    shop = reopen()
    bought(shop, 30)
    reopen(HOURLY).apply()
    shop = reopen(HOURLY)
    bought(shop, 3, 30)
    shop.backfill("spend")
    shop.close()
    shutil.rmtree(shop.settings.state / "online")
    shop = reopen(HOURLY)
    shop.settle()
    assert shop.backfill("spend").events == 33
    assert count(shop) == 11
    # Back in the stream, a store that is lost needs what the feature log has no deltas of.
    bought(shop, 3, 33)
    reopen().apply()
    shop = reopen()
    bought(shop, 3, 36)
    assert count(shop) == 13
    shop.close()
    shutil.rmtree(shop.settings.state / "online")
    shop = reopen()
    with pytest.raises(StoreError, match="headrace backfill spend"):
        shop.settle()
    shop.backfill()
    shop.settle()
    assert count(shop) == 13
    assert shop.history("order", asked()).to_arrow() == shop.online("order", asked()).to_arrow()


def test_a_run_that_another_process_overtook_changes_nothing(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.ingestion.backfill import GroupBackfill

    shop = reopen(HOURLY)
    bought(shop, 30)
    group = shop.parts.plan.groups["spend"]
    shop.backfill("spend")
    bought(shop, 3, 30)
    job = GroupBackfill(
        shop.parts.plan, [group], shop.parts.raw, shop.parts.features, shop.parts.offline, shop.parts.online,
        horizon_us=shop.parts.horizon_us, clock_us=None, served=True,
    )  # fmt: skip
    with pytest.raises(Busy, match="brought up to date by another process meanwhile"):
        job.advance([0], [33])
    state = read_state(shop.parts.online, group.version)
    assert state is not None
    assert state.at == [30]
    assert count(shop) == 10


def test_the_horizon_is_that_of_the_groups_own_position(reopen: Reopen) -> None:
    shop = reopen(HOURLY)
    rows = orders(30, NOON - timedelta(hours=2), users=3, step_s=0.01)
    shop.publish("order", rows)
    shop.backfill("spend")
    bought(shop, 3, 30)
    # The stream has come two hours further, the group has not: it still answers for the time that it is at.
    then = NOON - timedelta(hours=2, minutes=9)

    def at(moment: datetime) -> Any:
        return shop.online("order", {**asked(2)[1], "at": moment})["spend__n_7d"]

    assert at(then) == 0
    assert at(NOON - timedelta(hours=1)) == 10
    with pytest.raises(HorizonError, match="answers from 2026-05-01T09:50:00Z on"):
        at(then - timedelta(minutes=2))
    shop.backfill("spend")
    with pytest.raises(HorizonError, match="answers from 2026-05-01T11:49:59Z on"):
        at(NOON - timedelta(hours=1))
    assert at(NOON) == 11


def test_predictions_are_audited_at_the_positions_of_their_groups(reopen: Reopen) -> None:
    """Scored at many moments: in the stream, on a schedule, behind its stream; none differs, and each would matter."""
    shop = reopen()
    past = orders(200, NOON - timedelta(hours=3), step_s=100, users=3)
    shop.publish("order", past)
    shop.publish("outcome", outcomes(past))
    model = shop.model("risk")
    model.promote(model.train(), why="the first one")
    ids = [model.score(row).id for row in asked()]
    reopen(HOURLY).apply()
    shop = reopen(HOURLY)
    for start in range(200, 260, 6):
        bought(shop, 6, start)
        ids += [shop.model("risk").score(row).id for row in asked()]
        if start in (218, 242):
            shop.backfill("spend")
            ids += [shop.model("risk").score(row).id for row in asked()]
    reopen().apply()
    shop = reopen()
    bought(shop, 6, 260)
    ids += [shop.model("risk").score(row).id for row in asked()]
    parts = shop.parts
    view, reader = parts.plan.views["order"], HistoryReader(parts.plan.views["order"], parts.plan, parts.past)
    batch, _ = read_predictions(parts.internal, "risk", view)
    assert batch.ids == ids
    version = parts.plan.groups["spend"].version
    places = np.unique(batch.groups[version]).tolist()
    assert places == [-1, 200, 224, 248]
    whole = compare(batch.ids, batch.features, reader.read(batch.request, batch.served_at))
    assert (whole.differing, whole.rows) == (0, len(ids))
    assert [shop.audit(id).audit.differing for id in ids] == [0] * len(ids)
    # The trap: with the streams' positions alone the audit tells that something differs.
    trap = compare(batch.ids, batch.features, reader.read(batch.request, replace(batch.served_at, groups={})))
    assert trap.differing > 0
    one = read_predictions(parts.internal, "risk", view)[0].take(np.array([4]))
    position = shop.parts.reader("order").read(one.request).position
    assert compare(one.ids, one.features, reader.read(one.request, served_at(position, 1))).differing > 0
    # In the archive of predictions, too.
    table = batch.to_arrow()
    lists = table[f"_position_group.{version}"].to_pylist()
    assert lists[0] is None
    assert [200] in lists
    assert lists[-1] is None
    from headrace.app.archives import PredictionArchive

    archive = PredictionArchive(parts)
    while archive.step():
        pass
    stored = parts.offline.scan("predictions/risk")
    assert sorted(stored[f"_position_group.{version}"].to_pylist(), key=str) == sorted(lists, key=str)


def test_a_version_that_is_kept_for_a_model_runs_as_its_group_does(reopen: Reopen) -> None:
    shop = reopen(HOURLY)
    past = orders(200, NOON - timedelta(hours=3), step_s=100, users=3)
    shop.publish("order", past)
    shop.publish("outcome", outcomes(past))
    model = shop.model("risk")
    model.promote(model.train(), why="the first one")
    shop.backfill("spend")
    former = shop.parts.plan.groups["spend"].version
    file = shop.settings.folder / "features.py"
    file.write_text(file.read_text().replace('"1h", "7d"', '"1h", "7d", "9d"'))
    shop = reopen(HOURLY)
    shop.apply()
    assert set(shop.parts.plan.scheduled) == {former, shop.parts.plan.groups["spend"].version}
    bought(shop, 6, 200)
    first = shop.model("risk").score(asked(2)[1])
    assert first.position.groups == {former: [200]}
    assert [group.behind for group in shop.status().groups] == [6, 6]
    assert shop.backfill("spend").events == 12
    second = shop.model("risk").score(asked(2)[1])
    assert second.position.groups == {former: [206]}
    bought(shop, 3, 206)
    # Both versions go over to the stream, the kept one under its own name.
    shop = reopen()
    assert str(shop.plan()).count("runs in the stream, so far every 1h") == 2
    shop.apply()
    bought(shop, 3, 209)
    third = shop.model("risk").score(asked(2)[1])
    assert (third.position.groups, third.position.streams["order"]) == ({}, [212])
    assert [shop.audit(one.id).audit.differing for one in (first, second, third)] == [0, 0, 0]
    assert count(shop) == len([row for row in past if row["user"] == "u1"]) + 4


def test_groups_that_are_one_computation_run_alike(reopen: Reopen) -> None:
    file = reopen().settings.folder / "features.py"
    spend = file.read_text().split("class Profile")[0].split("class Spend")[1]
    file.write_text(file.read_text().replace("class Profile", f"class Same{spend}class Profile", 1))
    with pytest.raises(
        ConfigError, match="are computed once, for they are the same, but run every 1h and in the stream"
    ):
        _ = reopen(HOURLY).definition_plan
    both = reopen('[groups]\nspend = "1h"\nsame = "1h"\n')
    assert len(both.definition_plan.scheduled) == 1


def test_a_run_that_was_cut_off_leaves_a_position_that_answers(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.ingestion.backfill import GroupBackfill
    from headrace.stores.online.lmdb import LmdbOnlineStore

    file = reopen().settings.folder / "features.py"
    file.write_text(file.read_text().replace("    last = hr.last(Order.amount)\n", ""))
    shop = reopen(HOURLY)
    long_ago = NOON - timedelta(days=10)
    shop.publish("order", orders(30, long_ago, users=3, step_s=0.01))
    shop.backfill("spend")
    shop.publish("order", orders(30, long_ago + timedelta(seconds=1), start=30, users=3, step_s=0.01))
    bought(shop, 30, 60)
    archive = shop.parts.archive()
    while archive.step():
        pass
    # A piece is a fifth of what the store writes at once: the first one is of long ago, and the second never ends.
    monkeypatch.setattr(LmdbOnlineStore, "at_once", 150)
    merge, merged = GroupBackfill._merge, []

    def cut_off(self: GroupBackfill, at: list[int], target: list[int]) -> None:
        if merged:
            raise KeyboardInterrupt
        merged.append(target)
        merge(self, at, target)

    with monkeypatch.context() as patched:
        patched.setattr(GroupBackfill, "_merge", cut_off)
        with pytest.raises(KeyboardInterrupt):
            shop.backfill("spend")
    assert merged == [[60]]
    # By the stream's clock no window reaches back to these events; by the group's own it does.
    row = shop.online("order", {**asked(2)[1], "at": long_ago + timedelta(minutes=1)})
    assert (row["spend__n_7d"], list(row.position.groups.values())) == (20, [[60]])
    assert shop.backfill("spend").events == 30
    assert count(shop) == 10


def test_reconciliation_holds_scheduled_groups_to_their_own_position(reopen: Reopen) -> None:
    """Byte for byte, also where a run brought what no window reaches any more."""
    from headrace.app.reconciling import reconcile_all

    file = reopen().settings.folder / "features.py"
    file.write_text(file.read_text().replace("    last = hr.last(Order.amount)\n", ""))
    shop = reopen()
    bought(shop, 30)
    reopen(HOURLY).apply()
    shop = reopen(HOURLY)
    shop.publish("order", orders(9, NOON - timedelta(days=30), start=30, users=9, step_s=1))
    shop.backfill("spend")
    bought(shop, 9, 39)
    shop.backfill("spend")
    bought(shop, 9, 48)
    found = reconcile_all(shop.parts, repair=False)
    assert (found.compared, found.wrong, found.left) == (9, 0, 0)
    keys = [key for key, _ in shop.parts.online.scan() if not key.startswith(b"\xff\xff")]
    shop.parts.online.revise([], lambda _: [(keys[0], None)])
    found = reconcile_all(shop.parts)
    assert (found.missing, found.repaired) == ({"spend": 1}, 1)
    assert reconcile_all(shop.parts).wrong == 0
    shop.backfill("spend")
    reopen().apply()
    assert reconcile_all(reopen().parts).wrong == 0
