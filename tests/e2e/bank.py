"""A bank whose events, tables, models and files name its users in every way: what an erasure has to find."""

from __future__ import annotations

import random
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import headrace as hr

NEEDLE = "needle-7f3a"
"""The key of the user who is erased; another one's is longer by a word's end and stays."""
WORD = re.compile(rb"(?<![0-9A-Za-z])" + NEEDLE.encode() + rb"(?![0-9A-Za-z])")
OTHER = f"{NEEDLE}b"
MERCHANTS = ("m0", "m1", "m2")
USERS = (NEEDLE, OTHER, *(f"u{i}" for i in range(6)))

FEATURES = '''
from __future__ import annotations

from datetime import datetime

import numpy as np

import headrace as hr

User, Merchant = hr.Entity("user"), hr.Entity("merchant")


class Pay(hr.Event):
    """Money from one user to another, in a shop."""

    pay_id: hr.Field[str] = hr.id()
    sender: hr.Field[str] = hr.key(User)
    receiver: hr.Field[str] = hr.key(User)
    merchant: hr.Field[str] = hr.key(Merchant)
    amount: hr.Field[float]
    phone: hr.Field[str] = hr.field(personal=True)
    note: hr.Field[str | None]
    at: hr.Field[datetime] = hr.event_time()


class Login(hr.Event):
    login_id: hr.Field[str] = hr.id(personal=True)
    user: hr.Field[str] = hr.key(User)
    device: hr.Field[str]
    at: hr.Field[datetime] = hr.event_time()


class Outcome(hr.Event):
    """What became of a payment."""

    outcome_id: hr.Field[str] = hr.id()
    pay: hr.Field[str] = hr.key(Pay)
    bad: hr.Field[bool]
    at: hr.Field[datetime] = hr.event_time()


class Profile(hr.Table):
    user: hr.Field[str] = hr.key(User)
    age: hr.Field[int | None]
    at: hr.Field[datetime] = hr.event_time()


class Owned(hr.Table):
    """A key of two parts."""

    user: hr.Field[str] = hr.key(User)
    merchant: hr.Field[str] = hr.key(Merchant)
    card: hr.Field[str | None]
    at: hr.Field[datetime] = hr.event_time()


class Known(Pay):
    """Looks something up: its records are logged."""

    age = Profile.of(Pay.sender).age


class Sent(hr.FeatureGroup, key=Pay.sender):
    n = hr.count(window=["1h", "7d"])
    total = hr.sum(Pay.amount, window="7d")
    first = hr.first(Pay.amount)


class Got(hr.FeatureGroup, key=Pay.receiver):
    n = hr.count(window="7d")


class Pair(hr.FeatureGroup, key=(Pay.sender, Pay.merchant)):
    n = hr.count(window="7d")


class Shop(hr.FeatureGroup, key=Pay.merchant):
    """Of another entity, over the same events: nothing in it depends on who pays."""

    n = hr.count(window=["1h", "7d"])
    total = hr.sum(Pay.amount, window="7d")
    mean = hr.mean(Pay.amount)


class Customers(hr.FeatureGroup, key=Pay.merchant):
    """Of another entity, and made of who pays."""

    users = hr.n_unique(Pay.sender, window="7d")
    best = hr.most_frequent(Pay.sender, window="7d")
    phone = hr.last(Pay.phone)


class Ages(hr.FeatureGroup, key=Known.merchant):
    """Over what was looked up of the payer."""

    mean = hr.mean(Known.age, window="7d")


class Devices(hr.FeatureGroup, key=Login.device):
    n = hr.count(window="7d")


class Limit:
    """Draws one line through one column."""

    def fit(self, X, y):
        self.limit = 50.0
        return self

    def predict_proba(self, X):
        p = 1 / (1 + np.exp((self.limit - X[:, 0]) / 10))
        return np.column_stack([1 - p, p])

    def get_params(self, deep=True):
        return {}

    def set_params(self, **params):
        return self

    def __sklearn_tags__(self):
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())


age = Profile.of(Pay.sender).age
view = hr.FeatureView("pay", request=Pay, features=[Pay.amount, Sent, Shop, Customers.users, age])
risk = hr.Model("risk", view=view, estimator=Limit(), label=hr.Label(Outcome.bad, wait="1h", default=False))
'''


