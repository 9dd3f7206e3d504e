"""The ceiling of writes: its rate, and how it is shared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import ConfigError
from headrace.core.time import US_PER_SECOND, SimulatedClock
from headrace.ingestion.ceiling import BackgroundShare, WriteCeiling


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


_WANTS = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 4_000), st.integers(0, 4_000)), min_size=1, max_size=4)


@given(wants=_WANTS, per_s=st.integers(20, 5_000), step_ms=st.integers(1, 200))
def test_the_ceiling_holds_wastes_nothing_and_starves_nobody(
    wants: list[tuple[int, int, int]], per_s: int, step_ms: int
) -> None:
    """Writers with pieces of a size, who want to write from a ms on for so long, whatever the others do."""
    names = [str(n) for n in range(len(wants))]
    clock, end = SimulatedClock(0), 5_000
    ceiling = WriteCeiling(per_s, clock, names)
    written = dict.fromkeys(names, 0)
    hungry = 0
    for ms in range(0, end, step_ms):
        clock.advance_to(ms * 1_000)
        some = False
        for name, (piece, begin, length) in zip(names, wants, strict=True):
            if begin <= ms < begin + length:
                some = True
                while ceiling.room(name):
                    ceiling.spend(name, piece)
                    written[name] += piece
        hungry += step_ms if some else 0
    pieces = sum(piece for piece, _, _ in wants)
    burst = per_s * 0.25
    # No more than the ceiling, the tokens of the beginning, and a piece of debt of each.
    assert sum(written.values()) <= per_s * end / 1_000 + burst + pieces
    # Never less than a fair share of the time in which one wanted to write; the last step's tokens may lie there still,
    # and a bucket holds no more than its part of the burst, so what a longer step brings is lost.
    used = min(1.0, 250 / step_ms / len(wants))
    for name, (piece, _, length) in zip(names, wants, strict=True):
        seen = max(length - 2 * step_ms, 0) / 1_000
        assert written[name] >= per_s * seen * used / len(wants) - piece - 1
    # Whoever is alone, or left over, has it all: nothing is kept back while somebody wants it.
    if len(wants) == 1:
        assert sum(written.values()) >= per_s * max(hungry - 2 * step_ms, 0) / 1_000 * used - pieces - 1


class Stream:
    """A clock that goes on while somebody waits, and a stream that writes at the rates of a list, a second each."""

    def __init__(self, rates: list[float]) -> None:
        self.clock, self.rates = SimulatedClock(0), rates

    def __call__(self) -> float:
        return self.rates[min(self.clock.now_us() // US_PER_SECOND, len(self.rates) - 1)]

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.25
        self.clock.advance_to(self.clock.now_us() + max(round(seconds * US_PER_SECOND), 1))


@given(
    rates=st.lists(st.floats(0, 3_000), min_size=1, max_size=8),
    pieces=st.lists(st.integers(0, 700), min_size=1, max_size=60),
)
def test_a_backfill_has_what_the_stream_leaves_and_a_tenth_at_least(rates: list[float], pieces: list[int]) -> None:
    stream, per_s = Stream(rates), 1_000
    share = BackgroundShare(per_s, stream.clock, stream, stream.sleep)
    for piece in pieces:
        begun = share.written
        share.take(piece)
        now = stream.clock.now_us()
        full, rest = divmod(now, US_PER_SECOND)
        spans = [(rates[min(s, len(rates) - 1)], 1.0) for s in range(full)]
        spans.append((rates[min(full, len(rates) - 1)], rest / US_PER_SECOND))
        left = sum(max(per_s - rate, per_s * 0.1) * seconds for rate, seconds in spans)
        # A rate is asked for four times a second at least, so it may be a quarter of a second old at each change.
        slack = 250 * len(rates)
        assert begun <= left + 250 + slack, "before the last piece, which may be a debt"
        assert begun >= left - 700 - slack or share.throttled_us == 0
    assert share.written == sum(pieces)
    assert share.throttled_us == stream.clock.now_us()


def test_a_wait_for_room_ends_when_it_is_asked_to() -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    stream = Stream([5_000.0])
    share = BackgroundShare(1_000, stream.clock, stream, stream.sleep)
    share.take(50_000, stop)
    with pytest.raises(Stopped):
        share.take(1, stop)
    assert share.written == 50_000
