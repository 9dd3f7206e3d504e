"""A side beside the served one where logs lie on Kafka and both online stores in Redis, under a trickle of events."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

import headrace as hr
from headrace.core.errors import Unreachable
from headrace.engines.stream.commits import WINDOWS
from tests.e2e.shop import now, orders
from tests.e2e.test_kafka import USERS, answers, shop_on
from tests.services import address

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
_MOST = 150
"""Orders at most: what comes while a slow machine works."""


class Trickle(threading.Thread):
    """Publishes an order now and then, each until it is acknowledged."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.users = folder, Counter[str]()
        self._done = threading.Event()

    def run(self) -> None:
        with hr.connect(self.folder) as project:
            for n in range(_MOST):
                (order,) = orders(1, now(), start=1_000 + n)
                while True:
                    try:
                        project.publisher.publish("order", [order])
                        break
                    except Unreachable:
                        continue
                self.users[order["user"]] += 1
                if self._done.wait(0.05):
                    return

    def stop(self) -> None:
        self._done.set()
        self.join(60)
        assert not self.is_alive()


@contextmanager
def trickle(folder: Path) -> Iterator[Trickle]:
    thread = Trickle(folder)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


def test_two_sides_on_kafka_and_redis_under_a_trickle_of_events(tmp_path: Path) -> None:
    name = f"beside-{secrets.token_hex(4)}"
    folder = shop_on(tmp_path / "shop", f"{address('kafka')}/{name}", f'online = "{address("redis")}?prefix={name}"\n')
    with hr.connect(folder) as project:
        past = orders(60, now(), users=USERS)
        project.publish("order", past)
        beside, seen, positions = project.beside, [], []
        with trickle(folder) as more:
            assert beside.start(follow=False).follows is False
            for step in (None, beside.switch, beside.back):
                if step is not None:
                    seen.append(step().served)
                project.settle()
                found = beside.compare(None)
                assert (found.differing, found.compared > 2 * USERS) == (0, True), str(found)
                answers(project, now())
                positions.append(
                    sum(
                        project.online("order", {"order_id": "p", "user": "u0", "amount": 1.0}).position.streams[
                            "order"
                        ]
                    )
                )
        assert (seen, positions) == (["green", "main"], sorted(positions))
        project.settle()
        wanted = Counter(row["user"] for row in past) + more.users
        assert {f"u{n}": project.get("spend", user=f"u{n}").n["7d"] for n in range(USERS)} == dict(wanted)
        assert beside.compare(None).differing == 0
        status = beside.status()
        assert status.beside is not None
        assert status.beside.commits == status.served.commits == project.parts.features.end(WINDOWS, 0)
    with hr.connect(folder) as project:  # what was opened anew reads the same
        assert {f"u{n}": project.get("spend", user=f"u{n}").n["7d"] for n in range(USERS)} == dict(wanted)
        project.beside.drop()
    with redis.Redis.from_url(address("redis")) as client:
        left = [key for key in client.scan_iter(match=f"*{name}*", count=1_000) if b"@green:" in key]
    assert not any(b"}r" in key for key in left), "records of the side that was dropped"
