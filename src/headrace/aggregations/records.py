"""Window records: what the online store holds per group and entity.

A record is int64 words: format · rows n · cut · clock · kept rows · tail bytes · partitions P · P positions · base
words (the lifetime's additive state of events before the cut) · n event times · the group's columns, n words each · for
groups that depend on ties: n offsets, n partitions and a MessagePack list of ids as the tail.

Rows lie in order of (event time, id, partition, offset). Events before the cut can no longer be read (the as-of
horizon has passed them): they are folded into the base, and only the `kept` rows that first, last, min and max of the
lifetime need stay. The cut follows the stream's clock at the entity's last event, so that a record is a function of
the events below its position alone, however they were batched.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from headrace.aggregations import kernel
from headrace.aggregations.layout import GroupLayout
from headrace.core.columns import IntArray
from headrace.core.time import floor_to

FORMAT = 1
_HEAD = struct.Struct("<7q")
_TAIL_AT = 40
_WORD = struct.Struct("<q")
_encode_ids = msgspec.msgpack.Encoder().encode
_decode_ids = msgspec.msgpack.Decoder(list[Any]).decode


@dataclass(slots=True)
class EntityDelta:
    """New events of one entity: `n` rows in order, ready to be merged into its record.

    `times`, `columns` (one entry per physical column), `offsets` and `partitions` are little-endian int64 bytes.
    `ids` is None for streams without a declared id, and where the group does not depend on ties. `clock_us` is N(p) at
    the entity's last event here, `positions` the offset after it per partition (0: no event of that partition).
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
        return _rebuild(layout, None, delta, cut, delta.clock_us, delta.positions)
    _, _, old_cut, clock, _, _, partitions = _HEAD.unpack_from(record)
    positions = struct.unpack_from(f"<{partitions}q", record, 56)
    if all(have >= new for have, new in zip(positions, delta.positions, strict=True)):
        return record
    positions = tuple(max(pair) for pair in zip(positions, delta.positions, strict=True))
    return _rebuild(layout, record, delta, max(cut, old_cut), max(clock, delta.clock_us), positions)


def append_ids(record: bytes, old: bytes | None, ids: list[Any], dropped: int) -> bytes:
    """Give a record without a tail the ids of its rows: those of `old` and the new ones, less the first `dropped`."""
    if old is not None:
        tail = _WORD.unpack_from(old, _TAIL_AT)[0]
        start = len(old) - (tail + 7) // 8 * 8
        ids = _decode_ids(old[start : start + tail]) + ids
    encoded = _encode_ids(ids[dropped:])
    return b"".join([record[:_TAIL_AT], _WORD.pack(len(encoded)), record[_TAIL_AT + 8 :], _padded(encoded)])


def _rebuild(
    layout: GroupLayout,
    record: bytes | None,
    delta: EntityDelta,
    cut: int,
    clock: int,
    positions: Sequence[int],
) -> bytes:
    """The general way: sort old and new rows, fold what fell behind the cut, keep what the lifetime still needs."""
    extra = 2 if layout.ordered else 0
    fresh = [delta.times, *delta.columns, *((delta.offsets, delta.partitions) if extra else ())]
    new = np.frombuffer(b"".join(fresh), np.int64).reshape(len(fresh), delta.n)
    base = np.zeros(layout.base_words, np.int64)
    old_ids: list[Any] = []
    kept = 0
    if record is None:
        rows = new
    else:
        _, n, _, _, kept, tail, partitions = _HEAD.unpack_from(record)
        at = 7 + partitions
        words = np.frombuffer(record, np.int64, count=at + layout.base_words + len(fresh) * n)
        base = words[at : at + layout.base_words].copy()
        old = words[at + layout.base_words :].reshape(len(fresh), n)
        rows = np.concatenate([old, new], axis=1)
        if tail:
            start = 8 * len(words)
            old_ids = _decode_ids(record[start : start + tail])
    ids = old_ids + delta.ids if delta.ids is not None and layout.ordered else None
    folded = np.zeros(rows.shape[1], np.bool_)
    folded[:kept] = True
    order = _order(rows, ids, extra)
    if order is not None:
        rows, folded = rows[:, order], folded[order]
        ids = None if ids is None else [ids[i] for i in order.tolist()]
    behind = int(np.searchsorted(rows[0], cut, "left"))
    if behind:
        rows, kept_rows = _fold(layout, rows, folded, behind, base)
        kept = len(kept_rows)
        ids = None if ids is None else [ids[i] for i in kept_rows.tolist()] + ids[behind:]
    else:
        kept = 0
    tail_bytes = b"" if ids is None else _encode_ids(ids)
    head = [FORMAT, rows.shape[1], cut, clock, kept, len(tail_bytes), len(positions), *positions]
    return b"".join(
        [
            struct.pack(f"<{len(head)}q", *head),
            base.tobytes(),
            np.ascontiguousarray(rows).tobytes(),
            _padded(tail_bytes),
        ]
    )


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
    layout: GroupLayout, rows: IntArray, folded: np.ndarray[Any, Any], behind: int, base: IntArray
) -> tuple[IntArray, IntArray]:
    """Fold the first `behind` rows into `base` (those already folded excepted) and keep what is still needed."""
    if not layout.lifetime:
        return rows[:, behind:], np.zeros(0, np.int64)
    fresh = np.ascontiguousarray(rows[:, :behind][:, ~folded[:behind]])
    n = fresh.shape[1]
    if layout.base_words and n:
        words = fresh.reshape(-1)
        kernel.fold_rows(words, words.view(np.float64), 0, n, n, 0, n, layout.lanes, base)
    keep = np.zeros(behind, np.bool_)
    if layout.needed.any():
        old = np.ascontiguousarray(rows[:, :behind]).reshape(-1)
        kernel.keep_rows(old, old.view(np.float64), behind, behind, 0, behind, layout.lanes, layout.needed, keep)
    kept = np.flatnonzero(keep)
    return np.concatenate([rows[:, kept], rows[:, behind:]], axis=1), kept


def _padded(tail: bytes) -> bytes:
    return tail + bytes(-len(tail) % 8)
