"""A model trained on a named data set: the same bits as on history, weighed, recorded; refused where it cannot fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from headrace.app.datasets import difference, label_version
from headrace.app.models import ModelHandle, Version
from headrace.app.project import Project
from headrace.app.training_data import training_rows
from headrace.core.errors import ConfigError, NotFound, StoreError, TrainingError
from headrace.core.time import SimulatedClock, to_us
from headrace.registry.base import DatasetRef
from headrace.training.dataset import stood_for, training_set
from tests.e2e.shop import orders, outcomes, write_shop
from tests.unit.app.conftest import NOON


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Project]:
    """A shop with 400 orders and their outcomes."""
    with Project.open(write_shop(tmp_path / "shop"), clock=SimulatedClock(to_us(NOON))) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        yield project


def test_a_version_of_a_data_set_is_that_of_the_same_history(shop: Project) -> None:
    model = shop.model("risk")
    plain = model.train(NOON)
    data = shop.dataset("june", "risk", until=NOON)
    # What comes later changes history, not the data set.
    shop.publish("order", orders(3, NOON - timedelta(hours=3), step_s=7))
    named = model.train(data="june")
    assert named.snapshot.dataset == DatasetRef("june", 1, data.info.sha256)
    assert facts(named) == facts(plain)
    assert (named.metrics, plain.snapshot.dataset) == (plain.metrics, None)
    assert model.version(named.number) == named
    runs = shop.parts.catalog.runs("train risk")
    assert {run.detail.get("dataset") for run in runs} == {None, "data set june version 1"}


def facts(version: Version) -> dict[str, object]:
    """What it was trained on, but for how that was named."""
    names = ("rows", "positives", "since_us", "until_us", "dataset_hash", "as_of")
    return {name: getattr(version.snapshot, name) for name in names}


def test_the_rows_are_those_of_history_to_the_bit(shop: Project) -> None:
    parts, now_us = shop.parts, to_us(NOON)
    plan = parts.plan.models["risk"]
    rows, named = training_rows(parts, plan, shop.dataset("june", "risk", until=NOON))
    wanted = training_set(parts.plan, plan, parts.past, until_us=now_us, now_us=now_us)
    assert named.version == 1
    assert np.array_equal(rows.block.words, wanted.block.words)
    assert np.array_equal(rows.block.valid, wanted.block.valid)
    assert (rows.block.names, rows.block.dtypes) == (wanted.block.names, wanted.block.dtypes)
    assert rows.block.to_pydict() == wanted.block.to_pydict()
    assert np.array_equal(rows.labels, wanted.labels)
    assert np.array_equal(rows.t_us, wanted.t_us)
    assert rows.request.keys() == wanted.request.keys()


def test_weights_for_an_estimator_that_takes_none_are_refused(shop: Project) -> None:
    shop.dataset("few", "risk", until=NOON, negatives=0.5, seed=3)
    with pytest.raises(TrainingError, match=r"the rows have weights, and <features\.Limit .*> takes none"):
        shop.model("risk").train(data="few")


def test_sampled_rows_stand_for_those_that_were_left_out(shop: Project) -> None:
    risk = shop.parts.plan.models["risk"]
    handle = ModelHandle(shop.parts, replace(risk, estimator=DecisionTreeClassifier(max_depth=2)))
    whole = handle.train(NOON)
    shop.dataset("few", "risk", until=NOON, negatives=0.5, seed=3)
    few = handle.train(data="few")
    assert few.snapshot.rows < whole.snapshot.rows
    rows, _ = training_rows(shop.parts, risk, shop.dataset("few"))
    assert rows.weights is not None
    assert set(rows.weights[rows.labels == 1]) == {1.0}
    assert rows.weights.sum() == pytest.approx(400)
    # Drift is measured from the rows as they come, not from what the sample is made of.
    profile = shop.parts.registry.get("risk", few.number).info.profile
    assert profile is not None
    early = rows.t_us < few.snapshot.until_us
    assert abs(profile.rows - rows.weights[early].sum()) < 1
    assert profile.rows > 2 * few.snapshot.rows


def test_rows_stand_for_as_many_as_they_weigh() -> None:
    assert stood_for(np.array([1.0, 2.0, 1.0])).tolist() == [0, 1, 1, 2]
    assert len(stood_for(np.full(30, 4.3))) == 129
    assert set(np.bincount(stood_for(np.full(30, 4.3))).tolist()) == {4, 5}


def test_a_version_of_a_data_set_is_named(shop: Project) -> None:
    model = shop.model("risk")
    shop.dataset("june", "risk", until=NOON)
    shop.dataset("june", "risk", until=NOON - timedelta(days=1))
    assert model.train(data="june").snapshot.dataset.version == 2  # type: ignore[union-attr]
    first = model.train(data="june@1").snapshot.dataset
    assert first is not None
    assert first.version == 1
    assert model.train(data=shop.dataset("june", version=1)).snapshot.dataset == first
    with pytest.raises(NotFound, match="no version 3; it has 1, 2"):
        model.train(data="june@3")
    with pytest.raises(NotFound, match="did you mean june"):
        model.train(data="jun")
    with pytest.raises(ConfigError, match="june@2"):
        model.train(data="june@new")
    with pytest.raises(ConfigError, match="until when"):
        model.train(NOON, data="june")


def test_rows_of_something_else_or_of_former_definitions_are_refused(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        past = orders(400, NOON - timedelta(hours=2), step_s=1000)
        project.publish("order", past)
        project.publish("outcome", outcomes(past))
        project.dataset("june", "risk", until=NOON)
        project.dataset("seen", "order", until=NOON)
        with pytest.raises(TrainingError, match="it holds rows of view order; make it again: headrace dataset seen"):
            project.model("risk").train(data="seen")
        assert [run.status for run in project.parts.catalog.runs("train risk")] == ["refused"]
    features = folder / "features.py"
    text = features.read_text(encoding="utf-8")
    features.write_text(text.replace('hr.count(window=["1h", "7d"])', 'hr.count(window=["1h", "7d", "2d"])'), "utf-8")
    with Project.open(folder, clock=SimulatedClock(to_us(NOON))) as project:
        project.apply(project.plan())
        with pytest.raises(TrainingError, match=r"read with view order \w+, and the project has \w+ \(spend changed\)"):
            project.model("risk").train(data="june")
        assert project.model("risk").versions() == []


def test_another_label_is_a_difference_and_another_query(shop: Project) -> None:
    plan, query = shop.parts.plan, shop.dataset("june", "risk", until=NOON).info.query
    risk = plan.models["risk"]
    later = replace(risk, label=replace(risk.label, wait_us=risk.label.wait_us + 1))
    assert label_version(plan, later) != label_version(plan, risk) == query.label
    assert difference(query, shop.datasets.query_now(risk, query)) == ""
    assert difference(query, shop.datasets.query_now(later, query)) == "the label of model risk has changed"


def test_a_file_that_was_touched_trains_nothing(shop: Project) -> None:
    data = shop.dataset("june", "risk", until=NOON)
    data.file.write_bytes(b"other")
    with pytest.raises(StoreError, match="not what was stored"):
        shop.model("risk").train(data="june")
    assert [run.status for run in shop.parts.catalog.runs("train risk")] == ["failed"]
