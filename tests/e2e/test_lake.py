"""Offline store on S3, catalog on PostgreSQL, the rest embedded: the same bits as with everything embedded."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from headrace.app.doctor import Finding, examine
from headrace.app.locks import holder_of
from headrace.app.project import Project
from headrace.app.services import IngestLayer, ScheduleLayer, run_layer
from headrace.core.errors import Busy, PlanError, Unreachable
from headrace.core.time import SimulatedClock, to_us
from tests.e2e.shop import orders, outcomes, write_shop
from tests.link import Link
from tests.postgres import database, engine
from tests.s3 import Bucket, bucket
from tests.unit.app.conftest import NOON

pytestmark = [pytest.mark.s3, pytest.mark.postgres]

TOML = """
sync = false
offline = "{offline}"
catalog = "{catalog}"

[s3]
endpoint_url = "{endpoint}"
region = "us-east-1"
access_key_id = "${{LAKE_KEY}}"
secret_access_key = "${{LAKE_SECRET}}"
allow_http = true
max_retries = 1
retry_timeout = "2s"
"""
NEW_GROUP = '''

class Busy(hr.FeatureGroup, key=Order.user):
    """How much a user does."""

    total_1d = hr.sum(Order.amount, window="1d")
    peak = hr.max(Order.amount, window="30d")


more = hr.FeatureView("more", request=Order, features=[Spend, Busy])
'''


@pytest.fixture(scope="module")
def objects() -> Bucket:
    return bucket()


@pytest.fixture(autouse=True)
def _secrets(objects: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_KEY", objects.options["access_key_id"])
    monkeypatch.setenv("LAKE_SECRET", objects.options["secret_access_key"])


@pytest.fixture
def lake(tmp_path: Path, objects: Bucket) -> Iterator[Path]:
    """A shop whose offline store and catalog are on servers."""
    folder = write_shop(tmp_path / "lake")
    with database() as url:
        _configure(folder, objects, url, objects.options["endpoint_url"])
        yield folder


def _configure(folder: Path, objects: Bucket, catalog: str, endpoint: str) -> None:
    prefix = f"{objects.uri}/e2e-{secrets.token_hex(4)}"
    (folder / "headrace.toml").write_text(TOML.format(offline=prefix, catalog=catalog, endpoint=endpoint))


def _open(folder: Path) -> Project:
    return Project.open(folder, clock=SimulatedClock(to_us(NOON)))


def _known(project: Project) -> dict[str, Any]:
    """What a project answers, in Arrow's bits."""
    asked = [{"order_id": "asked", "user": f"u{i}", "amount": 30.0, "at": NOON.isoformat()} for i in range(12)]
    tables = {
        "rows of the view": project.history("order", asked),
        "training set": project.history("risk", until=NOON),
        "events": project.history("order"),
        "online": project.online("order", asked),
    }
    found: dict[str, Any] = {name: _sorted(rows.to_arrow()) for name, rows in tables.items()}
    assert found["rows of the view"].equals(_sorted(project.online("order", asked).to_arrow()))
    handle = project.model("risk")
    found["champion"] = handle.champion
    found["versions"] = [(v.number, v.metrics, v.snapshot.dataset_hash, v.feature_versions) for v in handle.versions()]
    return found


def _sorted(rows: pa.Table) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in ("at", "order_id", "user") if name in rows.column_names])


