"""A project on a real Kafka broker, with other tools beside it; for kills of it see `tests/recovery/test_kills.py`."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

import headrace as hr
from headrace.app.doctor import examine
from headrace.engines.stream.commits import DEAD_LETTERS, decode_dead_letters
from tests.e2e.shop import now, orders, write_shop
from tests.services import address

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
USERS = 10


def shop_on(folder: Path, log: str, more: str = "") -> Path:
    """The shop with its logs at an address."""
    write_shop(folder)
    lines = f'sync = false\nlog = "{log}"\npartitions = 2\n{more}'
    (folder / "headrace.toml").write_text(lines, encoding="utf-8")
    return folder


def requests_at(t: datetime) -> list[dict[str, Any]]:
    """One request per user, and one of a stranger."""
    return [{"order_id": f"r{n}", "user": f"u{n}", "amount": 3.0, "at": t} for n in range(USERS + 1)]


def answers(project: Any, t: datetime) -> list[dict[str, Any]]:
    """What the project answers online, which must be what its history says, to the bit."""
    project.settle()
    online = [dict(row) for row in project.online("order", requests_at(t))]
    history = project.history("order", requests_at(t)).to_arrow().to_pylist()
    by_id = {row["order_id"]: row for row in history}
    for row in online:
        found = by_id[row["order_id"]]
        assert repr({name: found[name] for name in row if name != "at"}) == repr(
            {name: value for name, value in row.items() if name != "at"}
        )
    return online


class Twin:
    """A project with embedded parts in which the same events are published, each once and undisturbed."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], ages: list[dict[str, Any]]) -> None:
        self._folder = write_shop(folder)
        with hr.connect(self._folder) as project:
            project.put("profile", ages)
            project.publish("order", rows)

    def answers(self, t: datetime) -> list[dict[str, Any]]:
        with hr.connect(self._folder) as project:
            return answers(project, t)


def producer(url: str, **own: Any) -> Producer:
    """A client that knows nothing of Headrace."""
    return Producer({"bootstrap.servers": url.removeprefix("kafka://").split("/")[0], **own})


def letters(project: Any) -> list[Any]:
    """All dead letters."""
    batches = project.parts.features.read(DEAD_LETTERS, 0, 0, 1_000_000)
    return [letter for batch in batches for letter in decode_dead_letters(batch.payload)]


def test_the_loop_runs_on_kafka_beside_other_tools(tmp_path: Path) -> None:
    url = f"{address('kafka')}/shop-{uuid.uuid4().hex}"
    end = now()
    rows = orders(400, end, users=USERS)
    ages = [
        {"user": f"u{n}", "age": 20 + n, "city": None, "at": (end - timedelta(days=1)).isoformat()} for n in range(5)
    ]
    topic = f"core.orders-{uuid.uuid4().hex}"
    folder = shop_on(tmp_path / "shop", url, f'streams.order = {{ topic = "{topic}" }}\n')
    twin = Twin(tmp_path / "twin", rows, ages)
    with hr.connect(folder) as project:
        project.put("profile", ages)
        project.publish("order", rows[:100])
        answers(project, end)
        # Another tool writes JSON with a key of its own, some of it broken, and some of it takes back.
        other = producer(url, **{"transactional.id": uuid.uuid4().hex})
        other.init_transactions(10)
        for start, kept in ((100, True), (0, False), (200, True)):
            other.begin_transaction()
            for row in rows[start : start + 100]:
                other.produce(topic, json.dumps(row), key=row["user"])
            other.produce(topic, b"what is this?", partition=1)
            other.flush(10)
            other.commit_transaction(10) if kept else other.abort_transaction(10)
        answers(project, end)
    with hr.connect(folder) as project:  # a restart in the middle
        project.publish("order", rows[300:])
        t = now()
        found = answers(project, t)
        assert [(letter.stream, letter.payload, letter.reason) for letter in letters(project)] == [
            ("order", b'"what is this?"', "the message is no JSON")
        ] * 2
    looked_at = {finding.what: finding for finding in examine(folder) if finding.what.endswith(" log")}
    assert [looked_at[f"{name} log"].ok for name in ("event", "feature", "internal")] == [True] * 3
    assert looked_at["event log"].found == f"2 topics at {url}"
    assert found == twin.answers(t)
    assert [row["profile__age"] for row in found] == [*range(20, 25), *[None] * 6]
