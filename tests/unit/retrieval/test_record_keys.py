"""Keys made for all requests at once are those that are made one by one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

import headrace as hr
from headrace.core.columns import Column, column_of
from headrace.core.keys import key_encoder
from headrace.core.schema import DType
from headrace.features.compile import compile_project
from headrace.retrieval.binding import BoundView
from headrace.retrieval.record_keys import RecordKeys

User, Shop, Day = hr.Entity("user"), hr.Entity("shop"), hr.Entity("day")
FIELDS = {"user": DType.INT, "shop": DType.STRING, "day": DType.TIMESTAMP, "at": DType.TIMESTAMP}


class Parties(hr.Event, abstract=True):
    user: hr.Field[int] = hr.key(User)
    shop: hr.Field[str] = hr.key(Shop)
    day: hr.Field[datetime] = hr.key(Day)
    at: hr.Field[datetime] = hr.event_time()


class Payment(Parties):
    amount: hr.Field[float] = hr.field("in euros")


class Asked(Parties):
    """What is asked."""


class ByUser(hr.FeatureGroup, key=Payment.user):
    n = hr.count(window="1h")


class ByDay(hr.FeatureGroup, key=Payment.day):
    n = hr.count(window="1h")


class ByShop(hr.FeatureGroup, key=Payment.shop):
    n = hr.count(window="1h")


class ByBoth(hr.FeatureGroup, key=(Payment.user, Payment.shop)):
    n = hr.count(window="1h")


NUMBERS = hr.FeatureView("numbers", request=Asked, features=[ByUser, ByDay])
ALL = hr.FeatureView("all", request=Asked, features=[ByShop, ByUser, ByBoth, ByDay])
PLAN = compile_project([Payment, Asked, ByUser, ByDay, ByShop, ByBoth, NUMBERS, ALL])
ROWS = [
    {"user": 7, "shop": "a", "day": 1_700_000_000_000_000, "at": 0},
    {"user": -1, "shop": "", "day": 0, "at": 0},
    {"user": None, "shop": "ä" * 300, "day": -5, "at": 0},
    {"user": 7, "shop": None, "day": None, "at": 0},
    {"user": 2**63 - 1, "shop": "a", "day": 1, "at": 0},
]


@pytest.mark.parametrize("view", ["numbers", "all"])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:2], ROWS[:1], ROWS[2:3], ROWS[3:4], []], ids=len)
def test_every_binding_of_every_row_has_its_key(view: str, rows: list[dict[str, Any]]) -> None:
    sources = BoundView(PLAN.views[view], PLAN).sources
    request: dict[str, Column] = {name: column_of(dtype, [row[name] for row in rows]) for name, dtype in FIELDS.items()}
    keys, places = RecordKeys(sources).of(request, len(rows))
    assert places.shape == (len(rows), len(sources))
    listed = keys.listed()
    for row, found in zip(rows, places.tolist(), strict=True):
        for source, place in zip(sources, found, strict=True):
            parts = tuple(row[name] for name in source.binding.request_keys)
            if None in parts:
                assert place == -1
            else:
                assert listed[place] == key_encoder(source.key_dtypes, source.version)(parts)
