"""The local registry: versions are whole or absent, aliases move with their history, damage is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.catalog.catalog import Catalog
from headrace.core.errors import NotFound, StoreError
from headrace.core.time import SimulatedClock
from headrace.registry.base import CHALLENGER, CHAMPION, DataSnapshot, ModelRegistry, NewVersion
from headrace.registry.local import LocalModelRegistry

SNAPSHOT = DataSnapshot(
    rows=100, positives=20, since_us=0, until_us=50, as_of={"Flights": [7, 9]}, tables={"Flights": 3}, dataset_hash="ab"
)


def version(model: str = "late") -> NewVersion:
    return NewVersion(
        model=model,
        view="flight",
        view_version="v1",
        columns=("a", "b"),
        metrics={"average_precision": 0.31},
        snapshot=SNAPSHOT,
        feature_versions={"a": "1f", "b": "2e"},
        estimator="LGBMClassifier()",
    )


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(10)


@pytest.fixture
def catalog(tmp_path: Path, clock: SimulatedClock) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "c.db", clock)
    yield opened
    opened.close()


@pytest.fixture
def registry(catalog: Catalog, tmp_path: Path) -> LocalModelRegistry:
    return LocalModelRegistry(catalog, tmp_path / "models")


def test_versions_count_from_one_per_model_and_come_back_as_given(
    registry: ModelRegistry, clock: SimulatedClock
) -> None:
    first = registry.register(version(), {"model.txt": b"tree", "prep.json": b"{}"})
    clock.advance_to(20)
    second = registry.register(version(), {"model.txt": b"wood"})
    other = registry.register(version("fraud"), {})
    assert (first.number, second.number, other.number) == (1, 2, 1)
    assert (first.created_us, second.created_us) == (10, 20)
    assert registry.get("late", 1) == first
    assert registry.get("late", 1).info == version()
    assert registry.list("late") == [first, second]
    assert registry.models() == ["fraud", "late"]
    assert registry.files("late", 1) == {"model.txt": b"tree", "prep.json": b"{}"}
    assert registry.files("late", 2) == {"model.txt": b"wood"}


def test_unknown_versions_are_named_with_those_that_there_are(registry: ModelRegistry) -> None:
    with pytest.raises(NotFound, match="train it first"):
        registry.get("late", 1)
    registry.register(version(), {})
    registry.register(version(), {})
    with pytest.raises(NotFound, match="no version 3: there are 1 to 2"):
        registry.get("late", 3)
    with pytest.raises(NotFound, match="no version 3: there are 1 to 2"):
        registry.set_alias("late", CHAMPION, 3, who="me", why="typo")
    assert registry.alias_history("late") == []
    assert registry.list("other") == []
    assert registry.alias("other", CHAMPION) is None


def test_aliases_move_and_remember(registry: ModelRegistry, clock: SimulatedClock) -> None:
    registry.register(version(), {})
    registry.register(version(), {})
    registry.set_alias("late", CHAMPION, 1, who="loop", why="first model")
    clock.advance_to(30)
    registry.set_alias("late", CHALLENGER, 2, who="loop", why="trained")
    moved = registry.set_alias("late", CHAMPION, 2, who="ann", why="AP +0.021")
    registry.set_alias("late", CHALLENGER, None, who="loop", why="is champion")
    assert (moved.previous, moved.number, moved.at_us, moved.who, moved.why) == (1, 2, 30, "ann", "AP +0.021")
    assert registry.alias("late", CHAMPION) == 2
    assert registry.alias("late", CHALLENGER) is None
    moves = [(m.alias, m.previous, m.number) for m in registry.alias_history("late")]
    assert moves == [(CHAMPION, None, 1), (CHALLENGER, None, 2), (CHAMPION, 1, 2), (CHALLENGER, 2, None)]
    assert [m.at_us for m in registry.alias_history("late", CHAMPION)] == [10, 30]


def test_another_process_sees_a_promotion_at_once(registry: ModelRegistry, tmp_path: Path) -> None:
    there_catalog = Catalog(tmp_path / "c.db", SimulatedClock(0))
    there = LocalModelRegistry(there_catalog, tmp_path / "models")
    seen = [there.generation("late")]
    registry.register(version(), {"m": b"1"})
    seen.append(there.generation("late"))
    registry.set_alias("late", CHAMPION, 1, who="loop", why="first")
    seen.append(there.generation("late"))
    assert seen[0] == 0
    assert seen == sorted(set(seen)), "every change moves the generation"
    assert there.alias("late", CHAMPION) == 1
    assert there.files("late", 1) == {"m": b"1"}
    there_catalog.close()


def test_generations_of_models_are_apart(registry: ModelRegistry) -> None:
    registry.register(version(), {})
    before = registry.generation("late")
    registry.register(version("fraud"), {})
    assert registry.generation("late") == before


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_damaged_artifact_is_refused(registry: ModelRegistry, tmp_path: Path, damage: str) -> None:
    registry.register(version(), {"model.txt": b"tree"})
    path = tmp_path / "models" / "late" / "1" / "model.txt"
    assert path.read_bytes() == b"tree"
    if damage == "changed":
        path.write_bytes(b"treE")
    else:
        path.unlink()
    with pytest.raises(StoreError, match=r"late/1/model\.txt"):
        registry.files("late", 1)


def test_a_crash_between_files_and_record_costs_no_number(registry: ModelRegistry, tmp_path: Path) -> None:
    left_over = tmp_path / "models" / "late" / "1"
    left_over.mkdir(parents=True)
    (left_over / "half.txt").write_bytes(b"half")
    made = registry.register(version(), {"model.txt": b"tree"})
    assert made.number == 1
    assert sorted(path.name for path in left_over.iterdir()) == ["model.txt"]


def test_a_failed_registration_leaves_no_version(registry: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"in the way")
    with pytest.raises(StoreError, match="was not registered"):
        registry.register(version(), {"model.txt": b"tree"})
    (tmp_path / "models").unlink()
    assert registry.list("late") == []
    assert registry.register(version(), {"model.txt": b"tree"}).number == 1


@pytest.mark.parametrize("name", ["../escape", "a/b", ".hidden", ""])
def test_artifact_names_stay_in_their_folder(registry: ModelRegistry, name: str) -> None:
    with pytest.raises(StoreError, match="plain file name"):
        registry.register(version(), {name: b""})


def test_model_names_stay_in_their_folder(registry: ModelRegistry, tmp_path: Path) -> None:
    registry.register(version("../x"), {"m": b"1"})
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["..%2Fx"]
    with pytest.raises(StoreError, match="cannot be the name"):
        registry.register(version(".."), {})
