"""What a log of raw events hands out instead of a batch whose bytes are not those that were appended."""

from __future__ import annotations

from collections.abc import Callable, Collection

from headrace.core.events import spoilt_block
from headrace.eventlog.base import LogBatch

_WHY = "its checksum differs, so these are not the bytes that were appended"


def spoilt_events(topics: Collection[str]) -> Callable[[LogBatch], bytes | None]:
    """Of events in one of these topics a block of rows that do not fit, which becomes a dead letter with the bytes;
    None of other topics, where nothing may be left out."""
    return lambda batch: spoilt_block(batch.payload, batch.count, _WHY) if batch.topic in topics else None
