"""Scheduled groups beside ingestion that never rests, on a store on another machine: no read is torn, none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.app.project import Project
from headrace.core.columns import Column
from headrace.core.time import SimulatedClock, to_us
from headrace.monitoring.skew import Audit, compare
from headrace.retrieval.history import HistoryReader, served_at
from headrace.retrieval.rows import FeatureBlock
from headrace.testing.processes import started
from tests.e2e.shop import orders, write_shop
from tests.redis_server import RedisServer
from tests.unit.app.conftest import NOON

HOURLY = '[groups.spend]\nrun = "1h"\n'


@pytest.fixture(params=["embedded", "redis", "redis in 3 shards"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A shop whose group is scheduled."""
    found, online, server = write_shop(tmp_path / "shop"), "", None
    if request.param != "embedded":
        server = RedisServer(tmp_path / "redis").start()
        online = f'online = "{server.url}{"?shards=3" if "3" in request.param else ""}"\n'
    (found / "headrace.toml").write_text(f"sync = false\n{online}{HOURLY}", encoding="utf-8")
    yield found
    if server is not None:
        server.kill()


def publishing(folder: Path, pipe: Connection) -> None:
    """Publish, compute and ingest without a rest, telling of each time."""
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as other:
        for start in range(60, 1_000_000, 20):
            end = NOON - timedelta(seconds=1)
            other.publish("order", orders(20, end, start=start, users=5, step_s=0.001))
            pipe.send_bytes(b"published")


def test_runs_and_ingestion_write_side_by_side(folder: Path) -> None:
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as shop:
        shop.publish("order", orders(60, NOON - timedelta(minutes=1), users=5))
        shop.backfill("spend")
        reader, view = shop.parts.reader("order"), shop.parts.plan.views["order"]
        version = shop.parts.plan.groups["spend"].version
        answers: list[tuple[dict[str, Column], FeatureBlock]] = []
        with started(publishing, folder) as (_, pipe):
            pipe.recv_bytes()
            for _ in range(8):
                while pipe.poll():
                    pipe.recv_bytes()
                pipe.recv_bytes()
                shop.backfill("spend")
                for _ in range(4):
                    request = _request(shop)
                    answers.append((request, reader.read(request)))
        places = [block.position.groups[version][0] for _, block in answers]
        assert places == sorted(places)
        assert len(set(places)) > 2
        again = HistoryReader(view, shop.parts.plan, shop.parts.past)
        total = Audit()
        for request, block in answers:
            served = again.read(request, served_at(block.position, len(block)))
            total += compare([str(n) for n in range(len(block))], block, served)
        assert (total.differing, total.rows) == (0, 5 * 32), total.examples
        shop.settle()
        shop.backfill("spend")
        last = reader.read(_request(shop))
        wanted = again.read(_request(shop))
        assert np.array_equal(last.words, wanted.words)
        assert np.array_equal(last.valid, wanted.valid)


def _request(shop: Project) -> dict[str, Column]:
    from headrace.app.rows import request_columns

    rows: list[Any] = [{"order_id": "asked", "user": f"u{i}", "amount": 30.0, "at": NOON} for i in range(5)]
    return request_columns(shop.parts.plan.views["order"].request, rows, to_us(NOON))
