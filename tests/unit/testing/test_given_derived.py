"""Derived streams that look something up, through all paths of `given`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import headrace as hr
from headrace.testing import given, late

User, Merchant, Currency = hr.Entity("user"), hr.Entity("merchant"), hr.Entity("currency")


class Transfer(hr.Event):
    transfer_id: hr.Field[str] = hr.id()
    sender: hr.Field[str | None] = hr.key(User)
    merchant: hr.Field[int | None] = hr.key(Merchant)
    currency: hr.Field[str | None] = hr.key(Currency)
    amount: hr.Field[float]
    channel: hr.Field[str] = hr.field(default="app")
    at: hr.Field[datetime] = hr.event_time()


class Fx(hr.Table):
    currency: hr.Field[str] = hr.key(Currency)
    usd: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Paid(Transfer, where=Transfer.channel != "test"):
    usd = Transfer.amount * Fx.usd


class Spend(hr.FeatureGroup, key=Paid.sender):
    n = hr.count(window="1h")
    total = hr.sum(Paid.usd, window="1h")
    ever = hr.mean(Paid.usd)
    last = hr.last(Paid.usd)


view = hr.FeatureView("transfer", request=Transfer, features=[Spend])


def t(clock: str, day: int = 2) -> datetime:
    return datetime.fromisoformat(f"2026-01-{day:02d}T{clock}").replace(tzinfo=timezone.utc)


def transfer(name: str, at: datetime, amount: float = 1.0, **more: Any) -> Transfer:
    return Transfer(
        **{"transfer_id": name, "sender": "ann", "merchant": 7, "currency": "EUR", "amount": amount, "at": at, **more}
    )


def rate(at: datetime, usd: float | None, currency: str = "EUR") -> Fx:
    return Fx(currency=currency, usd=usd, at=at)


def test_the_rate_of_an_event_is_that_of_its_own_time() -> None:
    world = given(
        rate(t("09:00"), 1.1),
        transfer("a", t("10:00"), 10.0),
        rate(t("10:30"), 1.2),
        transfer("b", t("10:30"), 10.0),
        transfer("c", t("10:40"), 10.0),
        transfer("d", t("10:41"), 10.0, channel="test"),
        transfer("e", t("10:42"), 10.0, currency="USD"),
        transfer("f", t("10:43"), 10.0, currency=None),
    )
    row = world.get(Spend, sender="ann", at=t("11:00"))
    assert (row.n, row.total, row.last) == (5, 11.0 + 11.0 + 12.0, 12.0)
    assert world.online(view, transfer("x", t("10:40:00.000001")))[Spend.total] == 34.0


def test_a_late_rate_corrects_history_and_not_what_was_derived() -> None:
    world = given(
        rate(t("09:00"), 1.0),
        transfer("a", t("10:00"), 10.0),
        late(rate(t("09:30"), 2.0), by="1h"),
        transfer("b", t("10:40"), 10.0),
    )
    # The rate of 09:30 was written at 10:30: a row never counts before it was available, so a keeps its 1.0.
    assert world.get(Spend, sender="ann", at=t("11:00")).total == 30.0
    assert world.get(Spend, sender="ann", at=t("11:00"), served=True).total == 30.0


def test_an_event_that_comes_late_reads_the_past() -> None:
    world = given(
        rate(t("09:00"), 1.0),
        rate(t("10:00"), 2.0),
        rate(t("11:00"), 3.0),
        transfer("now", t("12:00"), 1.0),
        late(transfer("old", t("09:30"), 1.0), by="3h"),
    )
    row = world.get(Spend, sender="ann", at=t("12:31"))
    assert (row.ever, row.last) == (2.0, 3.0)
    assert world.get(Spend, sender="ann", at=t("12:31"), served=True).ever == 2.0
