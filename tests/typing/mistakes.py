"""Mistakes that both type checkers must report.

Every line with an ignore comment is wrong. mypy (strict) and pyright both report an ignore comment that they do not
need, so this file passes exactly if each of them reports each of these lines. It is never run.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from datetime import datetime

import headrace as hr
from tests.typing.fraud import Chargeback, Fx, Login, Paid, Pair, Profile, Spend, Transfer, km, view

# Names that are not there.
hr.mean(Transfer.amout, window="1h")  # type: ignore[attr-defined]
Spend.totl  # type: ignore[attr-defined]  # noqa: B018
Spend.of(Transfer.receiver).totl  # type: ignore[attr-defined]  # noqa: B018
hr.count(windw="1h")  # type: ignore[call-overload]

# Columns of the wrong type.
hr.mean(Transfer.channel)  # type: ignore[arg-type]
hr.sum(Transfer.at)  # type: ignore[type-var]
hr.share(Transfer.amount)  # type: ignore[arg-type]
hr.mean(Profile.taste, by=Transfer.channel)  # type: ignore[arg-type]
hr.rate()  # type: ignore[call-overload]
hr.rate(Transfer.amount, window="1h", per=3600)  # type: ignore[call-overload]
hr.quantile(Transfer.amount, window="1h")  # type: ignore[call-overload]
hr.quantile(Transfer.channel, 0.5, window="1h")  # type: ignore[arg-type]
hr.skewness(Transfer.channel, window="1h")  # type: ignore[arg-type]
hr.decayed_sum(Transfer.amount)  # type: ignore[call-overload]
hr.decayed_mean(Transfer.channel, halflife="1h")  # type: ignore[arg-type]
hr.ratio(Transfer.channel, Transfer.amount)  # type: ignore[arg-type]
hr.n_unique(Transfer.channel, window="1d", cap="many")  # type: ignore[call-overload]
hr.first_n(Transfer.amount, window="1d")  # type: ignore[call-overload]
hr.top_k(Transfer.channel, "3", window="1d")  # type: ignore[call-overload]
hr.count(by="channel", window="1d")  # type: ignore[call-overload]
counts: hr.Expr[dict[str, str]] = hr.histogram(Transfer.channel, window="1d")  # type: ignore[assignment]
hr.count(where=Transfer.amount)  # type: ignore[arg-type]
Transfer.amount.hour()  # type: ignore[misc]
Transfer.at.hours()  # type: ignore[misc]
Transfer.channel.cosine(Profile.taste)  # type: ignore[misc]
Transfer.channel + 1  # type: ignore[operator]
Transfer.at + Transfer.at  # type: ignore[operator]
~Transfer.amount  # type: ignore[misc]  # noqa: B018

# What an expression is not.
Spend.n + 1  # type: ignore[operator]
len(Transfer.amount)  # type: ignore[arg-type]
"web" in Transfer.channel  # type: ignore[operator]  # noqa: B015
hours: hr.Expr[str] = Transfer.at.hour()  # type: ignore[assignment]
text: hr.Expr[str] = Pair.n_30d  # type: ignore[assignment]
per_hour: hr.Expr[int] = hr.rate(window="1d")  # type: ignore[assignment]
whole: hr.Expr[int] = Spend.mean_30d  # type: ignore[assignment]
distance: hr.Expr[str] = km(Login.lat, Login.lon, Transfer.lat, Transfer.lon)  # type: ignore[assignment]

# Rows.
Login(user="u1", lat=52.4, lon=4.9)  # type: ignore[call-arg]
Login(user=7, lat=52.4, lon=4.9, at=datetime.now())  # type: ignore[arg-type]  # noqa: DTZ005
Fx(currency="EUR", usd=1.1, at=datetime.now(), rate=2.0)  # type: ignore[call-arg]  # noqa: DTZ005
login = Login(user="u1", lat=None, lon=None, at=datetime.now())  # noqa: DTZ005
latitude: float = login.lat  # type: ignore[assignment]


# Definitions.
class Wrong(Transfer, whre=Transfer.amount > 1): ...  # type: ignore[call-arg]


class Unfiltered(Transfer, where=Transfer.amount): ...  # type: ignore[arg-type]


class Unkeyed(hr.FeatureGroup, key="sender"): ...  # type: ignore[arg-type]


Spend.of("receiver")  # type: ignore[arg-type]
hr.Label(Chargeback.fraud)  # type: ignore[call-arg]
hr.FeatureView("v", request="transfer", features=[Spend])  # type: ignore[arg-type]
hr.FeatureView("v", request=Transfer, features=[Spend, 3])  # type: ignore[list-item]
hr.Model("m", view=view, label=Chargeback.fraud, estimator=None)  # type: ignore[arg-type]
hr.Every(7)  # type: ignore[arg-type]
Paid.where  # type: ignore[attr-defined]  # noqa: B018
