"""One reader, asked again and again: what it remembers never changes an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.core.columns import Column, column_of
from headrace.core.errors import HorizonError
from headrace.core.schema import DType
from headrace.core.time import US_PER_MINUTE
from headrace.retrieval.online import OnlineReader
from tests.unit.serving.shop import HORIZON_US, PROJECT, START, VIEW, Shop, opened


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with opened(tmp_path) as shop:
        yield shop


@pytest.fixture
def reader(shop: Shop) -> OnlineReader:
    return OnlineReader(VIEW, PROJECT, shop.store, horizon_us=HORIZON_US)


def asked(*users: str | None, minute: int = 20) -> dict[str, Column]:
    n = len(users)
    return {
        "payment_id": column_of(DType.STRING, [f"q{i}" for i in range(n)]),
        "user": column_of(DType.STRING, list(users)),
        "amount": column_of(DType.FLOAT, [6.0] * n),
        "channel": column_of(DType.STRING, ["app"] * n),
        "at": column_of(DType.TIMESTAMP, [START + minute * US_PER_MINUTE] * n),
    }


def counts(reader: OnlineReader, *users: str | None, minute: int = 20) -> list[int | None]:
    return reader.read(asked(*users, minute=minute)).to_pydict()["spend__n_1h"]


def test_a_reader_follows_the_store(shop: Shop, reader: OnlineReader) -> None:
    empty = reader.read(asked("ann"))
    assert not empty.position.streams
    shop.pay(("p1", "ann", 2.0, 10))
    first = reader.read(asked("ann"))
    shop.pay(("p2", "ann", 4.0, 11))
    second = reader.read(asked("ann"))
    assert [block.to_pydict()["spend__n_1h"] for block in (empty, first, second)] == [[0], [1], [2]]
    assert [block.position.streams["Payment"] for block in (first, second)] == [[1], [2]]
    assert second.to_pydict()["ratio"] == [2.0]


def test_requests_for_the_same_and_for_other_entities_keep_their_rows(shop: Shop, reader: OnlineReader) -> None:
    shop.pay(("p1", "ann", 2.0, 10), ("p2", "bob", 4.0, 11), ("p3", "ann", 6.0, 12))
    assert counts(reader, "bob", "ann", None, "cy", "ann", "bob") == [1, 2, 0, 0, 2, 1]
    assert counts(reader) == []


def test_the_horizon_moves_with_the_newest_event(shop: Shop, reader: OnlineReader) -> None:
    shop.pay(("p1", "ann", 2.0, 5))
    assert counts(reader, "ann", minute=6) == [1]
    shop.pay(("p2", "bob", 2.0, 25))
    with pytest.raises(HorizonError, match="as-of horizon of 10m"):
        reader.read(asked("ann", minute=6))
    assert counts(reader, "ann", minute=15) == [1]