def _ingest_until_killed(folder: Path, done: Callable[[], bool]) -> None:
    """Run the ingest layer as a process and kill it once something is archived."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "--project", str(folder), "run", "ingest"], env=dict(os.environ)
    )
    deadline = time.monotonic() + 90
    while not done():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_the_loop_gives_the_same_bits_whatever_holds_archive_and_catalog(
    tmp_path: Path, lake: Path, objects: Bucket
) -> None:
    answers = []
    past = orders(400, NOON - timedelta(hours=2), step_s=1000)
    for folder in (write_shop(tmp_path / "embedded"), lake):
        with _open(folder) as project:
            for start in range(0, 300, 100):
                project.publish("order", past[start : start + 100])
            project.publish("outcome", outcomes(past[:300]))
            project.put("profile", [{"user": f"u{i}", "age": 20 + i, "city": None, "at": NOON} for i in range(5)])
            offline = project.parts.offline
            if folder == lake:
                _ingest_until_killed(folder, lambda store=offline: store.number("events/order", "archive") > 0)  # type: ignore[misc]
        with _open(folder) as project:
            run_layer(project.parts, "ingest", once=True)
            assert project.parts.offline.scan("events/order").num_rows == 300
            model = project.model("risk")
            model.promote(model.train(), why="the first one")
            project.publish("order", past[300:])
            project.publish("outcome", outcomes(past[300:]))
            model.train()
            before = _known(project)
        file = folder / "features.py"
        file.write_text(file.read_text() + NEW_GROUP)
        with _open(folder) as project:
            assert project.backfill().names == ("busy",)
            project.apply()
            after = _known(project)
            group = project.history("more", past[::40]).to_arrow()
        answers.append((before, after, _sorted(group)))
    embedded, served = answers
    assert embedded == served
    assert embedded[0]["champion"] == 1
    assert len(embedded[0]["versions"]) == 2
    assert not (lake / ".headrace" / "offline").exists()
    assert not (lake / ".headrace" / "catalog.db").exists()


def test_what_is_on_the_servers_is_seen_by_plain_clients(lake: Path, objects: Bucket) -> None:
    with _open(lake) as project:
        project.publish("order", orders(20, NOON - timedelta(minutes=1)))
        run_layer(project.parts, "ingest", once=True)
        settings = project.settings
    bucket_prefix = settings.offline.removeprefix(f"{objects.uri}/")
    keys = objects.keys(f"{bucket_prefix}/events/order/day=2026-05-01/")
    assert keys
    assert all(key.endswith(".parquet") for key in keys)
    with engine(settings.catalog).connect() as connection:
        groups = connection.exec_driver_sql("SELECT name FROM headrace.definitions WHERE kind = 'group' AND active")
        assert [row[0] for row in groups] == ["spend"]
    for text in (repr(settings), str(vars(project))):
        assert objects.options["secret_access_key"] not in text


def test_environments_lie_apart_on_the_same_servers(lake: Path) -> None:
    with _open(lake) as first:
        first.publish("order", orders(20, NOON - timedelta(minutes=1)))
        run_layer(first.parts, "ingest", once=True)
    with Project.open(lake, env="test", clock=SimulatedClock(to_us(NOON))) as second:
        assert second.parts.offline.tables() == []
        assert second.parts.catalog.definitions() == []
        second.publish("order", orders(3, NOON - timedelta(minutes=1)))
        run_layer(second.parts, "ingest", once=True)
        assert second.parts.offline.scan("events/order").num_rows == 3
    with _open(lake) as first:
        assert first.parts.offline.scan("events/order").num_rows == 20


def test_of_two_who_apply_at_once_one_is_told(lake: Path, tmp_path: Path) -> None:
    """They share the catalog, not the machine: each has a state folder of its own."""
    with _open(lake) as first, Project.open(lake, state=tmp_path / "elsewhere", clock=first.clock) as second:
        planned = second.plan()
        with first.parts.catalog.hold("apply"), pytest.raises(Busy, match="apply is being done by headrace process"):
            second.apply()
        assert first.apply()
        with pytest.raises(PlanError, match="changed after this plan was made"):
            second.apply(planned)


def test_while_the_archive_is_away_everything_else_goes_on(lake: Path, objects: Bucket) -> None:
    with Link(objects.port) as link:
        text = (lake / "headrace.toml").read_text()
        (lake / "headrace.toml").write_text(text.replace(f":{objects.port}", f":{link.port}"))
        with _open(lake) as project:
            project.publish("order", orders(30, NOON - timedelta(minutes=1), users=3))
            link.cut()
            project.publish("order", orders(30, NOON - timedelta(minutes=1), start=30, users=3))
            assert project.get("spend", user="u1", at=NOON).n["7d"] == 20
            with pytest.raises(Unreachable, match=f"127.0.0.1:{link.port}"):
                project.history("order")
            layer = IngestLayer(project.parts)
            layer._archive.wake()
            _wait(lambda: layer.problem() != "")
            assert f"127.0.0.1:{link.port} does not answer" in layer.problem()
            assert layer.step() == 0
            assert layer.counters()["archive_lag"] > 0
            findings = _examined(lake, "offline store")
            assert not findings["offline store"].ok
            assert "does not answer" in findings["offline store"].found
            link.mend()
            _wait(lambda: layer.problem() == "" and layer.counters()["archive_lag"] == 0)
            layer.finish(drain=True)
            assert project.parts.offline.scan("events/order").num_rows == 60
            assert len(project.history("order")) == 60


def test_while_the_catalog_is_away_jobs_wait_and_layers_start_later(lake: Path, objects: Bucket) -> None:
    toml = lake / "headrace.toml"
    port = urlsplit(toml.read_text().split('catalog = "')[1].split('"')[0]).port
    assert port is not None
    with Link(port) as link, Link(objects.port) as storage:
        text = toml.read_text().replace(f":{port}/", f":{link.port}/").replace(f":{objects.port}", f":{storage.port}")
        toml.write_text(text)
        with _open(lake) as project:
            project.publish("order", orders(30, NOON - timedelta(minutes=1)))
            layer = ScheduleLayer(project.parts)
            while layer.step():
                pass
            assert layer.problem() == ""
            link.cut()
            storage.cut()
            assert isinstance(project.clock, SimulatedClock)
            project.clock.advance_to(to_us(NOON + timedelta(days=1)))
            assert layer.step() == 0  # the archive cannot be compacted, and nobody can note it
            assert "the catalog cannot be written" in layer.problem()
            project.publish("order", orders(5, NOON, start=30))
            process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "--project", str(lake), "run", "compute"],
                env=dict(os.environ), stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            assert "waiting: the catalog" in process.stdout.readline()
            link.mend()
            _wait(lambda: holder_of(project.settings.state, "compute") is not None)
            process.terminate()
            process.communicate(timeout=60)
            _wait(lambda: layer.step() > 0)
            assert layer.problem() == ""
            (failed,) = project.parts.catalog.runs("compact archive")
            assert failed.status == "failed"
            assert "does not answer" in failed.detail["reason"]


def test_the_doctor_says_what_is_wrong_with_the_servers(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _examined(lake, "offline store", "catalog")
    assert [finding.ok for finding in found.values()] == [True, True]
    assert "s3://" in found["offline store"].found
    assert "postgresql" in found["catalog"].found
    monkeypatch.setenv("LAKE_SECRET", "not-the-secret")
    toml = lake / "headrace.toml"
    url = urlsplit(toml.read_text().split('catalog = "')[1].split('"')[0])
    toml.write_text(toml.read_text().replace(f":{url.password}@", ":not-the-secret@"))
    found = _examined(lake, "offline store", "catalog")
    assert "403 SignatureDoesNotMatch" in found["offline store"].found
    assert "[s3]" in found["offline store"].cure
    assert "password authentication failed" in found["catalog"].found
    assert "catalog =" in found["catalog"].cure
    assert "not-the-secret" not in str(found)


def test_the_doctor_looks_at_the_sources(lake: Path, objects: Bucket) -> None:
    catalog = lake.joinpath("headrace.toml").read_text().split('catalog = "')[1].split('"')[0]
    (lake / "planes.csv").write_text("tail\nN1\n")
    with (lake / "headrace.toml").open("a") as file:
        file.write(f'\n[sources]\nhouse = "{catalog}"\ngone = "{catalog}_gone"\nfile = "{lake}/planes.csv"\n')
        file.write(f'none = "{objects.uri}/{secrets.token_hex(4)}"\n')
    found = _examined(lake, "source house", "source gone", "source file", "source none")
    assert [finding.ok for finding in found.values()] == [True, False, True, False]
    assert "does not exist" in found["source gone"].found
    assert "no Parquet files" in found["source none"].found
    assert "1 files" in found["source file"].found
    assert "headrace-secret" not in str(found)


def _examined(folder: Path, *what: str) -> Mapping[str, Finding]:
    found = {finding.what: finding for finding in examine(folder)}
    return {name: found[name] for name in what}


def _wait(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)
