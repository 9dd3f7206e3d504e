"""The page: what it shows, what it leaves out, and that no input becomes markup."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.console import report
from headrace.console.report import render_report, write_report
from headrace.console.report_data import (
    AlertMark,
    AuditExample,
    AuditSummary,
    CheckFailure,
    DecisionMark,
    DriftMap,
    ExplainedPrediction,
    ExplainedValue,
    Importance,
    MonthAccuracy,
    MonthSpeed,
    ReportData,
    StreamCounts,
)
from tests.unit.console.samples import full, minimal

SECTIONS = ["accuracy", "decisions", "exactness", "drift", "incidents", "model", "events", "speed"]
PLOTS = {
    "months",
    "weeks",
    "decisions",
    "retrainings",
    "drift",
    "score",
    "timeline",
    "importances",
    "calibration",
    "dead",
    "freshness",
    "latency",
    "throughput",
}
HOSTILE = "</script><script>x()</script><img src=x onerror=x()>\"'&{{"


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, text, and the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style" and data.strip():
            self.text.append(data.strip())

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_report(full()))


def test_every_section_and_plot_is_there(page: Page) -> None:
    assert [found["id"] for found in page.of("section")] == SECTIONS
    assert [found["href"] for found in page.of("a")] == [f"#{name}" for name in SECTIONS]
    assert set(page.figures) == PLOTS
    assert {(found["id"] or "").removeprefix("plot-") for found in page.of("div", **{"class": "plot"})} == PLOTS


def test_headline_figures(page: Page) -> None:
    words = " ".join(page.text)
    promotions = len(full().promotions)
    for headline in (
        "Events 999.2 k 883 dead letters, 9,957 duplicates",
        "Feature values served 19.9 M to 311,602 predictions",
        "Skew 0 of 19.9 M differ 19,942,528 values compared, bit for bit",
        "Months won by the loop 9 of 11 AP +0.032 a month on average",
        "Retrainings 48 31 by schedule, 14 by drift, 3 by decay",
        f"Promotions {promotions} {47 - promotions} refused",
        "The whole run 2 min 7 s 7,849 events/s, 1,312 MB at most",
    ):
        assert headline in words


def test_captions_say_what_the_data_say(page: Page) -> None:
    words = " ".join(page.text)
    assert "the better one in 9 of 11 months, most of all in Jul (0.530 beside 0.458)" in words
    assert "Monitors of drift and decay asked for 17 of 48 retrainings." in words
    assert "On 12 Feb 2013, 08:00 a run of the table weather brought a wind_speed of 1,048 mph" in words
    assert "42 of its 42 features come out the same" in words


def test_every_plot_has_a_caption_and_a_name_for_screen_readers(page: Page) -> None:
    for found in page.of("div", **{"class": "plot"}):
        assert found["role"] == "img"
        assert (found["aria-label"] or "").endswith(".")
    assert len(page.of("p", **{"class": "caption"})) >= len(PLOTS)


def test_plots_are_what_plotly_accepts(page: Page) -> None:
    from plotly import graph_objects

    for name, figure in page.figures.items():
        layout = figure["layout"]
        for path, value in figure["narrow"].items():
            *parents, last = path.split(".")
            part = layout
            for key in parents:
                part = part[key]
            part[last] = value
        plain = json.loads(json.dumps({"data": figure["data"], "layout": layout}), object_hook=_in_plain_colours)
        drawn = graph_objects.Figure(plain)
        assert drawn.data, name


def _in_plain_colours(found: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return "#123456" if isinstance(value, str) and value.startswith("@") else value

    return {key: plain(value) for key, value in found.items()}


def test_colours_of_plots_are_defined_in_the_style(page: Page) -> None:
    style = (Path(report.__file__).parent / "assets" / "report.css").read_text(encoding="utf-8")
    named: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, str) and value.startswith("@"):
            named.add(value[1:])
        elif isinstance(value, list | dict):
            for item in value.values() if isinstance(value, dict) else value:
                collect(item)

    collect(page.figures)
    assert {"accent", "warm", "heat-3"} <= named
    for name in named:
        assert f"--{name}: light-dark(" in style


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "#").startswith("#"), tag
    assert not page.of("link")
    assert "url(" not in (Path(report.__file__).parent / "assets" / "report.css").read_text(encoding="utf-8")
    (policy,) = page.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_the_file_is_small_enough_and_holds_plotly_once() -> None:
    text = render_report(full())
    assert len(text.encode()) < 6_000_000
    assert text.count("plotly.js v") == 1


def test_without_data_there_are_no_sections_and_no_holes() -> None:
    page = Page(render_report(minimal()))
    assert page.figures == {}
    assert not page.of("section")
    assert not page.of("nav")
    assert not page.of("div", **{"class": "tile"})
    assert not [text for text in page.text if "None" in text or "nan" in text]


@pytest.mark.parametrize("field", [name for name in ReportData.__struct_fields__ if name not in ("project", "model")])
def test_any_one_field_may_be_missing(field: str) -> None:
    blank = getattr(minimal(), field)
    page = Page(render_report(msgspec.structs.replace(full(), **{field: blank})))
    alone = Page(render_report(msgspec.structs.replace(minimal(), **{field: getattr(full(), field)})))
    for found in (page, alone):
        assert not [text for text in found.text if "None" in text or "nan" in text.split()]
        rooms = {(room["id"] or "").removeprefix("plot-") for room in found.of("div", **{"class": "plot"})}
        assert rooms == set(found.figures)
    assert page.figures.keys() | alone.figures.keys() == PLOTS or alone.figures.keys() <= page.figures.keys()


def test_one_point_and_undefined_figures_are_drawn() -> None:
    data = msgspec.structs.replace(
        minimal(),
        months=(MonthAccuracy("2013-02", 0, 0, 0.0, 0.0), MonthAccuracy("spring", 5, 5, None, None)),
        drift=DriftMap((0,), ("a", "b"), ((None,), (0.0,)), 0.2, (None,)),
        importances=(Importance("a", 0.0),),
        retrainings={"schedule": 0},
    )
    figures = Page(render_report(data)).figures
    assert set(figures) == {"months", "drift", "importances", "retrainings"}
    assert figures["importances"]["layout"]["xaxis"]["range"][1] > 0


def test_differing_values_are_shown_and_marked() -> None:
    audit = AuditSummary(1_000, 2, (AuditExample("p-1", "route__n", 3, 4),))
    page = Page(render_report(msgspec.structs.replace(minimal(), audit=audit)))
    assert page.of("div", **{"class": "tile bad"})
    assert page.of("p", **{"class": "statement bad"})
    words = " ".join(page.text)
    assert "2 of 1,000 differ" in words
    assert "p-1 route__n 3 4" in words


def test_no_text_becomes_markup() -> None:
    x = HOSTILE
    data = ReportData(
        project=x,
        model=x,
        question=x,
        streams=(StreamCounts(x, 5, dead_letters={x: 5}),),
        audit=AuditSummary(3, 1, (AuditExample(x, x, x, x),)),
        months=(MonthAccuracy(x, 5, 1, 0.1, 0.2),),
        speed=(MonthSpeed(x, 5, 1.0),),
        decisions=(DecisionMark(5, x, 2, 1, True, x, 0.1, 0.0, 0.2),),
        retrainings={x: 1},
        drift=DriftMap((0,), (x,), ((0.3,),), 0.2, (0.3,)),
        check_failures=(CheckFailure(5, x, x, x, x, x, x),),
        alerts=(AlertMark(5, x, x, "info", x),),
        importances=(Importance(x, 1.0),),
        explained=ExplainedPrediction(x, 5, 1, 0.5, {x: x}, (ExplainedValue(x, x, x, False),), x, False),
        params={x: x},
        versions={x: x},
    )
    text = render_report(data)
    page = Page(text)
    known = Page(render_report(full()))
    assert len(page.of("script")) == 3
    assert not page.of("img")
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in known.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<" not in page.scripts[0]
    shown_in_plots = json.dumps({name: figure["data"] for name, figure in page.figures.items()})
    assert "<img" not in shown_in_plots, "plotly reads tags in labels"
    assert "&lt;img" in shown_in_plots


def test_write_makes_folders_and_replaces_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out" / "report.html"
    assert write_report(minimal(), target) == target
    first = target.read_text(encoding="utf-8")
    assert first == render_report(minimal())

    def fail(data: ReportData) -> str:
        raise RuntimeError(data.project)

    monkeypatch.setattr(report, "render_report", fail)
    with pytest.raises(RuntimeError, match="flights"):
        write_report(minimal(), target)
    assert target.read_text(encoding="utf-8") == first
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_plotly_is_loaded_late() -> None:
    script = "import sys, headrace.console.report; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
