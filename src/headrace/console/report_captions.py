"""One sentence under each plot: what there is to see in it."""

from __future__ import annotations

from headrace.console.report_data import CalibrationBin, DriftMap, Histogram, Importance, ReportData
from headrace.console.report_html import plural
from headrace.console.report_plot import day, month_name


def accuracy_caption(data: ReportData) -> str:
    """Who won how often, and where the gap is greatest."""
    judged = data.judged_months
    month, frozen, looped = max(judged, key=lambda item: item[2] - item[1])
    best = ""
    if looped > frozen:
        best = f", most of all in {month_name(month)} ({looped:.3f} beside {frozen:.3f})"
    return (
        f"The looped model is the better one in {data.months_won} of {plural(len(judged), 'month')}{best}; the dashes "
        "are what guessing would score, so months with more true cases lie higher."
    )


def promotions_caption(data: ReportData) -> str:
    """What the dotted lines are."""
    if not data.promotions:
        return "No challenger took the place of a champion in this time."
    count = plural(len(data.promotions), "promotion")
    return f"Each green line is one of {count}; AP moves with the share of true cases in the week, AUC does not."


def decisions_caption(data: ReportData) -> str:
    """How to read the intervals."""
    compared = [mark for mark in data.decisions if mark.difference is not None]
    promoted = sum(mark.promoted for mark in compared)
    guarded = sum(not mark.promoted and mark.low is not None and mark.low > 0 for mark in compared)
    but = f"; {guarded} were refused all the same, for the reason that the table gives" if guarded else ""
    return (
        f"{promoted} of {plural(len(compared), 'challenger')} promoted: their whole interval lies above zero. Where it "
        f"touches zero there was doubt, and the champion stayed{but}."
    )


def retrainings_caption(data: ReportData) -> str:
    """How many were asked for by monitors."""
    kinds = data.retrainings_by_kind
    asked = sum(count for kind, count in kinds.items() if kind in ("drift", "decay"))
    return f"Monitors of drift and decay asked for {asked} of {plural(sum(kinds.values()), 'retraining')}."


def drift_caption(drift: DriftMap) -> str:
    """How many features crossed the threshold, which farthest and when."""
    over = sum(any(value is not None and value > drift.threshold for value in row) for row in drift.psi)
    peaks = [
        (value, name, start)
        for name, row in zip(drift.features, drift.psi, strict=True)
        for value, start in zip(row, drift.week_starts_us, strict=True)
        if value is not None
    ]
    value, name, start = max(peaks)
    return (
        f"{over} of {plural(len(drift.features), 'feature')} went above the threshold of {drift.threshold:g} (warm "
        f"colours) in some week, {name} farthest: {value:.2f} in the week of {day(start)}."
    )


def score_caption(drift: DriftMap) -> str:
    """In how many weeks the score had drifted."""
    known = [value for value in drift.score if value is not None]
    over = sum(value > drift.threshold for value in known)
    return f"The model's own answers were above the threshold in {over} of {plural(len(known), 'week')}."


def timeline_caption(data: ReportData) -> str:
    """What the marks are."""
    refused = plural(len(data.check_failures), "batch run")
    return f"{refused} refused by a declared check, {plural(len(data.alerts), 'alert')} raised by monitors."


def importance_caption(found: tuple[Importance, ...]) -> str:
    """The strongest column."""
    first = found[0]
    return f"{first.column} alone brings {first.share:.0%} of the gain; the {len(found)} strongest are shown."


def calibration_caption(bins: tuple[CalibrationBin, ...]) -> str:
    """How far off the promises are, on average."""
    rows = sum(item.rows for item in bins)
    off = sum(abs(item.predicted - item.observed) * item.rows for item in bins) / max(rows, 1)
    return f"On the diagonal the model means what it says: it is off by {off:.1%} on average over {rows:,} predictions."


def freshness_caption(found: Histogram) -> str:
    """How soon an event shows."""
    half, most = f"{found.p50:.3g}\u00a0s", f"{found.p99:.3g}\u00a0s"
    return f"Half of the events are visible online {half} after they became known, 99 % within {most}."


def latency_caption(found: Histogram) -> str:
    """How soon an answer comes."""
    half, most = f"{found.p50:.3g}\u00a0ms", f"{found.p99:.3g}\u00a0ms"
    return f"Features, preprocessing and prediction together: half of the answers within {half}, 99 % within {most}."


def throughput_caption(data: ReportData) -> str:
    """What is in the figure."""
    events, seconds = sum(m.events for m in data.speed), sum(m.seconds for m in data.speed)
    memory = "" if data.peak_memory_mb is None else f"; the largest process held {data.peak_memory_mb:,.0f} MB"
    rate = f"{events / seconds:,.0f} events/s on average" if seconds > 0 else "Too short to tell a rate"
    return f"{rate} through the whole loop: log, windows, stores, scoring, truth, monitors, retraining{memory}."
