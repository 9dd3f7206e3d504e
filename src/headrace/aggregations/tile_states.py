"""What tiles hold of the states whose size follows their data (`growing.py`): the same forms, packed.

In a record they lie before the growing states of the lifetime: per tile the word behind its last one, counted from the
first, then tile by tile one state of each row of `layout.tiled`. A packed state is its size in words (this one apart),
the number of its keys (-1: over its cap), its keys as they are where these are numbers of texts, which must stay
replaceable in their place, and a run of bytes with seven bits each: how many words follow the keys, the differences of
other keys, and those words. It is a function of the state, and so of the events in the tile.

Keys take room, so an interval becomes a tile only where that takes no more of it than its events do. Their number can
only grow with the events and costs less than they do, so an interval that has once paid pays for good, in whatever
pieces its events come (`mark_apart`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.codes import BUCKETS, COUNTS, MOMENTS, REGISTERED, SUMMED
from headrace.aggregations.counted import place_in
from headrace.aggregations.growing import (
    G_CAP,
    G_COLUMN,
    G_FORM,
    G_KIND,
    LANE,
    empty_state,
    joined,
    keyed_rows,
    load_powers,
    of_powers,
    of_registers,
    over_state,
    registers_of,
    sized,
    store_lane,
    taken_in,
)
from headrace.aggregations.lanes import FLOAT, LANE_WORDS
from headrace.aggregations.moments import EXPONENTS, room
from headrace.aggregations.sketch import REGISTERS
from headrace.aggregations.tiles import EVER, LEAST_VALUE, MOST_SUM, interval_of

STATE_HEAD = 3
"""Words of a packed state beside those that its keys, or its digits, need."""
MOMENT_WORDS = 14
"""Words that the digits of everyday power sums need."""
KEY_BYTES = {COUNTS: 12, BUCKETS: 6, SUMMED: 40, REGISTERED: 4, MOMENTS: 0}
"""Bytes that one key more, or for registers one row more, may cost."""
_MOST_REGISTER_BYTES = 10 * REGISTERS // 8
_SEVEN, _REST = 127, (1 << 57) - 1


@njit(cache=True, inline="always")
def _put(data, at, value):  # type: ignore[no-untyped-def]
    """Write the bits of an integer, seven in a byte, the least first; returns where the next one goes."""
    # The shift is one of signed numbers, so what it brings in from above is cut off.
    rest = (value >> 7) & _REST
    while rest != 0:
        data[at] = (value & _SEVEN) | 128
        at += 1
        value = rest
        rest >>= 7
    data[at] = value & _SEVEN
    return at + 1


@njit(cache=True, inline="always")
def _take(data, at):  # type: ignore[no-untyped-def]
    """The integer that `_put` wrote, and where the next one begins."""
    value, shift = np.int64(0), 0
    while True:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & _SEVEN) << shift
        if byte < 128:
            return value, at
        shift += 7


@njit(cache=True, inline="always")
def _folded(value):  # type: ignore[no-untyped-def]
    """A signed integer as one that is small where its magnitude is."""
    return (value << 1) ^ (value >> 63)


@njit(cache=True, inline="always")
def _unfolded(value):  # type: ignore[no-untyped-def]
    return ((value >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1)


@njit(cache=True)
def _pack(state, text, out, to):  # type: ignore[no-untyped-def]
    """Write a state to `out[to:]`; returns where the next one goes. `2 * len(state) + 8` words are enough."""
    keys = max(state[1], 0)
    rest = len(state) - 2 - keys
    out[to + 1] = state[1]
    at = to + 2
    if text:
        for k in range(keys):
            out[at] = state[2 + k]
            at += 1
    data = out.view(np.uint8)
    byte = _put(data, 8 * at, np.int64(rest))
    if not text:
        previous = np.int64(0)
        for k in range(keys):
            key = state[2 + k]
            byte = _put(data, byte, key - previous if k else _folded(key))
            previous = key
    for k in range(2 + keys, len(state)):
        byte = _put(data, byte, _folded(state[k]))
    while byte & 7:
        data[byte] = 0
        byte += 1
    out[to] = (byte >> 3) - to - 1
    return byte >> 3


@njit(cache=True)
def _unpacked(i8, at, text):  # type: ignore[no-untyped-def]
    """The state whose packed words begin at word `at`."""
    data = i8.view(np.uint8)
    keys = max(i8[at + 1], 0)
    rest, byte = _take(data, 8 * (at + 2 + (keys if text else 0)))
    state = np.empty(2 + keys + rest, np.int64)
    state[1] = i8[at + 1]
    key = np.int64(0)
    for k in range(keys):
        if text:
            key = i8[at + 2 + k]
        else:
            word, byte = _take(data, byte)
            key = key + word if k else _unfolded(word)
        state[2 + k] = key
    for k in range(2 + keys, len(state)):
        word, byte = _take(data, byte)
        state[k] = _unfolded(word)
    return sized(state, len(state))


@njit(cache=True)
def _of_tile(i8, begin, s, text):  # type: ignore[no-untyped-def]
    """State s of the tile whose packed states begin at this word."""
    for _ in range(s):
        begin += 1 + i8[begin]
    return _unpacked(i8, begin, text)


@njit(cache=True)
def _wider(seen, used):  # type: ignore[no-untyped-def]
    """Twice as many slots for a set of words, and from which slot each of them is filled (-1: none)."""
    slots = 2 * len(seen)
    more, taken, moved = np.empty(slots, np.int64), np.zeros(slots, np.bool_), np.full(slots, -1)
    for k in range(len(seen)):
        if used[k]:
            place = place_in(more, taken, seen[k])
            more[place], taken[place], moved[place] = seen[k], True, k
    return more, taken, moved


@njit(cache=True)
def _by_keys(i8, begins, first, stop, s, spec, text):  # type: ignore[no-untyped-def]
    """COUNTS, BUCKETS or SUMMED of tiles: each key's words are added up in a table, and the keys sorted at last."""
    summed = spec[G_FORM] == SUMMED
    width = LANE if summed else 1
    seen, used = np.empty(64, np.int64), np.zeros(64, np.bool_)
    numbers, words = np.empty(64, np.int64), np.zeros((32, width), np.int64)
    found = 0
    for k in range(first, stop):
        state = _of_tile(i8, begins[k], s, text)
        m = state[1]
        if m < 0:
            return over_state()
        at = 2 + m
        for j in range(m):
            place = place_in(seen, used, state[2 + j])
            if not used[place]:
                if found == spec[G_CAP]:
                    return over_state()
                if 2 * found == len(seen):
                    seen, used, moved = _wider(seen, used)
                    numbers = np.where(moved >= 0, numbers[moved], 0)
                    more = np.zeros((len(seen) >> 1, width), np.int64)
                    more[:found] = words[:found]
                    words = more
                    place = place_in(seen, used, state[2 + j])
                used[place], seen[place], numbers[place] = True, state[2 + j], found
                found += 1
            number = numbers[place]
            if summed:
                for _ in range(state[at]):
                    words[number, state[at + 1]] += state[at + 2]
                    at += 2
                at += 1
            else:
                words[number, 0] += state[at]
                at += 1
    keys, of_keys = np.empty(found, np.int64), np.empty(found, np.int64)
    held = 0
    for place in range(len(seen)):
        if used[place]:
            keys[held], of_keys[held] = seen[place], numbers[place]
            held += 1
    order = np.argsort(keys)
    out = np.empty(2 + found * (2 + 2 * LANE if summed else 2), np.int64)
    out[1] = found
    to = 2 + found
    lane = np.zeros(LANE_WORDS, np.int64)
    for k in range(found):
        out[2 + k] = keys[order[k]]
        number = of_keys[order[k]]
        if summed:
            lane[:LANE] = words[number]
            to = store_lane(lane, spec[G_KIND], out, to)
        else:
            out[to] = words[number, 0]
            to += 1
    return sized(out[:to].copy(), to)


