"""Plots about the run: what came in, how fresh and how fast it was, what raised its voice."""

from __future__ import annotations

from headrace.console.report_data import AlertMark, CheckFailure, Histogram, MonthSpeed, ReportData
from headrace.console.report_plot import (
    Json,
    LegendItem,
    Plot,
    axis,
    date,
    frame,
    label,
    month_labels,
    months_axis,
    names_axis,
    note,
    time_axis,
    vertical,
)

_COLOUR = {"info": "@muted", "warning": "@warm", "critical": "@bad"}


def dead_letters(data: ReportData) -> Plot:
    """Dead letters by reason."""
    return named_counts(data.dead_letters, "@warm")


def retrainings(data: ReportData) -> Plot:
    """Retrainings by what asked for them."""
    return named_counts(data.retrainings_by_kind, "@accent", row=62)


def named_counts(counts: dict[str, int], colour: str, row: int = 36) -> Plot:
    """One bar per name, the number at its end; `row` is the height of each in pixels."""
    wide, narrow = names_axis(list(counts), narrow=18)
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": list(counts.values()),
        "y": list(range(len(counts))),
        "text": [f"{count:,}" for count in counts.values()],
        "textposition": "outside",
        "textfont": {"size": 12, "color": "@ink"},
        "cliponaxis": False,
        "marker": {"color": colour},
        "hoverinfo": "skip",
    }
    hidden = axis(grid=False, showticklabels=False, range=[0, 1.18 * max(1, *counts.values())])
    layout = frame(34 + row * len(counts), xaxis=hidden, yaxis=wide, bargap=0.45)
    return Plot([bars], layout, narrow)


def histogram(found: Histogram, title: str, unit: str) -> Plot:
    """Steps over the edges, with the median and the 99th percentile."""
    total = sum(found.counts) or 1
    shares = [count / total for count in found.counts]
    steps = {
        "type": "scatter",
        "mode": "lines",
        "x": list(found.edges),
        "y": [*shares, shares[-1] if shares else 0],
        "line": {"shape": "hv", "color": "@accent", "width": 1.2},
        "fill": "tozeroy",
        "fillcolor": "@accent-soft",
        "hovertemplate": f"from %{{x:.3~g}} {unit}: %{{y:.1%}}<extra></extra>",
    }
    low, high = found.edges[0], found.edges[-1]
    half = found.p50 > (low + high) / 2
    layout = frame(
        290,
        xaxis=axis(f"{title}, {unit}", range=[low, max(high, 1.03 * found.p99)], nticks=8, grid=False),
        yaxis=axis("share", tickformat=".0%", rangemode="tozero", nticks=5),
        shapes=[
            vertical(found.p50, "@ink", width=1.4) | {"layer": "above"},
            vertical(found.p99, "@warm", width=1.4) | {"layer": "above"},
        ],
        annotations=[
            _mark(f"p50 {found.p50:.3g} {unit}", found.p50, 1.0, left=half),
            _mark(f"p99 {found.p99:.3g} {unit}", found.p99, 0.86, left=found.p99 > (low + high) / 2),
        ],
    )
    return Plot([steps], layout)


def _mark(text: str, x: float, y: float, *, left: bool) -> Json:
    """Words beside a vertical line, on the side where there is room."""
    return note(
        text, x, y, yref="paper", yanchor="top", xanchor="right" if left else "left", xshift=-5 if left else 5
    ) | {"font": {"size": 12, "color": "@ink"}}


def throughput(speed: tuple[MonthSpeed, ...]) -> Plot:
    """Events per real second through the whole loop, by simulated month."""
    rates = [month.events / month.seconds if month.seconds > 0 else None for month in speed]
    bars = {
        "type": "bar",
        "x": month_labels([month.month for month in speed]),
        "y": rates,
        "customdata": [[month.events, month.seconds] for month in speed],
        "marker": {"color": "@accent"},
        "hovertemplate": "%{y:,.0f} events/s<br>%{customdata[0]:,} events in %{customdata[1]:.1f} s<extra></extra>",
    }
    wide, narrow = months_axis([month.month for month in speed])
    layout = frame(
        290,
        xaxis=wide,
        yaxis=axis("events per second", rangemode="tozero", nticks=6),
    )
    return Plot([bars], layout, narrow)


def timeline(alerts: tuple[AlertMark, ...], failures: tuple[CheckFailure, ...]) -> Plot:
    """Every alert and every refused batch run at its time, one row per kind."""
    refused = [AlertMark(f.at_us, "data check", f.table, "critical", f"{f.check} found {f.found}") for f in failures]
    marks = sorted([*refused, *alerts], key=lambda mark: mark.at_us)
    kinds = list(dict.fromkeys(mark.kind for mark in marks))
    wide, narrow = names_axis(kinds, narrow=14)
    traces, legend = [], []
    for severity, colour in _COLOUR.items():
        of_it = [mark for mark in marks if mark.severity == severity]
        if of_it:
            legend.append(LegendItem(severity, colour, "diamond"))
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [date(mark.at_us) for mark in of_it],
                    "y": [kinds.index(mark.kind) for mark in of_it],
                    "text": [_alert_text(mark) for mark in of_it],
                    "marker": {"color": colour, "size": 12, "opacity": 0.85, "symbol": "diamond"},
                    "hovertemplate": "%{x|%-d %b %Y, %H:%M}<br>%{text}<extra></extra>",
                }
            )
    wide |= {"showgrid": True, "zeroline": False}
    return Plot(traces, frame(70 + 38 * len(kinds), xaxis=time_axis(), yaxis=wide), narrow, tuple(legend))


def _alert_text(mark: AlertMark) -> str:
    text = f"{mark.subject}: {mark.message}" if mark.message else mark.subject
    return label(text if len(text) <= 110 else f"{text[:109]}…")
