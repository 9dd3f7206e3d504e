"""States of the lifetime whose size follows their data: how often values occur, registers, power sums, sums by bucket.

A record holds them behind its base words, one behind the other; none at all stands for empty ones. Each is its size in
words (this one apart), the number of its keys, the keys in ascending order, and what belongs to the keys:

- COUNTS, BUCKETS: how often each value, or bucket of a quantile, occurs; one word per key;
- SUMS: per key the number of words of its lane that are not 0, and each of these behind its place;
- REGISTERS (no keys): a word per register that is not 0, or from `_DENSE` of these on eight registers per word;
- MOMENTS (no keys): the number of values, then for the sums of values, squares and cubes the number of digits that are
  not 0, and these with their places.

More keys than the cap are -1 keys: the set of keys only grows, so that is for good. Every form is canonical: equal
events give equal words in whatever order, and steps, they were taken in. A state before the cut that takes in the rows
behind it is what a read asks for, so folding and reading are the same function.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from headrace.aggregations.codes import (
    BUCKETS,
    MOMENTS,
    REGISTERED,
    SUMMED,
    SUMS,
)
from headrace.aggregations.counted import counts, parts, word_of
from headrace.aggregations.exact import turned
from headrace.aggregations.lanes import (
    AT_SQUARE,
    FLOAT,
    LANE_WORDS,
    NULLABLE_INT,
    add_row,
    clear,
    present,
    settle,
)
from headrace.aggregations.moments import EXPONENTS, add_powers, room
from headrace.aggregations.sketch import REGISTERS, take_in
from headrace.aggregations.wide import LOW30, signed_digits
from headrace.aggregations.window_rows import (
    bucket_of,
)

# Columns of the table of states. The keys of SUMMED are the values of a second column, of COUNTS those of the first.
G_FORM, G_CAP, G_KIND, G_COLUMN, G_VALIDITY, G_WHERE, G_BY_KIND, G_BY, G_BY_VALIDITY = range(9)
STATE_WORDS = 9
# Columns of the table of features that are read from them. The target is a slot, or an index among lists and maps.
F_STATE, F_WINDOW, F_CODE, F_PARAM, F_CAP, F_BOOL, F_TARGET = range(7)
READ_WORDS = 7
UNCAPPED = 2**62
_DENSE = REGISTERS // 8
LANE = AT_SQUARE
"""Words of a lane that holds a sum."""


@njit(cache=True)
def empty_state(form):  # type: ignore[no-untyped-def]
    """The state of no rows."""
    state = np.zeros(6 if form == MOMENTS else 2, np.int64)
    return sized(state, len(state))


@njit(cache=True)
def sized(words, end):  # type: ignore[no-untyped-def]
    """The first `end` words as a state."""
    words[0] = end - 1
    return words[:end]


@njit(cache=True)
def over_state():  # type: ignore[no-untyped-def]
    return np.array([1, -1], np.int64)


@njit(cache=True)
def _fresh(i8, f8, kind, column, validity, where, flags, start, stop):  # type: ignore[no-untyped-def]
    """The rows from `start` to `stop` with a value that no state counts yet."""
    rows = np.empty(stop - start, np.int64)
    limits = np.zeros(1, np.int64)
    n = 0
    for i in range(start, stop):
        folded = flags >= 0 and i8[flags + i] != 0
        if not folded and counts(i8, f8, kind, column, validity, where, -1, -1, limits, i):
            rows[n] = i
            n += 1
    return rows[:n]


@njit(cache=True)
def _keys(i8, f8, form, kind, column, rows):  # type: ignore[no-untyped-def]
    """The keys of rows, as integers in the order of the values."""
    keys = np.empty(len(rows), np.int64)
    for k in range(len(rows)):
        at = column + rows[k]
        if form == BUCKETS:
            keys[k] = bucket_of(i8, kind, at)
        else:
            word = word_of(i8, f8, kind, at)
            keys[k] = turned(word) if kind == FLOAT else word
    return keys


@njit(cache=True)
def _with_counts(old, keys, times, cap):  # type: ignore[no-untyped-def]
    """COUNTS or BUCKETS with these sorted keys too, each so many times."""
    m = old[1]
    most = m + len(keys)
    found = i = j = 0
    values, often = np.empty(most, np.int64), np.empty(most, np.int64)
    while i < m or j < len(keys):
        if i < m and (j == len(keys) or old[2 + i] <= keys[j]):
            key, more = old[2 + i], old[2 + m + i]
            i += 1
        else:
            key, more = keys[j], times[j]
            j += 1
        if found and values[found - 1] == key:
            often[found - 1] += more
            continue
        if found == cap:
            return over_state()
        values[found], often[found] = key, more
        found += 1
    out = np.empty(2 + 2 * found, np.int64)
    out[1] = found
    out[2 : 2 + found] = values[:found]
    out[2 + found :] = often[:found]
    return sized(out, len(out))


@njit(cache=True)
def load_lane(state, at, lane):  # type: ignore[no-untyped-def]
    """The lane of a key whose words begin at `at`; returns where those of the next key do."""
    clear(lane, SUMS)
    for k in range(state[at]):
        lane[state[at + 1 + 2 * k]] = state[at + 2 + 2 * k]
    return at + 1 + 2 * state[at]


@njit(cache=True)
def _together(old, keys):  # type: ignore[no-untyped-def]
    """The different keys of a state and of sorted new ones."""
    m = old[1]
    out = np.empty(m + len(keys), np.int64)
    found = i = j = 0
    while i < m or j < len(keys):
        if i < m and (j == len(keys) or old[2 + i] <= keys[j]):
            key = old[2 + i]
            i += 1
        else:
            key = keys[j]
            j += 1
        if not found or out[found - 1] != key:
            out[found] = key
            found += 1
    return out[:found]


@njit(cache=True)
def _with_sums(i8, f8, old, rows, keys, kind, column, validity, cap):  # type: ignore[no-untyped-def]
    """SUMMED with these rows too; `keys` are theirs."""
    order = np.argsort(keys, kind="mergesort")
    buckets = _together(old, keys[order])
    found = len(buckets)
    if found > cap:
        return over_state()
    m, n = old[1], len(rows)
    out = np.empty(2 + found * (2 + 2 * LANE), np.int64)
    lane = np.zeros(LANE_WORDS, np.int64)
    out[1] = found
    out[2 : 2 + found] = buckets
    to, at = 2 + found, 2 + m
    i = j = 0
    for key in buckets:
        clear(lane, SUMS)
        if i < m and old[2 + i] == key:
            at = load_lane(old, at, lane)
            i += 1
        while j < n and keys[order[j]] == key:
            row = rows[order[j]]
            j += 1
            if present(i8, f8, kind, column + row, validity + row):
                add_row(i8, f8, kind, SUMS, column + row, lane, 0)
        to = store_lane(lane, kind, out, to)
    return sized(out, to)


@njit(cache=True)
def store_lane(lane, kind, out, to):  # type: ignore[no-untyped-def]
    """Write a lane, settled, as the words of a key at `out[to:]`; returns where those of the next key go."""
    settle(lane, 0, kind, SUMS)
    used = 0
    for k in range(LANE):
        if lane[k] != 0:
            out[to + 1 + 2 * used], out[to + 2 + 2 * used] = k, lane[k]
            used += 1
    out[to] = used
    return to + 1 + 2 * used


@njit(cache=True)
def _joined_sums(a, b, kind, cap):  # type: ignore[no-untyped-def]
    """SUMMED of the rows of two."""
    buckets = _together(a, b[2 : 2 + b[1]])
    found = len(buckets)
    if found > cap:
        return over_state()
    out = np.empty(2 + found * (2 + 2 * LANE), np.int64)
    lane, other = np.zeros(LANE_WORDS, np.int64), np.zeros(LANE_WORDS, np.int64)
    out[1] = found
    out[2 : 2 + found] = buckets
    to, at_a, at_b = 2 + found, 2 + a[1], 2 + b[1]
    i = j = 0
    for key in buckets:
        clear(lane, SUMS)
        if i < a[1] and a[2 + i] == key:
            at_a = load_lane(a, at_a, lane)
            i += 1
        if j < b[1] and b[2 + j] == key:
            at_b = load_lane(b, at_b, other)
            lane += other
            j += 1
        to = store_lane(lane, kind, out, to)
    return sized(out, to)


@njit(cache=True)
def registers_of(state):  # type: ignore[no-untyped-def]
    """The registers of REGISTERED, uint8 [REGISTERS]."""
    registers = np.zeros(REGISTERS, np.uint8)
    held = state[0] - 1
    if held == _DENSE:
        for k in range(REGISTERS):
            registers[k] = (state[2 + (k >> 3)] >> (8 * (k & 7))) & 255
    else:
        for k in range(held):
            registers[state[2 + k] >> 8] = state[2 + k] & 255
    return registers


@njit(cache=True)
def _with_registers(i8, f8, old, rows, kind, column):  # type: ignore[no-untyped-def]
    """REGISTERED with these rows too."""
    registers = registers_of(old)
    for row in rows:
        take_in(registers, word_of(i8, f8, kind, column + row))
    return of_registers(registers)


@njit(cache=True)
def of_registers(registers):  # type: ignore[no-untyped-def]
    """REGISTERED of these registers."""
    out = np.zeros(2 + _DENSE, np.int64)
    held = 0
    for k in range(REGISTERS):
        if registers[k]:
            if held < _DENSE:
                out[2 + held] = (k << 8) | registers[k]
            held += 1
    if held < _DENSE:
        return sized(out, 2 + held)
    out[2:] = 0
    for k in range(REGISTERS):
        out[2 + (k >> 3)] |= np.int64(registers[k]) << (8 * (k & 7))
    return sized(out, len(out))


@njit(cache=True)
def load_powers(state, first, second, third):  # type: ignore[no-untyped-def]
    """Add the digits of MOMENTS to the three sums; returns the number of values."""
    at = 3
    for sums in (first, second, third):
        for k in range(state[at]):
            word = abs(state[at + 1 + k])
            sums[word >> 30] += word & LOW30 if state[at + 1 + k] > 0 else -(word & LOW30)
        at += 1 + state[at]
    return state[2]


@njit(cache=True)
def _with_powers(i8, old, rows, kind, column):  # type: ignore[no-untyped-def]
    """MOMENTS with these rows too."""
    ones, twos, threes = room(EXPONENTS)
    first, second, third = np.zeros(ones, np.int64), np.zeros(twos, np.int64), np.zeros(threes, np.int64)
    count = load_powers(old, first, second, third)
    for row in rows:
        mantissa, exponent = parts(i8, kind, column + row)
        add_powers(mantissa, exponent, first, second, third)
    return of_powers(count + len(rows), first, second, third)


@njit(cache=True)
def of_powers(count, first, second, third):  # type: ignore[no-untyped-def]
    """MOMENTS of so many values with these three sums."""
    out = np.zeros(6 + len(first) + len(second) + len(third), np.int64)
    out[2] = count
    to = 3
    for sums in (first, second, third):
        digits, sign = signed_digits(sums)
        used = 0
        for k in range(len(digits)):
            if digits[k]:
                out[to + 1 + used] = sign * ((k << 30) | digits[k])
                used += 1
        out[to] = used
        to += 1 + used
    return sized(out, to)


@njit(cache=True)
def keyed_rows(i8, f8, spec, columns, stride, flags, start, stop):  # type: ignore[no-untyped-def]
    """The rows from `start` to `stop` that a state takes in, and their keys (of forms that have some).

    `flags` is where the words begin that say which rows are counted already (-1: none is).
    """
    form, kind = spec[G_FORM], spec[G_KIND]
    column = columns + spec[G_COLUMN] * stride
    validity = columns + spec[G_VALIDITY] * stride if kind == NULLABLE_INT else -1
    where = columns + spec[G_WHERE] * stride if spec[G_WHERE] >= 0 else -1
    if form == SUMMED:
        kind, column = spec[G_BY_KIND], columns + spec[G_BY] * stride
        validity = columns + spec[G_BY_VALIDITY] * stride if kind == NULLABLE_INT else -1
    rows = _fresh(i8, f8, kind, column, validity, where, flags, start, stop)
    if form in (REGISTERED, MOMENTS):
        return rows, rows[:0]
    return rows, _keys(i8, f8, form, kind, column, rows)


@njit(cache=True)
def taken_in(i8, f8, state, spec, columns, stride, flags, start, stop):  # type: ignore[no-untyped-def]
    """The state with those of the rows from `start` to `stop` that none counts yet."""
    form, kind = spec[G_FORM], spec[G_KIND]
    column = columns + spec[G_COLUMN] * stride
    if state[1] < 0:
        return state
    rows, keys = keyed_rows(i8, f8, spec, columns, stride, flags, start, stop)
    if form == SUMMED:
        validity = columns + spec[G_VALIDITY] * stride if kind == NULLABLE_INT else -1
        return _with_sums(i8, f8, state, rows, keys, kind, column, validity, spec[G_CAP])
    if form == REGISTERED:
        return _with_registers(i8, f8, state, rows, kind, column)
    if form == MOMENTS:
        return _with_powers(i8, state, rows, kind, column)
    return _with_counts(state, np.sort(keys), np.ones(len(keys), np.int64), spec[G_CAP])


@njit(cache=True, nogil=True)
def grow(i8, f8, columns, stride, stop, old, states):  # type: ignore[no-untyped-def]
    """The words of all states after the first `stop` rows, none of which they count; `old` are those before."""
    out = np.empty(64, np.int64)
    at = to = 0
    for s in range(states.shape[0]):
        state = empty_state(states[s, G_FORM])
        if len(old):
            state = old[at : at + 1 + old[at]].copy()
            at += len(state)
        # An int64, not a literal: else all this would be compiled a second time.
        state = taken_in(i8, f8, state, states[s], columns, stride, np.int64(-1), np.int64(0), stop)
        if to + len(state) > len(out):
            wider = np.empty(2 * (to + len(state)), np.int64)
            wider[:to] = out[:to]
            out = wider
        out[to : to + len(state)] = state
        to += len(state)
    return out[:to].copy()


@njit(cache=True)
def joined(a, b, spec):  # type: ignore[no-untyped-def]
    """The state of the rows of two."""
    form = spec[G_FORM]
    if a[1] < 0 or b[1] < 0:
        return over_state()
    if form == SUMMED:
        return _joined_sums(a, b, spec[G_KIND], spec[G_CAP])
    if form == REGISTERED:
        return of_registers(np.maximum(registers_of(a), registers_of(b)))
    if form == MOMENTS:
        ones, twos, threes = room(EXPONENTS)
        first, second, third = np.zeros(ones, np.int64), np.zeros(twos, np.int64), np.zeros(threes, np.int64)
        count = load_powers(a, first, second, third) + load_powers(b, first, second, third)
        return of_powers(count, first, second, third)
    m = b[1]
    return _with_counts(a, b[2 : 2 + m], b[2 + m : 2 + 2 * m], spec[G_CAP])


@njit(cache=True, nogil=True)
def join(a, b, states):  # type: ignore[no-untyped-def]
    """The words of all states of the rows of two records, neither of which counts a row of the other."""
    if len(a) == 0 or len(b) == 0:
        return a.copy() if len(a) else b.copy()
    out = np.empty(len(a) + len(b) + 2 * states.shape[0], np.int64)
    at_a = at_b = to = 0
    for s in range(states.shape[0]):
        one, two = a[at_a : at_a + 1 + a[at_a]].copy(), b[at_b : at_b + 1 + b[at_b]].copy()
        at_a, at_b = at_a + len(one), at_b + len(two)
        state = joined(one, two, states[s])
        if to + len(state) > len(out):
            wider = np.empty(2 * (to + len(state)), np.int64)
            wider[:to] = out[:to]
            out = wider
        out[to : to + len(state)] = state
        to += len(state)
    return out[:to].copy()
