"""`project.replay`: a project's own archive through the whole loop, in a scratch copy."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.app.project import Project
from headrace.core.errors import ConfigError, PlanError
from tests.e2e.shop import now, orders, outcomes, write_shop


def loop_shop(folder: Path) -> Path:
    """The shop without the table that is fed by put, retraining every two days."""
    shop = write_shop(folder)
    features = shop / "features.py"
    text = features.read_text().replace("Profile.age, ", "")
    features.write_text(text.replace("label=hr.Label", 'retrain=[hr.Every("2d")],\n    label=hr.Label'))
    return shop


def told(project: Project) -> dict[str, Any]:
    """What `status` says, but for how long ago things were."""
    found = project.status().to_dict()
    return found | {"groups": [{**group, "age_us": None} for group in found["groups"]]}


@pytest.mark.slow
def test_the_archive_is_replayed_and_the_project_stays_as_it_is(tmp_path: Path) -> None:
    with hr.connect(loop_shop(tmp_path / "shop")) as project:
        past = orders(1_000, now() - timedelta(days=10), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        before = told(project)
        seen: list[int] = []
        found = project.replay("risk", progress=lambda at: seen.append(at.now_us))
        assert found.events == 2_000
        assert 300 < found.scored < 1_000
        assert (found.values_differing, found.values_checked) == (0, 8 * found.scored)
        assert [r["trigger"] for r in found.retrainings][:2] == ["first version", "schedule"]
        assert found.promotions == 1
        assert sum(month.rows for month in found.months) > 0
        assert seen == sorted(seen)
        assert "0 of" in str(found)
        assert told(project) == before
        assert not list(project.settings.state.glob("replay-*"))


DERIVED = """
class Again(Order, where=Order.amount > 0.0):
    before = Spend.n["7d"]


class Habit(hr.FeatureGroup, key=Again.user):
    mean = hr.mean(Again.before, window="7d")
    part = mean / Spend.n["7d"]


class Seen(hr.FeatureGroup, key=Again.order_id):
    n = hr.count()


class Checked(Outcome, where=Seen.n > 0):
    seen = Seen.n


view = hr.FeatureView("order", request=Order, features=[Spend, Habit, Order.amount])
"""


@pytest.mark.slow
def test_streams_that_look_something_up_are_derived_in_the_replay(tmp_path: Path) -> None:
    folder = loop_shop(tmp_path / "shop")
    definitions, model = (folder / "features.py").read_text().split("view = hr.FeatureView")
    model = model.split("risk = hr.Model")[1].replace("Outcome.bad", "Checked.bad")
    (folder / "features.py").write_text(definitions + DERIVED + "\nrisk = hr.Model" + model)
    with hr.connect(folder) as project:
        past = orders(1_000, now() - timedelta(days=10), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        found = project.replay("risk")
        assert found.events == 2_000
        assert 300 < found.scored < 1_000
        assert (found.values_differing, found.values_checked) == (0, 9 * found.scored)
        # Orders of nothing are in no derived stream, so their truth is none.
        worth = sum(order["amount"] > 0 for order in past[-found.scored :])
        assert worth - 5 <= sum(month.rows for month in found.months) <= worth


def test_what_cannot_be_replayed_is_said(tmp_path: Path) -> None:
    with hr.connect(write_shop(tmp_path / "put")) as project, pytest.raises(PlanError, match="fed by put"):
        project.replay("risk")
    behind = loop_shop(tmp_path / "behind")
    text = (behind / "features.py").read_text()
    looked_up = "class Aged(Order):\n    age = Profile.age\n\n\nclass ByAge(hr.FeatureGroup, key=Aged.user):\n"
    looked_up += "    mean = hr.mean(Aged.age)\n\n\nview ="
    (behind / "features.py").write_text(
        text.replace("view =", looked_up, 1).replace("features=[Spend", "features=[ByAge, Spend")
    )
    with hr.connect(behind) as project, pytest.raises(PlanError, match="fed by put"):
        project.replay("risk")
    with hr.connect(loop_shop(tmp_path / "empty")) as project, pytest.raises(ConfigError, match="nothing to replay"):
        project.replay("risk")


@pytest.mark.slow
def test_a_replay_that_begins_before_any_truth_is_known_says_so(tmp_path: Path) -> None:
    folder = loop_shop(tmp_path / "shop")
    features = folder / "features.py"
    features.write_text(features.read_text().replace('wait="1h"', 'wait="30d"'))
    with hr.connect(folder) as project:
        project.publish("order", orders(300, now() - timedelta(days=10), step_s=2_000))
        with pytest.raises(ConfigError, match=r"no version of model risk could be trained .*from a later time"):
            project.replay("risk")


@pytest.mark.slow
def test_a_scheduled_group_is_run_by_simulated_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.app import scheduled

    folder = loop_shop(tmp_path / "shop")
    (folder / "headrace.toml").write_text('sync = false\n[groups.spend]\nrun = "6h"\n', encoding="utf-8")
    runs: list[int] = []
    run_group = scheduled.run_group

    def counted(*arguments: Any) -> int:
        runs.append(run_group(*arguments))
        return runs[-1]

    monkeypatch.setattr(scheduled, "run_group", counted)
    with hr.connect(folder) as project:
        past = orders(600, now() - timedelta(days=10), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        found = project.replay("risk")
        assert (found.events, found.values_differing) == (1_200, 0)
        assert found.values_checked == 8 * found.scored > 0
        # 600 orders in seven days, some 21 or 22 in six hours.
        assert sum(runs) > 550
        assert max(runs) <= 22
