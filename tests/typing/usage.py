"""Using a project: what both type checkers must accept without a plugin. Never run: it needs a project's folder."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import headrace as hr
from tests.typing.fraud import Login, Merchant, Now, Pair, Profile, Spend, Transfer, fraud, view

now = datetime(2026, 6, 1, tzinfo=timezone.utc)


per_hour: hr.Expr[float] = hr.rate(window="1d")
usd_per_day: hr.Family[float] = hr.rate(Transfer.amount, per="1d", window=["1d", "7d"])
p95: hr.Family[float] = hr.quantile(Transfer.amount, 0.95, window=["1d", "7d"])
lean: hr.Expr[float] = hr.skewness(Transfer.amount, window="7d", where=Transfer.amount > 0)
payees: hr.Expr[int] = hr.n_unique(Transfer.receiver, window="7d")
spread: hr.Expr[float] = hr.var(Transfer.amount, window="7d", population=True)
shops: hr.Family[int] = hr.approx_n_unique(Transfer.merchant, window=["1d", "7d"])
few: hr.Expr[int] = hr.n_unique(Transfer.merchant, window="7d", cap=100)
recent: hr.Expr[float] = hr.decayed_sum(Transfer.amount, halflife="1d")
pace: hr.Family[float] = hr.decayed_count(halflife=["1h", "1d"], where=Transfer.amount > 0)
level: hr.Expr[float] = hr.decayed_mean(Transfer.amount, halflife="1h", window="24h")
quotient: hr.Expr[float] = hr.ratio(Pair.n_30d, Spend.n["1h"])
quotients: hr.Family[float] = hr.ratio(Spend.total, Spend.total)
hours: hr.Expr[list[float]] = hr.last_n(Transfer.amount, 5, window="1h")
firsts: hr.Family[list[str]] = hr.first_n(Transfer.channel, 2, window=["1h", "1d"])
channels: hr.Expr[dict[str, int]] = hr.histogram(Transfer.channel, window="1d")
favourites: hr.Expr[list[str]] = hr.top_k(Transfer.receiver, 3, window="30d", cap=5_000)
favourite: hr.Expr[str] = hr.most_frequent(Transfer.receiver, window="30d")
per_channel: hr.Expr[dict[str, int]] = hr.count(by=Transfer.channel, window="1d")
spent: hr.Family[dict[str, float | None]] = hr.sum(Transfer.amount, by=Transfer.channel, window=["1d", "7d"])
worst: hr.Expr[dict[str, float | None]] = hr.max(Transfer.amount, by=Transfer.channel, window="1d")
tastes: hr.Expr[list[float]] = hr.mean(Profile.taste, window="1d")
taste_sums: hr.Family[list[float]] = hr.sum(Profile.taste, window=["1h", "1d"])
newest_taste: hr.Expr[list[float]] = hr.last(Profile.taste)
means: hr.Expr[dict[str, float | None]] = hr.mean(Transfer.amount, by=Transfer.channel, window="1d")


def use(request: Transfer, spine: Any) -> None:
    project = hr.connect()
    project.apply(project.plan())
    project.publish([Login(user="u1", lat=52.4, lon=4.9, at=now)])
    project.put(Profile, [Profile(user="u1", age_days=400, taste=[0.0] * 64, at=now)])
    profile = project.get(Profile, user="u1")
    row = project.online(view, request)
    rows = project.history(fraud, until="2026-06-01")
    rows = project.history([Spend, Pair], spine)
    project.search("chargeback rate", entity=Merchant)
    project.describe(Spend.n["1h"])
    project.replay(fraud, since="2026-01-01", until="2026-06-30")
    project.audit("p-81c2")
    m = project.model(fraud)
    v = m.train(until="2026-06-01")
    m.promote(v, why="first model")
    m.rollback(why="alarm 17")
    print(profile, row[Now.speed], row.position, row.age, rows.to_arrow(), m.evaluate(v), m.score(request).value)
