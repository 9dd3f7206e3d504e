"""Answers and refusals: what goes over the wire, and which status an error has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from headrace.core.errors import (
    Busy,
    HeadraceError,
    LogError,
    NotFound,
    SchemaError,
    StoreError,
)
from headrace.core.positions import Position
from headrace.core.schema import DType
from headrace.core.time import to_iso
from headrace.retrieval.rows import FeatureBlock

JSON = b"application/json"
Headers = tuple[tuple[bytes, bytes], ...]
"""Response headers beside type and length, names in lower case."""
T = TypeVar("T")
encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = ()


class Refused(Exception):
    """A request that cannot be answered: HTTP status, what is wrong, the field at fault, what to do, and more."""

    def __init__(
        self, status: int, error: str, *, field: str | None = None, hint: str = "", headers: Headers = (), **more: Any
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.field, self.hint, self.more = status, error, field, hint, more
        self.headers = headers

    def reply(self) -> Reply:
        """The refusal as JSON: error, field, hint and whatever else was given."""
        body: dict[str, Any] = {"error": self.error}
        if self.field:
            body["field"] = self.field
        if self.hint:
            body["hint"] = self.hint
        return Reply(encode_json(body | self.more), self.status, headers=self.headers)


class FeatureReply(msgspec.Struct, omit_defaults=True):
    """Features of one request; `age_s` is how old the newest event that they reflect is (null: there is none)."""

    features: dict[str, Any]
    position: Position
    age_s: float | None
    view: str
    view_version: str


class ScoreReply(msgspec.Struct, omit_defaults=True):
    """The answer to one request."""

    id: str
    value: float
    version: int
    model: str
    position: Position
    request_id: str | None = None
    degraded: tuple[str, ...] = ()
    features: dict[str, Any] | None = None


def refusal(error: Exception) -> Reply | None:
    """The reply to an error raised on purpose; None if it was not."""
    if isinstance(error, Refused):
        return error.reply()
    if isinstance(error, NotFound):
        return Refused(404, str(error)).reply()
    if isinstance(error, SchemaError):
        return Refused(422, str(error), field=error.field).reply()
    if isinstance(error, Busy | LogError | StoreError):
        return Refused(503, str(error), hint="try again; if it goes on, see /health/ready").reply()
    if isinstance(error, HeadraceError):
        return Refused(422, str(error)).reply()
    return None


def body_of(body: bytes, wanted: type[T]) -> T:
    """What a body says, as a struct; none is an empty object. Raises Refused: 400 if it is no JSON, 422 if it does not
    fit."""
    try:
        return msgspec.json.decode(body or b"{}", type=wanted)
    except msgspec.ValidationError as error:
        raise Refused(422, str(error), hint="/openapi.json says what it takes") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from None


def unknown(kind: str, name: str, known: Iterable[str]) -> Refused:
    """A 404 that names what is like it, and what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names) or 'none'}"
    return Refused(404, f'there is no {kind} "{name}"', hint=hint)


def feature_rows(block: FeatureBlock) -> list[dict[str, Any]]:
    """JSON values by column, one dict per row: null for null, ISO 8601 for times, int µs for durations.

    Maps become objects; a key that is no text is named by its JSON: 7, 1.5, true.
    """
    return block.to_rows(_spoken)


def _spoken(value: Any, dtype: DType) -> Any:
    if dtype is DType.BOOL:
        return value != 0
    if dtype is DType.TIMESTAMP:
        return to_iso(value)
    return _nested(value, dtype) if dtype.is_nested else value


def _nested(value: Any, dtype: DType) -> Any:
    if len(dtype.parts) == 1:
        return [to_iso(item) for item in value] if dtype is DType.LIST_TIMESTAMP else value
    key, item = dtype.parts
    return {
        _name(one, key): to_iso(other) if item is DType.TIMESTAMP and other is not None else other
        for one, other in value.items()
    }


def _name(key: Any, dtype: DType) -> str:
    """A map's key as the name of a JSON member."""
    if dtype is DType.TIMESTAMP:
        return to_iso(key)
    if dtype is DType.STRING:
        return str(key)
    return msgspec.json.encode(key).decode()
