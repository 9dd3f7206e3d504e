"""Data sets: named, versioned, the same for good, and read again bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from headrace.app.project import Project
from headrace.core.errors import ConfigError, NotFound, StoreError
from headrace.core.time import SimulatedClock, to_us
from tests.e2e.shop import orders, outcomes, write_shop
from tests.unit.app.conftest import NOON


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Project]:
    """A shop with 400 orders and their outcomes."""
    with Project.open(write_shop(tmp_path / "shop"), clock=SimulatedClock(to_us(NOON))) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past[:-1]))
        yield project


def test_the_same_call_gives_the_same_bytes_whatever_comes_later(history: Project) -> None:
    first = history.dataset("june", "risk", until=NOON)
    assert (len(first), first.info.version, first.info.unlabelled) == (399, 1, 1)
    now = history.history("risk", until=NOON)
    assert first.rows.to_arrow().equals(now.to_arrow())
    assert first.info.snapshot == first.rows.snapshot == now.snapshot == history.snapshot("order", NOON).snapshot
    data = first.file.read_bytes()
    # An outcome that comes late changes history, and not what was kept of it.
    history.publish("outcome", outcomes(orders(400, NOON - timedelta(hours=2), step_s=1000))[-1:])
    history.put("profile", [{"user": "u1", "age": 30, "city": None, "at": NOON - timedelta(days=9)}])
    same = history.dataset("june", "risk", until=NOON.isoformat())
    assert same.file.read_bytes() == data
    assert same.info == first.info
    assert history.datasets.verify(same)
    newer = history.dataset("june", "risk", until=NOON, refresh=True)
    assert (newer.info.version, len(newer)) == (2, 400)
    assert newer.info.snapshot != first.info.snapshot
    assert [info.version for info in history.datasets.all()] == [1, 2]
    assert history.dataset("june", version=1).info == first.info
    # Made again after it was deleted, it is another version of the newest data.
    assert [info.version for info in history.datasets.delete("june")] == [1, 2]
    again = history.dataset("june", "risk", until=NOON)
    assert again.info.version == 3
    assert again.info.sha256 == newer.info.sha256


def test_negatives_are_drawn_by_the_seed_and_weighed(history: Project) -> None:
    whole = history.dataset("all", "risk", until=NOON)
    some = history.dataset("some", "risk", until=NOON, negatives=1.5, seed=7)
    labels, weights = np.array(some.rows["label"]), np.array(some.rows["weight"])
    positives = sum(whole.rows["label"])
    assert (some.info.positives, int(labels.sum()), len(labels)) == (positives, positives, round(2.5 * positives))
    assert set(weights[labels]) == {1.0}
    assert weights.sum() == pytest.approx(len(whole))
    kept = dict(zip(whole.rows["order_id"], whole.rows, strict=True))
    assert all(row == {**kept[row["order_id"]], "weight": row["weight"]} for row in some.rows)
    assert some.rows["at"] == sorted(some.rows["at"])
    assert history.datasets.verify(some)
    other = history.dataset("some", "risk", until=NOON, negatives=1.5, seed=8)
    assert (other.info.version, other.rows["order_id"] == some.rows["order_id"]) == (2, False)
    with pytest.raises(ConfigError, match="above 0"):
        history.dataset("some", "risk", until=NOON, negatives=0)
    with pytest.raises(ConfigError, match="true or false"):
        history.dataset("some", "order", until=NOON, negatives=1)


def test_parts_lie_one_after_the_other_with_a_gap(history: Project) -> None:
    data = history.dataset("june", "risk", until=NOON)
    split = data.split(validation=0.2, test=0.2, embargo="1h")
    times = [np.array(part.columns["at"].values) for part in (split.train, split.validation, split.test)]
    assert [len(t) for t in times[2:]] == [80]
    assert split.test_from_us is not None
    assert times[0].max() < split.validation_from_us - 3_600_000_000
    assert times[1].min() == split.validation_from_us
    assert split.validation_from_us < times[1].max() < split.test_from_us - 3_600_000_000
    assert sum(map(len, times)) + split.left_out == 399
    assert split.left_out > 0
    # The label waits an hour: that is the gap if none is named.
    assert data.split(validation=0.2, test=0.2).left_out == split.left_out
    at = NOON - timedelta(days=1)
    later = data.split(validation=at, test=None, embargo="0s")
    assert (later.validation_from_us, later.left_out, len(later.test)) == (to_us(at), 0, 0)
    with pytest.raises(ConfigError, match="data set june"):
        data.split(validation=0.6, test=0.5)


def test_what_is_not_there_or_was_touched_is_said(history: Project) -> None:
    with pytest.raises(ConfigError, match="until when"):
        history.dataset("june", "risk")
    with pytest.raises(ConfigError, match="no name of a data set"):
        history.dataset("../june", "risk", until=NOON)
    data = history.dataset("june", "order", until=NOON)
    with pytest.raises(NotFound, match="did you mean june"):
        history.dataset("jun")
    with pytest.raises(NotFound, match="no version 4; it has 1"):
        history.dataset("june", version=4)
    data.file.write_bytes(b"other")
    with pytest.raises(StoreError, match="not what was stored"):
        _ = history.dataset("june").rows


def test_lists_and_maps_are_kept_and_have_what_statistics_they_can(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    features = folder / "features.py"
    nested = """    last = hr.last(Order.amount)
    often = hr.top_k(Order.amount, k=2, window="7d")
    by_order = hr.count(by=Order.order_id, window="7d")
    lately = hr.last_n(Order.amount, n=3, window="7d")"""
    text = features.read_text().replace("    last = hr.last(Order.amount)", nested)
    features.write_text(text)
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        project.publish("order", orders(40, NOON - timedelta(hours=2), step_s=1000))
        data = project.dataset("june", "order", until=NOON)
        assert data.rows.to_arrow().equals(project.history("order", until=NOON).to_arrow())
        assert project.datasets.verify(data)
        found = project.statistics("order", until=NOON)
        assert found["spend__lately"].count == 40
        assert (found["spend__lately"].distinct, found["spend__by_order"].max) == (None, None)
        at = project.snapshot("spend", NOON)
        assert project.history(["spend"], at.to_arrow().select(["user", "at"])).to_arrow().equals(at.to_arrow())
