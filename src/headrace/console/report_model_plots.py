"""Plots about the models: accuracy, decisions, drift, what the champion looks at."""

from __future__ import annotations

from headrace.console.report_data import CalibrationBin, DecisionMark, DriftMap, Importance, ReportData
from headrace.console.report_plot import (
    Json,
    LegendItem,
    Plot,
    axis,
    date,
    day,
    frame,
    horizontal,
    label,
    line,
    month_labels,
    months_axis,
    names_axis,
    note,
    time_axis,
    vertical,
)


def accuracy_by_month(data: ReportData) -> Plot:
    """Frozen beside looped: two dots a month, joined by a bar in the colour of the better one; ticks for guessing."""
    months = [month for month in data.months if month.frozen is not None or month.looped is not None]
    names = month_labels([month.month for month in months])
    wide, narrow = months_axis([month.month for month in months])
    traces: list[Json] = []
    for colour, won in (("@accent-soft", True), ("@warm-soft", False)):
        pairs = [(m, f, p) for m, f, p in data.judged_months if (p > f) == won]
        xs, ys = [], []
        for month, frozen, looped in pairs:
            xs += [*month_labels([month] * 2), None]
            ys += [frozen, looped, None]
        traces.append(_silent(xs, ys, line(colour, 9)))
    share = [month.positives / month.rows if month.rows else None for month in months]
    traces.append(
        _dots(names, share, "@muted", symbol="line-ew-open", size=18)
        | {"hovertemplate": "guessing %{y:.3f}<extra></extra>"}
    )
    detail = [f"{month.positives:,} true of {month.rows:,}" for month in months]
    for name, ys, colour, symbol in (
        ("frozen first model", [m.frozen for m in months], "@warm", "circle-open"),
        ("looped model", [m.looped for m in months], "@accent", "circle"),
    ):
        traces.append(
            _dots(names, ys, colour, symbol=symbol, size=11)
            | {"customdata": detail, "hovertemplate": f"{name} %{{y:.3f}}<br>%{{customdata}}<extra></extra>"}
        )
    layout = frame(
        380,
        xaxis=wide,
        yaxis=axis("average precision", rangemode="tozero", tickformat=".2f", nticks=7),
    )
    legend = (
        LegendItem("looped model", "@accent", "dot"),
        LegendItem("frozen first model", "@warm", "ring"),
        LegendItem("guessing: the share of true cases", "@muted", "dash"),
    )
    return Plot(traces, layout, narrow | {"height": 310}, legend)


def accuracy_by_week(data: ReportData) -> Plot:
    """AUC above, AP below, over the weeks; a line where another version became champion."""
    starts = [date(week.start_us) for week in data.weeks]
    average_precision = [week.average_precision for week in data.weeks]
    frozen = [week.frozen_average_precision for week in data.weeks]
    traces = [_curve(starts, average_precision, "looped model", "@accent", 2.4)]
    legend = [LegendItem("looped model", "@accent", "line")]
    if any(value is not None for value in frozen):
        traces.insert(0, _curve(starts, frozen, "frozen first model", "@warm", 1.6))
        legend.append(LegendItem("frozen first model", "@warm", "line"))
    traces.append(
        _curve(starts, [week.roc_auc for week in data.weeks], "AUC, looped model", "@accent", 2.4) | {"yaxis": "y2"}
    )
    promoted = data.promotions
    top = max(value for value in [*average_precision, *frozen] if value is not None)
    layout = frame(
        420,
        xaxis=time_axis(),
        yaxis=axis("AP", range=[0, 1.12 * top], tickformat=".1f", nticks=6, domain=[0, 0.6]),
        yaxis2=axis("AUC", range=[0.5, 1], tickformat=".2f", tickvals=[0.5, 0.75, 1], domain=[0.7, 1]),
        shapes=[vertical(date(mark.at_us), "@good") for mark in promoted],
        hovermode="x",
    )
    if promoted:
        traces.append(_promotion_hover(promoted, 0.03 * top))
        legend.append(LegendItem("promotion", "@good", "dots"))
    return Plot(traces, layout, {"height": 360}, tuple(legend))


