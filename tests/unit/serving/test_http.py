"""The service over HTTP, every part behind it real: right answers, and refusals that name what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from headrace.core.time import US_PER_MINUTE
from headrace.engines.stream.commits import DEAD_LETTERS, decode_dead_letters
from headrace.monitoring.truth import LabelRow as ReadLabelRow
from headrace.registry.base import CANARY
from headrace.registry.predictor import FittedModel
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.predictions import read_predictions
from headrace.serving.http import serving
from headrace.serving.labels import TOPIC as LABELS
from headrace.serving.labels import decode_labels
from headrace.serving.scorer import Scorer
from headrace.serving.split import Split
from tests.unit.serving.shop import HORIZON_US, MODEL, PROJECT, START, VIEW, Shop, fitted, opened

PAYMENT = {"payment_id": "p9", "user": "ann", "amount": 30.0, "at": "2013-02-01T10:30:00Z"}
SPEND = ((1, "p1", 10.0), (2, "p2", 20.0), (25, "p3", 60.0))


@contextmanager
def connected(shop: Shop, **changed: Any) -> Iterator[httpx.Client]:
    """The service on a free port, and a client of it."""
    with serving(shop.service(**changed)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.fixture(scope="module")
def models() -> list[FittedModel]:
    return [fitted(25), fitted(45)]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with opened(tmp_path) as made:
        yield made


def filled(shop: Shop, model: FittedModel) -> Shop:
    """The shop after user "ann" has made three payments, with a champion."""
    shop.pay(*[(name, "ann", amount, minute) for minute, name, amount in SPEND])
    shop.register(model)
    return shop


@pytest.fixture
def client(shop: Shop, models: list[FittedModel]) -> Iterator[httpx.Client]:
    """A service of the filled shop, for tests that change something."""
    with connected(filled(shop, models[0])) as made:
        yield made


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, models: list[FittedModel]) -> Iterator[httpx.Client]:
    """The same for tests that only ask."""
    with opened(tmp_path_factory.mktemp("shop")) as shop, connected(filled(shop, models[0])) as made:
        yield made


def refused(client: httpx.Client, status: int, path: str, body: Any, method: str = "POST") -> dict[str, Any]:
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = client.request(method, path, **given)
    assert response.status_code == status, response.text
    found = response.json()
    assert found["error"]
    return dict(found)


# --- features -----------------------------------------------------------------------------------------------------


def test_features_are_read_for_the_request(reading: httpx.Client) -> None:
    body = reading.post("/v1/features/payment", json=PAYMENT).json()
    assert body["features"] == {
        "spend__n_1h": 3,
        "spend__mean_1d": 30.0,
        "profile__age": None,
        "profile__tier": None,
        "profile__since": None,
        "amount": 30.0,
        "ratio": 1.0,
    }
    assert body["position"]["streams"]["Payment"] == [3]
    assert (body["age_s"], body["view"], body["view_version"]) == (300.0, "payment", VIEW.version)


def test_an_event_time_that_is_left_out_is_now(client: httpx.Client, shop: Shop) -> None:
    now = {key: value for key, value in PAYMENT.items() if key != "at"}
    assert client.post("/v1/features/payment", json=now).json()["features"]["spend__n_1h"] == 3
    shop.clock.advance_to(START + 63 * US_PER_MINUTE)
    assert client.post("/v1/features/payment", json=now).json()["features"]["spend__n_1h"] == 1
    assert client.post("/v1/features/payment", json=now | {"at": None}).json()["features"]["spend__n_1h"] == 1


def test_many_requests_get_many_answers_in_their_order(reading: httpx.Client) -> None:
    rows = reading.post("/v1/features/payment", json=[PAYMENT | {"amount": float(i)} for i in range(3)]).json()
    assert [row["features"]["amount"] for row in rows] == [0.0, 1.0, 2.0]
    assert reading.post("/v1/features/payment", json=[]).json() == []
    assert len(reading.post("/v1/features/payment", json=[PAYMENT]).json()) == 1


def test_an_unknown_entity_and_a_null_key_get_empty_windows(reading: httpx.Client) -> None:
    for user in ("nobody", None):
        values = reading.post("/v1/features/payment", json=PAYMENT | {"user": user}).json()["features"]
        assert (values["spend__n_1h"], values["spend__mean_1d"], values["ratio"]) == (0, None, None)


def test_a_time_before_the_horizon_is_refused(reading: httpx.Client) -> None:
    found = refused(reading, 422, "/v1/features/payment", PAYMENT | {"at": "2013-02-01T10:14:59Z"})
    assert "history()" in found["error"]


# --- bad requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"amount": "30"}, "amount", "expected float"),
        ({"amount": True}, "amount", "expected float"),
        ({"amount": None}, "amount", "null"),
        ({"user": 5}, "user", "expected string"),
        ({"at": "yesterday"}, "at", "not a time"),
        ({"color": "red"}, "color", "no such field"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/features/payment", "/v1/models/fraud/score"])
def test_a_field_that_does_not_fit_is_named(
    reading: httpx.Client, path: str, change: dict[str, Any], field: str, reason: str
) -> None:
    found = refused(reading, 422, path, PAYMENT | change)
    assert found["field"] == field
    assert reason in found["error"]
    found = refused(reading, 422, path, [PAYMENT, PAYMENT | change])
    assert (found["field"], found["row"]) == (field, 1)


def test_a_missing_field_is_named_with_what_was_perhaps_meant(reading: httpx.Client) -> None:
    found = refused(reading, 422, "/v1/models/fraud/score", {"payment_id": "p", "user": "ann", "amounts": 3.0})
    assert found["field"] == "amount"
    assert '"amounts" meant' in found["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff\xfe", b'{"a": 1'])
@pytest.mark.parametrize(
    "path", ["/v1/features/payment", "/v1/models/fraud/score", "/v1/events", "/v1/events/Payment", "/v1/labels/fraud"]
)
def test_a_body_that_is_no_json_is_a_400(reading: httpx.Client, path: str, body: bytes) -> None:
    assert refused(reading, 400, path, body)["hint"]


@pytest.mark.parametrize("body", [5, "text", None, [5], [[PAYMENT]], [None]])
def test_json_that_is_no_request_is_a_422(reading: httpx.Client, body: Any) -> None:
    for path in ("/v1/features/payment", "/v1/models/fraud/score"):
        import json

        assert "expected an object" in refused(reading, 422, path, json.dumps(body).encode())["error"]


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/v1/features/payments", "payment"),
        ("/v1/models/frauds/score", "fraud"),
        ("/v1/events/Payments", "Payment"),
        ("/v1/labels/frod", "fraud"),
        ("/v1/events/Unlike", "Chargeback, Payment"),
    ],
)
def test_an_unknown_name_is_a_404_with_near_ones(reading: httpx.Client, path: str, near: str) -> None:
    assert near in refused(reading, 404, path, PAYMENT)["hint"]


def test_other_paths_and_methods_are_refused_in_json(reading: httpx.Client) -> None:
    assert "/openapi.json" in refused(reading, 404, "/v2/nothing", PAYMENT)["hint"]
    assert "method" in refused(reading, 405, "/metrics", PAYMENT)["error"]


def test_too_much_at_once_is_a_413(shop: Shop, models: list[FittedModel]) -> None:
    shop.pay(("p1", "ann", 1.0, 1))
    shop.register(models[0])
    with connected(shop, max_rows=2, max_body=1_000) as client:
        assert "at most 2 " in refused(client, 413, "/v1/models/fraud/score", [PAYMENT] * 3)["hint"]
        assert "1000 bytes" in refused(client, 413, "/v1/events/Payment", b"[" + b" " * 1_000)["hint"]

        def stream() -> Iterator[bytes]:
            for _ in range(20):
                yield b" " * 100

        assert client.post("/v1/events", content=stream()).status_code == 413
        assert client.post("/v1/models/fraud/score", json=[PAYMENT] * 2).status_code == 200


# --- scores --------------------------------------------------------------------------------------------------------


def test_a_score_is_the_champions_and_is_kept(client: httpx.Client, shop: Shop, models: list[FittedModel]) -> None:
    body = client.post("/v1/models/fraud/score?features=1", json=PAYMENT).json()
    assert body["features"]["spend__mean_1d"] == 30.0
    assert (body["version"], body["model"], body["request_id"]) == (1, "fraud", "p9")
    assert body["position"]["streams"]["Payment"] == [3]
    shop.predictions.flush()
    batch, _ = read_predictions(shop.internal, "fraud", VIEW)
    assert batch.ids == [body["id"]]
    assert batch.scores.tolist() == [body["value"]] == models[0].predict(batch.features).tolist()
    again = client.get(f"/v1/predictions/{body['id']}").json()
    assert (again["value"], again["features"], again["at"]) == (body["value"], body["features"], PAYMENT["at"])
    assert "features" not in client.post("/v1/models/fraud/score", json=PAYMENT).json()
    many = client.post("/v1/models/fraud/score?explain=1", json=[PAYMENT, PAYMENT | {"amount": 50.0}]).json()
    assert [row["value"] for row in many] != [body["value"]] * 2
    assert many[0]["value"] == body["value"]
    assert many[1]["features"]["amount"] == 50.0


def test_a_batch_of_champion_and_canary_is_answered_in_its_order(shop: Shop, models: list[FittedModel]) -> None:
    filled(shop, models[0])
    shop.register(models[1])
    shop.promote(1)
    shop.registry.set_alias("fraud", CANARY, 2, who="test", why="test")
    split, reader = Split(2, 0.5), OnlineReader(VIEW, PROJECT, shop.store, horizon_us=HORIZON_US)
    scorer = Scorer(PROJECT, MODEL, reader, shop.registry, shop.clock, shop.predictions, split=lambda: split)
    asked = [PAYMENT | {"payment_id": f"p{i}", "amount": float(i)} for i in range(24)]
    with connected(shop, scorers={"fraud": scorer}) as client:
        rows = client.post("/v1/models/fraud/score", json=asked).json()
        assert [row["request_id"] for row in rows] == [payment["payment_id"] for payment in asked]
        assert {row["version"] for row in rows} == {1, 2}
        for row, payment in zip(rows, asked, strict=True):
            assert client.post("/v1/models/fraud/score", json=payment).json()["version"] == row["version"]
        one = next(row for row in rows if row["version"] == 2)
        again = client.get(f"/v1/predictions/{one['id']}").json()
        assert (again["version"], again["value"], set(again["scores"])) == (2, one["value"], {"1", "2"})
        told = client.get("/metrics").text
        assert 'headrace_canary_share{model="fraud",version="2"} 0.5' in told
        # Each of them was asked twice: once in the batch, once alone.
        count = 2 * sum(row["version"] == 2 for row in rows)
        assert f'headrace_predictions_total{{model="fraud",version="2"}} {count}.0' in told


def test_a_prediction_is_found_in_the_log_after_a_restart(client: httpx.Client, shop: Shop) -> None:
    body = client.post("/v1/models/fraud/score", json=PAYMENT).json()
    shop.predictions.flush()
    with connected(shop) as other:
        found = other.get(f"/v1/predictions/{body['id']}").json()
        assert (found["value"], found["version"], found["scores"]) == (body["value"], 1, {"1": body["value"]})
        assert "offline store" in refused(other, 404, "/v1/predictions/p-0-0", None, "GET")["hint"]


def test_without_a_champion_scores_are_503_and_features_go_on(shop: Shop) -> None:
    shop.pay(("p1", "ann", 1.0, 1))
    with connected(shop) as client:
        assert "headrace promote fraud" in refused(client, 503, "/v1/models/fraud/score", PAYMENT)["error"]
        assert client.post("/v1/features/payment", json=PAYMENT).status_code == 200


def test_predictions_are_flushed_when_the_service_stops(shop: Shop, models: list[FittedModel]) -> None:
    shop.pay(("p1", "ann", 1.0, 1))
    shop.register(models[0])
    with connected(shop) as client:
        for _ in range(50):
            client.post("/v1/models/fraud/score", json=PAYMENT)
    assert len(read_predictions(shop.internal, "fraud", VIEW)[0]) == 50


# --- events --------------------------------------------------------------------------------------------------------


def test_events_are_appended_and_served(client: httpx.Client, shop: Shop) -> None:
    event = {"payment_id": "p4", "user": "bob", "amount": 5, "at": "2013-02-01T10:29:00Z"}
    body = client.post("/v1/events/Payment", json=event).json()
    assert body == {"appended": 1, "dead_letters": 0, "offsets": {"0": [3, 3]}}
    lines = b'{"payment_id":"p5","user":"bob","amount":7,"at":"2013-02-01T10:29:01Z"}\n' * 1
    assert client.post("/v1/events/Payment", content=lines).json()["offsets"] == {"0": [4, 4]}
    shop.settle()
    values = client.post("/v1/features/payment", json=PAYMENT | {"user": "bob"}).json()["features"]
    assert (values["spend__n_1h"], values["spend__mean_1d"]) == (2, 6.0)


def test_events_may_come_as_a_stream_of_arrow(client: httpx.Client, shop: Shop) -> None:
    rows = pa.table(
        {
            "payment_id": ["p4", "p5"],
            "user": pa.array(["bob", "bob"]).dictionary_encode(),
            "amount": [5.0, 7.0],
            "at": pa.array([1_359_714_540_000_000, 1_359_714_541_000_000], pa.timestamp("us", "UTC")),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    body, kind = sink.getvalue().to_pybytes(), {"Content-Type": "application/vnd.apache.arrow.stream"}
    answer = client.post("/v1/events/Payment", content=body, headers=kind).json()
    assert answer == {"appended": 2, "dead_letters": 0, "offsets": {"0": [3, 4]}}
    shop.settle()
    values = client.post("/v1/features/payment", json=PAYMENT | {"user": "bob"}).json()["features"]
    assert (values["spend__n_1h"], values["spend__mean_1d"]) == (2, 6.0)
    refused = client.post("/v1/events/Payment", content=body[:-8], headers=kind)
    assert (refused.status_code, "cut short" in refused.json()["error"]) == (400, True)


def test_malformed_events_do_not_stop_the_others_and_become_dead_letters(client: httpx.Client, shop: Shop) -> None:
    good = {"payment_id": "p4", "user": "bob", "amount": 5.0, "at": "2013-02-01T10:29:00Z"}
    body = client.post("/v1/events/Payment", json=[good, good | {"amount": "x"}, 5]).json()
    assert (body["appended"], body["dead_letters"], body["offsets"]) == (3, 2, {"0": [3, 5]})
    assert [(bad["row"], bad["field"]) for bad in body["malformed"]] == [(1, "amount"), (2, "")]
    assert "expected float" in body["malformed"][0]["reason"]
    shop.settle()
    letters = [
        letter for batch in shop.features.read(DEAD_LETTERS, 0, 0) for letter in decode_dead_letters(batch.payload)
    ]
    assert [(letter.offset, letter.field) for letter in letters] == [(4, "amount"), (5, "")]
    values = client.post("/v1/features/payment", json=PAYMENT | {"user": "bob"}).json()["features"]
    assert values["spend__n_1h"] == 1


def test_events_of_many_streams_in_one_call(client: httpx.Client) -> None:
    good = {"stream": "Payment", "payment_id": "p4", "user": "bob", "amount": 5.0, "at": "2013-02-01T10:29:00Z"}
    back = {"stream": "Chargeback", "payment": "p1", "fraud": True, "at": "2013-02-01T10:29:00Z"}
    events = [good, back, {"stream": "Payements"}, {"a": 1}, back | {"fraud": "no"}, 7]
    body = client.post("/v1/events", json=events).json()
    assert (body["appended"], body["dead_letters"]) == (6, 4)
    assert (body["offsets"]["Payment"], body["offsets"]["Chargeback"]) == ({"0": [3, 3]}, {"0": [0, 1]})
    assert [(bad["row"], bad["field"]) for bad in body["malformed"]] == [
        (2, "stream"), (3, "stream"), (4, "fraud"), (5, "stream"),
    ]  # fmt: skip
    assert "did you mean Payment" in body["malformed"][0]["reason"]


# --- labels and records --------------------------------------------------------------------------------------------


def test_labels_are_appended_for_the_monitor(client: httpx.Client, shop: Shop) -> None:
    rows = [{"request_id": "p1", "value": True, "at": "2013-02-01T10:29:00Z"}, {"request_id": "p2", "value": False}]
    assert client.post("/v1/labels/fraud", json=rows).json() == {"appended": 2, "first_offset": 0}
    import msgspec

    payload = shop.internal.read(LABELS, 0, 0)[0].payload
    read = msgspec.msgpack.decode(payload, type=list[ReadLabelRow])
    assert [(r.model, r.request_id, r.value, r.at_us) for r in read] == [
        ("fraud", "p1", 1.0, START + 29 * US_PER_MINUTE),
        ("fraud", "p2", 0.0, START + 30 * US_PER_MINUTE),
    ]
    assert len(decode_labels(payload)) == 2
    assert refused(client, 422, "/v1/labels/fraud", {"request_id": "p1", "value": "yes"})["field"] == "value"
    assert refused(client, 422, "/v1/labels/fraud", {"value": True})["field"] == "request_id"
    assert shop.internal.end(LABELS, 0) == 2


def test_a_put_row_is_served_and_read_back(client: httpx.Client, shop: Shop) -> None:
    row = {"age": 41, "tier": "gold", "since": "2012-01-01", "at": "2013-02-01T10:20:00Z"}
    assert client.put("/v1/records/Profile/ann", json=row).json() == {"offset": 0}
    shop.settle()
    shop.clock.advance_to(START + 31 * US_PER_MINUTE)
    got = client.get("/v1/records/Profile/ann").json()
    assert got["features"] == {"age": 41, "tier": "gold", "since": "2012-01-01T00:00:00Z"}
    values = client.post("/v1/features/payment", json=PAYMENT | {"at": None}).json()["features"]
    assert (values["profile__age"], values["profile__tier"]) == (41, "gold")
    assert client.get("/v1/records/Profile/bob").json()["features"]["age"] is None


def test_records_of_a_group_are_read_at_any_time_within_the_horizon(reading: httpx.Client) -> None:
    got = reading.get("/v1/records/Spend/ann").json()
    assert got["features"] == {"n_1h": 3, "mean_1d": 30.0, "last": 60.0}
    assert (got["group"], got["key"], got["position"]["streams"]["Payment"]) == ("Spend", "ann", [3])
    earlier = reading.get("/v1/records/Spend/ann", params={"at": "2013-02-01T10:20:00Z"}).json()
    assert earlier["features"] == {"n_1h": 2, "mean_1d": 15.0, "last": 20.0}


def test_records_that_cannot_be_are_refused(reading: httpx.Client) -> None:
    assert "Spend" in refused(reading, 404, "/v1/records/Spent/ann", None, "GET")["hint"]
    assert refused(reading, 422, "/v1/records/Spend/ann?at=noon", None, "GET")["field"] == "at"
    assert "publish events" in refused(reading, 422, "/v1/records/Spend/ann", {"n_1h": 4}, "PUT")["hint"]
    assert refused(reading, 422, "/v1/records/Profile/ann", {"age": "old"}, "PUT")["field"] == "age"
    assert refused(reading, 400, "/v1/records/Profile/ann", b"{", "PUT")["hint"]


# --- the service itself --------------------------------------------------------------------------------------------


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    client.post("/v1/models/fraud/score", json=[PAYMENT, PAYMENT | {"user": "nobody"}])
    client.post("/v1/models/fraud/score", json={})
    client.post("/v1/events/Payment", json=[5])
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'headrace_http_requests_total{route="/v1/models/{model}/score",status="200"} 1.0',
        'headrace_http_requests_total{route="/v1/models/{model}/score",status="422"} 1.0',
        'headrace_http_request_seconds_count{route="/v1/models/{model}/score"} 2.0',
        'headrace_predictions_total{model="fraud",version="1"} 2.0',
        f'headrace_model_info{{model="fraud",version="1",view_version="{VIEW.version}"}} 1.0',
        'headrace_feature_null_share{column="spend__mean_1d",view="payment"} 0.5',
        'headrace_feature_null_share{column="amount",view="payment"} 0.0',
        'headrace_events_malformed_total{stream="Payment"} 1.0',
        'headrace_online_age_seconds{stream="Payment"} 300.0',
        'headrace_online_lag_events{stream="Payment"} 1.0',
        "headrace_prediction_log_failures 0.0",
    ):
        assert line in lines, "\n".join(lines)


def test_metrics_tell_the_totals_of_the_layers(shop: Shop) -> None:
    with connected(shop, layers=lambda: {"schedule": {"rows_read": 7.0}, "ingest": {"throttled_s": 0.5}}) as client:
        lines = client.get("/metrics").text.splitlines()
    assert 'headrace_layer_total{counter="rows_read",layer="schedule"} 7.0' in lines
    assert 'headrace_layer_total{counter="throttled_s",layer="ingest"} 0.5' in lines


def test_readiness_names_the_layer_that_is_down(shop: Shop, models: list[FittedModel]) -> None:
    with connected(shop, poll_s=60.0) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert set(response.json()["down"]) == {"online store", "model fraud"}
        shop.pay(("p1", "ann", 1.0, 1))
        assert set(client.get("/health/ready").json()["down"]) == {"model fraud"}
        shop.register(models[0])
        shop.scorer.reload()
        assert client.get("/health/ready").json() == {"status": "ready"}


def test_the_description_names_every_field(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    request = schemas["paymentRequest"]
    assert request["required"] == ["payment_id", "amount"]
    assert request["properties"]["user"]["type"] == ["string", "null"]
    assert request["properties"]["amount"] == {"type": "number", "description": "in euros"}
    assert request["properties"]["channel"]["default"] == "app"
    assert "at" in schemas["PaymentEvent"]["required"]
    assert schemas["paymentFeatures"]["properties"]["features"]["properties"]["spend__n_1h"]["type"] == [
        "integer",
        "null",
    ]
    for path in ("/v1/events/Payment", "/v1/features/payment", "/v1/models/fraud/score", "/v1/labels/fraud"):
        assert "post" in document["paths"][path]
    assert set(document["paths"]["/v1/records/Profile/{user}"]) == {"get", "put"}
    assert set(document["paths"]["/v1/records/Spend/{user}"]) == {"get"}
    # Whatever is referred to is there, and an example that is shown is accepted.
    import json
    import re

    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in schemas
    assert client.post("/v1/features/payment", json=request["examples"][0]).status_code == 200
    event = schemas["PaymentEvent"]["examples"][0]
    assert client.post("/v1/events/Payment", json=event).json()["dead_letters"] == 0


def test_the_first_page_links_to_what_there_is(reading: httpx.Client) -> None:
    page = reading.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for part in ("/openapi.json", "/v1/models/fraud/score", "/v1/features/payment", "/v1/events/Payment"):
        assert part in page.text
