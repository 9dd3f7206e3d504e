"""Commands that look: search, describe, report."""

from __future__ import annotations

import click

from headrace.cli.common import Session, command, working


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @command(group, "search", 'headrace search "delay route"\nheadrace search rate --entity merchant')
    @click.argument("words")
    @click.option("--entity", help="Only what belongs to this entity.")
    def search(session: Session, words: str, entity: str | None) -> int:
        """Find applied definitions whose name, doc, owner or tags hold all words."""
        found = [definition.record for definition in session.open().search(words, entity=entity)]
        lines = [
            f"{r.kind:<8} {r.name:<32} {r.owner or '-':<24} {r.doc.splitlines()[0] if r.doc else ''}" for r in found
        ]
        session.say("\n".join(lines) or "nothing found", found=found)
        return 0 if found else 1

    @command(group, "describe", "headrace describe route.delay_7d\nheadrace describe late")
    @click.argument("name")
    def describe(session: Session, name: str) -> None:
        """Say what a definition or feature is, where it comes from and who uses it."""
        found = session.open().describe(name)
        session.say(str(found), **found.to_dict())

    @command(group, "statistics", "headrace statistics fraud --since 2026-05-01\nheadrace statistics flight --json")
    @click.argument("what")
    @click.option("--since", metavar="TIME", help="Requests from this time on.")
    @click.option("--until", metavar="TIME", help="Requests before this time (now).")
    def statistics(session: Session, what: str, since: str | None, until: str | None) -> None:
        """Compute figures of every column of a view or model over its history; `describe` shows them from then on.

        Of a model, columns come in the order of how many bits each tells about the label.
        """
        project = session.open()
        with working(f"reading history of {what}"):
            found = project.statistics(what, since=since, until=until)
        session.say(str(found), **found.to_dict())

    @command(group, "report", "headrace report fraud\nheadrace report -o report.html")
    @click.argument("model", required=False)
    @click.option("-o", "--output", default="report.html", show_default=True, type=click.Path(dir_okay=False))
    def report(session: Session, model: str | None, output: str) -> None:
        """Write a page about a model: accuracy on truth, drift, skew, decisions."""
        from headrace.cli.figures import report_data
        from headrace.console.report import write_report

        project = session.open()
        with working("gathering figures"):
            path = write_report(report_data(project, model), output)
        session.say(f"wrote {path}", file=path)
