"""Features that are texts, lists and maps, through every face of a project: rows, frames, scores, audits and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from headrace.app.project import Project
from headrace.core.time import SimulatedClock, to_us
from headrace.serving.openapi import describe
from headrace.serving.records import Records
from headrace.serving.replies import feature_rows
from tests.e2e.shop import FEATURES, orders, outcomes, write_shop
from tests.unit.app.conftest import NOON

HABITS = """
class Habits(hr.FeatureGroup, key=Order.user):
    amounts = hr.last_n(Order.amount, 2, window="7d")
    often = hr.histogram(Order.amount, window="7d")
    last_order, first_order = hr.last(Order.order_id), hr.min(Order.order_id, window="30d")
    orders = hr.first_n(Order.order_id, 2, window="30d")
    at = hr.last_n(Order.at, 1, window="30d")
    spent = hr.sum(Order.amount, by=Order.order_id, window="7d")
    kinds = hr.n_unique(Order.order_id, window="30d")
    ever, usual = hr.histogram(Order.amount), hr.top_k(Order.order_id, 1)
    middle, least_order = hr.quantile(Order.amount, 0.5), hr.min(Order.order_id)
    spent_ever = hr.sum(Order.amount, by=Order.amount > 30.0)


view = """
USER: dict[str, Any] = {"user": "u1", "order_id": "asked", "amount": 60.0}
# A user orders every 100,000 s; the last 7 days hold six of them, the last 30 days 26.
EXPECTED = {
    "habits__amounts": [30.0, 40.0],
    "habits__often": {0.0: 1, 10.0: 1, 20.0: 1, 30.0: 1, 40.0: 1, 60.0: 1},
    "habits__last_order": "o391",
    "habits__first_order": "o141",
    "habits__orders": ["o141", "o151"],
    "habits__at": [NOON - timedelta(hours=2, seconds=8 * 10_000)],
    "habits__kinds": 26,
    # Of the whole lifetime, 40 orders of 7 amounts; o1 is the least of them.
    "habits__ever": {0.0: 6, 10.0: 6, 20.0: 6, 30.0: 6, 40.0: 6, 50.0: 5, 60.0: 5},
    "habits__usual": ["o1"],
    "habits__middle": 30.0625,
    "habits__least_order": "o1",
    "habits__spent_ever": {False: 360.0, True: 790.0},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = write_shop(tmp_path_factory.mktemp("habits") / "shop")
    source = FEATURES.replace("view = ", HABITS.lstrip("\n"), 1).replace("features=[Spend,", "features=[Spend, Habits,")
    (folder / "features.py").write_text(source, encoding="utf-8")
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=10_000)
        past = [order | {"amount": float((i // 10) % 7 * 10)} for i, order in enumerate(past)]
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        yield project


def test_online_and_history_give_the_same_python_values(shop: Project) -> None:
    row = shop.online("order", USER)
    assert {name: row[name] for name in EXPECTED} == EXPECTED
    assert row["habits__spent"] == {"o391": 40.0, "o381": 30.0, "o371": 20.0, "o361": 10.0, "o351": 0.0, "o341": 60.0}
    rows = shop.history("order", [USER | {"at": NOON}])
    assert {name: rows[name][0] for name in EXPECTED} == EXPECTED | {"habits__at": [to_us(EXPECTED["habits__at"][0])]}
    assert shop.get("habits", user="u1").orders == EXPECTED["habits__orders"]
    nobody = shop.online("order", USER | {"user": "nobody"})
    assert [nobody[f"habits__{name}"] for name in ("amounts", "often", "last_order", "spent")] == [[], {}, None, {}]
    assert [nobody[f"habits__{name}"] for name in ("ever", "middle", "least_order", "spent_ever")] == [
        {},
        None,
        None,
        {},
    ]


def test_frames_have_lists_and_maps(shop: Project) -> None:
    rows = shop.history("order", [USER | {"at": NOON}, USER | {"user": "nobody", "at": NOON}])
    assert rows.to_arrow()["habits__orders"].to_pylist() == [["o141", "o151"], []]
    assert rows.to_pandas()["habits__last_order"].tolist()[0] == "o391"
    assert rows.to_polars()["habits__amounts"].to_list() == [[30.0, 40.0], []]


def test_a_model_sees_texts_and_what_it_was_told_can_be_audited(shop: Project) -> None:
    model = shop.model("risk")
    model.promote(model.train(), why="the first one")
    answer = model.score(USER)
    found = shop.audit(answer.id)
    assert found.equal, str(found)
    assert found.audit.checked == len(shop.parts.plan.views["order"].visible)
    (logged,) = [r for r in shop.history("risk", served=True) if r["prediction_id"] == answer.id]
    assert logged["habits__last_order"] == "o391"


def test_json_has_arrays_and_objects(shop: Project) -> None:
    parts = shop.parts
    records = Records(parts.plan, parts.online, parts.clock, horizon_us=parts.horizon_us)
    (row,) = feature_rows(records.get("habits", "u1"))
    assert (row["orders"], row["last_order"]) == (["o141", "o151"], "o391")
    assert row["often"] == {"0.0": 1, "10.0": 1, "20.0": 1, "30.0": 1, "40.0": 1, "60.0": 1}
    assert row["at"] == ["2026-04-30T11:46:40Z"]
    features = describe(parts.plan)["components"]["schemas"]["orderFeatures"]["properties"]["features"]["properties"]
    assert features["habits__orders"]["items"] == {"type": "string"}
    assert features["habits__often"]["additionalProperties"]["anyOf"][0]["type"] == "integer"