@njit(cache=True)
def gathered(i8, begins, first, stop, s, spec, text):  # type: ignore[no-untyped-def]
    """State s of the events in the tiles `first` to `stop`, whose packed states begin at the words `begins`."""
    form = spec[G_FORM]
    if first >= stop:
        return empty_state(form)
    if first + 1 == stop:
        return _of_tile(i8, begins[first], s, text)
    if form == MOMENTS:
        ones, twos, threes = room(EXPONENTS)
        one, two, three = np.zeros(ones, np.int64), np.zeros(twos, np.int64), np.zeros(threes, np.int64)
        count = np.int64(0)
        for k in range(first, stop):
            count += load_powers(_of_tile(i8, begins[k], s, text), one, two, three)
        return of_powers(count, one, two, three)
    if form == REGISTERED:
        registers = registers_of(_of_tile(i8, begins[first], s, text))
        for k in range(first + 1, stop):
            registers = np.maximum(registers, registers_of(_of_tile(i8, begins[k], s, text)))
        return of_registers(registers)
    return _by_keys(i8, begins, first, stop, s, spec, text)


@njit(cache=True)
def states_begin(i8, region, count):  # type: ignore[no-untyped-def]
    """The words where the packed states of each of `count` tiles begin, and where the last of them ends."""
    begins = np.empty(count + 1, np.int64)
    begins[0] = region + count
    for k in range(count):
        begins[k + 1] = region + count + i8[region + k]
    return begins


