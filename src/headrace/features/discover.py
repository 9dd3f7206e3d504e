"""Finding a project's definitions: `features.py`, or the package `features/`, in the project's folder."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.core.errors import ConfigError, DefinitionError, HeadraceError
from headrace.features.compile import compile_project
from headrace.features.definition import Definition, is_bound
from headrace.features.model import Model
from headrace.features.plan import ProjectPlan
from headrace.features.site import shown_path
from headrace.features.view import FeatureView

CONFIG_FILE = "headrace.toml"
_STAMP = "__headrace_stamp__"


def find_project(start: str | Path | None = None) -> Path:
    """The project's folder: `start` (the current folder) or the nearest one above it with `headrace.toml`; else
    `start` itself. A path of a `features.py` stands for its folder."""
    folder = Path.cwd() if start is None else Path(start)
    folder = (folder.parent if folder.suffix == ".py" else folder).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    return folder


def load_definitions(path: str | Path | None = None) -> list[Any]:
    """Every definition class, view and model made at module level in the project's files, in order.

    Files are imported once, under their module name, and again only when one of them has changed.
    Raises ConfigError if there are no definitions, DefinitionError if a file cannot be imported.
    """
    folder = find_project(path)
    modules = _import(folder, _files(folder))
    found: dict[int, Any] = {}
    for module in modules:
        for value in vars(module).values():
            if _is_definition(value, modules):
                found.setdefault(id(value), value)
    if not found:
        raise ConfigError(f"{shown_path(str(folder))} defines no events, tables, groups, views or models yet")
    return list(found.values())


def load_project(path: str | Path | None = None) -> ProjectPlan:
    """The plan of the project in this folder (or above). Raises as `load_definitions` and `compile_project` do."""
    return compile_project(load_definitions(path))


def _files(folder: Path) -> list[Path]:
    single, package = folder / "features.py", folder / "features"
    if single.is_file():
        return [single]
    if package.is_dir():
        files = sorted(package.rglob("*.py"))
        if files:
            return files
    raise ConfigError(
        f"no definitions in {folder}: write features.py, or a package features/, or name another folder; in a "
        "notebook: hr.connect(definitions=[Payment, Spend, view])"
    )


def _import(folder: Path, files: list[Path]) -> list[ModuleType]:
    stamp = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    root = sys.modules.get("features")
    if root is None or getattr(root, _STAMP, None) != stamp:
        for name in [name for name in sys.modules if name == "features" or name.startswith("features.")]:
            del sys.modules[name]
        for file in files:
            _drop_outdated_bytecode(file)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        modules = [_import_file(folder, file) for file in files]
    finally:
        sys.path.remove(str(folder))
    setattr(sys.modules["features"], _STAMP, stamp)
    return modules


def _drop_outdated_bytecode(file: Path) -> None:
    """Python knows compiled code for that of a source by second and size, and an edit may leave both as they were."""
    with suppress(OSError):
        compiled = Path(importlib.util.cache_from_source(str(file)))
        if compiled.stat().st_mtime_ns <= file.stat().st_mtime_ns:
            compiled.unlink()


def _import_file(folder: Path, file: Path) -> ModuleType:
    parts = file.relative_to(folder).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    try:
        return importlib.import_module(name)
    except HeadraceError:
        raise
    except Exception as error:
        line = _line_in(error, folder)
        raise DefinitionError(f"{line or shown_path(str(file))} {type(error).__name__}: {error}") from error


def _line_in(error: BaseException, folder: Path) -> str | None:
    """File and line of the innermost frame in the project's folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown_path(error.filename)}:{error.lineno}"
    found, trace = None, error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(str(folder)):
            found = f"{shown_path(file)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _is_definition(value: Any, modules: list[ModuleType]) -> bool:
    if isinstance(value, Model | FeatureView):
        return True
    if not isinstance(value, type) or is_bound(value):
        return False
    own = {module.__name__ for module in modules}
    return isinstance(value.__dict__.get("__definition__"), Definition) and value.__module__ in own
