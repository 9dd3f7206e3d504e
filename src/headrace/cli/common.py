"""What all commands share: options, output, errors, progress."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from headrace.core.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.app.project import Project

F = TypeVar("F", bound=Callable[..., Any])

DONE, REFUSED = 0, 1
"""Exit codes: done; refused or differing. Misuse is 2, which click gives by itself."""


# What moves the cursor, sets titles or turns text round; events and names may hold it, and a terminal obeys.
_OBEYED: Final = {
    code: f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


def shown_plainly(text: str) -> str:
    """The text with all characters that a terminal obeys written out, as JSON writes them."""
    return text.translate(_OBEYED)


class Told(click.ClickException):
    """A refusal, said in one message on stderr."""

    exit_code = REFUSED

    def show(self, file: Any = None) -> None:
        click.echo(f"headrace: {shown_plainly(self.message)}", err=True)


@dataclass
class Session:
    """One invocation: where the project is, and how to answer."""

    folder: str | None
    env: str | None
    as_json: bool

    def open(self, **settings: Any) -> Project:
        """The project; closed when the command ends."""
        from headrace.app.project import Project

        project = Project.open(self.folder, env=self.env, **settings)
        click.get_current_context().call_on_close(project.close)
        return project

    def say(self, text: str, **data: Any) -> None:
        """Answer: the text, or with --json the data as one line of JSON."""
        if self.as_json:
            click.echo(shown_plainly(json.dumps(data, default=_plain, ensure_ascii=False)))
        elif text:
            click.echo(shown_plainly(text))


def command(group: click.Group, name: str, example: str, **attributes: Any) -> Callable[[F], click.Command]:
    """Register a command with the shared options and an example in its help; it gets a `Session` first."""

    def decorate(function: F) -> click.Command:
        @click.option("--json", "as_json", is_flag=True, help="Answer in one line of JSON.")
        @click.option("--env", metavar="NAME", help="Environment: a section [env.NAME] of headrace.toml.")
        @click.option(
            "--project",
            "folder",
            metavar="DIR",
            type=click.Path(exists=True, file_okay=False),
            help="The project's folder (here, or the nearest above with headrace.toml).",
        )
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, env: str | None, folder: str | None, **given: Any) -> Any:
            defaults = click.get_current_context().find_object(dict) or {}
            session = Session(folder or defaults.get("folder"), env or defaults.get("env"), as_json)
            try:
                code = function(session, *args, **given)
            except HeadraceError as error:
                raise Told(str(error)) from error
            if code:
                click.get_current_context().exit(code)

        shown = "\n".join(f"  {line}" for line in example.strip().splitlines())
        made = group.command(name, epilog=f"\b\nExamples:\n{shown}", **attributes)(run)
        return made

    return decorate


class Progress:
    """A line on stderr for work that takes longer than two seconds; nothing where stderr is no terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._shown = sys.stderr.isatty()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far it is; `total` None if that is not known."""
        if not self._shown or time.monotonic() - self._started < 2.0:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=total, note=note)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, note=note)

    def close(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Show the progress of a block."""
    shown = Progress(what)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr while a block runs that cannot say how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _plain(value: Any) -> Any:
    """What JSON does not know: structs, times, durations, arrays, paths."""
    from datetime import datetime, timedelta

    import msgspec

    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return msgspec.to_builtins(value)
