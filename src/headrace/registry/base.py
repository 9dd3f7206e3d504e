"""PORT ModelRegistry: numbered versions of models, their artifacts, and the aliases that say which one decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from headrace.registry.profile import Profile

CHAMPION = "champion"
CHALLENGER = "challenger"
SHADOW = "shadow"
CANARY = "canary"
"""The aliases: who answers, who was trained last, who scores beside without effect, who answers a share."""


class DatasetRef(msgspec.Struct, frozen=True):
    """A version of a named data set, and the SHA-256 (hex) of its file."""

    name: str
    version: int
    sha256: str

    def __str__(self) -> str:
        return f"data set {self.name} version {self.version}"


class DataSnapshot(msgspec.Struct, frozen=True):
    """Which data a version was trained on, enough to read it again.

    Attributes:
        rows: labelled rows in all of the splits together; `positives` of them are true (0 for regression).
        since_us, until_us: request times, half-open.
        as_of: per raw stream, the first offset not known in each partition.
        tables: version of each offline table that was read.
        dataset_hash: hash of the rows, labels and weights themselves; equal hashes are equal data.
        dataset: the named data set that it was trained on; None if it was read from history.
    """

    rows: int
    positives: int
    since_us: int
    until_us: int
    as_of: dict[str, list[int]] = {}
    tables: dict[str, int] = {}
    dataset_hash: str = ""
    dataset: DatasetRef | None = None


class NewVersion(msgspec.Struct, frozen=True):
    """What is known of a version before it has a number.

    Attributes:
        model: its model.
        view, view_version: the feature view that it was trained on, and which version of it.
        columns: the columns that it reads, in order.
        metrics: figures on data that it was not fitted on, by name.
        snapshot: the training data.
        feature_versions: version of each feature or feature group that it reads.
        profile: distribution of the training data, for drift.
        estimator: the estimator and its parameters, for people.
        tags: anything else worth keeping, such as library versions or the run that made it.
    """

    model: str
    view: str
    view_version: str
    columns: tuple[str, ...]
    metrics: dict[str, float]
    snapshot: DataSnapshot
    feature_versions: dict[str, str] = {}
    profile: Profile | None = None
    estimator: str = ""
    tags: dict[str, str] = {}


class ModelVersion(msgspec.Struct, frozen=True):
    """A registered version; `files` maps artifact names to the SHA-256 of their contents (hex)."""

    number: int
    created_us: int
    info: NewVersion
    files: dict[str, str]

    @property
    def model(self) -> str:
        """Its model's name."""
        return self.info.model


class AliasChange(msgspec.Struct, frozen=True):
    """One move of an alias, from version `previous` to `number` (None: no version), when, by whom and why."""

    model: str
    alias: str
    number: int | None
    previous: int | None
    at_us: int
    who: str
    why: str


class ModelRegistry(ABC):
    """Versions of models are numbered 1, 2, 3, ... per model and never change; aliases move.

    `register` and `set_alias` are atomic and durable against the death of any process: after a crash a version is
    there with all of its files, or not at all, and numbers have no gaps. What they did is visible to all processes
    when they return. Any number of processes and threads may read and write at once. Every move of an alias is kept
    in its history. Unknown models and versions raise NotFound, except where a method says what it returns; what the
    storage refuses raises StoreError.
    """

    @abstractmethod
    def register(self, version: NewVersion, files: Mapping[str, bytes]) -> ModelVersion:
        """Store a new version with its artifacts under the model's next number."""

    @abstractmethod
    def get(self, model: str, number: int) -> ModelVersion:
        """One version."""

    @abstractmethod
    def list(self, model: str) -> Sequence[ModelVersion]:
        """All versions in order of their numbers; empty for an unknown model."""

    @abstractmethod
    def models(self) -> Sequence[str]:
        """Names of all models that have a version, sorted."""

    @abstractmethod
    def files(self, model: str, number: int) -> dict[str, bytes]:
        """The artifacts of a version; StoreError if one is missing or is not what was registered (by SHA-256)."""

    @abstractmethod
    def set_alias(self, model: str, alias: str, number: int | None, *, who: str, why: str) -> AliasChange:
        """Point an alias at a version, or at none; one transaction with its history."""

    @abstractmethod
    def alias(self, model: str, alias: str) -> int | None:
        """The version that an alias points at now; None if at none, also for an unknown model."""

    @abstractmethod
    def alias_history(self, model: str, alias: str | None = None) -> Sequence[AliasChange]:
        """All moves of one alias, or of all aliases, oldest first; empty for an unknown model."""

    @abstractmethod
    def generation(self, model: str) -> int:
        """A number that grows with every `register` and `set_alias`; 0 before the first. Cheap enough to poll."""

    @abstractmethod
    def close(self) -> None:
        """Release what is held; the registry cannot be used afterwards."""
