"""Window records: what the online store holds per group and entity.

A record is int64 words: format · rows n · cut · clock · tiles m · tail bytes · partitions P · P positions · base words
(the lifetime's state of events before the cut; of groups with growing states the last says how many words these take)
· the growing states of tiles (`tile_states.py`) and of the lifetime (`growing.py`) · m starts of tiles · the words of
tiles, m each · n event times · the group's columns, n words each · where rows may stay that are counted elsewhere, n
flags that say so · for groups that depend on ties: n offsets, n partitions and a MessagePack list of ids as the tail.

Rows lie in order of (event time, id, partition, offset). Events between which no edge of a window can fall any more
are tiles (`tiles.py`), and events before the cut, which no finite window reaches, are in the base and in the growing
states; the rows that first and last still need stay beside them. The cut and the levels of tiles follow the stream's
clock at the entity's last event, so that what a record says is a function of the events below its position alone,
however they were batched.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from headrace.aggregations.growing import grow, join
from headrace.aggregations.kept import keep_rows
from headrace.aggregations.lanes import LANE_WORDS
from headrace.aggregations.layout import GroupLayout
from headrace.aggregations.tile_states import fold_states, mark_apart, states_begin, tile_states
from headrace.aggregations.tiles import cut_of, fold_base, fold_rows, fold_tiles, keep_edges, tile_rows
from headrace.core.columns import BoolArray, IntArray
from headrace.core.errors import StoreError
from headrace.core.time import floor_to

FORMAT = 4
"""4: tiles have growing states. Records of another format are refused (`check_format`)."""
_HEAD = struct.Struct("<7q")
HEAD_BYTES = _HEAD.size
"""What stands before the positions of a record."""
_TAIL_AT, _PARTITIONS_AT = 40, 48
_WORD = struct.Struct("<q")
_encode_ids = msgspec.msgpack.Encoder().encode
_decode_ids = msgspec.msgpack.Decoder(list[Any]).decode


@dataclass(slots=True)
class EntityDelta:
    """New events of one entity: `n` rows in order, ready to be merged into its record.

    `times`, `columns` (one entry per physical column), `offsets` and `partitions` are little-endian int64 bytes.
    `ids` is None for streams without a declared id, and where the group does not depend on ties. `clock_us` is the
    greatest clock of a partition at one of them, `positions` the offset after the last per partition (0: none of it).
    """

    n: int
    times: bytes
    columns: list[bytes]
    offsets: bytes
    partitions: bytes
    ids: list[Any] | None
    clock_us: int
    positions: tuple[int, ...]


def merge(layout: GroupLayout, record: bytes | None, delta: EntityDelta, horizon_us: int) -> bytes:
    """Return the record after the events of `delta`; a delta that the record already reflects changes nothing."""
    cut = floor_to(delta.clock_us - horizon_us - layout.reach_us, layout.cut_step_us)
    if record is None:
        return _rebuild(layout, None, delta, cut, delta.clock_us, delta.positions, horizon_us)
    form, _, old_cut, clock, _, _, partitions = _HEAD.unpack_from(record)
    check_format(form)
    positions = struct.unpack_from(f"<{partitions}q", record, 56)
    if all(have >= new for have, new in zip(positions, delta.positions, strict=True)):
        return record
    positions = tuple(max(pair) for pair in zip(positions, delta.positions, strict=True))
    return _rebuild(layout, record, delta, max(cut, old_cut), max(clock, delta.clock_us), positions, horizon_us)


def check_format(found: int) -> None:
    """Raise StoreError for a window record of another format."""
    if found != FORMAT:
        raise StoreError(
            f"the online store holds a window record of format {found}, this version reads and writes format {FORMAT}: "
            "delete the online store, and ingestion makes it again from the feature log"
        )


def append_ids(record: bytes, old: bytes | None, ids: list[Any], dropped: int) -> bytes:
    """Give a record without a tail the ids of its rows: those of `old` and the new ones, less the first `dropped`."""
    if old is not None:
        tail = _WORD.unpack_from(old, _TAIL_AT)[0]
        start = len(old) - (tail + 7) // 8 * 8
        ids = _decode_ids(old[start : start + tail]) + ids
    encoded = _encode_ids(ids[dropped:])
    return b"".join([record[:_TAIL_AT], _WORD.pack(len(encoded)), record[_TAIL_AT + 8 :], _padded(encoded)])


@dataclass(slots=True)
class _Parts:
    """What a record holds, taken apart: `rows` are int64 [columns, n], `tiles` [1 + words of a tile, tiles].

    The growing states of the tiles are `packed`, those of tile k at `spans[0, k]` to `spans[1, k]`.
    """

    rows: IntArray
    base: IntArray
    grown: IntArray
    tiles: IntArray
    spans: IntArray
    packed: IntArray
    ids: list[Any] | None
    cut: int
    clock: int
    positions: Sequence[int]


def _taken_apart(layout: GroupLayout, record: bytes) -> _Parts:
    _, n, cut, clock, count, tail, partitions = _HEAD.unpack_from(record)
    at = 7 + partitions
    sizes = (layout.base_words, growing_words(layout, record), (1 + layout.tile_words) * count, layout.row_words * n)
    words = np.frombuffer(record, np.int64, count=at + sum(sizes))
    base, grown, tiles, rows = np.split(words[at:], np.cumsum(sizes[:-1]))
    begins = states_begin(grown.copy(), 0, count if len(layout.tiled) else 0)
    spans = np.stack([begins[:-1], begins[1:]])
    packed, grown = grown, grown[begins[-1] :]
    positions = struct.unpack_from(f"<{partitions}q", record, 56)
    ids = _decode_ids(record[8 * len(words) : 8 * len(words) + tail]) if tail else None
    return _Parts(
        rows.reshape(layout.row_words, n), base.copy(), grown.copy(), tiles.reshape(1 + layout.tile_words, count),
        spans, packed, ids, cut, clock, positions,
    )  # fmt: skip


def _rebuild(
    layout: GroupLayout,
    record: bytes | None,
    delta: EntityDelta,
    cut: int,
    clock: int,
    positions: Sequence[int],
    horizon_us: int,
) -> bytes:
    """The general way: old and new rows, put in order and folded."""
    flags = [bytes(8 * delta.n)] if layout.flagged else []
    fresh = [delta.times, *delta.columns, *flags, *((delta.offsets, delta.partitions) if layout.ordered else ())]
    rows = np.frombuffer(b"".join(fresh), np.int64).reshape(len(fresh), delta.n)
    ids = list(delta.ids) if delta.ids is not None and layout.ordered else None
    if record is None:
        none = np.zeros((1 + layout.tile_words, 0), np.int64)
        base = np.zeros(layout.base_words, np.int64)
        empty = np.zeros(0, np.int64)
        parts = _Parts(rows, base, empty, none, np.zeros((2, 0), np.int64), empty, ids, cut, clock, positions)
    else:
        parts = _taken_apart(layout, record)
        parts.rows = np.concatenate([parts.rows, rows], axis=1)
        parts.ids = None if ids is None else (parts.ids or []) + ids
        parts.cut, parts.clock, parts.positions = cut, clock, positions
    return _put_together(layout, parts, horizon_us)


def join_records(layout: GroupLayout, one: bytes, two: bytes, horizon_us: int) -> bytes:
    """The record of the events of two, none of which is in both; records with texts have one dictionary."""
    for record in (one, two):
        check_format(_HEAD.unpack_from(record)[0])
    a, b = _taken_apart(layout, one), _taken_apart(layout, two)
    a.rows = np.concatenate([a.rows, b.rows], axis=1)
    if not layout.ordered:
        # No value depends on which of two events of one time goes first, so their words say which.
        a.rows = a.rows[:, np.lexsort(a.rows[::-1])]
    fold_base(b.base, layout.lanes, a.base)
    if len(layout.growing):
        a.grown = join(a.grown, b.grown, layout.growing)
    tiles = np.concatenate([a.tiles, b.tiles], axis=1)
    order = np.argsort(tiles[0], kind="stable")
    a.tiles = tiles[:, order]
    if len(layout.tiled):
        a.spans = np.concatenate([a.spans, b.spans + len(a.packed)], axis=1)[:, order]
        a.packed = np.concatenate([a.packed, b.packed])
    a.ids = None if a.ids is None and b.ids is None else (a.ids or []) + (b.ids or [])
    a.cut, a.clock = max(a.cut, b.cut), max(a.clock, b.clock)
    a.positions = [max(pair) for pair in zip(a.positions, b.positions, strict=True)]
    return _put_together(layout, a, horizon_us)


def in_order_of_words(layout: GroupLayout, record: bytes) -> bytes:
    """The record with rows of one time in the order of their words, where no value depends on which comes first: what
    two records of the same events agree on, in whatever pieces these came."""
    if layout.ordered:
        return record
    _, n, _, _, _, tail, _ = _HEAD.unpack_from(record)
    end = (len(record) - len(_padded(bytes(tail)))) // 8
    begin = end - layout.row_words * n
    rows = np.frombuffer(record, np.int64)[begin:end].reshape(layout.row_words, n)
    rows = np.ascontiguousarray(rows[:, np.lexsort(rows[::-1])])
    return record[: 8 * begin] + rows.tobytes() + record[8 * end :]


def _put_together(layout: GroupLayout, parts: _Parts, horizon_us: int) -> bytes:
    """Sort the rows, make tiles, fold what fell behind the cut, keep what is still needed."""
    rows, base, grown, tiles, cut = parts.rows, parts.base, parts.grown, parts.tiles, parts.cut
    ids = parts.ids or []
    order = _order(rows, parts.ids, 2 if layout.ordered else 0)
    if order is not None:
        rows = rows[:, order]
        ids = [ids[i] for i in order.tolist()] if parts.ids is not None else []
    counted = rows[1 + layout.width] != 0 if layout.flagged else np.zeros(rows.shape[1], np.bool_)
    keep = np.zeros(rows.shape[1], np.bool_)
    behind = int(np.searchsorted(rows[0], cut, "left"))
    behind_tiles = int(np.searchsorted(tiles[0], cut, "left"))
    if layout.lifetime:
        grown = _fold(layout, rows[:, :behind], counted[:behind], tiles, behind_tiles, base, grown, keep)
        if len(layout.growing) and behind_tiles:
            grown = fold_states(
                parts.packed, parts.spans[0].copy(), behind_tiles, grown, layout.growing, layout.tiled, layout.grown
            )
    spans = parts.spans[:, behind_tiles:]
    tiles, packed = _tile(
        layout, rows, behind, counted, keep, tiles[:, behind_tiles:], spans, parts.packed, parts.clock, horizon_us
    )  # fmt: skip
    if layout.has_states:
        base[-1] = len(packed) + len(grown)
    if layout.flagged:
        rows = rows.copy()
        rows[1 + layout.width] = counted
    rows = rows[:, keep]
    tail_bytes = b"" if parts.ids is None else _encode_ids([ids[i] for i in np.flatnonzero(keep).tolist()])
    positions = parts.positions
    head = [FORMAT, rows.shape[1], cut, parts.clock, tiles.shape[1], len(tail_bytes), len(positions), *positions]
    return b"".join(
        [
            struct.pack(f"<{len(head)}q", *head),
            base.tobytes(),
            packed.tobytes(),
            grown.tobytes(),
            np.ascontiguousarray(tiles).tobytes(),
            np.ascontiguousarray(rows).tobytes(),
            _padded(tail_bytes),
        ]
    )


def _tile(
    layout: GroupLayout,
    rows: IntArray,
    behind: int,
    counted: BoolArray,
    keep: BoolArray,
    tiles: IntArray,
    spans: IntArray,
    packed: IntArray,
    clock: int,
    horizon_us: int,
) -> tuple[IntArray, IntArray]:
    """Make and merge tiles of the rows from `behind` on; sets `counted` and `keep` of these rows.

    The tiles, and the words of their growing states, which before lay at `spans` of `packed`.
    """
    levels = layout.levels_at(horizon_us)
    if not len(levels):
        keep[behind:] = True
        return tiles, packed[:0]
    n, count = rows.shape[1] - behind, tiles.shape[1]
    parts = [rows[:, behind:].reshape(-1), tiles.reshape(-1)]
    flags_at = len(rows) * n + tiles.size
    if len(layout.tiled):
        parts += [np.zeros(n, np.int64), packed]
    words = np.concatenate(parts)
    floats = words.view(np.float64)
    cuts = np.array([cut_of(levels, level, clock) for level in range(len(levels))])
    out = np.zeros((1 + layout.tile_words, count + n // layout.fewest + 1), np.int64)
    apart, counted, before = np.zeros(n, np.bool_), counted[behind:], counted[behind:].copy()
    if len(layout.tiled):
        mark_apart(
            words, floats, n, len(rows) * n, count, layout.tiled, layout.state_costs, levels, cuts, layout.fewest,
            8 * layout.row_words, counted, flags_at, apart,
        )  # fmt: skip
    made = tile_rows(
        words, floats, n, len(rows) * n, count, layout.lanes, levels, cuts, layout.fewest, layout.edges,
        layout.tile_kept, apart, counted, keep[behind:], out, np.zeros((len(layout.lanes), LANE_WORDS + 2), np.int64),
    )  # fmt: skip
    if not len(layout.tiled):
        return out[:, :made], packed[:0]
    words[flags_at : flags_at + n] = ~counted | before
    # Tiles follow each other in order of time, but where two records were joined their states do not.
    begins, ends = spans + flags_at + n
    return out[:, :made], tile_states(
        words, floats, n, len(rows) * n, count, begins, ends, layout.tiled, layout.grown, levels, cuts, flags_at,
        out[0, :made].copy(),
    )  # fmt: skip


def _order(rows: IntArray, ids: list[Any] | None, extra: int) -> IntArray | None:
    """The order of rows by (event time, id, partition, offset); None if they lie in it already."""
    times = rows[0]
    if len(times) < 2 or bool((times[1:] > times[:-1]).all()):
        return None
    if not extra:
        return np.argsort(times, kind="stable")
    offsets, partitions = rows[-2].tolist(), rows[-1].tolist()
    stamps = times.tolist()
    if ids is None:
        ranked = sorted(range(len(stamps)), key=lambda i: (stamps[i], partitions[i], offsets[i]))
    else:
        # Python compares text by code point, which is the order of its UTF-8 bytes.
        ranked = sorted(range(len(stamps)), key=lambda i: (stamps[i], ids[i], partitions[i], offsets[i]))
    return np.array(ranked, np.int64)


def _fold(
    layout: GroupLayout,
    rows: IntArray,
    counted: BoolArray,
    tiles: IntArray,
    behind_tiles: int,
    base: IntArray,
    grown: IntArray,
    keep: BoolArray,
) -> IntArray:
    """Fold the rows that are not counted yet and the first tiles into `base`, and the rows into the growing states,
    which are returned; mark the rows that are still needed."""
    if layout.base_words:
        fresh = np.ascontiguousarray(rows[:, ~counted])
        n = fresh.shape[1]
        words = fresh.reshape(-1)
        if len(layout.growing) and n:
            grown = grow(words, words.view(np.float64), n, n, n, grown, layout.growing)
        fold_rows(words, words.view(np.float64), n, n, 0, n, layout.lanes, base)
        words = np.concatenate([tiles.reshape(-1), np.zeros(1, np.int64)])
        fold_tiles(words, words.view(np.float64), 0, tiles.shape[1], behind_tiles, layout.lanes, base)
    counted[:] = True
    if layout.lifetime_edges.any():
        n = rows.shape[1]
        words = np.ascontiguousarray(rows).reshape(-1)
        keep_edges(words, words.view(np.float64), n, n, 0, n, layout.lanes, layout.lifetime_edges, keep)
    if len(layout.kept):
        n = rows.shape[1]
        words = np.concatenate([rows.reshape(-1), np.zeros(1, np.int64)])
        keep_rows(words, words.view(np.float64), n, n, n, layout.kept, keep)
    return grown


def growing_words(layout: GroupLayout, record: bytes) -> int:
    """How many words of a record growing states take."""
    if not layout.has_states:
        return 0
    check_format(_WORD.unpack_from(record)[0])
    base = 7 + _WORD.unpack_from(record, _PARTITIONS_AT)[0] + layout.base_words
    words: int = _WORD.unpack_from(record, 8 * (base - 1))[0]
    return words


def _padded(tail: bytes) -> bytes:
    return tail + bytes(-len(tail) % 8)
