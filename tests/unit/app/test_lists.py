"""Events that hold lists, and their sums and means, through every door and every face of a project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.app.project import Project
from headrace.core.time import SimulatedClock, to_us
from headrace.serving.openapi import describe
from headrace.serving.records import Records
from headrace.serving.replies import feature_rows
from tests.e2e.shop import FEATURES, orders, outcomes, write_shop
from tests.unit.app.conftest import NOON

SEEN = """
class Look(hr.Event):
    user: hr.Field[str] = hr.key(User)
    item: hr.Field[list[float] | None] = hr.field("embedding of what was looked at", size=3)
    at: hr.Field[datetime] = hr.event_time()


class Liked(Look, where=~Look.item.is_null()):
    again = Look.item


class Seen(hr.FeatureGroup, key=Look.user):
    total = hr.sum(Look.item, window=["1h", "7d"])
    mean = hr.mean(Look.item)
    last = hr.last(Look.item)
    near = mean.cosine(total["7d"])


class Tastes(hr.FeatureGroup, key=Liked.user):
    mean = hr.mean(Liked.again, window="7d", delay="1m")


view = """
LOOKS: list[dict[str, Any]] = [
    {"user": "u1", "item": [1e16, 1.0, None], "at": NOON - timedelta(hours=3)},
    {"user": "u1", "item": [1.0, 2.0, None], "at": NOON - timedelta(hours=2)},
    {"user": "u1", "item": None, "at": NOON - timedelta(minutes=40)},
    {"user": "u1", "item": [-1e16, -0.0, None], "at": NOON - timedelta(minutes=30)},
    {"user": "u2", "item": [None, None, None], "at": NOON - timedelta(minutes=30)},
]
USER: dict[str, Any] = {"user": "u1", "order_id": "asked", "amount": 60.0}
EXPECTED = {
    "seen__total_1h": [-1e16, 0.0, None],
    "seen__total_7d": [1.0, 3.0, None],
    "seen__mean": [1 / 3, 1.0, None],
    "seen__last": [-1e16, 0.0, None],
    "tastes__mean": [1 / 3, 1.0, None],
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = write_shop(tmp_path_factory.mktemp("seen") / "shop")
    source = FEATURES.replace("view = ", SEEN.lstrip("\n"), 1)
    source = source.replace("features=[Spend,", "features=[Spend, Seen, Tastes,")
    (folder / "features.py").write_text(source, encoding="utf-8")
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=10_000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        assert project.publish("look", LOOKS).malformed == 0
        yield project


def test_online_history_and_get_give_the_same_lists(shop: Project) -> None:
    row = shop.online("order", USER)
    assert {name: row[name] for name in EXPECTED} == EXPECTED
    assert row["seen__near"] == pytest.approx(1.0)
    rows = shop.history("order", [USER | {"at": NOON}])
    assert {name: rows[name][0] for name in EXPECTED} == EXPECTED
    found = shop.get("seen", user="u1")
    assert (found.total["1h"], found.mean) == (EXPECTED["seen__total_1h"], EXPECTED["seen__mean"])


@pytest.mark.parametrize("user", ["u2", "nobody"])
def test_a_list_without_any_value_is_null(shop: Project, user: str) -> None:
    row, rows = shop.online("order", USER | {"user": user}), shop.history("order", [USER | {"user": user, "at": NOON}])
    wanted = dict.fromkeys(EXPECTED) | {"seen__last": [None] * 3 if user == "u2" else None}
    assert {name: row[name] for name in EXPECTED} == {name: rows[name][0] for name in EXPECTED} == wanted


def test_frames_and_json_have_lists_with_nulls(shop: Project) -> None:
    table = shop.history("order", [USER | {"at": NOON}, USER | {"user": "u2", "at": NOON}]).to_arrow()
    assert table["seen__total_7d"].type == pa.list_(pa.float64())
    assert table["seen__total_7d"].to_pylist() == [[1.0, 3.0, None], None]
    parts = shop.parts
    records = Records(parts.plan, parts.online, parts.clock, horizon_us=parts.horizon_us)
    (row,) = feature_rows(records.get("seen", "u1"))
    assert msgspec.json.decode(msgspec.json.encode(row["total_1h"])) == [-1e16, 0.0, None]
    features = describe(parts.plan)["components"]["schemas"]["orderFeatures"]["properties"]["features"]["properties"]
    assert features["seen__total_7d"]["items"] == {"type": ["number", "null"]}


def test_what_a_model_was_told_can_be_audited(shop: Project) -> None:
    model = shop.model("risk")
    model.promote(model.train(), why="the first one")
    answer = model.score(USER)
    found = shop.audit(answer.id)
    assert found.equal, str(found)
    (logged,) = [r for r in shop.history("risk", served=True) if r["prediction_id"] == answer.id]
    assert {name: logged[name] for name in EXPECTED} == EXPECTED


def looks(user: str) -> list[dict[str, Any]]:
    return [
        {"user": user, "item": [1.0, 2.0], "at": NOON - timedelta(minutes=5)},
        {"user": user, "item": [1.0, None, 3.0], "at": NOON - timedelta(minutes=4)},
    ]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    plain = [row | {"at": row["at"].isoformat()} for row in rows]
    if path.suffix == ".csv":
        lines = [f'{row["user"]},"{json.dumps(row["item"])}",{row["at"]}' for row in plain]
        path.write_text("\n".join(["user,item,at", *lines, ""]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("door", ["csv", "jsonl", "parquet", "rows"])
def test_a_list_of_another_length_is_a_dead_letter_at_every_door(shop: Project, tmp_path: Path, door: str) -> None:
    if door == "rows":
        receipt = shop.publish("look", looks(door))
    else:
        receipt = shop.publisher.publish_file("look", written(tmp_path / f"looks.{door}", looks(door)))
        shop.settle(wait=False)
    assert receipt.malformed == 1
    assert shop.get("seen", user=door).total["7d"] == [1.0, None, 3.0]
