"""A small project of two streams, a table and a model, written into a folder for tests that run it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

FEATURES = '''
from __future__ import annotations

from datetime import datetime

import numpy as np

import headrace as hr

User = hr.Entity("user")


class Order(hr.Event):
    """Something that a user buys."""

    order_id: hr.Field[str] = hr.id()
    user: hr.Field[str] = hr.key(User)
    amount: hr.Field[float] = hr.field("euros")
    at: hr.Field[datetime] = hr.event_time()


class Outcome(hr.Event):
    """What became of an order."""

    outcome_id: hr.Field[str] = hr.id()
    order: hr.Field[str] = hr.key(Order)
    bad: hr.Field[bool]
    at: hr.Field[datetime] = hr.event_time()


class Spend(hr.FeatureGroup, key=Order.user, owner="risk@shop.example"):
    """What a user has spent lately."""

    n = hr.count(window=["1h", "7d"])
    total = hr.sum(Order.amount, window=["1h", "7d"])
    last = hr.last(Order.amount)
    mean_7d = total["7d"] / n["7d"]


class Profile(hr.Table):
    """Who a user is."""

    user: hr.Field[str] = hr.key(User)
    age: hr.Field[int | None]
    city: hr.Field[str | None]
    at: hr.Field[datetime] = hr.event_time()


class Now(hr.OnRequest):
    """Compared with the user's habit."""

    times = Order.amount / Spend.mean_7d


class Limit:
    """A classifier in scikit-learn's form that draws one line through one column; loads without any library."""

    def fit(self, X, y):
        for self.column in range(X.shape[1]):
            low, high = X[y == 0, self.column].max(), X[y == 1, self.column].min()
            if low < high:
                break
        self.limit = (low + high) / 2
        return self

    def predict_proba(self, X):
        p = 1 / (1 + np.exp((self.limit - X[:, self.column]) / 10))
        return np.column_stack([1 - p, p])

    def get_params(self, deep=True):
        return {}

    def set_params(self, **params):
        return self

    def __sklearn_tags__(self):
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())


view = hr.FeatureView("order", request=Order, features=[Spend, Profile.age, Now, Order.amount])
risk = hr.Model(
    "risk",
    view=view,
    estimator=Limit(),
    label=hr.Label(Outcome.bad, wait="1h"),
    doc="Will this order go bad?",
)
'''


def write_shop(folder: Path) -> Path:
    """Write the project; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.py").write_text(FEATURES, encoding="utf-8")
    (folder / "headrace.toml").write_text("sync = false\n", encoding="utf-8")
    return folder


def orders(n: int, end: datetime, *, start: int = 0, users: int = 10, step_s: float = 60.0) -> list[dict[str, Any]]:
    """`n` orders, one per `step_s` seconds, the last one at `end`; the user and the amount follow from the number."""
    return [
        {
            "order_id": f"o{start + i}",
            "user": f"u{(start + i) % users}",
            "amount": float((start + i) % 7 * 10),
            "at": (end - timedelta(seconds=step_s * (n - 1 - i))).isoformat(),
        }
        for i in range(n)
    ]


def outcomes(of: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What became of orders, half an hour later: those above 40 went bad."""
    return [
        {
            "outcome_id": f"x{order['order_id']}",
            "order": order["order_id"],
            "bad": order["amount"] > 40,
            "at": (datetime.fromisoformat(order["at"]) + timedelta(minutes=30)).isoformat(),
        }
        for order in of
    ]


def now() -> datetime:
    """The machine's time."""
    return datetime.now(timezone.utc)
