"""What all plots of a report share: the frame, the axes, the marks.

A plot is plain plotly JSON. A colour is written as "@name" and becomes the custom property `--name` of report.css when
the page draws it, so that light and dark are chosen in the browser. `narrow` holds layout settings for a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal

import msgspec

from headrace.core.time import from_us

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif'

Json = dict[str, Any]
Shape = Literal["dot", "ring", "dash", "line", "dots", "cross", "diamond"]


class LegendItem(msgspec.Struct, frozen=True):
    """A name, the colour of what it names ("@name") and its shape."""

    name: str
    colour: str
    shape: Shape


class Plot(msgspec.Struct, frozen=True):
    """Traces, layout, what the layout changes where the window is narrow, and a legend that the page itself sets.

    Keys of `narrow` are paths with dots.
    """

    data: list[Json]
    layout: Json
    narrow: Json = {}
    legend: tuple[LegendItem, ...] = ()


def frame(height: int, **layout: Any) -> Json:
    """Layout of every plot: no background of its own; axes make room for their labels themselves."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 10, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": "@ink"},
        "hoverlabel": {
            "bgcolor": "@card",
            "bordercolor": "@line",
            "font": {"family": FONT, "size": 13, "color": "@ink"},
        },
        "showlegend": False,
        "dragmode": False,
        "bargap": 0.3,
        **layout,
    }


def axis(title: str = "", *, grid: bool = True, **settings: Any) -> Json:
    """An axis with its unit in the title. Zooming is off: on a phone it would catch the finger that scrolls."""
    words = {"title": {"text": title, "font": {"size": 12, "color": "@muted"}, "standoff": 10}} if title else {}
    return {
        "fixedrange": True,
        "automargin": True,
        "showgrid": grid,
        "gridcolor": "@line",
        "zeroline": False,
        "linecolor": "@line",
        "tickfont": {"size": 12, "color": "@muted"},
        "ticks": "",
        **words,
        **settings,
    }


def time_axis(**settings: Any) -> Json:
    """An axis of dates: few ticks, the year only where it changes."""
    return (
        axis(grid=False, type="date", tickformat="%b\n%Y", nticks=13, ticks="outside", ticklen=4, tickcolor="@line")
        | settings
    )


def line(colour: str, width: float = 2, dash: str = "solid") -> Json:
    """A line in a colour of the page."""
    return {"color": colour, "width": width, "dash": dash}


def vertical(x: float | str, colour: str, dash: str = "dot", width: float = 1.2) -> Json:
    """A line from bottom to top of the plot."""
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line(colour, width, dash)} | {
        "layer": "below"
    }


def horizontal(y: float, colour: str, dash: str = "dot") -> Json:
    """A line from left to right of the plot."""
    return {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": y, "y1": y, "line": line(colour, 1.2, dash)} | {
        "layer": "below"
    }


def note(text: str, x: float | str, y: float, **settings: Any) -> Json:
    """Words inside a plot."""
    return {"text": label(text), "x": x, "y": y, "showarrow": False, "font": {"size": 12, "color": "@muted"}} | settings


def label(text: str) -> str:
    """Escape text for a plot, where plotly would read tags as formatting and as links."""
    return escape(text, quote=False)


def short(text: str, width: int) -> str:
    """Cut the middle out of a long name: both ends tell names apart."""
    if len(text) <= width:
        return label(text)
    head = (width - 1) // 2
    return label(f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}")


def names_axis(names: Sequence[str], narrow: int = 16) -> tuple[Json, Json]:
    """An axis of names, the first one on top, and its labels for a narrow window. Bars stand at 0, 1, 2, ..."""
    at = list(range(len(names)))
    wide = axis(grid=False, tickmode="array", tickvals=at, ticktext=[short(name, 34) for name in names])
    wide |= {"range": [len(names) - 0.5, -0.5], "tickfont": {"size": 12, "color": "@ink"}}
    return wide, {"yaxis.ticktext": [short(name, narrow) for name in names], "yaxis.tickfont.size": 10}


def date(us: int) -> str:
    """A time as plotly reads it."""
    return f"{from_us(us):%Y-%m-%d %H:%M:%S}"


def day(us: int) -> str:
    """A date for people: 12 Feb 2013."""
    return f"{from_us(us):%-d %b %Y}"


def moment(us: int) -> str:
    """A time for people, UTC: 12 Feb 2013, 08:00."""
    return f"{from_us(us):%-d %b %Y, %H:%M}"


def months_axis(months: Sequence[str]) -> tuple[Json, Json]:
    """An axis of months "2013-02", and what a narrow window changes."""
    names = month_labels(months)
    wide = axis(grid=False, type="category", categoryorder="array", categoryarray=names, tickangle=0)
    return wide | {"range": [-0.6, len(names) - 0.4]}, {"xaxis.tickfont.size": 10}


def month_labels(months: Sequence[str]) -> list[str]:
    """The months as a plot names them."""
    return [label(month_name(month)) for month in months]


def month_name(month: str) -> str:
    """Return "Feb" for "2013-02"; other text as it is."""
    names = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    year, _, number = month.partition("-")
    return names[int(number) - 1] if year.isdigit() and number.isdigit() and 1 <= int(number) <= 12 else month
