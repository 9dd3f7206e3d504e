"""A model goes on answering with the features that it was trained on, whatever the definitions say since."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from headrace.app.project import Project
from headrace.core.errors import PlanError
from headrace.core.time import SimulatedClock, to_us
from headrace.engines.stream.commits import WINDOWS, decode_commit
from headrace.features.plan_json import functions_of, plan_from_json, plan_to_json
from tests.e2e.shop import orders, outcomes, write_shop
from tests.unit.app.conftest import NOON

ASKED = {"order_id": "asked", "user": "u1", "amount": 60.0, "at": NOON.isoformat()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shop whose model answers with its first version."""
    folder = write_shop(tmp_path / "shop")
    with opened(folder) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        model = project.model("risk")
        model.promote(model.train(), why="the first one")
    return folder


def opened(folder: Path) -> Project:
    return Project.open(folder, clock=SimulatedClock(to_us(NOON)))


def edit(folder: Path, *changes: tuple[str, str]) -> str:
    file = folder / "features.py"
    text = before = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    # The length of a file tells whether its compiled form is fresh.
    file.write_text(text + "\n" * (1 + max(len(before) - len(text), 0)))
    return before


WINDOWS_EDITED = (('window=["1h", "7d"]', 'window=["2h", "8d"]'), ("7d", "8d"))


@pytest.fixture
def edited(folder: Path) -> Iterator[Project]:
    """The shop after an edit of every feature that the champion reads, applied."""
    edit(folder, *WINDOWS_EDITED)
    with opened(folder) as project:
        plan = project.plan()
        assert [(n.model, n.number, n.lost) for n in plan.needs] == [("risk", 1, "")]
        assert "model risk stays on version 1, whose features stay computed" in str(plan)
        assert plan.dropped == ()
        project.apply(plan)
        yield project


def test_the_champion_answers_with_the_features_it_was_trained_on(folder: Path, edited: Project) -> None:
    model = edited.model("risk")
    edited.publish("order", orders(20, NOON - timedelta(seconds=5), start=400, users=2, step_s=1))
    answer = model.score(ASKED)
    assert answer.version == 1
    assert answer.features["spend__n_7d"] > 16
    assert answer.features["spend__n_1h"] == 10
    found = edited.audit(answer.id)
    assert (found.equal, found.audit.checked) == (True, len(answer.features))
    assert model.audit().checked == len(answer.features)
    from headrace.app.archives import PredictionArchive, predictions_table

    archive = PredictionArchive(edited.parts)
    while archive.step():
        pass
    archived = edited.parts.offline.scan(predictions_table("risk"))
    assert archived["f.spend__n_7d"].to_pylist() == [answer.features["spend__n_7d"]]
    assert edited.describe("spend.n_8d").models == ["risk (version 1, on features of a former version)"]
    # The definitions of now are there beside it.
    assert edited.online("order", ASKED)["spend__n_2h"] == 10
    last = edited.parts.features.last(WINDOWS, 0)
    assert last is not None
    versions = {group.version for group in edited.parts.plan.computed_groups}
    assert set(decode_commit(last.payload).groups) == versions
    assert len(versions) == 2


def test_a_new_version_is_judged_beside_it_and_can_be_rolled_back(edited: Project) -> None:
    model = edited.model("risk")
    second = model.train()
    # The champion reads columns that the view of now has not, so it is judged on those of its own view.
    assert model.evaluate(second).table[0].rows > 0
    model.promote(second, why="its features are newer")
    assert set(model.score(ASKED).features) >= {"spend__n_2h"}
    # Version 1 can still be rolled back to, so another apply keeps what it needs.
    edited.apply()
    assert edited.parts.plan.kept_views
    model = edited.model("risk")
    model.rollback(why="alarm 17")
    assert model.score(ASKED).version == 1
    assert set(model.score(ASKED).features) >= {"spend__n_1h"}


def test_what_no_version_needs_any_more_is_computed_no_longer(folder: Path, edited: Project) -> None:
    model = edited.model("risk")
    for _ in range(2):
        model.promote(model.train(), why="newer")
    plan = edited.plan()
    assert (plan.needs, bool(plan)) == ((), False)
    edited.close()
    edit(
        folder, ("Something that a user buys.", "What a user buys."), ("hr.last(Order.amount)", "hr.max(Order.amount)")
    )
    with opened(folder) as project:
        plan = project.plan()
        assert len(plan.dropped) == 1
        project.apply(plan)
        assert len(project.parts.plan.kept_views) == 1
        assert {n.number for n in project.plan().needs} == {2, 3}


def test_definitions_that_come_back_need_no_backfill(folder: Path, edited: Project) -> None:
    edited.publish("order", orders(5, NOON - timedelta(seconds=5), start=400, users=1, step_s=1))
    edited.close()
    (folder / "features.py").write_text(write_shop(folder.parent / "again").joinpath("features.py").read_text())
    with opened(folder) as back:
        plan = back.plan()
        assert (plan.backfills, plan.needs) == ((), ())
        back.apply(plan)
        assert back.get("spend", user="u0", at=NOON).n["1h"] == 5
        assert back.model("risk").score(ASKED).version == 1


