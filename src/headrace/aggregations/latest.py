"""The row of a table that holds for each request, over history: one walk through the rows and requests of each key."""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.core.time import NULL_US

_NULL = np.int64(NULL_US)
_STEPS = 16
_MOVES = 4


@njit(cache=True, nogil=True)
def order_ties(order, times, edges, writes):  # type: ignore[no-untyped-def]
    """Put rows of equal key and event time into order of writing; False if that takes too many moves.

    `order`, `times` and `edges` are of `sort_runs`. After False, rows of equal key and time are in any order.
    """
    budget = _MOVES * len(order)
    for e in range(len(edges) - 1):
        for i in range(edges[e] + 1, edges[e + 1]):
            row = order[i]
            j = i
            while j > edges[e] and times[j - 1] == times[i] and writes[order[j - 1]] > writes[row]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = row
            budget -= i - j
            if budget < 0:
                return False
    return True


@njit(cache=True, nogil=True)
def latest_rows(  # type: ignore[no-untyped-def]
    order, times, edges, late, available, limited, writes, deletions, deleted, asked, asked_times, asked_edges, ttl,
    limits, chosen
):  # fmt: skip
    """The row that holds for each request, into `chosen`; -1 for none.

    The rows of key e are `order[edges[e]:edges[e + 1]]`, sorted by (event time, write order), `times` their event
    times; its requests are `asked[asked_edges[e]:asked_edges[e + 1]]`, sorted by time, `asked_times` their times. A row
    counts for request r at t iff its event time < t, if some are `late`: its `available` < t, and if reads are
    `limited`: its write order is below `limits[r]` (negative: any). The greatest wins; one of the `deletions` or a row
    older than `ttl` (negative: none) leaves none. An event time of NULL_US is always true and never expires.
    """
    most = np.int64(0)
    for e in range(len(edges) - 1):
        most = max(most, edges[e + 1] - edges[e])
    # Of the first rows of a key, up to each: the least time of availability, and the least write order.
    soonest = np.empty(most, np.int64)
    earliest = np.empty(most, np.int64)
    for e in range(len(edges) - 1):
        first, stop = edges[e], edges[e + 1]
        following = first
        known = False
        for j in range(asked_edges[e], asked_edges[e + 1]):
            t = asked_times[j]
            limit = limits[asked[j]] if limited else np.int64(-1)
            while following < stop and times[following] < t:
                following += 1
            i = following - 1
            steps = 0
            while (late or limit >= 0) and i >= first:
                row = order[i]
                if (not late or available[row] < t) and (limit < 0 or writes[row] < limit):
                    break
                i -= 1
                steps += 1
                if steps < _STEPS or i < first:
                    continue
                # Many rows are hidden from this request: it may be that all are.
                if not known:
                    known = True
                    for k in range(stop - first):
                        row = order[first + k]
                        soonest[k] = min(available[row], soonest[k - 1]) if k else available[row]
                        earliest[k] = min(writes[row], earliest[k - 1]) if k else writes[row]
                if soonest[i - first] >= t or (limit >= 0 and earliest[i - first] >= limit):
                    i = first - 1
            found = np.int64(-1)
            if i >= first and (ttl < 0 or times[i] == _NULL or times[i] >= t - ttl):
                row = order[i]
                if not deletions or not deleted[row]:
                    found = row
            chosen[asked[j]] = found


@njit(cache=True, nogil=True)
def take_words(values, present, gaps, floats, chosen, out, valid):  # type: ignore[no-untyped-def]
    """The words of the chosen rows of one column, into `out` and `valid`, which hold zeros and False.

    `values` int64 are bits where the column is of `floats`: of these NaN and infinities are null and -0.0 is 0.0.
    `present` says which rows have a value, if there are `gaps`. Where no row is chosen (-1) nothing is written.
    """
    for r in range(len(chosen)):
        row = chosen[r]
        if row < 0:
            continue
        ok = not gaps or present[row]
        word = values[row] if ok else np.int64(0)
        if floats:
            ok = ok and (word >> 52) & 0x7FF != 0x7FF
            if not ok or word == np.int64(-(2**63)):
                word = np.int64(0)
        out[r] = word
        valid[r] = ok
