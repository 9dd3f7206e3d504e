"""Stored events without what names an entity; each keeps its place, its time and its verdict.

What is nulled of an event in which the key stands: the key, wherever a field of that entity holds it, personal fields,
texts that name the key, and fields that are not declared any more. Keys of others stay, so their windows count the
event as before. An id that is personal or names the key becomes a pseudonym: a null one would be another verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from headrace.core.derived import decode_derived, encode_derived
from headrace.core.errors import SchemaError
from headrace.core.events import FORMAT, spoilt_block
from headrace.core.messages import plain_column
from headrace.core.unreadable import keeps_batch, kept_in, without_bytes
from headrace.engines.stream.commits import DeadLetter, decode_dead_letters, encode_dead_letters
from headrace.erasure.subject import ERASED, Fields, Subject, emptied
from headrace.ingestion.letters import ACTIONS

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_NOTHING: Final = b"null"
_OWN: Final = "_"
"""What begins the names of columns that are no fields."""


@dataclass(frozen=True, slots=True)
class Edited:
    """What is to be stored, how many events (or rows) of the entity were in it, and of them the ids that became
    pseudonyms, old to new."""

    payload: bytes
    found: int
    ids: dict[Any, Any] = field(default_factory=dict)


def erased_block(payload: bytes, subject: Subject, fields: Fields, *, count: int | None = None) -> Edited | None:
    """A block of events (`core.events`) without the entity; None if it has nothing of it.

    `count` events of a raw topic which cannot be read lose all their bytes if the key stands in these; a key that is an
    int is looked for as a text. Raises SchemaError for what is no block else, such as the messages of a Kafka topic,
    which cannot be edited.
    """
    if not subject.may_be_in(payload) and not keeps_batch(payload):
        return None
    if count is None:
        return _edited(payload, subject, fields)
    try:
        return _edited(payload, subject, fields)
    except (msgspec.DecodeError, LookupError, ValueError, TypeError, AttributeError):
        if not subject.stands_in(payload):
            return None
        return Edited(spoilt_block(b"", count, "its bytes were erased"), count)


def _edited(payload: bytes, subject: Subject, fields: Fields) -> Edited | None:
    version, n, packed, malformed = _unpack(payload)
    if version != FORMAT:
        raise SchemaError(f"a block of events has format {version}; this version edits format {FORMAT}")
    columns = {name: plain_column(column) for name, column in packed.items()}
    hit, changed = _hits(columns, n, subject, fields), {}
    touched = hit.copy()
    for name, values in columns.items():
        new = _without(name, values, hit, subject, fields)
        if new is not values:
            changed[name] = new
            touched |= np.fromiter((a is not b for a, b in zip(values, new, strict=True)), np.bool_, n)
    events = int(np.count_nonzero(touched))
    for entry in malformed:
        if subject.stands_in(kept_in(entry[3])):
            entry[3] = without_bytes(entry[3])
            events += n
        elif subject.sent_in(entry[3]):
            entry[2], entry[3] = ERASED, _NOTHING
            events += 1
    if not events:
        return None
    ids = {
        old: new
        for name in fields.id & changed.keys()
        for old, new in zip(columns[name], changed[name], strict=True)
        if old != new
    }
    return Edited(_pack([version, n, {**packed, **changed}, malformed]), events, ids)


def erased_derived(payload: bytes, subject: Subject, fields: Fields) -> Edited | None:
    """A batch of derived records (`core.derived`), likewise."""
    if not subject.may_be_in(payload):
        return None
    batch = decode_derived(payload)
    found = erased_block(batch.block, subject, fields)
    if found is None:
        return None
    batch.block = found.payload
    return Edited(encode_derived(batch), found.found)


def erased_letters(payload: bytes, subject: Subject) -> Edited | None:
    """A batch of dead letters without what was sent by or about the entity."""
    if not subject.may_be_in(payload) and not keeps_batch(payload):
        return None
    letters, found = decode_dead_letters(payload), 0
    for place, letter in enumerate(letters):
        if subject.stands_in(kept_in(letter.payload)):
            letters[place] = msgspec.structs.replace(letter, payload=without_bytes(letter.payload))
            found += 1
        elif subject.sent_in(letter.payload) or subject.named_in(letter.reason):
            letters[place] = DeadLetter(
                letter.stream, letter.partition, letter.offset, letter.field, ERASED, letter.arrival_us, _NOTHING
            )
            found += 1
    return Edited(encode_dead_letters(letters), found) if found else None


def erased_texts(payload: bytes, subject: Subject) -> Edited | None:
    """A record of plain data (MessagePack) with the key taken out of its texts."""
    if not subject.may_be_in(payload):
        return None
    item = _unpack(payload)
    clean = emptied(subject, item)
    return None if clean == item else Edited(_pack(clean), 1)


def erased_record(topic: str, payload: bytes, subject: Subject, fields: Fields, count: int) -> Edited | None:
    """Whatever lies in a topic of the log of raw events, `count` records of it."""
    if topic == ACTIONS:
        return erased_texts(payload, subject)
    # The second byte is the format: of derived records 1, of blocks of events 2.
    if payload[1:2] == b"\x01":
        return erased_derived(payload, subject, fields)
    return erased_block(payload, subject, fields, count=count)


def erased_values(
    values: Sequence[Any], name: str, hit: Sequence[bool] | np.ndarray[Any, Any], subject: Subject, fields: Fields
) -> list[Any]:
    """One column of plain values, erased where `hit` says that the event is the entity's."""
    return _without(name, list(values), np.asarray(hit, np.bool_), subject, fields)


def _hits(
    columns: dict[str, list[Any]], n: int, subject: Subject, fields: Fields
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """In which rows a field of the entity holds the key; of an undeclared stream, any field."""
    hit = np.zeros(n, np.bool_)
    for name, values in columns.items():
        if name in fields.roles or (not fields.declared and isinstance(subject.value, str)):
            hit |= np.fromiter((value == subject.value for value in values), np.bool_, n)
    return hit


def _without(
    name: str,
    values: list[Any],
    hit: np.ndarray[Any, np.dtype[np.bool_]],
    subject: Subject,
    fields: Fields,
) -> list[Any]:
    """The column with what has to go; the same object if nothing has."""
    new = values
    rows = range(len(values)) if name in fields.references else np.flatnonzero(hit).tolist()
    for row in rows:
        value = values[row]
        gone = value if value is None else _erased(name, value, subject, fields)
        if gone is not value:
            new = list(values) if new is values else new
            new[row] = gone
    return new


def _erased(name: str, value: Any, subject: Subject, fields: Fields) -> Any:
    """What stays of one value of an event of the entity (of a reference: of any event)."""
    if name in fields.time:
        return value
    if name in fields.id or name in fields.references:
        personal = name in fields.id and name in fields.personal and not _is_pseudonym(value)
        return subject.pseudonym(value) if personal or subject.named_in(value) else value
    if name in fields.roles:
        return None if value == subject.value or subject.whole else value
    if name.startswith(_OWN):
        return None if subject.named_in(value) else value
    declared = name in fields.known
    if name in fields.personal or subject.whole or (fields.declared and not declared) or subject.named_in(value):
        return None
    return value


def _is_pseudonym(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("erased-") and len(value) == len("erased-") + 24