def test_what_cannot_be_kept_is_said_and_not_served(folder: Path) -> None:
    edit(folder, ("    age: hr.Field[int | None]", "    age: hr.Field[float | None]"))
    with opened(folder) as project:
        plan = project.plan()
        assert plan.needs[0].lost == "table profile has changed or is gone"
        assert "model risk version 1 cannot answer any more: table profile has changed" in str(plan)
        with pytest.raises(PlanError, match="apply with --abandon and train it again"):
            project.apply(plan)
        assert project.plan().changes == plan.changes
        project.apply(plan, abandon=True)
        with pytest.raises(PlanError, match="was trained on view order"):
            project.model("risk").score(ASKED)


def test_plans_travel_as_json(folder: Path) -> None:
    import json

    with opened(folder) as project:
        plan = project.definition_plan
        for part in (*plan.groups.values(), *plan.views.values()):
            assert plan_from_json(json.loads(json.dumps(plan_to_json(part))), functions_of(plan)) == part


def test_of_several_truths_of_a_request_the_latest_holds_whenever_they_come(edited: Project) -> None:
    from headrace.monitoring.truth import TruthTracker

    parts = edited.parts
    plan = parts.plan.models["risk"]
    asked = orders(4, NOON - timedelta(hours=2), start=600, users=2, step_s=1)
    edited.publish("order", asked)
    edited.model("risk").score(asked)

    def tell(truths: list[tuple[int, str, int, bool]]) -> None:
        edited.publish(
            "outcome",
            [
                {"outcome_id": name, "order": f"o{order}", "bad": bad, "at": NOON - timedelta(minutes=minutes)}
                for order, name, minutes, bad in truths
            ],
        )

    def told(tracker: TruthTracker) -> list[bool]:
        kept = next(iter(parts.plan.kept_views.values())).version
        tracker.update()
        return [bool(value) for _, labels, _, _ in tracker.window(-(2**62), 2**62, kept) for value in labels]

    tracker = TruthTracker(parts.plan, plan, parts.raw, parts.features, parts.internal)
    # The later one first; of one time the greater id, whichever comes first; before the request itself.
    tell([(600, "a", 10, True), (601, "b", 10, True), (602, "d", 10, True), (603, "e", 200, True)])
    assert told(tracker) == [True] * 4
    tell([(600, "f", 30, False), (601, "g", 5, False), (602, "c", 10, False)])
    assert told(tracker) == [True, False, True, True]
    again = TruthTracker(parts.plan, plan, parts.raw, parts.features, parts.internal)
    tell([(600, "h", 20, False), (602, "B", 10, False)])
    assert told(again) == [True, False, True, True]
    rows = edited.history("risk", since=NOON - timedelta(hours=3))
    labels = dict(zip(rows["order_id"], rows["label"], strict=True))
    assert [labels[f"o{number}"] for number in range(600, 604)] == [True, False, True, True]


def test_truth_drift_and_training_follow_the_view_of_each_version(edited: Project) -> None:
    from headrace.monitoring.truth import TruthTracker
    from headrace.orchestration.retraining import RetrainingLoop
    from headrace.orchestration.watch import SkewWatch

    parts = edited.parts
    plan = parts.plan.models["risk"]
    model = edited.model("risk")

    def ask(first: int) -> list[dict[str, object]]:
        asked = orders(6, NOON - timedelta(seconds=900 - first), start=first, users=2, step_s=1)
        edited.publish("order", asked)
        model.score(asked)
        edited.publish("outcome", outcomes(asked))
        return asked

    def tracker() -> TruthTracker:
        found = TruthTracker(parts.plan, plan, parts.raw, parts.features, parts.internal)
        found.update()
        return found

    ask(400)
    truth = tracker()
    (kept,) = parts.plan.kept_views.values()
    assert truth.window(-(2**62), 2**62) == []
    ((batch, labels, known, _),) = truth.window(-(2**62), 2**62, kept.version)
    assert (len(batch), known.all()) == (6, True)
    assert labels.tolist() == [amount > 40 for amount in batch.request["amount"].to_pylist()]
    assert "spend__n_7d" in batch.features.names
    assert truth.first_us is None
    model.promote(model.train(), why="newer")
    later = ask(410)
    truth = tracker()
    assert truth.first_us == to_us(datetime.fromisoformat(str(later[0]["at"])))
    assert sum(len(b) for b, _, _, _ in truth.window(-(2**62), 2**62)) == 6
    # Recomputed before the first request that was scored on the declared view, as served from it on.
    loop = RetrainingLoop(parts.plan, plan, parts.past, parts.registry, parts.catalog, served=truth)
    data = loop.prepare(to_us(NOON) + 3_600_000_000, "asked for").data
    assert len(data) == 412
    assert len(set(data.request["order_id"].to_pylist())) == 412
    skew = SkewWatch(parts.plan, plan, parts.internal, parts.past, parts.catalog)
    total = skew.finish()
    assert (total.rows, total.differing) == (12, 0)
