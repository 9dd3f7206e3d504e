"""When a fit that runs beside the watch is taken up."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from headrace.core.time import US_PER_DAY
from headrace.features.plan import Trigger
from headrace.orchestration.retraining import Outcome, TriggerState
from headrace.orchestration.watch import ModelWatch


class Loop:
    """Stands for the retraining loop; notes when each part of a retraining came."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def begin(self, now_us: int, trigger: str) -> tuple[int, None]:
        self.parts.append(f"begin {now_us // US_PER_DAY}")
        return len(self.parts), None

    def conclude(self, run: int, challenger: object) -> Outcome:
        self.parts.append(f"conclude {challenger}")
        return Outcome("schedule", 2, True, "better")


def watch(loop: Loop, *, every_days: int, fit_days: int) -> ModelWatch:
    """A watch with stand-ins for everything but itself and the triggers."""

    def beside(work: object) -> Future[Any]:
        fitting: Future[Any] = Future()
        fitting.set_result("fitted")
        return fitting

    trigger = Trigger("every", (("every_us", every_days * US_PER_DAY),))
    stand_in: Any = SimpleNamespace(
        name="m", metric="roc_auc", update=lambda: 0, alias=lambda *_: 1, raise_alert=lambda *_: None,
        get=lambda *_: SimpleNamespace(info=SimpleNamespace(profile=None, metrics={})),
    )  # fmt: skip
    return ModelWatch(
        stand_in, stand_in, stand_in, loop, stand_in, stand_in,  # type: ignore[arg-type]
        TriggerState((trigger,), 0), beside=beside, fit_us=fit_days * US_PER_DAY,
    )  # fmt: skip


def test_a_fit_is_taken_up_at_the_first_look_after_its_time() -> None:
    loop = Loop()
    looked = watch(loop, every_days=7, fit_days=3)
    for day in range(12):
        looked.look(day * US_PER_DAY)
        if day == 9:
            assert loop.parts == ["begin 7"]
    assert loop.parts == ["begin 7", "conclude fitted"]
    assert [outcome.promoted for outcome in looked.outcomes] == [True]


def test_no_retraining_begins_while_one_is_under_way() -> None:
    loop = Loop()
    looked = watch(loop, every_days=1, fit_days=3)
    for day in range(8):
        looked.look(day * US_PER_DAY)
    assert loop.parts == ["begin 1", "conclude fitted", "begin 4", "conclude fitted", "begin 7"]
    looked.conclude()
    assert loop.parts[-1] == "conclude fitted"
