"""The figures of one service in Prometheus form, in a registry of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from headrace.core.columns import BoolArray, IntArray
from headrace.core.errors import StoreError
from headrace.core.positions import GroupState, decode_position, decode_state, state_key
from headrace.core.time import US_PER_SECOND
from headrace.features.plan import GroupPlan, ViewPlan
from headrace.retrieval.rows import FeatureBlock
from headrace.serving.scorer import Scored, Scorer
from headrace.serving.service import Service

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_MOST_SEEN = 256
"""Blocks that wait to be counted."""


class Nulls:
    """How often each column of a view was null; plain counts, since a request may have hundreds of columns.

    What was seen is kept until there is enough of it to be counted in one go: by itself one row costs more than it
    takes to send it.
    """

    def __init__(self, view: ViewPlan) -> None:
        self.names = tuple(column.name for column in view.visible)
        self._nulls: IntArray = np.zeros(len(self.names), np.int64)
        self._rows = 0
        self._seen: deque[BoolArray] = deque()
        self._counting = threading.Lock()

    def saw(self, block: FeatureBlock) -> None:
        """Count a block of the view; one of another version, which a model may still read, is left out."""
        if block.names != self.names:
            return
        self._seen.append(block.valid)
        if len(self._seen) >= _MOST_SEEN:
            self.count()

    def count(self) -> tuple[int, list[int]]:
        """How many rows there were, and in how many of them each column was null."""
        with self._counting:
            valid = [self._seen.popleft() for _ in range(len(self._seen))]
            self._rows += sum(map(len, valid))
            if valid:
                rows = np.concatenate(valid)
                self._nulls += len(rows) - rows.sum(axis=0)
            return self._rows, self._nulls.tolist()


class ServingMetrics:
    """Counts what a service does. Used from the event loop's thread; scraping may come from another."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "headrace_http_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "headrace_http_request_seconds", "Time to answer.", ["route"], buckets=_BUCKETS, registry=self.registry
        )
        self._events = Counter(
            "headrace_events_received", "Events appended, by stream.", ["stream"], registry=self.registry
        )
        self._malformed = Counter(
            "headrace_events_malformed", "Events that did not fit, by stream.", ["stream"], registry=self.registry
        )
        self._scored = Counter(
            "headrace_predictions", "Predictions, by model and version.", ["model", "version"], registry=self.registry
        )
        self._degraded = Counter(
            "headrace_degraded_answers", "Scored batches with a fault, by reason.", ["model", "reason"],
            registry=self.registry,
        )  # fmt: skip
        self._reloads = Counter(
            "headrace_model_reloads", "Swaps of the serving version, by result.", ["model", "result"],
            registry=self.registry,
        )  # fmt: skip
        self._observe: dict[tuple[str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._score_counts: dict[tuple[str, int], Callable[[float], None]] = {}
        self.nulls = {name: Nulls(view) for name, view in service.project.views.items()}
        self.registry.register(_ServiceCollector(service, self.nulls))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        known = self._observe.get((route, status))
        if known is None:
            count = self._requests.labels(route, str(status)).inc
            known = self._observe[route, status] = (count, self._seconds.labels(route).observe)
        known[0]()
        known[1](seconds)

    def scored(self, scored: Scored) -> None:
        """Count a scored batch."""
        block = scored.block
        key = (block.model, scored.version)
        count = self._score_counts.get(key)
        if count is None:
            count = self._score_counts[key] = self._scored.labels(block.model, str(scored.version)).inc
        count(len(block))
        self.nulls[block.view].saw(block.features)
        for reason in scored.degraded:
            self._degraded.labels(block.model, reason).inc()

    def published(self, stream: str, appended: int, malformed: int) -> None:
        """Count events of one stream; `appended` includes the malformed ones."""
        self._events.labels(stream).inc(appended)
        if malformed:
            self._malformed.labels(stream).inc(malformed)

    def reloaded(self, model: str, result: str) -> None:
        """Count an attempt to take over another version: "swapped" or "refused"."""
        self._reloads.labels(model, result).inc()

    def page(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


class _ServiceCollector(Collector):
    """Figures that are looked up when they are asked for."""

    def __init__(self, service: Service, nulls: dict[str, Nulls]) -> None:
        self._service = service
        self._nulls = nulls

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from _versions(self._service.scorers.values())
        yield from self._null_shares()
        yield from self._queue()
        yield from self._position()
        yield from self._layers()

    def _layers(self) -> Iterator[Metric]:
        if self._service.layers is not None:
            text = "Totals of a layer since it started, as in headrace status."
            totals = _gauge("headrace_layer_total", text, ["layer", "counter"])
            for layer, counters in self._service.layers().items():
                for name, value in counters.items():
                    totals.add_metric([layer, name], value)
            yield totals

    def _null_shares(self) -> Iterator[Metric]:
        share = _gauge("headrace_feature_null_share", "Share of served rows that were null.", ["view", "column"])
        rows = _gauge("headrace_feature_rows", "Rows of features served since the start.", ["view"])
        for view, nulls in self._nulls.items():
            seen, counts = nulls.count()
            rows.add_metric([view], seen)
            if seen:
                for name, count in zip(nulls.names, counts, strict=True):
                    share.add_metric([view, name], count / seen)
        yield from (share, rows)

    def _queue(self) -> Iterator[Metric]:
        log = self._service.predictions
        if log is not None:
            yield GaugeMetricFamily("headrace_prediction_log_queue", "Batches that wait to be written.", log.queued)
            yield GaugeMetricFamily("headrace_prediction_log_written", "Predictions written.", log.written)
            yield GaugeMetricFamily("headrace_prediction_log_failures", "Refused appends, tried again.", log.failures)

    def _position(self) -> Iterator[Metric]:
        service = self._service
        up = GaugeMetricFamily("headrace_online_store_up", "1 if the online store answers, else 0.")
        scheduled = [g for g in service.project.computed_groups if g.version in service.project.scheduled]
        try:
            states, raw_position = service.online.read([state_key(group.version) for group in scheduled])
            position = decode_position(raw_position)
        except StoreError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        age = _gauge("headrace_online_age_seconds", "Now less the newest event that the store reflects.", ["stream"])
        lag = _gauge("headrace_online_lag_events", "Events that the store does not reflect.", ["stream"])
        now = service.clock.now_us()
        for stream, clock in position.clock_us.items():
            age.add_metric([stream], (now - clock) / US_PER_SECOND)
        yield age
        if service.raw is not None:
            for stream, partitions in service.raw.topics().items():
                if stream in service.project.streams:
                    offsets = [*position.streams.get(stream, []), *[0] * partitions]
                    ends = [service.raw.end(stream, partition) for partition in range(partitions)]
                    lag.add_metric([stream], sum(ends) - sum(offsets[:partitions]))
            yield lag
        if scheduled:
            yield from self._scheduled(scheduled, list(map(decode_state, states)), now)

    def _scheduled(
        self, groups: Sequence[GroupPlan], states: Sequence[GroupState | None], now_us: int
    ) -> Iterator[Metric]:
        service = self._service
        age = _gauge(
            "headrace_group_age_seconds", "Now less the newest event that a scheduled group reflects.", ["group"]
        )
        lag = _gauge("headrace_group_lag_events", "Events that a scheduled group does not reflect.", ["group"])
        for group, state in zip(groups, states, strict=True):
            if state is not None and state.clock_us is not None:
                age.add_metric([group.name], (now_us - state.clock_us) / US_PER_SECOND)
            root = service.project.root(group.stream)
            if service.raw is not None and root in service.raw.topics():
                ends = [service.raw.end(root, partition) for partition in range(service.raw.topics()[root])]
                lag.add_metric([group.name], sum(ends) - (0 if state is None else sum(state.at)))
        yield from (age, lag)


def _versions(scorers: Iterable[Scorer]) -> Iterator[Metric]:
    info = _gauge("headrace_model_info", "The version that answers, as labels.", ["model", "version", "view_version"])
    share = _gauge("headrace_canary_share", "Share of the requests that a canary answers.", ["model", "version"])
    for scorer in scorers:
        champion = scorer.champion
        if champion is not None:
            info.add_metric([scorer.model.name, str(champion.number), scorer.view.version], 1)
        if scorer.canary is not None:
            version, split = scorer.canary
            share.add_metric([scorer.model.name, str(version.number)], split.share)
    yield from (info, share)


def _gauge(name: str, text: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, None, labels)
