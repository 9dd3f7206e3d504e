"""Sums and means of lists in worlds of a few events: every read compares all paths with the oracle."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

import headrace as hr
from headrace.core.errors import DefinitionError, PlanError
from headrace.testing import given, late

User = hr.Entity("user")
Item = hr.Entity("item")
WIDE = 64


def t(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-02T{clock}").replace(tzinfo=timezone.utc)


class Pearl(hr.Table):
    item: hr.Field[str] = hr.key(Item)
    vector: hr.Field[list[float]] = hr.field(size=2)
    at: hr.Field[datetime] = hr.event_time()


class Look(hr.Event):
    look_id: hr.Field[str] = hr.id()
    user: hr.Field[str] = hr.key(User)
    item: hr.Field[str] = hr.key(Item)
    seconds: hr.Field[float | None]
    felt: hr.Field[list[float] | None] = hr.field(size=2)
    wide: hr.Field[list[float] | None] = hr.field(size=WIDE)
    at: hr.Field[datetime] = hr.event_time()


class Seen(Look):
    vector = Pearl.vector


class Feelings(hr.FeatureGroup, key=Look.user):
    sums = hr.sum(Look.felt, window=["10m", "1d"])
    ever = hr.sum(Look.felt)
    mean = hr.mean(Look.felt, window="1h", delay="10m")
    long = hr.mean(Look.felt, where=Look.seconds > 10, window="1h")
    wide = hr.mean(Look.wide, window="1d")
    first, newest = hr.first(Look.felt), hr.last(Look.felt, window="1h", delay="1m")
    filled = hr.sum(Look.felt.fill_null(Look.felt), window="1d", hop="1h")


class Liked(hr.FeatureGroup, key=Seen.user):
    mean = hr.mean(Seen.vector, window="1d")
    alike = mean.cosine(Feelings.ever)


class Now(hr.OnRequest):
    alike = Liked.mean.cosine(Pearl.vector)


view = hr.FeatureView("look", request=Look, features=[Feelings, Liked, Now])


def look(n: int, at: datetime, felt: list[float] | None = None, seconds: float | None = None, item: str = "a") -> Look:
    return Look(
        look_id=str(n), user="ann", item=item, seconds=seconds, felt=felt, wide=[float(n)] * (WIDE - 1) + [0.1], at=at
    )


def test_lists_are_added_by_position_and_skip_what_is_null() -> None:
    world = given(
        Pearl(item="a", vector=[1.0, 0.0], at=t("09:00")),
        Pearl(item="b", vector=[0.0, 3.0], at=t("09:00")),
        look(1, t("10:00"), [1e16, None]),  # type: ignore[list-item]
        late(look(2, t("11:05"), [1.0, -0.0], 20.0, "b"), by="20m"),
        look(3, t("11:10"), None, 30.0),
        look(4, t("11:55"), [-1e16, None], 5.0, "b"),  # type: ignore[list-item]
    )
    row = world.online(view, look(5, t("12:00")))
    assert row[Feelings.sums["10m"]] == [-1e16, None]
    assert row[Feelings.sums["1d"]] == row[Feelings.ever] == row[Feelings.filled] == [1.0, 0.0]
    assert row[Feelings.mean] == row[Feelings.long] == [1.0, 0.0]
    assert (row[Feelings.first], row[Feelings.newest]) == ([1e16, None], [-1e16, None])
    assert row[Feelings.wide] == [2.5] * (WIDE - 1) + [0.1]
    assert row[Liked.mean] == [0.5, 1.5]
    assert row[Now.alike] == pytest.approx(0.1**0.5)
    nobody = Look(look_id="6", user="bob", item="a", seconds=None, felt=None, wide=None, at=t("12:00"))
    assert [world.online(view, nobody)[column] for column in (Feelings.ever, Feelings.first)] == [None, None]
    rows = world.history(view, [look(5, t("12:00")), look(7, t("11:30"))])
    assert rows.to_arrow()["feelings__mean"].to_pylist() == [[1.0, 0.0], [1.0, 0.0]]


def test_lists_take_no_buckets_and_no_other_aggregation() -> None:
    with pytest.raises(DefinitionError, match=r"hr.sum of lists takes no by="):

        class ByItem(hr.FeatureGroup, key=Look.user):
            sums = hr.sum(Look.felt, by=Look.item, window="1d")  # type: ignore[call-overload]

    with pytest.raises(DefinitionError, match=r"hr.max does not take list\[float\]"):

        class Greatest(hr.FeatureGroup, key=Look.user):
            most = hr.max(Look.felt, window="1d")


def test_lists_of_two_lengths_do_not_go_together() -> None:
    class Mixed(hr.FeatureGroup, key=Look.user):
        sums = hr.sum(Look.felt.fill_null(Look.wide), window="1d")
        near = hr.max(Look.felt.cosine(Look.wide), window="1d")

    with pytest.raises((PlanError, DefinitionError), match="lists of 2 and 64 elements do not go together") as failed:
        given().get(Mixed, user="ann", at=t("12:00"))
    assert "sums" in str(failed.value)
    assert "near" in str(failed.value)
