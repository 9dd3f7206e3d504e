"""The model registry against lists, under any sequence of calls by two that hold it open."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headrace.core.errors import NotFound, StoreError
from headrace.registry.base import ModelRegistry
from headrace.testing.capabilities import capability
from headrace.testing.processes import version_of
from tests.conformance.test_registry import OwnRegistry

_MODELS = st.sampled_from(["late", "fraud", "a/b"])
_ALIASES = st.sampled_from(["champion", "challenger", "shadow"])
_FILES = st.dictionaries(st.sampled_from(["m.txt", "p.json", "x"]), st.binary(max_size=30), max_size=3)


@capability("any sequence of calls, against a model")
class LocalRegistryMachine(RuleBasedStateMachine):
    """On a catalog and a folder."""

    port = "ModelRegistry"
    adapter = "catalog and folder"

    def __init__(self) -> None:
        super().__init__()
        self.registries = self.opened()
        self.versions: dict[str, list[dict[str, bytes]]] = {}
        self.moves: dict[str, list[tuple[str, int | None, int | None, str]]] = {}
        self.generations: dict[str, int] = {}

    def opened(self) -> list[ModelRegistry]:
        self.place = Path(tempfile.mkdtemp(prefix="headrace-registry-"))
        return [self.open(), self.open()]

    def open(self) -> ModelRegistry:
        return OwnRegistry(self.place)

    def _alias(self, model: str, alias: str) -> int | None:
        moves = [number for name, _, number, _ in self.moves.get(model, []) if name == alias]
        return moves[-1] if moves else None

    def _grows(self, registry: ModelRegistry, model: str) -> None:
        generation = registry.generation(model)
        assert generation > self.generations.get(model, 0)
        self.generations[model] = generation

    @rule(pick=st.integers(0, 1), model=_MODELS, files=_FILES)
    def register(self, pick: int, model: str, files: dict[str, bytes]) -> None:
        held = self.versions.setdefault(model, [])
        made = self.registries[pick].register(version_of(model), files)
        held.append(files)
        assert (made.number, made.info, set(made.files)) == (len(held), version_of(model), set(files))
        self._grows(self.registries[pick], model)

    @rule(pick=st.integers(0, 1), model=_MODELS, files=_FILES)
    def register_with_a_bad_name(self, pick: int, model: str, files: dict[str, bytes]) -> None:
        with pytest.raises(StoreError):
            self.registries[pick].register(version_of(model), files | {"../x": b""})

    @rule(pick=st.integers(0, 1), model=_MODELS, alias=_ALIASES, number=st.none() | st.integers(1, 5), why=st.text())
    def move(self, pick: int, model: str, alias: str, number: int | None, why: str) -> None:
        registry = self.registries[pick]
        if number is not None and number > len(self.versions.get(model, [])):
            with pytest.raises(NotFound):
                registry.set_alias(model, alias, number, who="me", why=why)
            return
        before = self._alias(model, alias)
        moved = registry.set_alias(model, alias, number, who="me", why=why)
        assert (moved.previous, moved.number) == (before, number)
        self.moves.setdefault(model, []).append((alias, before, number, why))
        self._grows(registry, model)

    @rule(pick=st.integers(0, 1))
    def reopen(self, pick: int) -> None:
        self.registries[pick].close()
        self.registries[pick] = self.open()

    @invariant()
    def both_show_the_same(self) -> None:
        for registry in self.registries:
            assert list(registry.models()) == sorted(model for model, held in self.versions.items() if held)
            for model in ("late", "fraud", "a/b"):
                numbers = [version.number for version in registry.list(model)]
                held = self.versions.get(model, [])
                assert numbers == list(range(1, len(held) + 1))
                assert [registry.files(model, number) for number in numbers[-2:]] == held[-2:]
                history = [(m.alias, m.previous, m.number, m.why) for m in registry.alias_history(model)]
                assert history == self.moves.get(model, [])
                assert registry.generation(model) == self.generations.get(model, 0)
                for alias in ("champion", "challenger", "shadow"):
                    assert registry.alias(model, alias) == self._alias(model, alias)

    def teardown(self) -> None:
        for registry in self.registries:
            registry.close()
        shutil.rmtree(self.place)


def test_a_registry_behaves_like_lists() -> None:
    run_state_machine_as_test(LocalRegistryMachine, settings=settings(stateful_step_count=15, max_examples=8))