def _promotion_hover(promoted: tuple[DecisionMark, ...], y: float) -> Json:
    """Marks on the floor that say which version was promoted, and why it was trained."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [date(mark.at_us) for mark in promoted],
        "y": [y] * len(promoted),
        "marker": {"symbol": "triangle-up", "size": 9, "color": "@good"},
        "text": [label(f"version {mark.challenger}, {mark.trigger}") for mark in promoted],
        "hovertemplate": "promoted: %{text}<extra></extra>",
    }


def decisions(data: ReportData) -> Plot:
    """Each judged challenger as the interval of its difference to the champion."""
    judged = [mark for mark in data.decisions if mark.difference is not None]
    traces = []
    for promoted, colour, symbol in (
        (True, "@good", "circle"),
        (False, "@muted", "x-thin-open"),
    ):
        marks = [mark for mark in judged if mark.promoted == promoted]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [date(mark.at_us) for mark in marks],
                "y": [mark.difference for mark in marks],
                "error_y": _interval(marks, colour),
                "marker": {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}},
                "text": [label(f"{day(mark.at_us)}: version {mark.challenger}, {mark.trigger}") for mark in marks],
                "hovertemplate": "%{text}<br>difference %{y:+.4f}<extra></extra>",
            }
        )
    layout = frame(
        340,
        xaxis=time_axis(),
        yaxis=axis("challenger − champion", tickformat="+.2f", nticks=7),
        shapes=[horizontal(0, "@ink", "solid")],
    )
    legend = (LegendItem("promoted", "@good", "dot"), LegendItem("refused", "@muted", "cross"))
    return Plot(traces, layout, {"height": 300}, legend)


def _interval(marks: list[DecisionMark], colour: str) -> Json:
    up, down = [], []
    for mark in marks:
        middle = mark.difference or 0.0
        up.append(0.0 if mark.high is None else mark.high - middle)
        down.append(0.0 if mark.low is None else middle - mark.low)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down} | {
        "color": colour,
        "thickness": 1.4,
        "width": 0,
    }


def drift_heat_map(drift: DriftMap) -> Plot:
    """PSI by feature and week: pale below the threshold, warm above."""
    wide, narrow = names_axis(drift.features)
    values = [value for row in drift.psi for value in row if value is not None]
    top = max(2 * drift.threshold, min(max(values, default=0.0), 5 * drift.threshold))
    cut = drift.threshold / top
    ticks = [0, drift.threshold, top]
    map_ = {
        "type": "heatmap",
        "x": [date(start) for start in drift.week_starts_us],
        "y": list(range(len(drift.features))),
        "z": [list(row) for row in drift.psi],
        "customdata": [[label(name)] * len(drift.week_starts_us) for name in drift.features],
        "zmin": 0,
        "zmax": top,
        "xgap": 1,
        "ygap": 1,
        "colorscale": [[0, "@heat-0"], [cut, "@heat-1"], [cut, "@heat-2"], [1, "@heat-3"]],
        "colorbar": _colour_bar(ticks, [f"{tick:.2g}" for tick in ticks], max(values, default=0.0) > top),
        "hovertemplate": "%{customdata}<br>week of %{x|%-d %b %Y}<br>PSI %{z:.3f}<extra></extra>",
        "hoverongaps": False,
    }
    layout = frame(72 + 21 * len(drift.features), xaxis=time_axis(), yaxis=wide)
    return Plot([map_], layout, narrow)


def _colour_bar(ticks: list[float], words: list[str], cut_off: bool) -> Json:
    if cut_off:
        words[-1] = f"≥ {words[-1]}"
    return {
        "orientation": "h",
        "x": 1,
        "xanchor": "right",
        "y": 1,
        "yanchor": "bottom",
        "len": 190,
        "lenmode": "pixels",
        "thickness": 8,
        "outlinewidth": 0,
        "tickvals": ticks,
        "ticktext": words,
        "tickfont": {"size": 11, "color": "@muted"},
        "ticks": "",
        "ypad": 4,
        "xpad": 0,
    }


def score_drift(drift: DriftMap) -> Plot:
    """PSI of the model's own scores by week, against the threshold."""
    starts = [date(start) for start in drift.week_starts_us]
    bars = {
        "type": "bar",
        "x": starts,
        "y": list(drift.score),
        "marker": {"color": ["@warm" if (value or 0) > drift.threshold else "@accent" for value in drift.score]},
        "hovertemplate": "week of %{x|%-d %b %Y}<br>PSI %{y:.3f}<extra></extra>",
    }
    top = max([drift.threshold, *(value for value in drift.score if value is not None)])
    layout = frame(
        260,
        xaxis=time_axis(),
        yaxis=axis("PSI of the score", range=[0, 1.15 * top], nticks=5),
        shapes=[horizontal(drift.threshold, "@warm") | {"layer": "above"}],
        annotations=[
            note(f"threshold {drift.threshold:g}", 1, drift.threshold, xref="paper", xanchor="right", yanchor="bottom")
        ],
    )
    return Plot([bars], layout)


