"""Rows older than the cut that lifetime features need one by one: the first or last few, or one of each value.

What is kept of rows that were kept of others, and of more rows, is what is kept of them all; so it makes no difference
in which steps the cut moves.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.counted import counts, place_in, slots_for, word_of
from headrace.aggregations.lanes import NULLABLE_INT
from headrace.aggregations.nested import FIRST_N, LAST_N

# Columns of the table of these features; anything but FIRST_N and LAST_N keeps one row of each value.
K_CODE, K_SIZE, K_KIND, K_COLUMN, K_VALIDITY, K_WHERE = range(6)
KEPT_WORDS = 6


@njit(cache=True)
def _keep_values(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, limits, stop, size, keep
):
    """Mark the first row of each value, of the first `size` different ones."""
    seen = np.empty(slots_for(min(size, stop)), np.int64)
    used = np.zeros(len(seen), np.bool_)
    found = 0
    for i in range(stop):
        if found == size:
            break
        if not counts(i8, f8, kind, column, validity, where, -1, -1, limits, i):
            continue
        word = word_of(i8, f8, kind, column + i)
        place = place_in(seen, used, word)
        if not used[place]:
            used[place] = True
            seen[place] = word
            keep[i] = True
            found += 1


@njit(cache=True)
def keep_rows(i8, f8, columns, stride, stop, kept, keep):  # type: ignore[no-untyped-def]
    """Mark in `keep` those of the first `stop` rows that the features of the table `kept` need."""
    limits = np.zeros(1, np.int64)
    for f in range(kept.shape[0]):
        kind, size = kept[f, K_KIND], kept[f, K_SIZE]
        column = columns + kept[f, K_COLUMN] * stride
        validity = columns + kept[f, K_VALIDITY] * stride if kind == NULLABLE_INT else -1
        where = columns + kept[f, K_WHERE] * stride if kept[f, K_WHERE] >= 0 else -1
        if kept[f, K_CODE] not in (FIRST_N, LAST_N):
            _keep_values(i8, f8, kind, column, validity, where, limits, stop, size, keep)
            continue
        found = 0
        for step in range(stop):
            i = stop - 1 - step if kept[f, K_CODE] == LAST_N else step
            if found < size and counts(i8, f8, kind, column, validity, where, -1, -1, limits, i):
                keep[i] = True
                found += 1
