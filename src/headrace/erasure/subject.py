"""Whose data is erased, and how a value, a text or a payload is known to be theirs."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import msgspec

from headrace.core.errors import SchemaError
from headrace.core.keys import encode_part
from headrace.core.schema import DType, Schema
from headrace.features.generation import is_generation
from headrace.features.plan import KeyPart, ProjectPlan

ERASED: Final = "the event was erased"
"""The reason that stands with a malformed event, or a dead letter, whose payload was erased."""
_GONE: Final = "[erased]"


@dataclass(frozen=True)
class Subject:
    """One entity, by its key.

    Attributes:
        entity: the entity's name, as in `hr.Entity("user")`.
        value: the key, a text or an int.
        secret: 32 bytes; pseudonyms of ids are made with it, and whoever forgets it cannot make them again.
        whole: null every field of the entity's events but time and id, not just what names the entity.
    """

    entity: str
    value: str | int
    secret: bytes = field(repr=False)
    whole: bool = False

    @cached_property
    def dtype(self) -> DType:
        """The key's type."""
        return DType.INT if isinstance(self.value, int) else DType.STRING

    @cached_property
    def part(self) -> bytes:
        """The key as a part of the entity bytes of records and deltas."""
        return encode_part(self.value, self.dtype)

    @cached_property
    def _needles(self) -> tuple[bytes, ...]:
        text = str(self.value)
        return tuple({text.encode(), json.dumps(text)[1:-1].encode()})

    @cached_property
    def _word(self) -> re.Pattern[str]:
        return re.compile(rf"(?<![^\W_]){re.escape(str(self.value))}(?![^\W_])")

    @property
    def pattern(self) -> str:
        """The same for Arrow's regular expressions, which cannot look around."""
        return rf"(^|[^\pL\pN]){re.escape(str(self.value))}($|[^\pL\pN])"

    def may_be_in(self, data: bytes) -> bool:
        """False if stored bytes cannot hold the key; of ints, which may be packed, that is never certain."""
        return isinstance(self.value, int) or any(needle in data for needle in self._needles)

    def stands_in(self, data: bytes) -> bool:
        """True if a text key stands in bytes of any kind, not as a part of a longer word."""
        for needle in self._needles:
            at = data.find(needle)
            while at >= 0:
                beside = data[max(at - 1, 0) : at] + data[at + len(needle) : at + len(needle) + 1]
                if not beside.isalnum() and not any(chr(byte).isalnum() and byte < 128 for byte in beside):
                    return True
                at = data.find(needle, at + 1)
        return False

    def named_in(self, text: object) -> bool:
        """True if a text holds the key as a word. An int names nobody in a text: it is too often something else."""
        return isinstance(text, str) and isinstance(self.value, str) and self._word.search(text) is not None

    def without(self, text: str) -> str:
        """The text with the key taken out."""
        return self._word.sub(_GONE, text) if isinstance(self.value, str) else text

    def sent_in(self, payload: bytes) -> bool:
        """True if what was sent (JSON, or any bytes) has the key as a value, or a text that names it."""
        if not any(needle in payload for needle in self._needles):
            return False
        try:
            return any(self._is(item) for item in _scalars(msgspec.json.decode(payload)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._word.search(payload.decode(errors="replace")) is not None

    def _is(self, item: object) -> bool:
        if isinstance(item, bool):
            return False
        return item == self.value or item == str(self.value) or self.named_in(item)

    def pseudonym(self, id: Any) -> Any:
        """What stands in the place of an id that names the entity: the same for the same id, of the same type."""
        digest = hmac.new(self.secret, repr(id).encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:8], "big", signed=True) if isinstance(id, int) else f"erased-{digest[:12].hex()}"

    def has_part(self, key: Iterable[KeyPart]) -> bool:
        """True if the entity is part of a key."""
        return any(part.entity == self.entity for part in key)

    def owns(self, key: tuple[KeyPart, ...], entity: bytes) -> bool:
        """True if entity bytes of a group or table with this key have the erased key in a part of that entity."""
        parts = split_parts(entity)
        if len(parts) != len(key):
            return False
        return any(spec.entity == self.entity and part == self.part for spec, part in zip(key, parts, strict=True))


@dataclass(frozen=True)
class Fields:
    """The fields of one stream's events that may be of the entity, under today's names and former ones.

    `roles` hold its key; `personal` are nulled with it; `references` hold ids of other events; `known` are all names
    of declared fields (empty: nothing is declared any more).
    """

    roles: frozenset[str] = frozenset()
    personal: frozenset[str] = frozenset()
    references: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    time: frozenset[str] = frozenset()
    id: frozenset[str] = frozenset()

    @property
    def declared(self) -> bool:
        """False for a stream that the project does not know."""
        return bool(self.known)


def subject_of(plan: ProjectPlan, entity: str, key: Any, secret: bytes, *, whole: bool = False) -> Subject:
    """The entity of that name and key; raises SchemaError if no field is a key of it, or if the key is of another
    type."""
    streams = [stream.schema for stream in plan.topics().values()]
    fields = [field for schema in (*streams, *(table.schema for table in plan.tables.values())) for field in schema]
    entities = {str(field.entity) for field in fields if field.entity is not None}
    events = {schema.name for schema in streams}
    own = [field for field in fields if field.entity == entity]
    if not own or entity in events:
        there = ", ".join(sorted(entities - events)) or "none"
        raise SchemaError(f'there is no entity "{entity}"; fields are keys of: {there}', field="entity")
    types = {field.dtype for field in own}
    if len(types) > 1 or not types <= {DType.STRING, DType.INT}:
        told = ", ".join(sorted(t.value for t in types))
        raise SchemaError(f"keys of {entity} are {told}: only texts and ints can be erased by", field="key")
    return Subject(entity, _key_value(entity, key, types), secret, whole)


def _key_value(entity: str, key: Any, types: set[DType]) -> str | int:
    text = str(key)
    if types != {DType.INT}:
        if not text:
            raise SchemaError("give the key of the entity that is to be erased", field="key")
        return text
    try:
        number = int(text)
    except ValueError:
        raise SchemaError(f'keys of {entity} are ints, "{text}" is none', field="key") from None
    if not -(2**63) <= number < 2**63:
        raise SchemaError(f"key {number} is beyond int64: no event can have it", field="key")
    return number


def fields_of(plan: ProjectPlan, topic: str, entity: str) -> Fields:
    """The fields of a topic's events that may be of an entity; of a topic that is not declared none."""
    topics = plan.topics()
    if topic not in topics:
        # Another generation of a derived stream has the same fields.
        first = next((d.topic for d in plan.derived.values() if is_generation(topic, d)), None)
        return Fields() if first is None else fields_of(plan, first, entity)
    schema, root = topics[topic].schema, topics[plan.root(topic)].schema
    events = {stream.schema.name for stream in topics.values()}
    # Fields of derived records have the names of their source's, and do not say themselves that they are personal.
    personal = {name for field in root if field.personal for name in field.names}
    if topic in plan.derived:
        personal |= _computed_of(plan, topic, personal | {f.name for f in schema if f.entity == entity})
    chosen: dict[str, set[str]] = {"roles": set(), "personal": set(), "references": set(), "known": set()}
    for one in schema:
        names = set(one.names)
        chosen["known"] |= names
        if one.entity == entity:
            chosen["roles"] |= names
        elif one.entity in events and one.name != schema.id_field:
            chosen["references"] |= names
        # The key of somebody else stays: by it their own values are what they were.
        if (names & personal or one.personal) and (one.entity is None or one.name == schema.id_field):
            chosen["personal"] |= names
    sets = {name: frozenset(names) for name, names in chosen.items()}
    return Fields(**sets, time=_names(schema, schema.time_field), id=_names(schema, schema.id_field))


def _computed_of(plan: ProjectPlan, topic: str, fields: set[str]) -> set[str]:
    """Columns of derived records that are computed from these fields."""
    from headrace.features.nodes import references

    found: set[str] = set()
    for column in plan.derived[topic].view.columns:
        if column.node is not None and references(column.node) & (fields | found):
            found.add(column.name)
    return found - fields


def _names(schema: Schema, name: str | None) -> frozenset[str]:
    return frozenset() if name is None else frozenset(schema[name].names)


def split_parts(entity: bytes) -> list[bytes]:
    """The parts of entity bytes, each as `encode_part` made it; what cannot be taken apart is one part."""
    parts, at = [], 0
    while at < len(entity):
        end = at + 5 + int.from_bytes(entity[at + 1 : at + 5], "big")
        if end > len(entity) or entity[at : at + 1] not in (b"s", b"i", b"t", b"b"):
            return [entity]
        parts.append(entity[at:end])
        at = end
    return parts


def _scalars(item: Any) -> Iterable[Any]:
    if isinstance(item, Mapping):
        for name, value in item.items():
            yield name
            yield from _scalars(value)
    elif isinstance(item, list | tuple):
        for value in item:
            yield from _scalars(value)
    else:
        yield item


def emptied(subject: Subject, item: Any) -> Any:
    """Plain data with every text in it that names the entity taken out."""
    if isinstance(item, str):
        return subject.without(item)
    if isinstance(item, Mapping):
        return {emptied(subject, name): emptied(subject, value) for name, value in item.items()}
    if isinstance(item, list | tuple):
        return [emptied(subject, value) for value in item]
    return item
