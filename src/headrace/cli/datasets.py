"""Commands of data sets: make, show, list, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.common import REFUSED, Session, Told, command, working

if TYPE_CHECKING:
    from headrace.app.datasets import DatasetInfo


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @command(
        group,
        "dataset",
        "headrace dataset fraud-june fraud --until 2026-06-01 --negatives 20 --seed 7\n"
        "headrace dataset fraud-june -o june.parquet\nheadrace dataset fraud-june --version 1 --delete",
    )
    @click.argument("name")
    @click.argument("what", required=False)
    @click.option("--since", metavar="TIME", help="Requests from this time on.")
    @click.option("--until", metavar="TIME", help="Requests before this time.")
    @click.option("--negatives", type=float, metavar="N", help="Rows with a false label per row with a true one.")
    @click.option("--seed", type=int, default=0, show_default=True, help="Of the draw of negatives.")
    @click.option("--refresh", is_flag=True, help="Read anew what is known now, as a new version.")
    @click.option("--version", type=int, help="Show this version instead of the newest.")
    @click.option("--verify", is_flag=True, help="Read it again from the archive and compare every bit.")
    @click.option("--delete", is_flag=True, help="Delete the version, or all versions if none is named.")
    @click.option("-o", "--output", type=click.Path(dir_okay=False), help="Copy the rows to a .parquet or .csv file.")
    def dataset(
        session: Session, name: str, what: str | None, verify: bool, delete: bool, output: str | None, **given: Any
    ) -> int:
        """Make the data set NAME of the model or view WHAT, or show it.

        The same command gives the same rows for good.
        """
        from headrace.cli.data import write_table

        project = session.open()
        if delete:
            if what is not None:
                raise click.UsageError("--delete takes a name, and --version for one version only")
            gone = project.datasets.delete(name, given["version"])
            session.say("\n".join(f"deleted {i.name} version {i.version}" for i in gone), deleted=gone)
            return 0
        with working(f"reading {name}"):
            found = project.dataset(name, what, **given)
        if verify and not project.datasets.verify(found):
            raise Told(f"{name} version {found.info.version} differs when it is read again")
        lines = [str(found.info), f"  file {found.file}"] + (["  read again: every bit is equal"] if verify else [])
        if output is not None:
            write_table(found.rows.to_arrow(), Path(output))
            lines.append(f"wrote {output}")
        session.say("\n".join(lines), **_plain(found.info), file=found.file, verified=verify)
        return 0

    @command(group, "datasets", "headrace datasets\nheadrace datasets --json")
    def datasets(session: Session) -> int:
        """List all data sets with their versions."""
        found = session.open().datasets.all()
        lines = [
            f"{i.name:<24} {i.version:>3} {i.rows:>12,} rows of {i.query.what:<16} snapshot {i.snapshot}" for i in found
        ]
        session.say("\n".join(lines) or "no data set yet", datasets=found)
        return 0 if found else REFUSED


def _plain(info: DatasetInfo) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(info))
