"""The project in Python: what is published can be read, online and from history, and says what it is."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import headrace as hr
from headrace.app.project import Project
from headrace.core.errors import Busy, HorizonError, NotFound, PlanError, SchemaError
from headrace.core.time import SimulatedClock, to_us
from tests.e2e.shop import orders, outcomes
from tests.unit.app.conftest import NOON


def definitions(project: Project) -> Any:
    """The project's own module, as a notebook would import it."""
    assert project.definitions
    return sys.modules["features"]


def order(**values: Any) -> dict[str, Any]:
    return {"order_id": "asked", "user": "u1", "amount": 30.0, "at": NOON, **values}


def test_published_events_are_in_the_next_answer(shop: Project) -> None:
    receipt = shop.publish("order", orders(20, NOON - timedelta(minutes=1), users=2))
    assert (receipt.appended, receipt.malformed) == (20, 0)
    m = definitions(shop)
    row = shop.online(m.view, m.Order(**order(user="u1")))
    assert row[m.Spend.n["7d"]] == 10
    assert row["spend__n_7d"] == 10
    assert row[m.Now.times] == 30.0 / row[m.Spend.mean_7d]
    assert row.age == timedelta(minutes=1)
    assert row.position.streams["order"] == [20]
    with pytest.raises(NotFound, match="no column"):
        row["spend__n_8d"]


def test_events_come_as_instances_frames_and_bytes(shop: Project) -> None:
    m = definitions(shop)
    receipts = shop.publish(
        [
            m.Order(**order(order_id="a", at=NOON - timedelta(minutes=3))),
            m.Outcome(outcome_id="x", order="a", bad=True, at=NOON - timedelta(minutes=2)),
        ]
    )
    assert {name: receipt.appended for name, receipt in receipts.items()} == {"order": 1, "outcome": 1}
    table = pa.table({"order_id": ["b"], "user": ["u1"], "amount": [7.0], "at": [NOON - timedelta(minutes=2)]})
    assert shop.publish(m.Order, table).appended == 1
    assert shop.publish("order", b'{"order_id":"c","user":"u1","amount":1,"at":"2026-05-01T11:59:00Z"}').appended == 1
    assert shop.get(m.Spend, user="u1").n == {"1h": 3, "7d": 3}
    assert shop.get(m.Spend, user="u1").total["1h"] == 38.0
    with pytest.raises(SchemaError, match="instances"):
        shop.publish([{"order_id": "d"}])


def test_what_does_not_fit_becomes_a_dead_letter(shop: Project) -> None:
    rows = [*orders(3, NOON), {"order_id": "bad", "user": "u1", "amount": "much", "at": NOON.isoformat()}]
    receipt = shop.publish("order", rows)
    assert (receipt.appended, receipt.malformed) == (4, 1)
    status = shop.status()
    assert status.dead_letters == 1
    letter = status.newest_dead_letters[0]
    assert (letter.stream, letter.offset, letter.field) == ("order", 3, "amount")
    assert "dead letters              1" in str(status)


def test_a_group_is_read_now_then_and_before_the_horizon(shop: Project) -> None:
    m = definitions(shop)
    shop.publish("order", orders(10, NOON - timedelta(minutes=1), users=1))
    assert shop.get(m.Spend, user="u0").n["1h"] == 10
    assert shop.get("spend", user="u0", at=NOON - timedelta(minutes=5)).n["1h"] == 5
    assert shop.get("spend", user="u0", at="2026-04-01T00:00:00Z").n["7d"] == 0
    unseen = shop.get(m.Spend, user="nobody")
    assert (unseen.n["7d"], unseen.last) == (0, None)
    with pytest.raises(HorizonError, match="history"):
        shop.online(m.view, order(at=NOON - timedelta(days=1)))
    with pytest.raises(SchemaError, match="user is missing"):
        shop.get(m.Spend)
    with pytest.raises(SchemaError, match="no part of it"):
        shop.get(m.Spend, user="u0", shop="x")
    with pytest.raises(NotFound, match="did you mean spend"):
        shop.get("spent", user="u0")


