"""Commands of erasure: erase an entity, list receipts."""

from __future__ import annotations

import sys

import click
import msgspec

from headrace.cli.common import Session, Told, command, working


def register(group: click.Group) -> None:
    """Add the commands of this module."""

    @command(
        group,
        "erase",
        "headrace erase user u17\nheadrace erase user u17 --dry-run\n"
        "headrace erase user u17 --events drop --yes --json\nheadrace erase user - --yes < key.txt",
    )
    @click.argument("entity")
    @click.argument("key")
    @click.option(
        "--events", type=click.Choice(["unlink", "drop"]), default="unlink", show_default=True,
        help="What its events lose: its key and personal fields (they go on counting for others), or all but their "
        "time.",
    )  # fmt: skip
    @click.option("--dry-run", is_flag=True, help="Only tell what there is.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def erase(session: Session, entity: str, key: str, events: str, dry_run: bool, yes: bool) -> None:
        """Erase one entity from logs, archive, stores, predictions and data sets, for good; show the receipt.

        KEY "-" is read from standard input: then it stands in no list of processes. Cut short, the same command goes on
        where it was. The layers of headrace up rest meanwhile, but for the service.
        """
        project = session.open()
        key = sys.stdin.readline().rstrip("\r\n") if key == "-" else key
        if dry_run or not yes:
            if session.as_json and not dry_run:
                raise Told("erase asks before it changes anything; say --yes")
            found = project.erase(entity, key, events=events, dry_run=True).places
            lines = [f"{one.place}: {one.records:,} {one.what}" for one in found]
            session.say(
                "\n".join(lines) or f"nothing is held of this {entity}",
                entity=entity,
                places=msgspec.to_builtins(found),
            )
            if dry_run:
                return
            click.confirm(f"Erase this {entity}? It cannot be undone.", abort=True)
        with working("erasing"):
            receipt = project.erase(entity, key, events=events)
        session.say(str(receipt), **msgspec.to_builtins(receipt))

    @command(group, "erasures", "headrace erasures\nheadrace erasures --json")
    def erasures(session: Session) -> None:
        """Show the receipts of all erasures, the newest last."""
        found = session.open().erasures()
        session.say(
            "\n\n".join(map(str, found)) or "nothing was erased", erasures=[msgspec.to_builtins(one) for one in found]
        )
