"""Model registry on the catalog and a folder of artifacts: `<folder>/<model>/<number>/<file>`."""

from __future__ import annotations

import builtins
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from headrace.core.errors import NotFound, StoreError
from headrace.registry.base import AliasChange, ModelRegistry, ModelVersion, NewVersion

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ModelVersion)


class AliasRecord(Protocol):
    """A stored move of an alias."""

    @property
    def model(self) -> str: ...
    @property
    def alias(self) -> str: ...
    @property
    def number(self) -> int | None: ...
    @property
    def previous(self) -> int | None: ...
    @property
    def at_us(self) -> int: ...
    @property
    def who(self) -> str: ...
    @property
    def why(self) -> str: ...


class VersionTables(Protocol):
    """What the registry asks of the catalog (see `catalog.models.ModelTables`)."""

    def add_version(self, model: str, make: Callable[[int, int], str]) -> int: ...
    def names(self) -> list[str]: ...
    def versions(self, model: str) -> list[str]: ...
    def version(self, model: str, number: int) -> str | None: ...
    def set_alias(self, model: str, alias: str, number: int | None, who: str, why: str) -> AliasRecord: ...
    def alias(self, model: str, alias: str) -> int | None: ...
    def alias_history(self, model: str, alias: str | None = None) -> Sequence[AliasRecord]: ...
    def generation(self, model: str) -> int: ...


class HoldsModels(Protocol):
    """A catalog."""

    @property
    def models(self) -> VersionTables: ...


class LocalModelRegistry(ModelRegistry):
    """Artifacts are written aside, and moved into place within the transaction that gives the version its number.

    See `ModelRegistry` for the contract.
    """

    def __init__(self, catalog: HoldsModels, folder: str | Path) -> None:
        self._tables = catalog.models
        self._folder = Path(folder)

    def register(self, version: NewVersion, files: Mapping[str, bytes]) -> ModelVersion:
        """Store a new version.

        Raises StoreError if the files cannot be written or a name is no plain file name.
        """
        home = self._home(version.model)
        for name in files:
            if not name or Path(name).name != name or name.startswith("."):
                raise StoreError(f'artifact "{name}" of model "{version.model}" needs a plain file name')
        try:
            return self._register(version, files, home)
        except OSError as error:
            raise StoreError(
                f'model "{version.model}" was not registered, its files cannot be written to {home}: {error}; '
                "free space or mend the permissions, then register it again"
            ) from error

    def _register(self, version: NewVersion, files: Mapping[str, bytes], home: Path) -> ModelVersion:
        home.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
        made: builtins.list[ModelVersion] = []

        def make(number: int, created_us: int) -> str:
            # A crash between the move and the commit leaves a folder whose number was never given out.
            shutil.rmtree(home / str(number), ignore_errors=True)
            os.replace(aside, home / str(number))
            made.append(ModelVersion(number, created_us, version, hashes))
            return _encoder.encode(made[-1]).decode()

        try:
            hashes = {name: _write(aside / name, data) for name, data in files.items()}
            aside.chmod(0o755)
            self._tables.add_version(version.model, make)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return made[-1]

    def get(self, model: str, number: int) -> ModelVersion:
        """One version."""
        body = self._tables.version(model, number)
        if body is None:
            numbers = [version.number for version in self.list(model)]
            there = f"there are {numbers[0]} to {numbers[-1]}" if numbers else "it has no version yet, train it first"
            raise NotFound(f'model "{model}" has no version {number}: {there}')
        return _decoder.decode(body)

    def list(self, model: str) -> Sequence[ModelVersion]:
        """All versions in order of their numbers."""
        return [_decoder.decode(body) for body in self._tables.versions(model)]

    def models(self) -> Sequence[str]:
        """Names of all models, sorted."""
        return self._tables.names()

    def files(self, model: str, number: int) -> dict[str, bytes]:
        """The artifacts of a version, checked."""
        found = {}
        for name, sha256 in self.get(model, number).files.items():
            path = self._home(model) / str(number) / name
            try:
                data = path.read_bytes()
            except OSError as error:
                raise StoreError(
                    f'version {number} of model "{model}" has lost its file {path}: {error}; restore it or retrain'
                ) from error
            if hashlib.sha256(data).hexdigest() != sha256:
                raise StoreError(
                    f'{path} of model "{model}" version {number} is not the file that was registered '
                    f"(SHA-256 differs); restore it or retrain"
                )
            found[name] = data
        return found

    def set_alias(self, model: str, alias: str, number: int | None, *, who: str, why: str) -> AliasChange:
        """Point an alias at a version, or at none."""
        return _change(self._tables.set_alias(model, alias, number, who, why))

    def alias(self, model: str, alias: str) -> int | None:
        """The version that an alias points at now."""
        return self._tables.alias(model, alias)

    def alias_history(self, model: str, alias: str | None = None) -> Sequence[AliasChange]:
        """All moves, oldest first."""
        return [_change(record) for record in self._tables.alias_history(model, alias)]

    def generation(self, model: str) -> int:
        """Grows with every change; one indexed read of the catalog."""
        return self._tables.generation(model)

    def close(self) -> None:
        """Nothing is held open here; the catalog belongs to who opened it."""

    def _home(self, model: str) -> Path:
        name = quote(model, safe="")
        if not name.strip("."):
            raise StoreError(f'"{model}" cannot be the name of a model; use letters, digits and "_"')
        return self._folder / name


def _write(path: Path, data: bytes) -> str:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _change(record: AliasRecord) -> AliasChange:
    return AliasChange(record.model, record.alias, record.number, record.previous, record.at_us, record.who, record.why)
