"""Groups of hot entities: texts, different values, lists and buckets beside tiles, the same bits on every path."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from random import Random

import headrace as hr
from headrace.aggregations.layout import layout_of
from headrace.core.time import US_PER_MINUTE
from headrace.features.compile import compile_project
from headrace.testing import given, late

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
Shop = hr.Entity("shop")


class Sale(hr.Event):
    sale_id: hr.Field[str] = hr.id()
    shop: hr.Field[int] = hr.key(Shop)
    buyer: hr.Field[str | None]
    amount: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Hot(hr.FeatureGroup, key=Sale.shop, resolution="1m"):
    n = hr.count(window=["1h", "3h"], hop="10m")
    total = hr.sum(Sale.amount, window="3h", hop="10m")
    buyers = hr.n_unique(Sale.buyer, window=["1h", "3h"], hop="10m")
    few = hr.n_unique(Sale.buyer, window="3h", hop="10m", cap=2)
    about = hr.approx_n_unique(Sale.buyer, window="3h", hop="10m")
    amounts = hr.n_unique(Sale.amount, window="3h", hop="10m", where=Sale.amount > 2.0)
    last_buyer = hr.last(Sale.buyer, window="3h", hop="10m")
    firsts = hr.first_n(Sale.buyer, 2, window="1h", hop="10m")
    lasts = hr.last_n(Sale.amount, 3, window="3h", hop="10m")
    dearest = hr.max(Sale.amount, by=Sale.buyer, window="3h", hop="10m")


class Counted(hr.FeatureGroup, key=Sale.shop, resolution="1m"):
    per_buyer = hr.count(by=Sale.buyer, window=["1h", "3h"], hop="10m")
    spent = hr.sum(Sale.amount, by=Sale.buyer, window="3h", hop="10m")
    middle = hr.quantile(Sale.amount, 0.5, window="3h", hop="10m", where=Sale.amount > 0.5)
    lean = hr.skewness(Sale.amount, window="3h", hop="10m")
    top = hr.top_k(Sale.buyer, 3, window="1h", hop="10m")
    ever = hr.histogram(Sale.buyer)
    usual = hr.most_frequent(Sale.buyer)
    ever_spent = hr.mean(Sale.amount, by=Sale.buyer)


def sales(count: int, seed: int) -> list[object]:
    """Many sales a minute, of few buyers, some of them late, with equal times and nulls."""
    random, found = Random(seed), []
    for number in range(count):
        sale = Sale(
            sale_id=f"s{random.randrange(10 * count)}.{number}",
            shop=random.choice((7, 7, 7, 8)),
            buyer=random.choice(("ann", "bob", "cy", "dan", None, f"b{number % 40}")),
            amount=random.choice((None, 0.1, 1.0, 3.0, 4.0, 1e300)),
            at=NOON + timedelta(seconds=10 * (number // 2)),
        )
        found.append(late(sale, by=f"{random.choice((5, 45))}m") if random.random() < 0.1 else sale)
    return found


def test_texts_and_different_values_leave_the_group_its_tiles() -> None:
    group = compile_project([Sale, Hot]).groups["hot"]
    layout = layout_of(group)
    assert layout.levels[:, 0].tolist() == [US_PER_MINUTE, 10 * US_PER_MINUTE]
    # What halves needs every row of its window, so it belongs elsewhere.
    halved = replace(group.aggregates[0], name="halved", kind="decayed_count", params=(("halflife_us", US_PER_MINUTE),))
    levels = layout_of(replace(group, aggregates=(*group.aggregates, halved))).levels
    assert levels[:, 0].tolist() == [10 * US_PER_MINUTE]
    counted = layout_of(compile_project([Sale, Counted]).groups["counted"])
    assert counted.levels[:, 0].tolist() == [US_PER_MINUTE, 10 * US_PER_MINUTE]
    # The lifetime needs how often each text occurs and sums by text; the windows need these, buckets and powers.
    assert (len(counted.growing), len(counted.tiled)) == (2, 4)


def test_every_path_agrees_where_rows_stay_beside_tiles() -> None:
    world = given(*sales(300, 1))  # type: ignore[arg-type]
    ends = NOON + timedelta(seconds=1_500)
    times = [ends + timedelta(minutes=minutes) for minutes in (0, 1, 9, 40, 61, 100, 200)]
    world.history([Hot], [{"shop": shop, "at": at} for at in times for shop in (7, 8)])
    row = world.get(Hot, shop=7, at=ends + timedelta(minutes=1))
    assert row.n["3h"] > 150
    assert row.few is None
    assert row.buyers["3h"] > 20


def test_every_path_agrees_where_tiles_hold_counts_and_sums_by_texts() -> None:
    world = given(*sales(600, 2))  # type: ignore[arg-type]
    ends = NOON + timedelta(seconds=3_000)
    times = [ends + timedelta(minutes=minutes) for minutes in (0, 1, 9, 40, 61, 100, 200, 100_000)]
    world.history([Counted], [{"shop": shop, "at": at} for at in times for shop in (7, 8)])
    row = world.get(Counted, shop=7, at=ends + timedelta(minutes=1))
    assert sum(row.per_buyer["3h"].values()) == sum(row.ever.values()) > 300
    assert row.top[0] == row.usual
    assert set(row.spent) == set(row.ever_spent) == set(row.ever)
