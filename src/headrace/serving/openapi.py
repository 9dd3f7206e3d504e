"""The OpenAPI 3.1 description of a service, made from the plan that it serves."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from headrace.core.schema import DType, Field, Schema
from headrace.features.plan import GroupPlan, ModelPlan, ProjectPlan, TablePlan, ViewColumn, ViewPlan
from headrace.serving.openapi_erasures import ERASURE_SCHEMAS, erasure_paths
from headrace.serving.openapi_letters import LETTER_SCHEMAS, letter_paths

_TYPES: dict[DType, dict[str, Any]] = {
    DType.INT: {"type": "integer", "format": "int64"},
    DType.FLOAT: {"type": "number"},
    DType.BOOL: {"type": "boolean"},
    DType.STRING: {"type": "string"},
    DType.TIMESTAMP: {"type": "string", "format": "date-time"},
    DType.DURATION: {"type": "integer", "format": "int64", "description": "microseconds"},
    DType.LIST: {"type": "array", "items": {"type": ["number", "null"]}},
}
_TYPES |= {
    dtype: {"type": "array", "items": _TYPES[dtype.parts[0]]}
    if len(dtype.parts) == 1
    else {"type": "object", "additionalProperties": {"anyOf": [_TYPES[dtype.parts[1]], {"type": "null"}]}}
    for dtype in DType
    if dtype.is_nested
}
_EXAMPLES: dict[DType, Any] = {
    DType.INT: 1,
    DType.FLOAT: 1.5,
    DType.BOOL: True,
    DType.STRING: "text",
    DType.TIMESTAMP: "2013-02-01T10:00:00Z",
    DType.DURATION: 60_000_000,
}
_REFUSALS = {
    "400": "the body is no JSON",
    "401": "the service has keys, and the request brings none that is live",
    "403": "the key is not for this",
    "404": "nothing of that name",
    "413": "too much at once",
    "422": "a field does not fit; it is named",
    "429": "the key asks too often; Retry-After says how many seconds to wait",
    "503": "a layer is down",
}
SCOPES_BY_PATH = {
    "/v1/events": "publish",
    "/v1/features": "read",
    "/v1/predictions": "read",
    "/v1/models": "score",
    "/v1/labels": "label",
    "/v1/dead_letters": "admin",
    "/v1/erasures": "admin",
    "/metrics": "any",
}
"""What a key must be for, by the beginning of a path; records are read by "read" and put by "publish"."""
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key: headrace keys make NAME --scope ..."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


def describe(project: ProjectPlan) -> dict[str, Any]:
    """The whole document: a path per stream, view and model, with their fields, types and nullability."""
    paths: dict[str, Any] = {"/v1/events": {"post": _mixed_events(project)}}
    schemas: dict[str, Any] = dict(_COMMON)
    for stream in project.streams.values():
        name = f"{stream.name}Event"
        schemas[name] = _object(stream.schema, stream.doc)
        paths[f"/v1/events/{stream.name}"] = {
            "post": _operation("events", f"Publish events of {stream.name}", _one_or_many(name), "Published")
        }
    for view in project.views.values():
        schemas[f"{view.name}Request"] = _object(view.request, view.doc, now=True)
        schemas[f"{view.name}Features"] = _features(view)
        body = _one_or_many(f"{view.name}Request")
        paths[f"/v1/features/{view.name}"] = {
            "post": _operation("features", f"Read the features of view {view.name}", body, f"{view.name}Features")
        }
    for model in project.models.values():
        paths |= _of_model(model, schemas, project)
    paths |= _records(project)
    paths |= letter_paths(_refusals())
    paths |= erasure_paths(_refusals())
    paths |= _fixed()
    _secure(paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace scoring service", "version": version("headrace")},
        "paths": paths,
        "components": {"schemas": schemas | LETTER_SCHEMAS | ERASURE_SCHEMAS, "securitySchemes": _SCHEMES},
    }


def _secure(paths: dict[str, Any]) -> None:
    """Say at each operation what a key must be for; a service without keys asks for none."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            scope = next((scope for start, scope in SCOPES_BY_PATH.items() if path.startswith(start)), None)
            if path.startswith("/v1/records"):
                scope = "read" if method == "get" else "publish"
            if scope is not None:
                operation["security"] = [{"key": []}, {"header": []}]
                operation["x-scope"] = scope


def example_of(schema: Schema, *, now: bool = False) -> dict[str, Any]:
    """A request that fits; `now` leaves the event time out."""
    return {f.name: _example(f) for f in schema if not (now and f.name == schema.time_field)}


def _of_model(model: ModelPlan, schemas: dict[str, Any], project: ProjectPlan) -> dict[str, Any]:
    request = project.views[model.view].request
    schemas[f"{model.name}Score"] = _score(model)
    id_type = request[request.id_field].dtype if request.id_field else DType.STRING
    truth = (Field("request_id", id_type), Field("value", model.label.dtype), Field("at", DType.TIMESTAMP))
    schemas[f"{model.name}Label"] = _object(Schema("label", truth, "at"), "The truth of one request.", now=True)
    score = _operation(
        "models", f"Score with model {model.name}", _one_or_many(f"{model.view}Request"), f"{model.name}Score"
    )
    score["parameters"] = [_query("features", "1 adds what the model saw")]
    label = _operation("models", f"Report truths of {model.name}", _one_or_many(f"{model.name}Label"), "Appended")
    return {f"/v1/models/{model.name}/score": {"post": score}, f"/v1/labels/{model.name}": {"post": label}}


