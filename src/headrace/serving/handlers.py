"""What the service answers: one method per route, from a decoded call to a reply. No transport in here."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from headrace.core.errors import Erased, NotFound, SchemaError, StoreError
from headrace.core.positions import EMPTY_POSITION, Position, decode_position
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import US_PER_SECOND, to_iso
from headrace.features.plan import ModelPlan, ViewPlan
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.prediction_blocks import ScoredBlock, one_of
from headrace.retrieval.predictions import find_prediction
from headrace.serving.access import NOBODY
from headrace.serving.calls import Call
from headrace.serving.labels import LabelRow, append_labels
from headrace.serving.metrics import CONTENT_TYPE, ServingMetrics
from headrace.serving.records import Records
from headrace.serving.replies import (
    FeatureReply,
    Refused,
    Reply,
    ScoreReply,
    encode_json,
    feature_rows,
    unknown,
)
from headrace.serving.requests import RequestParser, decoded, described
from headrace.serving.scorer import Scored
from headrace.serving.service import Receipt, Service

_RECENT = 10_000
_BODIES = "send a JSON array, an object, one object per line, or a stream of Arrow's"


@dataclass(slots=True)
class _Recent:
    """The newest predictions by id."""

    limit: int
    found: OrderedDict[str, tuple[ScoredBlock, int]] = field(default_factory=OrderedDict)

    def add(self, block: ScoredBlock) -> None:
        for row, name in enumerate(block.ids):
            self.found[name] = (block, row)
        while len(self.found) > self.limit:
            self.found.popitem(last=False)


class Handlers:
    """Answers calls; every method raises Refused or a HeadraceError for what cannot be answered."""

    def __init__(self, service: Service, metrics: ServingMetrics) -> None:
        self._service = service
        self._metrics = metrics
        self._views = service.project.views
        self._parsers = {name: self._parser(view) for name, view in self._views.items()}
        self._labels = {name: self._label_parser(model) for name, model in service.project.models.items()}
        self._readers: dict[str, OnlineReader] = {}
        self._streams = {name: self._streams_of(view) for name, view in self._views.items()}
        self._records = Records(service.project, service.online, service.clock, horizon_us=service.horizon_us)
        self._recent = _Recent(_RECENT)
        self._erasures: set[str] = set()

    # --- events -------------------------------------------------------------------------------------------------------

    async def post_events(self, call: Call) -> Reply:
        """`POST /v1/events`: events of any streams, each naming its own."""
        events = decoded(call.body)
        receipts = await asyncio.to_thread(self._service.publisher.publish_mixed, events)
        for stream, receipt in receipts.items():
            self._metrics.published(stream, receipt.appended, receipt.malformed)
        offsets = {stream: _offsets(receipt) for stream, receipt in receipts.items()}
        malformed = sum(receipt.malformed for receipt in receipts.values())
        body: dict[str, Any] = {
            "appended": sum(receipt.appended for receipt in receipts.values()),
            "dead_letters": malformed,
            "offsets": offsets,
        }
        if malformed:
            body["malformed"] = await asyncio.to_thread(self._explained, events)
        return Reply(encode_json(body))

    async def post_stream(self, call: Call) -> Reply:
        """`POST /v1/events/{stream}`: an object, an array, one object per line, or a stream of Arrow's."""
        stream, publisher = call.params["stream"], self._service.publisher
        if stream not in self._service.project.streams:
            raise unknown("stream", stream, self._service.project.streams)
        try:
            block = await asyncio.to_thread(publisher.encode, stream, call.body)
        except SchemaError as error:
            raise Refused(400, str(error), hint=_BODIES) from None
        receipt = await asyncio.to_thread(publisher.publish, stream, block)
        self._metrics.published(stream, receipt.appended, receipt.malformed)
        body = {"appended": receipt.appended, "dead_letters": receipt.malformed, "offsets": _offsets(receipt)}
        if block.malformed:
            body["malformed"] = described(block.malformed)
        return Reply(encode_json(body))

    def _explained(self, events: list[Any]) -> list[dict[str, Any]]:
        """Which of the events do not fit, by their place in the call."""
        places: dict[str, list[int]] = {}
        found: list[dict[str, Any]] = []
        for row, event in enumerate(events):
            name = event.get("stream") if isinstance(event, dict) else None
            if isinstance(name, str) and name in self._service.project.streams:
                places.setdefault(name, []).append(row)
            else:
                reason = unknown("stream", str(name), self._service.project.streams) if name else None
                told = (
                    f"{reason.error}; {reason.hint}"
                    if reason
                    else 'the event names no stream; send {"stream": NAME, ...}'
                )
                found.append({"row": row, "field": "stream", "reason": told})
        for name, rows in places.items():
            mine = [{key: value for key, value in events[row].items() if key != "stream"} for row in rows]
            for bad in self._service.publisher.encode(name, mine).malformed:
                found.append({"row": rows[bad.row], "field": bad.field, "reason": bad.reason})
        return sorted(found, key=lambda entry: entry["row"])[:20]

    # --- features and scores ------------------------------------------------------------------------------------------

    def post_features(self, call: Call) -> Reply:
        """`POST /v1/features/{view}`: the view's columns for each request."""
        name = call.params["view"]
        view = self._views.get(name)
        if view is None:
            raise unknown("view", name, self._views)
        asked = self._parsers[name].parse(call.body)
        if not asked.n:
            return Reply(b"[]")
        block = self._reader(name).read(asked.columns)
        self._metrics.nulls[name].saw(block)
        age = self._age_s(name, block.position)
        replies = [FeatureReply(values, block.position, age, name, view.version) for values in feature_rows(block)]
        return Reply(encode_json(replies[0] if asked.single else replies))

    def post_score(self, call: Call) -> Reply:
        """`POST /v1/models/{model}/score`: the champion's answer to each request, or the canary's."""
        name = call.params["model"]
        scorer = self._service.scorers.get(name)
        if scorer is None:
            raise unknown("model", name, self._service.scorers)
        asked = self._parsers[scorer.model.view].parse(call.body)
        explained = call.flag("features", "explain")
        if explained:
            call.caller.check_read(scorer.model.view)
        if not asked.n:
            return Reply(b"[]")
        try:
            answers = scorer.score(asked.columns)
        except NotFound as error:
            raise Refused(503, str(error), hint="see /health/ready") from None
        for scored in answers:
            self._metrics.scored(scored)
            self._recent.add(scored.block)
        replies = answers.in_order(lambda scored: _score_replies(scored, explained=explained))
        return Reply(encode_json(replies[0] if asked.single else replies))

    async def get_prediction(self, call: Call) -> Reply:
        """`GET /v1/predictions/{id}`: what was answered, what the model saw, what other versions said."""
        name = call.params["id"]
        recent = self._recent.found.get(name)
        if recent is not None:
            block: ScoredBlock | None = one_of(*recent)
        else:
            try:
                block = await asyncio.to_thread(find_prediction, self._service.internal, name, self._views)
            except Erased as error:
                raise Refused(410, str(error)) from None
        if block is None:
            raise Refused(404, f'there is no recent prediction "{name}"', hint="older ones are in the offline store")
        call.caller.check_read(block.view)
        features = block.features
        body = {
            "id": name,
            "request_id": block.request_ids[0],
            "model": block.model,
            "version": block.champion,
            "value": float(block.values[0]),
            "scores": {str(version): float(scores[0]) for version, scores in block.scores.items()},
            "at": to_iso(int(block.t_us[0])),
            "scored_at": to_iso(block.scored_us),
            "features": feature_rows(features)[0],
            "position": features.position,
            "view": block.view,
            "view_version": block.view_version,
        }
        return Reply(encode_json(body))

    def forget_erased(self) -> None:
        """Forget the newest predictions when an erasure has ended: they may be of who was erased. The log knows."""
        door = self._service.erasures
        ended = set() if door is None else {one.id for one in door.list() if one.ended}
        if ended != self._erasures:
            self._erasures, self._recent = ended, _Recent(_RECENT)

    # --- labels and records -------------------------------------------------------------------------------------------

    async def post_labels(self, call: Call) -> Reply:
        """`POST /v1/labels/{model}`: truths by request id; all or none are taken."""
        name = call.params["model"]
        parser = self._labels.get(name)
        if parser is None:
            raise unknown("model", name, self._labels)
        asked = parser.parse(call.body)
        ids, values, times = (asked.columns[column].to_pylist() for column in ("request_id", "value", "at"))
        rows = [LabelRow(name, str(i), float(v), at) for i, v, at in zip(ids, values, times, strict=True)]
        first = await asyncio.to_thread(append_labels, self._service.internal, rows) if rows else None
        return Reply(encode_json({"appended": len(rows), "first_offset": first}))

    def get_record(self, call: Call) -> Reply:
        """`GET /v1/records/{group}/{key}`: the features of one group or table for an entity, now or `?at=`."""
        name, key = call.params["group"], call.params["key"]
        block = self._records.get(name, key, call.option("at"))
        body = {"group": name, "key": key, "features": feature_rows(block)[0], "position": block.position}
        return Reply(encode_json(body))

    async def put_record(self, call: Call) -> Reply:
        """`PUT /v1/records/{group}/{key}`: a new row of a table that has no query."""
        log = self._service.features
        if log is None:
            raise Refused(503, "this service takes no rows", hint="put them where the feature log is written")
        table = call.params["group"]
        offset = await asyncio.to_thread(self._records.put, log, table, call.params["key"], call.body)
        if self._service.notes is not None:
            self._service.notes.put(call.caller.who, table)
        return Reply(encode_json({"offset": offset}))

    # --- the service itself -------------------------------------------------------------------------------------------

    def get_metrics(self, call: Call) -> Reply:
        """`GET /metrics`: Prometheus text."""
        return Reply(self._metrics.page(), content_type=CONTENT_TYPE)

    def get_live(self, call: Call) -> Reply:
        """`GET /health/live`: the process answers."""
        return Reply(b'{"status":"live"}')

    def get_ready(self, call: Call) -> Reply:
        """`GET /health/ready`: 503 while a layer that an answer needs is missing, and which one.

        A layer that only makes answers newer is named under `stalled`; answers go on without it.
        """
        down: dict[str, str] = {}
        try:
            position = decode_position(self._service.online.position())
        except StoreError as error:
            position, down["online store"] = EMPTY_POSITION, str(error)
        if not down and not position.streams and not position.tables:
            down["online store"] = "empty: nothing has been ingested yet; publish events and run compute and ingest"
        for name, scorer in self._service.scorers.items():
            if scorer.champion is None:
                down[f"model {name}"] = scorer.refused or f"no champion: headrace train {name}, headrace promote {name}"
        warnings = {
            name: scorer.refused for name, scorer in self._service.scorers.items() if scorer.champion and scorer.refused
        }
        body: dict[str, Any] = {"status": "unavailable" if down else "ready"}
        # What is down names models and files, which is nothing for whoever has no key.
        known = call.caller is not NOBODY
        if down and known:
            body["down"] = down
        if warnings and known:
            body["refused"] = warnings
        stalled = self._service.stalled() if known and self._service.stalled is not None else {}
        if stalled:
            body["stalled"] = dict(stalled)
        return Reply(encode_json(body), 503 if down else 200)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _parser(self, view: ViewPlan) -> RequestParser:
        service = self._service
        return RequestParser(view.request, service.clock, max_rows=service.max_rows, what=f"view {view.name}")

    def _label_parser(self, model: ModelPlan) -> RequestParser:
        request = self._views[model.view].request
        id_type = request[request.id_field].dtype if request.id_field else DType.STRING
        fields = (
            Field("request_id", id_type),
            Field("value", model.label.dtype),
            Field("at", DType.TIMESTAMP),
        )
        schema = Schema("labels", fields, "at", "request_id")
        rows = self._service.max_rows
        return RequestParser(schema, self._service.clock, max_rows=rows, what=f"labels of {model.name}")

    def _reader(self, view: str) -> OnlineReader:
        reader = self._readers.get(view)
        if reader is None:
            service = self._service
            reader = self._readers[view] = OnlineReader(
                self._views[view], service.project, service.online, horizon_us=service.horizon_us
            )
        return reader

    def _streams_of(self, view: ViewPlan) -> set[str]:
        groups = self._service.project.groups
        return {groups[binding.source].stream for binding in view.bindings if not binding.is_table}

    def _age_s(self, view: str, position: Position) -> float | None:
        newest = max((us for name, us in position.clock_us.items() if name in self._streams[view]), default=None)
        return None if newest is None else (self._service.clock.now_us() - newest) / US_PER_SECOND


def _offsets(receipt: Receipt) -> dict[str, list[int]]:
    return {str(partition): list(span) for partition, span in receipt.offsets.items()}


def _score_replies(scored: Scored, *, explained: bool) -> list[ScoreReply]:
    block, position, version, degraded = scored.block, scored.position, scored.version, scored.degraded
    features = feature_rows(block.features) if explained else [None] * len(block)
    return [
        ScoreReply(name, value, version, block.model, position, request_id, degraded, values)
        for name, value, request_id, values in zip(
            block.ids, scored.values.tolist(), block.request_ids, features, strict=True
        )
    ]
