"""Keys, TLS and dead letters with `headrace up`, as an operator uses them."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.certificates import write_certificate
from tests.e2e.shop import now, orders, write_shop
from tests.e2e.up import HEADRACE, Up, eventually

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command answers with --json."""
    done = subprocess.run(
        [*HEADRACE, *arguments, "--json", "--project", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr}


def test_a_service_for_other_machines_with_keys_over_tls(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    refused = subprocess.run(
        [*HEADRACE, "up", "--host", "0.0.0.0", "--project", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert refused.returncode == 1
    assert "headrace keys make" in refused.stderr
    certificate, _ = write_certificate(folder)
    (folder / "headrace.toml").write_text(
        'sync = false\nhost = "0.0.0.0"\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n', encoding="utf-8"
    )
    loader = run(folder, "keys", "make", "loader", "--scope", "publish", "--scope", "admin", "--rate", "1000")["key"]
    reader = run(folder, "keys", "make", "reader", "--scope", "read", "--read", "spend", "--expires", "1d")["key"]
    up = Up(folder)
    try:
        eventually(lambda: up.said("all layers are up"), up)
        assert up.address.startswith("https://0.0.0.0:")
        address = up.address.replace("0.0.0.0", "127.0.0.1")
        context = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=address, verify=context, headers={"X-API-Key": loader}) as client:
            assert client.get("/v1/records/spend/u0").status_code == 403
            rows = orders(20, now() - timedelta(minutes=1), users=1)
            bad = rows[-1] | {"order_id": "bad", "amount": "5"}
            assert client.post("/v1/events/order", json=[*rows, bad]).json()["dead_letters"] == 1
            eventually(lambda: client.get("/v1/dead_letters").json()["total"] == 1, up)
            # The door dies and comes back with the same keys, behind the same socket.
            os.kill(up.beat("serve")["pid"], signal.SIGKILL)
            eventually(lambda: up.said("serve .*ended"), up)
            eventually(lambda: client.get("/v1/dead_letters").status_code == 200, up)
            (letter,) = client.get("/v1/dead_letters", params={"field": "amount"}).json()["letters"]
            fixed = client.post(f"/v1/dead_letters/{letter['id']}/fix", json={"set": {"amount": 5.0}, "why": "text"})
            assert fixed.json()["mark"]["published"] == "order/0/21"
            again = client.post(f"/v1/dead_letters/{letter['id']}/fix", json={"set": {"amount": 5.0}})
            assert (again.status_code, "was fixed by key loader" in again.json()["error"]) == (422, True)
            assert client.post("/v1/dead_letters/replay").json() == {"published": 0, "left": 0, "refused": []}
            assert client.post("/v1/dead_letters/drop", json={"stream": "order"}).json()["field"] == "why"
            read = {"Authorization": f"Bearer {reader}"}
            with httpx.Client(base_url=address, verify=context, headers=read) as other:
                eventually(lambda: other.get("/v1/records/spend/u0").json()["features"]["n_7d"] == 21, up)
                assert other.get("/v1/records/profile/u0").status_code == 403
                run(folder, "keys", "revoke", "reader")
                eventually(lambda: other.get("/v1/records/spend/u0").status_code == 401, up)
        run(folder, "dead", "show", letter["id"])
        said = run(folder, "changes", "--action", "dead")["changes"]
        assert [(one["who"], one["action"], one["subject"]) for one in said] == [
            ("key loader", "dead letter fix", "order/0/20")
        ]
        actions = [one["action"] for one in run(folder, "changes")["changes"]]
        assert actions == ["keys revoke", "dead letter fix", "apply", "keys make", "keys make"]
        assert [one["state"] for one in run(folder, "keys", "list")["keys"]] == ["live", "revoked"]
    finally:
        code = up.finish()
    assert code == 0
    logs = b"".join(file.read_bytes() for file in (folder / ".headrace").rglob("*") if file.is_file())
    for token in (loader, reader):
        assert token.split("_", 2)[2].encode() not in logs
