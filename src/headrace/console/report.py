"""The report of a run: one HTML file that needs no network, for a person who wants to see what the loop did."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import msgspec

from headrace.console.report_data import ReportData
from headrace.console.report_html import Html, join, tag
from headrace.console.report_plot import Plot, day
from headrace.console.report_sections import Section, sections
from headrace.console.report_tiles import tiles

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""The page may load nothing from anywhere: the browser itself refuses."""


def render_report(data: ReportData) -> str:
    """Return the whole page: styles, plotly.js and figures within it. What `data` lacks is left out."""
    from plotly.offline import get_plotlyjs  # late: 5 MB of text

    parts = sections(data)
    plots = {name: plot for part in parts for name, plot in part.plots.items()}
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{data.project}: report"),
        tag("style", _asset("report.css")),
    )
    body = tag(
        "body",
        _header(data, parts),
        tag("main", tiles(data), *(part.html for part in parts)),
        _footer(data),
        tag("script", _figures(plots), type="application/json", id="figures"),
        tag("script", Html(get_plotlyjs())),
        tag("script", _asset("report.js")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def write_report(data: ReportData, path: str | Path) -> Path:
    """Render into `path`, in one step: a reader sees the old page or the new one. Missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_text(render_report(data), encoding="utf-8")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _asset(name: str) -> Html:
    return Html(files("headrace.console").joinpath("assets", name).read_text(encoding="utf-8"))


def _figures(plots: dict[str, Plot]) -> Html:
    """The plots as JSON in which no character can end the script element."""
    return Html(msgspec.json.encode(plots).decode().replace("<", "\\u003c"))


def _header(data: ReportData, parts: list[Section]) -> Html:
    period = None
    if data.period_start_us is not None and data.period_end_us is not None:
        period = tag("p", f"{day(data.period_start_us)} to {day(data.period_end_us)}", class_="period")
    links = (tag("a", part.short, href=f"#{part.name}") for part in parts)
    return tag(
        "header",
        tag(
            "div",
            tag("p", "Headrace", tag("span", " · the whole loop, replayed"), class_="brand"),
            tag("button", "◐", id="theme", type="button", title="Light or dark", aria_label="Switch light and dark"),
            class_="top",
        ),
        tag("h1", data.project),
        tag("p", data.question or f"Model: {data.model}", class_="question"),
        period,
        tag("nav", *links, aria_label="Sections") if parts else None,
    )


def _footer(data: ReportData) -> Html:
    def facts(title: str, values: dict[str, str]) -> Html | None:
        if not values:
            return None
        pairs = (tag("div", tag("dt", name), tag("dd", value)) for name, value in values.items())
        return join([tag("h3", title), tag("dl", *pairs)])

    return tag(
        "footer",
        facts("Run with", {name: str(value) for name, value in data.params.items()}),
        facts("Versions", data.versions),
        tag(
            "p",
            f"Model {data.model} of project {data.project}. All times are UTC. This page loads nothing from anywhere.",
        ),
        tag("noscript", "The plots need JavaScript; tables and figures do not."),
    )
