"""A fraud project, whole: what both type checkers must accept without a plugin."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from lightgbm import LGBMClassifier

import headrace as hr

User, Merchant, Currency = hr.Entity("user"), hr.Entity("merchant"), hr.Entity("currency")


class Login(hr.Event):
    user: hr.Field[str] = hr.key(User)
    lat: hr.Field[float | None]
    lon: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Transfer(hr.Event, owner="payments@bank.example"):
    """Money that a user sends to another, perhaps in a shop. Also what the model is asked about."""

    transfer_id: hr.Field[str] = hr.id()
    sender: hr.Field[str] = hr.key(User)
    receiver: hr.Field[str] = hr.key(User)
    merchant: hr.Field[str | None] = hr.key(Merchant)
    currency: hr.Field[str] = hr.key(Currency)
    amount: hr.Field[float] = hr.field("in `currency`")
    channel: hr.Field[str] = hr.field(default="app")
    lat: hr.Field[float | None]
    lon: hr.Field[float | None]
    at: hr.Field[datetime] = hr.event_time()


class Fx(hr.Table, source=hr.SQL("select ccy as currency, usd, valid_from as at from fx"), schedule="@daily"):
    currency: hr.Field[str] = hr.key(Currency)
    usd: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class Profile(
    hr.Table, source=hr.SQL("select * from profiles", on="warehouse"), schedule="@daily", ttl="30d", tags=["pii"]
):
    """Nightly snapshot. Without `source` a table is fed by `put`."""

    user: hr.Field[str] = hr.key(User)
    age_days: hr.Field[int]
    taste: hr.Field[list[float]] = hr.field("embedding of purchases", size=64)
    at: hr.Field[datetime] = hr.event_time()


class Paid(Transfer, where=Transfer.channel != "test"):  # derived stream: filtered, one more column
    usd = Transfer.amount * Fx.usd  # the rate known at the transfer's time


class Spend(hr.FeatureGroup, key=Paid.sender, owner="risk@bank.example", tags=["velocity"]):
    """What a user has paid out lately."""

    n = hr.count(window=["10m", "1h", "7d"])
    total = hr.sum(Paid.usd, window=["1h", "1d"])
    mean_30d = hr.mean(Paid.usd, window="30d")
    std_30d = hr.std(Paid.usd, window="30d")
    payees = hr.n_unique(Paid.receiver, window="7d", doc="different receivers")
    last = hr.last(Paid.usd)
    z_last = (last - mean_30d) / std_30d  # a feature of features


class Pair(hr.FeatureGroup, key=(Paid.sender, Paid.merchant)):  # composite entity
    n_30d = hr.count(window="30d")


class LastLogin(hr.FeatureGroup, key=Login.user, where=~Login.lat.is_null() & ~Login.lon.is_null()):
    lat, lon, at = hr.last(Login.lat), hr.last(Login.lon), hr.last(Login.at)


class Sales(hr.FeatureGroup, key=Paid.merchant, resolution="1s"):  # hot: state bounded whatever the traffic
    n_60d = hr.count(window="60d")


class Sold(hr.FeatureGroup, key=Paid.transfer_id):  # finds the shop of a transfer, for 180 days
    merchant = hr.last(Paid.merchant, window="180d")


class Chargeback(hr.Event):
    transfer: hr.Field[str] = hr.key(Transfer)
    fraud: hr.Field[bool]
    at: hr.Field[datetime] = hr.event_time("when the bank told us")


class Disputed(Chargeback):
    merchant = Sold.merchant  # a copied key stays a key of Merchant


class Disputes(hr.FeatureGroup, key=Disputed.merchant):
    n_60d = hr.count(window="60d", where=Disputed.fraud)
    rate_60d = n_60d / Sales.n_60d  # another group of the same key


@hr.function(returns=float)  # whole columns in and out; sees no nulls
def km(lat1: hr.Column, lon1: hr.Column, lat2: hr.Column, lon2: hr.Column) -> hr.Column:
    p, q = np.radians(lat1), np.radians(lat2)
    h = np.sin((q - p) / 2) ** 2 + np.cos(p) * np.cos(q) * np.sin(np.radians(lon2 - lon1) / 2) ** 2
    return np.asarray(12742 * np.arcsin(np.sqrt(h)))


login, me, you = LastLogin.of(Transfer.sender), Profile.of(Transfer.sender), Profile.of(Transfer.receiver)


class Now(hr.OnRequest):  # at request time; the same code in training
    usd = Transfer.amount * Fx.usd
    z = (usd - Spend.mean_30d) / Spend.std_30d
    speed = km(login.lat, login.lon, Transfer.lat, Transfer.lon) / (Transfer.at - login.at).hours()
    alike = me.taste.cosine(you.taste)


view = hr.FeatureView(
    "transfer",
    request=Transfer,
    features=[Spend, Spend.of(Transfer.receiver), Pair, Disputes, me.age_days, you.age_days, Now, Transfer.channel],
)
fraud = hr.Model(
    "fraud",
    view=view,
    estimator=LGBMClassifier(),
    metric="average_precision",
    train_on="180d",
    label=hr.Label(Chargeback.fraud, wait="45d", default=False),
    retrain=[hr.Every("1d"), hr.OnDrift(psi=0.2), hr.OnDecay(drop=0.05)],
    promote=hr.Better(
        on="7d", confidence=0.95, no_worse_in=[Transfer.channel], steps=[hr.Shadow("1h"), hr.Canary(0.1, "1h")]
    ),
)
