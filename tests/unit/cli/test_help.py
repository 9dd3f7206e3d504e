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
    *("up", "run", "status", "beside", "dead", "keys", "changes", "doctor", "reconcile", "rebuild", "demo"),
    *("erase", "erasures"),
]
GROUPS = {
    "beside": ["answer", "back", "catch-up", "compare", "drop", "erase", "fill", "start", "status", "stop", "switch"],
    "dead": ["drop", "fix", "list", "replay", "show"],
    "keys": ["list", "make", "revoke"],
}


def commands() -> Iterator[str]:
    yield from main.list_commands(click.Context(main))


def test_the_commands_are_all_there_in_the_order_of_the_work() -> None:
    assert list(commands()) == EXPECTED


def test_groups_of_commands_say_what_they_are_for() -> None:
    for name, members in GROUPS.items():
        command = main.get_command(click.Context(main), name)
        assert isinstance(command, click.Group)
        assert command.list_commands(click.Context(command)) == members
        assert command.get_short_help_str(200).endswith(".")


@pytest.mark.parametrize("name", [f"{name} {one}".strip() for name in EXPECTED for one in GROUPS.get(name, [""])])
def test_help_has_a_sentence_an_example_and_json(name: str) -> None:
    done = CliRunner().invoke(main, [*name.split(), "--help"])
    assert done.exit_code == 0
    assert f"headrace {name}" in done.output.partition("Example")[2]
    assert "--json" in done.output
    command: click.Command | None = main
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), part)
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
