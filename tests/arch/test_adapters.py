"""Each adapter of a port takes exactly the arguments that the port names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC
from functools import cache

import headrace

PORT_PACKAGES = ("eventlog", "stores", "engines", "registry")


@cache
def _classes() -> dict[str, type]:
    """Every class defined in the packages that hold ports, by dotted name."""
    found: dict[str, type] = {}
    for info in pkgutil.walk_packages(headrace.__path__, "headrace."):
        parts = info.name.split(".")
        if len(parts) < 2 or parts[1] not in PORT_PACKAGES:
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == info.name:
                found[f"{info.name}.{name}"] = value
    return found


def _ports() -> dict[str, type]:
    return {
        name: cls
        for name, cls in _classes().items()
        if cls.__module__.endswith(".base") and ABC in cls.__bases__ and inspect.isabstract(cls)
    }


def _parameters(cls: type, method: str) -> list[tuple[str, object, object]]:
    signature = inspect.signature(getattr(cls, method))
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


def test_every_port_has_an_adapter_with_its_signatures() -> None:
    ports = _ports()
    assert len(ports) >= 3, sorted(ports)
    for port_name, port in ports.items():
        adapters = [cls for cls in _classes().values() if issubclass(cls, port) and cls is not port]
        assert adapters, f"{port_name} has no adapter"
        for adapter in adapters:
            assert not inspect.isabstract(adapter), f"{adapter.__qualname__} lacks {adapter.__abstractmethods__}"
            for method in port.__abstractmethods__:
                assert _parameters(adapter, method) == _parameters(port, method), (
                    f"{adapter.__qualname__}.{method} differs from {port_name}"
                )


def test_every_port_can_be_closed_and_says_its_contract() -> None:
    for name, port in _ports().items():
        assert "close" in port.__abstractmethods__, name
        assert len((port.__doc__ or "").split()) > 20, f"{name} does not say its contract"
        for method in port.__abstractmethods__:
            assert inspect.getdoc(getattr(port, method)), f"{name}.{method} is not documented"
