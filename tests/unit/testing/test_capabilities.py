"""Marks of the conformance kits: what counts for an adapter, and that no test of a kit is left out."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC

import headrace.testing
from headrace.testing.capabilities import capability, proved, unmarked


class Kit:
    @capability("keeps what it is given")
    def test_kept(self) -> None: ...

    @capability("keeps what it is given")
    def test_kept_in_order(self) -> None: ...

    @capability("forgets")
    def test_forgotten(self) -> None: ...

    def test_of_something(self) -> None: ...


class Adapter(Kit):
    @capability("flies")
    def test_flies(self) -> None: ...

    def test_forgotten(self) -> None:
        """Does not run the kit's own."""


@capability("any order")
class Machine: ...


class AdaptersMachine(Machine): ...


def test_an_adapter_can_what_it_inherits_and_what_its_own_tests_say() -> None:
    assert proved(Adapter) == {"keeps what it is given": ["test_kept", "test_kept_in_order"], "flies": ["test_flies"]}
    assert proved(AdaptersMachine) == {"any order": ["AdaptersMachine"]}
    assert unmarked(Adapter) == ["test_forgotten", "test_of_something"]


def test_every_test_of_a_kit_says_what_it_proves() -> None:
    kits = [
        value
        for info in pkgutil.iter_modules(headrace.testing.__path__)
        for value in vars(importlib.import_module(f"headrace.testing.{info.name}")).values()
        if inspect.isclass(value) and ABC in value.__mro__ and hasattr(value, "port")
    ]
    assert {kit.port for kit in kits} >= {"EventLog", "OnlineStore", "OfflineStore", "Catalog", "ModelRegistry"}
    silent = {kit.__name__: names for kit in kits if (names := unmarked(kit))}
    assert not silent, "mark these with @capability(...) and run: make docs"
