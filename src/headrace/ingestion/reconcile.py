"""Whether the stores hold what the logs say; what does not is repaired, while nothing stops.

First the archive, for everything else is computed from it (`archive_audit`). Then the online store, in two ways:

- Its records are known by their hashes (`digests`). Where a hash is another one than at the last look, and the feature
  log says nothing of that key, or the log says something and the hash is the same or gone, that record is looked at.
- A share of all entities is looked at in each run, so that all come in turn, whatever their hashes say: a record that
  the log has changed since, and somebody else as well, is found by it.

What a record that is looked at should be is computed from archive and log for the position that the store has at the
start of the run; where it differs, what the feature log has brought it since is merged into that, up to the position
that was read with it, and the two are compared by bits once more. A repair replaces only the very bytes that were found
wrong: whoever wrote meanwhile wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from headrace.aggregations.layout import GroupLayout, layout_of
from headrace.aggregations.records import HEAD_BYTES, in_order_of_words
from headrace.aggregations.splice import merge_groups
from headrace.aggregations.table_splice import merge_table
from headrace.core.keys import record_keys
from headrace.core.positions import Position, decode_position, encode_position, state_key
from headrace.core.tablerows import decode_table_rows, is_of_table
from headrace.engines.stream.commits import TABLES, WINDOWS, decode_commit
from headrace.engines.stream.worker import clocks_at, read_heads
from headrace.eventlog.base import EventLog
from headrace.features.plan import GroupPlan, ProjectPlan, TablePlan
from headrace.ingestion.archive_audit import ArchiveAudit, tables_of
from headrace.ingestion.backfill import Progress, left_out, parts_of, read_state
from headrace.ingestion.digests import DigestFolder, Kept, between, digest, hashes_of, holds, touched
from headrace.ingestion.expected import Expected, Share
from headrace.ingestion.materialize import new_rows
from headrace.stores.online.base import OnlineStore

_AT_ONCE = 20_000
_BATCHES = 1_000
_MOST_SUSPECTS = 200_000
"""A run looks at so many records at most because of their hashes; the rest stay suspicious."""


@dataclass(slots=True)
class Reconciled:
    """What a run found.

    Attributes:
        compared: records that should be there.
        hashed: records whose hashes were compared with those of the last look.
        suspected: of them, those that were looked at because of their hashes.
        missing, differing: by group or table, those that were not there, and those that were otherwise.
        extra: likewise, records that should not be there.
        repaired: records that were put right.
        left: records that others wrote while they were looked at; the next run looks again.
        archived: rows of the archive that were counted.
        archive_missing, archive_restored: by table of the offline store, rows that it had lost, and those of them that
            were brought back from the logs.
        lost: likewise, what cannot be brought back, with the cure; nothing was computed from these tables.
    """

    compared: int = 0
    hashed: int = 0
    suspected: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)
    repaired: int = 0
    left: int = 0
    archived: int = 0
    archive_missing: dict[str, int] = field(default_factory=dict)
    archive_restored: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def add(self, other: Reconciled) -> None:
        """Add what another run found."""
        for name in ("compared", "hashed", "suspected", "repaired", "left", "archived"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("missing", "differing", "extra", "archive_missing", "archive_restored"):
            for key, n in getattr(other, name).items():
                _add(getattr(self, name), key, n)
        self.lost |= other.lost

    @property
    def wrong(self) -> int:
        """Records that were missing, different or too many."""
        return sum(self.missing.values()) + sum(self.differing.values()) + sum(self.extra.values())

    @property
    def unrepaired(self) -> int:
        """Records, and rows of the archive, that are still wrong."""
        rows = sum(self.archive_missing.values()) - sum(self.archive_restored.values())
        return self.wrong - self.repaired + rows

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "wrong": self.wrong, "unrepaired": self.unrepaired}

    def __str__(self) -> str:
        found = [f"{n} of {name} missing" for name, n in self.missing.items()]
        found += [f"{n} of {name} different" for name, n in self.differing.items()]
        found += [f"{n} of {name} too many" for name, n in self.extra.items()]
        what = f"{', '.join(found)}; {self.repaired:,} repaired" if found else "all agree"
        lines = [
            f"{self.compared:,} records compared: {what}" + (f"; {self.left:,} left for next time" if self.left else "")
        ]
        for name, n in self.archive_missing.items():
            lines.append(f"archive {name}: {n:,} rows missing, {self.archive_restored.get(name, 0):,} brought back")
        lines += [f"archive {name}: {told}" for name, told in self.lost.items()]
        return "\n".join(lines)


class Reconciler:
    """Compares and repairs one share of a store at a time, beside whoever else reads and writes it.

    `pace` is called before a repair with how many records it writes, and with what ends a wait by raising; it may wait.

    Attributes:
        totals: of all runs of this object.
    """

    def __init__(
        self,
        plan: ProjectPlan,
        features: EventLog,
        online: OnlineStore,
        expected: Expected,
        *,
        archive: ArchiveAudit | None = None,
        digests: DigestFolder | None = None,
        pace: Callable[[int, Callable[[], object]], object] = lambda *_: None,
    ) -> None:
        self._plan, self._features, self._online, self._expected = plan, features, online, expected
        self._archive, self._digests, self._pace = archive, digests, pace
        self._on_way: Callable[[], object] = lambda: None
        self._versions = {table.version for table in plan.tables.values()}
        self._versions |= {group.version for group in plan.streamed_groups}
        self._doubtful: list[bytes] = []
        self._broken: set[str] = set()
        self.totals = Reconciled()

    def run(
        self,
        share: Share,
        *,
        repair: bool = True,
        archive: bool = True,
        on_way: Callable[[], object] = lambda: None,
    ) -> Reconciled:
        """Look at one share, and at what its hashes make suspicious; `repair=False` only tells, `archive=False` takes
        the archive as it was found last. `on_way` is called now and then; what it raises ends the run, after which all
        is sound that was looked at."""
        found = Reconciled()
        self._on_way = on_way
        if archive:
            self._broken = self._look_at_archive(found, repair, share, on_way)
        broken = self._broken
        self._doubtful = []
        chosen, keys, kept = self._look_at_hashes(found, share, on_way)
        position = decode_position(self._online.position())
        there = _by_version(keys)
        for table in self._plan.tables.values():
            if table.version in broken:
                continue
            seen = there.get(table.version, set())
            for records in self._expected.table(table, position.tables, chosen, on_way):
                seen.difference_update(records)
                self._look(table, records, position, found, repair)
                on_way()
            self._look(table, dict.fromkeys(seen), position, found, repair)
        for groups, at in self.by_stream(position):
            if groups[0].stream in broken:
                continue
            versions = {group.version: group for group in groups}
            seen = {key for version in versions for key in there.get(version, ())}
            without = left_out(self._online, groups)
            made = self._expected.groups(groups, at, chosen, progress=lambda *_: on_way(), left_out=without)
            for records in made:
                seen.difference_update(records)
                self._look(groups, records, position, found, repair)
            self._look(groups, dict.fromkeys(seen), position, found, repair)
        if kept is not None and repair and self._digests is not None:
            # What was wrong, or could not be said, is looked at again next time.
            doubtful = hashes_of(self._doubtful)
            if broken and chosen.also is not None:
                doubtful = np.concatenate([doubtful, chosen.also])  # some of these were not looked at
            doubtful = np.unique(doubtful)
            self._digests.save(self._versions, replace(kept, digests=kept.digests.doubting(doubtful)))
        self.totals.add(found)
        return found

    def _look_at_archive(self, found: Reconciled, repair: bool, share: Share, on_way: Callable[[], object]) -> set[str]:
        """The streams, and versions of tables, whose archive has lost what cannot be brought back."""
        if self._archive is None:
            return set()
        restored = self._archive.look(repair=repair, count=share.number == 0, on_way=on_way)
        found.archived, found.lost = restored.rows, restored.lost
        found.archive_missing, found.archive_restored = restored.missing, restored.restored
        return tables_of(self._plan, restored.lost)

    def _look_at_hashes(
        self, found: Reconciled, share: Share, on_way: Callable[[], object]
    ) -> tuple[Share, list[bytes], Kept | None]:
        """The share with the suspicious records, the keys of those of both that are in the store, and what to keep."""
        folder = self._digests
        before = None if folder is None else folder.load(self._versions)
        since = decode_position(self._online.position())
        # A scheduled group's records change beside the feature log: that its share comes in turn has to do.
        beside = {group.version for group in self._plan.computed_groups} - self._versions
        now, keys = digest(self._online.sweep(), self._versions, share.holds, on_way, beside)
        until = decode_position(self._online.position())
        kept = Kept(now, since, until)
        if before is None or (since.windows, since.tables) < (before.since.windows, before.since.tables):
            return share, keys, kept
        changed = now.changed(before.digests)
        spans = pairwise((before.since, before.until, since, until))
        early, surely, lately = (touched(self._plan, self._features, *span, on_way) for span in spans)
        named = np.unique(np.concatenate([early, surely, lately]))
        moved = holds(changed, surely) & holds(now.keys, surely)
        suspects = np.concatenate([changed[~holds(named, changed)], surely[~moved]])
        found.hashed, found.suspected = len(now.keys), min(len(suspects), _MOST_SUSPECTS)
        if not len(suspects):
            return share, keys, kept
        later = np.unique(suspects[_MOST_SUSPECTS:])
        suspects = np.unique(suspects[:_MOST_SUSPECTS])
        _, more = digest(self._online.sweep(), self._versions, lambda some: holds(suspects, hashes_of(some)), on_way)
        kept = replace(kept, digests=now.doubting(later))
        return replace(share, also=suspects), [*keys, *more], kept

    def by_stream(self, position: Position) -> Iterator[tuple[list[GroupPlan], list[int]]]:
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
        found.compared += sum(record is not None for record in expected.values())
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            records, now = self._online.read([*some, *states])
            if records[len(some) :] != at:
                found.left += sum(expected[key] is not None for key in some)  # a run of the schedule came in between
                continue
            wrong = {key: have for key, have in zip(some, records, strict=False) if have != expected[key]}
            if not wrong:
                continue
            # What came since belongs into the records, too: after this both are of one and the same position.
            wanted = {key: expected[key] for key in wrong}
            if not scheduled:
                horizon_us = self._expected.horizon_us
                bring_up(self._features, source, wanted, since, decode_position(now), horizon_us=horizon_us)
            layouts = {} if isinstance(source, TablePlan) else {group.version: layout_of(group) for group in source}
            wrong = {key: have for key, have in wrong.items() if not _same(layouts, key, have, wanted[key])}
            missing = sum(have is None for have in wrong.values())
            extra = sum(wanted[key] is None for key in wrong)
            _add(found.missing, name, missing)
            _add(found.extra, name, extra)
            _add(found.differing, name, len(wrong) - missing - extra)
            self._doubtful += wrong
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

        self._pace(len(keys), self._on_way)
        self._online.revise(keys, change)
        return written


def _same(layouts: Mapping[str, GroupLayout], key: bytes, have: bytes | None, wanted: bytes | None) -> bool:
    layout = layouts.get(key[-8:].hex())
    if have == wanted or layout is None or have is None or wanted is None:
        return have == wanted
    # A head that differs may be damaged.
    alike = len(have) == len(wanted) and have[:HEAD_BYTES] == wanted[:HEAD_BYTES]
    return alike and in_order_of_words(layout, have) == in_order_of_words(layout, wanted)


def _by_version(keys: Sequence[bytes]) -> dict[str, set[bytes]]:
    found: dict[bytes, set[bytes]] = {}
    for key in keys:
        found.setdefault(key[-8:], set()).add(key)
    return {version.hex(): some for version, some in found.items()}


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
        for batch in between(features, TABLES, since.tables, until.tables):
            if is_of_table(batch.payload, source.name, source.version):
                # Ingestion writes a large batch in pieces: a position may lie within it.
                rows = new_rows(source, decode_table_rows(batch.payload), batch).between(since.tables, until.tables)
                mine = np.fromiter((key in records for key in rows.keys), np.bool_, len(rows.keys))
                if mine.any():
                    merge_table(rows.at(np.flatnonzero(mine)), records, horizon_us)
        return
    layouts = {group.version: layout_of(group) for group in source}
    for batch in between(features, WINDOWS, since.windows, until.windows):
        for version, delta in decode_commit(batch.payload).groups.items():
            if version not in layouts:
                continue
            keys = record_keys(delta.keys, version)
            mine = np.fromiter((key in records for key in keys), np.bool_, len(keys))
            for part in parts_of(delta, mine):
                merge_groups([(layouts[version], part, record_keys(part.keys, version))], records, horizon_us)


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
    clocks = {name: max(by_partition) for name, by_partition in clocks_at(features, windows, streams).items()}
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
