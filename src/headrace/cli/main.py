"""The command line: `headrace`."""

from __future__ import annotations

import importlib
from typing import Any

import click

_TOPICS = ("define", "data", "datasets", "models", "look", "operate", "beside", "dead", "access", "erasing", "demo")
_ORDER = (
    ("Define", ("init", "check", "plan", "apply")),
    ("Data", ("publish", "put", "get", "online", "history", "snapshot", "dataset", "datasets", "backfill", "replay")),
    ("Models", ("train", "evaluate", "promote", "rollback", "score")),
    ("Look", ("search", "describe", "statistics", "report", "audit")),
    ("Operate", ("up", "run", "status", "beside", "dead", "keys", "changes", "doctor", "reconcile", "rebuild", "demo")),
    ("Erase", ("erase", "erasures")),
)


class TopicGroup(click.Group):
    """Loads the modules of the commands when they are asked for, and lists commands by topic."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._loaded = False

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            for topic in _TOPICS:
                importlib.import_module(f"headrace.cli.{topic}").register(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, by topic."""
        self._load()
        ordered = [name for _, names in _ORDER for name in names if name in self.commands]
        return ordered + sorted(set(self.commands) - set(ordered))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        self._load()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, one section per topic."""
        self._load()
        for topic, names in _ORDER:
            rows = [(name, self.commands[name].get_short_help_str(80)) for name in names if name in self.commands]
            if rows:
                with formatter.section(topic):
                    formatter.write_dl(rows)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from headrace import __version__

        click.echo(f"headrace {__version__}")
        ctx.exit()


@click.group(cls=TopicGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--env", metavar="NAME", envvar="HEADRACE_ENV", help="Environment: a section [env.NAME] of headrace.toml."
)
@click.option(
    "--project", "folder", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="The project's folder."
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Say which version this is."
)
@click.pass_context
def main(ctx: click.Context, env: str | None, folder: str | None) -> None:
    """The whole real-time machine-learning loop from one file of definitions.

    Exit codes: 0 done, 1 refused or differing, 2 misuse.
    """
    ctx.obj = {"env": env, "folder": folder}