def test_rows_of_tables_replace_each_other(shop: Project, clock: SimulatedClock) -> None:
    m = definitions(shop)
    old, new = NOON - timedelta(days=2), NOON - timedelta(days=1)
    shop.put(m.Profile, [m.Profile(user="u1", age=30, city="Ulm", at=old)])
    clock.advance_to(to_us(NOON + timedelta(hours=1)))
    shop.put("profile", [{"user": "u1", "age": 31, "city": None, "at": new}])
    found = shop.get(m.Profile, user="u1")
    assert isinstance(found, m.Profile)
    assert (found.age, found.city, found.at) == (31, None, new)
    assert shop.get(m.Profile, user="u1", at=NOON + timedelta(minutes=30)).age == 30
    assert shop.get(m.Profile, user="u1", at=NOON - timedelta(minutes=30)) is None
    assert shop.get(m.Profile, user="u2") is None
    # A row counts from after it was written, so a request of the same moment sees the one before.
    assert shop.online(m.view, order(at=None))[m.Profile.age] == 30
    clock.advance_to(clock.now_us() + 1)
    assert shop.online(m.view, order(at=None))[m.Profile.age] == 31
    with pytest.raises(SchemaError, match="age"):
        shop.put(m.Profile, [{"user": "u1", "age": "old", "city": None, "at": new}])
    assert shop.get(m.Profile, user="u1").age == 31


def test_a_request_that_does_not_fit_names_the_field(shop: Project) -> None:
    with pytest.raises(SchemaError, match='"amount"') as error:
        shop.online("order", {"order_id": "a", "user": "u1"})
    assert error.value.field == "amount"
    with pytest.raises(SchemaError, match="request 1"):
        shop.online("order", [order(), order(amount=True)])
    with pytest.raises(NotFound, match="did you mean order"):
        shop.online("orders", order())


def test_many_requests_give_rows(shop: Project) -> None:
    shop.publish("order", orders(20, NOON - timedelta(minutes=1), users=2))
    rows = shop.online("order", [order(user=f"u{i}") for i in range(3)])
    assert rows["spend__n_7d"] == [10, 10, 0]
    assert rows["order_id"] == ["asked"] * 3


def test_history_agrees_with_what_was_online(shop: Project) -> None:
    m = definitions(shop)
    shop.publish("order", orders(30, NOON - timedelta(minutes=1), users=3))
    asked = [m.Order(**order(user=f"u{i}")) for i in range(4)]
    assert shop.history(m.view, asked).to_arrow().to_pylist() == shop.online(m.view, asked).to_arrow().to_pylist()


def test_history_of_groups_at_a_callers_rows(shop: Project) -> None:
    m = definitions(shop)
    shop.publish("order", orders(30, NOON - timedelta(minutes=1), users=3))

    class Rare(hr.FeatureGroup, key=m.Order.user):
        big = hr.count(window="7d", where=m.Order.amount > 50)

    spine = [{"user": "u1", "at": NOON, "note": "x"}, {"user": None, "at": NOON, "note": "y"}]
    rows = shop.history([m.Spend.n["7d"], Rare], spine)
    assert rows.to_arrow().to_pylist() == [
        {"user": "u1", "at": NOON, "note": "x", "spend__n_7d": 10, "rare__big": 1},
        {"user": None, "at": NOON, "note": "y", "spend__n_7d": 0, "rare__big": 0},
    ]
    with pytest.raises(SchemaError, match='lack the column "user"'):
        shop.history([m.Spend], [{"at": NOON}])
    with pytest.raises(SchemaError, match="second argument"):
        shop.history([m.Spend])


def test_rows_of_history_may_lack_other_fields_than_the_first_one(tmp_path: Path, clock: SimulatedClock) -> None:
    (tmp_path / "features.py").write_text(
        "from datetime import datetime\n"
        "import headrace as hr\n"
        "class Visit(hr.Event):\n"
        "    user: hr.Field[str] = hr.key(hr.Entity('user'))\n"
        "    site: hr.Field[str] = hr.field(default='web', alias='shop')\n"
        "    note: hr.Field[str | None]\n"
        "    at: hr.Field[datetime] = hr.event_time()\n"
        "class Visits(hr.FeatureGroup, key=Visit.user):\n"
        "    n = hr.count(window='7d')\n"
        "view = hr.FeatureView('visit', request=Visit, features=[Visits, Visit.site, Visit.note])\n"
    )
    rows: list[dict[str, Any]] = [
        {"user": "a", "at": NOON},
        {"user": "a", "at": NOON, "site": "app", "tag": 1},
        {"user": "b", "at": NOON, "note": "x"},
        {"user": "b", "at": NOON.isoformat(), "shop": "till"},
    ]
    with Project.open(tmp_path, clock=clock) as project:
        project.publish("visit", [{"user": "a", "at": NOON - timedelta(hours=1)}])
        found = project.history("visit", rows)
        assert (found["site"], found["note"]) == (["web", "app", "web", "till"], [None, None, "x", None])
        assert (found["visits__n"], found["tag"]) == ([1, 1, 0, 0], [None, 1, None, None])
        assert project.history(["visits"], rows[:2])["tag"] == [None, 1]
        with pytest.raises(SchemaError, match="row 1 of the given rows: site: null"):
            project.history("visit", [rows[0], {**rows[0], "site": None}])


