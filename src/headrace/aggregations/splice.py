"""The plain way of merging events into window records: one compiled call for all records that a commit touches.

Nearly always an entity's new events go behind its old ones, or between some of them, and what fell behind the cut is
dropped. That takes no more than copying words: the old records and the new events are joined to one buffer, and the
kernel writes the new records into another. Where events can become tiles, a second one makes these. What they cannot do
(keep rows beside tiles, fold events into the lifetime's base, order ties by id) is left to `records.merge`, and the
bytes are the same whichever way a record went.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numba import njit

from headrace.aggregations.kept import KEPT_WORDS
from headrace.aggregations.lanes import LANE_WORDS
from headrace.aggregations.layout import GroupLayout
from headrace.aggregations.records import FORMAT, EntityDelta, append_ids, check_format, growing_words, merge
from headrace.aggregations.texts import TextMerge
from headrace.aggregations.tiles import cut_of, tile_rows, to_tile
from headrace.core.columns import IntArray
from headrace.core.time import NULL_US

_GENERAL, _SAME, _FORMER = -1, -2, -3
# What the kernel is told of an entity, before its positions. _OLD: the word at which its record begins (-1: none yet),
# _ROW: that of the time of its first new event, _STRIDE: how many new events its group has. _TILE: the words of a tile
# with its start, _FLAG: which of the rows' columns is the flag (-1: none), _LEVELS_AT: the word where the levels begin,
# _STATES: how many states each tile has.
(
    _OLD, _ROW, _COUNT, _CLOCK, _STRIDE, _COLUMNS, _BASE, _LIFETIME, _ORDERED, _REACH, _STEP, _TILE, _FLAG, _FEWEST,
    _LEVELS_AT, _LEVELS, _STATES, _PARTITIONS,
) = range(18)  # fmt: skip
_FIXED = 18
_WORD = struct.Struct("<q")


class Events(Protocol):
    """New events of one group, entity by entity; see `engines.stream.commits.GroupDelta`."""

    @property
    def counts(self) -> Sequence[int]: ...
    @property
    def clocks(self) -> bytes: ...
    @property
    def positions(self) -> bytes: ...
    @property
    def times(self) -> bytes: ...
    @property
    def columns(self) -> list[bytes]: ...
    @property
    def offsets(self) -> bytes: ...
    @property
    def partitions(self) -> bytes: ...
    @property
    def ids(self) -> list[Any] | None: ...
    @property
    def texts(self) -> Sequence[str]: ...


def merge_groups(
    groups: Sequence[tuple[GroupLayout, Events, Sequence[bytes]]], records: dict[bytes, bytes | None], horizon_us: int
) -> None:
    """Bring `records` up to date with the events of `groups`, each with the keys of its entities' records.

    Every key must be in `records` (None: there is no record yet) and may occur once. Events that a record already
    reflects change nothing.
    """
    texts: list[tuple[TextMerge, Sequence[bytes]]] = []
    plain_groups: list[tuple[GroupLayout, Events, Sequence[bytes]]] = []
    for layout, events, keys in groups:
        if layout.texts:
            merge_of = TextMerge(layout, events.columns, events.texts, [records[key] for key in keys])
            texts.append((merge_of, keys))
            records.update(zip(keys, merge_of.plain, strict=True))
            events = _Numbered(events, merge_of.columns)
        plain_groups.append((layout, events, keys))
    _merge_plain(plain_groups, records, horizon_us)
    for merge_of, keys in texts:
        records.update(zip(keys, merge_of.merged([records[key] for key in keys]), strict=True))


def _merge_plain(
    groups: Sequence[tuple[GroupLayout, Events, Sequence[bytes]]], records: dict[bytes, bytes | None], horizon_us: int
) -> None:
    """`merge_groups`, of records without texts or with words of one dictionary."""
    parts: list[bytes] = []
    about: list[bytes] = []
    at = room = entities = 0
    groups = [group for group in groups if len(group[2])]
    for layout, events, keys in groups:
        rows = len(events.times) >> 3
        flags = (bytes(8 * rows),) if layout.flagged else ()
        ties = (events.offsets, events.partitions) if layout.ordered else ()
        columns = (events.times, *events.columns, *flags, *ties)
        levels = layout.levels_at(horizon_us)
        old = [records[key] for key in keys]
        sizes = np.array([-1 if record is None else len(record) >> 3 for record in old], np.int64)
        parts += (*columns, levels.tobytes(), *(record for record in old if record is not None))
        row, levels_at = at, at + rows * len(columns)
        at = levels_at + levels.size
        counts = np.array(events.counts, np.int64)
        positions = np.frombuffer(events.positions, np.int64).reshape(len(keys), -1)
        table = np.empty((len(keys), _FIXED + positions.shape[1]), np.int64)
        table[:, _STRIDE:_FIXED] = (
            rows, len(columns), layout.base_words, layout.lifetime, layout.ordered, layout.reach_us + horizon_us,
            layout.cut_step_us, 1 + layout.tile_words, 1 + layout.width if layout.flagged else -1, layout.fewest,
            levels_at, len(levels), len(layout.tiled), positions.shape[1],
        )  # fmt: skip
        if layout.has_states:
            # Here growing states are base words that only some records have.
            grown = [0 if record is None else growing_words(layout, record) for record in old]
            table[:, _BASE] += np.array(grown)
        ends = np.cumsum(np.maximum(sizes, 0))
        table[:, _OLD] = np.where(sizes < 0, -1, at + ends - sizes)
        table[:, _ROW] = row + np.cumsum(counts) - counts
        table[:, _COUNT] = counts
        table[:, _CLOCK] = np.frombuffer(events.clocks, np.int64)
        table[:, _FIXED:] = positions
        about.append(table.tobytes())
        at += int(ends[-1])
        entities += len(keys)
        room += layout.base_words * len(keys)
    # What is told of the entities comes last.
    words = np.frombuffer(b"".join([*parts, *about]), np.int64)
    out = np.empty(len(words) + room, np.int64)
    spans = np.empty((entities, 4), np.int64)
    splice(words, at, out, spans)
    _check_formats(groups, records, spans)
    merged = out.data.cast("B")[: int(spans[spans[:, 0] >= 0, 1].max(initial=0))].tobytes()
    first = 0
    for layout, events, keys in groups:
        here = spans[first : first + len(keys)]
        first += len(keys)
        general = [(keys[i], i) for i in np.flatnonzero(here[:, 0] == _GENERAL).tolist()]
        ends = np.cumsum(events.counts)
        for key, index in general:
            delta = _delta_of(events, index, int(ends[index]) - events.counts[index], events.counts[index])
            records[key] = merge(layout, records[key], delta, horizon_us)
        if layout.ordered and events.ids is not None:
            for index in np.flatnonzero(here[:, 0] >= 0).tolist():
                begin, end, dropped = here[index, :3].tolist()
                ids = events.ids[int(ends[index]) - events.counts[index] : int(ends[index])]
                records[keys[index]] = append_ids(merged[begin:end], records[keys[index]], ids, dropped)
            continue
        for key, begin, end in zip(keys, here[:, 0].tolist(), here[:, 1].tolist(), strict=True):
            if begin >= 0:
                records[key] = merged[begin:end]
        untiled = np.flatnonzero((here[:, 0] >= 0) & (here[:, 3] != 0))
        if len(untiled):
            made = _tiled(layout, out, here[untiled], horizon_us)
            records.update(zip([keys[index] for index in untiled.tolist()], made, strict=True))


def _check_formats(
    groups: Sequence[tuple[GroupLayout, Events, Sequence[bytes]]], records: dict[bytes, bytes | None], spans: IntArray
) -> None:
    """Raise StoreError if `splice` met a record of another format."""
    if (spans[:, 0] == _FORMER).any():
        for record in [records[key] for _, _, keys in groups for key in keys]:
            check_format(FORMAT if record is None else _WORD.unpack_from(record)[0])


def _tiled(layout: GroupLayout, merged: IntArray, spans: IntArray, horizon_us: int) -> list[bytes]:
    """The records that stand at `spans` of `merged`, with tiles of what may be tiled."""
    begins = spans[:, 0] >> 3
    # No record gets longer than this.
    most = merged[begins + 1] // layout.fewest + 1
    out = np.empty(int(((spans[:, 1] >> 3) - begins + (1 + layout.tile_words) * most).sum()), np.int64)
    ends = np.empty(len(spans), np.int64)
    levels = layout.levels_at(horizon_us)
    tile_spliced(
        merged, begins, spans[:, 1] >> 3, layout.lanes, levels, layout.edges,
        np.array([layout.base_words, 1 + layout.tile_words, layout.row_words, layout.fewest]), out, ends,
    )  # fmt: skip
    whole = out[: ends[-1]].tobytes()
    edges = [0, *(8 * ends).tolist()]
    return [whole[begin:end] for begin, end in pairwise(edges)]


class _Numbered:
    """Events whose texts are words of the dictionary that a merge has in common."""

    def __init__(self, events: Events, columns: list[bytes]) -> None:
        self.counts, self.clocks, self.positions, self.times = (
            events.counts,
            events.clocks,
            events.positions,
            events.times,
        )
        self.columns, self.texts = columns, ()
        self.offsets, self.partitions, self.ids = events.offsets, events.partitions, events.ids


def _delta_of(events: Events, index: int, first: int, count: int) -> EntityDelta:
    a, b = 8 * first, 8 * (first + count)
    partitions = len(events.positions) // len(events.clocks)
    return EntityDelta(
        count,
        events.times[a:b],
        [column[a:b] for column in events.columns],
        events.offsets[a:b],
        events.partitions[a:b],
        None if events.ids is None else events.ids[first : first + count],
        _WORD.unpack_from(events.clocks, 8 * index)[0],
        struct.unpack_from(f"<{partitions}q", events.positions, 8 * partitions * index),
    )


@njit(cache=True, nogil=True)
def splice(words, at, out, spans):  # type: ignore[no-untyped-def]
    """Write the new record of each entity that `words[at:]` describes to `out`.

    `spans` gets, per entity, where its record begins and ends in `out` (bytes), how many rows were dropped, and 1 if
    some of the rows are to become tiles; the begin is _GENERAL if the record must be made in the general way, _SAME if
    nothing is new and _FORMER if the old record has another format.
    """
    to = 0
    for entity in range(len(spans)):
        about = words[at:]
        partitions = about[_PARTITIONS]
        at += _FIXED + partitions
        spans[entity, 0] = _splice_one(words, about, about[_FIXED:], partitions, out[to:], spans[entity])
        if spans[entity, 0] == 0:
            spans[entity, 0] = 8 * to
            to += spans[entity, 1]
            spans[entity, 1] = 8 * to


@njit(cache=True)
def _splice_one(words, about, positions, partitions, out, span):  # type: ignore[no-untyped-def]
    """One entity of `splice`: 0 and the record's words in `span[1]`, or why it was not made."""
    span[3] = 0
    old, row, count, clock, base = about[_OLD], about[_ROW], about[_COUNT], about[_CLOCK], about[_BASE]
    cut = clock - about[_REACH]
    cut -= cut % about[_STEP]
    tiles = old + 7 + partitions + base
    rows, n, m = tiles, np.int64(0), np.int64(0)
    old_clock = old_cut = np.int64(NULL_US)
    for p in range(partitions):
        out[7 + p] = positions[p]
    if old >= 0:
        if words[old] != FORMAT:
            return _FORMER
        fresh = False
        for p in range(partitions):
            have = words[old + 7 + p]
            fresh |= have < positions[p]
            out[7 + p] = max(have, positions[p])
        if not fresh:
            return _SAME
        n, m = words[old + 1], words[old + 4]
        rows = tiles + m * about[_TILE]
        old_cut, old_clock = words[old + 2], words[old + 3]
        cut, clock = max(cut, old_cut), max(clock, old_clock)
    first = words[row]
    if about[_ORDERED] and n and first <= words[rows + n - 1]:
        return _GENERAL
    drop = skip = gone = 0
    if about[_LIFETIME]:
        if first < cut:
            return _GENERAL
        if cut > old_cut and old >= 0:
            # What lies behind the new cut and is not counted in the base yet, has to go there.
            if m and words[tiles] < cut:
                return _GENERAL
            for i in range(n):
                if words[rows + i] >= cut:
                    break
                if words[rows + i] >= old_cut or about[_FLAG] < 0:
                    return _GENERAL
    else:
        while gone < m and words[tiles + gone] < cut:
            gone += 1
        while drop < n and words[rows + drop] < cut:
            drop += 1
        while skip < count and words[row + skip] < cut:
            skip += 1
    if gone and about[_STATES]:
        return _GENERAL
    # Old rows go first among equals; those that lie before all new ones need not be compared one by one.
    behind = n
    while behind > drop and words[rows + behind - 1] > first:
        behind -= 1
    total = n - drop + count - skip
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = FORMAT, total, cut, clock, m - gone, 0, partitions
    to = 7 + partitions
    for b in range(base):
        out[to + b] = words[tiles - base + b] if old >= 0 else 0
    to += base
    new_tiles = to
    for column in range(about[_TILE]):
        for k in range(gone, m):
            out[to] = words[tiles + column * m + k]
            to += 1
    new_rows = to
    for column in range(about[_COLUMNS]):
        a, b = rows + column * n, row + column * about[_STRIDE]
        for i in range(drop, behind):
            out[to] = words[a + i]
            to += 1
        j = skip
        for i in range(behind, n):
            while j < count and words[row + j] < words[rows + i]:
                out[to] = words[b + j]
                to += 1
                j += 1
            out[to] = words[a + i]
            to += 1
        for rest in range(j, count):
            out[to] = words[b + rest]
            to += 1
    span[1], span[2] = to, drop + skip
    if about[_LEVELS] and skip < count:
        levels = words[about[_LEVELS_AT] : about[_LEVELS_AT] + 3 * about[_LEVELS]].reshape(-1, 3)
        flags = new_rows + about[_FLAG] * total if about[_FLAG] >= 0 else -1
        first = max(first, cut)
        if to_tile(out, new_rows, total, flags, new_tiles, m - gone, levels, old_clock, clock, first, about[_FEWEST]):
            if about[_FLAG] >= 0 or about[_ORDERED] or about[_STATES]:
                return _GENERAL
            span[3] = 1
    return 0


