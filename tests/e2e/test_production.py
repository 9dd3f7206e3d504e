"""Every part on a server of its own: logs on Kafka, online store in Redis, archive on S3, catalog on PostgreSQL.

The layers run as `headrace up` starts them; each is killed once, and the definitions change meanwhile. What comes out
is what a project with embedded parts says of the same events, and what was served is recomputed to the bit.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as hr
from headrace.app.doctor import examine
from tests.e2e.shop import now, orders, outcomes, write_shop
from tests.e2e.up import HEADRACE, eventually, running
from tests.postgres import database
from tests.s3 import bucket
from tests.services import address

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.redis, pytest.mark.s3, pytest.mark.postgres]

TOML = """
log = "{log}"
online = "{online}"
offline = "{offline}"
catalog = "{catalog}"
partitions = 2

[s3]
endpoint_url = "{endpoint_url}"
region = "{region}"
access_key_id = "${{SHOP_KEY}}"
secret_access_key = "${{SHOP_SECRET}}"
allow_http = {allow_http}
"""
MORE = ("last = hr.last(Order.amount)", 'last = hr.last(Order.amount)\n    most = hr.max(Order.amount, window="30d")')


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shop with all parts on servers, in places of its own."""
    folder, name, objects = write_shop(tmp_path / "shop"), f"shop-{secrets.token_hex(4)}", bucket()
    monkeypatch.setenv("SHOP_KEY", objects.options["access_key_id"])
    monkeypatch.setenv("SHOP_SECRET", objects.options["secret_access_key"])
    with database() as catalog:
        text = TOML.format(
            log=f"{address('kafka')}/{name}", online=f"{address('redis')}?prefix={name}",
            offline=f"{objects.uri}/{name}", catalog=catalog, **objects.options,
        )  # fmt: skip
        (folder / "headrace.toml").write_text(text)
        yield folder


def asked(at: Any) -> list[dict[str, Any]]:
    """A request of each user, and of a stranger."""
    return [{"order_id": f"asked-{n}", "user": f"u{n}", "amount": 30.0, "at": at} for n in range(11)]


def known(project: Any, at: Any) -> str:
    """What a project says online of each user, which must be what its history says, as text that shows every bit."""
    project.settle()
    online = project.online("order", asked(at)).to_arrow().sort_by("order_id").to_pylist()
    assert repr(project.history("order", asked(at)).to_arrow().sort_by("order_id").to_pylist()) == repr(online)
    return repr(online)


def test_all_parts_on_servers_give_the_bits_of_embedded_ones(shop: Path, tmp_path: Path) -> None:
    start = now()
    past = orders(400, start - timedelta(hours=2), step_s=1000)
    with hr.connect(shop) as project:
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        model = project.model("risk")
        model.promote(model.train(), why="the first one")
    assert [finding for finding in examine(shop) if not finding.ok and finding.what != "layers"] == []

    published, scored = list(past), 0
    with running(shop) as up:
        for layer in ("compute", "ingest", "schedule", "serve"):
            batch = orders(50, now(), start=len(published), step_s=0.001)
            published += batch
            assert httpx.post(f"{up.address}/v1/events/order", json=batch, timeout=30).json()["appended"] == 50
            os.kill(up.beat(layer)["pid"], signal.SIGKILL)

            def visible(n: int = len(published) // 10) -> bool:
                found = httpx.get(f"{up.address}/v1/records/spend/u3", timeout=30).json()
                return bool(found["features"]["n_7d"] == n)

            eventually(visible, up, 60)
            request = {"order_id": f"scored-{layer}", "user": "u3", "amount": 60.0}
            reply = httpx.post(f"{up.address}/v1/models/risk/score", json=request, timeout=30)
            scored += reply.status_code == 200
        features = shop / "features.py"
        features.write_text(features.read_text().replace(*MORE))
        applied = subprocess.run(
            [*HEADRACE, "apply", "--yes", "--project", str(shop)], capture_output=True, text=True, timeout=120
        )
        assert applied.returncode == 0, applied.stderr
        record = f"{up.address}/v1/records/spend/u3"
        eventually(lambda: "most" in httpx.get(record, timeout=30).json()["features"], up, 60)
        assert up.finish() == 0, "\n".join(up.lines)

    twin = write_shop(tmp_path / "twin")
    (twin / "features.py").write_text((shop / "features.py").read_text())
    at = now() + timedelta(seconds=1)
    with hr.connect(twin) as project:
        project.publish("order", published)
        project.publish("outcome", outcomes(past))
        expected = known(project, at)
    with hr.connect(shop) as project:
        assert known(project, at) == expected
        audit = project.model("risk").audit()
        assert (audit.rows, audit.differing) == (scored, 0)
        assert scored >= 3
