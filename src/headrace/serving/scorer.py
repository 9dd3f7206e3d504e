"""Scores requests of one model: read the features, let the champion answer, let others score beside it, log it all.

A canary answers a share of the requests in the champion's place (`serving.split`), and the champion scores beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, TypeVar

import numpy as np

from headrace.core.columns import Column, FloatArray, IntArray
from headrace.core.errors import HeadraceError, NotFound, PlanError, StoreError
from headrace.core.positions import Position
from headrace.core.time import Clock
from headrace.features.plan import ModelPlan, ProjectPlan, ViewPlan
from headrace.registry.base import CANARY, CHAMPION, ModelRegistry, ModelVersion
from headrace.registry.predictor import FittedModel, load_model
from headrace.retrieval.prediction_blocks import ScoredBlock, request_ids
from headrace.retrieval.rows import FeatureBlock
from headrace.serving.prediction_log import PredictionLog
from headrace.serving.split import Split

EMPTY_STORE, STALE, OVERFLOW, SHADOW_FAILED = "empty_store", "stale", "overflow", "shadow_failed"
CANARY_FAILED = "canary_failed"
"""What can make an answer worse than it should be, as `Scored.degraded` names it."""

T = TypeVar("T")

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
_BASE = 36 * 36


class Reader(Protocol):
    """Reads the view of a model online; `retrieval.online.OnlineReader`."""

    @property
    def overflows(self) -> int: ...
    def read(self, request: Mapping[str, Column]) -> FeatureBlock: ...


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory, with the view that it reads and what reads it."""

    number: int
    fitted: FittedModel
    registered: ModelVersion
    view: ViewPlan
    reader: Reader


@dataclass(frozen=True, slots=True)
class _Active:
    """What scores right now; replaced as a whole, so that a batch is answered by one version, or by two."""

    champion: LoadedVersion
    shadows: tuple[LoadedVersion, ...]
    canary: LoadedVersion | None = None
    split: Split | None = None


@dataclass(slots=True)
class Scored:
    """The answer of one version to a batch of requests, or to those of a batch that are its own.

    `block` holds ids, request ids, features and the scores of every version; `degraded` names what is wrong with the
    answer, if anything: "empty_store" (no event or row has arrived yet), "stale" (the newest event is older than the
    scorer allows), "overflow" (a value is null because an exact sum left its type), "shadow_failed", "canary_failed"
    (the champion answered what was the canary's).
    """

    block: ScoredBlock
    values: FloatArray
    version: int
    degraded: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """Prediction ids, one per request."""
        return self.block.ids

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.block.model

    @property
    def features(self) -> FeatureBlock:
        """What the model saw."""
        return self.block.features

    @property
    def position(self) -> Position:
        """The position that the features reflect."""
        return self.block.features.position

    def __len__(self) -> int:
        return len(self.block.ids)


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to a batch: which of its rows each version answered. Most batches have one part, of all rows."""

    n: int
    parts: tuple[tuple[Sequence[int] | IntArray, Scored], ...]

    def in_order(self, rows_of: Callable[[Scored], Sequence[T]]) -> list[T]:
        """What `rows_of` makes of each part's rows, in the order of the requests."""
        if len(self.parts) == 1:
            return list(rows_of(self.parts[0][1]))
        found: dict[int, T] = {}
        for rows, scored in self.parts:
            found |= zip(map(int, rows), rows_of(scored), strict=True)
        return [found[row] for row in range(self.n)]

    def __iter__(self) -> Iterator[Scored]:
        return (scored for _, scored in self.parts)


