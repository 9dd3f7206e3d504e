"""The fraud project of the API, whole: texts looked up at each event, keys that are looked up, roles, ratios."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from headrace.testing import given, late
from tests.typing.fraud import (
    Chargeback,
    Disputes,
    Fx,
    Login,
    Merchant,
    Paid,
    Profile,
    Sales,
    Sold,
    Spend,
    Transfer,
    view,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def transfer(name: str, minutes: float, merchant: str | None = "m1", **more: Any) -> Transfer:
    values: dict[str, Any] = {
        "sender": "ann", "receiver": "bob", "merchant": merchant, "currency": "EUR", "amount": 10.0, "channel": "app",
        "lat": None, "lon": None,
    }  # fmt: skip
    return Transfer(transfer_id=name, at=at(minutes), **values | more)


def test_a_chargeback_is_counted_at_the_shop_of_its_transfer() -> None:
    world = given(
        Fx(currency="EUR", usd=1.5, at=at(-600)),
        transfer("a", 0),
        transfer("b", 1, "m2"),
        transfer("c", 2, None),
        transfer("d", 3, channel="test"),
        late(transfer("e", 4), by="10m"),
        Chargeback(transfer="a", fraud=True, at=at(20)),
        Chargeback(transfer="b", fraud=False, at=at(21)),
        Chargeback(transfer="c", fraud=True, at=at(22)),
        Chargeback(transfer="nobody", fraud=True, at=at(23)),
    )
    assert world.get(Sold, transfer_id="a", at=at(60)).merchant == "m1"
    assert world.get(Sold, transfer_id="d", at=at(60)).merchant is None
    assert world.get(Sales, merchant="m1", at=at(60)).n_60d == 2
    row = world.get(Disputes, merchant="m1", at=at(60))
    assert (row.n_60d, row.rate_60d) == (1, 0.5)
    assert world.get(Disputes, merchant="m2", at=at(60)).n_60d == 0


def test_a_request_sees_both_roles_and_different_receivers() -> None:
    world = given(
        Fx(currency="EUR", usd=1.5, at=at(-600)),
        Profile(user="ann", age_days=400, taste=[1.0] * 64, at=at(-60)),
        Login(user="ann", lat=52.0, lon=4.0, at=at(-30)),
        transfer("a", 0),
        transfer("b", 1, receiver="eve"),
        transfer("c", 2, receiver="eve", sender="bob"),
    )
    row = world.online(view, transfer("x", 10))
    assert (row[Spend.n["1h"]], row[Spend.payees], row[Spend.total["1h"]]) == (2, 2, 30.0)
    assert row[Spend.of(Transfer.receiver).payees] == 1
    assert (Merchant.name, issubclass(Paid, Transfer)) == ("merchant", True)
