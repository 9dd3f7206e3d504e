"""Features that are read from states whose size follows their data: over the lifetime, and windows with tiles."""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.codes import (
    APPROX_N_UNIQUE,
    COUNTS,
    HISTOGRAM,
    MOST_FREQUENT,
    N_UNIQUE,
    QUANTILE,
    SUMMED,
    TOP_K,
)
from headrace.aggregations.exact import turned
from headrace.aggregations.growing import (
    F_BOOL,
    F_CAP,
    F_CODE,
    F_PARAM,
    F_STATE,
    F_TARGET,
    F_WINDOW,
    G_BY_KIND,
    G_FORM,
    G_KIND,
    empty_state,
    joined,
    load_lane,
    load_powers,
    registers_of,
    taken_in,
)
from headrace.aggregations.kernel import LIFETIME, WINDOW_LENGTH, first_at_or_after, window_edges
from headrace.aggregations.lanes import FLOAT, carry_whole
from headrace.aggregations.moments import EXPONENTS, room, skewness_of
from headrace.aggregations.nested import bucket_value, write_frequencies
from headrace.aggregations.sketch import estimate_of
from headrace.aggregations.tile_states import gathered, states_begin
from headrace.aggregations.window_rows import midpoint, rank_of

# What `read_growing` is told of records: their base words and columns, whether rows have flags, the words of a tile
# with its start, and whether tiles have states.
SIZES = S_BASE, S_WIDTH, S_FLAGGED, S_TILE, S_TILED = range(5)


@njit(cache=True)
def _write_sums(state, code, spec, lane, work, cell, heap, at, tally):  # type: ignore[no-untyped-def]
    """Write the value of each bucket of SUMMED, by ascending keys."""
    found, kind = state[1], spec[G_KIND]
    heap[at] = found
    from_ = 2 + found
    for b in range(found):
        from_ = load_lane(state, from_, lane)
        carry_whole(lane)
        word, ok = bucket_value(code, kind, lane, work, cell)
        tally[0] += ok < 0
        heap[at + 1 + b] = turned(state[2 + b]) if spec[G_BY_KIND] == FLOAT else state[2 + b]
        heap[at + 1 + found + b] = word
        heap[at + 1 + 2 * found + b] = ok > 0
    return at + 1 + 3 * found


@njit(cache=True)
def _quantile_of(state, part):  # type: ignore[no-untyped-def]
    """The midpoint of the bucket of a rank; NaN without values."""
    m = state[1]
    count = state[2 + m :].sum()
    if count == 0:
        return np.nan
    rank, k = rank_of(part, count), 0
    while state[2 + m + k] < rank:
        rank -= state[2 + m + k]
        k += 1
    return midpoint(state[2 + k])


@njit(cache=True)
def _write_slot(state, spec, feature, out, out_f8, valid, target):  # type: ignore[no-untyped-def]
    """Write a feature that is an 8-byte word."""
    code = feature[F_CODE]
    ok, word = True, np.int64(0)
    if code == N_UNIQUE:
        word = state[1]
    elif code == APPROX_N_UNIQUE:
        word = estimate_of(registers_of(state))
    elif code == MOST_FREQUENT:
        m = state[1]
        ok = m > 0
        if ok:
            # The first of the most frequent values is the least.
            best = np.argmax(state[2 + m : 2 + 2 * m])
            word = turned(state[2 + best]) if spec[G_KIND] == FLOAT else state[2 + best]
            if feature[F_BOOL]:
                out[target] = word
                word = np.int64(1 if out_f8[target] == 1.0 else 0)
    else:
        if code == QUANTILE:
            value = _quantile_of(state, feature[F_PARAM])
        else:
            ones, twos, threes = room(EXPONENTS)
            first, second, third = np.zeros(ones, np.int64), np.zeros(twos, np.int64), np.zeros(threes, np.int64)
            value = skewness_of(load_powers(state, first, second, third), first, second, third)
        ok = np.isfinite(value)
        out_f8[target] = value if ok else 0.0
        word = out[target]
    out[target] = word if ok else 0
    valid[target] = ok


