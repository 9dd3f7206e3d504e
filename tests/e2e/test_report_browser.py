"""The report in a real browser: plots drawn, nothing thrown, nothing loaded, at any width and in the dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from headrace.console.report import render_report
from headrace.console.report_sections import sections
from tests.services import missing
from tests.unit.console.samples import full

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
)
PLOTS = sum(len(section.plots) for section in sections(full()))
MEASURE = """<script>setTimeout(() => {
  const root = document.documentElement;
  root.dataset.overflow = String(root.scrollWidth - root.clientWidth);
}, 3000);</script>"""


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path; without one a skip, or a failure where the environment demands it."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing("browser", f"no browser found; looked for {', '.join(NAMES)}")
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(full())


def opened(chromium: str, tmp_path: Path, page: str, size: str = "1280,2000") -> tuple[str, list[str]]:
    """The document after all scripts ran (without the scripts' own text), and the console's lines."""
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    options = [
        *QUIET,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={size}",
        "--virtual-time-budget=10000",
    ]
    done = subprocess.run(
        [chromium, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    document = re.sub(r"<script[^>]*>.*?</script>", "", done.stdout, flags=re.DOTALL)
    return document, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def root_of(document: str) -> str:
    found = re.search(r"<html[^>]*>", document)
    assert found is not None, "the browser printed no document"
    return found[0]


@pytest.mark.parametrize("size", ["1280,2000", "500,2000"], ids=["wide", "phone"])
def test_all_plots_are_drawn_without_a_word(chromium: str, tmp_path: Path, page: str, size: str) -> None:
    document, console = opened(chromium, tmp_path, page.replace("</body>", f"{MEASURE}</body>"), size)
    assert console == []
    assert f'data-drawn="{PLOTS}"' in root_of(document)
    assert "data-error" not in root_of(document)
    assert document.count('class="main-svg"') >= PLOTS
    assert "could not be drawn" not in document
    assert 'data-overflow="0"' in root_of(document), "the page must not scroll sideways"


def test_plots_wear_the_dark_colours(chromium: str, tmp_path: Path, page: str) -> None:
    dark = page.replace('<html lang="en">', '<html lang="en" style="color-scheme: dark">')
    document, console = opened(chromium, tmp_path, dark)
    assert console == []
    assert "rgb(85, 180, 214)" in document, "the dark accent colour of report.css"
    assert "rgb(15, 111, 146)" not in document, "the light one"


def test_a_plot_that_fails_says_so_in_its_place(chromium: str, tmp_path: Path, page: str) -> None:
    breaking = '<script>Plotly.react = () => Promise.reject(new Error("out of ink"));</script>'
    head, tail = page.rsplit("<script>", 1)
    document, _ = opened(chromium, tmp_path, f"{head}{breaking}<script>{tail}")
    assert document.count("This plot could not be drawn: Error: out of ink") == PLOTS
    assert "data-error" in root_of(document)
    assert 'data-drawn="0"' in root_of(document)
