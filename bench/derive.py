"""What a look-up at each event costs the computing layer: events per second with one, and without.

The last line is one JSON object. Events of users (all alike) come in batches; after each the layer computes what
there is: windows over the raw stream ("raw"), windows over a stream that multiplies by a table's rate ("table"), and
windows over a stream that reads a window of the user so far ("group"). Logs are not synced; the first batches, which
compile, are not counted. Each run ends with sums that are compared with NumPy's; one that differs ends the bench.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np

import headrace as hr
from headrace.app.project import Project
from headrace.core.columns import Column
from headrace.core.events import EventBlock, encode_block
from headrace.core.schema import DType
from headrace.core.time import US_PER_HOUR, US_PER_MINUTE, SimulatedClock
from headrace.eventlog.base import Append

START_US, STEP_US, CURRENCIES, UNCOUNTED = 1_700_000_000_000_000, 100, 50, 3
User, Currency = hr.Entity("user"), hr.Entity("currency")


class Transfer(hr.Event):
    transfer_id: hr.Field[int] = hr.id()
    sender: hr.Field[int] = hr.key(User)
    currency: hr.Field[int] = hr.key(Currency)
    amount: hr.Field[int]
    at: hr.Field[datetime] = hr.event_time()


class Fx(hr.Table):
    currency: hr.Field[int] = hr.key(Currency)
    usd: hr.Field[int]
    at: hr.Field[datetime] = hr.event_time()


class Raw(hr.FeatureGroup, key=Transfer.sender):
    n = hr.count(window=["10m", "1h"])
    total = hr.sum(Transfer.amount, window=["10m", "1h"])


class Paid(Transfer, where=Transfer.amount > 0):
    usd = Transfer.amount * Fx.usd


class Spend(hr.FeatureGroup, key=Paid.sender):
    n = hr.count(window=["10m", "1h"])
    total = hr.sum(Paid.usd, window=["10m", "1h"])


class After(Transfer):
    before = Raw.n["1h"]


class Pace(hr.FeatureGroup, key=After.sender):
    total = hr.sum(After.before, window="1h")


WHAT: dict[str, list[Any]] = {"raw": [Raw], "table": [Spend], "group": [Pace]}


def main() -> None:
    """Measure all three and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=20_000)
    given = parser.parse_args()
    rates = {name: round(measured(name, given.events, given.batch, given.users)) for name in WHAT}
    about = {"events": given.events, "batch": given.batch, "users": given.users}
    print(json.dumps({"bench": "derive", "events_per_s": rates, **about, **machine()}))


def measured(name: str, events: int, batch: int, users: int) -> float:
    """Events per second of the computing layer."""
    clock, rng = SimulatedClock(START_US - 2), np.random.default_rng(1)
    spent = 0.0
    senders, values = [], []
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(folder, clock=clock, definitions=[Transfer, Fx, *WHAT[name]], sync=False)
        project.apply()
        at = datetime.fromtimestamp((START_US - 10) / 1e6).astimezone()
        project.put(Fx, [{"currency": currency, "usd": currency + 1, "at": at} for currency in range(CURRENCIES)])
        project.settle()
        computing = project.parts.compute()
        for number in range(-(-events // batch) + UNCOUNTED):
            block = events_of(rng, number, batch, users)
            clock.advance_to(START_US + (number + 1) * batch * STEP_US)
            project.parts.raw.append([Append("transfer", 0, encode_block(block), batch)])
            began = time.perf_counter()
            while computing.step():
                pass
            spent += time.perf_counter() - began if number >= UNCOUNTED else 0.0
            senders.append(block.columns["sender"].values)
            values.append(block.columns["amount"].values * (block.columns["currency"].values + 1))
        computing.checkpoint()
        if name == "table":
            check(project, clock, np.concatenate(senders), np.concatenate(values))
        project.close()
    return events / spent


def events_of(rng: np.random.Generator, number: int, batch: int, users: int) -> EventBlock:
    """A batch of transfers, one per 100 µs."""
    ids = number * batch + np.arange(batch)
    columns = {
        "transfer_id": Column(DType.INT, ids),
        "sender": Column(DType.INT, rng.integers(0, users, batch)),
        "currency": Column(DType.INT, rng.integers(0, CURRENCIES, batch)),
        "amount": Column(DType.INT, rng.integers(0, 10, batch)),
        "at": Column(DType.TIMESTAMP, START_US + ids * STEP_US),
    }
    return EventBlock(batch, columns)


def check(project: Project, clock: SimulatedClock, senders: Any, values: Any) -> None:
    """Sums over the last hour, which is all there is, are those that NumPy gives."""
    assert len(senders) * STEP_US < US_PER_HOUR - US_PER_MINUTE, "fewer events, please: they have to fit into an hour"
    project.settle()
    for user in np.unique(senders)[:: max(1, len(np.unique(senders)) // 50)].tolist():
        found = project.get(Spend, sender=user, at=clock.now_us()).total["1h"]
        wanted = int(values[senders == user].sum())
        if (found or 0) != wanted:
            raise SystemExit(f"user {user}: {found} instead of {wanted}")


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {"python": platform.python_version(), "numpy": version("numpy"), "machine": platform.machine()}


if __name__ == "__main__":
    main()