@njit(cache=True)
def _with_room(words, to, more):  # type: ignore[no-untyped-def]
    """The first `to` words in an array with room for so many more."""
    if to + more <= len(words):
        return words
    wider = np.empty(2 * (to + more), np.int64)
    wider[:to] = words[:to]
    return wider


@njit(cache=True, nogil=True)
def fold_states(i8, begins, stop, grown, states, tiled, texts):  # type: ignore[no-untyped-def]
    """The words of the lifetime's `states` with those of the first `stop` tiles; `grown` are the words before."""
    parts = np.empty(64, np.int64)
    at = to = 0
    for s in range(states.shape[0]):
        state = empty_state(states[s, G_FORM])
        if len(grown):
            state = grown[at : at + 1 + grown[at]].copy()
            at += len(state)
        state = joined(state, gathered(i8, begins, 0, stop, s, tiled[s], texts[s]), states[s])
        parts = _with_room(parts, to, len(state))
        parts[to : to + len(state)] = state
        to += len(state)
    return parts[:to].copy()


@njit(cache=True, nogil=True)
def tile_states(  # type: ignore[no-untyped-def]
    i8, f8, n, tiles, count, begins, ends, tiled, texts, levels, cuts, flags, starts
):
    """The words of the packed states of the tiles at `starts`, with the word that ends each before them.

    `i8`, `f8` are as `tiles.tile_rows` had them, with the packed states of the `count` old tiles at the words `begins`
    to `ends` and, from word `flags` on, one word per row that is 0 for those that a tile counts from now on.
    """
    made = len(starts)
    new_ends, out = np.empty(made, np.int64), np.empty(256, np.int64)
    row = tile = to = 0
    for j in range(made):
        while row < n and i8[row] < starts[j]:
            row += 1
        row_end, tile_end, fresh = row, tile, False
        while row_end < n and interval_of(i8[row_end], levels, cuts) == starts[j]:
            fresh = fresh or i8[flags + row_end] == 0
            row_end += 1
        while tile_end < count and interval_of(i8[tiles + tile_end], levels, cuts) == starts[j]:
            tile_end += 1
        if tile_end == tile + 1 and not fresh:
            size = ends[tile] - begins[tile]
            out = _with_room(out, to, size)
            out[to : to + size] = i8[begins[tile] : ends[tile]]
            to += size
        else:
            for s in range(tiled.shape[0]):
                state = gathered(i8, begins, tile, tile_end, s, tiled[s], texts[s])
                if fresh:
                    state = taken_in(i8, f8, state, tiled[s], n, n, np.int64(flags), np.int64(row), np.int64(row_end))
                out = _with_room(out, to, 2 * len(state) + 8)
                to = _pack(state, texts[s], out, to)
        new_ends[j] = to
        row, tile = row_end, tile_end
    return np.concatenate((new_ends, out[:to]))


