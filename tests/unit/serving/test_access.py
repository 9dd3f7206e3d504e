"""The service with keys, over HTTP and with every part real: who is let in, who is not, and what is said."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.app.erasing import ErasureReceipt
from headrace.catalog.catalog import Catalog
from headrace.core.errors import ConfigError, NotFound, StoreError
from headrace.core.time import US_PER_SECOND
from headrace.erasure.predictions import erased_predictions
from headrace.erasure.subject import subject_of
from headrace.eventlog.base import LogBatch
from headrace.ingestion.letters import DeadLetters
from headrace.retrieval.prediction_blocks import TOPIC as PREDICTIONS
from headrace.serving.access import ANY, ANYBODY, NOBODY, PUBLIC, Access
from headrace.serving.http import serving
from headrace.serving.notes import PutNotes
from headrace.serving.openapi import SCOPES_BY_PATH
from headrace.serving.replies import Refused
from tests.unit.serving.shop import PROJECT, START, Shop, fitted, opened

PAYMENT = {"payment_id": "p9", "user": "ann", "amount": 30.0, "at": "2013-02-01T10:30:00Z"}
ROUTES: list[tuple[str, str, Any, str]] = [
    ("POST", "/v1/events", [{"stream": "Payment", **PAYMENT}], "publish"),
    ("POST", "/v1/events/Payment", PAYMENT, "publish"),
    ("POST", "/v1/features/payment", PAYMENT, "read"),
    ("POST", "/v1/models/fraud/score", PAYMENT, "score"),
    ("GET", "/v1/records/Spend/ann", None, "read"),
    ("PUT", "/v1/records/Profile/ann", {"age": 30, "tier": "gold"}, "publish"),
    ("POST", "/v1/labels/fraud", {"request_id": "p9", "value": True}, "label"),
    ("GET", "/v1/dead_letters", None, "admin"),
    ("GET", "/v1/erasures", None, "admin"),
    ("POST", "/v1/erasures", {"entity": "user", "key": "ann"}, "admin"),
    ("GET", "/v1/erasures/none", None, "admin"),
    ("GET", "/metrics", None, "any"),
    ("GET", "/openapi.json", None, "any"),
    ("GET", "/", None, "any"),
]


@dataclass
class Guarded:
    """A service with keys: the shop behind it, the catalog, a client without a key, and a clock of seconds."""

    shop: Shop
    catalog: Catalog
    client: httpx.Client
    access: Access
    now: list[float]
    port: int
    folder: Path

    def key(self, *scopes: str, name: str = "", **given: Any) -> dict[str, str]:
        """Headers with a new key."""
        name = name or f"k{len(self.catalog.keys.list())}"
        _, token = self.catalog.keys.make(name, scopes, who="tester", **given)
        self.access.refresh()
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with opened(folder) as shop:
        shop.pay(("p1", "ann", 10.0, 1), ("p2", "ann", 20.0, 2))
        shop.register(fitted(25))
        catalog = Catalog(folder / "keys.db", shop.clock)
        now = [0.0]
        access = Access(catalog.keys, shop.clock, lambda: now[0])
        service = shop.service(access=access, notes=PutNotes(catalog.changes), letters=letters_of(shop))
        with serving(service) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            made = Guarded(shop, catalog, client, access, now, port, folder)
            made.key("read", name="first")
            yield made
        catalog.close()


def letters_of(shop: Shop) -> DeadLetters:
    return DeadLetters(shop.features, shop.raw, shop.publisher, PROJECT.streams, shop.clock, nullcontext)


def ask(guarded: Guarded, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    return guarded.client.request(method, path, headers=headers, **({} if body is None else {"json": body}))


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_each_route_wants_a_key_of_its_scope(guarded: Guarded, method: str, path: str, body: Any, scope: str) -> None:
    without = ask(guarded, method, path, body, {})
    assert (without.status_code, without.headers["www-authenticate"]) == (401, 'Bearer realm="headrace"')
    assert "headrace keys make" in without.json()["hint"]
    others = [one for one in ("publish", "read", "score", "label", "admin") if one != scope]
    refused = ask(guarded, method, path, body, guarded.key(*others))
    assert refused.status_code == (200 if scope == "any" else 403), refused.text
    if scope != "any":
        assert f"may not {scope}" in refused.json()["error"]
    given = guarded.key(*(() if scope == "any" else (scope,)))
    done = 503 if path.startswith("/v1/erasures") else 200  # this service has no door for them
    assert ask(guarded, method, path, body, given).status_code == done
    token = given["Authorization"].removeprefix("Bearer ")
    assert ask(guarded, method, path, body, {"X-API-Key": token}).status_code == done


def test_the_description_says_for_each_path_what_the_service_asks(guarded: Guarded) -> None:
    document = guarded.client.get("/openapi.json", headers=guarded.key()).json()
    assert document["components"]["securitySchemes"]["key"] == {
        "type": "http", "scheme": "bearer", "description": "An API key: headrace keys make NAME --scope ...",
    }  # fmt: skip
    seen = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            real = path.replace("{user}", "ann").replace("{id}", "x").replace("{stream}", "Payment")
            real = real.replace("{partition}", "0").replace("{offset}", "0")
            response = guarded.client.request(method, real, json={})
            scope = operation.get("x-scope")
            if scope is None:
                assert path.startswith("/health/")
                assert response.status_code != 401
                continue
            seen.add(scope)
            assert response.status_code == 401
            assert operation["security"] == [{"key": []}, {"header": []}]
            if scope != "any":
                others = [one for one in ("publish", "read", "score", "label", "admin") if one != scope]
                assert guarded.client.request(method, real, json={}, headers=guarded.key(*others)).status_code == 403
    assert seen == {*SCOPES_BY_PATH.values()}


def test_a_key_may_be_limited_to_a_group_or_a_view(guarded: Guarded) -> None:
    key = guarded.key("read", "score", reads=["Spend", "payment"])
    assert guarded.client.get("/v1/records/Spend/ann", headers=key).status_code == 200
    refused = guarded.client.get("/v1/records/Profile/ann", headers=key)
    assert (refused.status_code, refused.json()["error"].split(" may ")[1]) == (403, 'not read "Profile"')
    # Whether there is such a group is nothing for this key either.
    assert guarded.client.get("/v1/records/Nothing/ann", headers=key).status_code == 403
    assert guarded.client.post("/v1/features/payment", json=PAYMENT, headers=key).status_code == 200
    spend = guarded.key("read", "score", reads=["Spend"])
    assert guarded.client.post("/v1/features/payment", json=PAYMENT, headers=spend).status_code == 403
    scored = guarded.client.post("/v1/models/fraud/score", json=PAYMENT, headers=spend)
    assert (scored.status_code, "features" in scored.json()) == (200, False)
    # What a model saw is features of its view, so it takes the same right, before and after.
    assert guarded.client.post("/v1/models/fraud/score?features=1", json=PAYMENT, headers=spend).status_code == 403
    assert guarded.client.get(f"/v1/predictions/{scored.json()['id']}", headers=spend).status_code == 403
    assert guarded.client.get(f"/v1/predictions/{scored.json()['id']}", headers=key).status_code == 200
    only = guarded.key("score")
    assert guarded.client.post("/v1/models/fraud/score?explain=1", json=PAYMENT, headers=only).status_code == 403


def test_health_is_public_but_what_is_down_is_not(guarded: Guarded) -> None:
    guarded.shop.promote(None)
    try:
        wait_until(lambda: guarded.client.get("/health/ready").status_code == 503)
        assert guarded.client.get("/health/live").status_code == 200
        assert guarded.client.get("/health/ready").json() == {"status": "unavailable"}
        known = guarded.client.get("/health/ready", headers=guarded.key()).json()
        assert "no champion" in known["down"]["model fraud"]
        assert "down" not in guarded.client.get("/health/ready", headers={"X-API-Key": "hr_aaaaaaaa_x"}).json()
    finally:
        guarded.shop.promote(1)
        wait_until(lambda: guarded.client.get("/health/ready").status_code == 200)


def test_a_key_that_asks_too_often_is_told_when_to_come_back(guarded: Guarded) -> None:
    key, other = guarded.key("read", rate=0.5, burst=3), guarded.key("read")
    path = "/v1/records/Spend/ann"
    assert [guarded.client.get(path, headers=key).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = guarded.client.get(path, headers=key)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert "0.5 requests a second" in refused.json()["error"]
    assert guarded.client.get(path, headers=other).status_code == 200
    guarded.now[0] += 1.9
    assert guarded.client.get(path, headers=key).status_code == 429
    guarded.now[0] += 0.1
    assert [guarded.client.get(path, headers=key).status_code for _ in range(2)] == [200, 429]
    # What is left of a rate outlives a change of other keys, and never grows beyond the burst.
    guarded.key("read")
    assert guarded.client.get(path, headers=key).status_code == 429
    guarded.now[0] += 1000.0
    assert [guarded.client.get(path, headers=key).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_keys_expire_and_are_revoked_while_the_service_runs(guarded: Guarded) -> None:
    clock = guarded.shop.clock
    until = clock.now_us() + 10 * US_PER_SECOND
    short, gone = guarded.key("read", expires_us=until), guarded.key("read", name="gone")
    path = "/v1/records/Spend/ann"
    assert guarded.client.get(path, headers=short).status_code == 200
    clock.advance_to(until)
    refused = guarded.client.get(path, headers=short)
    assert (refused.status_code, "has expired" in refused.json()["error"]) == (401, True)
    assert guarded.client.get(path, headers=gone).status_code == 200
    guarded.catalog.keys.revoke("gone", who="tester")
    wait_until(lambda: guarded.client.get(path, headers=gone).status_code == 401)
    assert guarded.client.get(path, headers=gone).json()["error"] == "this key is not known"
    with pytest.raises(NotFound, match="no key"):
        guarded.catalog.keys.revoke("gone", who="tester")


def test_a_service_without_keys_is_open_and_the_first_key_closes_it_for_good(tmp_path: Path) -> None:
    with opened(tmp_path) as shop:
        catalog = Catalog(tmp_path / "keys.db", shop.clock)
        access = Access(catalog.keys, shop.clock)
        with serving(shop.service(access=access)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.post("/v1/events/Payment", json=PAYMENT).status_code == 200
            _, token = catalog.keys.make("only", ["publish"], who="tester")
            wait_until(lambda: client.post("/v1/events/Payment", json=PAYMENT).status_code == 401)
            key = {"X-API-Key": token}
            assert client.post("/v1/events/Payment", json=PAYMENT, headers=key).status_code == 200
            catalog.keys.revoke("only", who="tester")
            wait_until(lambda: client.post("/v1/events/Payment", json=PAYMENT, headers=key).status_code == 401)
            assert client.post("/v1/events/Payment", json=PAYMENT).status_code == 401
        assert Access(catalog.keys, shop.clock).required
        catalog.close()


def test_without_keys_a_page_of_another_site_cannot_publish(tmp_path: Path) -> None:
    with opened(tmp_path) as shop:
        catalog = Catalog(tmp_path / "keys.db", shop.clock)
        access = Access(catalog.keys, shop.clock)
        with serving(shop.service(access=access)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for origin in ("https://evil.example", "null", "", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
                           "http://127.0.0.1:1@evil.example", "file://", "http://[::2]"):  # fmt: skip
                refused = client.post("/v1/events/Payment", json=PAYMENT, headers={"Origin": origin})
                assert (refused.status_code, "another site" in refused.json()["error"]) == (403, True), origin
            for origin in (
                "http://localhost:8888",
                "http://127.0.0.1",
                f"http://127.0.0.1:{port}",
                "https://[::1]:443",
            ):
                asked = client.post("/v1/events/Payment", json=PAYMENT, headers={"Origin": origin})
                assert asked.status_code == 200, origin
            assert client.get("/health/live", headers={"Origin": "https://evil.example"}).status_code == 200
            # With keys it is the key that counts.
            _, token = catalog.keys.make("only", ["publish"], who="tester")
            access.refresh()
            headers = {"Origin": "https://shop.example", "X-API-Key": token}
            assert client.post("/v1/events/Payment", json=PAYMENT, headers=headers).status_code == 200
        catalog.close()


def test_without_keys_another_name_of_this_machine_is_not_answered(tmp_path: Path) -> None:
    """A page whose name was made to point here asks with that name: its Host, and no Origin where it reads."""
    with opened(tmp_path) as shop:
        catalog = Catalog(tmp_path / "keys.db", shop.clock)
        access = Access(catalog.keys, shop.clock)
        with serving(shop.service(access=access)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "",
                         "10.0.0.1", "127.0.0.1@evil.example", "[::2]:80", "localhost:80:80"):  # fmt: skip
                refused = client.get("/v1/records/Spend/ann", headers={"Host": host})
                assert (refused.status_code, "another name" in refused.json()["error"]) == (403, True), host
                assert client.get("/health/live", headers={"Host": host}).status_code == 200
                assert "down" not in client.get("/health/ready", headers={"Host": host}).json()
            assert "down" in client.get("/health/ready").json()
            for host in (f"localhost:{port}", "LOCALHOST", "127.0.0.1", "127.1.2.3:1", f"[::1]:{port}"):
                assert client.get("/v1/records/Spend/ann", headers={"Host": host}).status_code == 200, host
            # With keys it is the key that counts, under whatever name.
            _, token = catalog.keys.make("only", ["read"], who="tester")
            access.refresh()
            headers = {"Host": "features.shop.example", "X-API-Key": token}
            assert client.get("/v1/records/Spend/ann", headers=headers).status_code == 200
        catalog.close()


class Stuck:
    """A scorer whose new version takes as long to load as the test wants."""

    def __init__(self, scorer: Any) -> None:
        self._scorer = scorer
        self.loading, self.go_on = threading.Event(), threading.Event()

    def reload(self) -> bool:
        self.loading.set()
        self.go_on.wait(60)
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)


def test_a_revoked_key_ends_while_a_model_is_being_loaded(tmp_path: Path) -> None:
    with opened(tmp_path) as shop:
        catalog = Catalog(tmp_path / "keys.db", shop.clock)
        access, stuck = Access(catalog.keys, shop.clock), Stuck(shop.scorer)
        _, token = catalog.keys.make("leaked", ["read"], who="tester")
        service = shop.service(access=access, scorers={"fraud": stuck})
        with serving(service) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            try:
                assert stuck.loading.wait(30)
                key = {"X-API-Key": token}
                wait_until(lambda: client.get("/v1/records/Spend/ann", headers=key).status_code == 200)
                catalog.keys.revoke("leaked", who="tester")
                wait_until(lambda: client.get("/v1/records/Spend/ann", headers=key).status_code == 401)
            finally:
                stuck.go_on.set()
        catalog.close()


def test_what_is_answered_is_kept_by_nobody_and_framed_nowhere(guarded: Guarded) -> None:
    key = guarded.key()
    for path in ("/openapi.json", "/", "/health/live", "/v1/records/Spend/ann", "/nowhere"):
        told = guarded.client.get(path, headers=key).headers
        assert (told["cache-control"], told["x-content-type-options"]) == ("no-store", "nosniff"), path
        assert "server" not in told
    assert "default-src 'none'" in guarded.client.get("/", headers=key).headers["content-security-policy"]


def test_a_letter_listing_has_its_limit_and_a_body_its_depth(guarded: Guarded) -> None:
    admin = guarded.key("admin")
    for limit in ("0", "1001", "000000001001", "00000000100000000", "-1", "1e2", "\u0663"):
        refused = guarded.client.get("/v1/dead_letters", headers=admin, params={"limit": limit})
        assert (refused.status_code, refused.json()["field"]) == (422, "limit"), limit
    deep = b'{"set":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    for path in ("Payment/0/0/fix", "replay", "drop"):
        refused = guarded.client.post(f"/v1/dead_letters/{path}", headers=admin, content=deep)
        assert refused.status_code in (400, 422), (path, refused.text)


def test_what_keys_did_is_logged_by_their_names_and_no_token_is_kept_anywhere(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    key = guarded.key("publish", "admin", name="loader")
    token = key["Authorization"].removeprefix("Bearer ")
    for age in (1, 2, 3):
        guarded.client.put("/v1/records/Profile/bob", json={"age": age, "tier": None}, headers=key)
    wait_until(lambda: bool(guarded.catalog.changes.list(who="key loader", action="put")))
    bad = PAYMENT | {"payment_id": "b1", "amount": "7"}
    offset = guarded.client.post("/v1/events/Payment", json=bad, headers=key).json()["offsets"]["0"][0]
    guarded.shop.settle()
    letter = f"/v1/dead_letters/Payment/0/{offset}"
    fixed = guarded.client.post(f"{letter}/fix", json={"set": {"amount": 7.0}, "why": "quotes"}, headers=key)
    assert (fixed.status_code, fixed.json()["mark"]["who"]) == (200, "key loader")
    made = guarded.catalog.changes.list(who="tester", action="keys make", limit=1)[0]
    assert (made.subject, made.detail["scopes"]) == ("loader", ["publish", "admin"])
    secret = token.split("_", 2)[2].encode()  # which may hold "_", too
    stored = b"".join(file.read_bytes() for file in guarded.folder.rglob("*") if file.is_file())
    assert b"loader" in stored
    assert secret not in stored
    assert token not in caplog.text + repr(guarded.catalog.keys.list()) + repr(guarded.access)


def test_rows_put_over_http_are_counted_by_the_minute(guarded: Guarded) -> None:
    now = [0.0]
    notes = PutNotes(guarded.catalog.changes, lambda: now[0])

    def rows() -> list[Any]:
        return [one.detail["rows"] for one in guarded.catalog.changes.list(who="key minute")]

    notes.put("key minute", "Profile")
    notes.flush()
    for _ in range(5):
        notes.put("key minute", "Profile")
    notes.flush()
    assert rows() == [1]
    now[0] = 60.0
    notes.flush()
    assert rows() == [5, 1]
    notes.put("key minute", "Profile")
    notes.flush(everything=True)
    notes.flush(everything=True)
    assert rows() == [1, 5, 1]


# --- headers that no one should send ----------------------------------------------------------------------------------


def raw(guarded: Guarded, head: bytes) -> tuple[int, bytes]:
    """Status and body of a request whose headers are these bytes."""
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(b"GET /v1/records/Spend/ann HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n")
        data = b""
        while part := connection.recv(65_536):
            data += part
    return int(data.split(b" ", 2)[1]), data.partition(b"\r\n\r\n")[2]


def test_malformed_headers_are_refused_and_never_let_in(guarded: Guarded) -> None:
    token = guarded.key("read")["Authorization"].removeprefix("Bearer ").encode()
    bearer = b"Authorization: Bearer "
    good = [
        bearer + token,
        b"authorization: bearer   " + token,
        b"X-API-KEY: " + token,
        b"Authorization:Bearer " + token,
    ]
    good.append(bearer + token + b"\r\nX-API-Key: " + token)
    for head in good:
        assert raw(guarded, head + b"\r\n")[0] == 200, head
    other = guarded.key("read")["Authorization"].removeprefix("Bearer ").encode()
    bad = [
        b"Authorization: ", b"Authorization: Bearer", b"Authorization: Bearer  ", b"Authorization: " + token,
        b"Authorization: Basic " + token, b"X-API-Key: ", b"X-API-Key: Bearer " + token, bearer + token[:-1],
        bearer + token + b"x", bearer + token.upper(), bearer + b"hr_" + b"a" * 100_0, bearer + b"\xff\xfe" * 40,
        bearer + b"hr__", bearer + b"hr_\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4_x", bearer + token + b"," + token,
        bearer + token + b"\r\n" + bearer + other, b"X-API-Key: " + other + b"\r\n" + bearer + token,
        bearer + token.replace(b"_", b"-"), bearer + token[:12] + b"A" * 43, b"X-Api-Key: ../../" + token,
    ]  # fmt: skip
    for head in bad:
        status, body = raw(guarded, head + b"\r\n")
        assert status == 401, (head, status, body)
        assert token not in body
    dice = random.Random(7)
    for _ in range(150):
        mangled = bytearray(bearer + token)
        for _ in range(dice.randint(1, 4)):
            mangled[dice.randrange(len(mangled))] = dice.randrange(256)
        status, _ = raw(guarded, bytes(mangled) + b"\r\n") if b"\n" not in mangled else (401, b"")
        same = bytes(mangled).lower().startswith(b"authorization: bearer") and mangled.endswith(token)
        assert status in (400, 401) or same, (mangled, status)
    assert raw(guarded, good[0] + b"\r\n")[0] == 200


def test_a_refused_caller_is_answered_before_the_body_is_read(guarded: Guarded) -> None:
    huge = guarded.client.post("/v1/events/Payment", content=b"x" * 200_000)
    assert huge.status_code == 401
    assert guarded.client.post("/v1/events/Payment", content=b"x" * 9_000_000).status_code == 401
    assert guarded.client.get("/health/live").status_code == 200


class SlowKeys:
    """Keys of a catalog; the first to list them gets what they were, late."""

    def __init__(self, keys: Any) -> None:
        self.keys = keys
        self.listing, self.go_on = threading.Event(), threading.Event()

    def generation(self) -> int:
        return int(self.keys.generation())

    def list(self) -> Any:
        found = self.keys.list()
        if not self.listing.is_set():
            self.listing.set()
            self.go_on.wait(60)
        return found


def test_a_slow_look_at_the_keys_brings_no_revoked_one_back(tmp_path: Path) -> None:
    with opened(tmp_path) as shop:
        catalog = Catalog(tmp_path / "keys.db", shop.clock)
        access = Access(catalog.keys, shop.clock)
        _, token = catalog.keys.make("leaked", ["read"], who="tester")
        access.keys = slow = SlowKeys(catalog.keys)
        looks = [threading.Thread(target=access.refresh, daemon=True) for _ in range(2)]
        looks[0].start()
        assert slow.listing.wait(30)
        catalog.keys.revoke("leaked", who="tester")
        looks[1].start()
        looks[1].join(0.2)  # it has to wait for the first
        slow.go_on.set()
        for look in looks:
            look.join(30)
        with pytest.raises(Refused, match="not known"):
            access.admit([(b"x-api-key", token.encode())], "read")
        catalog.close()


class Receipts:
    """Erasures that somebody else has done."""

    def __init__(self) -> None:
        self.done: list[ErasureReceipt] = []

    def list(self) -> list[ErasureReceipt]:
        return self.done

    def running(self) -> str | None:
        return None

    def start(self, entity: str, key: str | int, *, events: str, who: str) -> ErasureReceipt:
        raise NotImplementedError

    def look(self, entity: str, key: str | int, *, events: str) -> ErasureReceipt:
        raise NotImplementedError


def test_what_is_remembered_of_who_was_erased_is_forgotten(tmp_path: Path) -> None:
    """The newest predictions are answered from memory, wherever the log of them was edited."""
    with opened(tmp_path) as shop:
        shop.register(fitted(25))
        receipts, subject = Receipts(), subject_of(PROJECT, "user", "ann", bytes(32))
        with (
            serving(shop.service(erasures=receipts)) as port,
            httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            wait_until(lambda: client.post("/v1/models/fraud/score", json=PAYMENT).status_code == 200)
            asked = f"/v1/predictions/{client.post('/v1/models/fraud/score', json=PAYMENT).json()['id']}"
            assert client.get(asked).json()["view"] == "payment"
            shop.predictions.flush()

            def without(batch: LogBatch) -> bytes | None:
                edited = erased_predictions(batch.payload, subject, PROJECT)
                return None if edited is None else edited.payload

            assert shop.internal.rewrite(PREDICTIONS, 0, without) > 0
            times = ("2013-02-01T10:30:00Z", "2013-02-01T10:31:00Z")
            receipts.done = [ErasureReceipt("1", "user", "", "me", "unlink", *times)]
            wait_until(lambda: client.get(asked).status_code == 410)
            told = client.get("/v1/erasures").json()["erasures"]
            assert [(one["state"], one["ended"]) for one in told] == [("ended", times[1])]


# --- keys themselves --------------------------------------------------------------------------------------------------


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with opened(tmp_path) as shop:
        made = Catalog(tmp_path / "own.db", shop.clock)
        yield made
        made.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"name": "a\nb"}, "printable"),
        ({"scopes": ["root"]}, 'no scope "root"'),
        ({"rate": 0.0}, "above 0"),
        ({"rate": float("nan")}, "above 0"),
        ({"burst": 5}, "needs a rate"),
        ({"rate": 1.0, "burst": 0}, "at least 1"),
        ({"expires_us": START}, "expired already"),
        ({"name": "twice"}, "is a live key"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(catalog: Catalog, given: dict[str, Any], message: str) -> None:
    catalog.keys.make("twice", ["read"], who="me")
    with pytest.raises(ConfigError, match=message):
        catalog.keys.make(**({"name": "new", "scopes": ["read"], "who": "me"} | given))
    assert [key.name for key in catalog.keys.list()] == ["twice"]
    assert catalog.keys.generation() == 1


def test_a_name_is_free_again_when_its_key_is_revoked(catalog: Catalog) -> None:
    first, old = catalog.keys.make("job", ["read"], who="me", rate=2.5)
    catalog.keys.revoke(first.id, who="you")
    second, new = catalog.keys.make("job", ["read", "admin"], who="me")
    assert [first.fits(old.encode()), second.fits(new.encode())] == [True, True]
    assert [first.fits(new.encode()), second.fits(old.encode())] == [False, False]
    assert {key.id: key.state(START) for key in catalog.keys.list()} == {first.id: "revoked", second.id: "live"}
    assert (first.burst, second.scopes) == (2, ("read", "admin"))
    told = [(one.who, one.action, one.subject) for one in catalog.changes.list()]
    assert told == [("me", "keys make", "job"), ("you", "keys revoke", "job"), ("me", "keys make", "job")]


def test_access_goes_on_with_the_keys_it_knows_while_the_catalog_is_away(catalog: Catalog, tmp_path: Path) -> None:
    class Away:
        def __init__(self) -> None:
            self.away = False

        def generation(self) -> int:
            if self.away:
                raise StoreError("away")
            return catalog.keys.generation()

        def list(self) -> list[Any]:
            return catalog.keys.list()

    _, token = catalog.keys.make("job", ["read"], who="me")
    keys = Away()
    access = Access(keys, catalog._clock)
    keys.away = True
    with pytest.raises(StoreError):
        access.refresh()
    caller = access.admit([(b"x-api-key", token.encode())], "read")
    assert (caller.who, caller.scopes) == ("key job", frozenset({"read"}))
    assert access.admit([], PUBLIC) is NOBODY
    with pytest.raises(Refused):
        access.admit([], ANY)
    assert ANYBODY.may_read("whatever")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
