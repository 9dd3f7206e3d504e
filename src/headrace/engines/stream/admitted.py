"""Raw events with the verdicts that stream compute gave them, read back from the logs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.core.arrow import to_arrow
from headrace.core.columns import BoolArray, IntArray
from headrace.core.derived import OUTSIDE, decode_derived
from headrace.core.events import EventBlock, decode_joined
from headrace.engines.stream.batches import check_readable
from headrace.engines.stream.commits import CommitHead
from headrace.engines.stream.verdicts import COUNTED, DEAD
from headrace.eventlog.base import EventLog, LogBatch
from headrace.features.plan import StreamPlan

PARTITION, OFFSET, ARRIVAL, VERDICT = "_partition", "_offset", "_arrival_us", "_verdict"
"""Columns that stand beside the fields in the archive: int64 each."""


@dataclass(slots=True)
class _Span:
    begin: int
    end: int


def judged_events(
    stream: StreamPlan, raw: EventLog, commits: Iterable[CommitHead], *, derived: bool = False
) -> pa.Table | None:
    """All well-formed events of `stream` that the commits cover, with partition, offset, arrival and verdict.

    The commits must be consecutive. Timestamps are int64 µs here and in the archive. None if they cover no event.
    Of a derived stream (`derived`) arrivals and verdicts are those of the source events; what its condition leaves out
    is left out here, too.
    """
    spans: dict[int, _Span] = {}
    verdicts: dict[int, dict[int, int]] = {}
    for commit in commits:
        span = commit.streams.get(stream.name)
        if span is None:
            continue
        for partition, (begin, end) in enumerate(zip(span.begin, span.end, strict=True)):
            spans.setdefault(partition, _Span(begin, end)).end = end
        for partition, offset, code in span.exceptions:
            verdicts.setdefault(partition, {})[offset] = code
    pieces = [
        _derived_table(stream, raw, partition, span)
        if derived
        else _partition_table(stream, raw, partition, span, verdicts.get(partition, {}))
        for partition, span in spans.items()
        if span.end > span.begin
    ]
    return pa.concat_tables(pieces) if pieces else None


def _partition_table(
    stream: StreamPlan, raw: EventLog, partition: int, span: _Span, verdicts: dict[int, int]
) -> pa.Table:
    batches = _batches(stream, raw, partition, span)
    block = decode_joined(
        [batch.payload for batch in batches], stream.schema, counts=[batch.count for batch in batches]
    )
    stamps: IntArray = np.repeat([b.arrival_us for b in batches], [b.count for b in batches]).astype(np.int64)
    # The first and the last batch may reach beyond the span.
    first, stop = span.begin - batches[0].base, span.end - batches[0].base
    if (first, stop) != (0, block.n):
        block, stamps = block.slice(first, stop), stamps[first:stop]
    bad = ((one.row, one.reason) for one in block.malformed)
    check_readable(bad, verdicts, stream.name, partition, span.begin)
    codes = np.full(block.n, COUNTED, np.int64)
    for offset, code in verdicts.items():
        codes[offset - span.begin] = code
    keep = np.ones(block.n, np.bool_)
    keep[[bad.row for bad in block.malformed]] = False
    return _table(block, partition, span.begin, stamps, codes, keep)


def _derived_table(stream: StreamPlan, raw: EventLog, partition: int, span: _Span) -> pa.Table:
    batches = _batches(stream, raw, partition, span)
    held = [decode_derived(batch.payload) for batch in batches]
    block = decode_joined([batch.block for batch in held], stream.schema)
    stamps = np.concatenate([batch.arrivals for batch in held])
    codes = np.concatenate([batch.codes() for batch in held]).astype(np.int64)
    # A dead letter has no event time, or none that may stand: its place is all that there is of it.
    return _table(block, partition, batches[0].base, stamps, codes, (codes != DEAD) & (codes != OUTSIDE))


def _batches(stream: StreamPlan, raw: EventLog, partition: int, span: _Span) -> list[LogBatch]:
    batches: list[LogBatch] = []
    at = span.begin
    while at < span.end:
        batches += [b for b in raw.read(stream.name, partition, at, span.end - at) if b.base < span.end]
        at = batches[-1].end
    return batches


def _table(
    block: EventBlock, partition: int, base: int, arrivals: IntArray, codes: IntArray, keep: BoolArray
) -> pa.Table:
    columns = {name: archive_array(block, name) for name in block.columns}
    columns |= {
        PARTITION: pa.array(np.full(block.n, partition, np.int64)),
        OFFSET: pa.array(np.arange(base, base + block.n)),
        ARRIVAL: pa.array(arrivals),
        VERDICT: pa.array(codes),
    }
    table = pa.table(columns)
    return table if keep.all() else table.filter(pa.array(keep))


def archive_array(block: EventBlock, name: str) -> pa.Array:
    """A column as it is archived: times and durations as int64 µs."""
    array = to_arrow(block.columns[name])
    return array.cast(pa.int64()) if pa.types.is_temporal(array.type) else array
