"""Which triggers of a model are due."""

from __future__ import annotations

from headrace.core.time import US_PER_DAY
from headrace.features.plan import Trigger
from headrace.orchestration.retraining import TriggerState

ALL = (
    Trigger("every", (("every_us", 7 * US_PER_DAY),)),
    Trigger("on_drift", (("psi", 0.2),)),
    Trigger("on_decay", (("drop", 0.05),)),
)


def day(n: float) -> int:
    return int(n * US_PER_DAY)


def test_the_schedule_asks_when_nothing_else_has() -> None:
    state = TriggerState(ALL, day(0))
    assert [state.due(day(n), 1, (), False) for n in (1, 6, 7, 8, 13, 14)] == [
        None, None, "schedule", None, None, "schedule",
    ]  # fmt: skip


def test_a_monitor_goes_before_the_schedule_and_waits_for_the_pause() -> None:
    state = TriggerState(ALL, day(0), pause_us=day(3))
    assert state.due(day(2), 1, ("a",), True) is None
    assert state.due(day(3), 1, ("a",), True) == "decay"
    assert state.due(day(5), 1, ("a",), False) is None
    assert state.due(day(6), 1, ("a", "b", "c", "d"), False) == "drift: a, b, c and 1 more"


def test_what_stays_drifted_asks_again_only_under_another_champion() -> None:
    state = TriggerState(ALL, day(0), pause_us=day(1))
    assert state.due(day(1), 1, ("a",), False) == "drift: a"
    assert state.due(day(2), 1, ("a",), False) is None
    assert state.due(day(3), 1, ("a", "b"), False) == "drift: b"
    assert state.due(day(4), 2, ("a",), False) == "drift: a"


def test_without_triggers_nothing_is_ever_due() -> None:
    state = TriggerState((), day(0))
    assert (state.psi, state.drop) == (None, None)
    assert state.due(day(400), 1, (), False) is None
