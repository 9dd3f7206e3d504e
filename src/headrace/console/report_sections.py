"""The sections of a report: words, tables and plots in reading order. A section without data is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from headrace.console import report_model_plots as model_plots
from headrace.console import report_run_plots as run_plots
from headrace.console.report_captions import (
    accuracy_caption,
    calibration_caption,
    decisions_caption,
    drift_caption,
    freshness_caption,
    importance_caption,
    latency_caption,
    promotions_caption,
    retrainings_caption,
    score_caption,
    throughput_caption,
    timeline_caption,
)
from headrace.console.report_data import CheckFailure, ReportData
from headrace.console.report_html import Html, plural, signed, table, tag
from headrace.console.report_plot import Plot, day, moment

TOP_DRIFT = 20
TOP_IMPORTANCES = 15


class Section(msgspec.Struct, frozen=True):
    """One section: its anchor, its name in the menu, its markup, and the plots that the markup leaves room for."""

    name: str
    short: str
    html: Html
    plots: dict[str, Plot]


class _Cards:
    """Collects the cards of one section."""

    def __init__(self) -> None:
        self.html: list[Html] = []
        self.plots: dict[str, Plot] = {}

    def plot(self, name: str, title: str, plot: Plot, caption: str, *, size: str = "half") -> None:
        """A card with a plot and the sentence that says what to see."""
        self.plots[name] = plot
        height = f"min-height:{plot.layout['height']}px"
        room = tag("div", id=f"plot-{name}", class_="plot", role="img", aria_label=f"{title}. {caption}", style=height)
        self.card(title, _legend(plot), room, tag("p", caption, class_="caption"), size=size)

    def card(self, title: str, *content: Html | None, size: str = "half") -> None:
        """A card with anything in it, over a "third", a "half", "most" or the "whole" of a wide window."""
        self.html.append(tag("article", tag("h3", title), *content, class_=f"card {size}"))


def _legend(plot: Plot) -> Html | None:
    if not plot.legend:
        return None
    items = (
        tag("li", tag("i", class_=item.shape, style=f"--mark: var(--{item.colour[1:]})"), item.name)
        for item in plot.legend
    )
    return tag("ul", *items, class_="legend")


def sections(data: ReportData) -> list[Section]:
    """All sections for which there is data."""
    plan: tuple[tuple[str, str, str, str, Callable[[ReportData, _Cards], None]], ...] = (
        ("accuracy", "Accuracy", "Did the loop pay?", _ACCURACY, _accuracy),
        ("decisions", "Decisions", "Who decided what", _DECISIONS, _decisions),
        ("exactness", "Exactness", "Served equals recomputed", _EXACTNESS, _exactness),
        ("drift", "Drift", "What moved", _DRIFT, _drift),
        ("incidents", "Incidents", "What was refused", _INCIDENTS, _incidents),
        ("model", "Model", "What the champion looks at", _MODEL, _model),
        ("events", "Events", "What came in", _EVENTS, _events),
        ("speed", "Speed", "How fresh, how fast", _SPEED, _speed),
    )
    found = []
    for name, short, title, lead, fill in plan:
        cards = _Cards()
        fill(data, cards)
        if cards.html:
            heading = [tag("h2", title), tag("p", lead, class_="lead")]
            grid = tag("div", *cards.html, class_="grid")
            found.append(Section(name, short, tag("section", *heading, grid, id=name), cards.plots))
    return found


_ACCURACY = (
    "The same events were scored by two models: the first one, frozen for good, and the one that the loop kept "
    "retraining on the truth as it came in."
)
_DECISIONS = (
    "A retrained challenger is compared with the champion on truth that neither has seen, and promoted only when it is "
    "better beyond doubt."
)
_EXACTNESS = (
    "Every served value names the log position that it reflects, so it can be recomputed from the archive as it was "
    "served, and compared bit for bit."
)
_DRIFT = (
    "The population stability index (PSI) measures how far live values have moved from those the model was trained on."
)
_INCIDENTS = "Bad input is named and kept out; alerts stay on record."
_MODEL = "The champion at the end of the run."
_EVENTS = "Each event has one verdict: counted, duplicate, late or dead letter. Nothing vanishes."
_SPEED = "Freshness is in simulated time, latency and throughput in real time on this machine."


def _accuracy(data: ReportData, cards: _Cards) -> None:
    if data.judged_months:
        plot = model_plots.accuracy_by_month(data)
        cards.plot("months", "Average precision by month", plot, accuracy_caption(data), size="whole")
    if any(week.average_precision is not None for week in data.weeks):
        plot = model_plots.accuracy_by_week(data)
        cards.plot("weeks", "Accuracy by week, with promotions", plot, promotions_caption(data), size="whole")


def _decisions(data: ReportData, cards: _Cards) -> None:
    compared = any(mark.difference is not None for mark in data.decisions)
    if compared:
        plot, size = model_plots.decisions(data), "most" if data.retrainings_by_kind else "whole"
        cards.plot("decisions", "Challengers against the champion", plot, decisions_caption(data), size=size)
    if data.retrainings_by_kind:
        plot, size = run_plots.retrainings(data), "third" if compared else "whole"
        cards.plot("retrainings", "Retrainings by trigger", plot, retrainings_caption(data), size=size)
    if data.decisions:
        cards.card("Every decision", _decision_table(data), size="whole")


def _decision_table(data: ReportData) -> Html:
    def row(at: int) -> list[str]:
        mark = data.decisions[at]
        difference = "" if mark.difference is None else signed(mark.difference)
        bounds = "" if mark.low is None or mark.high is None else f"{signed(mark.low)} to {signed(mark.high)}"
        champion = "none" if mark.champion is None else f"v{mark.champion}"
        verdict = tag(
            "span", *(("promoted",) if mark.promoted else ("refused",)), class_="yes" if mark.promoted else "no"
        )
        versions = f"v{mark.challenger} / {champion}"
        return [day(mark.at_us), verdict, versions, mark.trigger, difference, bounds, mark.reason]

    head = ["Date", "Verdict", "Versions", "Trigger", "Difference", "Interval", "Reason"]
    return table(head, map(row, range(len(data.decisions))), numeric=(4, 5), class_="decisions")


def _exactness(data: ReportData, cards: _Cards) -> None:
    if data.audit is not None:
        audit = data.audit
        tone = "good" if not audit.values_differing else "bad"
        figure = tag("p", f"{audit.values_differing:,} of {audit.values_checked:,} differ", class_=f"statement {tone}")
        which = (
            "All feature values that were served" if audit.values_checked == data.features_served else "These values"
        )
        text = f"{which} were computed again from the archive of raw events, as of the position that each one names."
        examples = [
            [item.prediction, item.column, shown(item.served), shown(item.recomputed)] for item in audit.examples
        ]
        listed = table(["Prediction", "Feature", "Served", "Recomputed"], examples) if examples else None
        cards.card("The skew audit", figure, tag("p", text, class_="caption"), listed, size="whole")
    if data.explained is not None:
        cards.card("One prediction, explained", *_explained(data), size="whole")


def _explained(data: ReportData) -> list[Html | None]:
    item = data.explained
    if item is None:
        return []
    truth = "" if item.truth is None else f" It {'came true' if item.truth else 'did not come true'}."
    story = (
        f"At {moment(item.at_us)} version {item.version} answered {item.score:.1%}.{truth} "
        f"{sum(value.equal for value in item.values):,} of its {plural(len(item.values), 'feature')} come out the same "
        "when they are recomputed from raw events as they were served."
    )
    request = [tag("div", tag("dt", name), tag("dd", shown(value))) for name, value in item.request.items()]
    request.append(tag("div", tag("dt", "prediction"), tag("dd", item.prediction)))
    if item.position:
        request.append(tag("div", tag("dt", "log position"), tag("dd", item.position)))
    rows = [
        [
            value.feature,
            tag("code", shown(value.served)),
            tag("code", shown(value.recomputed)),
            tag("span", "equal" if value.equal else "differs", class_="yes" if value.equal else "bad"),
        ]
        for value in item.values
    ]
    head = ["Feature", "Served", "Recomputed as served", "Bits"]
    return [
        tag("p", story, class_="story"),
        tag("dl", *request),
        table(head, rows, numeric=(1, 2), class_="values") if rows else None,
    ]


def shown(value: Any) -> str:
    """A value as a person reads it, without losing a bit: floats in their shortest exact form."""
    if value is None:
        return "null"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _drift(data: ReportData, cards: _Cards) -> None:
    if data.drift is None:
        return
    top = data.drift.top(TOP_DRIFT)
    if any(value is not None for row in top.psi for value in row):
        plot = model_plots.drift_heat_map(top)
        title = "Drift by feature and week" + (f", top {TOP_DRIFT}" if len(data.drift.features) > TOP_DRIFT else "")
        cards.plot("drift", title, plot, drift_caption(data.drift), size="whole")
    if any(value is not None for value in data.drift.score):
        plot = model_plots.score_drift(data.drift)
        cards.plot("score", "Drift of the score", plot, score_caption(data.drift), size="whole")


def _incidents(data: ReportData, cards: _Cards) -> None:
    for failure in data.check_failures[:3]:
        figure = tag("p", failure.found, class_="statement bad")
        story = tag("div", figure, _check_story(failure), class_="beside")
        cards.card(f"Refused on {day(failure.at_us)}", story, size="whole")
    if data.check_failures or data.alerts:
        plot = run_plots.timeline(data.alerts, data.check_failures)
        cards.plot("timeline", "Alerts and refusals over time", plot, timeline_caption(data), size="whole")


def _check_story(failure: CheckFailure) -> Html:
    what = f"a {failure.column} of {failure.found}" if failure.column else failure.found
    return tag(
        "p",
        f"On {moment(failure.at_us)} a run of the table ",
        tag("code", failure.table),
        f" brought {what}, where {failure.allowed} is declared. The check ",
        tag("code", failure.check),
        " refused the run as a whole: the values from before stayed in the stores, an alert was raised, and no model "
        f"has seen the row. {failure.note}".rstrip(),
        class_="story",
    )


def _model(data: ReportData, cards: _Cards) -> None:
    found = tuple(sorted(data.importances, key=lambda item: -item.share)[:TOP_IMPORTANCES])
    if found:
        cards.plot("importances", "Feature importances", model_plots.importances(found), importance_caption(found))
    if data.calibration:
        plot = model_plots.calibration(data.calibration)
        cards.plot("calibration", "Calibration of the looped model", plot, calibration_caption(data.calibration))


def _events(data: ReportData, cards: _Cards) -> None:
    reasons = data.dead_letters
    if data.streams:
        rows = [
            [s.stream, f"{s.events:,}", f"{s.duplicates:,}", f"{s.late:,}", f"{sum(s.dead_letters.values()):,}"]
            for s in data.streams
        ]
        totals = [sum(int(row[at].replace(",", "")) for row in rows) for at in range(1, 5)]
        if len(rows) > 1:
            rows.append(["all", *(f"{total:,}" for total in totals)])
        head = ["Stream", "Events", "Duplicates", "Late", "Dead letters"]
        listed = table(head, rows, numeric=range(1, 5), class_="totals" if len(rows) > 1 else "")
        cards.card("Events by stream", listed, size="half" if reasons else "whole")
    if reasons:
        caption = "Each dead letter keeps its stream, offset, field and reason; the rest of its batch went on."
        cards.plot("dead", "Dead letters by reason", run_plots.dead_letters(data), caption)


def _speed(data: ReportData, cards: _Cards) -> None:
    if data.freshness is not None:
        plot = run_plots.histogram(data.freshness, "from known to visible", "s")
        cards.plot("freshness", "Freshness, simulated time", plot, freshness_caption(data.freshness))
    if data.latency is not None:
        plot = run_plots.histogram(data.latency, "request to answer", "ms")
        cards.plot("latency", "Scoring over HTTP", plot, latency_caption(data.latency))
    if data.speed:
        plot = run_plots.throughput(data.speed)
        cards.plot("throughput", "Throughput by month", plot, throughput_caption(data), size="whole")
