"""Derived streams that look something up, through all paths of `given`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

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


class Sold(hr.FeatureGroup, key=Paid.transfer_id):
    merchant = hr.last(Paid.merchant, window="180d")
    usd = hr.last(Paid.usd, window="180d")


class Sales(hr.FeatureGroup, key=Paid.merchant, resolution="1s"):
    n_60d = hr.count(window="60d")


class Chargeback(hr.Event):
    transfer: hr.Field[str] = hr.key(Transfer)
    fraud: hr.Field[bool | None]
    at: hr.Field[datetime] = hr.event_time()


class Disputed(Chargeback):
    merchant = Sold.merchant
    lost = Sold.usd * 2.0


class Disputes(hr.FeatureGroup, key=Disputed.merchant):
    n_60d = hr.count(window="60d", where=Disputed.fraud)
    lost = hr.sum(Disputed.lost)
    rate_60d = n_60d / Sales.n_60d
    percent = rate_60d * 100.0


shops = hr.FeatureView("shops", request=Transfer, features=[Disputes, Spend.n])


def chargeback(name: str, at: datetime, fraud: bool | None = True) -> Chargeback:
    return Chargeback(transfer=name, fraud=fraud, at=at)


def test_a_chargeback_finds_the_shop_of_its_transfer() -> None:
    world = given(
        rate(t("08:00"), 1.5),
        transfer("a", t("10:00"), 10.0),
        transfer("b", t("10:01"), 20.0, merchant=8),
        transfer("c", t("10:02"), 30.0, merchant=None),
        chargeback("a", t("11:00", 3)),
        chargeback("b", t("11:01", 3), False),
        chargeback("c", t("11:02", 3)),
        chargeback("never", t("11:03", 3)),
        transfer("d", t("12:00", 3), 1.0),
    )
    row = world.get(Disputes, merchant=7, at=t("12:00:01", 3))
    assert (row.n_60d, row.lost, row.rate_60d, row.percent) == (1, 30.0, 0.5, 50.0)
    row = world.get(Disputes, merchant=8, at=t("12:00:01", 3))
    assert (row.n_60d, row.lost, row.rate_60d) == (0, 60.0, 0.0)
    assert world.get(Disputes, merchant=9, at=t("12:00:01", 3)).rate_60d is None
    found = world.online(shops, transfer("x", t("13:00", 3), merchant=None))
    assert (found[Disputes.n_60d], found[Disputes.rate_60d]) == (0, None)
    served = world.online(shops, transfer("x", t("11:00:30", 3)), served=True)
    assert (served[Disputes.n_60d], served[Disputes.rate_60d]) == (1, 1.0)


def test_a_transfer_that_comes_after_its_chargeback_corrects_history_alone() -> None:
    world = given(
        rate(t("08:00"), 1.5),
        late(transfer("a", t("10:00"), 10.0), by="3d"),
        chargeback("a", t("11:00", 3)),
        chargeback("a", t("11:00", 6)),
    )
    assert world.get(Disputes, merchant=7, at=t("12:00", 6)).n_60d == 2
    # The chargeback of the 3rd was derived, and is logged, without a shop.
    assert world.get(Disputes, merchant=7, at=t("12:00", 6), served=True).n_60d == 1


def test_repeated_and_shuffled_events_derive_once() -> None:
    events = [transfer(f"t{i % 5}", t("10:00") + timedelta(minutes=i), float(i)) for i in range(8)]
    world = given(rate(t("09:00"), 2.0), *events, chargeback("t1", t("09:30", 3)), chargeback("t1", t("09:30", 3)))
    assert world.get(Spend, sender="ann", at=t("11:00")).total == 2.0 * (0 + 1 + 2 + 3 + 4)
    assert world.get(Disputes, merchant=7, at=t("12:00", 3)).n_60d == 2


class Large(Paid, where=Paid.usd > 10.0):
    half = Paid.usd / 2.0


class LargeSpend(hr.FeatureGroup, key=Large.sender):
    n = hr.count()
    half = hr.sum(Large.half)


class Shop(hr.Table):
    merchant: hr.Field[int] = hr.key(Merchant)
    country: hr.Field[str]
    at: hr.Field[datetime] = hr.event_time()


class Abroad(Disputed, where=Shop.country != "NL"):
    country = Shop.country


class AbroadBy(hr.FeatureGroup, key=Abroad.country):
    n = hr.count()


def test_a_stream_derived_of_a_logged_one_filters_and_computes() -> None:
    world = given(
        rate(t("09:00"), 2.0),
        transfer("a", t("10:00"), 5.0),
        transfer("b", t("10:01"), 6.0),
        transfer("c", t("10:02"), 7.0, currency="USD"),
    )
    row = world.get(LargeSpend, sender="ann", at=t("11:00"))
    assert (row.n, row.half) == (1, 6.0)


def test_look_ups_are_chained_and_a_text_of_a_table_becomes_a_key() -> None:
    world = given(
        rate(t("08:00"), 1.5),
        Shop(merchant=7, country="DE", at=t("08:00")),
        Shop(merchant=8, country="NL", at=t("08:00")),
        *(transfer(f"t{i}", t(f"10:0{i}"), 1.0, merchant=7 + i % 3) for i in range(6)),
        *(chargeback(f"t{i}", t(f"11:0{i}", 3)) for i in range(6)),
    )
    counts = {country: world.get(AbroadBy, country=country, at=t("12:00", 3)).n for country in ("DE", "NL")}
    assert counts == {"DE": 2, "NL": 0}
    assert world.get(AbroadBy, country="DE", at=t("11:02:30", 3), served=True).n == 1


Hour = hr.Entity("hour")


class Timed(Transfer):
    hour = Transfer.at.hour("Europe/Amsterdam").as_key(Hour)
    size = (Transfer.amount > 5.0).fill_null(False)


class ByHour(hr.FeatureGroup, key=Timed.hour):
    n = hr.count(window="1d")
    large = hr.share(Timed.size, window="1d")


class LastShop(hr.FeatureGroup, key=Paid.sender):
    merchant = hr.last(Paid.merchant)


class Visit(hr.Event):
    user: hr.Field[str] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


class Returning(Visit, where=~LastShop.merchant.is_null()):
    merchant = LastShop.merchant


class Returns(hr.FeatureGroup, key=Returning.merchant):
    n = hr.count()


def test_a_computed_key() -> None:
    world = given(
        *(transfer(f"t{i}", t(f"{i:02d}:30"), float(i)) for i in range(9, 12)), transfer("x", t("09:59"), 1.0)
    )
    row = world.get(ByHour, hour=10, at=t("12:00"))
    assert (row.n, row.large) == (2, 0.5)
    assert world.get(ByHour, hour=9, at=t("12:00")).n == 0


def test_a_key_that_is_a_feature_keeps_its_entity() -> None:
    world = given(
        rate(t("08:00"), 1.0),
        transfer("a", t("10:00"), merchant=3),
        Visit(user="ann", at=t("10:30")),
        Visit(user="bob", at=t("10:31")),
        transfer("b", t("10:40"), merchant=4),
        Visit(user="ann", at=t("10:50")),
    )
    assert [world.get(Returns, merchant=m, at=t("11:00")).n for m in (3, 4, 5)] == [1, 1, 0]


priced = hr.FeatureView("priced", request=Paid, features=[Paid.usd, Spend.n, Paid.channel])


def test_a_request_of_a_derived_stream_brings_raw_fields() -> None:
    world = given(rate(t("08:00"), 1.5), transfer("a", t("10:00"), 2.0))
    row = world.online(priced, transfer("x", t("10:30"), 4.0))
    assert (row[Paid.usd], row[Spend.n], row[Paid.channel]) == (6.0, 1, "app")


class Profile(hr.Table):
    user: hr.Field[str] = hr.key(User)
    taste: hr.Field[list[float]] = hr.field(size=2)
    at: hr.Field[datetime] = hr.event_time()


class Gift(hr.Event):
    giver: hr.Field[str] = hr.key(User)
    taker: hr.Field[str] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


@hr.function(returns=float)
def doubled(values: hr.Column) -> hr.Column:
    return np.asarray(values * 2.0)


class Liked(Gift):
    taste = Profile.of(Gift.giver).taste
    alike = doubled(Profile.of(Gift.giver).taste.cosine(Profile.of(Gift.taker).taste))


class LikedBy(hr.FeatureGroup, key=Liked.taker):
    alike = hr.last(Liked.alike)
    known = hr.count(where=~Liked.taste.is_null())


def test_lists_and_functions_at_each_event() -> None:
    world = given(
        Profile(user="ann", taste=[1.0, 0.0], at=t("09:00")),
        Profile(user="bob", taste=[1.0, 0.0], at=t("09:00")),
        Gift(giver="ann", taker="bob", at=t("10:00")),
        Gift(giver="eve", taker="bob", at=t("10:01")),
        Profile(user="bob", taste=[0.0, 1.0], at=t("10:30")),
    )
    row = world.get(LikedBy, taker="bob", at=t("11:00"))
    assert (row.alike, row.known) == (2.0, 1)
    assert world.get(LikedBy, taker="bob", at=t("10:00:30"), served=True).known == 1
