"""`headrace up` with streams that look something up: compute is killed while it derives; every answer is audited."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as hr
from headrace.app.project import Project
from tests.e2e.shop import FEATURES, now, orders, outcomes, write_shop
from tests.e2e.up import Up, eventually, running

pytestmark = pytest.mark.slow
DERIVED = """
class Discount(hr.Table):
    user: hr.Field[str] = hr.key(User)
    share: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Net(Order, where=Order.amount > 0.0):
    net = Order.amount * Discount.share


class NetSpend(hr.FeatureGroup, key=Net.user):
    n = hr.count(window="7d")
    total = hr.sum(Net.net, window="7d")
    part = total / Spend.total["7d"]


class Bought(hr.FeatureGroup, key=Net.order_id):
    net = hr.last(Net.net, window="30d")


class Gone(Outcome, where=Outcome.bad):
    net = Bought.net


class Lost(hr.FeatureGroup, key=Gone.order):
    net = hr.sum(Gone.net)


view = hr.FeatureView("order", request=Order, features=[Spend, NetSpend, Now, Order.amount])
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop with five days of orders and a promoted model, whose view reads what is derived."""
    folder = write_shop(tmp_path / "shop")
    features = FEATURES.split("view = hr.FeatureView")[0] + DERIVED + "risk = hr.Model" + FEATURES.split("hr.Model")[1]
    (folder / "features.py").write_text(features, encoding="utf-8")
    with hr.connect(folder) as project:
        long_ago = (now() - timedelta(days=30)).isoformat()
        project.put("discount", [{"user": f"u{i}", "share": 0.5, "at": long_ago} for i in range(10)])
        past = orders(400, now() - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        model = project.model("risk")
        model.promote(model.train(), why="the first one")
    return folder


@pytest.fixture
def up(shop: Path) -> Iterator[Up]:
    with running(shop) as up:
        yield up


def _late_look_ups_follow_a_backfill(up: Up, project: Project) -> None:
    """An order comes after its outcome, which is derived anew while all layers run."""
    project.put("discount", [{"user": "u99", "share": 0.5, "at": (now() - timedelta(days=1)).isoformat()}])
    ordered = now()
    late = {"order_id": "late", "user": "u99", "amount": 60.0, "at": ordered.isoformat()}
    gone = {"outcome_id": "xlate", "order": "late", "bad": True, "at": (ordered + timedelta(seconds=1)).isoformat()}

    def features(group: str, key: str) -> dict[str, Any]:
        return dict(httpx.get(f"{up.address}/v1/records/{group}/{key}", timeout=20).json()["features"])

    def derived() -> bool:
        streams = {stream.name: stream for stream in project.status().streams}
        return (streams["gone"].events, streams["gone"].uncomputed) == (401, 0)

    time.sleep(1.1)
    httpx.post(f"{up.address}/v1/events/outcome", json=[gone], timeout=20).raise_for_status()
    eventually(derived, up)
    httpx.post(f"{up.address}/v1/events/order", json=[late], timeout=20).raise_for_status()
    eventually(lambda: features("net_spend", "u99")["total"] == 30.0, up)
    assert features("lost", "late")["net"] is None
    report = project.backfill("net")
    assert report.names == ("net", "gone")
    eventually(lambda: features("lost", "late")["net"] == 30.0, up)


def test_compute_is_killed_while_it_derives(up: Up, shop: Path) -> None:
    published = 400
    for round_ in range(3):
        batch = orders(70, now(), start=published, step_s=0.001)
        assert httpx.post(f"{up.address}/v1/events/order", json=batch, timeout=20).status_code in (200, 202)
        published += 70

        def killed() -> bool:
            # Until it has started again, the last beat is that of the process which the last round killed.
            try:
                os.kill(up.beat("compute")["pid"], signal.SIGKILL)
            except ProcessLookupError:
                return False
            return True

        eventually(killed, up)

        def visible(n: int = published) -> bool:
            found = httpx.get(f"{up.address}/v1/records/net_spend/u3", timeout=20).json()
            return bool(found["features"]["n"] == sum(order % 10 == 3 and order % 7 > 0 for order in range(n)))

        eventually(visible, up)

        def score(name: int = round_) -> bool:
            asked = {"order_id": f"asked-{name}", "user": "u3", "amount": 60.0}
            httpx.post(f"{up.address}/v1/models/risk/score", json=asked, timeout=20).raise_for_status()
            return True

        eventually(score, up)
    with hr.connect(shop) as project:
        streams = {stream.name: stream for stream in project.status().streams}
        assert {name: stream.events for name, stream in streams.items()} == {
            "order": published,
            "outcome": 400,
            "net": published,
            "gone": 400,
        }
        assert not any(stream.uncomputed for stream in streams.values())
        _late_look_ups_follow_a_backfill(up, project)
    assert up.finish() == 0, "\n".join(up.lines)
    with hr.connect(shop) as project:
        for user in range(10):
            mine = [order % 7 * 10.0 for order in range(published) if order % 10 == user]
            row = project.get("net_spend", user=f"u{user}")
            # Orders of before the discount was written have none.
            late = [order % 7 * 10.0 for order in range(400, published) if order % 10 == user]
            assert (row.n, row.total) == (sum(amount > 0 for amount in mine), sum(late) / 2)
            assert row.part == row.total / project.get("spend", user=f"u{user}").total["7d"]
        audit = project.model("risk").audit()
        assert (audit.rows, audit.differing) == (3, 0)
