"""Fields are added, widened and renamed while events lie in the log and the archive: no event is lost or changed."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import headrace as hr
from headrace.app.archives import PredictionArchive
from headrace.app.project import Project
from headrace.core.time import SimulatedClock, to_us
from headrace.retrieval.past import events_table

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
User, Currency = hr.Entity("user"), hr.Entity("currency")


class Limit:
    """A classifier that answers with its one column, squeezed."""

    def fit(self, columns: Any, truth: Any) -> Limit:
        return self

    def predict_proba(self, columns: Any) -> Any:
        p = 1 / (1 + np.exp(-np.nan_to_num(columns[:, 0]) / 100))
        return np.column_stack([1 - p, p])

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def set_params(self, **params: Any) -> Limit:
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())


def before() -> list[Any]:
    class Transfer(hr.Event):
        number: hr.Field[str] = hr.id()
        sender: hr.Field[str] = hr.key(User)
        ccy: hr.Field[str | None] = hr.key(Currency)
        amount: hr.Field[int]
        fee: hr.Field[int | None]
        note: hr.Field[str | None]
        at: hr.Field[datetime] = hr.event_time()

    class Chargeback(hr.Event):
        number: hr.Field[str] = hr.id()
        transfer: hr.Field[str] = hr.key(Transfer)
        fraud: hr.Field[bool]
        at: hr.Field[datetime] = hr.event_time()

    class Rate(hr.FeatureGroup, key=Transfer.sender):
        n = hr.count(window=["1h", "7d"])
        dear = hr.count(window="7d", where=Transfer.ccy == "eur")

    class Lane(hr.FeatureGroup, key=Transfer.ccy):
        n = hr.count()
        fees = hr.sum(Transfer.fee)

    view = hr.FeatureView("transfer", request=Transfer, features=[Rate, Lane.n])
    shown = hr.FeatureView("shown", request=Transfer, features=[Transfer.amount])
    fraud = hr.Model("fraud", view=view, estimator=Limit(), label=hr.Label(Chargeback.fraud, wait="1h"))
    return [Transfer, Chargeback, Rate, Lane, view, shown, fraud]


def after() -> list[Any]:
    class Transfer(hr.Event):
        transfer_id: hr.Field[str] = hr.id(alias="number")
        payer: hr.Field[str] = hr.key(User, alias="sender")
        currency: hr.Field[str | None] = hr.key(Currency, alias="ccy")
        amount: hr.Field[float]
        fee: hr.Field[float | None]
        channel: hr.Field[str] = hr.field(default="app")
        device: hr.Field[str | None]
        happened: hr.Field[datetime] = hr.event_time(alias="at")

    class Chargeback(hr.Event):
        number: hr.Field[str] = hr.id()
        transfer: hr.Field[str] = hr.key(Transfer)
        fraud: hr.Field[bool]
        at: hr.Field[datetime] = hr.event_time()

    class Rate(hr.FeatureGroup, key=Transfer.payer):
        n = hr.count(window=["1h", "7d"])
        dear = hr.count(window="7d", where=Transfer.currency == "eur")

    class Lane(hr.FeatureGroup, key=Transfer.currency):
        n = hr.count()
        fees = hr.sum(Transfer.fee)

    class Spend(hr.FeatureGroup, key=Transfer.payer):
        total = hr.sum(Transfer.amount, window=["1h", "7d"])
        top = hr.max(Transfer.amount)
        app = hr.count(where=Transfer.channel == "app")
        unknown = hr.count(where=Transfer.device.is_null())

    view = hr.FeatureView("transfer", request=Transfer, features=[Rate, Lane.n])
    shown = hr.FeatureView("shown", request=Transfer, features=[Transfer.amount])
    wide = hr.FeatureView("wide", request=Transfer, features=[Rate, Lane, Spend])
    fraud = hr.Model("fraud", view=view, estimator=Limit(), label=hr.Label(Chargeback.fraud, wait="1h"))
    return [Transfer, Chargeback, Rate, Lane, Spend, view, shown, wide, fraud]


def transfers(n: int, *, start: int, seed: int) -> list[dict[str, Any]]:
    """As a producer of the old definitions sends them; times are not in order."""
    rng = random.Random(seed)
    return [
        {
            "number": f"t{start + i}",
            "sender": f"u{rng.randrange(4)}",
            "ccy": rng.choice(["eur", "usd", None]),
            "amount": rng.randrange(-50, 500),
            "fee": rng.choice([None, 1, 2]) if i % 2 else 3,
            "note": None,
            "at": NOON - timedelta(minutes=rng.randrange(1, 3000)),
        }
        for i in range(n)
    ]


def renewed(old: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same as a producer of the new definitions sends them, with all that is new."""
    rng = random.Random(seed)
    return [
        {
            "transfer_id": row["number"],
            "payer": row["sender"],
            "currency": row["ccy"],
            "amount": row["amount"] + 0.25,
            "fee": row["fee"],
            "channel": rng.choice(["app", "web"]),
            "device": rng.choice([None, "phone"]),
            "happened": row["at"],
        }
        for row in old
    ]


