"""The OpenAPI description of erasures."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_PLACES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["place", "records", "what"],
        "properties": {"place": _TEXT, "records": _WHOLE, "what": _TEXT},
    },
}
_ASKED = {
    "type": "object",
    "additionalProperties": False,
    "required": ["entity", "key"],
    "properties": {
        "entity": {**_TEXT, "description": "name of the entity, such as user"},
        "key": {"type": ["string", "integer"], "description": "whose data is erased; it is logged nowhere"},
        "events": {
            "enum": ["unlink", "drop"],
            "default": "unlink",
            "description": "what its events lose: key and personal fields, or all but their time",
        },
        "dry_run": {"type": "boolean", "default": False, "description": "only tell what there is"},
    },
}
_REST = "no headrace up runs that can bring the layers to rest, they do not come to rest, or an erasure runs already"


def erasure_paths(responses: dict[str, Any]) -> dict[str, Any]:
    """Paths of erasures; `responses` are those of errors."""
    begin: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ASKED}}},
        "responses": {
            "200": _answer("What there is, of a dry run", "Held"),
            "202": _answer("It has begun; GET what Location says until its state is ended", "Erasure"),
            "409": {"description": _REST, "content": responses["422"]["content"]},
        },
    }
    id = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
    all_of, one = _answer("OK", "Erasures"), _answer("OK", "Erasure")
    return {
        "/v1/erasures": {
            "post": _operation("Erase one entity everywhere", begin, responses),
            "get": _operation("Receipts of all erasures, the newest last", {"responses": {"200": all_of}}, responses),
        },
        "/v1/erasures/{id}": {
            "get": _operation("One receipt", {"parameters": [id], "responses": {"200": one}}, responses)
        },
    }


def _operation(summary: str, more: dict[str, Any], errors: dict[str, Any]) -> dict[str, Any]:
    return {"tags": ["erasures"], "summary": summary, **more, "responses": {**errors, **more["responses"]}}


def _answer(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


ERASURE_SCHEMAS: dict[str, Any] = {
    "Erasure": {
        "type": "object",
        "description": "A receipt. State: running; ended; open, if it was cut short (asking again goes on with it) or "
        "another process is at it.",
        "required": [
            "state",
            "id",
            "entity",
            "key",
            "who",
            "events",
            "began",
            "ended",
            "places",
            "repaired",
            "remains",
        ],
        "properties": {
            "state": {"enum": ["running", "ended", "open"]},
            **dict.fromkeys(("id", "entity", "who", "began"), _TEXT),
            "key": {**_TEXT, "description": "a keyed hash of the key"},
            "events": {"enum": ["unlink", "drop"]},
            "ended": {**_TEXT, "description": "empty until it has ended"},
            "places": _PLACES,
            "repaired": {**_WHOLE, "description": "records of others that were computed again"},
            "remains": {"type": "array", "items": _TEXT, "description": "what still holds its data, and until when"},
        },
    },
    "Erasures": {
        "type": "object",
        "required": ["erasures"],
        "properties": {"erasures": {"type": "array", "items": {"$ref": "#/components/schemas/Erasure"}}},
    },
    "Held": {
        "type": "object",
        "required": ["entity", "places"],
        "properties": {"entity": _TEXT, "places": _PLACES},
    },
}