def test_history_as_of_knows_what_had_arrived(shop: Project, clock: SimulatedClock) -> None:
    m = definitions(shop)
    shop.publish("order", orders(10, NOON - timedelta(minutes=1), users=1))
    clock.advance_to(to_us(NOON + timedelta(hours=1)))
    late = orders(5, NOON - timedelta(minutes=2), start=10, users=1)
    shop.publish("order", late)
    spine = [{"user": "u0", "at": NOON}]
    assert shop.history([m.Spend.n["1h"]], spine)["spend__n_1h"] == [15]
    then = shop.history([m.Spend.n["1h"]], spine, as_of=NOON + timedelta(minutes=30))
    assert then["spend__n_1h"] == [10]
    assert then.as_of == {"order": [10]}
    assert len(shop.history("order")) == 15
    assert len(shop.history("order", as_of=NOON + timedelta(minutes=30))) == 10


def test_the_training_set_leaves_out_what_waits(trained: Project) -> None:
    rows = trained.history("risk", until=NOON)
    assert len(rows) + rows.waiting + rows.unlabelled == 400
    assert rows["label"] == [amount > 40 for amount in rows["amount"]]
    assert {"spend__n_7d", "profile__age", "order_id"} <= set(rows.columns)
    early = trained.history("risk", until=NOON, as_of=NOON - timedelta(days=1))
    assert len(early) == 0


def test_a_row_trains_from_the_moment_its_wait_has_passed_whatever_is_known_of_it(shop: Project) -> None:
    wait = timedelta(microseconds=shop.parts.plan.models["risk"].label.wait_us)
    assert wait > timedelta(0)
    # 20 and 10 minutes before the last moment whose wait has passed at noon, at it, and three after it.
    past = orders(6, NOON - wait + timedelta(minutes=30), step_s=600)
    shop.publish("order", past)
    shop.publish("outcome", outcomes(past))
    rows = shop.history("risk", until=NOON)
    assert rows["order_id"] == [order["order_id"] for order in past[:3]]
    assert rows.waiting == 3


def test_definitions_are_planned_applied_and_guarded(shop: Project) -> None:
    first = shop.plan()
    assert ("group", "spend") in {(c.kind, c.name) for c in first.changes}
    shop.apply(first)
    assert not shop.plan()
    shop.publish("order", orders(30, NOON - timedelta(minutes=1), users=3))
    text = (shop.settings.folder / "features.py").read_text()
    edited = text.replace(
        'n = hr.count(window=["1h", "7d"])',
        'n = hr.count(window=["1h", "7d"])\n    top = hr.max(Order.amount, window="7d")',
    )
    (shop.settings.folder / "features.py").write_text(edited)
    with Project.open(shop.settings.folder, clock=shop.clock) as again:
        changes = again.plan()
        found = {(c.kind, c.name, c.change) for c in changes.changes}
        assert ("feature", "spend.top", "added") in found
        assert ("feature", "spend.n_7d", "added") not in found
        assert ("group", "spend", "changed") in found
        assert changes.models == ("risk",)
        assert changes.backfills == ("spend",)
        with pytest.raises(PlanError, match="headrace apply"):
            again.publish("order", orders(1, NOON))
        again.apply(changes)
        assert again.get("spend", user="u1").n["7d"] == 10
        assert again.get("spend", user="u1").top == 60.0
        again.publish("order", orders(3, NOON - timedelta(seconds=1), start=30, users=3))
        assert again.get("spend", user="u1", at=NOON).n["7d"] == 11
        asked = [order(user=f"u{i}") for i in range(3)]
        assert again.history("order", asked).to_arrow() == again.online("order", asked).to_arrow()


def test_a_group_that_comes_back_gets_what_it_missed(shop: Project) -> None:
    file = shop.settings.folder / "features.py"
    text = file.read_text()
    shop.publish("order", orders(30, NOON - timedelta(minutes=2), users=3))
    file.write_text(text.replace('n = hr.count(window=["1h", "7d"])', 'n = hr.count(window=["1h", "7d", "8d"])'))
    with Project.open(shop.settings.folder, clock=shop.clock) as other:
        other.apply()
        assert other.get("spend", user="u1").n["8d"] == 10
        other.publish("order", orders(6, NOON - timedelta(minutes=1), start=30, users=3, step_s=1))
    file.write_text(text + "\n")
    with Project.open(shop.settings.folder, clock=shop.clock) as back:
        assert back.plan().backfills == ("spend",)
        back.apply()
        assert back.get("spend", user="u1").n["7d"] == 12
        asked = [order(user=f"u{i}") for i in range(3)]
        assert back.history("order", asked).to_arrow() == back.online("order", asked).to_arrow()


