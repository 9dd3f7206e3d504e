"""Backfills, scheduled groups and repairs write what the stream leaves of the ceiling; the outcome is the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from headrace.app.heartbeats import STALE_US, Heartbeat, write_heartbeat
from headrace.app.ingesting import StreamRate
from headrace.app.project import Project
from headrace.app.reconciling import reconcile_all
from headrace.core.time import US_PER_SECOND, SimulatedClock, to_us
from headrace.ingestion.ceiling import BackgroundShare
from tests.e2e.shop import orders
from tests.unit.app.conftest import NOON

COUNT = 'n = hr.count(window=["1h", "7d"])'
USERS = 7


class Sleeper:
    """A clock that goes on while somebody waits, and nowhere else."""

    def __init__(self) -> None:
        self.clock, self.waits = SimulatedClock(0), 0

    def sleep(self, seconds: float) -> None:
        self.waits += 1
        self.clock.advance_to(self.clock.now_us() + max(round(seconds * US_PER_SECOND), 1))


def paced(project: Project, per_s: int, stream_per_s: float = 0.0) -> tuple[Sleeper, BackgroundShare]:
    """The project's own ceiling, with a clock of the test's."""
    sleeper = Sleeper()
    share = BackgroundShare(per_s, sleeper.clock, lambda: stream_per_s, sleeper.sleep)
    project.parts.__dict__["background"] = share
    return sleeper, share


def test_a_backfill_keeps_under_the_ceiling_and_computes_the_same(shop: Project) -> None:
    shop.publish("order", orders(70, NOON - timedelta(hours=2), users=USERS, step_s=1))
    file = shop.settings.folder / "features.py"
    file.write_text(file.read_text().replace(COUNT, COUNT + '\n    top = hr.max(Order.amount, window="7d")') + "\n")
    with Project.open(shop.settings.folder, clock=shop.clock) as new:
        sleeper, share = paced(new, 4)
        new.backfill("spend")
        assert share.written == USERS
        sleeper.clock.advance_to(60 * US_PER_SECOND)
        new.apply()
        served = [new.get("spend", user=f"u{n}") for n in range(USERS)]
        assert sum(row.n["7d"] for row in served) == 70
        rows = new.history(["spend"], [{"user": f"u{n}", "at": NOON} for n in range(USERS)]).to_arrow()
        assert [row.top for row in served] == rows["spend__top"].to_pylist()


def test_repairs_wait_for_what_the_stream_leaves(shop: Project) -> None:
    shop.publish("order", orders(70, NOON - timedelta(hours=2), users=USERS, step_s=1))
    store = shop.parts.online
    sound = dict(store.scan())
    store.write([(key, None) for key in sound], store.position())
    sleeper, share = paced(shop, 2, stream_per_s=1e9)
    found = reconcile_all(shop.parts)
    assert (found.repaired, share.written, dict(store.scan())) == (len(sound), len(sound), sound)
    # A tenth of 2 a second, less the last piece of at most all records, which may be a debt.
    assert sleeper.waits > 0
    assert shop.parts.throttled_s == sleeper.clock.now_us() / US_PER_SECOND > 0


def test_without_a_ceiling_nobody_waits(shop: Project) -> None:
    assert shop.parts.background is None
    shop.parts.pace(10**9)
    assert shop.parts.throttled_s == 0.0


def test_the_ceiling_of_the_settings_is_the_one(shop: Project) -> None:
    with Project.open(shop.settings.folder, clock=shop.clock, writes_per_s=1_000) as found:
        share = found.parts.background
        assert share is not None
        share.take(250)
        assert share.written == 250


@pytest.fixture
def beat(shop: Project) -> Callable[..., None]:
    """Writes a report of ingestion: seconds since it started, records written by then, its process."""
    clock = shop.clock
    assert isinstance(clock, SimulatedClock)

    def write(at_s: int, written: int, pid: int = 1) -> None:
        clock.advance_to(to_us(NOON) + at_s * US_PER_SECOND)
        made = Heartbeat("ingest", pid, to_us(NOON), clock.now_us())
        write_heartbeat(shop.parts.role_folder, replace_counters(made, written))

    return write


def replace_counters(made: Heartbeat, written: int) -> Heartbeat:
    return Heartbeat(made.layer, made.pid, made.started_us, made.at_us, counters={"records_written": float(written)})


def test_the_rate_of_the_stream_is_what_ingestion_reports(shop: Project, beat: Callable[..., None]) -> None:
    rate, clock = StreamRate(shop.parts), shop.clock
    assert isinstance(clock, SimulatedClock)
    assert rate() == 0.0
    beat(10, 5_000)
    assert rate() == 500.0
    beat(12, 9_000)
    assert [rate(), rate()] == [2_000.0, 2_000.0]
    beat(13, 9_000)
    assert rate() == 0.0
    beat(14, 300, pid=2)  # started anew: what it has written since is at most so many in all that time
    assert rate() == 300 / 14
    clock.advance_to(clock.now_us() + STALE_US + 1)
    assert rate() == 0.0, "nobody writes who has not reported for long"
