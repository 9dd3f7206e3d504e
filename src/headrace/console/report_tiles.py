"""The headline figures of a report."""

from __future__ import annotations

from headrace.console.report_data import ReportData
from headrace.console.report_html import Html, compact, duration, join, plural, tag


def tiles(data: ReportData) -> Html:
    """Up to eight tiles: a figure, what it is, and one line of detail."""
    found = (_events, _features, _skew, _months, _retrainings, _promotions, _latency, _run)
    return tag("div", *(make(data) for make in found), class_="tiles")


def _tile(figure: str | Html, name: str, detail: str = "", tone: str = "") -> Html:
    return tag(
        "div",
        tag("p", name, class_="name"),
        tag("p", figure, class_="figure"),
        tag("p", detail, class_="detail"),
        class_=f"tile {tone}".strip(),
    )


def _events(data: ReportData) -> Html | None:
    if data.total_events is None:
        return None
    dead, twice = sum(data.dead_letters.values()), sum(stream.duplicates for stream in data.streams)
    detail = f"{plural(dead, 'dead letter')}, {plural(twice, 'duplicate')}" if data.streams else ""
    return _tile(compact(data.total_events), "Events", detail)


def _features(data: ReportData) -> Html | None:
    if data.features_served is None:
        return None
    detail = "" if data.predictions is None else f"to {plural(data.predictions, 'prediction')}"
    return _tile(compact(data.features_served), "Feature values served", detail)


def _skew(data: ReportData) -> Html | None:
    if data.audit is None:
        return None
    checked, differing = data.audit.values_checked, data.audit.values_differing
    tone = "good" if not differing else "bad"
    figure = join([f"{differing:,} of {compact(checked)} ", tag("small", "differ")])
    return _tile(figure, "Skew", f"{checked:,} values compared, bit for bit", tone)


def _months(data: ReportData) -> Html | None:
    judged = data.judged_months
    if not judged:
        return None
    gain = sum(looped - frozen for _, frozen, looped in judged) / len(judged)
    figure = f"{data.months_won} of {len(judged)}"
    return _tile(figure, "Months won by the loop", f"AP {gain:+.3f} a month on average", "accent")


def _retrainings(data: ReportData) -> Html | None:
    kinds = data.retrainings_by_kind
    if not kinds:
        return None
    return _tile(f"{sum(kinds.values()):,}", "Retrainings", ", ".join(f"{n} by {kind}" for kind, n in kinds.items()))


def _promotions(data: ReportData) -> Html | None:
    if not data.decisions:
        return None
    return _tile(f"{len(data.promotions)}", "Promotions", f"{len(data.refusals)} refused")


def _latency(data: ReportData) -> Html | None:
    if data.latency is None:
        return None
    return _tile(f"{data.latency.p99:.1f} ms", "Scoring over HTTP, p99", f"p50 {data.latency.p50:.1f} ms")


def _run(data: ReportData) -> Html | None:
    seconds = data.seconds if data.seconds is not None else sum(month.seconds for month in data.speed)
    if not seconds:
        return None
    events = data.total_events
    rate = "" if events is None else f"{events / seconds:,.0f} events/s"
    memory = "" if data.peak_memory_mb is None else f"{data.peak_memory_mb:,.0f} MB at most"
    return _tile(duration(seconds), "The whole run", ", ".join(filter(None, (rate, memory))))
