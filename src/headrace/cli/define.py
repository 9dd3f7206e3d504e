"""Commands that look at definitions and put them to work."""

from __future__ import annotations

from pathlib import Path

import click

from headrace.cli.common import REFUSED, Session, Told, command, progress
from headrace.core.errors import DefinitionError, HeadraceError


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @command(group, "init", "headrace init shop\nheadrace init shop --from payments.parquet")
    @click.argument("name")
    @click.option("--from", "source", type=click.Path(exists=True, dir_okay=False), help="Infer the event from a file.")
    def init(session: Session, name: str, source: str | None) -> None:
        """Make the folder NAME with a project to start from."""
        from headrace.cli.starter import write_project

        files, stream = write_project(Path(name), None if source is None else Path(source))
        lines = [f"wrote {file}" for file in files]
        lines.append(f"next: cd {name} && headrace check")
        session.say("\n".join(lines), files=[str(file) for file in files], stream=stream)

    @command(group, "check", "headrace check\nheadrace check --project examples/flights")
    def check(session: Session) -> int:
        """Say whether the definitions are right; touches no store.

        Prints every error with file, line and cure. Functions of the definitions are called with made-up rows, whole
        and one by one, which has to give the same.
        """
        from headrace.app.scheduled import declared_schedule
        from headrace.app.settings import load_settings
        from headrace.features.discover import load_project
        from headrace.features.row_functions import function_problems

        try:
            settings = load_settings(session.folder, env=session.env)
            plan = load_project(settings.folder)
            declared_schedule(plan, settings.groups)
            wrong = function_problems(plan)
            if wrong:
                raise DefinitionError("\n".join(wrong))
        except HeadraceError as error:
            if not session.as_json:
                raise
            session.say("", ok=False, errors=str(error).splitlines())
            return REFUSED
        counts = {
            kind: len(getattr(plan, f"{kind}s")) for kind in ("stream", "table", "group", "view", "model")
        }  # fmt: skip
        counts["stream"] += len(plan.derived)
        features = sum(len(group.order) for group in plan.groups.values())
        words = ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in counts.items() if n)
        session.say(f"{words}: ok", ok=True, features=features, **{f"{kind}s": n for kind, n in counts.items()})
        return 0

    @command(group, "plan", "headrace plan\nheadrace plan --json")
    def plan(session: Session) -> None:
        """Show what `apply` would change: definitions, models touched, groups to compute again."""
        changes = session.open().plan()
        session.say(
            str(changes),
            changes=changes.changes,
            models=changes.models,
            backfills=changes.backfills,
            evolutions=dict(changes.evolutions),
            needs=changes.needs,
            reuse=changes.reuse,
            events=changes.events,
            seconds=changes.seconds,
            runs=changes.runs,
        )

    @command(group, "backfill", "headrace backfill\nheadrace backfill spend --since 2026-01-01\nheadrace backfill paid")
    @click.argument("names", nargs=-1, metavar="[NAME...]")
    @click.option("--since", metavar="TIME", help="Leave older events out; refused if any of them count.")
    def backfill(session: Session, names: tuple[str, ...], since: str | None) -> None:
        """Compute new or edited groups (all that are due, or those named) from archive and log, ahead of `apply`.

        No layer has to stop for it: until `apply`, reads are answered by the former versions. Killed, it goes on where
        it was. A table with a query is filled with its rows from TIME on. A scheduled group that is named is brought
        up to date now. A derived stream that is named (or a group over one, of which nothing else is due) is derived
        anew, of all that is known now, with what reads it, and served at once: there is nothing to apply.
        """
        project = session.open()
        with progress("computing groups") as shown:
            report = project.backfill(
                list(names) or None,
                since=since,
                progress=lambda read, of: shown.update(read, of, f"{read:,} of {of:,} events"),
            )
        session.say(
            str(report), names=report.names, events=report.events, seconds=report.seconds,
            events_per_s=report.events_per_s, positions=report.positions, due=report.due,
        )  # fmt: skip

    @command(group, "apply", "headrace apply\nheadrace apply --yes")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.option("--abandon", is_flag=True, help="Apply though a live model cannot answer any more.")
    def apply(session: Session, yes: bool, abandon: bool) -> None:
        """Make the definitions the ones that run.

        Groups that are new or changed are computed from archive and log first, as by `backfill`.
        """
        project = session.open()
        changes = project.plan()
        if changes and not yes:
            if session.as_json:
                raise Told("apply asks before it changes anything; say --yes")
            click.echo(str(changes))
            click.confirm("Apply?", abort=True)
        with progress("computing groups") as shown:
            done = project.apply(
                changes, abandon=abandon, progress=lambda read, of: shown.update(read, of, f"{read:,} events")
            )
        switched = sum(not run.new for run in done.runs)
        text = f"applied: {len(done.changes) + switched} changes" if done else "nothing changes"
        session.say(
            text,
            changes=done.changes,
            runs=done.runs,
            models=done.models,
            backfills=done.backfills,
            evolutions=dict(done.evolutions),
        )
