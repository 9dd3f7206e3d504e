"""An archive that is larger than the memory allowed is cut by key into parts on disk, and gives the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import headrace as hr
from headrace.core.time import SimulatedClock, parse_time
from headrace.retrieval import events, history, latest, spill

START_US = parse_time("2025-03-01")
User = hr.Entity("user")
EVENTS, ASKED = 4_000, 900


class Visit(hr.Event):
    id: hr.Field[str] = hr.id()
    user: hr.Field[str | None] = hr.key(User)
    shop: hr.Field[int]
    at: hr.Field[datetime] = hr.event_time()
    spent: hr.Field[float | None]


class ByUser(hr.FeatureGroup, key=Visit.user):
    n = hr.count(window=["1h", "1d"])
    spent = hr.sum(Visit.spent, window="1d", where=Visit.shop != 3)
    last = hr.last(Visit.spent, window="7d")
    ever = hr.count()


class ByUserAndShop(hr.FeatureGroup, key=(Visit.user, Visit.shop)):
    most = hr.max(Visit.spent, window="7d")
    spread = hr.std(Visit.spent, window="7d")


class Profile(hr.Table, ttl="5d"):
    user: hr.Field[str] = hr.key(User)
    at: hr.Field[datetime] = hr.event_time()
    age: hr.Field[int | None]
    city: hr.Field[str | None]
    taste: hr.Field[list[float] | None] = hr.field(size=2)


DEFINITIONS = [Visit, ByUser, ByUserAndShop, Profile]


def filled(folder: Path, **settings: Any) -> hr.Project:
    """A project whose events and rows are archived but for the last ones."""
    clock = SimulatedClock(START_US)
    project = hr.connect(folder, definitions=DEFINITIONS, clock=clock, sync=False, **settings)
    random = np.random.default_rng(3)
    for part in range(4):
        clock.advance_to(START_US + (part + 1) * 86_400_000_000)
        at = START_US + part * 86_400_000_000 + random.integers(0, 3_600_000_000 * 24, EVENTS // 4)
        users = [None if u == 0 else f"user-{u}" for u in random.zipf(1.3, EVENTS // 4) % 97]
        spent = np.where(random.random(EVENTS // 4) < 0.1, np.nan, random.exponential(50.0, EVENTS // 4))
        project.publish(
            Visit,
            pa.table(
                {
                    "id": [f"{part}-{i}" for i in range(EVENTS // 4)],
                    "user": users,
                    "shop": random.integers(0, 5, EVENTS // 4),
                    "at": pa.array(at, pa.timestamp("us", "UTC")),
                    "spent": pa.array(spent, from_pandas=True),
                }
            ),
        )
        rows = [
            {
                "user": f"user-{u}",
                "at": START_US + part * 86_400_000_000 + int(random.integers(0, 3_600_000_000)),
                "age": None if u % 5 == 0 else int(random.integers(18, 90)),
                "city": None if u % 7 == 0 else f"city {random.integers(0, 9)}",
                "taste": None if u % 3 == 0 else random.random(2).tolist(),
            }
            for u in range(1, 60)
        ]
        project.put(Profile, rows)
        project.settle()
        if part == 2:
            archive = project.parts.archive()
            while archive.step():
                pass
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> hr.Project:
    return filled(tmp_path_factory.mktemp("large"))


def spine() -> pa.Table:
    random = np.random.default_rng(4)
    return pa.table(
        {
            "row": np.arange(ASKED),
            "user": [None if u == 0 else f"user-{u}" for u in random.integers(0, 120, ASKED)],
            "shop": random.integers(0, 7, ASKED),
            "at": pa.array(START_US + random.integers(0, 6 * 86_400_000_000, ASKED), pa.timestamp("us", "UTC")),
        }
    )


@pytest.mark.parametrize("as_of", [None, "2025-03-03"])
def test_many_parts_give_the_bits_of_one(
    project: hr.Project, as_of: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[tuple[int, int, int]] = []

    def watched(*arguments: Any) -> Iterator[tuple[int, int, pa.Table]]:
        for low, high, rows in spill.parts_by_key(*arguments):
            parts.append((low, high, rows.num_rows))
            yield low, high, rows

    monkeypatch.setattr(events, "parts_by_key", watched)
    monkeypatch.setattr(latest, "parts_by_key", watched)
    what = [ByUser, ByUserAndShop, Profile]
    in_memory = project.history(what, spine(), as_of=as_of).to_arrow()
    assert not parts
    small = hr.connect(project.settings.folder, definitions=DEFINITIONS, clock=project.clock, history_mb=0, sync=False)
    cut = small.history(what, spine(), as_of=as_of).to_arrow()
    assert cut.equals(in_memory)
    assert sum(1 for low, _, _ in parts if low == 0) == 3
    assert len(parts) > 100
    # No row is in two parts, and those that nobody asks for are in none.
    for (_, end, _), (start, _, _) in itertools.pairwise(parts):
        assert start in (end, 0)
    assert cut["by_user__n_1d"].null_count < ASKED
    assert cut["profile__city"].null_count < ASKED
    assert cut["profile__taste"].null_count < ASKED


@pytest.mark.parametrize("as_of", [None, "2025-03-03"])
def test_keys_shared_out_to_cores_give_the_bits_of_one_core(
    project: hr.Project, as_of: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ranges = history._shares, []

    def watched(*arguments: Any) -> list[tuple[int, int]]:
        ranges.append(real(*arguments))
        return ranges[-1]

    monkeypatch.setattr(history, "_SHARED", 0)
    monkeypatch.setattr(history, "_shares", watched)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(history, "cores", lambda count=count: count)
        found.append(project.history([ByUser, ByUserAndShop], spine(), as_of=as_of).to_arrow())
    assert found[0].equals(found[1])
    assert [len(shares) for shares in ranges] == [1, 1, 3, 3]
    for shares in ranges:
        assert shares[0][0] == 0
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(shares))
    assert [shares[-1][1] for shares in ranges[:2]] == [shares[-1][1] for shares in ranges[2:]]


def test_parts_hold_what_is_allowed_unless_one_key_has_more() -> None:
    random = np.random.default_rng(5)
    codes = np.where(random.random(5_000) < 0.3, 7, random.integers(-1, 40, 5_000)).astype(np.int32)
    table = pa.table({"code": codes, "row": np.arange(5_000)})
    batches = [table.slice(start, 100) for start in range(0, 5_000, 100)]
    found = list(spill.parts_by_key(batches, batches, lambda batch: np.array(batch["code"]), 40, 200))
    assert [low for low, _, _ in found] == [0, *[high for _, high, _ in found[:-1]]]
    assert found[-1][1] == 41
    for low, high, rows in found:
        held = codes[(codes >= low) & (codes < high)]
        assert rows.num_rows == len(held) <= 200 + max(np.bincount(held, minlength=1))
        assert rows["row"].to_pylist() == np.flatnonzero((codes >= low) & (codes < high)).tolist()
        assert np.array_equal(rows[spill.CODE], codes[rows["row"]])


def test_nothing_on_disk_is_left_behind(project: hr.Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small = hr.connect(project.settings.folder, definitions=DEFINITIONS, clock=project.clock, history_mb=0, sync=False)
    assert len(small.history([ByUser], spine())) == ASKED
    assert list(tmp_path.iterdir()) == []