@njit(cache=True)
def tile_spliced(merged, begins, ends, lanes, levels, edges, sizes, out, out_ends):  # type: ignore[no-untyped-def]
    """Write the records at words `begins` to `ends` of `merged` to `out`, one after the other, with what may be tiled
    as tiles.

    `sizes` are the words of the base, of a tile with its start and of a row, and the fewest rows that make a tile;
    `out_ends` gets the word at which each record ends. Rows are in order, have no flags, and none lies behind the cut.
    """
    base, tile_words, row_words, fewest = sizes[0], sizes[1], sizes[2], sizes[3]
    cuts = np.empty(len(levels), np.int64)
    work = np.zeros((len(lanes), LANE_WORDS + 2), np.int64)
    nothing_kept = np.zeros((0, KEPT_WORDS), np.int64)
    to = 0
    for entity in range(len(begins)):
        old = merged[begins[entity] : ends[entity]]
        n, clock, count = old[1], old[3], old[4]
        tiles = 7 + old[6] + base
        rows = tiles + tile_words * count
        both = np.empty(len(old) - tiles, np.int64)
        both[: row_words * n] = old[rows:]
        both[row_words * n :] = old[tiles:rows]
        for level in range(len(levels)):
            cuts[level] = cut_of(levels, level, clock)
        counted, keep = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        made = np.zeros((tile_words, count + n // fewest + 1), np.int64)
        m = tile_rows(
            both, both.view(np.float64), n, row_words * n, count, lanes, levels, cuts, fewest, edges,
            nothing_kept, np.zeros(n, np.bool_), counted, keep, made, work,
        )  # fmt: skip
        start = to
        out[to : to + tiles] = old[:tiles]
        to += tiles
        for column in range(tile_words):
            out[to : to + m] = made[column, :m]
            to += m
        for column in range(row_words):
            for i in range(n):
                if keep[i]:
                    out[to] = both[column * n + i]
                    to += 1
        out[start + 1], out[start + 4] = keep.sum(), m
        out_ends[entity] = to
