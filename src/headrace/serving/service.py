"""What the HTTP service is made of; the composition root fills it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace.core.events import EventBlock
from headrace.core.time import Clock
from headrace.eventlog.base import EventLog
from headrace.features.plan import ProjectPlan
from headrace.serving.access import Access
from headrace.serving.dead_letters import LetterDoor
from headrace.serving.erasures import ErasureDoor
from headrace.serving.erasures import Receipt as ErasureReceipt
from headrace.serving.notes import PutNotes
from headrace.serving.prediction_log import PredictionLog
from headrace.serving.scorer import Scorer
from headrace.stores.online.base import OnlineStore


class Receipt(Protocol):
    """What became of one publish; `ingestion.publisher.PublishReceipt`."""

    @property
    def appended(self) -> int: ...
    @property
    def malformed(self) -> int: ...
    @property
    def offsets(self) -> Mapping[int, tuple[int, int]]: ...


class EventDoor(Protocol):
    """Takes events in; `ingestion.publisher.Publisher`."""

    def encode(self, stream: str, data: Any) -> EventBlock: ...
    def publish(self, stream: str, data: Any) -> Receipt: ...
    def publish_mixed(self, events: Sequence[Any]) -> Mapping[str, Receipt]: ...


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service. All of them belong to the caller, who closes them after the service stopped.

    Args:
        project: the plan that is served.
        clock: gives requests without an event time theirs, and answers their age.
        publisher: takes events (`ingestion.publisher.Publisher`).
        online: the online store that features are read from.
        horizon_us: as-of horizon of that store.
        internal: the internal log, with topics `predictions` and `labels`.
        scorers: by model name; used from the event loop's thread alone. Their predictions go to `predictions`.
        predictions: the prediction log that the scorers write to, with `background=True`; flushed when the service
            stops. None if predictions are not kept.
        raw: the log of raw events, for the lag in `/metrics`; None leaves it out.
        features: the feature log, for rows that callers put; None refuses these.
        layers: gives the counters of the project's layers by name, for `/metrics`; None leaves them out.
        stalled: gives the layers behind the service that do nothing just now, each with what is wrong, for
            `/health/ready`; None leaves them out.
        access: admits requests; None admits all.
        notes: counts rows that callers put, for the log of changes; None counts none.
        letters: the dead letters; None refuses to show them.
        erasures: erases entities; None refuses to.
        poll_s: how often promotions and keys are looked for.
        max_body: bytes that a request body may have.
        max_rows: requests that one call may score or read.
    """

    project: ProjectPlan
    clock: Clock
    publisher: EventDoor
    online: OnlineStore
    horizon_us: int
    internal: EventLog
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    predictions: PredictionLog | None = None
    raw: EventLog | None = None
    features: EventLog | None = None
    layers: Callable[[], Mapping[str, Mapping[str, float]]] | None = None
    stalled: Callable[[], Mapping[str, str]] | None = None
    access: Access | None = None
    notes: PutNotes | None = None
    letters: LetterDoor | None = None
    erasures: ErasureDoor[ErasureReceipt] | None = None
    poll_s: float = 0.2
    max_body: int = 8 * 1024 * 1024
    max_rows: int = 2_000