class Scorer:
    """Scores one model. Scoring is for one thread at a time; `reload` may run beside it in another.

    Args:
        project: the plan that `model` belongs to.
        model: what to score.
        reader: reads the model's view online.
        registry: where the champion is found.
        clock: tells when a prediction was made.
        log: takes every prediction; None keeps none.
        id_prefix: a number that no other scorer of this project ever gets: ids are `p-<prefix>-<count>` in base 36.
        shadows: aliases whose versions score every request beside the champion and are logged, but never answer.
        stale_after_us: mark answers whose newest event is older than this; None never does.
        open_reader: makes a reader of a kept view, for versions that were trained on it; None: these are refused.
        split: tells which share of requests the version of alias "canary" answers; None: it answers none.

    Attributes:
        refused: why a version that an alias names is not in use, if there is one.
    """

    def __init__(
        self,
        project: ProjectPlan,
        model: ModelPlan,
        reader: Reader,
        registry: ModelRegistry,
        clock: Clock,
        log: PredictionLog | None = None,
        *,
        id_prefix: int = 0,
        shadows: Sequence[str] = (),
        stale_after_us: int | None = None,
        open_reader: Callable[[ViewPlan], Reader] | None = None,
        split: Callable[[], Split | None] | None = None,
    ) -> None:
        self.model = model
        self._kept = project.kept_views if open_reader is not None else {}
        self._open_reader = open_reader
        self._split = split
        self.view: ViewPlan = project.views[model.view]
        self.refused: str | None = None
        self._reader = reader
        self._registry = registry
        self._clock = clock
        self._log = log
        self._prefix = f"p-{_base36(id_prefix)}-"
        self._count = count()
        self._shadow_aliases = tuple(shadows)
        self._stale_after_us = stale_after_us
        self._time_field = self.view.request.time_field or ""
        self._streams = {
            project.group(binding.source).stream
            for view in (self.view, *self._kept.values())
            for binding in view.bindings
            if not binding.is_table
        }
        self._active: _Active | None = None
        self._generation: int | None = None

    @property
    def champion(self) -> LoadedVersion | None:
        """The version that answers now; None before the first one is loaded."""
        active = self._active
        return None if active is None else active.champion

    @property
    def canary(self) -> tuple[LoadedVersion, Split] | None:
        """The version that answers a share of the requests now, and which share; None: the champion answers all."""
        active = self._active
        if active is None or active.canary is None or active.split is None:
            return None
        return active.canary, active.split

    def reload(self) -> bool:
        """Take over what the registry's aliases name, if they changed; returns whether anything was replaced.

        The new versions are loaded and tried out first, then swapped in at once. A version of another feature view
        than the served one raises PlanError and the old one stays (`refused` says so until the aliases change again);
        damaged files raise StoreError, and the next call tries again. A shadow or canary that cannot be loaded is only
        left out.
        """
        generation = self._registry.generation(self.model.name)
        if generation == self._generation:
            return False
        before = self._active
        number = self._registry.alias(self.model.name, CHAMPION)
        if number is None:
            self._active, self._generation, self.refused = None, generation, None
            return before is not None
        try:
            champion = self._load(number)
        except HeadraceError as error:
            self.refused = str(error)
            if not isinstance(error, StoreError):
                self._generation = generation
            raise
        self.refused = None
        shadows = {shadow.number: shadow for shadow in map(self._beside, self._shadow_aliases) if shadow is not None}
        shadows.pop(number, None)
        split = None if self._split is None else self._split()
        canary = None if split is None else self._beside(CANARY)
        if canary is None or split is None or canary.number not in {split.number} - {number}:
            canary = split = None
        self._active, self._generation = _Active(champion, tuple(shadows.values()), canary, split), generation
        return before is None or _told(before) != _told(self._active)

    def score(self, request: Mapping[str, Column]) -> Answers:
        """Score `n` requests; `request` holds every request field, n values each.

        Raises NotFound while there is no champion, and HorizonError for times before the as-of horizon.
        """
        active = self._active or self._first()
        n = len(request[self._time_field])
        if active.canary is None or active.split is None:
            return Answers(n, ((range(n), self._answer(active, active.champion, request)),))
        chosen = active.split.chosen(self.model.name, self.view.request, request)
        parts: list[tuple[IntArray, Scored]] = []
        for version, mine in ((active.champion, ~chosen), (active.canary, chosen)):
            rows = np.flatnonzero(mine)
            if len(rows) or (not n and not parts):
                asked = request if len(rows) == n else {name: column.take(rows) for name, column in request.items()}
                parts.append((rows, self._answer(active, version, asked)))
        return Answers(n, tuple(parts))

    def _answer(self, active: _Active, version: LoadedVersion, request: Mapping[str, Column]) -> Scored:
        """Let `version` answer these requests, and others score beside it."""
        reader, champion = version.reader, active.champion
        overflows = reader.overflows
        try:
            features = reader.read(request)
            values = version.fitted.predict(features)
        except Exception:
            if version is champion:
                raise
            # A canary is on trial: what it raises must not reach the caller, who gets the champion's answer.
            scored = self._answer(active, champion, request)
            return Scored(scored.block, scored.values, scored.version, (CANARY_FAILED, *scored.degraded))
        scores = {version.number: values}
        degraded: list[str] = []
        for shadow in active.shadows if version is champion else (champion, *active.shadows):
            if shadow.number in scores:
                continue
            try:
                seen = features if shadow.reader is reader else shadow.reader.read(request)
                scores[shadow.number] = shadow.fitted.predict(seen)
            except Exception:
                # A shadow is on trial: whatever it raises must not reach the caller of the champion.
                degraded.append(SHADOW_FAILED)
        now = self._clock.now_us()
        if reader.overflows != overflows:
            degraded.append(OVERFLOW)
        self._judge(features.position, now, degraded)
        t_us: IntArray = request[self._time_field].values
        view, n = version.view, len(t_us)
        block = ScoredBlock(
            self.model.name,
            self._ids(n),
            request_ids(view.request, request),
            t_us,
            now,
            request,
            features,
            scores,
            version.number,
            view.name,
            view.version,
        )
        if n and self._log is not None:
            self._log.write(block)
        return Scored(block, values, version.number, tuple(degraded))

    def _first(self) -> _Active:
        self.reload()
        if self._active is None:
            name = self.model.name
            if self.refused is not None:
                raise NotFound(f'model "{name}" has no version that can be served: {self.refused}')
            raise NotFound(
                f'model "{name}" has no champion yet: train it ("headrace train {name}") and promote a version '
                f'("headrace promote {name} VERSION")'
            )
        return self._active

    def _judge(self, position: Position, now: int, degraded: list[str]) -> None:
        if not position.streams and not position.tables:
            degraded.append(EMPTY_STORE)
        elif self._stale_after_us is not None and self._streams:
            newest = max((us for name, us in position.clock_us.items() if name in self._streams), default=None)
            if newest is None or now - newest > self._stale_after_us:
                degraded.append(STALE)

    def _ids(self, n: int) -> list[str]:
        prefix, numbers = self._prefix, self._count
        return [prefix + _base36(next(numbers)) for _ in range(n)]

    def _beside(self, alias: str) -> LoadedVersion | None:
        number = self._registry.alias(self.model.name, alias)
        try:
            return None if number is None else self._load(number)
        except HeadraceError as error:
            self.refused = f'alias "{alias}": {error}'
            return None

    def _load(self, number: int) -> LoadedVersion:
        for known in () if self._active is None else _loaded(self._active):
            if known.number == number:
                return known
        registered = self._registry.get(self.model.name, number)
        info, view, reader = registered.info, self.view, self._reader
        kept = self._kept.get(info.view_version)
        if kept is not None and kept.name == info.view and info.view_version != view.version:
            assert self._open_reader is not None
            view, reader = kept, self._open_reader(kept)
        if (info.view, info.view_version) != (view.name, view.version):
            raise PlanError(
                f'version {number} of model "{self.model.name}" was trained on view {info.view} {info.view_version}, '
                f"but {view.name} {view.version} is served: train it again on the served view, or serve the project "
                "that it was trained with"
            )
        fitted = load_model(self._registry, self.model.name, number)
        # The first prediction of a model is slow, and it fails here, not in a request, if a column is missing.
        fitted.predict(_nothing(view))
        return LoadedVersion(number, fitted, registered, view, reader)


def _loaded(active: _Active) -> list[LoadedVersion]:
    return [active.champion, *active.shadows, *([] if active.canary is None else [active.canary])]


def _told(active: _Active) -> tuple[object, ...]:
    """What tells that something was replaced."""
    return active.champion.number, [shadow.number for shadow in active.shadows], active.split


def _nothing(view: ViewPlan) -> FeatureBlock:
    """One row of the view in which everything is null."""
    columns = view.visible
    objects = {
        column.name: Column(column.dtype, np.array([None], np.object_), np.zeros(1, np.bool_))
        for column in columns
        if column.dtype.is_object
    }
    return FeatureBlock(
        tuple(column.name for column in columns),
        tuple(column.dtype for column in columns),
        np.zeros((1, len(columns)), np.int64),
        np.zeros((1, len(columns)), np.bool_),
        objects,
    )


def _base36(number: int) -> str:
    """`number` (not negative) in base 36."""
    digits = ""
    while number >= _BASE:
        number, rest = divmod(number, _BASE)
        digits = _PAIRS[rest] + digits
    return (_PAIRS[number] if number >= 36 else _DIGITS[number]) + digits
