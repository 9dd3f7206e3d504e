"""The verdict on each event: counted, duplicate, late or dead letter (design 4.6).

Decided by the records of the event's own partition up to itself, never by a wall clock, so a run over the same log
always decides alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.core.columns import BoolArray, IntArray
from headrace.core.derived import OUTSIDE
from headrace.core.events import EventBlock
from headrace.core.time import NULL_US, format_duration, to_iso
from headrace.features.plan import StreamPlan

COUNTED, DUPLICATE, LATE, DEAD = range(4)


@dataclass(slots=True)
class Judged:
    """Verdicts of one block: `codes` uint8 [n], the partition's clock after each record int64 [n], and for each dead
    letter its row, the field at fault and the reason."""

    codes: np.ndarray[Any, np.dtype[np.uint8]]
    clocks: IntArray
    dead: list[tuple[int, str, str]]


@dataclass(slots=True)
class PartitionState:
    """What decides verdicts in one partition: its clock, and the clock at which each recent id was counted.

    Ids stand in the order in which they were counted, so those beyond the horizon are at the front.
    """

    clock_us: int = NULL_US
    seen: dict[Any, int] = field(default_factory=dict)
    swept_us: int = NULL_US

    def judge(self, stream: StreamPlan, block: EventBlock, arrivals: IntArray) -> Judged:
        """Judge the records of a block in order and move on; `arrivals` int64 [n]."""
        n = block.n
        times = block.columns[stream.schema.time_field or ""].values
        codes = np.zeros(n, np.uint8)
        own = np.minimum(times, arrivals)
        if not n:
            return Judged(codes, own, [])
        dead = self._dead(stream, block, times, arrivals, codes)
        if dead:
            own[codes == DEAD] = NULL_US
        if own[0] < self.clock_us:
            own[0] = self.clock_us
        clocks = np.maximum.accumulate(own)
        if stream.schema.id_field is not None:
            ids = block.columns[stream.schema.id_field].values.tolist()
            self._duplicates(stream, ids, times, clocks, codes, bool(dead))
        elif stream.lateness_us is not None:
            codes[(codes == COUNTED) & (times < clocks - stream.lateness_us)] = LATE
        self.clock_us = int(clocks[-1])
        return Judged(codes, clocks, dead)

    def follow(self, times: IntArray, arrivals: IntArray, codes: np.ndarray[Any, np.dtype[np.uint8]]) -> Judged:
        """Move on over derived records, which bring the verdicts of their sources."""
        # What the stream leaves out is not in its archive either: a backfill finds the same clock.
        moves = np.where((codes == DEAD) | (codes == OUTSIDE), NULL_US, np.minimum(times, arrivals))
        clocks = np.maximum(np.maximum.accumulate(moves), self.clock_us)
        if len(clocks):
            self.clock_us = int(clocks[-1])
        return Judged(codes, clocks, [])

    def _dead(
        self,
        stream: StreamPlan,
        block: EventBlock,
        times: IntArray,
        arrivals: IntArray,
        codes: np.ndarray[Any, np.dtype[np.uint8]],
    ) -> list[tuple[int, str, str]]:
        found = [(bad.row, bad.field, bad.reason) for bad in block.malformed]
        for row, _, _ in found:
            codes[row] = DEAD
        name = stream.schema.time_field or ""
        valid = block.columns[name].valid
        if valid is not None:
            for row in np.flatnonzero(~valid & (codes != DEAD)).tolist():
                codes[row] = DEAD
                found.append((row, name, "the event time is null"))
        if stream.schema.id_field is not None:
            id_valid = block.columns[stream.schema.id_field].valid
            if id_valid is not None:
                for row in np.flatnonzero(~id_valid & (codes != DEAD)).tolist():
                    codes[row] = DEAD
                    found.append((row, stream.schema.id_field, "the id is null"))
        ahead = times > arrivals + stream.future_us
        if np.count_nonzero(ahead):
            for row in np.flatnonzero(ahead & (codes != DEAD)).tolist():
                codes[row] = DEAD
                early = format_duration(stream.future_us)
                at, arrival = to_iso(int(times[row])), to_iso(int(arrivals[row]))
                found.append((row, name, f"event time {at} lies more than {early} after its arrival at {arrival}"))
        return sorted(found)

    def _duplicates(
        self,
        stream: StreamPlan,
        ids: list[Any],
        times: IntArray,
        clocks: IntArray,
        codes: np.ndarray[Any, np.dtype[np.uint8]],
        some_dead: bool,
    ) -> None:
        self._forget(stream.dedupe_us)
        seen = self.seen
        stamps = clocks.tolist()
        late = None if stream.lateness_us is None else times < clocks - stream.lateness_us
        start = 0
        # What stands between the rows that need a look each is new and counts.
        for row in self._doubtful(ids, late, codes if some_dead else None):
            seen.update(zip(ids[start:row], stamps[start:row], strict=True))
            start = row + 1
            if codes[row] == DEAD:
                continue
            key, stamp = ids[row], stamps[row]
            counted_at = seen.get(key)
            if counted_at is not None and stamp - counted_at <= stream.dedupe_us:
                codes[row] = DUPLICATE
                continue
            seen.pop(key, None)
            if late is not None and late[row]:
                codes[row] = LATE
                continue
            seen[key] = stamp
        seen.update(zip(ids[start:], stamps[start:], strict=True))

    def _doubtful(
        self, ids: list[Any], late: BoolArray | None, codes: np.ndarray[Any, np.dtype[np.uint8]] | None
    ) -> list[int]:
        """Rows, ascending, that are dead (by `codes`) or late, or whose id was seen before or stands twice in `ids`."""
        rows: set[int] = set()
        if codes is not None:
            rows.update(np.flatnonzero(codes).tolist())
        if late is not None:
            rows.update(np.flatnonzero(late).tolist())
        distinct = set(ids)
        again = self.seen.keys() & distinct
        if len(distinct) < len(ids):
            last = dict(zip(ids, range(len(ids)), strict=True))
            where = np.fromiter(map(last.__getitem__, ids), np.int64, len(ids))
            again.update([ids[row] for row in np.flatnonzero(where != np.arange(len(ids))).tolist()])
        if again:
            rows.update([row for row, key in enumerate(ids) if key in again])
        return sorted(rows)

    def _forget(self, dedupe_us: int) -> None:
        """Drop ids that can no longer make a duplicate; once in a while, since it changes no verdict."""
        if self.clock_us - self.swept_us < dedupe_us // 16:
            return
        edge = self.clock_us - dedupe_us
        old = []
        for key, counted_at in self.seen.items():
            if counted_at >= edge:
                break
            old.append(key)
        for key in old:
            del self.seen[key]
        self.swept_us = self.clock_us