@njit(cache=True)
def _fits(i8, f8, tiled, stride, i):  # type: ignore[no-untyped-def]
    """True unless the row's digits would take more room than it does."""
    for s in range(tiled.shape[0]):
        if tiled[s, G_KIND] == FLOAT and (tiled[s, G_FORM] == SUMMED or tiled[s, G_FORM] == MOMENTS):
            size = abs(f8[stride + tiled[s, G_COLUMN] * stride + i])
            if 0.0 < size < LEAST_VALUE or size >= MOST_SUM:
                return False
    return True


@njit(cache=True)
def _cost(i8, f8, spec, stride, flags, start, stop):  # type: ignore[no-untyped-def]
    """How many keys (of registers: rows) an interval's state has."""
    rows, keys = keyed_rows(i8, f8, spec, stride, stride, flags, start, stop)
    if spec[G_FORM] == REGISTERED:
        return len(rows)
    keys = np.sort(keys)
    found = 0
    for k in range(len(keys)):
        found += k == 0 or keys[k] != keys[k - 1]
    return found if found <= spec[G_CAP] else 0


@njit(cache=True, nogil=True)
def mark_apart(  # type: ignore[no-untyped-def]
    i8, f8, n, tiles, count, tiled, costs, levels, cuts, fewest, row_bytes, counted, flags, apart
):
    """Mark in `apart` the rows that are in no tile: those whose values have too many digits, and those of intervals
    without a tile whose keys would take more room than the rows.

    `i8`, `f8` are as `tiles.tile_rows` has them; the words from `flags` on, one per row, are scratch. `costs` are bytes
    per key of each state, in all not more than a row's.
    """
    for i in range(n):
        apart[i] = not counted[i] and not _fits(i8, f8, tiled, n, i)
        i8[flags + i] = apart[i] or counted[i]
    row = tile = 0
    while row < n:
        start = interval_of(i8[row], levels, cuts)
        if start == -EVER:
            break
        row_end, fitting = row, 0
        while row_end < n and interval_of(i8[row_end], levels, cuts) == start:
            fitting += i8[flags + row_end] == 0
            row_end += 1
        while tile < count and interval_of(i8[tiles + tile], levels, cuts) < start:
            tile += 1
        held = tile < count and interval_of(i8[tiles + tile], levels, cuts) == start
        if not held and fitting >= fewest:
            spent = np.int64(0)
            for s in range(tiled.shape[0]):
                keys = _cost(i8, f8, tiled[s], n, np.int64(flags), np.int64(row), np.int64(row_end))
                bytes_of = costs[s] * keys
                spent += min(bytes_of, _MOST_REGISTER_BYTES) if tiled[s, G_FORM] == REGISTERED else bytes_of
            if spent > row_bytes * (fitting - fewest):
                apart[row:row_end] = True
        row = row_end


@njit(cache=True)
def key_spans(words, begin, base, lifetime, tiled, texts):  # type: ignore[no-untyped-def]
    """Where the keys lie that are numbers of texts, in the record that begins at this word: int64 [spans, 2], begins
    and ends. The lifetime has the first `lifetime` of the states whose `texts` say so, tiles all of them if `tiled`."""
    at = begin + 7 + words[begin + 6] + base
    end = at + words[at - 1]
    count = words[begin + 4] if tiled else 0
    spans = np.zeros((len(texts) * (count + 1), 2), np.int64)
    found = 0
    if at == end:
        return spans[:0]
    begins = states_begin(words, at, count)
    for k in range(count):
        place = begins[k]
        for s in range(len(texts)):
            if texts[s] and words[place + 1] > 0:
                spans[found, 0], spans[found, 1] = place + 2, place + 2 + words[place + 1]
                found += 1
            place += 1 + words[place]
    at = begins[count]
    for s in range(lifetime if at < end else 0):
        if texts[s] and words[at + 1] > 0:
            spans[found, 0], spans[found, 1] = at + 2, at + 2 + words[at + 1]
            found += 1
        at += 1 + words[at]
    return spans[:found]
