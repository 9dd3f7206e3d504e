"""The fraud project of the API, whole: derived streams, texts as keys and on-request features through all paths."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from headrace.testing import given, late
from tests.typing.fraud import Chargeback, Disputes, Fx, Login, Now, Profile, Spend, Transfer, view


def t(clock: str, day: int = 2) -> datetime:
    return datetime.fromisoformat(f"2026-01-{day:02d}T{clock}").replace(tzinfo=timezone.utc)


def transfer(name: str, at: datetime, amount: float = 10.0, **more: Any) -> Transfer:
    values = {"sender": "u1", "receiver": "u2", "merchant": "m1", "currency": "EUR", "lat": 48.86, "lon": 2.35, **more}
    return Transfer(**{"transfer_id": name, "amount": amount, "at": at, **values})


def test_the_whole_project() -> None:
    world = given(
        Fx(currency="EUR", usd=1.5, at=t("08:00")),
        Profile(user="u1", age_days=400, taste=[1.0] + [0.0] * 63, at=t("08:00")),
        Profile(user="u2", age_days=4, taste=[1.0] + [0.0] * 63, at=t("08:00")),
        Login(user="u1", lat=52.37, lon=4.90, at=t("10:00")),
        late(transfer("a", t("11:58")), by="5m"),
        transfer("b", t("11:59"), 20.0),
        transfer("b", t("11:59"), 99.0),
        transfer("t", t("11:59:30"), 30.0, channel="test"),
        transfer("c", t("11:59:40"), 30.0, receiver="u3", merchant="m2"),
        transfer("n", t("11:59:50"), 40.0, receiver="u3", merchant=None),
        Chargeback(transfer="b", fraud=True, at=t("12:30")),
        Chargeback(transfer="c", fraud=False, at=t("12:31")),
        Chargeback(transfer="n", fraud=True, at=t("12:32")),
        Chargeback(transfer="t", fraud=True, at=t("12:33")),
    )
    row = world.online(view, transfer("x", t("12:00")))
    assert (row[Spend.n["10m"]], row[Spend.payees], row[Spend.last]) == (4, 2, 60.0)
    assert row[Spend.total["1h"]] == 1.5 * (10 + 20 + 30 + 40)
    assert (round(row[Now.speed]), row[Now.alike], row[Now.usd]) == (215, 1.0, 15.0)
    row = world.online(view, transfer("x", t("13:00")))
    assert (row[Disputes.n_60d], row[Disputes.rate_60d]) == (1, 0.5)
    assert world.online(view, transfer("x", t("13:00"), merchant="m2"))[Disputes.rate_60d] == 0.0
    rows = [transfer(f"y{i}", t("11:58:30") + timedelta(minutes=i * 7)) for i in range(6)]
    assert world.history(view, rows, served=True)["disputes__n_60d"] == [0, 0, 0, 0, 0, 1]