def importances(found: tuple[Importance, ...]) -> Plot:
    """Share of the champion's gain by column, the greatest on top."""
    wide, narrow = names_axis([item.column for item in found], narrow=20)
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [item.share for item in found],
        "y": list(range(len(found))),
        "text": [f"{item.share:.1%}" for item in found],
        "textposition": "outside",
        "textfont": {"size": 11, "color": "@muted"},
        "cliponaxis": False,
        "marker": {"color": "@accent"},
        "customdata": [label(item.column) for item in found],
        "hovertemplate": "%{customdata}: %{x:.1%}<extra></extra>",
    }
    hidden = axis(grid=False, showticklabels=False, range=[0, 1.2 * (max(item.share for item in found) or 1.0)])
    layout = frame(40 + 25 * len(found), xaxis=hidden, yaxis=wide, bargap=0.35)
    return Plot([bars], layout, narrow)


def calibration(bins: tuple[CalibrationBin, ...]) -> Plot:
    """What came true beside what was said; on the diagonal the model means what it says."""
    top = min(1.0, 1.1 * max(max(item.predicted, item.observed) for item in bins)) or 1.0
    dots = _dots([item.predicted for item in bins], [item.observed for item in bins], "@accent", size=9)
    dots |= {
        "mode": "lines+markers",
        "line": line("@accent"),
        "customdata": [item.rows for item in bins],
        "hovertemplate": "said %{x:.1%}, came true %{y:.1%}<br>%{customdata:,} predictions<extra></extra>",
    }
    layout = frame(
        415,
        xaxis=axis("mean predicted probability", range=[0, top], tickformat=".0%", nticks=6),
        yaxis=axis("share that came true", range=[0, top], tickformat=".0%", nticks=6),
        annotations=[note("perfect", 0.93 * top, 0.93 * top, xanchor="right", yanchor="bottom")],
    )
    return Plot([_silent([0, top], [0, top], line("@muted", 1.2, "dot")), dots], layout, {"height": 330})


def _curve(x: list[str], y: list[float | None], name: str, colour: str, width: float) -> Json:
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": line(colour, width)} | {
        "hovertemplate": f"{name} %{{y:.3f}}<extra></extra>"
    }


def _dots(x: list[str] | list[float], y: object, colour: str, *, size: int, symbol: str = "circle") -> Json:
    marker = {"color": colour, "size": size, "symbol": symbol, "line": {"color": colour, "width": 2}}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker}


def _silent(x: object, y: object, style: Json) -> Json:
    """A line that says nothing when hovered."""
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": style, "hoverinfo": "skip"}
