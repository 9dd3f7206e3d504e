"""The ceiling of writes: its rate, and how it is shared."""

from __future__ import annotations

import pytest

from headrace.core.errors import ConfigError
from headrace.core.time import US_PER_SECOND, SimulatedClock
from headrace.ingestion.ceiling import WriteCeiling


def run(wants: dict[str, tuple[int, int]], per_s: int, seconds: int) -> tuple[dict[str, int], WriteCeiling]:
    """What each writer has written by the end; it wants to write pieces of a size from a second on."""
    clock = SimulatedClock(0)
    ceiling = WriteCeiling(per_s, clock, list(wants))
    written = dict.fromkeys(wants, 0)
    for ms in range(1, seconds * 1_000 + 1):
        clock.advance_to(ms * 1_000)
        held = False
        for name, (piece, from_s) in wants.items():
            if ms > from_s * 1_000:
                if ceiling.room(name):
                    ceiling.spend(name, piece)
                    written[name] += piece
                held = held or not ceiling.room(name)
        ceiling.waiting(held)
    return written, ceiling


@pytest.mark.parametrize("piece", [1, 7, 500])
def test_one_writer_alone_has_all_of_it(piece: int) -> None:
    written, _ = run({"tables": (piece, 0), "groups": (1, 99)}, 1_000, 20)
    assert 20_000 - 500 <= written["tables"] <= 20_000 + 250 + piece


def test_two_who_want_all_get_the_same() -> None:
    written, ceiling = run({"tables": (100, 0), "groups": (1, 0)}, 1_000, 20)
    assert abs(written["tables"] - written["groups"]) <= 100 + 125
    assert 19_500 <= sum(written.values()) <= 20_000 + 350
    assert 19 * US_PER_SECOND <= ceiling.throttled_us <= 20 * US_PER_SECOND


def test_who_comes_late_finds_room_at_once_whatever_others_have_waiting() -> None:
    clock = SimulatedClock(0)
    ceiling = WriteCeiling(1_000, clock, ["tables", "groups"])
    clock.advance_to(US_PER_SECOND)
    ceiling.spend("tables", 50_000)
    assert ceiling.room("tables") == 0
    assert ceiling.room("groups") >= 100
    clock.advance_to(2 * US_PER_SECOND)
    assert ceiling.room("tables") == 0
    # A debt is paid before anything else is written: 49,875 at all of the ceiling.
    clock.advance_to(52 * US_PER_SECOND)
    assert ceiling.room("tables") == 125


def test_a_ceiling_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="lets nothing through"):
        WriteCeiling(0, SimulatedClock(0), ["tables"])
