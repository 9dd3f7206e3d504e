"""The model registry on catalog and folder against its kit, and what only a folder can do wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from headrace.catalog.catalog import Catalog
from headrace.core.errors import StoreError
from headrace.core.time import SimulatedClock
from headrace.registry.base import ModelRegistry
from headrace.registry.local import LocalModelRegistry
from headrace.testing.processes import version_of
from headrace.testing.registry import RegistryTests


class OwnRegistry(LocalModelRegistry):
    """A registry with a catalog of its own."""

    def __init__(self, place: Path) -> None:
        self.clock = SimulatedClock(10)
        place.mkdir(exist_ok=True)
        self._catalog = Catalog(place / "c.db", self.clock)
        super().__init__(self._catalog, place / "models")

    def close(self) -> None:
        self._catalog.close()


class TestLocalModelRegistry(RegistryTests):
    adapter = "catalog and folder"

    def opener(self, place: Path) -> Callable[[], ModelRegistry]:
        return partial(OwnRegistry, place)

    def damage(self, place: Path, model: str, number: int, name: str, data: bytes | None) -> None:
        path = place / "models" / quote(model, safe="") / str(number) / name
        assert path.is_file()
        path.unlink()
        if data is not None:
            path.write_bytes(data)

    def raw_numbers(self, place: Path, model: str) -> list[int]:
        with closing(sqlite3.connect(place / "c.db")) as plain:
            rows = plain.execute("SELECT number FROM model_versions WHERE model = ? ORDER BY number", (model,))
            return [number for (number,) in rows]

    def set_time(self, registry: ModelRegistry, now_us: int) -> bool:
        assert isinstance(registry, OwnRegistry)
        registry.clock.advance_to(now_us)
        return True

    def test_a_crash_between_files_and_record_costs_no_number(self, registry: ModelRegistry, place: Path) -> None:
        left_over = place / "models" / "late" / "1"
        left_over.mkdir(parents=True)
        (left_over / "half.txt").write_bytes(b"half")
        made = registry.register(version_of("late"), {"model.txt": b"tree"})
        assert made.number == 1
        assert sorted(path.name for path in left_over.iterdir()) == ["model.txt"]

    def test_a_failed_registration_leaves_no_version(self, registry: ModelRegistry, place: Path) -> None:
        (place / "models").write_bytes(b"in the way")
        with pytest.raises(StoreError, match="was not registered"):
            registry.register(version_of("late"), {"model.txt": b"tree"})
        (place / "models").unlink()
        assert registry.list("late") == []
        assert registry.register(version_of("late"), {"model.txt": b"tree"}).number == 1

    def test_model_names_stay_in_their_folder(self, registry: ModelRegistry, place: Path) -> None:
        registry.register(version_of("../x"), {"m": b"1"})
        assert [path.name for path in (place / "models").iterdir()] == ["..%2Fx"]
