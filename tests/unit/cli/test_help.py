"""Every command explains itself, and misuse is told from refusal."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from headrace import __version__
from headrace.cli.main import main

EXPECTED = [
    *("init", "check", "plan", "apply"),
    *("publish", "put", "get", "online", "history", "snapshot", "dataset", "datasets", "backfill", "replay"),
    *("train", "evaluate", "promote", "rollback", "score"),
    *("search", "describe", "statistics", "report", "audit"),
    *("up", "run", "status", "doctor", "demo"),
]


def commands() -> Iterator[str]:
    yield from main.list_commands(click.Context(main))


def test_the_commands_are_all_there_in_the_order_of_the_work() -> None:
    assert list(commands()) == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_help_has_a_sentence_an_example_and_json(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert f"headrace {name}" in done.output.partition("Example")[2]
    assert "--json" in done.output
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(200).endswith(".")


def test_the_list_shows_topics_and_the_version_is_told() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    assert shown.index("Define:") < shown.index("Data:") < shown.index("Models:") < shown.index("Operate:")
    assert CliRunner().invoke(main, ["--version"]).output.strip() == f"headrace {__version__}"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["run", "kitchen"], ["promote", "risk", "first"], ["check", "--project", "/no/such"], ["audit"]],
)
def test_misuse_exits_with_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "Error" in done.output
