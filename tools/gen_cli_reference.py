"""Writes docs/cli.md from the `--help` of every command; `--check` only says whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from generated import write_or_check

from headrace.cli.main import main as cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEADER = """# Command line

Written by `make docs` from the commands' own `--help`; edit those, not this page.
"""


def commands(command: click.Command, path: tuple[str, ...] = ("headrace",)) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each command's path and help text, depth first, in the order of their names."""
    context = click.Context(command, info_name=" ".join(path), terminal_width=100, max_content_width=100)
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from commands(child, (*path, name))


def page() -> str:
    """The whole page."""
    if not isinstance(cli, click.Command):
        raise TypeError("headrace.cli.main.main is no click command; this page is made from click's help")
    parts = [HEADER]
    for path, text in commands(cli):
        parts.append(f"## `{' '.join(path)}`\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, PAGE, page))
