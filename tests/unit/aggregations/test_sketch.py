"""Registers of estimated numbers of different values: the greatest rank stays, whichever value comes first."""

from __future__ import annotations

from itertools import count

import numpy as np

from headrace.aggregations.sketch import REGISTERS, take_in
from headrace.testing.oracle.sketch import xxh64


def place_and_rank(word: int) -> tuple[int, int]:
    """From the hash of the oracle, in binary digits: the first twelve, and how far the first one lies behind them."""
    digits = f"{xxh64(word.to_bytes(8, 'little', signed=True)):064b}"
    return int(digits[:12], 2), (digits[12:] + "1").index("1") + 1


def test_of_two_values_of_a_register_the_greater_rank_stays() -> None:
    first: dict[int, tuple[int, int]] = {}
    for word in count():
        place, rank = place_and_rank(word)
        other, of_other = first.setdefault(place, (word, rank))
        if rank != of_other:
            break
    for order in ((word, other), (other, word)):
        registers = np.zeros(REGISTERS, np.uint8)
        for each in order:
            take_in(registers, each)
        assert (int(registers[place]), np.count_nonzero(registers)) == (max(rank, of_other), 1)
