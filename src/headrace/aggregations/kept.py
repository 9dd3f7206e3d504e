"""Rows that stay though they are counted elsewhere, since some feature needs them one by one.

Of those older than the cut these are what lifetime features need: the first or last few, or extremes; of those in a
tile also one row of each different value, and of each register of an approximate count the first that brings its rank.

The least and greatest text is kept as its row, since numbers of texts change with the rows of a record; so are, of each
bucket, its first row and that of its least or greatest value. What is kept of rows that were kept of others, and of
more rows, is what is kept of them all; so it makes no difference in which steps the cut moves.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.codes import APPROX_N_UNIQUE, BY_MAX, FIRST_N, LAST_N, MAX, MIN, N_UNIQUE
from headrace.aggregations.counted import counts, place_in, slots_for, word_of
from headrace.aggregations.exact import turned
from headrace.aggregations.lanes import FLOAT, NULLABLE_INT, present
from headrace.aggregations.sketch import REGISTERS, register_of

# Columns of the table of these features: FIRST_N and LAST_N, MIN and MAX of a column, BY_MIN and BY_MAX, N_UNIQUE and
# APPROX_N_UNIQUE.
K_CODE, K_SIZE, K_KIND, K_COLUMN, K_VALIDITY, K_WHERE, K_BY_KIND, K_BY, K_BY_VALIDITY = range(9)
KEPT_WORDS = 9


@njit(cache=True, inline="always")
def _beats(i8, kind, column, i, j, greatest):  # type: ignore[no-untyped-def]
    """True if the value of row i is less, or greater, than that of row j."""
    a = turned(i8[column + i]) if kind == FLOAT else i8[column + i]
    b = turned(i8[column + j]) if kind == FLOAT else i8[column + j]
    return a > b if greatest else a < b


@njit(cache=True)
def _keep_extremes(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, by_kind, by, by_validity, limits, stop, size, greatest, keep
):
    """Mark the first row of each bucket, and the first of those with its extreme value, of the first `size` buckets."""
    seen = np.empty(slots_for(min(size, stop)), np.int64)
    used = np.zeros(len(seen), np.bool_)
    best = np.full(len(seen), -1)
    found = 0
    for i in range(stop):
        if not counts(i8, f8, by_kind, by, by_validity, where, -1, -1, limits, i):
            continue
        word = i8[by + i]
        place = place_in(seen, used, word)
        if not used[place]:
            if found == size:
                continue
            used[place] = True
            seen[place] = word
            keep[i] = True
            found += 1
        held = present(i8, f8, kind, column + i, validity + i)
        if held and (best[place] < 0 or _beats(i8, kind, column, i, best[place], greatest)):
            best[place] = i
    for place in range(len(best)):
        if best[place] >= 0:
            keep[best[place]] = True


@njit(cache=True)
def _keep_extreme(i8, f8, kind, column, validity, where, limits, stop, greatest, keep):  # type: ignore[no-untyped-def]
    """Mark the first row with the least, or greatest, value."""
    best = -1
    for i in range(stop):
        held = counts(i8, f8, kind, column, validity, where, -1, -1, limits, i)
        if held and (best < 0 or _beats(i8, kind, column, i, best, greatest)):
            best = i
    if best >= 0:
        keep[best] = True


@njit(cache=True)
def _keep_different(i8, f8, kind, column, validity, where, limits, stop, size, keep):  # type: ignore[no-untyped-def]
    """Mark the first row of each of the first `size` different values."""
    seen = np.empty(slots_for(min(size, stop)), np.int64)
    used = np.zeros(len(seen), np.bool_)
    found = 0
    for i in range(stop):
        if found == size:
            break
        if counts(i8, f8, kind, column, validity, where, -1, -1, limits, i):
            word = word_of(i8, f8, kind, column + i)
            place = place_in(seen, used, word)
            if not used[place]:
                used[place], seen[place], keep[i] = True, word, True
                found += 1


@njit(cache=True)
def _keep_ranks(i8, f8, kind, column, validity, where, limits, stop, keep):  # type: ignore[no-untyped-def]
    """Mark, of each register, the first row with its greatest rank."""
    ranks, best = np.zeros(REGISTERS, np.int64), np.full(REGISTERS, -1)
    for i in range(stop):
        if counts(i8, f8, kind, column, validity, where, -1, -1, limits, i):
            place, rank = register_of(word_of(i8, f8, kind, column + i))
            if rank > ranks[place]:
                ranks[place], best[place] = rank, i
    for place in range(REGISTERS):
        if best[place] >= 0:
            keep[best[place]] = True


@njit(cache=True)
def keep_rows(i8, f8, columns, stride, stop, kept, keep):  # type: ignore[no-untyped-def]
    """Mark in `keep` those of the first `stop` rows that the features of the table `kept` need."""
    limits = np.zeros(1, np.int64)
    for f in range(kept.shape[0]):
        code, kind, size = kept[f, K_CODE], kept[f, K_KIND], kept[f, K_SIZE]
        column = columns + kept[f, K_COLUMN] * stride
        validity = columns + kept[f, K_VALIDITY] * stride if kind == NULLABLE_INT else -1
        where = columns + kept[f, K_WHERE] * stride if kept[f, K_WHERE] >= 0 else -1
        if code in (MIN, MAX):
            _keep_extreme(i8, f8, kind, column, validity, where, limits, stop, code == MAX, keep)
            continue
        if code == N_UNIQUE:
            _keep_different(i8, f8, kind, column, validity, where, limits, stop, size, keep)
            continue
        if code == APPROX_N_UNIQUE:
            _keep_ranks(i8, f8, kind, column, validity, where, limits, stop, keep)
            continue
        if code != FIRST_N and code != LAST_N:
            by_kind, by = kept[f, K_BY_KIND], columns + kept[f, K_BY] * stride
            by_validity = columns + kept[f, K_BY_VALIDITY] * stride if by_kind == NULLABLE_INT else -1
            _keep_extremes(
                i8, f8, kind, column, validity, where, by_kind, by, by_validity, limits, stop, size, code == BY_MAX,
                keep,
            )  # fmt: skip
            continue
        found = 0
        for step in range(stop):
            i = stop - 1 - step if code == LAST_N else step
            if found < size and counts(i8, f8, kind, column, validity, where, -1, -1, limits, i):
                keep[i] = True
                found += 1
