"""`headrace demo flights`, cut short after the first scored days: replay, services over HTTP, audit, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.cli.main import main


@pytest.mark.slow
def test_a_month_and_a_bit_of_the_demo(tmp_path: Path) -> None:
    figures_file, report = tmp_path / "figures.json", tmp_path / "report.html"
    arguments = ["demo", "flights", "--until", "2013-02-04T15:00:00Z", "--state", str(tmp_path / "state")]
    done = CliRunner().invoke(main, [*arguments, "--json", str(figures_file), "--report", str(report)])
    assert done.exit_code == 0, done.output
    figures = json.loads(figures_file.read_text())["figures"]
    assert figures["predictions"] > 2_000
    assert figures["values_differing"] == 0
    assert figures["values_checked"] == 64 * figures["predictions"]
    assert figures["dead_letters"] > 50
    assert figures["freshness_p99_s"] <= 60
    assert list(figures["ap_by_month"]) == ["2013-02"]
    assert f"0 of {figures['values_checked']:,} differ" in done.output
    assert "0 failed" in done.output
    assert "2013-02" in report.read_text()
    # The scratch folder is the demo's own: another one may wipe it, a folder of somebody else's it may not.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("not to be lost")
    refused = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "mine")])
    assert refused.exit_code != 0
    assert "was not made by a demo" in refused.output
    assert (tmp_path / "mine" / "thesis.txt").exists()
