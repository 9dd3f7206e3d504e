"""Models in Python: trained, judged, promoted, rolled back, scored and audited."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from headrace.app.project import Project
from headrace.core.errors import NotFound, PlanError, SchemaError, TrainingError
from headrace.core.time import SimulatedClock, to_us
from headrace.serving.split import Split
from tests.e2e.shop import orders, outcomes, write_shop
from tests.unit.app.conftest import NOON


def test_a_version_says_what_it_was_trained_on(trained: Project) -> None:
    model = trained.model("risk")
    first, second = model.versions()[:2]
    assert (first.number, second.number) == (1, 2)
    assert first.snapshot.rows > 100
    assert first.snapshot.dataset_hash == second.snapshot.dataset_hash
    assert 0 < first.metrics["average_precision"] <= 1
    assert set(first.feature_versions) == {"spend", "profile"}
    runs = trained.parts.catalog.runs("train risk")
    assert [run.status for run in runs] == ["done", "done"]


def test_the_champion_answers_and_its_answer_can_be_audited(trained: Project) -> None:
    model = trained.model("risk")
    answer = model.score({"order_id": "s1", "user": "u1", "amount": 60.0})
    assert answer.version == model.champion == 1
    assert answer.value > 0.5
    assert answer.degraded == ()
    assert answer.position.streams["order"] == [400]
    found = trained.audit(answer.id)
    assert found.equal
    assert (found.model, found.version, found.value) == ("risk", 1, answer.value)
    assert found.audit.checked == 9
    assert "9 of 9 values equal as served" in str(found)
    with pytest.raises(NotFound, match="no prediction"):
        trained.audit("p-none-0")


def test_many_requests_are_scored_in_one_call(trained: Project) -> None:
    answers = trained.model("risk").score(
        [{"order_id": f"m{i}", "user": f"u{i}", "amount": float(i % 7 * 10)} for i in range(10)]
    )
    assert [answer.value > 0.5 for answer in answers] == [i % 7 * 10 > 40 for i in range(10)]
    assert len({answer.id for answer in answers}) == 10
    rows = trained.history("risk", served=True)
    assert {answer.id for answer in answers} <= set(rows["prediction_id"])
    assert rows["label"].count(None) == len(rows)


def test_a_prediction_that_is_not_logged_leaves_no_trace(trained: Project) -> None:
    before = trained.status().predictions
    answer = trained.model("risk").score({"order_id": "n1", "user": "u1", "amount": 60.0}, log=False)
    assert trained.status().predictions == before
    with pytest.raises(NotFound):
        trained.audit(answer.id)


def test_bad_requests_and_unknown_models_are_named(trained: Project) -> None:
    with pytest.raises(SchemaError, match='"amount"'):
        trained.model("risk").score({"order_id": "b1", "user": "u1", "amount": "x"})
    with pytest.raises(NotFound, match="risk"):
        trained.model("fraud")
    answer = trained.model("risk").score({"order_id": "c1", "user": "u1", "amount": 1.0}, log=False)
    with pytest.raises(PlanError, match="LightGBM"):
        trained.model("risk").contributions(answer)


def test_promotion_and_rollback_are_kept_with_their_reasons(trained: Project) -> None:
    model = trained.model("risk")
    moved = model.promote(2, why="on trial", to="shadow")
    assert (moved.alias, moved.number) == ("shadow", 2)
    assert model.promote(2, why="better").previous == 1
    assert model.champion == 2
    back = model.rollback(why="alarm 17")
    assert (back.previous, back.number, model.champion) == (2, 1, 1)
    history = trained.parts.registry.alias_history("risk", "champion")
    assert [change.why for change in history][-2:] == ["better", "alarm 17"]
    with pytest.raises(PlanError, match='not to "king"'):
        model.promote(1, why="x", to="king")
    with pytest.raises(NotFound):
        model.promote(99, why="x")


def test_a_canary_answers_a_share_until_it_is_taken_back(trained: Project) -> None:
    model = trained.model("risk")
    requests = [{"order_id": f"k{i}", "user": f"u{i}", "amount": float(i % 7 * 10)} for i in range(40)]
    moved = model.promote(2, why="try", to="canary", share=0.4)
    assert (moved.alias, moved.previous, moved.number, model.champion) == ("canary", None, 2, 1)
    assert model.canary == Split(2, 0.4)
    assert "champion 1, canary 2 answers 40 % of requests" in str(trained.status())
    answers = model.score(requests)
    versions = [answer.version for answer in answers]
    assert set(versions) == {1, 2}
    assert [answer.value > 0.5 for answer in answers] == [i % 7 * 10 > 40 for i in range(40)]
    served = trained.history("risk", served=True)
    logged = dict(zip(served["prediction_id"], served["version"], strict=True))
    assert [logged[answer.id] for answer in answers] == versions
    found = trained.audit(next(answer.id for answer in answers if answer.version == 2))
    assert (found.version, found.equal) == (2, True)
    with Project.open(trained.settings.folder, clock=trained.clock) as again:
        assert [answer.version for answer in again.model("risk").score(requests)] == versions
    taken = model.rollback(why="alarm")
    assert (taken.alias, taken.previous, taken.number, model.champion) == ("canary", 2, None, 1)
    assert {answer.version for answer in model.score(requests)} == {1}
    assert model.canary is None


def test_who_may_be_a_canary(trained: Project) -> None:
    model = trained.model("risk")
    for wrong, told in (
        ({"share": 1.5}, "a share of requests between 0 and 1"),
        ({"by": "town"}, 'no field "town"; they have order_id, user'),
    ):
        with pytest.raises(PlanError, match=told):
            model.promote(2, why="x", to="canary", **wrong)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="version 1 is the champion"):
        model.promote(1, why="x", to="canary")
    with pytest.raises(PlanError, match='give to="canary"'):
        model.promote(2, why="x", share=0.1)


def test_rollback_needs_a_former_champion(shop: Project) -> None:
    with pytest.raises(NotFound, match="nothing to go back to"):
        shop.model("risk").rollback(why="x")


def test_judging_needs_truth_that_neither_version_has_seen(trained: Project) -> None:
    model = trained.model("risk")
    assert not model.evaluate(1).promote
    verdict = model.evaluate(2)
    assert not verdict.promote
    assert verdict.table[0].challenger == verdict.table[0].champion
    with pytest.raises(TrainingError, match="no request after"):
        model.evaluate(2, until=NOON - timedelta(days=30))


def test_training_without_truth_is_refused_and_recorded(shop: Project) -> None:
    shop.apply()
    with pytest.raises(TrainingError):
        shop.model("risk").train()
    assert [run.status for run in shop.parts.catalog.runs("train risk")] == ["refused"]
    with pytest.raises(NotFound, match="headrace train risk"):
        shop.model("risk").evaluate()


def test_lightgbm_says_what_moved_an_answer(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    features = folder / "features.py"
    text = features.read_text().replace("estimator=Limit()", "estimator=LGBMClassifier(n_estimators=5, n_jobs=1)")
    features.write_text(
        text.replace("import numpy as np\n", "import numpy as np\nfrom lightgbm import LGBMClassifier\n")
    )
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        model = project.model("risk")
        model.promote(model.train(), why="the first one")
        high, low = model.score([{"order_id": f"e{a}", "user": "u1", "amount": a} for a in (60.0, 0.0)])
        shares = [model.contributions(answer) for answer in (high, low)]
        assert shares[0]["amount"] > 0 > shares[1]["amount"]
        assert max(shares[0], key=lambda name: abs(shares[0][name])) == "amount"
