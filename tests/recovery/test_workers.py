"""Compute workers join, leave and are killed -9 while they share the partitions: one undisturbed worker's bits."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.app.locks import FolderLock
from headrace.app.services import run_layer
from headrace.app.sharing import layer_roster, worker_status
from headrace.app.status import project_status
from headrace.core.errors import Busy
from headrace.core.positions import decode_position
from headrace.engines.stream.commits import DEAD_LETTERS, WINDOWS, decode_dead_letters
from headrace.engines.stream.worker import committed_positions, read_heads
from headrace.retrieval.past import WRITER, events_table
from tests.services import address

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
PAY = '''
from __future__ import annotations

from datetime import datetime

import headrace as hr

User = hr.Entity("user")
Merchant = hr.Entity("merchant")


class Pay(hr.Event):
    """A payment; the stream is partitioned by what identifies it, its groups have keys of their own."""

    pay_id: hr.Field[str] = hr.id()
    user: hr.Field[str] = hr.key(User)
    merchant: hr.Field[str | None] = hr.key(Merchant)
    amount: hr.Field[float]
    at: hr.Field[datetime] = hr.event_time()


class ByUser(hr.FeatureGroup, key=Pay.user):
    """What a user pays."""

    n = hr.count(window=["10m", "7d"])
    total = hr.sum(Pay.amount, window=["10m", "7d"])
    last = hr.last(Pay.amount)


class ByMerchant(hr.FeatureGroup, key=Pay.merchant):
    """What a merchant takes."""

    n = hr.count()
    mean = hr.mean(Pay.amount, window=["1h", "7d"])
    payers = hr.n_unique(Pay.user, window="7d")
    first = hr.first_n(Pay.amount, 3, window="1h")


view = hr.FeatureView("pay", request=Pay, features=[ByUser, ByMerchant])
'''
PARTS = 6


def project_at(folder: Path, workers: int, more: str = "", layer: str = "compute") -> Path:
    """The definitions and settings of a project with four partitions."""
    folder.mkdir(parents=True)
    (folder / "features.py").write_text(PAY, encoding="utf-8")
    settings = f"sync = false\npartitions = 4\n{layer}_workers = {workers}\nlease_s = 4\n{more}"
    (folder / "headrace.toml").write_text(settings, encoding="utf-8")
    return folder


def payments(part: int, count: int = 300) -> list[dict[str, Any]]:
    """Some of the payments: in no order, some twice, some broken, some of no merchant."""
    rng = random.Random(part)
    rows = []
    for n in range(count):
        at = NOON - timedelta(minutes=10 * (PARTS - part)) + timedelta(seconds=rng.uniform(-900, 300))
        number = part * count + n if rng.random() < 0.9 else rng.randrange(part * count + n + 1)
        merchant = rng.choice(("m0", "m1", "m2", None))
        amount = rng.choice((0.1, 1e300, rng.gauss(0, 1e6), "much"))
        rows.append({
            "pay_id": f"p{number}", "user": f"u{rng.randrange(8)}", "merchant": merchant, "amount": amount,
            "at": at.isoformat(),
        })  # fmt: skip
    return rows


def ends_of(project: Any) -> list[int]:
    raw = project.parts.raw
    return [raw.end("pay", p) for p in range(raw.topics()["pay"])]


def state_of(project: Any) -> dict[str, Any]:
    """All that may be compared: answers with their bits, history, dead letters and the archive."""
    ingest, archive = project.parts.ingest(), project.parts.archive()
    while ingest.step():
        pass
    while archive.step():
        pass
    asked = [
        {
            "pay_id": f"r{n}",
            "user": f"u{n % 9}",
            "merchant": f"m{n % 4}",
            "amount": 1.0,
            "at": NOON + timedelta(hours=1),
        }
        for n in range(36)
    ]
    online, history = project.online("pay", asked).to_arrow(), project.history("pay", asked).to_arrow()
    assert repr(online.to_pylist()) == repr(history.select(online.column_names).to_pylist())
    read = project.parts.features.read(DEAD_LETTERS, 0, 0, 1_000_000)
    letters = [letter for batch in read for letter in decode_dead_letters(batch.payload)]
    rows = project.parts.offline.scan(events_table("pay")).drop_columns(["_arrival_us"])
    return {
        "answers": repr(online.to_pylist()),
        "position": ingest.position.streams,
        "clock": ingest.position.clock_us,
        "letters": sorted((letter.partition, letter.offset, letter.reason) for letter in letters),
        "archive": rows.sort_by([("_partition", "ascending"), ("_offset", "ascending")]).to_pylist(),
    }


class Worker:
    """`headrace run LAYER` as a process."""

    def __init__(self, folder: Path, layer: str) -> None:
        self.log = (folder / f"{uuid.uuid4().hex}.log").open("wb")
        command = [sys.executable, "-m", "headrace", "run", layer, "--project", str(folder)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert code == (-number if number == signal.SIGKILL else 0), Path(self.log.name).read_text()
        self.log.close()


@contextmanager
def staff(folder: Path, layer: str) -> Iterator[Callable[[], Worker]]:
    """Starts workers; none is left afterwards."""
    started: list[Worker] = []

    def start() -> Worker:
        started.append(Worker(folder, layer))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait(10)
            worker.log.close()


def eventually(so: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, f"it never came: {what}"
        time.sleep(0.02)


def all_shared_by(project: Any, count: int) -> bool:
    """True if so many workers have all four shares between them, and each has some."""
    roster = layer_roster(project.parts.catalog, "compute")
    parts = [len(roster.shares_of(name)) for name in roster.members]
    return len(parts) == count and sum(parts) == 4 and all(parts)


def test_workers_share_the_partitions_and_leave_what_one_undisturbed_worker_leaves(tmp_path: Path) -> None:
    run_and_compare(tmp_path, "")


@pytest.mark.kafka
@pytest.mark.redis
def test_workers_share_the_partitions_on_kafka_and_redis(tmp_path: Path) -> None:
    name = f"workers-{uuid.uuid4().hex}"
    lines = ["ingest_workers = 2", f'log = "{address("kafka")}/{name}"', f'online = "{address("redis")}?prefix={name}"']
    run_and_compare(tmp_path, "\n".join(lines), ingest=True)


def test_ingest_workers_take_over_from_each_other_and_write_everything_once(tmp_path: Path) -> None:
    with hr.connect(project_at(tmp_path / "twin", 1)) as twin:
        for part in range(PARTS):
            computed(twin, part)
        wanted = state_of(twin) | {"records": list(twin.parts.online.scan())}
    folder = project_at(tmp_path / "shared", 2, layer="ingest")
    with hr.connect(folder) as project, staff(folder, "ingest") as start:
        project.apply()
        workers = [start(), start()]

        def has(share: int) -> Worker:
            """The worker that has a share."""
            roster = layer_roster(project.parts.catalog, "ingest")
            pid = roster.members[roster.owners[str(share)]].pid
            return next(worker for worker in workers if worker.process.pid == pid)

        def shared() -> bool:
            return len(set(layer_roster(project.parts.catalog, "ingest").owners.values())) == 2

        eventually(shared, "one has the online store, the other one the archive")
        computed(project, 0)
        computed(project, 1)
        workers.append(start())
        has(0).end()
        computed(project, 2)
        eventually(shared, "the online store taken over")
        computed(project, 3)
        has(1).end(signal.SIGTERM)
        computed(project, 4)
        computed(project, 5)
        end = project.parts.features.end(WINDOWS, 0)
        eventually(lambda: decode_position(project.parts.online.position()).windows == end, "all is online")
        offline = project.parts.offline
        eventually(lambda: offline.number(events_table("pay"), WRITER) == end, "all is in the archive")
        assert "online store and archive, seen" in str(project.status())
        next(worker for worker in workers if worker.process.poll() is None).end(signal.SIGTERM)
        assert state_of(project) | {"records": list(project.parts.online.scan())} == wanted


def computed(project: Any, part: int) -> None:
    """Publish a part of the payments and compute it, but ingest nothing here."""
    # The publisher itself: a project would bring the stores up to what it publishes, if nobody else did.
    project.parts.publisher().publish("pay", payments(part))
    run_layer(project.parts, "compute", once=True)


def run_and_compare(tmp_path: Path, more: str, *, ingest: bool = False) -> None:
    with hr.connect(project_at(tmp_path / "twin", 1)) as twin:
        for part in range(PARTS):
            twin.publish("pay", payments(part))
        twin.settle()
        wanted = state_of(twin)
    assert wanted["letters"]
    folder = project_at(tmp_path / "shared", 3, more)
    with hr.connect(folder) as project, staff(folder, "compute") as start, staff(folder, "ingest") as start_ingest:
        project.apply()
        ingesting = [start_ingest() for _ in range(2 * ingest)]
        first, second = start(), start()
        eventually(lambda: all_shared_by(project, 2), "two workers with two shares each")
        project.publish("pay", payments(0) + payments(1))
        third = start()
        eventually(
            lambda: committed_positions(project.parts.features).get("pay") == ends_of(project), "the second part"
        )
        first.end()  # struck while another joins
        project.publish("pay", payments(2))
        eventually(lambda: all_shared_by(project, 2), "the dead one's shares taken over")
        project.publish("pay", payments(3))
        if ingest:
            ingesting[0].end()
        second.end(signal.SIGTERM)
        eventually(lambda: all_shared_by(project, 1), "the one that left has given up its shares")
        fourth = start()
        project.publish("pay", payments(4))
        eventually(lambda: all_shared_by(project, 2), "the last one joined")
        project.publish("pay", payments(5))
        eventually(lambda: committed_positions(project.parts.features)["pay"] == ends_of(project), "all is computed")
        with pytest.raises(Busy, match="several workers"):
            FolderLock(project.parts.settings.state, "compute")
        eventually(
            lambda: sorted(w.shares for w in worker_status(project.parts) if w.layer == "compute") == [[0, 1], [2, 3]],
            "status tells who has what",
        )
        told = str(project_status(project.parts))
        assert all(f", process {worker.process.pid}: shares" in told for worker in (third, fourth))
        third.end()
        fourth.end(signal.SIGTERM)
        check_commits(project)
        if ingest:
            end = project.parts.features.end(WINDOWS, 0)
            eventually(lambda: decode_position(project.parts.online.position()).windows == end, "all is online")
            ingesting[1].end(signal.SIGTERM)
        assert state_of(project) == wanted


def check_commits(project: Any) -> None:
    """Each commit goes on from those below it, whoever wrote them; all partitions were computed from end to end."""
    features = project.parts.features
    at = [0] * 4
    for _, head in read_heads(features, 0, features.end(WINDOWS, 0)):
        assert head.streams["pay"].begin == at
        at = head.streams["pay"].end
        assert head.positions["pay"] == at
    assert at == ends_of(project)
