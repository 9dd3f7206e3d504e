"""Estimated numbers of different values: HyperLogLog over a pinned hash.

The hash is XXH64 (seed 0; Collet's specification) of a value's canonical bytes: the 8 little-endian bytes of its int64
or float64 (a bool is 1.0 or 0.0), the UTF-8 bytes of a text. The upper bits choose one of 4,096 registers, which keeps
the greatest rank of the others; registers are merged by their maximum, so the order of rows makes no difference. The
estimate is Ertl's improved one ("New cardinality estimation algorithms for HyperLogLog sketches", 2017), made from the
numbers of equal registers in a fixed order; its standard error is 1.04 / sqrt(4096), 1.6 %.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from headrace.aggregations.counted import counts, word_of
from headrace.core.columns import IntArray

_BITS = 12
REGISTERS = 1 << _BITS
_RANKS = 64 - _BITS
_ALPHA = 0.7213475204444817  # 1 / (2 ln 2)
_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@njit(cache=True, inline="always")
def _turned(x, by):  # type: ignore[no-untyped-def]
    return (x << np.uint64(by)) | (x >> np.uint64(64 - by))


@njit(cache=True, inline="always")
def _round(state, lane):  # type: ignore[no-untyped-def]
    return _turned(state + lane * _P2, 31) * _P1


@njit(cache=True, inline="always")
def _finished(h):  # type: ignore[no-untyped-def]
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@njit(cache=True)
def hash_word(word):  # type: ignore[no-untyped-def]
    """XXH64 of the 8 little-endian bytes of an int64, as uint64."""
    h = _P5 + np.uint64(8)
    h ^= _round(np.uint64(0), np.uint64(word))
    return _finished(_turned(h, 27) * _P1 + _P4)


@njit(cache=True)
def _read(data, at, size):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    for k in range(size):
        value |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return value


@njit(cache=True)
def _hash_bytes(data, at, end):  # type: ignore[no-untyped-def]
    length = end - at
    if length >= 32:
        a, b, c, d = _P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1
        while at + 32 <= end:
            a, b = _round(a, _read(data, at, 8)), _round(b, _read(data, at + 8, 8))
            c, d = _round(c, _read(data, at + 16, 8)), _round(d, _read(data, at + 24, 8))
            at += 32
        h = _turned(a, 1) + _turned(b, 7) + _turned(c, 12) + _turned(d, 18)
        h = (h ^ _round(np.uint64(0), a)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), b)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), c)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), d)) * _P1 + _P4
    else:
        h = _P5
    h += np.uint64(length)
    while at + 8 <= end:
        h = _turned(h ^ _round(np.uint64(0), _read(data, at, 8)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        h = _turned(h ^ (_read(data, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        h = _turned(h ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += 1
    return _finished(h)


@njit(cache=True)
def _hash_all(data, at, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        out[row] = np.int64(_hash_bytes(data, at[row], at[row + 1]))


def hash_slices(data: Any, at: IntArray) -> IntArray:
    """XXH64 of `data[at[i]:at[i + 1]]` of a read-only buffer of at least one byte, as int64 [len(at) - 1]."""
    out = np.empty(len(at) - 1, np.int64)
    _hash_all(np.frombuffer(data, np.uint8), at, out)
    return out


def hash_texts(texts: list[Any]) -> IntArray:
    """XXH64 of the UTF-8 bytes of each text, as int64 [n]."""
    encoded = [text.encode() for text in texts]
    at = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=at[1:])
    return hash_slices(b"".join(encoded) or b"\0", at)


@njit(cache=True)
def _sigma(x):  # type: ignore[no-untyped-def]
    if x == 1.0:
        return np.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


@njit(cache=True)
def _tau(x):  # type: ignore[no-untyped-def]
    if x == 0.0 or x == 1.0:
        return 0.0
    y, z, before = 1.0, 1.0 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) * (1.0 - x) * y
    return z / 3.0


@njit(cache=True)
def register_of(word):  # type: ignore[no-untyped-def]
    """The register of a value's word (`counted.word_of`), and the rank that it brings there."""
    h = hash_word(word)
    rest = h << np.uint64(_BITS)
    rank = 1
    while rank <= _RANKS and not rest >> np.uint64(63):
        rest <<= np.uint64(1)
        rank += 1
    return np.int64(h >> np.uint64(64 - _BITS)), rank


@njit(cache=True)
def take_in(registers, word):  # type: ignore[no-untyped-def]
    """Let uint8 `registers` take in a value's word."""
    place, rank = register_of(word)
    registers[place] = max(registers[place], rank)


@njit(cache=True)
def estimate_of(registers):  # type: ignore[no-untyped-def]
    """The estimate, rounded half to even, from how many registers have each rank."""
    ranks = np.zeros(_RANKS + 2, np.int64)
    for k in range(REGISTERS):
        ranks[registers[k]] += 1
    m = float(REGISTERS)
    z = m * _tau(1.0 - float(ranks[_RANKS + 1]) / m)
    for k in range(_RANKS, 0, -1):
        z = 0.5 * (z + float(ranks[k]))
    z += m * _sigma(float(ranks[0]) / m)
    return np.int64(np.rint(_ALPHA * m * m / z))


@njit(cache=True)
def estimate(  # type: ignore[no-untyped-def]
    i8, f8, kind, column, validity, where, offsets, partitions, limits, start, stop
):
    """Estimated number of different values."""
    registers = np.zeros(REGISTERS, np.uint8)
    for i in range(start, stop):
        if counts(i8, f8, kind, column, validity, where, offsets, partitions, limits, i):
            take_in(registers, word_of(i8, f8, kind, column + i))
    return estimate_of(registers)
