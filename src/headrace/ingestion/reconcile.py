"""Whether the online store holds what archive and log say, share by share of all entities; what does not is repaired.

Every run looks at one share, so that all are looked at in turn while nothing stops. What should be there is computed
for the position that the store has at the start of the run; where a record differs, what the feature log has brought
it since is merged into that, up to the position that was read with it, and the two are compared by bits once more. A
repair replaces only the very bytes that were found wrong: whoever wrote meanwhile wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.aggregations.layout import layout_of
from headrace.aggregations.splice import merge_groups
from headrace.aggregations.table_splice import merge_table
from headrace.core.keys import record_keys
from headrace.core.positions import Position, decode_position, encode_position, state_key
from headrace.core.tablerows import decode_table_rows, is_of_table
from headrace.engines.stream.commits import TABLES, WINDOWS, decode_commit
from headrace.engines.stream.worker import read_heads
from headrace.eventlog.base import EventLog, LogBatch
from headrace.features.plan import GroupPlan, ProjectPlan, TablePlan
from headrace.ingestion.backfill import Progress, parts_of, read_state
from headrace.ingestion.expected import Expected, Share
from headrace.ingestion.materialize import new_rows
from headrace.stores.online.base import OnlineStore

_AT_ONCE = 20_000
_BATCHES = 1_000


@dataclass(slots=True)
class Reconciled:
    """What a run found.

    Attributes:
        compared: records that should be there.
        missing, differing: of them, by group or table, those that were not there, and those that were otherwise.
        repaired: records that were put right.
        left: records that others wrote while they were looked at; the next run of their share looks again.
    """

    compared: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    repaired: int = 0
    left: int = 0

    def add(self, other: Reconciled) -> None:
        """Add what another run found."""
        self.compared += other.compared
        self.repaired += other.repaired
        self.left += other.left
        for mine, theirs in ((self.missing, other.missing), (self.differing, other.differing)):
            for name, n in theirs.items():
                _add(mine, name, n)

    @property
    def wrong(self) -> int:
        """Records that were missing or different."""
        return sum(self.missing.values()) + sum(self.differing.values())

    def __str__(self) -> str:
        found = [f"{n} of {name} missing" for name, n in self.missing.items()]
        found += [f"{n} of {name} different" for name, n in self.differing.items()]
        what = f"{', '.join(found)}; {self.repaired:,} repaired" if found else "all agree"
        return f"{self.compared:,} records compared: {what}" + (
            f"; {self.left:,} left for next time" if self.left else ""
        )


class Reconciler:
    """Compares and repairs one share of a store at a time, beside whoever else reads and writes it.

    Attributes:
        totals: of all runs of this object.
    """

    def __init__(self, plan: ProjectPlan, features: EventLog, online: OnlineStore, expected: Expected) -> None:
        self._plan, self._features, self._online, self._expected = plan, features, online, expected
        self.totals = Reconciled()

    def run(self, share: Share, *, repair: bool = True, on_way: Callable[[], object] = lambda: None) -> Reconciled:
        """Look at one share; `repair=False` only tells. `on_way` is called now and then; what it raises ends the run,
        after which all is sound that was looked at."""
        found = Reconciled()
        position = decode_position(self._online.position())
        for table in self._plan.tables.values():
            for records in self._expected.table(table, position.tables, share, on_way):
                self._look(table, records, position, found, repair)
                on_way()
        for groups, at in self._by_stream(position):
            for records in self._expected.groups(groups, at, share, progress=lambda *_: on_way()):
                self._look(groups, records, position, found, repair)
        self.totals.add(found)
        return found

    def _by_stream(self, position: Position) -> Iterator[tuple[list[GroupPlan], list[int]]]:
        """Groups that are equally far, with how far that is; those of which nothing was computed are left out."""
        found: dict[tuple[str, tuple[int, ...], bool], list[GroupPlan]] = {}
        for group in {group.version: group for group in self._plan.computed_groups}.values():
            at: list[int] | None = position.streams.get(group.stream)
            scheduled = group.version in self._plan.scheduled
            if scheduled:
                state = read_state(self._online, group.version)
                at = None if state is None else state.at
            if at is not None and any(at):
                found.setdefault((group.stream, tuple(at), scheduled), []).append(group)
        for (_, reached, _), groups in found.items():
            yield groups, list(reached)

    def _look(
        self,
        source: TablePlan | list[GroupPlan],
        expected: Mapping[bytes, bytes | None],
        since: Position,
        found: Reconciled,
        repair: bool,
    ) -> None:
        """Compare and repair records of a table, or of groups that are equally far, given as of position `since`."""
        name = source.name if isinstance(source, TablePlan) else ", ".join(group.name for group in source)
        scheduled = not isinstance(source, TablePlan) and source[0].version in self._plan.scheduled
        states = [state_key(group.version) for group in source] if isinstance(source, list) and scheduled else []
        at = self._online.read(states)[0] if states else []
        keys = list(expected)
        found.compared += len(keys)
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            records, now = self._online.read([*some, *states])
            if records[len(some) :] != at:
                found.left += len(some)  # a run of the schedule came in between
                continue
            wrong = {key: have for key, have in zip(some, records, strict=False) if have != expected[key]}
            if not wrong:
                continue
            # What came since belongs into the records, too: after this both are of one and the same position.
            wanted = {key: expected[key] for key in wrong}
            if not scheduled:
                horizon_us = self._expected.horizon_us
                bring_up(self._features, source, wanted, since, decode_position(now), horizon_us=horizon_us)
            wrong = {key: have for key, have in wrong.items() if have != wanted[key]}
            missing = sum(have is None for have in wrong.values())
            _add(found.missing, name, missing)
            _add(found.differing, name, len(wrong) - missing)
            if wrong and repair:
                repaired = self._replace(wanted, wrong)
                found.repaired += repaired
                found.left += len(wrong) - repaired

    def _replace(self, expected: Mapping[bytes, bytes | None], wrong: Mapping[bytes, bytes | None]) -> int:
        """Write what is expected where the very same is still wrong: nobody has written there since it was read."""
        keys = list(wrong)
        written = 0

        def change(records: list[bytes | None]) -> list[tuple[bytes, bytes | None]]:
            nonlocal written
            same = [(key, expected[key]) for key, have in zip(keys, records, strict=True) if have == wrong[key]]
            written = len(same)
            return same

        self._online.revise(keys, change)
        return written


def bring_up(
    features: EventLog,
    source: TablePlan | Sequence[GroupPlan],
    records: dict[bytes, bytes | None],
    since: Position,
    until: Position,
    *,
    horizon_us: int,
) -> None:
    """Merge into records what the feature log brings them between two positions of a store."""
    if isinstance(source, TablePlan):
        for batch in _between(features, TABLES, since.tables, until.tables):
            if is_of_table(batch.payload, source.name, source.version):
                # Ingestion writes a large batch in pieces: a position may lie within it.
                rows = new_rows(source, decode_table_rows(batch.payload), batch).between(since.tables, until.tables)
                mine = np.fromiter((key in records for key in rows.keys), np.bool_, len(rows.keys))
                if mine.any():
                    merge_table(rows.at(np.flatnonzero(mine)), records, horizon_us)
        return
    layouts = {group.version: layout_of(group) for group in source}
    for batch in _between(features, WINDOWS, since.windows, until.windows):
        for version, delta in decode_commit(batch.payload).groups.items():
            if version not in layouts:
                continue
            keys = record_keys(delta.keys, version)
            mine = np.fromiter((key in records for key in keys), np.bool_, len(keys))
            for part in parts_of(delta, mine):
                merge_groups([(layouts[version], part, record_keys(part.keys, version))], records, horizon_us)


def _between(log: EventLog, topic: str, begin: int, end: int) -> Iterator[LogBatch]:
    while begin < end:
        batches = log.read(topic, 0, begin, min(end - begin, _BATCHES))
        if not batches:
            return
        yield from batches
        begin = batches[-1].end


def _add(counts: dict[str, int], name: str, n: int) -> None:
    if n:
        counts[name] = counts.get(name, 0) + n


def rebuild(
    plan: ProjectPlan,
    features: EventLog,
    online: OnlineStore,
    expected: Expected,
    *,
    progress: Progress | None = None,
    said: Callable[[str], object] = lambda _: None,
) -> Position:
    """Fill an empty store with what archive and log hold, up to where compute stands; returns its position then.

    The caller sees to it that nobody else writes meanwhile. Killed, it is begun again with an empty store: without the
    position, which comes last, nobody takes the store for filled.
    """
    if WINDOWS not in features.topics():
        features.create(WINDOWS)
    if TABLES not in features.topics():
        features.create(TABLES)
    windows, tables = features.end(WINDOWS, 0), features.end(TABLES, 0)
    for table in plan.tables.values():
        said(f"table {table.name}")
        done = 0
        for records in expected.table(table, tables):
            items = list(records.items())
            online.write(items, b"")
            done += len(items)
            if progress is not None:
                progress(done, done)
    last = read_heads(features, windows - 1, 1) if windows else []
    streams = last[0][1].positions if last else {}
    clocks = _clocks(features, windows, streams)
    for stream in streams:
        groups = [group for group in {g.version: g for g in plan.computed_groups}.values() if group.stream == stream]
        if groups and any(streams[stream]):
            said(f"stream {stream}: {', '.join(group.name for group in groups)}")
            for _ in expected.groups(groups, streams[stream], into=online, progress=progress):
                pass
    position = Position(streams=dict(streams), tables=tables, windows=windows, clock_us=clocks)
    online.write([], encode_position(position))
    online.sync()
    return position


def _clocks(features: EventLog, end: int, streams: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """N(p) of each stream, from the last commit that has events of it."""
    found: dict[str, int] = {}
    at = end
    while at > 0 and len(found) < sum(any(offsets) for offsets in streams.values()):
        begin = max(at - _BATCHES, 0)
        for _, head in reversed(read_heads(features, begin, at - begin)):
            for name, span in head.streams.items():
                found.setdefault(name, max(span.clocks_us))
        at = begin
    return found