def _records(project: ProjectPlan) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    sources: list[GroupPlan | TablePlan] = list(project.groups.values())
    sources += project.tables.values()
    for source in sources:
        parameters = [_in_path(part.name, part.dtype) for part in source.key]
        keys = "/".join(f"{{{part.name}}}" for part in source.key)
        get = {
            "tags": ["records"],
            "summary": f"Read the features of {source.name} for one key",
            "parameters": [*parameters, _query("at", "ISO 8601; now if left out")],
            "responses": _responses("Record"),
        }
        operations = paths[f"/v1/records/{source.name}/{keys}"] = {"get": get}
        if isinstance(source, TablePlan) and source.query is None:
            body = _object(Schema(source.name, source.features, None), source.doc)
            put = _operation("records", f"Put a row of {source.name}", body, "Appended")
            operations["put"] = put | {"parameters": parameters}
    return paths


def _fixed() -> dict[str, Any]:
    prediction = {
        "tags": ["models"],
        "summary": "A recent prediction by its id",
        "parameters": [_in_path("id", DType.STRING)],
        "responses": _responses("Prediction"),
    }
    texts = {
        "/metrics": "Figures in Prometheus form",
        "/health/live": "200 while the process answers",
        "/health/ready": "200 when all is there that answers need, else 503 and what is not; what stands still",
    }
    fixed: dict[str, Any] = {"/v1/predictions/{id}": {"get": prediction}}
    for path, text in texts.items():
        fixed[path] = {"get": {"tags": ["service"], "summary": text, "responses": {"200": {"description": text}}}}
    return fixed


def _operation(tag: str, summary: str, body: dict[str, Any], answer: str) -> dict[str, Any]:
    return {
        "tags": [tag],
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _responses(answer),
    }


def _responses(answer: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "200": {"description": "OK", "content": {"application/json": {"schema": _one_or_many(answer)}}}
    }
    return found | _refusals()


def _refusals() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Refusal")}}
    return {status: {"description": text, "content": content} for status, text in _REFUSALS.items()}


def _mixed_events(project: ProjectPlan) -> dict[str, Any]:
    names = sorted(project.streams)
    event = {"type": "object", "required": ["stream"], "properties": {"stream": {"enum": names}}}
    return _operation("events", "Publish events of any streams", {"type": "array", "items": event}, "Published")


def _features(view: ViewPlan) -> dict[str, Any]:
    values = {"type": "object", "properties": _columns(view.visible)}
    properties = {
        "features": values,
        "position": _ref("Position"),
        "age_s": {"type": ["number", "null"]},
        "view": {"const": view.name},
        "view_version": {"type": "string"},
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _score(model: ModelPlan) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "id": {"type": "string"},
        "value": {"type": "number"},
        "version": {"type": "integer"},
        "model": {"const": model.name},
        "position": _ref("Position"),
        "request_id": {"type": "string"},
        "degraded": {"type": "array", "items": {"type": "string"}},
        "features": {"type": "object"},
    }
    return {"type": "object", "required": list(properties)[:5], "properties": properties, "description": model.doc}


def _columns(columns: Iterable[ViewColumn]) -> dict[str, Any]:
    return {column.name: _nullable(dict(_TYPES[column.dtype]), column.doc) for column in columns}


def _object(schema: Schema, doc: str, *, now: bool = False) -> dict[str, Any]:
    """An object schema; `now` says that the event time may be left out."""
    optional = {schema.time_field} if now else set()
    properties: dict[str, Any] = {}
    for field in schema:
        form = dict(_TYPES[field.dtype])
        if field.size is not None:
            form |= {"minItems": field.size, "maxItems": field.size}
        properties[field.name] = _nullable(form, field.doc) if field.nullable else _told(form, field.doc)
        if field.has_default and isinstance(field.default, str | int | float | bool):
            properties[field.name]["default"] = field.default
    required = [f.name for f in schema if not (f.nullable or f.has_default or f.name in optional)]
    found = {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
        "examples": [example_of(schema, now=now)],
    }
    return _told(found, doc)


def _example(field: Field) -> Any:
    return [0.5] * (field.size or 1) if field.dtype is DType.LIST else _EXAMPLES[field.dtype]


def _nullable(form: dict[str, Any], doc: str) -> dict[str, Any]:
    return _told(form | {"type": [form["type"], "null"]}, doc)


def _told(form: dict[str, Any], doc: str) -> dict[str, Any]:
    return form | {"description": doc} if doc else form


def _query(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}


def _in_path(name: str, dtype: DType) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": dict(_TYPES[dtype])}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _one_or_many(name: str) -> dict[str, Any]:
    return {"oneOf": [_ref(name), {"type": "array", "items": _ref(name)}]}


_OFFSETS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}}
_COMMON: dict[str, Any] = {
    "Refusal": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}, "field": {"type": "string"}, "hint": {"type": "string"}},
    },
    "Position": {
        "type": "object",
        "description": "Which part of the logs a value reflects: the first offsets that it does not.",
        "properties": {"streams": _OFFSETS, "tables": {"type": "integer"}, "windows": {"type": "integer"}},
    },
    "Published": {
        "type": "object",
        "required": ["appended", "dead_letters", "offsets"],
        "properties": {
            "appended": {"type": "integer", "description": "all events, those that do not fit included"},
            "dead_letters": {"type": "integer", "description": "events that do not fit"},
            "offsets": {"type": "object"},
            "malformed": {"type": "array", "items": {"type": "object"}},
        },
    },
    "Appended": {"type": "object", "properties": {"appended": {"type": "integer"}, "offset": {"type": "integer"}}},
    "Prediction": {"type": "object", "required": ["id", "model", "version", "value", "features", "position"]},
    "Record": {"type": "object", "required": ["group", "key", "features", "position"]},
}