def test_a_renamed_group_keeps_its_state(shop: Project) -> None:
    shop.publish("order", orders(30, NOON - timedelta(minutes=1), users=3))
    file = shop.settings.folder / "features.py"
    file.write_text(file.read_text().replace("class Spend(", "class Outlay(").replace("Spend", "Outlay"))
    with Project.open(shop.settings.folder, clock=shop.clock) as again:
        changes = again.plan()
        assert ("group", "outlay", "renamed", "spend") in {(c.kind, c.name, c.change, c.was) for c in changes.changes}
        assert changes.backfills == ()
        again.apply()
        assert again.get("outlay", user="u1").n["7d"] == 10


def test_apply_waits_until_no_layer_runs(shop: Project) -> None:
    from headrace.app.locks import FolderLock

    with FolderLock(shop.settings.state, "serve"), pytest.raises(Busy, match="former definitions"):
        shop.apply()


def test_a_publish_leaves_the_work_to_who_holds_it(shop: Project) -> None:
    from headrace.app.locks import FolderLock
    from headrace.core.errors import StoreError

    shop.apply()
    with FolderLock(shop.settings.state, "compute"):
        shop.publish("order", orders(10, NOON - timedelta(minutes=1), users=1))
        assert shop.status().streams[0].invisible == 10
        with pytest.raises(StoreError, match="not caught up"):
            shop.settle(timeout_s=0.05)
    shop.settle()
    assert shop.status().streams[0].invisible == 0
    assert shop.get("spend", user="u0").n["7d"] == 10


def test_search_and_describe(shop: Project) -> None:
    shop.apply()
    assert "spend" in {d.record.name for d in shop.search("spent lately")}
    assert {d.record.kind for d in shop.search("spend", entity="user")} == {"group", "feature"}
    m = definitions(shop)
    described = shop.describe(m.Spend.n["7d"])
    assert (described.kind, described.name, described.owner) == ("feature", "spend.n_7d", "risk@shop.example")
    assert described.read_by == ["view order", "model risk"]
    assert "window_us: 7d" in str(described)
    assert shop.describe(m.risk).reads == ["view order", "stream outcome (truth)"]
    assert shop.describe("profile").reads == ["put"]
    with pytest.raises(NotFound, match="did you mean"):
        shop.describe("spend.n_9d")


def test_a_description_tells_lineage_statistics_freshness_and_users(trained: Project) -> None:
    found = trained.statistics("risk", until=NOON)
    assert (found.rows, found.labelled) == (400, True)
    assert found["amount"].auc == 1.0
    assert found["amount"].information > found["spend__n_7d"].information
    assert str(found).splitlines()[2].startswith("amount")
    m = definitions(trained)
    described = trained.describe(m.Spend.n["7d"])
    assert described.lineage == ["group spend", "stream order"]
    assert described.models == ["risk (version 1)"]
    assert [(s.what, s.column.name) for s in described.statistics] == [("risk", "spend__n_7d")]
    fresh = described.freshness["stream order"]
    assert fresh is not None
    assert (fresh.newest_us, fresh.age_us) == (to_us(NOON - timedelta(hours=2)), 7_200_000_000)
    assert "stream order: newest 2026-05-01T10:00:00Z, 2h ago" in str(described)
    assert "models: risk (version 1)" in str(described)
    model = trained.describe("risk")
    assert model.lineage == [
        *("view order", "stream outcome (truth)", "table profile", "group spend", "put", "stream order"),
    ]
    assert len(model.statistics) == len(found.columns)
    assert model.freshness["table profile"] is None
    age = trained.describe(m.Profile.age)
    assert (age.kind, age.reads, age.lineage) == ("feature", ["table profile"], ["table profile", "put"])
    assert trained.describe("order").models == ["risk (version 1)"]
    assert trained.describe("outcome").models == ["risk (version 1)"]
    assert trained.describe("outcome").to_dict()["lineage"] == []


def test_outcomes_of_the_shop_are_what_the_model_has_to_find() -> None:
    assert [o["bad"] for o in outcomes(orders(7, NOON))] == [False, False, False, False, False, True, True]