@njit(cache=True)
def _before(i8, at, there, s, form):  # type: ignore[no-untyped-def]
    """State s of those of the lifetime that begin at word `at`, if they are `there`; else that of no events."""
    if not there:
        return empty_state(form)
    for _ in range(s):
        at += 1 + i8[at]
    return i8[at : at + 1 + i8[at]].copy()


@njit(cache=True)
def read_growing(  # type: ignore[no-untyped-def]
    i8, f8, starts, t, sizes, states, tiled, texts, features, windows, out, out_f8, valid, slot, lane, work, tally
):
    """Read features from the states of window records whose size follows their data.

    `starts[r]` is the word where the record of request r begins, or -1; `sizes` are those of `SIZES`, `states` those
    that the record has of the lifetime, `tiled` those that each of its tiles has, the same ones first; `texts` says
    whose keys are numbers of texts. Features, in order of (state, window), whose target is a slot are written to
    `out[:, slot:]` and `valid`; lists and maps to the buffer that is returned, with the places where they begin, int64
    [requests, features].
    """
    heap = np.empty(256, np.int64)
    begins = np.zeros((len(t), features.shape[0]), np.int64)
    cell = np.empty(1, np.float64)
    to = np.int64(0)
    for r in range(len(t)):
        at = starts[r]
        n = m = times = region = tiles = np.int64(0)
        if at >= 0:
            n, m = i8[at + 1], i8[at + 4]
            region = at + 7 + i8[at + 6] + sizes[S_BASE]
            tiles = region + i8[region - 1]
            times = tiles + m * sizes[S_TILE]
        flags = times + (1 + sizes[S_WIDTH]) * n if sizes[S_FLAGGED] else np.int64(-1)
        tile_begins = states_begin(i8, region, m if sizes[S_TILED] else np.int64(0))
        there = tiles > tile_begins[-1]
        held, window = np.int64(-1), np.int64(-1)
        state = empty_state(COUNTS)
        spec = features[0]
        for f in range(features.shape[0]):
            s, w, code, cap = features[f, F_STATE], features[f, F_WINDOW], features[f, F_CODE], features[f, F_CAP]
            if held != s or window != w:
                held, window = s, w
                lo, hi = window_edges(windows, w, t[r])
                lifetime = windows[w, WINDOW_LENGTH] == LIFETIME
                spec = states[s] if lifetime else tiled[s]
                stop, stop_tile = first_at_or_after(i8, times, 0, n, hi), np.int64(0)
                start = first_tile = np.int64(0)
                if sizes[S_TILED]:
                    stop_tile = first_at_or_after(i8, tiles, 0, m, hi)
                if lifetime:
                    state = _before(i8, tile_begins[-1], there, s, spec[G_FORM])
                else:
                    start = first_at_or_after(i8, times, 0, stop, lo)
                    first_tile = first_at_or_after(i8, tiles, 0, stop_tile, lo)
                    state = empty_state(spec[G_FORM])
                if first_tile < stop_tile:
                    older = gathered(i8, tile_begins, first_tile, stop_tile, s, tiled[s], texts[s])
                    state = joined(state, older, spec) if lifetime else older
                state = taken_in(i8, f8, state, spec, times + n, n, flags, np.int64(start), np.int64(stop))
            begins[r, f] = to
            nested = code >= HISTOGRAM
            if state[1] < 0 or state[1] > cap:
                tally[0] += 1
                if nested:
                    if to == len(heap):
                        heap = np.concatenate((heap, heap))
                    heap[to] = -1
                    to += 1
                else:
                    out[r, slot + features[f, F_TARGET]] = 0
                    valid[r, slot + features[f, F_TARGET]] = False
                continue
            if not nested:
                _write_slot(state, spec, features[f], out[r], out_f8[r], valid[r], slot + features[f, F_TARGET])
                continue
            keys = state[1]
            if to + 1 + 3 * keys > len(heap):
                wider = np.empty(2 * (to + 1 + 3 * keys), np.int64)
                wider[:to] = heap[:to]
                heap = wider
            if spec[G_FORM] == SUMMED:
                to = _write_sums(state, code, spec, lane, work, cell, heap, to, tally)
            else:
                best = features[f, F_PARAM] if code == TOP_K else np.int64(-1)
                to = write_frequencies(state[2:], state[2 + keys :], keys, spec[G_KIND], best, heap, to)
    return heap[:to], begins
