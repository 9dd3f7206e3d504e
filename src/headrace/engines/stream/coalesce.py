"""Many commits as one: the deltas of a group in consecutive commits, joined entity by entity.

What a record says depends on the events below its position alone, so merging the joined delta gives the bytes that
merging one after the other gives, and a record is copied once however many commits touch its entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count

import numpy as np

from headrace.core.columns import IntArray
from headrace.engines.stream.commits import GroupDelta

_POSITIONS_AT = 56
"""The byte at which the positions of a window record begin (`aggregations/records.py`)."""


def may_join(deltas: Sequence[GroupDelta]) -> bool:
    """True if the deltas can be joined: texts have a dictionary per delta, and ids decide ties among all events."""
    return not any(delta.texts or delta.ids is not None for delta in deltas)


def join_deltas(deltas: Sequence[GroupDelta]) -> GroupDelta:
    """One delta with the events of consecutive ones of a group, for which `may_join` holds."""
    places = dict(zip(dict.fromkeys(chain.from_iterable(delta.keys for delta in deltas)), count()))
    entities = np.fromiter(map(places.__getitem__, chain.from_iterable(d.keys for d in deltas)), np.int64)
    counts = np.array(list(chain.from_iterable(delta.counts for delta in deltas)), np.int64)
    codes = np.repeat(entities, counts)
    times = _words([delta.times for delta in deltas])
    offsets, partitions = _words([d.offsets for d in deltas]), _words([d.partitions for d in deltas])
    # Ties stay in the order of the commits, which is how merging one after the other leaves them.
    sort_by = [offsets, partitions, times, codes] if len(offsets) else [times, codes]
    order = np.lexsort(sort_by)
    clocks = np.full(len(places), np.iinfo(np.int64).min)
    np.maximum.at(clocks, entities, _words([delta.clocks for delta in deltas]))
    after = _words([delta.positions for delta in deltas]).reshape(len(entities), -1)
    positions = np.zeros((len(places), after.shape[1]), np.int64)
    np.maximum.at(positions, entities, after)
    columns = [_words(part) for part in zip(*[delta.columns for delta in deltas], strict=True)]
    return GroupDelta(
        list(places),
        np.bincount(codes, minlength=len(places)).tolist(),
        clocks.tobytes(),
        positions.tobytes(),
        times[order].tobytes(),
        [column[order].tobytes() for column in columns],
        offsets[order].tobytes() if len(offsets) else b"",
        partitions[order].tobytes() if len(partitions) else b"",
    )


def _words(parts: Sequence[bytes]) -> IntArray:
    return np.frombuffer(b"".join(parts), np.int64)


def reach_beyond(records: Sequence[bytes | None], begin: Sequence[int]) -> bool:
    """True if one of the window records reflects an event at or past the offsets `begin` of their stream's partitions.

    Such a record, which a backfill has brought, may have taken in the first of several commits and not the last.
    """
    end, none = _POSITIONS_AT + 8 * len(begin), bytes(8 * len(begin))
    heads = b"".join([none if record is None else record[_POSITIONS_AT:end] for record in records])
    return bool((_words([heads]).reshape(-1, len(begin)) > np.array(begin)).any())
