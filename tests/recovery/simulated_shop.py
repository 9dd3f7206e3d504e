"""The definitions of the simulated project, and edits of them that somebody applies while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import headrace as hr
from headrace.core.time import US_PER_HOUR
from headrace.features.compile import compile_project
from headrace.features.plan import ProjectPlan

User, Currency = hr.Entity("user"), hr.Entity("currency")
RUNS = {"ordered": "1h"}
"""The groups that run on a schedule, as the configuration says it."""


class Order(hr.Event, lateness="2h"):
    order_id: hr.Field[str] = hr.id()
    user: hr.Field[str | None] = hr.key(User)
    currency: hr.Field[str] = hr.key(Currency)
    amount: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Rate(hr.Table):
    currency: hr.Field[str] = hr.key(Currency)
    usd: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Visit(hr.Event):
    user: hr.Field[str | None] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()


class Priced(Order, where=Rate.usd < 3.0):
    usd = Order.amount * Rate.usd


class Spend(hr.FeatureGroup, key=Priced.user):
    n = hr.count(window="1m")
    total = hr.sum(Priced.usd)
    last = hr.last(Priced.usd)


class Returning(Visit):
    spent = Spend.total
    orders = Spend.n


class Returns(hr.FeatureGroup, key=Returning.user):
    n = hr.count()
    spent = hr.sum(Returning.spent)


class Traffic(hr.FeatureGroup, key=Visit.user):
    n = hr.count(window=["1m", "1h"])


class Ordered(hr.FeatureGroup, key=Order.user):
    n = hr.count()
    mean = hr.mean(Order.amount, window="1h")
    first = hr.first(Order.amount)


_RAW = [Order, Rate, Visit]
_DERIVED = [Priced, Spend, Returning, Returns]


def _plan(groups: Sequence[Any], features: Sequence[Any], ordered: type = Ordered) -> ProjectPlan:
    streamed = hr.FeatureView("streamed", request=Order, features=[*features, Rate.usd])
    scheduled = hr.FeatureView("scheduled", request=Order, features=[ordered])
    plan = compile_project([*_RAW, *_DERIVED, *groups, ordered, streamed, scheduled])
    return replace(plan, scheduled={plan.groups["ordered"].version: US_PER_HOUR})


def _other_windows() -> ProjectPlan:
    class Traffic(hr.FeatureGroup, key=Visit.user):
        n = hr.count(window=["1m", "30m"])
        since = hr.time_since_last()

    return _plan([Traffic], [Spend, Returns, Traffic])


def _more() -> ProjectPlan:
    class Dear(hr.FeatureGroup, key=Order.currency):
        n = hr.count(window="2h")
        most = hr.max(Order.amount)

    class Priceless(hr.FeatureGroup, key=Priced.currency):
        usd = hr.sum(Priced.usd, window="10m")

    return _plan([Traffic, Dear, Priceless], [Spend, Returns, Traffic, Dear, Priceless])


def _fewer() -> ProjectPlan:
    return _plan([], [Spend, Returns])


def _other_schedule() -> ProjectPlan:
    class Ordered(hr.FeatureGroup, key=Order.user):
        n = hr.count(window="2h")
        first = hr.first(Order.amount)

    return _plan([Traffic], [Spend, Returns, Traffic], Ordered)


PROJECT = _plan([Traffic], [Spend, Returns, Traffic])
EDITS = (PROJECT, _other_windows(), _more(), _fewer(), _other_schedule())
"""What somebody may apply; the first is what every world begins with."""


def streamed(plan: ProjectPlan) -> ProjectPlan:
    """With every group in the stream."""
    return replace(plan, scheduled={})
