"""Data of a report, made up: a year of flights in the shape that the demo gives it."""

from __future__ import annotations

import numpy as np

from headrace.console.report_data import (
    AlertMark,
    AuditSummary,
    CheckFailure,
    DecisionMark,
    DriftMap,
    ExplainedPrediction,
    ExplainedValue,
    Histogram,
    Importance,
    MonthAccuracy,
    MonthSpeed,
    ReportData,
    StreamCounts,
    WeekAccuracy,
    calibrate,
)
from headrace.core.time import US_PER_DAY, US_PER_HOUR, parse_time

START = parse_time("2013-02-01")
END = parse_time("2014-01-01")
MONTHS = tuple(f"2013-{month:02d}" for month in range(2, 13))
PER_MONTH = (24_951, 28_834, 28_330, 28_796, 28_243, 29_425, 29_327, 27_574, 28_889, 27_268, 28_135)
SHARES = (0.138, 0.147, 0.174, 0.149, 0.213, 0.221, 0.144, 0.093, 0.101, 0.099, 0.186)
WINDOWED = (
    ("by_carrier", ("n", "delay", "worst", "late"), ("3h", "1d", "7d")),
    ("by_origin", ("n", "delay", "worst", "late"), ("30m", "2h", "1d")),
    ("carrier_at_origin", ("n", "delay"), ("2h", "1d", "7d")),
    ("route", ("delay", "late"), ("1d", "7d", "28d")),
)
FEATURES = (
    *(f"{group}__{name}_{window}" for group, names, windows in WINDOWED for name in names for window in windows),
    *("incoming__last", "incoming__legs_12h", "origin__weather__wind_speed", "dest__weather__visib", "plane__built"),
)


def full() -> ReportData:
    """Every section has data."""
    rng = np.random.default_rng(7)
    weeks = tuple(range(START, END, 7 * US_PER_DAY))
    season = 0.5 + 0.5 * np.sin(np.linspace(-0.6, 5.9, len(weeks)))
    scores = rng.beta(1.2, 5.5, 40_000)
    return ReportData(
        project="flights",
        model="late_flight",
        question="An hour before its scheduled departure: how likely is a flight to arrive over 30 minutes late?",
        period_start_us=parse_time("2013-01-01"),
        period_end_us=parse_time("2013-12-31T23:59:00Z"),
        streams=(
            StreamCounts("Flight", 336_776, 3_368, 6_735, {"malformed": 214, "wrong type": 61, "far future": 40}),
            StreamCounts(
                "Departure", 331_802, 3_301, 6_611, {"malformed": 198, "wrong type": 72, "unknown stream": 31}
            ),
            StreamCounts("Arrival", 330_627, 3_288, 6_590, {"malformed": 188, "wrong type": 57, "null key": 22}),
        ),
        predictions=311_602,
        features_served=19_942_528,
        audit=AuditSummary(19_942_528, 0),
        months=_months(),
        weeks=_weeks(weeks, season, rng),
        decisions=_decisions(rng),
        retrainings={"schedule": 31, "drift": 14, "decay": 3},
        drift=_drift(weeks, season, rng),
        freshness=Histogram.of(rng.gamma(3.0, 6.0, 50_000).clip(0, 58)),
        latency=Histogram.of(rng.lognormal(0.9, 0.35, 20_000)),
        speed=tuple(
            MonthSpeed(month, 3 * rows, 3 * rows / rate)
            for month, rows, rate in zip(MONTHS, PER_MONTH, rng.normal(9_200, 700, 11).tolist(), strict=True)
        ),
        peak_memory_mb=1_312.4,
        seconds=127.3,
        check_failures=(
            CheckFailure(
                parse_time("2013-02-12T08:00:00Z"),
                "weather",
                'InRange("wind_speed", min=0, max=150)',
                "1,048 mph",
                "0 to 150 mph",
                column="wind_speed",
                note="The row is in the real file; a gust of that speed would have been three times that of a tornado.",
            ),
        ),
        alerts=_alerts(rng),
        importances=tuple(
            Importance(name, float(share))
            for name, share in zip(
                rng.permutation(FEATURES).tolist(), rng.dirichlet(np.full(len(FEATURES), 0.3)), strict=True
            )
        ),
        calibration=calibrate(rng.random(len(scores)) < scores**1.06, scores),
        explained=_explained(),
        params={"seed": 7, "micro-batch": "60 s", "late": "2 %", "duplicated": "1 %", "malformed": "0.1 %"},
        versions={"headrace": "0.1.0", "python": "3.11.9", "lightgbm": "4.6.0", "numba": "0.61.2"},
    )


