"""Conformance kit of the ModelRegistry port: derive a test class per adapter, say how to open it and damage it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.core.errors import NotFound, StoreError
from headrace.registry.base import (
    CHALLENGER,
    CHAMPION,
    DatasetRef,
    DataSnapshot,
    ModelRegistry,
    ModelVersion,
    NewVersion,
)
from headrace.testing.capabilities import capability
from headrace.testing.processes import finished, killed_after, register_versions, started, version_of


class RegistryTests(ABC):
    """What every registry does. Override `opener`, `damage` and `raw_numbers`."""

    port = "ModelRegistry"

    @abstractmethod
    def opener(self, place: Path) -> Callable[[], ModelRegistry]:
        """Something that can be pickled and opens the registry of `place`, an absent folder at first, at time 10."""

    @abstractmethod
    def damage(self, place: Path, model: str, number: int, name: str, data: bytes | None) -> None:
        """Replace an artifact by `data` behind the adapter's back, or remove it."""

    @abstractmethod
    def raw_numbers(self, place: Path, model: str) -> list[int]:
        """Numbers of the stored versions of a model in order, read without the methods of the adapter."""

    def set_time(self, registry: ModelRegistry, now_us: int) -> bool:
        """Move the clock of an open registry; False if it is that of a server."""
        return False

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where the registry lies."""
        return tmp_path / "registry"

    @pytest.fixture
    def registry(self, place: Path) -> Iterator[ModelRegistry]:
        """The open registry, empty."""
        opened = self.opener(place)()
        yield opened
        opened.close()

    @capability("versions and files as given, numbered from 1")
    def test_versions_count_from_one_per_model_and_come_back_as_given(
        self, registry: ModelRegistry, place: Path
    ) -> None:
        first = registry.register(version_of("late"), {"model.txt": b"tree", "prep.json": b"{}"})
        timed = self.set_time(registry, 20)
        second = registry.register(version_of("late"), {"model.txt": b"wood" * 100_000})
        other = registry.register(version_of("fraud"), {})
        assert (first.number, second.number, other.number) == (1, 2, 1)
        assert first.created_us <= second.created_us
        if timed:
            assert (first.created_us, second.created_us) == (10, 20)
        assert registry.get("late", 1) == first
        assert registry.get("late", 1).info == version_of("late")
        assert list(registry.list("late")) == [first, second]
        assert list(registry.models()) == ["fraud", "late"]
        assert registry.files("late", 1) == {"model.txt": b"tree", "prep.json": b"{}"}
        assert registry.files("late", 2) == {"model.txt": b"wood" * 100_000}
        assert registry.files("fraud", 1) == {}
        assert [self.raw_numbers(place, model) for model in ("late", "fraud", "none")] == [[1, 2], [1], []]

    @capability("versions and files as given, numbered from 1")
    def test_every_field_of_a_version_comes_back(self, registry: ModelRegistry) -> None:
        given = NewVersion(
            model="ß 漢",
            view="v",
            view_version="0",
            columns=(),
            metrics={"ap": 0.1 + 0.2, "least": 5e-324, "n": -1.5e300},
            snapshot=DataSnapshot(
                rows=2**53 + 1,
                positives=0,
                since_us=-(2**60),
                until_us=2**60,
                as_of={"Flights": [], "Fx": [0, 2**40]},
                dataset=DatasetRef("winter", 3, "ab" * 32),
            ),
            estimator="A('x',\n  \"y\")",
            tags={"": "empty", "run": ""},
        )
        assert registry.register(given, {}).info == given
        assert registry.get("ß 漢", 1).info == given

    @capability("what is not there is named")
    def test_unknown_versions_are_named_with_those_that_there_are(self, registry: ModelRegistry) -> None:
        with pytest.raises(NotFound, match="train it first"):
            registry.get("late", 1)
        registry.register(version_of("late"), {})
        registry.register(version_of("late"), {})
        for refused in (
            lambda: registry.get("late", 3),
            lambda: registry.files("late", 3),
            lambda: registry.set_alias("late", CHAMPION, 3, who="me", why="typo"),
        ):
            with pytest.raises(NotFound, match="no version 3: there are 1 to 2"):
                refused()
        assert list(registry.alias_history("late")) == []
        assert list(registry.list("other")) == []
        assert list(registry.alias_history("other")) == []
        assert registry.alias("other", CHAMPION) is None
        assert registry.generation("other") == 0

    @capability("aliases and the history of their moves")
    def test_aliases_move_and_remember(self, registry: ModelRegistry) -> None:
        registry.register(version_of("late"), {})
        registry.register(version_of("late"), {})
        registry.set_alias("late", CHAMPION, 1, who="loop", why="first model")
        timed = self.set_time(registry, 30)
        registry.set_alias("late", CHALLENGER, 2, who="loop", why="trained")
        moved = registry.set_alias("late", CHAMPION, 2, who="ann", why="AP +0.021\nß")
        registry.set_alias("late", CHALLENGER, None, who="loop", why="is champion")
        assert (moved.previous, moved.number, moved.who, moved.why) == (1, 2, "ann", "AP +0.021\nß")
        assert registry.alias("late", CHAMPION) == 2
        assert registry.alias("late", CHALLENGER) is None
        history = registry.alias_history("late")
        assert [(m.model, m.alias, m.previous, m.number) for m in history] == [
            ("late", CHAMPION, None, 1),
            ("late", CHALLENGER, None, 2),
            ("late", CHAMPION, 1, 2),
            ("late", CHALLENGER, 2, None),
        ]
        assert [m for m in history if m.alias == CHAMPION] == list(registry.alias_history("late", CHAMPION))
        assert history[2] == moved
        times = [m.at_us for m in history]
        assert times == sorted(times)
        if timed:
            assert times == [10, 30, 30, 30]

    @capability("changes are seen by polling one number")
    def test_every_change_of_a_model_moves_its_generation_alone(self, registry: ModelRegistry, place: Path) -> None:
        there = self.opener(place)()
        seen = [there.generation("late")]
        for change in (
            lambda: registry.register(version_of("late"), {"m": b"1"}),
            lambda: registry.set_alias("late", CHAMPION, 1, who="loop", why="first"),
            lambda: registry.set_alias("late", CHAMPION, 1, who="loop", why="again"),
            lambda: registry.set_alias("late", CHAMPION, None, who="loop", why="gone"),
        ):
            change()
            seen.append(there.generation("late"))
        assert seen[0] == 0
        assert seen == sorted(set(seen)), "every change moves the generation"
        registry.register(version_of("fraud"), {})
        assert there.generation("late") == seen[-1]
        there.close()

    @capability("damage of a file is told")
    @pytest.mark.parametrize("data", [b"treE", b"", None], ids=["changed", "emptied", "removed"])
    def test_a_damaged_artifact_is_refused(self, registry: ModelRegistry, place: Path, data: bytes | None) -> None:
        registry.register(version_of("late"), {"model.txt": b"tree", "prep.json": b"{}"})
        registry.register(version_of("late"), {"model.txt": b"tree"})
        self.damage(place, "late", 1, "model.txt", data)
        with pytest.raises(StoreError, match=r"model\.txt"):
            registry.files("late", 1)
        assert registry.files("late", 2) == {"model.txt": b"tree"}

    @capability("names stay in their place")
    @pytest.mark.parametrize("name", ["../escape", "a/b", ".hidden", "", ".."])
    def test_artifact_names_are_plain(self, registry: ModelRegistry, name: str) -> None:
        with pytest.raises(StoreError, match="plain file name"):
            registry.register(version_of("late"), {"good": b"1", name: b""})
        assert list(registry.list("late")) == []
        assert registry.register(version_of("late"), {"good": b"1"}).number == 1

    @capability("names stay in their place")
    def test_model_names_that_look_alike_or_lead_elsewhere_are_kept_apart(self, registry: ModelRegistry) -> None:
        names = ["../x", "x", "X", "a/b", "a%2Fb"]
        for name in names:
            registry.register(version_of(name), {"m": name.encode()})
        assert list(registry.models()) == sorted(names)
        assert [registry.files(name, 1)["m"].decode() for name in names] == names
        with pytest.raises(StoreError, match="cannot be the name"):
            registry.register(version_of(".."), {})

    @capability("threads")
    def test_threads_register_and_move_aliases_at_once(self, registry: ModelRegistry, place: Path) -> None:
        failures: list[BaseException] = []

        def work(who: str) -> None:
            try:
                for _ in range(6):
                    made = registry.register(version_of("late"), {"m": who.encode()})
                    registry.set_alias("late", CHAMPION, made.number, who=who, why="newest")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(f"w{n}",), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert self.raw_numbers(place, "late") == list(range(1, 19))
        _assert_chained(registry, "late", 18)
        owners = [registry.files("late", version.number)["m"].decode() for version in registry.list("late")]
        assert sorted(owners) == sorted(["w0", "w1", "w2"] * 6)

    @capability("everything is there after reopening")
    def test_everything_is_there_after_reopening(self, registry: ModelRegistry, place: Path) -> None:
        made = registry.register(version_of("late"), {"m": b"1"})
        moved = registry.set_alias("late", CHAMPION, 1, who="loop", why="first")
        generation = registry.generation("late")
        registry.close()
        again = self.opener(place)()
        assert [*again.list("late")] == [made]
        assert [*again.alias_history("late")] == [moved]
        assert (again.alias("late", CHAMPION), again.generation("late")) == (1, generation)
        assert again.files("late", 1) == {"m": b"1"}
        assert again.register(version_of("late"), {}).number == 2
        again.close()

    @capability("several processes register")
    def test_processes_register_at_once_without_gaps(self, registry: ModelRegistry, place: Path) -> None:
        with started(register_versions, self.opener(place), "late", 12) as (process, _):
            mine = [registry.register(version_of("late"), {"m": b"here"}).number for _ in range(12)]
            finished(process)
        assert self.raw_numbers(place, "late") == list(range(1, 25))
        assert [v.number for v in registry.list("late") if registry.files("late", v.number)["m"] == b"here"] == mine

    @capability("kill -9 of who registers")
    def test_a_killed_process_leaves_whole_versions_only(self, registry: ModelRegistry, place: Path) -> None:
        for reports in (1, 4, 9):
            reported = killed_after(register_versions, self.opener(place), "late", 10**6, reports=reports)
            with_files = [self._whole(registry, version) for version in registry.list("late")]
            assert with_files == list(range(1, len(with_files) + 1))
            assert len(with_files) >= reported
            assert self.raw_numbers(place, "late") == with_files
        made = registry.register(version_of("late"), {"m": b"after"})
        assert made.number == len(with_files) + 1
        assert registry.files("late", made.number) == {"m": b"after"}

    @staticmethod
    def _whole(registry: ModelRegistry, version: ModelVersion) -> int:
        """The number of a version of `register_versions`; fails unless all of its files are those of one."""
        files = registry.files("late", version.number)
        assert set(files) == {"m", "large"}
        assert files["large"] == files["m"] * 50_000
        return version.number


def _assert_chained(registry: ModelRegistry, model: str, moves: int) -> None:
    """Each move of the champion starts where the one before it ended."""
    history = registry.alias_history(model, CHAMPION)
    assert len(history) == moves
    assert [m.previous for m in history] == [None, *(m.number for m in history[:-1])]
    assert registry.alias(model, CHAMPION) == history[-1].number
