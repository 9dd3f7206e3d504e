"""The OpenAPI description of dead letters."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_TEXTS = {"type": "array", "items": _TEXT}
_MAYBE = {"type": ["string", "null"]}
_PLACE = [
    {"name": name, "in": "path", "required": True, "schema": schema}
    for name, schema in (("stream", _TEXT), ("partition", {"type": "integer"}), ("offset", {"type": "integer"}))
]
_FILTERS = {
    "stream": "of this stream; _unknown for events of no declared one",
    "field": "with this field at fault",
    "reason": "whose reason has this text in it",
    "since": "that arrived from this time on, ISO 8601",
    "until": "that arrived before this time, ISO 8601",
}


def letter_paths(responses: dict[str, Any]) -> dict[str, Any]:
    """Paths of dead letters; `responses` are those of errors."""
    query = [_query(name, text) for name, text in _FILTERS.items()]
    query += [
        _query("state", "open (if left out), replayed, fixed, dropped or all"),
        _query("limit", "1 to 1000 (100)"),
    ]
    which: dict[str, Any] = {name: {**_TEXT, "description": text} for name, text in _FILTERS.items()}
    which |= {"letters": {**_TEXTS, "description": "ids, stream/partition/offset"}, "why": _TEXT}
    fix = {
        "set": {"type": "object", "description": "fields that are other than was sent"},
        "remove": {**_TEXTS, "description": "fields to leave out"},
        "event": {"type": ["object", "array", "null"], "description": "the whole corrected event; of a batch, a list"},
        "stream": {**_MAYBE, "description": "where it belongs, if not where it was sent"},
        "why": _TEXT,
    }
    letter = "/v1/dead_letters/{stream}/{partition}/{offset}"
    operations: list[tuple[str, str, str, str, dict[str, Any]]] = [
        ("/v1/dead_letters", "get", "List dead letters, the newest first", "DeadLetters", {"parameters": query}),
        (letter, "get", "One dead letter", "DeadLetter", {"parameters": _PLACE}),
        (
            f"{letter}/fix", "post", "Publish the corrected event of a letter", "DeadLetter",
            {"parameters": _PLACE, **_body(fix)},
        ),
        (
            "/v1/dead_letters/replay", "post", "Publish again what fits today, each letter once", "Replayed",
            _body(which | {"dry_run": {"type": "boolean"}}),
        ),
        ("/v1/dead_letters/drop", "post", "Mark letters as dropped", "Dropped", _body(which)),
    ]  # fmt: skip
    paths: dict[str, Any] = {}
    for path, method, summary, answer, more in operations:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
        paths.setdefault(path, {})[method] = {
            "tags": ["dead letters"],
            "summary": summary,
            **more,
            "responses": {"200": {"description": "OK", "content": content}, **responses},
        }
    return paths


def _query(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": _TEXT}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


LETTER_SCHEMAS: dict[str, Any] = {
    "DeadLetter": {
        "type": "object",
        "description": "An event that was set aside; `payload` is what was sent, as JSON text.",
        "required": ["id", "stream", "partition", "offset", "field", "reason", "arrival", "payload", "state"],
        "properties": {
            **dict.fromkeys(("id", "stream", "field", "reason", "payload"), _TEXT),
            **dict.fromkeys(("partition", "offset"), _WHOLE),
            "arrival": {"type": "string", "format": "date-time"},
            "state": {"enum": ["open", "replayed", "fixed", "dropped"]},
            "mark": {
                "type": ["object", "null"],
                "description": "Who did that, when and why; where the new event stands.",
                "properties": {**dict.fromkeys(("state", "at", "who", "why"), _TEXT), "published": _MAYBE},
            },
        },
    },
    "DeadLetters": {
        "type": "object",
        "required": ["total", "letters", "counts"],
        "properties": {
            "total": {"type": "integer"},
            "letters": {"type": "array", "items": {"$ref": "#/components/schemas/DeadLetter"}},
            "counts": {"type": "array", "items": {"type": "object"}, "description": "by stream, field and reason"},
        },
    },
    "Replayed": {
        "type": "object",
        "required": ["published", "left", "refused"],
        "properties": {
            "published": {"type": "integer"},
            "left": {"type": "integer", "description": "letters that do not fit today either"},
            "refused": {
                "type": "array",
                "items": {"type": "object"},
                "description": "some of these",
            },
        },
    },
    "Dropped": {"type": "object", "required": ["dropped"], "properties": {"dropped": {"type": "integer"}}},
}
