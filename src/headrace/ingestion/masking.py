"""Values of personal fields are hidden in what is shown of dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from headrace.core.unreadable import is_whole_batch, without_bytes
from headrace.engines.stream.commits import DeadLetter
from headrace.features.plan import StreamPlan
from headrace.ingestion.publisher import UNKNOWN_TOPIC

HIDDEN = "***"
_NO_VALUE_IN_IT = (
    "the field is missing", "null in", "the id is null", "the event time is null", "expected ", "out of range",
    "infinite", "too large", "a time outside", "outside the range", "text that is not", "this line is no JSON",
    "given twice", "the event names no stream", "there is no stream",
)  # fmt: skip
"""Beginnings of reasons that, up to ", got", quote nothing of what was sent but names."""


class Masker:
    """Hides what may be personal: in a stream with a personal field that field, every name that the stream does not
    know (it may be a misspelt one) and whatever is no object; of streams that are not declared everything, if the
    project has personal fields at all."""

    def __init__(self, streams: Mapping[str, StreamPlan]) -> None:
        self._shown: dict[str, frozenset[str]] = {}
        self._whole: set[str] = set()
        for name, stream in streams.items():
            if any(field.personal for field in stream.schema):
                self._shown[name] = frozenset(n for field in stream.schema if not field.personal for n in field.names)
            else:
                self._whole.add(name)

    def letter(self, letter: DeadLetter) -> DeadLetter:
        """The letter with what is personal hidden; itself if nothing is."""
        if letter.stream in self._whole or not self._shown:
            return letter
        if is_whole_batch(letter.reason):
            return msgspec.structs.replace(letter, payload=without_bytes(letter.payload))
        shown = self._shown.get(letter.stream, frozenset())
        if letter.stream == UNKNOWN_TOPIC:
            shown = frozenset({"stream"})
        payload = _masked(letter.payload, shown)
        return DeadLetter(
            letter.stream, letter.partition, letter.offset, letter.field,
            self.reason(letter.stream, letter.field, letter.reason), letter.arrival_us, payload,
        )  # fmt: skip

    def reason(self, stream: str, field: str, reason: str) -> str:
        """A reason without the value that it quotes, if that may be personal."""
        if stream in self._whole or not self._shown or is_whole_batch(reason) or field in self._shown.get(stream, ()):
            return reason
        head = reason.partition(", got ")[0]
        return head if head.startswith(_NO_VALUE_IN_IT) or head.endswith("has no such field") else "does not fit"

    def told_by(self, stream: str, target: str, names: Iterable[str]) -> list[str]:
        """Those of the members `names` that are hidden in one declared stream and would be shown in another one."""
        if stream not in self._shown:
            return []
        shown = self._shown.get(target)
        return [name for name in names if name not in self._shown[stream] and (shown is None or name in shown)]


def _masked(payload: bytes, shown: frozenset[str]) -> bytes:
    try:
        event = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = None
    if not isinstance(event, dict):
        return msgspec.json.encode(HIDDEN)
    return msgspec.json.encode({name: value if name in shown else HIDDEN for name, value in event.items()})
