"""Truths that callers report: topic `labels` of the internal log, one offset per truth."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headrace.core.errors import SchemaError
from headrace.eventlog.base import Append, EventLog

TOPIC = "labels"


class LabelRow(msgspec.Struct, frozen=True):
    """The truth of one request.

    Attributes:
        model: the model that it is reported for.
        request_id: the request's id as text.
        value: a truth value as 0 or 1, or a number.
        at_us: when it became known.
    """

    model: str
    request_id: str
    value: float
    at_us: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[LabelRow])


def encode_labels(rows: Sequence[LabelRow]) -> bytes:
    """The stored form of reported truths."""
    return _encoder.encode(rows)


def decode_labels(payload: bytes) -> list[LabelRow]:
    """Read what `encode_labels` wrote; raises SchemaError if the bytes are something else."""
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise SchemaError(f"not a block of labels: {error}") from None


def append_labels(log: EventLog, rows: Sequence[LabelRow]) -> int:
    """Append truths (one at least) as one batch and return the offset of the first; makes the topic if need be."""
    log.create(TOPIC)
    return log.append([Append(TOPIC, 0, encode_labels(rows), len(rows))])[0]
