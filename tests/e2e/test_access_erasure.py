"""Erasing over HTTP: what the command does, asked of a running service with a key."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as hr
from headrace.app import erasures
from headrace.app.erasures import Erasures
from headrace.app.locks import FolderLock
from headrace.core.errors import Busy, HeadraceError
from headrace.serving.http import serving
from headrace.serving.service import Service
from tests.e2e.bank import NEEDLE, named_in, run_bank, write_bank
from tests.e2e.up import eventually, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_bank(tmp_path_factory.mktemp("erasure") / "bank")
    run_bank(folder, 60, model=False)
    return folder


@pytest.fixture(scope="module")
def project(bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hr.Project]:
    with hr.connect(shutil.copytree(bank, tmp_path_factory.mktemp("own") / "bank")) as found:
        found.ensure_applied()
        yield found


@pytest.fixture(scope="module")
def client(project: hr.Project) -> Iterator[httpx.Client]:
    """Of a service that no supervisor runs."""
    parts = project.parts
    service = Service(
        parts.plan, parts.clock, parts.publisher(), parts.online, parts.horizon_us, parts.internal,
        erasures=Erasures(parts),
    )  # fmt: skip
    with serving(service) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as found:
        yield found


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"entity": "user", "key": NEEDLE}, 409, "headrace up"),
        ({"entity": "nobody", "key": NEEDLE}, 422, "entity"),
        ({"entity": "user", "key": ""}, 422, "give the key"),
        ({"entity": "user", "key": NEEDLE, "events": "all"}, 422, "unlink"),
        ({"entity": "user", "key": NEEDLE, "dry_run": "no"}, 422, "bool"),
        ({"entity": "user", "key": True}, 422, "key"),
        ({"entity": "user", "key": NEEDLE, "yes": True}, 422, "yes"),
        ({"entity": "user"}, 422, "key"),
        ([], 422, "object"),
    ],
)
def test_what_cannot_be_erased_is_refused_at_once(client: httpx.Client, body: Any, status: int, told: str) -> None:
    refused = client.post("/v1/erasures", json=body)
    assert refused.status_code == status, refused.text
    assert told in refused.text
    assert client.get("/v1/erasures").json() == {"erasures": []}


def test_a_body_that_is_no_json_and_an_id_that_is_none_are_refused(client: httpx.Client) -> None:
    assert client.post("/v1/erasures", content=b"{").status_code == 400
    assert client.post("/v1/erasures", content=b"[" * 100_000).status_code in (400, 422)
    assert client.get("/v1/erasures/..%2fcatalog").status_code == 404
    assert client.get("/v1/erasures/12345678").json()["error"] == "there is no such erasure"


def test_a_dry_run_tells_what_there_is_and_changes_nothing(client: httpx.Client, project: hr.Project) -> None:
    found = client.post("/v1/erasures", json={"entity": "user", "key": NEEDLE, "dry_run": True})
    assert found.status_code == 200, found.text
    places = {place["place"]: place["records"] for place in found.json()["places"]}
    wanted = {place.place: place.records for place in project.erase("user", NEEDLE, dry_run=True).places}
    assert places == wanted
    assert len(places) > 3
    assert client.get("/v1/erasures").json() == {"erasures": []}


def test_one_at_a_time(project: hr.Project) -> None:
    door = Erasures(project.parts)
    with FolderLock(project.settings.state, "up"), door._at_work:
        with pytest.raises(Busy, match="runs already"):
            door.start("user", NEEDLE, events="unlink", who="key a")
        with pytest.raises(Busy, match="runs already"):
            door.look("user", NEEDLE, events="unlink")


def test_a_process_that_says_nothing_leaves_the_door_open(project: hr.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "MODULE", "headrace.app.times")  # runs, and ends without a word
    door = Erasures(project.parts)
    for _ in range(2):
        with pytest.raises(HeadraceError, match="its process was ended"):
            door.look("user", NEEDLE, events="unlink")


def test_a_running_service_erases_for_an_admin_and_ends_it_whatever_becomes_of_itself(
    bank: Path, tmp_path: Path
) -> None:
    bank = shutil.copytree(bank, tmp_path / "bank")
    with hr.connect(bank) as project:
        made = [
            project.parts.catalog.keys.make(name, [scope], who="tester")[1]
            for name, scope in (("eraser", "admin"), ("reader", "read"))
        ]
    admin, other = ({"X-API-Key": token} for token in made)
    assert named_in(bank)
    asked = {"entity": "user", "key": NEEDLE}
    with running(bank) as up, httpx.Client(base_url=up.address, timeout=120) as client:
        assert client.post("/v1/erasures", json=asked, headers=other).status_code == 403
        assert client.get("/v1/erasures").status_code == 401
        begun = client.post("/v1/erasures", json=asked, headers=admin)
        assert begun.status_code == 202, begun.text
        receipt, where = begun.json(), begun.headers["location"]
        assert (receipt["who"], receipt["entity"], receipt["ended"]) == ("key eraser", "user", "")
        assert where == f"/v1/erasures/{receipt['id']}"
        os.kill(up.beat("serve")["pid"], signal.SIGKILL)
        eventually(lambda: client.get(where, headers=admin).json()["state"] == "ended", up, 120)
        ended = client.get(where, headers=admin).json()
        assert sum(place["records"] for place in ended["places"]) > 0
        assert NEEDLE not in json.dumps(ended)
        assert [one["id"] for one in client.get("/v1/erasures", headers=admin).json()["erasures"]] == [receipt["id"]]
        eventually(lambda: up.said("all layers are up", 2), up, 90)
    assert named_in(bank) == []
    assert not any(NEEDLE.encode() in log.read_bytes() for log in (bank / ".headrace" / "run").iterdir())
    assert NEEDLE not in "\n".join(up.lines)
    with hr.connect(bank) as project:
        told = [one for one in project.parts.catalog.changes.list() if one.action == "erase"]
    assert [(one.who, one.subject) for one in told] == [("key eraser", "user")]
    assert told[0].detail["id"] == receipt["id"]
