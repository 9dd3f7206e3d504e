"""HyperLogLog as it is pinned: XXH64 of canonical bytes, 4,096 registers, Ertl's improved estimate, in plain integers.

Written from Collet's specification of xxHash and from section 4 of Ertl's "New cardinality estimation algorithms for
HyperLogLog sketches" (2017), with decimals of 50 digits, so that no rounding on the way can be seen.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

_MASK = 2**64 - 1
_PRIME1, _PRIME2, _PRIME3 = 11400714785074694791, 14029467366897019727, 1609587929392839161
_PRIME4, _PRIME5 = 9650029242287828579, 2870177450012600261
_INDEX_BITS = 12
_Q = 64 - _INDEX_BITS


def canonical(value: Any) -> bytes:
    """8 little-endian bytes of an int64 or float64 (a bool is 1.0 or 0.0, -0.0 is 0.0); the UTF-8 bytes of a text."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool | float):
        return struct.pack("<d", float(value) + 0.0)
    return struct.pack("<q", value)


def signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    return number - 2**64 if number >= 2**63 else number


def _rotate(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & _MASK


def _round(accumulator: int, lane: int) -> int:
    return _rotate((accumulator + lane * _PRIME2) & _MASK, 31) * _PRIME1 & _MASK


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 of these bytes."""
    rest = data
    if len(data) >= 32:
        states = [seed + _PRIME1 + _PRIME2, seed + _PRIME2, seed, seed - _PRIME1]
        states = [state & _MASK for state in states]
        while len(rest) >= 32:
            lanes = struct.unpack("<4Q", rest[:32])
            states = [_round(state, lane) for state, lane in zip(states, lanes, strict=True)]
            rest = rest[32:]
        h = sum(_rotate(state, by) for state, by in zip(states, (1, 7, 12, 18), strict=True)) & _MASK
        for state in states:
            h = ((h ^ _round(0, state)) * _PRIME1 + _PRIME4) & _MASK
    else:
        h = seed + _PRIME5 & _MASK
    h = h + len(data) & _MASK
    while len(rest) >= 8:
        h = (_rotate(h ^ _round(0, int.from_bytes(rest[:8], "little")), 27) * _PRIME1 + _PRIME4) & _MASK
        rest = rest[8:]
    if len(rest) >= 4:
        h = (_rotate(h ^ (int.from_bytes(rest[:4], "little") * _PRIME1 & _MASK), 23) * _PRIME2 + _PRIME3) & _MASK
        rest = rest[4:]
    for byte in rest:
        h = _rotate(h ^ (byte * _PRIME5 & _MASK), 11) * _PRIME1 & _MASK
    h = (h ^ h >> 33) * _PRIME2 & _MASK
    h = (h ^ h >> 29) * _PRIME3 & _MASK
    return h ^ h >> 32


def estimate(values: Iterable[bytes]) -> int:
    """The estimated number of different values."""
    registers: dict[int, int] = {}
    for value in values:
        bits = f"{xxh64(value):064b}"
        index, rest = bits[:_INDEX_BITS], bits[_INDEX_BITS:]
        rank = len(rest) - len(rest.lstrip("0")) + 1
        registers[int(index, 2)] = max(registers.get(int(index, 2), 0), rank)
    if not registers:
        return 0
    m = 2**_INDEX_BITS
    counts = Counter(registers.values())
    counts[0] = m - len(registers)
    with localcontext() as context:
        context.prec = 50
        z = m * _tau(1 - Decimal(counts[_Q + 1]) / m)
        for k in range(_Q, 0, -1):
            z = (z + counts[k]) / 2
        z += m * _sigma(Decimal(counts[0]) / m)
        found = Decimal(m) ** 2 / (2 * Decimal(2).ln() * z)
        return int(found.to_integral_value(ROUND_HALF_EVEN))


def _sigma(x: Decimal) -> Decimal:
    """x + sum over k >= 1 of x^(2^k) * 2^(k-1), for x below 1."""
    return sum((x ** (2**k) * 2 ** (k - 1) for k in range(1, 25)), x)


def _tau(x: Decimal) -> Decimal:
    """(1 - x - sum over k >= 1 of (1 - x^(2^-k))^2 * 2^-k) / 3."""
    if x in (0, 1):
        return Decimal(0)
    terms, root = Decimal(0), x
    for k in range(1, 60):
        root = root.sqrt()
        terms += (1 - root) ** 2 / 2**k
    return (1 - x - terms) / 3
