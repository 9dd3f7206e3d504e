"""The data of a report: what it sums up, what it refuses, and that JSON keeps all of it."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.console.report_data import (
    CalibrationBin,
    DecisionMark,
    DriftMap,
    Histogram,
    MonthAccuracy,
    ReportData,
    StreamCounts,
    calibrate,
    kind_of,
)
from headrace.core.errors import SchemaError
from tests.unit.console.samples import full, minimal


@pytest.mark.parametrize("data", [full(), minimal()], ids=["full", "minimal"])
def test_json_keeps_everything(data: ReportData) -> None:
    assert ReportData.from_json(data.to_json()) == data


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (
            '{"project": "p", "model": "m", "latency": {"edges": [0, "x"], "counts": [1], "p50": 0, "p99": 1}}',
            "$.latency",
        ),
        ('{"project": "p", "model": "m", "latency": {"edges": [0], "counts": [1], "p50": 0, "p99": 1}}', "2 edges"),
        ('{"project": "p", "model": "m", "pages": 3}', "pages"),
        ('{"project": "p"}', "model"),
        ('{"project": "p", ', "truncated"),
    ],
)
def test_json_that_is_no_report_is_refused_by_place(text: str, place: str) -> None:
    with pytest.raises(SchemaError) as caught:
        ReportData.from_json(text)
    assert place in str(caught.value)


def test_months_count_as_won_only_where_the_loop_is_better() -> None:
    pairs = [(0.3, 0.4), (0.3, 0.3), (0.4, 0.3), (None, 0.9), (0.1, None)]
    months = tuple(MonthAccuracy(f"2013-0{i}", 10, 2, frozen, looped) for i, (frozen, looped) in enumerate(pairs, 2))
    data = ReportData(project="p", model="m", months=months)
    assert (data.months_won, len(data.judged_months)) == (1, 3)


def test_the_first_version_is_neither_a_promotion_nor_a_retraining() -> None:
    marks = (
        DecisionMark(1, "first", 1, None, True, ""),
        DecisionMark(2, "drift: a, b and 3 more", 2, 1, True, ""),
        DecisionMark(3, "drift: c", 3, 2, False, ""),
        DecisionMark(4, "schedule", 4, 2, False, ""),
    )
    data = ReportData(project="p", model="m", decisions=marks)
    assert [mark.challenger for mark in data.promotions] == [2]
    assert [mark.challenger for mark in data.refusals] == [3, 4]
    assert data.retrainings_by_kind == {"drift": 2, "schedule": 1}


def test_declared_retrainings_go_before_counted_ones() -> None:
    data = ReportData(
        project="p", model="m", decisions=(DecisionMark(2, "drift: a", 2, 1, True, ""),), retrainings={"x": 1, "y": 4}
    )
    assert list(data.retrainings_by_kind.items()) == [("y", 4), ("x", 1)]


def test_dead_letters_are_summed_over_streams() -> None:
    streams = (StreamCounts("a", 10, dead_letters={"x": 1, "y": 5}), StreamCounts("b", 20, dead_letters={"x": 7}))
    data = ReportData(project="p", model="m", streams=streams)
    assert list(data.dead_letters.items()) == [("x", 8), ("y", 5)]
    assert data.total_events == 30
    assert ReportData(project="p", model="m", streams=streams, events=31).total_events == 31


def test_drift_map_keeps_the_farthest_rows() -> None:
    drift = DriftMap((0, 1), ("low", "none", "high", "mid"), ((0.1, 0.1), (None, None), (0.0, 0.9), (0.5, None)), 0.2)
    top = drift.top(3)
    assert top.features == ("high", "mid", "low")
    assert top.psi == ((0.0, 0.9), (0.5, None), (0.1, 0.1))
    assert top.week_starts_us == drift.week_starts_us


@pytest.mark.parametrize(("psi", "score"), [(((1.0,),), ()), (((1.0, 1.0), (1.0, 1.0)), ()), (((1.0, 1.0),), (0.1,))])
def test_drift_map_of_another_shape_is_refused(psi: tuple[tuple[float, ...], ...], score: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must have"):
        DriftMap((0, 1), ("a",), psi, 0.2, score)


def test_histogram_counts_every_value_and_keeps_its_tail() -> None:
    values = np.concatenate([np.linspace(0.0, 10.0, 9_999), [1e6]])
    found = Histogram.of(values, bins=20)
    assert sum(found.counts) == len(values)
    assert len(found.counts) == 20
    assert found.edges[0] == 0.0
    assert found.edges[-1] < 11, "one outlier must not flatten the rest"
    assert found.p50 == pytest.approx(5.0, abs=0.01)


def test_histogram_of_zeros_has_a_width() -> None:
    found = Histogram.of(np.zeros(5), bins=4)
    assert found.edges[-1] > 0
    assert found.counts == (5, 0, 0, 0)


def test_calibration_bins_hold_equal_parts_in_order() -> None:
    scores = np.array([0.9, 0.1, 0.8, 0.2])
    assert calibrate(np.array([1, 0, 1, 1]), scores, bins=2) == (
        CalibrationBin(pytest.approx(0.15), 0.5, 2),
        CalibrationBin(pytest.approx(0.85), 1.0, 2),
    )
    assert len(calibrate(np.array([1]), np.array([0.5]), bins=10)) == 1


def test_kind_of_a_trigger() -> None:
    assert [kind_of(text) for text in ("drift: a: b", "schedule", " decay ")] == ["drift", "schedule", "decay"]