def write_bank(folder: Path, settings: str = "sync = false\npartitions = 2\n") -> Path:
    """Write the project; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.py").write_text(FEATURES, encoding="utf-8")
    (folder / "headrace.toml").write_text(settings, encoding="utf-8")
    return folder


def payments(n: int, end: datetime, seed: int = 1) -> list[dict[str, Any]]:
    """`n` payments, one every ten seconds, the last at `end`; some ids, notes and phones name the user."""
    dice = random.Random(seed)
    found = []
    for i in range(n):
        sender, receiver = dice.sample(USERS, 2)
        found.append(
            {
                "pay_id": f"{seed}-{sender}-{i}" if i % 3 else f"{seed}-{i}",
                "sender": sender,
                "receiver": receiver,
                "merchant": dice.choice(MERCHANTS),
                "amount": float(dice.randrange(1, 100)),
                "phone": f"+41 {sender}" if i % 2 else f"+41 {i}",
                "note": dice.choice([None, f"from {sender}!", f"for {receiver}", "rent"]),
                # Several at one time: their ids decide the order.
                "at": (end - timedelta(seconds=10 * ((n - 1 - i) // 3))).isoformat(),
            }
        )
    return found


def run_bank(folder: Path, n: int = 300, *, model: bool = True) -> list[dict[str, Any]]:
    """Publish, put, and with `model` train, score and keep a data set; returns the payments."""
    now = datetime.now(timezone.utc)
    rows = payments(n, now - timedelta(hours=2))
    start = rows[0]["at"]
    with hr.connect(folder) as project:
        project.put("profile", [{"user": user, "age": 20 + i, "at": start} for i, user in enumerate(USERS)])
        owned = [{"user": u, "merchant": m, "card": f"c-{u}", "at": start} for u in USERS for m in MERCHANTS[:2]]
        project.put("owned", owned)
        for first in range(0, n, 100):
            project.publish("pay", rows[first : first + 100])
        project.publish("pay", [rows[0], rows[1] | {"pay_id": "bad", "amount": "much"}])
        project.publish("pay", [{"sender": NEEDLE, "unknown": 1}, {"note": f"I am {NEEDLE}"}])
        logins = [
            {"login_id": f"mail-{user}-{i}@example.com", "user": user, "device": f"d{i % 4}", "at": start}
            for i in range(5)
            for user in USERS
        ]
        project.publish("login", [*logins, *logins[:3]])
        outcomes = [
            {"outcome_id": f"c{i}", "pay": row["pay_id"], "bad": row["amount"] > 50, "at": now.isoformat()}
            for i, row in enumerate(rows)
        ]
        project.publish("outcome", outcomes)
        if not model:
            return rows
        risk = project.model("risk")
        risk.train(until=(now - timedelta(minutes=50)).isoformat())
        risk.promote(1, why="the first one")
        later = payments(24, now, seed=2)
        for row in later:
            risk.score(row)
        project.publish("pay", later)
        project.dataset("all", "risk", until=(now - timedelta(minutes=50)).isoformat())
        return [*rows, *later]


CUT = 64
"""The bytes after which Delta's writer cuts the least and greatest value of a column in a Parquet file's footer."""


def unpacked(name: str, data: bytes) -> bytes:
    """What a file holds; of a Parquet file its values and its footer, since packed bytes may cut a word anywhere.

    A statistic that was cut is left out of the footer: it may end within a longer word, and is whole among the values.
    """
    if not name.endswith(".parquet"):
        return data
    file = pq.ParquetFile(pa.BufferReader(data))
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    groups = (file.metadata.row_group(group) for group in range(file.metadata.num_row_groups))
    for column in (group.column(at) for group in groups for at in range(group.num_columns)):
        known = column.statistics
        if known is not None and known.has_min_max and isinstance(known.min, str):
            for value in (known.min.encode(), known.max.encode()):
                footer = footer.replace(value, b"") if len(value) >= CUT else footer
    return repr(file.read().to_pylist()).encode() + footer


def named_in(folder: Path) -> list[str]:
    """Files below a folder that hold the needle as a word: in their bytes, or in what a Parquet file packs."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if WORD.search(unpacked(file.name, file.read_bytes())):
            found.append(str(file.relative_to(folder)))
    return found