def minimal() -> ReportData:
    """Names, and nothing else."""
    return ReportData(project="flights", model="late_flight")


def _months() -> tuple[MonthAccuracy, ...]:
    gains = (0.0, 0.021, 0.034, 0.018, 0.061, 0.072, 0.041, -0.009, 0.026, 0.031, 0.055)
    return tuple(
        MonthAccuracy(month, rows, int(share * rows), 0.16 + 1.35 * share, 0.16 + 1.35 * share + gain)
        for month, rows, share, gain in zip(MONTHS, PER_MONTH, SHARES, gains, strict=True)
    )


def _weeks(weeks: tuple[int, ...], season: np.ndarray, rng: np.random.Generator) -> tuple[WeekAccuracy, ...]:
    ap = (0.30 + 0.18 * season + rng.normal(0, 0.025, len(weeks))).tolist()
    auc = (0.74 + 0.03 * season + rng.normal(0, 0.012, len(weeks))).tolist()
    return tuple(
        WeekAccuracy(week, 6_300, int(6_300 * 0.15), a, u, a - 0.03) for week, a, u in zip(weeks, ap, auc, strict=True)
    )


def _decisions(rng: np.random.Generator) -> tuple[DecisionMark, ...]:
    marks = [DecisionMark(START, "first", 1, None, True, "the first version: there is no champion to compare it with")]
    champion = 1
    for number in range(2, 49):
        at = START + (number - 1) * 7 * US_PER_DAY + 3 * US_PER_HOUR
        difference = float(rng.normal(0.006, 0.011))
        spread = float(rng.uniform(0.006, 0.013))
        promoted = difference - spread > 0
        trigger = ("schedule", "schedule", "drift: by_origin__delay_1d, route__late_7d", "decay")[number % 4]
        reason = "better beyond doubt" if promoted else "not better beyond doubt at confidence 0.95"
        marks.append(
            DecisionMark(
                at, trigger, number, champion, promoted, reason, difference, difference - spread, difference + spread
            )
        )
        champion = number if promoted else champion
    return tuple(mark for mark in marks if mark.at_us < END)


def _drift(weeks: tuple[int, ...], season: np.ndarray, rng: np.random.Generator) -> DriftMap:
    pull = rng.gamma(1.1, 0.13, len(FEATURES))
    psi = np.abs(pull[:, None] * season[None, :] + rng.normal(0, 0.02, (len(FEATURES), len(weeks))))
    score = (0.05 + 0.25 * season**2 + rng.normal(0, 0.01, len(weeks))).tolist()
    return DriftMap(weeks, FEATURES, tuple(tuple(row) for row in psi.tolist()), 0.2, tuple(score))


def _alerts(rng: np.random.Generator) -> tuple[AlertMark, ...]:
    alerts = [
        AlertMark(int(START + day * US_PER_DAY), "drift", "late_flight", "warning", "4 of 56 columns above PSI 0.2")
        for day in np.sort(rng.uniform(10, 330, 14)).tolist()
    ]
    alerts += [
        AlertMark(int(START + day * US_PER_DAY), "decay", "late_flight", "warning", "AP 0.291 now, 0.342 at promotion")
        for day in (149.0, 203.5, 311.2)
    ]
    alerts.append(AlertMark(START + 41 * US_PER_DAY, "null share", "weather", "info", "visib: 0.3 % null"))
    return tuple(alerts)


def _explained() -> ExplainedPrediction:
    values = [ExplainedValue(name, value, value, True) for name, value in zip(FEATURES, _values(), strict=True)]
    return ExplainedPrediction(
        prediction="p-2013-12-31-000311602",
        at_us=parse_time("2013-12-31T21:59:00Z"),
        version=46,
        score=0.3127,
        request={
            "flight_id": "2013-12-31T22:59 B6 839",
            "carrier": "B6",
            "origin": "JFK",
            "dest": "BQN",
            "distance": 1576.0,
        },
        values=(*values, ExplainedValue("dest__weather__precip", None, None, True)),
        position="Arrival 0:326,118 · Departure 0:328,015 · Flight 0:336,700",
        truth=True,
    )


def _values() -> list[float | int]:
    rng = np.random.default_rng(11)
    return [int(rng.integers(1, 900)) if "__n_" in name else float(rng.normal(9, 12)) for name in FEATURES]
