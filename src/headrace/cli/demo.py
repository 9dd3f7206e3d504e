"""`headrace demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli.common import Told
from headrace.core.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.orchestration.replay import ReplayProgress


def register(group: click.Group) -> None:
    """Add the command to the group."""

    @group.command(
        "demo",
        epilog="Example: headrace demo flights --json figures.json",
        help="Replay a year of real flights through the whole loop, then score the last ones over HTTP.\n\n"
        "Writes report.html and prints a summary. Takes about four minutes on two cores.",
    )
    @click.argument("name", type=click.Choice(["flights"]))
    @click.option(
        "--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE", help="Write the figures here."
    )
    @click.option("--report", default="report.html", show_default=True, metavar="FILE", help="Where the report goes.")
    @click.option("--state", default=".headrace/demo-flights", show_default=True, metavar="DIR", help="Scratch folder.")
    @click.option("--seed", default=7, show_default=True, help="Seed of the disorder that is injected.")
    @click.option("--until", metavar="TIME", help="Replay to this time only (the model is trained on 2013-02-01).")
    def demo(name: str, json_file: str | None, report: str, state: str, seed: int, until: str | None) -> None:
        from headrace.app.demo import DemoOptions, as_json, run_demo
        from headrace.app.demo_report import report_of, summary_of
        from headrace.console.report import write_report
        from headrace.core.time import US_PER_DAY, parse_time, to_iso

        options = DemoOptions(Path(state), seed)
        if until is not None:
            try:
                end = parse_time(until)
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            if end <= parse_time(options.train_at):
                raise click.UsageError(f"--until {until} is before {options.train_at}, when the first model is trained")
            options = DemoOptions(Path(state), seed, until=to_iso(end), live_until=to_iso(end + US_PER_DAY // 2))
        try:
            with _Screen() as screen:
                result = run_demo(name, options, screen.say, screen.show)
                data = report_of(result)
        except HeadraceError as error:
            raise Told(str(error)) from None
        write_report(data, Path(report))
        if json_file is not None:
            Path(json_file).write_text(as_json(result) + "\n")
        result.run.close()
        click.echo(summary_of(result))
        click.echo(f"\n  report: {Path(report).resolve()}")
        if result.audit.differing or result.live.failed:
            sys.exit(1)


class _Screen:
    """Phases as lines; the replay as a progress bar on a terminal, else as a line per simulated month."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=365, speed="", visible=False)
        self._month = ""

    def __enter__(self) -> _Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """A phase begins."""
        self._bar.update(self._task, visible=False)
        self._console.print(line, highlight=False)

    def show(self, month: str, at: ReplayProgress, seconds: float) -> None:
        """A simulated day is over."""
        from headrace.core.time import from_us

        speed = f"{at.events:,} events, {at.scored:,} scored"
        self._bar.update(
            self._task, visible=True, description=month, completed=from_us(at.now_us).timetuple().tm_yday, speed=speed
        )
        if month != self._month:
            if self._month and not self._console.is_terminal:
                self._console.print(f"  {self._month}: {speed}, {seconds:.0f} s", highlight=False)
            self._month = month
