"""The events of a range of offsets with their verdicts, from the log, and what that has dropped from the archive."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.arrow import from_arrow
from headrace.core.columns import Column, spread
from headrace.core.derived import OUTSIDE
from headrace.core.events import EventBlock, concat_blocks
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION, VERDICT
from headrace.engines.stream.engine import RawChunk
from headrace.engines.stream.verdicts import COUNTED, DEAD
from headrace.engines.stream.worker import read_span
from headrace.eventlog.base import EventLog
from headrace.features.plan import ProjectPlan
from headrace.retrieval.past import events_table
from headrace.retrieval.stored import as_declared, stored_columns
from headrace.stores.offline.base import OfflineStore


def judged_span(
    plan: ProjectPlan, raw: EventLog, offline: OfflineStore, topic: str, partition: int, begin: int, end: int
) -> RawChunk:
    """The events `begin` to `end` (exclusive) of one partition of a raw or derived stream, with all of their fields.

    Of raw events that the log still holds the verdicts are left at "counted": the commits say them. What the log has
    dropped comes from the archive, with its verdict; a place where that has nothing held a malformed event, and is a
    dead letter of nulls.
    """
    held = min(max(raw.begin(topic, partition), begin), end)
    if held == begin:
        return read_span(plan, raw, topic, partition, begin, end)
    old = _archived(plan, offline, topic, partition, begin, held)
    if held == end:
        return old
    new = read_span(plan, raw, topic, partition, held, end)
    assert old.codes is not None
    return RawChunk(
        partition,
        begin,
        concat_blocks([old.block, new.block]),
        np.concatenate([old.arrivals, new.arrivals]),
        None,
        np.concatenate([old.codes, np.zeros(new.block.n, np.uint8) if new.codes is None else new.codes]),
    )


def _archived(plan: ProjectPlan, offline: OfflineStore, topic: str, partition: int, begin: int, end: int) -> RawChunk:
    schema, derived, n = plan.stream(topic).schema, plan.derived.get(topic), end - begin
    if derived is None:
        names = list(schema.first_names)
        columns: dict[str, Column] = {}
        arrivals, codes = np.zeros(n, np.int64), np.full(n, DEAD, np.uint8)
    else:
        # Whether a record is missing for its source or for the condition of the stream, the source says.
        source = _archived(plan, offline, derived.source, partition, begin, end)
        assert source.codes is not None
        names, columns, arrivals = list(derived.computed), dict(source.block.columns), source.arrivals
        codes = np.where(source.codes == COUNTED, np.uint8(OUTSIDE), source.codes)
    rows = _rows(offline, plan, topic, partition, begin, end, names)
    at = np.array(rows[OFFSET], np.int64) - begin
    for name in names:
        columns[name] = spread(from_arrow(rows[name], schema[name].dtype, name), at, n)
    codes[at] = np.array(rows[VERDICT], np.uint8)
    arrivals[at] = np.array(rows[ARRIVAL], np.int64)
    return RawChunk(partition, begin, EventBlock(n, columns), np.maximum.accumulate(arrivals), None, codes)


def _rows(
    offline: OfflineStore, plan: ProjectPlan, topic: str, partition: int, begin: int, end: int, names: list[str]
) -> pa.Table:
    schema, table = plan.stream(topic).schema, events_table(topic)
    wanted = [*names, PARTITION, OFFSET, ARRIVAL, VERDICT]
    columns = stored_columns(offline.columns(table), schema, wanted)
    rows = as_declared(offline.scan(table, columns, between=(OFFSET, begin, end)), schema, wanted)
    return rows.filter(pc.equal(rows[PARTITION], partition)).sort_by(OFFSET)
