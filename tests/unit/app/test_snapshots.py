"""A snapshot is history at one time for every entity, bit for bit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from headrace.app.project import Project
from headrace.core.time import SimulatedClock
from tests.e2e.shop import orders
from tests.unit.app.conftest import NOON


def test_every_combination_asked_about_is_asked_again_at_the_time(shop: Project) -> None:
    rows = orders(40, NOON - timedelta(minutes=1), users=4)
    shop.publish("order", [*rows, {**rows[0], "order_id": "old", "user": "gone", "at": "2026-01-01T00:00:00Z"}])
    shop.put("profile", [{"user": "u1", "age": 30, "city": "Ulm", "at": NOON - timedelta(days=1)}])
    at = NOON - timedelta(minutes=10)
    found = shop.snapshot("order", at)
    assert found["user"] == ["gone", "u0", "u1", "u2", "u3"]
    assert found["order_id"] == ["old", "o28", "o29", "o26", "o27"]
    assert set(found["at"]) == {found["at"][0]}
    asked = found.to_arrow().select(["order_id", "user", "amount", "at"])
    assert shop.history("order", asked).to_arrow().equals(found.to_arrow())
    assert shop.snapshot("risk", at).to_arrow().equals(found.to_arrow())
    assert shop.snapshot("order", at, since=NOON - timedelta(hours=1))["user"] == ["u0", "u1", "u2", "u3"]
    assert len(shop.snapshot("order", "2025-01-01")) == 0


def test_entities_of_groups_and_tables(shop: Project) -> None:
    shop.publish("order", orders(30, NOON - timedelta(minutes=1), users=3))
    people: list[dict[str, Any]] = [{"user": f"u{i}", "age": i, "city": None, "at": NOON} for i in (7, 5)]
    shop.put("profile", people)
    spend = shop.snapshot("spend", NOON)
    assert spend["user"] == ["u0", "u1", "u2"]
    assert spend["spend__n_7d"] == [10, 10, 10]
    spine = spend.to_arrow().select(["user", "at"])
    assert shop.history(["spend"], spine).to_arrow().equals(spend.to_arrow())
    assert shop.snapshot("profile", NOON + timedelta(hours=1))["user"] == ["u5", "u7"]
    assert len(shop.snapshot("profile", NOON)) == 0


def test_the_whole_stream_is_one_entity(tmp_path: Path, clock: SimulatedClock) -> None:
    (tmp_path / "features.py").write_text(
        "from datetime import datetime\n"
        "import headrace as hr\n"
        "class Sale(hr.Event):\n"
        "    amount: hr.Field[float]\n"
        "    at: hr.Field[datetime] = hr.event_time()\n"
        "class Everything(hr.FeatureGroup, key=()):\n"
        "    total = hr.sum(Sale.amount)\n"
    )
    with Project.open(tmp_path, clock=clock) as project:
        project.publish("sale", [{"amount": amount, "at": NOON - timedelta(hours=1)} for amount in (1.0, 2.5)])
        assert project.snapshot("everything", NOON)["everything__total"] == [3.5]
        assert len(project.snapshot("everything", NOON - timedelta(hours=1))) == 0
