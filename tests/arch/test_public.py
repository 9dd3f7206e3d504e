"""What is public is said once, in `__all__`, and is true."""

from __future__ import annotations

import builtins
import importlib
import pkgutil
from types import ModuleType

import pytest

import headrace

PACKAGES = ["headrace"] + [info.name for info in pkgutil.walk_packages(headrace.__path__, "headrace.") if info.ispkg]
FLAGS = ("annotations", "TYPE_CHECKING")


def public_names(package: ModuleType) -> set[str]:
    """Names without underscore that the package's own file binds, submodules and flags of the language left out."""
    return {
        name
        for name, value in vars(package).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and name not in ("annotations", "TYPE_CHECKING")
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_all_agrees_with_what_is_there(name: str) -> None:
    package = importlib.import_module(name)
    declared = list(getattr(package, "__all__", []))
    assert len(declared) == len(set(declared)), "a name stands twice in __all__"
    for public in declared:
        getattr(package, public)
    left_out = public_names(package) - set(declared)
    if package is headrace:
        left_out -= set(dir(builtins))
    assert not left_out, f"{name} binds public names that __all__ lacks"


def test_star_import_hides_no_builtin() -> None:
    assert set(headrace.__all__).isdisjoint(dir(builtins))
    assert headrace.__all__, "the package publishes nothing"


def test_every_public_name_is_documented() -> None:
    bare = [name for name in headrace.__all__ if not (getattr(headrace, name).__doc__ or "").strip()]
    assert not bare
