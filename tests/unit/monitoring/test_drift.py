"""Drift is found where values moved, and nowhere else."""

from __future__ import annotations

import numpy as np

from headrace.core.schema import DType, Field, Schema
from headrace.features.plan import ViewColumn, ViewPlan
from headrace.monitoring.drift import find_drift, watched_columns
from headrace.registry.profile import profile_block
from headrace.retrieval.rows import FeatureBlock
from tests.unit.training.blocks import block_of


def rows(count: int, seed: int, shift: float = 0.0) -> FeatureBlock:
    generator = np.random.default_rng(seed)
    return block_of(
        moved=(DType.FLOAT, (generator.normal(size=count) + shift).tolist()),
        farther=(DType.FLOAT, (generator.normal(size=count) + 3 * shift).tolist()),
        still=(DType.FLOAT, generator.normal(size=count).tolist()),
        hour=(DType.INT, (generator.integers(0, 5, count) + int(10 * shift)).tolist()),
        at=(DType.TIMESTAMP, (np.arange(count) + int(1e6 * shift)).tolist()),
    )


PROFILE = profile_block(rows(5_000, seed=1), np.random.default_rng(9).random(5_000))
WATCHED = ("moved", "farther", "still", "at")


def test_moved_columns_are_named_farthest_first_and_calendar_is_not() -> None:
    drift = find_drift(PROFILE, rows(1_000, seed=2, shift=1.0), WATCHED)
    assert drift.drifted
    assert drift.over == ("farther", "moved")
    assert set(drift.psi) == {"moved", "farther", "still"}
    assert drift.in_words.startswith("2 of 3 columns above PSI 0.2: farther ")


def test_the_same_distribution_is_no_drift() -> None:
    drift = find_drift(PROFILE, rows(1_000, seed=3), WATCHED, np.random.default_rng(4).random(1_000))
    assert not drift.drifted
    assert drift.over == ()
    assert max(drift.psi.values()) < 0.05
    assert drift.score_psi is not None
    assert drift.score_psi < 0.05
    assert drift.in_words == f"0 of 3 columns above PSI 0.2; score {drift.score_psi:.2f}"


def test_scores_alone_can_drift() -> None:
    drift = find_drift(PROFILE, rows(1_000, seed=3), WATCHED, 0.5 * np.random.default_rng(4).random(1_000))
    assert drift.over == ()
    assert drift.drifted


def test_too_few_rows_tell_nothing() -> None:
    drift = find_drift(PROFILE, rows(499, seed=2, shift=5.0), WATCHED)
    assert (drift.enough, drift.drifted, drift.psi) == (False, False, {})
    assert drift.in_words == "too few rows to tell: 499"
    assert find_drift(PROFILE, rows(499, seed=2, shift=5.0), WATCHED, min_rows=499).drifted


def test_the_threshold_is_the_callers() -> None:
    block = rows(1_000, seed=2, shift=1.0)
    value = find_drift(PROFILE, block, WATCHED).psi["moved"]
    assert find_drift(PROFILE, block, WATCHED, threshold=value).over == ("farther",)


def test_watched_are_visible_columns_that_are_no_calendar() -> None:
    columns = (
        ViewColumn("n", DType.INT, "feature", 0, "n"),
        ViewColumn("hour", DType.INT, "computed", calendar=True),
        ViewColumn("helper", DType.FLOAT, "feature", 0, "h", hidden=True),
        ViewColumn("ratio", DType.FLOAT, "computed"),
    )
    request = Schema("Flight", (Field("at", DType.TIMESTAMP),), "at")
    assert watched_columns(ViewPlan("v", "1", "Flight", request, (), columns)) == ("n", "ratio")
