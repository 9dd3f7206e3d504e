"""The judgement: promote only what is better beyond doubt, and say why."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headrace.core.errors import ConfigError, TrainingError
from headrace.features.plan import PromotionPlan
from headrace.training.promotion import judge

RULE = PromotionPlan(on_us=7 * 86_400_000_000, confidence=0.95)


def truth_of(rows: int = 2_000) -> np.ndarray:
    return np.random.default_rng(0).random(rows) < 0.2


def score(truth: np.ndarray, skill: float, seed: int = 1) -> np.ndarray:
    return 1 / (1 + np.exp(1 - skill * truth - np.random.default_rng(seed).normal(size=len(truth))))


def test_a_clear_winner_is_promoted_with_its_figures() -> None:
    truth = truth_of()
    verdict = judge(RULE, truth, score(truth, 0.8), score(truth, 2.0))
    assert verdict.promote
    overall = verdict.table[0]
    assert overall.low is not None
    assert 0 < overall.low < overall.difference < overall.high
    assert verdict.reason == f"AP {overall.difference:+.3f}, 95 % [{overall.low:+.3f}, {overall.high:+.3f}]"
    assert (overall.rows, overall.positives) == (2_000, int(truth.sum()))
    assert json.loads(json.dumps(verdict.rows()))[0]["challenger"] == overall.challenger


def test_an_equal_and_a_worse_challenger_are_refused() -> None:
    truth = truth_of()
    same = judge(RULE, truth, score(truth, 1.0), score(truth, 1.0, seed=2))
    assert not same.promote
    assert same.reason.startswith("not better beyond doubt: AP ")
    assert not judge(RULE, truth, score(truth, 2.0), score(truth, 0.8)).promote


def test_an_identical_challenger_is_refused() -> None:
    truth = truth_of()
    verdict = judge(RULE, truth, score(truth, 1.0), score(truth, 1.0))
    assert not verdict.promote
    assert verdict.reason == "not better beyond doubt: AP +0.000, 95 % [+0.000, +0.000]"


def test_more_confidence_asks_for_more() -> None:
    truth = truth_of(1_500)
    champion, challenger = score(truth, 1.0), score(truth, 1.1, seed=3)
    bold, sure = (judge(PromotionPlan(1, confidence), truth, champion, challenger) for confidence in (0.5, 0.9999))
    assert bold.promote
    assert not sure.promote
    assert "99.99 %" in sure.reason


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (np.array([True, False] * 20), "too little truth: 40 rows, 100 are needed"),
        (np.array([], bool), "too little truth: 0 rows"),
        (np.zeros(300), "one class only: all 300 rows are false"),
        (np.ones(300), "one class only: all 300 rows are true"),
        (np.arange(300) < 9, "9 of 300 rows are true, 10 are needed"),
        (np.arange(300) >= 9, "9 of 300 rows are false, 10 are needed"),
    ],
)
def test_too_little_truth_refuses_with_that_reason(truth: np.ndarray, reason: str) -> None:
    verdict = judge(RULE, truth, np.linspace(0, 1, len(truth)), np.linspace(1, 0, len(truth)))
    assert not verdict.promote
    assert reason in verdict.reason
    assert (verdict.table[0].rows, verdict.table[0].low) == (len(truth), None)


def guarded() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The challenger is much better in A, and worse in B."""
    truth = truth_of(4_000)
    segment = np.where(np.arange(4_000) % 4 == 0, "B", "A")
    champion = np.where(segment == "A", score(truth, 0.3), score(truth, 3.0))
    challenger = np.where(segment == "A", score(truth, 3.0), score(truth, 1.0))
    return truth, segment, champion, challenger


def test_a_guarded_segment_that_gets_worse_refuses() -> None:
    truth, segment, champion, challenger = guarded()
    assert judge(RULE, truth, champion, challenger, {"origin": segment}).promote
    rule = PromotionPlan(1, 0.95, no_worse_in=("origin",))
    verdict = judge(rule, truth, champion, challenger, {"origin": segment})
    assert not verdict.promote
    assert "but worse in origin=B AP -" in verdict.reason
    assert "origin=A" not in verdict.reason
    assert [row.segment for row in verdict.table] == ["", "origin=A", "origin=B"]


def test_a_small_segment_is_shown_and_not_judged() -> None:
    truth, _, champion, challenger = guarded()
    tiny = np.where(np.arange(4_000) < 50, "tiny", "rest")
    verdict = judge(PromotionPlan(1, 0.95, ("size",)), truth, champion, challenger, {"size": tiny})
    assert verdict.promote
    shown = {row.segment: row for row in verdict.table}
    assert (shown["size=tiny"].rows, shown["size=tiny"].low) == (50, None)
    assert shown["size=rest"].low is not None


def test_losses_count_the_other_way() -> None:
    truth = truth_of()
    sharp, blunt = np.where(truth, 0.6, 0.1), np.full(2_000, 0.2)
    verdict = judge(RULE, truth, blunt, sharp, metric="brier")
    assert verdict.promote
    assert verdict.table[0].champion > verdict.table[0].challenger
    assert verdict.reason.startswith("Brier +0.")


def test_the_same_inputs_give_the_same_verdict() -> None:
    truth = truth_of()
    arguments = (RULE, truth, score(truth, 1.0), score(truth, 1.2, seed=5))
    assert judge(*arguments, seed=3) == judge(*arguments, seed=3)


def test_bad_input_is_named() -> None:
    truth = truth_of(200)
    good, bad = score(truth, 1.0), np.where(np.arange(200) < 3, np.nan, 0.5)
    with pytest.raises(TrainingError, match="3 of 200 scores of the challenger are null"):
        judge(RULE, truth, good, bad)
    with pytest.raises(TrainingError, match="200 truths, 199 champion and 200 challenger"):
        judge(RULE, truth, good[1:], good)
    with pytest.raises(ConfigError, match=r'guards "origin".*there are: carrier'):
        judge(PromotionPlan(1, 0.9, ("origin",)), truth, good, good, {"carrier": truth})