def dropped_note(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "note"} for row in rows]


class Oracle:
    """Every event ever published, as the new definitions read it; one loop per question."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            self.events.append(
                {
                    "payer": row.get("payer", row.get("sender")),
                    "currency": row.get("currency", row.get("ccy")),
                    "amount": row["amount"],
                    "fee": row["fee"],
                    "channel": row.get("channel", "app"),
                    "device": row.get("device"),
                    "at": row.get("happened", row.get("at")),
                }
            )
        return rows

    def read(self, user: str, currency: str, t: datetime) -> dict[str, Any]:
        mine = [e for e in self.events if e["payer"] == user and e["at"] < t]
        hour = [e for e in mine if e["at"] >= t - timedelta(hours=1)]
        # A window of seven days steps by hours.
        edge = (t - timedelta(days=7)).replace(minute=0, second=0, microsecond=0)
        week = [e for e in mine if e["at"] >= edge]
        lane = [e for e in self.events if e["currency"] == currency and e["at"] < t]
        fees = [e["fee"] for e in lane if e["fee"] is not None]
        return {
            "rate__n_1h": len(hour),
            "rate__n_7d": len(week),
            "rate__dear": sum(e["currency"] == "eur" for e in week),
            "lane__n": len(lane),
            "lane__fees": float(sum(fees)) if fees else None,
            "spend__total_1h": float(sum(e["amount"] for e in hour)) if hour else None,
            "spend__total_7d": float(sum(e["amount"] for e in week)) if week else None,
            "spend__top": max((float(e["amount"]) for e in mine), default=None),
            "spend__app": sum(e["channel"] == "app" for e in mine),
            "spend__unknown": sum(e["device"] is None for e in mine),
        }


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(to_us(NOON))


def open_at(folder: Path, clock: SimulatedClock, definitions: list[Any]) -> Project:
    folder.mkdir(exist_ok=True)
    (folder / "headrace.toml").write_text("sync = false\npartitions = 2\n", encoding="utf-8")
    return Project.open(folder, clock=clock, definitions=definitions)


def check(project: Project, oracle: Oracle) -> None:
    asked = [(f"u{i % 5}", ["eur", "usd", "gbp"][i % 3], NOON - timedelta(minutes=450 * i)) for i in range(8)]
    expected = [oracle.read(*one) for one in asked]
    request = [
        {"transfer_id": "?", "payer": u, "currency": c, "amount": 1.0, "fee": None, "happened": t} for u, c, t in asked
    ]
    rows = project.history("wide", request).to_arrow().to_pylist()
    assert [{name: row[name] for name in want} for row, want in zip(rows, expected, strict=True)] == expected
    at_noon = [{**row, "happened": NOON} for row in request]
    online = project.online("wide", at_noon).to_arrow().to_pylist()
    wanted = [oracle.read(u, c, NOON) for u, c, _ in asked]
    assert [{name: row[name] for name in want} for row, want in zip(online, wanted, strict=True)] == wanted


def archive(project: Project) -> None:
    worker = project.parts.archive()
    while worker.step(40):
        pass
    while PredictionArchive(project.parts).step():
        pass


@pytest.mark.parametrize("archived", ["never", "before", "after", "before and after"])
def test_no_event_is_lost_when_fields_are_added_widened_and_renamed(
    tmp_path: Path, clock: SimulatedClock, archived: str
) -> None:
    oracle = Oracle()
    with open_at(tmp_path / "p", clock, before()) as project:
        project.publish("transfer", oracle.add(transfers(150, start=0, seed=1)))
        for i in range(3):
            project.publish("transfer", oracle.add(transfers(5, start=150 + 5 * i, seed=2 + i)))
        project.settle()
        model = project.model("fraud")
        backs = [
            {"number": f"c{i}", "transfer": f"t{i}", "fraud": i % 3 == 0, "at": NOON - timedelta(seconds=30)}
            for i in range(150)
        ]
        project.publish("chargeback", backs)
        model.promote(model.train(), why="the first one")
        rows_before = project.history("fraud").to_arrow()
        assert rows_before.num_rows > 140
        asked = {"sender": "u1", "ccy": "eur", "amount": 3, "fee": None, "note": None}
        old_answer = model.score({"number": "a1", **asked})
        versions = {name: group.version for name, group in project.definition_plan.groups.items()}
        view_version, shown_version = (project.definition_plan.views[name].version for name in ("transfer", "shown"))
        if "before" in archived:
            archive(project)
            worker = project.parts.compute()
            worker.checkpoint()
            assert worker.windows.positions["transfer"] != [0, 0]
        # In the log, but not yet computed when the definitions change.
        project.publisher.publish("transfer", oracle.add(transfers(60, start=200, seed=7)))
    with open_at(tmp_path / "p", clock, after()) as project:
        changes = project.plan()
        assert dict(changes.evolutions) == {
            "transfer": "transfer_id renamed from number, payer renamed from sender, currency renamed from ccy, "
            'amount int -> float, fee int -> float, + channel (default "app"), + device (null in older events), '
            "happened renamed from at, - note (read by nothing; an event that still brings it is a dead letter)"
        }
        groups = project.definition_plan.groups
        assert groups["rate"].version == versions["rate"]
        views = project.definition_plan.views
        assert views["transfer"].version == view_version
        assert views["shown"].version != shown_version
        # The fees of a lane are floats now: that group is computed again.
        assert set(changes.backfills) == {"lane", "spend"}
        project.apply()
        check_after_settling(project, oracle)
        model = project.model("fraud")
        again = project.audit(old_answer.id)
        assert (again.equal, again.audit.checked) == (True, 4)
        model.score({"number": "a2", **{k: v for k, v in asked.items() if k != "note"}})
        model.score({"transfer_id": "a3", "payer": "u2", "currency": "usd", "amount": 2.5, "fee": 0.5})
        audit = model.audit()
        assert (audit.checked, audit.differing) == (12, 0)
    # Restarted, with producers of both kinds.
    with open_at(tmp_path / "p", clock, after()) as project:
        old = dropped_note(oracle.add(transfers(40, start=300, seed=9)))
        receipt = project.publish("transfer", old)
        new = oracle.add(renewed(transfers(50, start=400, seed=10), 11))
        receipt += project.publish("transfer", pa.Table.from_pylist(new))
        mixed = [
            *oracle.add(renewed(transfers(3, start=500, seed=12), 13)),
            *dropped_note(oracle.add(transfers(3, start=510, seed=14))),
        ]
        body = "\n".join(
            json.dumps({k: v.isoformat() if k in ("at", "happened") else v for k, v in row.items()}) for row in mixed
        )
        receipt += project.publish("transfer", body.encode())
        # Sent again under the new names: the id is the same one, in the same partition.
        receipt += project.publish("transfer", renewed(transfers(2, start=300, seed=9), 15))
        assert (receipt.appended, receipt.malformed) == (98, 0)
        check_after_settling(project, oracle)
        if "after" in archived:
            archive(project)
            check(project, oracle)
            rows = project.parts.offline.scan(events_table("transfer"))
            assert rows.num_rows == len(oracle.events) + 2
            kept = {"number", "sender", "ccy", "at", "amount.float"} <= set(rows.column_names)
            assert kept == ("before" in archived)
            assert ("payer" in rows.column_names) != kept
        assert project.model("fraud").audit().differing == 0
        trained = project.history("fraud").to_arrow()
        assert sorted(trained["transfer_id"].to_pylist()) == sorted(rows_before["number"].to_pylist())
        assert set(trained["channel"].to_pylist()) == {"app"}


def check_after_settling(project: Project, oracle: Oracle) -> None:
    project.settle()
    check(project, oracle)
